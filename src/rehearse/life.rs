//! The lives of a rehearsed job, and the evictions between them.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::exit::Ended;

/// How a life ends that is not the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EvictionKind {
    /// By the vacate signal.
    Vacate,
    /// By SIGKILL, with nothing carried.
    Hard,
    /// By a periodic checkpoint: a restart in place, and no eviction.
    Interval,
}

impl fmt::Display for EvictionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            EvictionKind::Vacate => "vacate",
            EvictionKind::Hard => "hard",
            EvictionKind::Interval => "interval",
        })
    }
}

/// An eviction and what it cost, as far as the log tells.
#[derive(Debug, Clone)]
pub struct Eviction {
    /// How the life ended.
    pub kind: EvictionKind,
    /// Which generation was committed.
    pub generation: Option<u64>,
    /// See the log.
    pub frozen_seconds: Option<f64>,
    /// See the log.
    pub commit_seconds: Option<f64>,
    /// See the log.
    pub bytes: Option<u64>,
    /// Bytes in the scratch directory when the old checkpoint and the new one were both there, if one was committed.
    pub disk: Option<u64>,
    /// From the restart until the payload ran again.
    pub running_again_seconds: Option<f64>,
    /// When the life began that it ended, in seconds since the epoch.
    pub began: f64,
    /// When that life had ended.
    pub ended: f64,
    /// Where it was.
    pub host: String,
}

impl Eviction {
    /// One of which nothing is known yet.
    pub fn new(kind: EvictionKind) -> Eviction {
        Eviction {
            kind,
            generation: None,
            frozen_seconds: None,
            commit_seconds: None,
            bytes: None,
            disk: None,
            running_again_seconds: None,
            began: 0.0,
            ended: 0.0,
            host: String::new(),
        }
    }

    /// Whether the job was taken away.
    pub fn takes_away(&self) -> bool {
        self.kind != EvictionKind::Interval
    }
}

/// How one life of the job ended for good.
pub(super) enum Ending {
    /// The payload's own status.
    Payload(Ended),
    /// condor-criu could not go on; its words.
    Ours(String),
}

/// The last life of a job.
pub(super) struct Life {
    pub(super) scratch: PathBuf,
    pub(super) ending: Ending,
    /// Seconds since the epoch.
    pub(super) began: f64,
    /// Seconds since the epoch.
    pub(super) ended: f64,
}

/// The part of a scratch directory's path that stands for a host.
pub(super) fn host(scratch: &Path) -> String {
    let mut names = scratch.iter().map(|name| name.to_string_lossy());
    names.rfind(|name| name.starts_with("host") || name == "peace").unwrap_or_default().into_owned()
}
