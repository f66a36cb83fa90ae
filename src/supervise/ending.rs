//! The payload's end, and what is left of a job then.

use std::path::Path;

use super::launch::Launch;
use super::supervisor::{State, Step, Supervisor};
use super::{streams, within};
use crate::checkpoint::tree;
use crate::exit::{Ended, Exit, Failure};
use crate::host::cpu;
use crate::htcondor::advice::{ON_EXIT_REMOVE, takes_for_ours};
use crate::sandbox::STATE_DIR;

impl Supervisor {
    pub(super) fn payload_ended(&mut self, ended: Ended) -> Step {
        if let (State::Packing { .. }, None) = (self.state, self.ended) {
            // It was killed while it was stopped (out of memory, say). What is being packed is whole.
            tracing::warn!("the stopped payload ended by {ended}");
            return None;
        }
        tracing::info!("the payload ended by {ended}");
        if let Some(failure) = self.wrong_processor(ended) {
            return Some(Err(failure));
        }
        if let Ended::Exited(code) = ended
            && takes_for_ours(&self.launch.job, code)
        {
            self.warn(format!(
                "the program's own exit code {code} means to on_exit_remove that the job cannot go on here, so that it runs again: write \
                 on_exit_remove = {ON_EXIT_REMOVE}"
            ));
        }
        match (ended, self.launch.job.checkpoint_code()) {
            (Ended::Exited(code), Some(reserved)) if code == reserved => {
                tracing::error!(
                    "the payload's own exit code {code} is the job's checkpoint_exit_code, and HTCondor would take its end \
                     for a checkpoint: exit 1 instead; choose another checkpoint_exit_code"
                );
                Some(Ok(Exit::AmbiguousCode))
            }
            // In a vacate HTCondor takes every exit for a requeue: that the payload has ended by itself must be kept, too.
            _ if self.promised || (self.vacate.is_some() && !self.passed_on) => match self.save_the_end(ended) {
                Ok(()) => None,
                Err(why) => {
                    tracing::error!("cannot keep the promise of a checkpoint: {why}");
                    Some(Ok(Exit::Payload(ended)))
                }
            },
            _ => Some(Ok(Exit::Payload(ended))),
        }
    }

    /// A restored payload that dies of SIGILL where the processor lacks what the first one had has not failed: it chose its code
    /// there, past its baseline. The checkpoint is intact, and another host can go on with it.
    fn wrong_processor(&self, ended: Ended) -> Option<Failure> {
        if ended != Ended::Signaled(libc::SIGILL) || self.generation == 0 {
            return None;
        }
        let why = cpu::refusal(&self.launch.cpu.offered, &self.launch.here)?;
        Some(self.cannot_restore(
            &format!("the payload died of an illegal instruction: {why}"),
            Some("restrict Requirements to machines with the same Microarch".to_owned()),
        ))
    }

    /// CRIU has ended by the time of packing: nothing of what is packed is in the sandbox's memory alone, and the rest is tried.
    pub(super) fn sandbox_gone(&mut self) -> Step {
        if !matches!(self.state, State::Packing { .. }) {
            return Some(self.sandbox_was_killed());
        }
        tracing::warn!("the sandbox was killed from outside while its checkpoint is packed");
        self.gone = true;
        None
    }

    /// That is not the payload's own end: what has been saved is there to go on from.
    pub(super) fn sandbox_was_killed(&self) -> Result<Exit, Failure> {
        let why = "the sandbox was killed from outside (too little memory, perhaps)";
        match (self.generation, self.state) {
            (0, _) => {
                tracing::error!("{why}");
                Ok(Exit::Payload(Ended::Signaled(libc::SIGKILL)))
            }
            (_, State::Unpacking | State::Restoring) => Err(self.failed_restore(why, None)),
            _ => Err(Failure::start("cannot go on", why)
                .with_remedy("the checkpoint is intact; let the job run on another host")
                .with_exit(Exit::CannotRestoreHere)),
        }
    }

    /// criu was killed while it worked inside the payload, which may have another instruction or other registers now than it thinks. Neither
    /// what it would compute nor how it would end is its own.
    pub(super) fn payload_harmed(&self, ended: Ended) -> Failure {
        let why = format!("criu ended by {ended} while it worked inside the payload, which may be damaged");
        let remedy = match self.generation {
            0 => "there is no checkpoint yet; let the job begin again",
            _ => "the checkpoint is intact; let the job go on from it",
        };
        Failure::start("cannot go on", why).with_remedy(remedy).with_exit(Exit::CannotRestoreHere)
    }

    pub(super) fn cannot_execute(&self, errno: i32, step: &str) -> Failure {
        let errno = nix::errno::Errno::from_raw(errno);
        let what = format!("cannot run {}", self.launch.program);
        if step != "execute the program" {
            return Failure::start(what, format!("cannot {step}: {errno}"));
        }
        match errno {
            nix::errno::Errno::ENOENT | nix::errno::Errno::ENOTDIR => {
                Failure::start(what, "there is no such program, or its interpreter is missing")
                    .with_remedy("transfer it, or name one that the execution point has in PATH")
                    .with_exit(Exit::NotFound)
            }
            errno => Failure::start(what, errno.desc())
                .with_remedy("it must be executable and made for this kind of machine")
                .with_exit(Exit::CannotExecute),
        }
    }
}

/// After the payload's own end: the checkpoint is not shipped to the user, but an empty file stays where HTCondor looks.
pub(super) fn clean_up(launch: &Launch) {
    for path in launch.place.files() {
        if let Err(error) = within::empty(&launch.job.scratch, Path::new(path.file_name().unwrap_or_default())) {
            tracing::warn!("cannot empty {}: {error}", path.display());
        }
    }
    if let Err(error) = tree::remove_all(&launch.job.scratch.join(STATE_DIR)) {
        tracing::warn!("cannot remove {STATE_DIR}: {error}");
    }
    streams::mark_changed(&launch.streams, &launch.job.scratch);
}
