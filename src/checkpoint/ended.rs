//! "The payload has ended with this status": one line in the place of the checkpoint, after the payload's own end.
//!
//! HTCondor takes every exit while a job is being vacated for a requeue, also the last one. A payload that ends just before the
//! signal comes would run again from its beginning. With this line the next start ends at once, in the same way.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::exit::Ended;

/// Bytes; a file that is longer is no such line.
const MOST: u64 = 1024;

/// The line, as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndRecord {
    /// Which job: another one that finds this file in its way is not meant.
    pub condor_criu_job: String,
    /// How the payload ended.
    pub ended: Ended,
}

impl EndRecord {
    /// What is in the checkpoint's place, if it is such a line.
    pub fn read(path: &Path) -> Option<EndRecord> {
        let length = path.symlink_metadata().ok().filter(fs::Metadata::is_file)?.len();
        if length == 0 || length > MOST {
            return None;
        }
        serde_json::from_slice(&fs::read(path).ok()?).ok()
    }

    /// Writes it over whatever is there.
    pub fn write(&self, path: &Path) -> std::io::Result<()> {
        let mut line = serde_json::to_vec(self)?;
        line.push(b'\n');
        fs::write(path, line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_read_back_and_nothing_else_is_taken_for_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("checkpoint");
        assert_eq!(EndRecord::read(&path), None);
        for text in ["", "{}", "text", r#"{"condor_criu_job":"1.0"}"#, &"x".repeat(5000)] {
            fs::write(&path, text).unwrap();
            assert_eq!(EndRecord::read(&path), None, "{text}");
        }
        let record = EndRecord { condor_criu_job: "ap#1.0#5".into(), ended: Ended::Signaled(11) };
        record.write(&path).unwrap();
        assert_eq!(EndRecord::read(&path), Some(record));
    }
}
