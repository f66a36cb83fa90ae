//! `condor-criu.log`, in the scratch directory: what we did and why. stdout and stderr belong to the payload alone.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Mutex;

/// The log's name.
pub const NAME: &str = "condor-criu.log";

/// Appends to the log from now on. Lines are `TIME LEVEL message key=value …`, UTC.
pub fn open(scratch: &Path, level: tracing::Level) -> io::Result<()> {
    // Not through a link that a payload has put there, which would lead out of what the sandbox lets it write to; nor does a pipe
    // keep us waiting.
    let mut options = OpenOptions::new();
    options.append(true).create(true).mode(0o600).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    let file = options.open(scratch.join(NAME))?;
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_ansi(false)
        .with_target(false)
        // What cannot be written (a full disk) would be told on stderr, which is the payload's.
        .log_internal_errors(false)
        .with_writer(Mutex::new(file))
        .finish();
    // A second call in one process (unit tests) keeps the first log.
    let _ = tracing::subscriber::set_global_default(subscriber);
    Ok(())
}

/// A line of the log that a reader of logs wants: a checkpoint, a restore, a failure.
#[derive(Debug, Clone, PartialEq)]
pub enum Record {
    /// A checkpoint is committed.
    Committed {
        /// Its number.
        generation: u64,
        /// interval, vacate, signal or deadline
        reason: String,
        /// Seconds that the payload was stopped, so far as packing tells.
        frozen_seconds: f64,
        /// Seconds from the begin until it was durable.
        commit_seconds: f64,
        /// Size of the file.
        bytes: u64,
    },
    /// The payload runs again.
    Restored {
        /// From which generation.
        generation: u64,
        /// From our start until it ran.
        seconds: f64,
    },
    /// What is in the way of a checkpoint, or would be lost by one, seen while the program runs; the words.
    EarlyWord(String),
    /// Something went wrong; the words.
    Error(String),
}

/// What the line of an early word begins with.
const EARLY: &str = "early word: ";

impl Record {
    /// Writes the line that [`Record::parse`] reads.
    pub fn tell(&self) {
        match self {
            Record::Committed { generation, reason, frozen_seconds, commit_seconds, bytes } => {
                tracing::info!(generation, %reason, frozen_seconds, commit_seconds, bytes, "committed");
            }
            Record::Restored { generation, seconds } => {
                tracing::info!(generation, seconds, "the payload runs again");
            }
            Record::EarlyWord(words) => tracing::warn!("{EARLY}{words}"),
            Record::Error(words) => tracing::error!("{words}"),
        }
    }

    /// Reads one line; `None` if it is of no interest.
    pub fn parse(line: &str) -> Option<Record> {
        let (_time, rest) = line.trim_end().split_once(' ')?;
        let (level, message) = rest.trim_start().split_once(' ')?;
        if level == "ERROR" {
            return Some(Record::Error(message.to_owned()));
        }
        if let Some(words) = message.strip_prefix(EARLY).filter(|_| level == "WARN") {
            return Some(Record::EarlyWord(words.to_owned()));
        }
        let field = |name: &str| {
            let after = message.split(&format!("{name}=")).nth(1)?;
            Some(after.split(' ').next().unwrap_or(after).to_owned())
        };
        if message.starts_with("committed ") {
            return Some(Record::Committed {
                generation: field("generation")?.parse().ok()?,
                reason: field("reason")?,
                frozen_seconds: field("frozen_seconds")?.parse().ok()?,
                commit_seconds: field("commit_seconds")?.parse().ok()?,
                bytes: field("bytes")?.parse().ok()?,
            });
        }
        if message.starts_with("the payload runs again ") {
            return Some(Record::Restored {
                generation: field("generation")?.parse().ok()?,
                seconds: field("seconds=").or_else(|| field(" seconds"))?.parse().ok()?,
            });
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_s_own_lines_are_read_back() {
        let line = "2026-11-23T15:22:48Z  INFO committed generation=5 reason=interval frozen_seconds=0.019 commit_seconds=0.027 bytes=707061";
        let expected = Record::Committed {
            generation: 5,
            reason: "interval".into(),
            frozen_seconds: 0.019,
            commit_seconds: 0.027,
            bytes: 707_061,
        };
        assert_eq!(Record::parse(line), Some(expected));
        let line = "2026-11-23T15:22:48Z  INFO the payload runs again generation=5 seconds=0.026\n";
        assert_eq!(Record::parse(line), Some(Record::Restored { generation: 5, seconds: 0.026 }));
        assert_eq!(Record::parse("2026 ERROR no"), Some(Record::Error("no".into())));
        let line = "2026-11-23T15:22:48Z  WARN early word: process 301 (x) waits";
        assert_eq!(Record::parse(line), Some(Record::EarlyWord("process 301 (x) waits".into())));
        assert_eq!(Record::parse(""), None);
        assert_eq!(Record::parse("2026-11-23T15:22:48Z  INFO starting version=\"0.1.0\""), None);
    }
}
