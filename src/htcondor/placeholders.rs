//! HTCondor puts a job on hold if a listed file is missing, at a checkpoint as at an eviction. So when the job ends before the
//! payload does, whatever it has not written yet is there as an empty file. What came back that way is no file of the payload's,
//! and is removed before a restore because the checkpoint does not know it.

use std::fs;
use std::path::{Component, Path};

use super::ClassAd;
use super::advice::list;

/// Makes what is listed and missing; returns what was made.
pub fn make(ad: &ClassAd, scratch: &Path) -> Vec<String> {
    let lists = ["TransferCheckpoint", "TransferOutput"].into_iter().filter_map(|name| list(ad, name));
    let mut made = Vec::new();
    for name in lists.flatten() {
        let relative = Path::new(&name);
        // An absolute path or a way out is not ours to make.
        let inside = relative.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
        let path = scratch.join(relative);
        if !inside || path.symlink_metadata().is_ok() {
            continue;
        }
        let parent = path.parent().map_or(Ok(()), fs::create_dir_all);
        let done = parent
            .and_then(|()| if name.ends_with('/') { fs::create_dir(&path) } else { fs::File::create(&path).map(drop) });
        match done {
            Ok(()) => made.push(name),
            Err(error) => tracing::warn!("cannot make a placeholder for {name}: {error}"),
        }
    }
    made
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_files_are_made_and_others_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("there"), "x").unwrap();
        let ad = ClassAd::parse(
            "TransferCheckpoint = \"there, out/deep/file, results/, /etc/never, ../up\"\nTransferOutput = \"more\"",
        );
        assert_eq!(make(&ad, dir.path()), ["out/deep/file", "results/", "more"]);
        assert_eq!(fs::read(dir.path().join("there")).unwrap(), b"x");
        assert!(dir.path().join("results").is_dir() && dir.path().join("out/deep/file").is_file());
        assert!(make(&ad, dir.path()).is_empty());
    }
}
