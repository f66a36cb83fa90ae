//! "The payload has ended with this status": the last line of `condor-criu.log`, after the payload's own end.
//!
//! HTCondor takes every exit while a job is being vacated for a requeue, also the last one. A payload that ends just
//! before the signal comes would run again from its beginning. With this line the next start ends at once, in the same
//! way. It is in the log because the log travels wherever the checkpoint does, and the checkpoint's own place stays
//! empty at the end.

use std::fs;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::exit::Ended;
use crate::journal::{self, LogFormat};

/// Bytes; a line that is longer is no such line.
const MOST: u64 = 1024;

/// A payload may have put anything in the log's place: a link is not followed, a named pipe not waited for.
const PLAIN: i32 = libc::O_NOFOLLOW | libc::O_NONBLOCK;

/// The line, as JSON whatever the form of the others is; among lines of JSON it also has what each of those has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndRecord {
    /// Which job: another one that finds this log in its way is not meant.
    pub condor_criu_job: String,
    /// How the payload ended.
    pub ended: Ended,
    /// In which attempt, see `Job::attempt`.
    #[serde(default)]
    pub attempt: i64,
}

impl EndRecord {
    /// The last line of the log at `path`, if it is such a line.
    pub fn read(path: &Path) -> Option<EndRecord> {
        let mut log = fs::File::options().read(true).custom_flags(PLAIN).open(path).ok()?;
        let length = log.metadata().ok().filter(fs::Metadata::is_file)?.len();
        log.seek(SeekFrom::Start(length.saturating_sub(MOST))).ok()?;
        let mut end = Vec::new();
        log.take(MOST).read_to_end(&mut end).ok()?;
        let line = end.strip_suffix(b"\n")?.rsplit(|byte| *byte == b'\n').next()?;
        serde_json::from_slice(line).ok()
    }

    /// Makes it the last line.
    pub fn append(&self, path: &Path, format: LogFormat) -> io::Result<()> {
        let line = match (format, serde_json::to_value(self)?) {
            (LogFormat::Json, serde_json::Value::Object(own)) => journal::object("INFO", "the program has ended", own)?,
            (_, own) => own.to_string(),
        };
        let mut log = fs::File::options().append(true).custom_flags(PLAIN).open(path)?;
        log.write_all(format!("{line}\n").as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::Line;

    #[test]
    fn it_is_read_back_and_nothing_else_is_taken_for_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        assert_eq!(EndRecord::read(&path), None);
        let record = EndRecord { condor_criu_job: "ap#1.0#5".into(), ended: Ended::Signaled(11), attempt: 2 };
        for before in ["", "a line\n", &"long line ".repeat(1000), "half a line"] {
            fs::write(&path, before).unwrap();
            assert_eq!(EndRecord::read(&path), None, "{before}");
            for format in [LogFormat::Text, LogFormat::Json] {
                fs::write(&path, before.to_owned() + "\n").unwrap();
                record.append(&path, format).unwrap();
                assert_eq!(EndRecord::read(&path).as_ref(), Some(&record));
                let written = fs::read_to_string(&path).unwrap();
                let last = written.lines().last().unwrap();
                assert_eq!(Line::parse(last).is_some(), format == LogFormat::Json, "{last}");
            }
            fs::write(&path, fs::read_to_string(&path).unwrap() + "a later line\n").unwrap();
            assert_eq!(EndRecord::read(&path), None);
        }
    }
}
