//! From flags, ads and files to a sandbox that stands: everything that must be known before the first event.
//!
//! The way: [`found`] (settings, the checkpoint's place, what an earlier life has left) → [`ground`] (which generation
//! it goes on from) → [`checked`] (what it needs, and whether this host has it) → [`planned`] (the sandbox) →
//! [`launch`].

mod checked;
mod environment;
mod found;
mod fresh_start;
mod generation;
mod ground;
mod host_check;
pub mod host_files;
pub mod launch;
mod lock;
mod ownership;
pub mod placeholders;
mod planned;
mod program;

use std::ffi::OsString;
use std::path::PathBuf;

use crate::checkpoint::ended::EndRecord;
use crate::exit::Failure;
use crate::host;
use crate::htcondor::Job;
use crate::settings::{Layer, Settings};
use checked::Checked;
use found::Found;
use ground::Ground;
use launch::Launch;

/// What `condor-criu run` was told on its command line.
#[derive(Debug, Clone, Default)]
pub struct RunOptions {
    /// Settings among the flags.
    pub flags: Layer,
    /// `--config`
    pub config: Option<PathBuf>,
    /// `--scratch`
    pub scratch: Option<PathBuf>,
    /// The payload and its arguments.
    pub command: Vec<OsString>,
}

/// What there is to do.
pub enum Prepared {
    /// Start or restore.
    Launch(Box<Launch>),
    /// Only the status is left to be told.
    Ended(EndRecord),
}

/// Reads, checks and decides; makes nothing but our directory and the placeholders.
pub fn prepare(options: &RunOptions, job: Job) -> Result<Prepared, Failure> {
    let (Some(program), arguments) = (options.command.first(), options.command.get(1..).unwrap_or_default()) else {
        return Err(Failure::start("cannot run", "no program is named")
            .with_remedy("condor-criu run [OPTIONS] -- PROGRAM [ARG…]"));
    };
    let mut found = Found::look(options, job)?;
    if let Some(record) = found.ended() {
        tracing::info!("the payload had ended by {} when the job was taken away", record.ended);
        return Ok(Prepared::Ended(record));
    }
    let ground = Ground::choose(&mut found)?;
    let checked = Checked::check(&found, &ground)?;
    Ok(Prepared::Launch(Box::new(planned::plan(program, arguments, found, ground, checked)?)))
}

/// Threads for the archive: as many as the slot has cpus, since the host's count is not ours to use.
pub fn threads(settings: &Settings, job: &Job) -> usize {
    if settings.threads > 0 {
        return settings.threads;
    }
    let allowed = host::allowed_cpus();
    let ads = [(&job.machine, "Cpus"), (&job.ad, "RequestCpus")];
    let promised = ads.iter().find_map(|(ad, name)| ad.as_ref()?.integer(name));
    promised.and_then(|cpus| usize::try_from(cpus).ok()).unwrap_or(allowed).clamp(1, allowed)
}
