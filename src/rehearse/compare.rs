//! Holds the job with evictions against the one without: exit status, stdout, stderr and every file.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use super::starter::{STDERR, STDOUT};
use crate::exit::Ended;

/// What belongs to HTCondor or to us, and differs from run to run.
const NOT_THE_PAYLOADS: [&str; 5] =
    [".job.ad", ".machine.ad", ".condor-criu", "condor-criu.log", "criu-checkpoint.tar.zst"];
/// Differences that are listed one by one.
const LISTED: usize = 10;

/// The exit status.
pub(super) fn status(peace: Ended, evicted: Ended) -> Option<String> {
    (peace != evicted).then(|| format!("exit status: {evicted}, without evictions {peace}"))
}

/// Every file below the two directories.
pub(super) fn directories(peace: &Path, evicted: &Path) -> io::Result<Vec<String>> {
    let (left, right) = (files(peace)?, files(evicted)?);
    let mut found = Vec::new();
    for path in left.union(&right) {
        let shown = shown(path);
        match (left.contains(path), right.contains(path)) {
            (true, false) => found.push(format!("{shown} is missing")),
            (false, true) => found.push(format!("{shown} is there, but not without evictions")),
            _ => found.extend(contents(&peace.join(path), &evicted.join(path))?.map(|what| format!("{shown} {what}"))),
        }
    }
    let more = found.len().saturating_sub(LISTED);
    if more > 0 {
        found.truncate(LISTED);
        found.push(format!("{more} more"));
    }
    Ok(found)
}

/// How many files the payload has written or was given, the standard streams not counted.
pub(super) fn count(directory: &Path) -> usize {
    files(directory).map_or(0, |files| files.iter().filter(|path| shown(path) == path.display().to_string()).count())
}

fn shown(path: &Path) -> String {
    match path.to_str() {
        Some(STDOUT) => "stdout".into(),
        Some(STDERR) => "stderr".into(),
        _ => path.display().to_string(),
    }
}

fn files(base: &Path) -> io::Result<BTreeSet<PathBuf>> {
    let mut found = BTreeSet::new();
    let mut open = vec![PathBuf::new()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(base.join(&directory))? {
            let entry = entry?;
            let path = directory.join(entry.file_name());
            if NOT_THE_PAYLOADS.iter().any(|name| path == Path::new(name)) {
                continue;
            }
            if entry.file_type()?.is_dir() {
                open.push(path);
            } else {
                found.insert(path);
            }
        }
    }
    Ok(found)
}

/// How two files differ, if they do.
fn contents(left: &Path, right: &Path) -> io::Result<Option<String>> {
    if left.is_symlink() || right.is_symlink() {
        let same = fs::read_link(left).ok() == fs::read_link(right).ok();
        return Ok((!same).then(|| "is another link".into()));
    }
    let sizes = (left.metadata()?.len(), right.metadata()?.len());
    let (mut left, mut right) =
        (BufReader::new(fs::File::open(left)?).bytes(), BufReader::new(fs::File::open(right)?).bytes());
    let mut line = 1_u64;
    loop {
        match (left.next().transpose()?, right.next().transpose()?) {
            (None, None) => return Ok(None),
            (Some(a), Some(b)) if a == b => line += u64::from(a == b'\n'),
            _ if sizes.0 == sizes.1 => return Ok(Some(format!("differs first in line {line}"))),
            _ => {
                let (a, b) = sizes;
                return Ok(Some(format!("has {b} bytes instead of {a} and differs first in line {line}")));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_difference_is_found_and_told() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        for base in [&a, &b] {
            fs::create_dir_all(base.join("sub")).unwrap();
            fs::write(base.join("same"), "x\n").unwrap();
            fs::write(base.join("condor-criu.log"), base.display().to_string()).unwrap();
        }
        assert!(directories(&a, &b).unwrap().is_empty());
        fs::write(a.join("sub/f"), "1\n2\n3\n").unwrap();
        fs::write(b.join("sub/f"), "1\n2\n4\n").unwrap();
        fs::write(b.join(STDOUT), "").unwrap();
        let found = directories(&a, &b).unwrap();
        assert_eq!(found, ["stdout is there, but not without evictions", "sub/f differs first in line 3"]);
        assert_eq!(status(Ended::Exited(0), Ended::Exited(0)), None);
        assert!(status(Ended::Exited(0), Ended::Signaled(9)).unwrap().contains("SIGKILL"));
    }
}
