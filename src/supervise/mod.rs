//! `condor-criu run`: start or restore, supervise, checkpoint.
//!
//! The way: [`prepare`] finds, checks and plans everything that must be known before the first event, and the sandbox
//! is made. Then events become inputs of a pure [`machine`], and its actions are done by the [`shell`] around it, until
//! there is an exit status. What takes long is in [`work`], in threads; [`timing`] says when.

mod machine;
mod prepare;
mod shell;
mod timing;
mod work;

use std::time::Duration;

use signal_hook::iterator::Signals;

use prepare::Prepared;
use prepare::placeholders;

pub use prepare::RunOptions;
pub use shell::early::FIRST as EARLY_WORD;

use crate::checkpoint::ended::EndRecord;
use crate::exit::{Ended, Exit, Failure};
use crate::htcondor::Job;
use crate::htcondor::chirp::{Attribute, Chirp};
use crate::journal;
use shell::{Ending, Supervisor};

/// The whole life of one `condor-criu run`.
pub fn run(options: &RunOptions) -> Result<Exit, Failure> {
    // First of all: a signal that comes while we start is kept and answered, not fatal.
    let signals = Signals::new(caught()).map_err(|error| Failure::start("cannot catch signals", error))?;
    // Kept: HTCondor's promises are answered at the very end, too.
    let job = Job::from_environment(options.scratch.as_deref())
        .map_err(|error| Failure::start("cannot use the scratch directory", error))?;
    let Ending { result, vacated } = match prepare::prepare(options, job.clone()) {
        Ok(Prepared::Launch(launch)) => match Supervisor::start(*launch, signals) {
            Ok(supervisor) => supervisor.run(),
            Err(failure) => Ending { result: Err(failure), vacated: false },
        },
        Ok(Prepared::Ended(record)) => Ending { result: Ok(Exit::Payload(record.ended)), vacated: false },
        Err(failure) => Ending { result: Err(failure), vacated: false },
    };
    let exit = result.as_ref().map_or_else(|failure| failure.exit, |exit| *exit);
    // HTCondor will run us again: what it looks for now must not hold the job.
    if matches!(exit, Exit::Checkpointed(_) | Exit::CannotRestoreHere) {
        placeholders::make(&job);
    }
    if result.is_err() {
        placeholders::make_ours(&job);
    }
    match &result {
        Ok(exit) => tracing::info!(?exit, "ending"),
        Err(failure) => {
            tracing::error!("{failure}");
            tell_the_pool(&job, failure);
        }
    }
    // In a vacate the signal may have been passed on, and the end is not the payload's own.
    match &result {
        _ if vacated => {}
        Ok(Exit::Payload(ended)) => tell_the_end(&job, Some(*ended)),
        Ok(Exit::AmbiguousCode | Exit::OutputLost) => tell_the_end(&job, None),
        _ => {}
    }
    result
}

/// How long criu may take for this many bytes.
fn patience(bytes: u64) -> Duration {
    /// Bytes a second that even a slow disk and a busy processor manage; it only decides when criu is given up.
    const SLOW: u64 = 20_000_000;
    /// Given to criu whatever the size.
    const WHATEVER: Duration = Duration::from_secs(120);
    WHATEVER + Duration::from_secs(bytes / SLOW)
}

/// `condor_q -af ChirpCriuWarning` answers why a job does not start or comes back.
fn tell_the_pool(job: &Job, failure: &Failure) {
    let mut chirp = Chirp::start(job.chirp_config(), false);
    chirp.tell(Attribute::Warning(failure.to_string()));
    let machine = job.machine.as_ref().and_then(|ad| ad.string("Machine"));
    if let (Exit::CannotRestoreHere, Some(machine)) = (failure.exit, machine) {
        chirp.tell(Attribute::RefusedBy(machine));
    }
    chirp.finish();
}

/// Under HTCondor: should a policy run the job again, the next start finds in the job ad that this attempt has ended.
/// And with the payload's own status the last line of the log: should this turn out to be a vacate, the next start
/// reads it.
fn tell_the_end(job: &Job, ended: Option<Ended>) {
    let Some(id) = job.unique_id() else { return };
    let mut chirp = Chirp::start(job.chirp_config(), false);
    chirp.tell(Attribute::EndedAttempt(job.attempt()));
    chirp.finish();
    let Some(ended) = ended else { return };
    let record = EndRecord { condor_criu_job: id, ended, attempt: job.attempt() };
    if let Err(error) = record.append(&job.scratch.join(journal::NAME), journal::format()) {
        tracing::warn!("cannot tell the payload's end: {error}");
    }
}

/// Every signal that can be caught and has a meaning for a payload. Which of them mean a vacate or a checkpoint is a
/// setting; the others are passed on.
fn caught() -> Vec<i32> {
    use libc::{SIGALRM, SIGCONT, SIGHUP, SIGINT, SIGIO, SIGPROF, SIGPWR, SIGQUIT, SIGTERM, SIGTSTP, SIGTTIN, SIGTTOU};
    use libc::{SIGURG, SIGUSR1, SIGUSR2, SIGVTALRM, SIGWINCH, SIGXCPU, SIGXFSZ};
    let named = [
        SIGALRM, SIGCONT, SIGHUP, SIGINT, SIGIO, SIGPROF, SIGPWR, SIGQUIT, SIGTERM, SIGTSTP, SIGTTIN, SIGTTOU, SIGURG,
        SIGUSR1, SIGUSR2, SIGVTALRM, SIGWINCH, SIGXCPU, SIGXFSZ,
    ];
    named.into_iter().chain(libc::SIGRTMIN()..=libc::SIGRTMAX()).collect()
}
