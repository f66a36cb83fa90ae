//! `condor-criu rehearse`: what a scientist runs before submitting ten thousand jobs.
//!
//! An embedded stand-in for HTCondor's starter ([`starter`]) runs the program once in peace and once with evictions,
//! each restart in another scratch directory. [`compare`] holds the two against each other: exit status, stdout, stderr
//! and every file. [`table`] prints what the evictions cost, [`timeline`] makes a page of it.

mod compare;
mod life;
pub mod once;
mod starter;
mod table;
mod timeline;

use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::exit::{Ended, Exit, Failure};
use crate::report;
use life::{Ending, Eviction, Life};
use starter::Starter;

/// What the command line says.
#[derive(Debug, Clone)]
pub struct Options {
    /// Seconds of running between evictions; `None` spreads the evictions evenly over the uninterrupted run.
    pub evict_every: Option<Duration>,
    /// How many evictions.
    pub evictions: u32,
    /// The vacate signal.
    pub signal: Signal,
    /// SIGKILL without transfer instead.
    pub hard: bool,
    /// Files and directories that the job is given, besides the program and the arguments that name some.
    pub transfer: Vec<PathBuf>,
    /// Where the scratch directories are made, and stay.
    pub keep: Option<PathBuf>,
    /// Where the page about it goes.
    pub report: Option<PathBuf>,
    /// Settings for `run`, as flags.
    pub run_flags: Vec<OsString>,
    /// The payload.
    pub command: Vec<OsString>,
}

/// Runs it, prints the result; `Success` only if all is equal.
pub fn run(options: &Options) -> Result<Exit, Failure> {
    let cannot = |error: std::io::Error| Failure::start("cannot rehearse", error);
    let base = match &options.keep {
        Some(path) => {
            std::fs::create_dir_all(path).map_err(cannot)?;
            starter::Base::Kept(path.canonicalize().map_err(cannot)?)
        }
        None => starter::Base::temporary().map_err(cannot)?,
    };
    let starter = Starter::new(options, base.path()).map_err(cannot)?;
    let program = options.command.first().map(|program| program.to_string_lossy().into_owned()).unwrap_or_default();

    progress(&format!("{program}: running without evictions"));
    let began = Instant::now();
    let peace = starter.peacefully("peace").map_err(cannot)?;
    let alone = began.elapsed();
    if let Ending::Ours(failure) = &peace.ending {
        progress_end();
        return Err(Failure::start(format!("cannot rehearse {program}"), failure.trim()));
    }

    let every = options.evict_every.unwrap_or(alone / (options.evictions + 1)).max(starter::SHORTEST_LIFE);
    let mut evictions = Vec::new();
    let last = starter.with_evictions(every, &mut evictions).map_err(cannot)?;
    progress_end();

    crate::say!("{}", table::evictions(&evictions));
    let difference = match (&peace.ending, &last.ending) {
        (Ending::Payload(a), Ending::Payload(b)) => {
            let mut found: Vec<String> = compare::status(*a, *b).into_iter().collect();
            found.extend(compare::directories(&peace.scratch, &last.scratch).map_err(cannot)?);
            found
        }
        (_, Ending::Ours(words)) => vec![words.trim().to_owned()],
        (Ending::Ours(words), _) => vec![words.clone()],
    };
    if let Some(path) = &options.report {
        let happened = evictions.iter().filter(|eviction| eviction.takes_away()).count();
        let about = timeline::about(&program, options, &difference, happened);
        report::write(path, &report::page::page(&about, &timeline::jobs(&peace, &last, &evictions)))?;
    }
    Ok(verdict(&program, &starter, &peace, &last, &evictions, difference, alone))
}

/// The last lines, in plain words.
fn verdict(
    program: &str,
    starter: &Starter<'_>,
    peace: &Life,
    last: &Life,
    evictions: &[Eviction],
    difference: Vec<String>,
    alone: Duration,
) -> Exit {
    let happened = evictions.iter().filter(|eviction| eviction.takes_away()).count();
    if difference.is_empty() {
        if let Ending::Payload(ended) = last.ending {
            crate::say!("uninterrupted: {:.1} s, {ended}", alone.as_secs_f64());
        }
        let files = compare::count(&last.scratch);
        crate::say!("equal: exit status, stdout, stderr and {files} files");
        if happened == 0 {
            crate::say!("{program} ended before it could be evicted: nothing is known. Use a smaller --evict-every.");
            return Exit::Negative;
        }
        crate::say!("{program} can be checkpointed: after {happened} evictions everything is as without one.");
        if let Some(megabytes) = request_disk(evictions) {
            crate::say!(
                "ask for request_disk = {megabytes}M: its files, two checkpoints of them and its memory, and CRIU"
            );
        }
        return Exit::Success;
    }
    for line in &difference {
        crate::say!("different: {line}");
    }
    // A program that gives other output each time proves nothing about checkpoints.
    if let (Ending::Payload(_), Ending::Payload(_)) = (&peace.ending, &last.ending) {
        let again = starter
            .peacefully("again")
            .ok()
            .and_then(|again| compare::directories(&peace.scratch, &again.scratch).ok());
        if again.is_some_and(|found| !found.is_empty()) {
            crate::say!(
                "{program} gives other output each time that it runs, even without evictions: rehearse it with a fixed seed."
            );
            return Exit::Negative;
        }
    }
    crate::say!(
        "{program} cannot be checkpointed as it is: see above, and condor-criu.log in {}.",
        last.scratch.display()
    );
    Exit::Negative
}

/// What a job needs in its scratch directory at most, in MiB: a fifth more than was seen, since files and memory are
/// not the same each time.
fn request_disk(evictions: &[Eviction]) -> Option<u64> {
    let most = evictions.iter().filter_map(|eviction| eviction.disk).max()?;
    Some(most.saturating_add(most / 5).div_ceil(1 << 20))
}

/// A line that is written over, on a terminal only.
fn progress(text: &str) {
    if std::io::stderr().is_terminal() {
        crate::say_err_part!("\r\x1b[K{text} …");
    } else {
        crate::say_err!("{text}");
    }
}

fn progress_end() {
    if std::io::stderr().is_terminal() {
        crate::say_err_part!("\r\x1b[K");
    }
}

/// Whether a status is one of ours that means a checkpoint.
fn is_checkpoint(ended: Ended) -> bool {
    ended == Ended::Exited(crate::exit::DEFAULT_CHECKPOINT_CODE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fifth_more_is_asked_for_than_was_seen() {
        let eviction = |disk| Eviction { disk, ..Eviction::new(life::EvictionKind::Vacate) };
        assert_eq!(request_disk(&[]), None);
        assert_eq!(request_disk(&[eviction(None), eviction(Some(100 << 20)), eviction(Some(7))]), Some(120));
    }
}
