//! One life of a program that is saved at its end: what `doctor -- PROGRAM` does.

use std::fs;
use std::io;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::starter::{self, Base, STDERR, Starter};
use super::{Options, is_checkpoint};
use crate::exit::Ended;
use crate::journal;

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Once {
    /// It was asked to leave; otherwise it had ended before.
    pub asked: bool,
    /// How condor-criu ended; `None` if it was killed for not ending.
    pub ended: Option<Ended>,
    /// condor-criu's log.
    pub log: String,
    /// What was written to stderr.
    pub stderr: String,
}

impl Once {
    /// Whether a checkpoint was committed.
    pub fn saved(&self) -> bool {
        self.asked && self.ended.is_some_and(is_checkpoint)
    }
}

/// Runs `command` in a temporary scratch directory, with the files of this one that it names, and asks it to leave after `after`.
pub fn once(command: &[std::ffi::OsString], flags: &[std::ffi::OsString], after: Duration) -> io::Result<Once> {
    let options = Options {
        evict_every: None,
        evictions: 0,
        signal: Signal::SIGTERM,
        hard: false,
        transfer: Vec::new(),
        keep: None,
        report: None,
        run_flags: flags.to_vec(),
        command: command.to_vec(),
    };
    let base = Base::temporary()?;
    let starter = Starter::new(&options, base.path())?;
    let scratch = starter.scratch("trial", None)?;
    let mut child = starter.start(&scratch, &["--interval", "never"])?;
    let early = starter::wait_until(&mut child, Instant::now() + after)?;
    let status = match early {
        Some(status) => Some(status),
        None => {
            kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM)?;
            let status = starter::wait_until(&mut child, Instant::now() + starter::VACATE_TIME)?;
            if status.is_none() {
                child.kill()?;
                child.wait()?;
            }
            status
        }
    };
    Ok(Once {
        asked: early.is_none(),
        ended: status.map(starter::of),
        log: fs::read_to_string(scratch.join(journal::NAME)).unwrap_or_default(),
        stderr: fs::read_to_string(scratch.join(STDERR)).unwrap_or_default(),
    })
}
