//! The first step: what there is. The settings, the checkpoint's place, the lock, the log, and what an earlier life has
//! left.

use std::io;

use super::lock::{self, Lock};
use super::{RunOptions, placeholders};
use crate::checkpoint::ended::EndRecord;
use crate::checkpoint::{self, Place, commit, tree};
use crate::exit::Failure;
use crate::htcondor::Job;
use crate::journal::{self, Record};
use crate::settings::Settings;

/// What there is in the scratch directory.
pub(super) struct Found {
    pub(super) job: Job,
    pub(super) settings: Settings,
    /// Where checkpoints are kept.
    pub(super) place: Place,
    /// Held while we live.
    pub(super) lock: Option<Lock>,
    /// HTCondor has brought something that is to be restored.
    brought: bool,
    /// How an earlier life of this job ended, if it was told.
    told: Option<EndRecord>,
}

impl Found {
    /// Looks; makes only the placeholders and the log.
    pub(super) fn look(options: &RunOptions, job: Job) -> Result<Found, Failure> {
        let settings = Settings::resolve(options.flags.clone(), options.config.as_deref(), &job)?;
        let place = Place::new(
            job.scratch.join(checkpoint::file_name(settings.compression)),
            (settings.keep > 1).then(|| job.scratch.join(checkpoint::previous_name(settings.compression))),
        );
        // In a restart in place the payload may have closed it.
        if let Err(error) = tree::open_for_good(&job.scratch) {
            tracing::debug!("{}: {error}", job.scratch.display());
        }
        // A link there is a payload's doing, and no checkpoint.
        let brought =
            place.files().filter_map(|path| path.symlink_metadata().ok()).any(|file| file.is_file() && file.len() > 0);
        let mut found = Found { job, settings, place, lock: None, brought, told: None };
        // Before anything else can fail: a listed file that is missing would put the job on hold.
        for path in found.place.files() {
            commit::placeholder(path).map_err(|error| found.unwritable(error))?;
        }
        found.lock = lock::lock(&found.job.scratch)?;
        // The last line of an earlier life, before we add to it.
        let told = EndRecord::read(&found.job.scratch.join(journal::NAME));
        journal::open(&found.job.scratch, found.settings.log_level, found.settings.log_format)
            .map_err(|error| found.unwritable(error))?;
        say_where(&found.job, &found.settings);
        placeholders::remove(&found.job);
        found.told = told.filter(|record| found.job.unique_id().as_ref() == Some(&record.condor_criu_job));
        Ok(found)
    }

    /// The end that is only to be told again: HTCondor had taken it for an eviction.
    pub(super) fn ended(&mut self) -> Option<EndRecord> {
        if self.told_before() { None } else { self.told.take() }
    }

    /// An earlier attempt of this job has ended by itself, and a policy runs it again.
    pub(super) fn told_before(&self) -> bool {
        self.told.as_ref().is_some_and(|record| self.job.is_retry_of(record.attempt))
    }

    /// The scratch directory cannot be written.
    pub(super) fn unwritable(&self, error: io::Error) -> Failure {
        let what = format!("cannot write to the scratch directory {}", self.job.scratch.display());
        let failure = Failure::start(what, error)
            .with_remedy("checkpoints are written there; name another directory with --scratch");
        // A full disk of this host must not end a job that another host can go on with.
        failure.of_this_host_if(self.brought)
    }
}

/// Says in the log, and on a terminal also there, what is missing outside HTCondor.
fn say_where(job: &Job, settings: &Settings) {
    let started = Record::Started {
        version: env!("CARGO_PKG_VERSION").into(),
        scratch: job.scratch.display().to_string(),
        job: job.id().unwrap_or_default(),
    };
    started.tell();
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
    if !job.under_htcondor() && std::io::IsTerminal::is_terminal(&std::io::stderr()) {
        crate::say_err!("condor-criu: {note}");
    }
}
