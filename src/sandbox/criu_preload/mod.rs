//! Five small shared objects that are preloaded into criu, never into the payload.
//!
//! [`DRAIN_PIPES`]: criu moves the payload's memory into our pipes with splice(2), which copies nothing: what waits in
//! a pipe are the very pages of the stopped process. criu then goes on, and to clean up it runs system calls inside
//! that process, for which it writes the instruction at the begin of the first executable mapping and takes it away
//! again. A page that we read from the pipe at such a moment has that instruction in it: a restore found no ELF header
//! in a vdso, and a just-in-time compiler's code would have been damaged without a word. So an image is closed only
//! when its pipe is empty; criu waits for that before it goes on. What it does is in `drain_pipes.rs`.
//!
//! [`OVERLAY_DEVICE`], only where there is an overlay. On an overlay file system stat(2) and `/proc/PID/maps` may name
//! different devices for the same file. CRIU then refuses to save any program that is mapped from there: "Failed to
//! resolve mapping". The root of an Apptainer container is such a file system. An overlay without `xino=on` gives
//! stat(2) a device of its own for each layer; what is mapped, and what `/proc/self/mountinfo` says, is the device of
//! the overlay. The helper lets criu's stat(2) answer with the overlay's. What it does is in `overlay_device.rs`.
//!
//! [`HELD`]: criu runs an action script when every image has been written and the tasks are still held, and lets them
//! go on if that fails. The helper stands for the script: it connects to a socket of ours and waits until we close it:
//! meanwhile the archive is written and committed. So no task is ever stopped by a signal, which its parent would see.
//! At a restore it waits in the same way before the tasks run, until their files have the times and modes that they
//! had. What it does is in `held.rs`.
//!
//! [`DETACH_DEAD`], only for a restore: criu lets the restored tasks go one after the other (its
//! `finalize_restore_detach`), and each runs from then on. One that was about to end its children, or all threads of
//! its process, may do so before criu comes to them, and criu's restore would fail: "Unable to detach". Such a task has
//! been restored and has ended since; the helper says so to criu. What it does is in `detach_dead.rs`.
//!
//! [`MARK_MODIFIED`], only for a dump: a criu that is killed while it works inside a process leaves that damaged, with
//! another instruction or with other registers than its own. The helper says when that is so ([`is_modifying`]). What
//! it does is in `mark_modified.rs`.
//! It also lets a dump fail that would lose what waits to be read: senders of datagrams (`senders.rs`), events of
//! inotify (`unread.rs`).
//!
//! Both [`MARK_MODIFIED`] and [`DETACH_DEAD`] see to it that what a dump interrupts goes on: criu lets sleeps and waits
//! with a timeout return EINTR, because only the kernel has what it takes to start them again. The helpers note which
//! call a task was in and when its time is over, and have the kernel start it again when the task is let go, after the
//! dump or in a restore. What they do is in `calls/mod.rs`.

use std::fs;
use std::path::Path;

use super::message::CriuJob;
use super::step::StepFailed;
use crate::procfs;

const DRAIN_PIPES: &str = "/.condor-criu/drain_pipes.so";
const OVERLAY_DEVICE: &str = "/.condor-criu/overlay_device.so";
const HELD: &str = "/.condor-criu/held.so";
const DETACH_DEAD: &str = "/.condor-criu/detach_dead.so";
const MARK_MODIFIED: &str = "/.condor-criu/mark_modified.so";
/// Made by [`MARK_MODIFIED`] before criu changes a process, in a place that only criu and the init write to. Removed
/// when criu has put everything back.
const MARK: &str = "/.condor-criu/run/modifying";

/// The helper for overlays that this build of condor-criu embeds.
pub fn overlay_device() -> &'static [u8] {
    include_bytes!(concat!(env!("OUT_DIR"), "/overlay_device.so"))
}

/// The helper for pipes that this build of condor-criu embeds.
pub fn drain_pipes() -> &'static [u8] {
    include_bytes!(concat!(env!("OUT_DIR"), "/drain_pipes.so"))
}

fn detach_dead() -> &'static [u8] {
    include_bytes!(concat!(env!("OUT_DIR"), "/detach_dead.so"))
}

/// Puts them where criu will find them, by `write(path in the sandbox, what it is, content)`.
pub(super) fn install(write: impl Fn(&str, &str, &[u8]) -> Result<(), StepFailed>) -> Result<(), StepFailed> {
    write(DRAIN_PIPES, "criu's helper for pipes", drain_pipes())?;
    write(OVERLAY_DEVICE, "criu's helper for overlays", overlay_device())?;
    write(HELD, "criu's helper for the commit", include_bytes!(concat!(env!("OUT_DIR"), "/held.so")))?;
    write(DETACH_DEAD, "criu's helper for a restore's end", detach_dead())?;
    write(MARK_MODIFIED, "criu's helper for a dump", include_bytes!(concat!(env!("OUT_DIR"), "/mark_modified.so")))
}

/// What criu gets in its environment.
pub(super) fn preload(job: CriuJob) -> String {
    let overlay = procfs::text(Path::new("/proc/self/mountinfo")).lines().any(is_overlay);
    let more =
        [(overlay, OVERLAY_DEVICE), (job == CriuJob::Restore, DETACH_DEAD), (job == CriuJob::Dump, MARK_MODIFIED)];
    let more = more.into_iter().filter_map(|(wanted, name)| wanted.then_some(name));
    format!("LD_PRELOAD={}", [DRAIN_PIPES, HELD].into_iter().chain(more).collect::<Vec<_>>().join(":"))
}

/// Forgets what an earlier criu has left.
pub(super) fn forget() {
    let _ = fs::remove_file(MARK);
}

/// Whether criu has changed something in a process that it has not put back.
pub(super) fn is_modifying() -> bool {
    Path::new(MARK).exists()
}

/// proc_pid_mountinfo(5): the file system's type follows the field that is a hyphen.
fn is_overlay(line: &str) -> bool {
    line.split_once(" - ").is_some_and(|(_, rest)| rest.split(' ').next() == Some("overlay"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_overlay_is_told_by_its_type() {
        assert!(is_overlay("112 62 0:49 / / rw,nodev,relatime unbindable - overlay overlay ro,lowerdir=/a:/b"));
        assert!(is_overlay("112 62 0:49 /usr /usr rw shared:1 master:2 - overlay none rw"));
        assert!(!is_overlay("78 76 254:0 /overlay /overlay rw,relatime - ext4 overlay rw"));
        assert!(!is_overlay(""));
    }
}
