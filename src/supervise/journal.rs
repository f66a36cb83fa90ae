//! `condor-criu.log`, in the scratch directory: what we did and why. stdout and stderr belong to the payload alone.

use std::fs::OpenOptions;
use std::io::{self, IsTerminal};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Mutex;

use crate::htcondor::Job;
use crate::settings::Settings;

/// The log's name.
pub const NAME: &str = "condor-criu.log";

/// Appends to the log from now on. Lines are `TIME LEVEL message key=value …`, UTC.
pub fn open(scratch: &Path, level: tracing::Level) -> io::Result<()> {
    let file = OpenOptions::new().append(true).create(true).mode(0o600).open(scratch.join(NAME))?;
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_ansi(false)
        .with_target(false)
        .with_writer(Mutex::new(file))
        .finish();
    // A second call in one process (unit tests) keeps the first log.
    let _ = tracing::subscriber::set_global_default(subscriber);
    Ok(())
}

/// Says in the log, and on a terminal also there, what is missing outside HTCondor.
pub fn say_where(job: &Job, settings: &Settings) {
    tracing::info!(version = env!("CARGO_PKG_VERSION"), scratch = %job.scratch.display(), job = job.id().unwrap_or_default(), "starting");
    tracing::debug!("{settings:?}");
    let note = match (job.under_htcondor(), job.checkpoint_code()) {
        (false, _) => {
            "no job ad: this is not under HTCondor; no periodic checkpoints, one when a vacate signal (SIGTERM) comes"
        }
        (true, None) => {
            "the job ad has no checkpoint_exit_code: no periodic checkpoints, one when a vacate signal comes; add \
             checkpoint_exit_code = 85 to the submit file"
        }
        _ => return,
    };
    tracing::warn!("{note}");
    if !job.under_htcondor() && io::stderr().is_terminal() {
        eprintln!("condor-criu: {note}");
    }
}
