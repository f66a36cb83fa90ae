//! A program that is saved, and restored in another directory: what `doctor -- PROGRAM` does.

use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::starter::{self, Base, Starter};
use super::{Options, is_checkpoint};
use crate::exit::Ended;
use crate::journal::{self, Record};

/// What became of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Once {
    /// It was asked to leave; otherwise it had ended before.
    pub asked: bool,
    /// How condor-criu ended; `None` if it was killed for not ending.
    pub ended: Option<Ended>,
    /// condor-criu's log.
    pub log: String,
    /// What was written to stderr.
    pub stderr: String,
    /// The life after that, if it was saved.
    pub restored: Option<Restored>,
}

/// What became of it after its restore.
#[derive(Debug, Clone, PartialEq)]
pub struct Restored {
    /// Seconds until it ran again, if it did.
    pub seconds: Option<f64>,
    /// How it ended; `None` if it was still there when the look at it was over.
    pub ended: Option<Ended>,
    /// What went wrong, as condor-criu's log has it.
    pub errors: Vec<String>,
}

/// How long a restored program is watched: one that came back wrong dies at its first steps.
const WATCHED: Duration = Duration::from_secs(3);
/// How often the log is asked whether the program runs again.
const LOOK: Duration = Duration::from_millis(100);
/// Longest wait for that. condor-criu has a deadline of its own for each restore, by its size; this is for what that
/// cannot see.
const PATIENCE: Duration = Duration::from_secs(600);

impl Once {
    /// Whether a checkpoint was committed.
    pub fn saved(&self) -> bool {
        self.asked && self.ended.is_some_and(is_checkpoint)
    }
}

/// Runs `command` in a temporary scratch directory, with the files of this one that it names, asks it to leave after
/// `after`, and starts it again from what was saved.
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
    let mut once = Once {
        asked: early.is_none(),
        ended: status.map(starter::of),
        log: journal::read(&scratch),
        stderr: starter::stderr(&scratch),
        restored: None,
    };
    if once.saved() {
        let spool = base.path().join("spool");
        fs::create_dir_all(&spool)?;
        starter.carry(&scratch, &spool)?;
        once.restored = Some(restore(&starter, &spool)?);
    }
    Ok(once)
}

/// The next life, in a directory with another path.
fn restore(starter: &Starter<'_>, spool: &Path) -> io::Result<Restored> {
    let scratch = starter.scratch("another/host", Some(spool))?;
    let before = journal::records(&scratch).len();
    let mut child = starter.start(&scratch, &["--interval", "never"])?;
    let deadline = Instant::now() + PATIENCE;
    let mut ended = None;
    let mut seconds = None;
    while ended.is_none() && seconds.is_none() && Instant::now() < deadline {
        ended = starter::wait_until(&mut child, Instant::now() + LOOK)?;
        seconds = journal::records(&scratch).into_iter().skip(before).find_map(|record| match record {
            Record::Restored { seconds, .. } => Some(seconds),
            _ => None,
        });
    }
    if ended.is_none() {
        ended = starter::wait_until(&mut child, Instant::now() + WATCHED)?;
    }
    if ended.is_none() {
        // Its sandbox dies with it.
        child.kill()?;
        child.wait()?;
    }
    let errors = journal::records(&scratch).into_iter().skip(before).filter_map(|record| match record {
        Record::Error(words) => Some(words),
        _ => None,
    });
    Ok(Restored { seconds, ended: ended.map(starter::of), errors: errors.collect() })
}
