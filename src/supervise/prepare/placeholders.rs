//! Files that stand in for outputs which the payload has not written yet.
//!
//! HTCondor holds a job when a file of `transfer_output_files` or `transfer_checkpoint_files` is missing, at a
//! checkpoint and at an eviction too. Most programs write some of theirs only at the end. So when we leave before that,
//! each missing one is there as a file with one line that nobody else writes. It comes back with the checkpoint, and is
//! removed before the payload can see it.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path, PathBuf};

use crate::checkpoint;
use crate::htcondor::Job;
use crate::htcondor::advice::list;
use crate::journal;

const LINE: &[u8] = b"condor-criu: this stands in for an output that the job had not written yet\n";

/// Makes what is missing.
pub fn make(job: &Job) {
    for output in outputs(job) {
        match make_one(&job.scratch, &output) {
            Ok(false) => {}
            Ok(true) => tracing::info!("{} is not written yet; a placeholder keeps the job from being held", output),
            Err(error) => tracing::warn!("HTCondor will miss {output}, and there can be no placeholder: {error}"),
        }
    }
}

/// Makes what is ours and missing: after a failure HTCondor would name these files as the cause, and hold the job for
/// them.
pub fn make_ours(job: &Job) {
    let ours = |output: &String| output == journal::NAME || output.starts_with(checkpoint::NAME);
    for output in outputs(job).into_iter().filter(ours) {
        let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(job.scratch.join(&output));
        if let Err(error) = made
            && error.kind() != io::ErrorKind::AlreadyExists
        {
            tracing::debug!("HTCondor will miss {output}: {error}");
        }
    }
}

/// Removes those that came back.
pub fn remove(job: &Job) {
    for output in outputs(job) {
        let path = job.scratch.join(&output);
        if is_placeholder(&path)
            && let Err(error) = fs::remove_file(&path)
        {
            tracing::warn!("cannot remove the placeholder {output}: {error}");
        }
    }
}

/// What HTCondor will look for in the scratch directory.
fn outputs(job: &Job) -> BTreeSet<String> {
    let Some(ad) = &job.ad else { return BTreeSet::new() };
    let entries = ["TransferOutput", "TransferCheckpoint"].into_iter().filter_map(|name| list(ad, name)).flatten();
    // What is elsewhere is not ours to make.
    let below = |entry: &String| {
        Path::new(entry).components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
    };
    entries.filter(below).collect()
}

fn make_one(scratch: &Path, output: &str) -> io::Result<bool> {
    let path: PathBuf = scratch.join(output);
    if path.symlink_metadata().is_ok() {
        return Ok(false);
    }
    // "dir/" means what is in it, and nothing will do.
    if output.ends_with('/') {
        return fs::create_dir_all(&path).map(|()| false);
    }
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    OpenOptions::new().write(true).create_new(true).open(&path)?.write_all(LINE)?;
    Ok(true)
}

fn is_placeholder(path: &Path) -> bool {
    let is_file =
        path.symlink_metadata().is_ok_and(|metadata| metadata.is_file() && metadata.len() == LINE.len() as u64);
    let mut found = Vec::new();
    is_file && File::open(path).and_then(|mut file| file.read_to_end(&mut found)).is_ok() && found == LINE
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::htcondor::ClassAd;

    #[test]
    fn missing_outputs_are_made_and_only_placeholders_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let ad = ClassAd::parse(
            "TransferOutput = \"there, late,deep/er/late,dir/,/etc/other,../above\"\nTransferCheckpoint = \"late,ckpt\"",
        );
        let job = Job { scratch: dir.path().into(), ad: Some(ad), machine: None };
        fs::write(dir.path().join("there"), "mine").unwrap();
        make(&job);
        for name in ["late", "deep/er/late", "ckpt"] {
            assert_eq!(fs::read(dir.path().join(name)).unwrap(), LINE, "{name}");
        }
        assert!(dir.path().join("dir").is_dir() && !dir.path().join("../above").exists());
        assert_eq!(fs::read(dir.path().join("there")).unwrap(), b"mine");
        fs::write(dir.path().join("ckpt"), "written").unwrap();
        remove(&job);
        assert!(!dir.path().join("late").exists() && !dir.path().join("deep/er/late").exists());
        assert_eq!(fs::read(dir.path().join("ckpt")).unwrap(), b"written");
        assert_eq!(fs::read(dir.path().join("there")).unwrap(), b"mine");
    }
}
