//! The lines that a reader of logs wants, as values: written and read here, in both forms.

use std::time::SystemTime;

use serde_json::{Map, Value};

/// A line of the log that a reader of logs wants: a start, a checkpoint, a restore, a failure.
#[derive(Debug, Clone, PartialEq)]
pub enum Record {
    /// A life begins.
    Started {
        /// Of condor-criu.
        version: String,
        /// The scratch directory.
        scratch: String,
        /// The job, as in `12.0`; empty outside HTCondor.
        job: String,
    },
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

/// What the line of an early word begins with in a text.
const EARLY: &str = "early word: ";
/// The messages whose fields are read.
const STARTED: &str = "starting";
const COMMITTED: &str = "committed";
const RESTORED: &str = "the payload runs again";

/// One line.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    /// When it was written, if it says so.
    pub time: Option<SystemTime>,
    /// What it says, if that is of interest.
    pub record: Option<Record>,
}

impl Line {
    /// Reads one line of either form.
    pub fn parse(line: &str) -> Option<Line> {
        let line = line.trim_end();
        let (time, record) = if line.starts_with('{') {
            let object: Map<String, Value> = serde_json::from_str(line).ok()?;
            let text = |key: &str| object.get(key).and_then(Value::as_str);
            let (level, message) = (text("level")?, text("message")?);
            (text("time").map(str::to_owned), Record::of(level, message, text("record"), &object))
        } else {
            let (time, rest) = line.split_once(' ')?;
            let (level, message) = rest.trim_start().split_once(' ')?;
            let known = [STARTED, COMMITTED, RESTORED].into_iter().find_map(|known| {
                let fields = message.strip_prefix(known)?.strip_prefix(' ')?;
                Some((known, of_text(fields)))
            });
            let (message, fields) = known.unwrap_or((message, Map::new()));
            (Some(time.to_owned()), Record::of(level, message, None, &fields))
        };
        Some(Line { time: time.and_then(|time| humantime::parse_rfc3339(&time).ok()), record })
    }
}

/// `key=value key="a text"`. A value goes on to the next word that begins as a field does.
fn of_text(fields: &str) -> Map<String, Value> {
    let mut pairs: Vec<(&str, String)> = Vec::new();
    let is_key = |key: &str| !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    for word in fields.split(' ') {
        match (word.split_once('=').filter(|(key, _)| is_key(key)), pairs.last_mut()) {
            (Some((key, value)), _) => pairs.push((key, value.to_owned())),
            (None, Some((_, value))) => *value += &format!(" {word}"),
            (None, None) => {}
        }
    }
    let value = |text: String| serde_json::from_str(&text).unwrap_or(Value::String(text));
    pairs.into_iter().map(|(key, text)| (key.to_owned(), value(text))).collect()
}

impl Record {
    /// Writes the line that [`Record::parse`] reads.
    pub fn tell(&self) {
        match self {
            Record::Started { version, scratch, job } => {
                tracing::info!(version = version.as_str(), %scratch, job = job.as_str(), "{STARTED}");
            }
            Record::Committed { generation, reason, frozen_seconds, commit_seconds, bytes } => {
                tracing::info!(generation, %reason, frozen_seconds, commit_seconds, bytes, "{COMMITTED}");
            }
            Record::Restored { generation, seconds } => {
                tracing::info!(generation, seconds, "{RESTORED}");
            }
            Record::EarlyWord(words) => tracing::warn!("{EARLY}{words}"),
            Record::Error(words) => tracing::error!("{words}"),
        }
    }

    /// Reads one line of either form; `None` if it is of no interest.
    pub fn parse(line: &str) -> Option<Record> {
        Line::parse(line)?.record
    }

    /// From what a line says. `name` is what JSON calls the record.
    pub(super) fn of(level: &str, message: &str, name: Option<&str>, fields: &Map<String, Value>) -> Option<Record> {
        let number = |key: &str| fields.get(key)?.as_u64();
        let seconds = |key: &str| fields.get(key)?.as_f64();
        let text = |key: &str| Some(fields.get(key)?.as_str()?.to_owned());
        match (level, message) {
            ("ERROR", _) => Some(Record::Error(message.to_owned())),
            ("WARN", _) if name == Some("early_word") => Some(Record::EarlyWord(message.to_owned())),
            ("WARN", _) => message.strip_prefix(EARLY).map(|words| Record::EarlyWord(words.to_owned())),
            ("INFO", STARTED) => {
                Some(Record::Started { version: text("version")?, scratch: text("scratch")?, job: text("job")? })
            }
            ("INFO", COMMITTED) => Some(Record::Committed {
                generation: number("generation")?,
                reason: text("reason")?,
                frozen_seconds: seconds("frozen_seconds")?,
                commit_seconds: seconds("commit_seconds")?,
                bytes: number("bytes")?,
            }),
            ("INFO", RESTORED) => {
                Some(Record::Restored { generation: number("generation")?, seconds: seconds("seconds")? })
            }
            _ => None,
        }
    }

    /// What JSON calls it.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Record::Started { .. } => "started",
            Record::Committed { .. } => "committed",
            Record::Restored { .. } => "restored",
            Record::EarlyWord(_) => "early_word",
            Record::Error(_) => "error",
        }
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
        let line = "2026-11-23T15:22:48Z  INFO starting version=\"0.1.0\" scratch=/a b/c job=\"7.0\"";
        let (version, scratch, job) = ("0.1.0".into(), "/a b/c".into(), "7.0".into());
        assert_eq!(Record::parse(line), Some(Record::Started { version, scratch, job }));
        assert_eq!(Line::parse(line).unwrap().time, humantime::parse_rfc3339("2026-11-23T15:22:48Z").ok());
        for line in ["", "{", "{}", "{\"condor_criu_job\":\"x\"}", "2026-11-23T15:22:48Z  INFO ending exit=Success"] {
            assert_eq!(Record::parse(line), None, "{line}");
        }
    }
}
