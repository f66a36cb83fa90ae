//! The program that a user means to submit: run for a while, looked at, saved, and restored in another directory.

use std::ffi::OsString;
use std::time::Duration;

use super::probe::two_parts;
use super::{Check, Status};
use crate::exit::{Ended, Failure};
use crate::journal::Record;
use crate::rehearse::once::{Once, Restored, once};
use crate::supervise::EARLY_WORD;

/// A program to try.
pub struct Trial {
    /// The program and its arguments.
    pub command: Vec<OsString>,
    /// How long it runs before it is saved.
    pub after: Duration,
    /// Settings for `run`, as flags.
    pub flags: Vec<OsString>,
}

impl Trial {
    /// Runs it; what was seen, one check each, the save and the restore last.
    pub(super) fn checks(&self) -> Result<Vec<Check>, Failure> {
        let once = once(&self.command, &self.flags, self.after)
            .map_err(|error| Failure::start("cannot try the program", error))?;
        let mut checks: Vec<Check> = once.log.lines().filter_map(early).collect();
        if checks.is_empty() && once.asked && self.after > EARLY_WORD {
            checks.push(Check::new("program", Status::Yes, "nothing was seen that is in the way of a checkpoint"));
        }
        checks.push(save(&once));
        checks.push(match &once.restored {
            Some(restored) => restore(restored),
            None => Check::new("restore program", Status::Unknown, "not tried: nothing was saved"),
        });
        Ok(checks)
    }
}

/// A line of the log that is an early word.
fn early(line: &str) -> Option<Check> {
    let Some(Record::EarlyWord(words)) = Record::parse(line) else { return None };
    let (status, words) = match words.strip_prefix("the payload cannot be saved: ") {
        Some(words) => (Status::No, words),
        None => (Status::Limited, words.as_str()),
    };
    let (why, remedy) = two_parts(words, "; what to do: ");
    Some(Check { remedy, ..Check::new("program", status, why) })
}

fn save(once: &Once) -> Check {
    let name = "save program";
    let records: Vec<Record> = once.log.lines().filter_map(Record::parse).collect();
    if once.saved() {
        let detail = records.iter().find_map(|record| match record {
            Record::Committed { frozen_seconds, bytes, .. } => {
                Some(format!("{bytes} bytes; it stood still for {frozen_seconds:.2} s"))
            }
            _ => None,
        });
        return Check::new(name, Status::Yes, detail.unwrap_or_default());
    }
    let told = records.into_iter().find_map(|record| match record {
        Record::Error(words) => Some(two_parts(&words, "; what to do: ")),
        _ => None,
    });
    let (why, remedy) = match (told, once.ended) {
        // The failure that ends `run` is on stderr, with its remedy in a line of its own.
        _ if once.stderr.starts_with("error: ") => two_parts(&once.stderr, "\n  what to do: "),
        (Some(told), _) => told,
        (None, None) => ("it did not end when it was asked to leave".to_owned(), None),
        (None, Some(ended)) if once.log.is_empty() => (format!("{ended} {}", once.stderr.trim()), None),
        (None, Some(ended)) => {
            let why =
                format!("it ended by itself before, by {ended}; {}", once.stderr.lines().last().unwrap_or_default());
            return Check::new(name, Status::Unknown, why)
                .remedy("try it sooner, with --after 2s for instance, or a longer input");
        }
    };
    Check { remedy, ..Check::new(name, Status::No, why) }
}

fn restore(restored: &Restored) -> Check {
    let name = "restore program";
    let told = restored.errors.first().map(|words| two_parts(words, "; what to do: "));
    let (why, remedy) = match (restored.seconds, restored.ended, told) {
        (Some(seconds), None | Some(Ended::Exited(_)), None) => {
            let then =
                restored.ended.map_or("it runs on".to_owned(), |ended| format!("it went on to its end, {ended}"));
            return Check::new(name, Status::Yes, format!("in another directory, in {seconds:.2} s; {then}"));
        }
        (_, _, Some(told)) => told,
        (Some(_), Some(ended), None) => (
            format!("it was restored, and then ended by {ended}"),
            Some("look at what it printed in condor-criu rehearse --keep DIR -- PROGRAM".to_owned()),
        ),
        (None, Some(ended), None) => (format!("condor-criu ended by {ended} before the program ran again"), None),
        (None, None, None) => ("it did not run again in time".to_owned(), None),
    };
    Check { remedy, ..Check::new(name, Status::No, why) }
}
