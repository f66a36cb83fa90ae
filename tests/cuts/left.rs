//! What a run may have left behind.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};

use crate::common::local::{Host, PATIENCE};

/// No process of the host's user, stopped or not.
pub fn no_process_is_left(host: &Host<'_>) {
    let processes = || -> Vec<PathBuf> {
        let entries = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
        let number =
            |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().parse::<u32>().is_ok());
        // The owner of what is not dumpable is root; the uid is in status.
        let user = |path: &PathBuf| {
            let status = fs::read_to_string(path.join("status")).unwrap_or_default();
            // Dead, and only not yet waited for by this machine's init.
            if status.contains("\nState:\tZ") {
                return false;
            }
            let uid = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap_or_default().to_owned();
            uid.split_whitespace().any(|uid| uid == host.user.to_string())
        };
        entries.filter(number).filter(user).collect()
    };
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left = processes();
        if left.is_empty() {
            break;
        }
        let status = || fs::read_to_string(left[0].join("status")).unwrap_or_default();
        assert!(Instant::now() < deadline, "{} processes are left: {}\n{}", left.len(), status(), host.log());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// No mount but the test's own, and no lock.
pub fn no_lock_and_no_mount_is_left(host: &Host<'_>, is_a_mount: bool) {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let below = mounts.lines().filter(|line| line.contains(host.scratch.to_str().unwrap())).count();
    assert_eq!(below, usize::from(is_a_mount), "a mount is left\n{mounts}");
    let lock = Flock::lock(File::open(&host.scratch).unwrap(), FlockArg::LockExclusiveNonblock);
    assert!(lock.is_ok(), "the scratch directory is locked");
    assert!(host.scratch.metadata().unwrap().uid() == host.user);
}

/// Whatever the umask: the draft, and what is just put back, are no other user's to read. `whole` is what data.txt had
/// in the checkpoint.
pub fn nothing_is_open_to_others(host: &Host<'_>, whole: &str) {
    let mode = |name: &str| Some(fs::symlink_metadata(host.scratch.join(name)).ok()?.mode() & 0o7777);
    assert!(mode(".condor-criu").is_none_or(|mode| mode == 0o700), "{:o}", mode(".condor-criu").unwrap());
    let draft = ".condor-criu/checkpoint.draft";
    assert!(mode(draft).is_none_or(|mode| mode == 0o600), "{:o}", mode(draft).unwrap());
    if mode("data.txt").is_some_and(|mode| mode & 0o077 != 0) {
        assert!(host.read("data.txt").starts_with(whole), "a file was open to others before it was whole");
    }
}
