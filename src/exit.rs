//! Every way in which condor-criu ends, in one enum, because HTCondor decides by the exit status alone whether a job
//! is finished, has made a checkpoint, or must run again.

use std::fmt;

use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

/// Checkpoint exit code when the job ad names none: a requeue after a vacate (docs/measurements.md, "The default exit
/// code").
pub const DEFAULT_CHECKPOINT_CODE: u8 = 85;

/// How a process ended, as wait(2) tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// `exit(code)`
    Exited(u8),
    /// Killed by the signal of this number.
    Signaled(i32),
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ended::Exited(code) => write!(f, "exit code {code}"),
            Ended::Signaled(number) => match Signal::try_from(*number) {
                Ok(signal) => write!(f, "signal {signal}"),
                Err(_) => write!(f, "signal {number}"),
            },
        }
    }
}

/// The end of `condor-criu`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// The payload ended; its status is ours, a signal is raised again.
    Payload(Ended),
    /// A checkpoint is committed; HTCondor uploads it (the code is the job ad's `SuccessCheckpointExitCode`).
    Checkpointed(u8),
    /// The payload's own exit code equals the checkpoint code and must not be taken for a checkpoint.
    AmbiguousCode,
    /// The payload ended with 0, and some of what it wrote could not be passed on: nobody must take that for a success.
    OutputLost,
    /// Done: every command but `run`.
    Success,
    /// `rehearse` saw a difference, `verify` damage, `doctor` a no.
    Negative,
    /// This host cannot restore this checkpoint, which is intact: requeue elsewhere.
    CannotRestoreHere,
    /// condor-criu failed before the payload ran.
    CannotStart,
    /// The payload cannot be executed.
    CannotExecute,
    /// The payload is not found.
    NotFound,
}

impl Exit {
    /// The exit code, or the signal to die by.
    pub fn status(self) -> Ended {
        match self {
            Exit::Payload(ended) => ended,
            Exit::Checkpointed(code) => Ended::Exited(code),
            Exit::Success => Ended::Exited(0),
            Exit::AmbiguousCode | Exit::OutputLost | Exit::Negative => Ended::Exited(1),
            Exit::CannotRestoreHere => Ended::Exited(75),
            Exit::CannotStart => Ended::Exited(125),
            Exit::CannotExecute => Ended::Exited(126),
            Exit::NotFound => Ended::Exited(127),
        }
    }
}

/// A failure that ends condor-criu: what failed, why, and what to do.
#[derive(Debug, Clone, PartialEq)]
pub struct Failure {
    /// What failed, beginning with a verb: `cannot restore on this host`.
    pub what: String,
    /// Why, in plain words.
    pub why: String,
    /// What the reader can do about it.
    pub remedy: Option<String>,
    /// The exit status that goes with it.
    pub exit: Exit,
}

impl Failure {
    /// A failure before the payload ran.
    pub fn start(what: impl Into<String>, why: impl fmt::Display) -> Self {
        Failure { what: what.into(), why: why.to_string(), remedy: None, exit: Exit::CannotStart }
    }

    /// The same failure with the words that say what to do.
    pub fn with_remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }

    /// The same failure with another exit status.
    pub fn with_exit(mut self, exit: Exit) -> Self {
        self.exit = exit;
        self
    }

    /// The same failure of this host, if a checkpoint is `there`: it is whole, and another host may have what this one
    /// lacks.
    pub fn of_this_host_if(self, there: bool) -> Self {
        if there { self.with_exit(Exit::CannotRestoreHere) } else { self }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.why)?;
        match &self.remedy {
            Some(remedy) => write!(f, "\n  what to do: {remedy}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Failure {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_those_of_the_contract() {
        assert_eq!(Exit::CannotRestoreHere.status(), Ended::Exited(75));
        assert_eq!(Exit::CannotStart.status(), Ended::Exited(125));
        assert_eq!(Exit::CannotExecute.status(), Ended::Exited(126));
        assert_eq!(Exit::NotFound.status(), Ended::Exited(127));
        assert_eq!(Exit::Checkpointed(77).status(), Ended::Exited(77));
        assert_eq!(Exit::AmbiguousCode.status(), Ended::Exited(1));
    }

    #[test]
    fn a_failure_says_what_why_and_what_to_do() {
        let failure = Failure::start("cannot make the sandbox", "user namespaces are forbidden").with_remedy("ask");
        assert_eq!(failure.to_string(), "cannot make the sandbox: user namespaces are forbidden\n  what to do: ask");
    }
}
