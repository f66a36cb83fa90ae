//! POSIX record locks that CRIU 4.2.1 leaves out without an error: those of a process on a descriptor that it has from
//! its parent. CRIU saves such a descriptor once, with the parent, and drops the locks that it saw on the child's
//! (criu/file-lock.c, `discard_dup_locks_tail`; tests/trees.rs found it). A lock that is set twice by one process is
//! one lock, so all are added to what CRIU has saved.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::wire::put_number;
use crate::procfs;

/// The image that they are in.
pub const IMAGE: &str = "filelocks.img";
/// Its two magic numbers (criu/include/magic.h).
const MAGIC: [u32; 2] = [0x5456_4319, 0x5432_3616];
/// `FL_POSIX` of criu/include/file-lock.h.
const POSIX: u64 = 1;

/// A record lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lock {
    /// Whose, inside the sandbox.
    pub pid: u64,
    /// On which descriptor.
    pub descriptor: u64,
    /// Whether it excludes readers too.
    pub write: bool,
    /// First byte.
    pub start: u64,
    /// Bytes; 0 is all to the end.
    pub length: u64,
}

/// The locks of the processes of `proc` (a mounted procfs), without our init's.
pub fn of_tree(proc: &Path) -> Vec<Lock> {
    let mut found = Vec::new();
    for (pid, process) in procfs::processes(proc).filter(|(pid, _)| *pid > 1) {
        for entry in fs::read_dir(process.join("fdinfo")).into_iter().flatten().flatten() {
            let Some(descriptor) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let text = fs::read_to_string(entry.path()).unwrap_or_default();
            let lines = text.lines().filter_map(|line| line.strip_prefix("lock:"));
            found.extend(lines.filter_map(|line| parse(line, pid.into(), descriptor)));
        }
    }
    found
}

/// proc_locks(5): `1: POSIX  ADVISORY  WRITE 302 fe:00:1234 0 EOF`
fn parse(line: &str, pid: u64, descriptor: u64) -> Option<Lock> {
    let mut words = line.split_ascii_whitespace().skip(1);
    let (kind, kept, owner) = (words.next()?, words.nth(1)?, words.next()?);
    if kind != "POSIX" || owner.parse() != Ok(pid) {
        return None;
    }
    let start: u64 = words.nth(1)?.parse().ok()?;
    let length = match words.next()? {
        "EOF" => 0,
        end => end.parse::<u64>().ok()?.checked_add(1)?.checked_sub(start)?,
    };
    Some(Lock { pid, descriptor, write: kept == "WRITE", start, length })
}

/// The image as CRIU has saved it, if it has, with these locks in it.
pub fn add(image: Option<Vec<u8>>, locks: &[Lock]) -> Vec<u8> {
    let mut image = image.unwrap_or_else(|| MAGIC.iter().flat_map(|number| number.to_le_bytes()).collect());
    for lock in locks {
        let mut entry = Vec::new();
        let fields = [POSIX, u64::from(lock.write), lock.pid, lock.descriptor, lock.start, lock.length];
        for (number, value) in (1..).zip(fields) {
            put_number(number, value, &mut entry);
        }
        image.extend((entry.len() as u32).to_le_bytes());
        image.extend(entry);
    }
    image
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn record_locks_of_the_process_itself_are_read() {
        let of = |line: &str| parse(line, 302, 3);
        let whole = Lock { pid: 302, descriptor: 3, write: true, start: 0, length: 0 };
        assert_eq!(of("\t1: POSIX  ADVISORY  WRITE 302 fe:00:1234 0 EOF"), Some(whole.clone()));
        let part = Lock { write: false, start: 10, length: 5, ..whole };
        assert_eq!(of("\t2: POSIX  ADVISORY  READ 302 fe:00:1234 10 14"), Some(part));
        for other in [
            "\t1: FLOCK  ADVISORY  WRITE 302 fe:00:1234 0 EOF",
            "\t1: OFDLCK ADVISORY  WRITE -1 fe:00:1234 0 EOF",
            "\t1: POSIX  ADVISORY  WRITE 301 fe:00:1234 0 EOF",
            "\t1: POSIX  ADVISORY  WRITE 302 fe:00:1234 9 3",
            "",
        ] {
            assert_eq!(of(other), None, "{other}");
        }
    }

    #[test]
    fn an_image_is_made_or_goes_on() {
        let lock = Lock { pid: 302, descriptor: 3, write: true, start: 0, length: 0 };
        let one = add(None, std::slice::from_ref(&lock));
        assert_eq!(one[8..], [13, 0, 0, 0, 8, 1, 16, 1, 24, 0xae, 2, 32, 3, 40, 0, 48, 0]);
        let two = add(Some(one.clone()), &[lock]);
        assert_eq!((&two[..one.len()], &two[one.len()..]), (&one[..], &one[8..]));
    }
}
