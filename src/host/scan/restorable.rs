//! What CRIU saves and cannot bring back on any host: it is refused before it becomes a checkpoint.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use super::{Kind, Process};
use crate::host::limits;
use crate::procfs;

/// CRIU's `NR_PIPES_WITH_DATA` (criu/pipes.c): a dump ends with "OOM storing pipe" beyond it.
const PIPES: usize = 1024;
/// Descriptors that a restore has open in each task for itself. criu's service descriptors are some 20.
const OWN: u64 = 40;

/// Adds what `process`, its directory in the procfs `proc`, has open or mapped of that kind.
pub(super) fn look(proc: &Path, process: &Path, kinds: &mut BTreeSet<Kind>) {
    let mut open = 0;
    for entry in fs::read_dir(process.join("fd")).into_iter().flatten().flatten() {
        open += 1;
        let Ok(link) = fs::read_link(entry.path()) else { continue };
        if tells_of_a_thread(proc, &link) {
            kinds.insert(Kind::ThreadFile(link));
        }
    }
    let maps = procfs::maps(process);
    let Some(limit) = limits::here().get("open files").copied().flatten() else { return };
    if open + descriptors_for(&maps) + OWN > limit {
        kinds.insert(Kind::Mappings(limit));
    }
}

/// Whether the processes have more pipes than CRIU saves, and one that has some of them.
pub(super) fn pipes(processes: &[Process]) -> Option<(u32, Kind)> {
    let mut seen: BTreeSet<PathBuf> = BTreeSet::new();
    for process in processes {
        let entries = fs::read_dir(process.path.join("fd")).into_iter().flatten().flatten();
        let links = entries.filter_map(|entry| fs::read_link(entry.path()).ok());
        seen.extend(links.filter(|link| link.as_os_str().as_bytes().starts_with(b"pipe:[")));
        if seen.len() > PIPES {
            return Some((process.pid, Kind::Pipes(PIPES)));
        }
    }
    None
}

/// `/proc/PID/task/TID/…` of another thread than the first, or `/proc/TID/…`. A process that has ended is no obstacle:
/// CRIU makes one that stands for it while files are opened.
fn tells_of_a_thread(proc: &Path, link: &Path) -> bool {
    let mut parts = link.components().filter_map(|part| match part {
        Component::Normal(name) => Some(name),
        _ => None,
    });
    let number = |part: Option<&OsStr>| part?.to_str()?.parse::<u32>().ok();
    if parts.next() != Some(OsStr::new("proc")) {
        return false;
    }
    let Some(pid) = number(parts.next()) else { return false };
    if parts.next() == Some(OsStr::new("task"))
        && let Some(tid) = number(parts.next())
    {
        return tid != pid;
    }
    // proc_pid_status(5): the process that a thread belongs to.
    let group = procfs::number(&proc.join(pid.to_string()).join("status"), "Tgid");
    group.is_some_and(|group| group != u64::from(pid))
}

/// How many descriptors CRIU has open at once for these mappings: one for each that is shared and anonymous, and one
/// for each row of neighbours of the same file (criu/shmem.c, criu/files-reg.c).
fn descriptors_for(maps: &[u8]) -> u64 {
    let (mut count, mut last) = (0, &b""[..]);
    for path in procfs::mappings(maps).map(|mapping| mapping.path).filter(|path| path.starts_with(b"/")) {
        let shared = path == b"/dev/zero (deleted)" || path.starts_with(b"/SYSV");
        if shared || path != last {
            count += 1;
        }
        last = path;
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_threads_are_told_from_those_of_processes() {
        let dir = tempfile::tempdir().unwrap();
        for (number, group) in [(300, 300), (301, 300)] {
            let process = dir.path().join(number.to_string());
            fs::create_dir(&process).unwrap();
            fs::write(process.join("status"), format!("Name:\tx\nTgid:\t{group}\nPid:\t{number}\n")).unwrap();
        }
        let of = |path: &str| tells_of_a_thread(dir.path(), Path::new(path));
        for path in ["/proc/300/task/301/stat", "/proc/301/stat", "/proc/9/task/12/stat (deleted)", "/proc/301"] {
            assert!(of(path), "{path}");
        }
        for path in [
            "/proc/300/stat",
            "/proc/300/task/300/stat",
            "/proc/300/task",
            "/proc/meminfo",
            "/proc/999/stat",
            "/proc",
            "/x/1",
        ] {
            assert!(!of(path), "{path}");
        }
    }

    #[test]
    fn neighbours_of_one_file_share_a_descriptor() {
        let maps = b"1-2 r--p 0 fe:00 1    /usr/lib/a\n2-3 r-xp 0 fe:00 1    /usr/lib/a\n3-4 rw-p 0 00:00 0 \n\
                     4-5 rw-s 0 00:01 7    /dev/zero (deleted)\n5-6 rw-s 0 00:01 8    /dev/zero (deleted)\n6-7 r--p 0 fe:00 1 /usr/lib/b\n";
        assert_eq!(descriptors_for(maps), 4);
    }
}
