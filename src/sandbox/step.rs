//! A step of making the sandbox, and how it failed. Those that somebody decides by have a name of their own; all others
//! are words.

use std::fmt;

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

/// What was being done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SetupStep {
    /// execve(2) of the payload's program: its errors are the program's.
    ExecuteProgram,
    /// A /proc of the new pid namespace: where the outer one is masked, the kernel refuses it.
    MountProc,
    /// The user and the group of the new user namespace.
    MapIdentity,
    /// Anything else, to follow "cannot".
    Other(String),
}

impl fmt::Display for SetupStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SetupStep::ExecuteProgram => "execute the program",
            SetupStep::MountProc => "mount a fresh /proc",
            SetupStep::MapIdentity => "map the user and the group",
            SetupStep::Other(words) => words,
        })
    }
}

impl From<&str> for SetupStep {
    fn from(words: &str) -> Self {
        SetupStep::Other(words.to_owned())
    }
}

impl From<String> for SetupStep {
    fn from(words: String) -> Self {
        SetupStep::Other(words)
    }
}

/// A step of making the sandbox that failed.
#[derive(Debug)]
pub struct StepFailed {
    /// What was being done.
    pub step: SetupStep,
    /// The system's answer.
    pub errno: Errno,
}

/// Names the step if it fails.
pub(super) fn step<T, E: Into<Errno>>(what: impl Into<SetupStep>, result: Result<T, E>) -> Result<T, StepFailed> {
    result.map_err(|error| StepFailed { step: what.into(), errno: error.into() })
}

/// std's errors as errno.
pub(super) fn io<T>(result: std::io::Result<T>) -> Result<T, Errno> {
    result.map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))
}
