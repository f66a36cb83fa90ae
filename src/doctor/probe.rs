//! Really saves a small tree of processes and restores it in another directory, in the way that jobs will.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::life::{self, Outcome, STDERR};
use crate::exit::{DEFAULT_CHECKPOINT_CODE, Ended};
use crate::journal::{self, Record};
use crate::sandbox::probe::WELL;

/// How far it came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Making the sandbox and starting the probe.
    Start,
    /// Saving it.
    Save,
    /// Restoring it.
    Restore,
}

/// A probe that was saved and restored.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Success {
    /// Seconds until the checkpoint was durable.
    pub commit_seconds: f64,
    /// Seconds from the start of the second life until the probe ran again.
    pub restore_seconds: f64,
    /// Size of the checkpoint.
    pub bytes: u64,
}

/// Why not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotPossible {
    /// Where it failed.
    pub stage: Stage,
    /// Why, in one line.
    pub why: String,
    /// What to do.
    pub remedy: Option<String>,
    /// It was only too slow: whether it is possible is not known.
    pub late: bool,
}

/// A temporary directory that is removed at the end.
pub struct Place(PathBuf);

impl Place {
    /// In TMPDIR.
    pub fn new() -> io::Result<Place> {
        let template = std::env::temp_dir().join("condor-criu-doctor.XXXXXX");
        Ok(Place(nix::unistd::mkdtemp(&template)?))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// What to do where the probe does not fit.
const NO_ROOM: &str = "let TMPDIR name a directory with 100 MB of room";

/// Saves and restores the probe below `place`, with these flags for `run`, until `deadline` at the latest.
pub fn probe(place: &Path, name: &str, flags: &[String], deadline: Instant) -> Result<Success, NotPossible> {
    let failed = |stage, why: String| NotPossible { stage, why, remedy: None, late: false };
    let directory = |life: &str| {
        let path = place.join(name).join(life);
        fs::DirBuilder::new().recursive(true).mode(0o755).create(&path).map(|()| path)
    };
    let cannot = |stage| {
        move |error: io::Error| NotPossible {
            remedy: (error.kind() == io::ErrorKind::StorageFull).then(|| NO_ROOM.to_owned()),
            ..failed(stage, format!("the probe cannot be run: {error}"))
        }
    };
    let first = directory("first").map_err(cannot(Stage::Start))?;
    match life::live(place, &first, flags, true, deadline).map_err(cannot(Stage::Start))? {
        Outcome::Ended(Ended::Exited(DEFAULT_CHECKPOINT_CODE)) => {}
        outcome => return Err(explain(&first, outcome, Stage::Start)),
    }
    // Another path of another length, as on another host.
    let second = directory("on/another/host").map_err(cannot(Stage::Restore))?;
    let checkpoint = crate::checkpoint::file_name(crate::checkpoint::archive::Compression::Auto);
    for file in [checkpoint, "_condor_stdout", STDERR, journal::NAME] {
        fs::copy(first.join(file), second.join(file)).map_err(cannot(Stage::Restore))?;
    }
    match life::live(place, &second, flags, false, deadline).map_err(cannot(Stage::Restore))? {
        Outcome::Ended(Ended::Exited(code)) if i32::from(code) == WELL => {}
        outcome => return Err(explain(&second, outcome, Stage::Restore)),
    }
    let mut success = Success { commit_seconds: 0.0, restore_seconds: 0.0, bytes: 0 };
    for record in journal::records(&second) {
        match record {
            Record::Committed { commit_seconds, bytes, .. } => {
                success.commit_seconds = commit_seconds;
                success.bytes = bytes;
            }
            Record::Restored { seconds, .. } => success.restore_seconds = seconds,
            _ => {}
        }
    }
    Ok(success)
}

/// What went wrong, from the words that `run` left.
fn explain(scratch: &Path, outcome: Outcome, begun: Stage) -> NotPossible {
    let told = journal::records(scratch).into_iter().rev().find_map(|record| match record {
        Record::Error(words) => Some(words),
        _ => None,
    });
    let stderr = fs::read_to_string(scratch.join(STDERR)).unwrap_or_default();
    let log = journal::read(scratch);
    let stage = if begun == Stage::Start && log.contains("the payload runs") { Stage::Save } else { begun };
    let late = matches!(outcome, Outcome::TooLate);
    let (why, remedy) = match (outcome, told) {
        (Outcome::TooLate, _) => ("it was not done in time".to_owned(), None),
        // The failure that ends `run` is on stderr, with its remedy in a line of its own.
        (_, _) if stderr.starts_with("error: ") => two_parts(&stderr, "\n  what to do: "),
        (_, Some(words)) => two_parts(&words, "; what to do: "),
        (Outcome::Ended(ended), None) => {
            let last = stderr.lines().last().unwrap_or_default();
            (format!("the probe ended by {ended} {last}").trim().to_owned(), None)
        }
    };
    NotPossible { stage, why, remedy, late }
}

pub(super) fn two_parts(words: &str, between: &str) -> (String, Option<String>) {
    let words = words.trim().trim_start_matches("error: ");
    match words.split_once(between) {
        Some((why, remedy)) => (why.to_owned(), Some(remedy.lines().next().unwrap_or(remedy).to_owned())),
        None => (words.to_owned(), None),
    }
}

/// Enough for a busy host; a healthy one needs a few tenths of a second.
pub const PATIENCE: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_taken_apart() {
        let text = "error: cannot x: because\n  what to do: this\n";
        assert_eq!(two_parts(text, "\n  what to do: "), ("cannot x: because".into(), Some("this".into())));
        assert_eq!(two_parts("plain", "; what to do: "), ("plain".into(), None));
    }
}
