//! From the machine's end to an exit status, and what is left of a job then.

use std::path::Path;

use super::supervisor::{Ending, Supervisor};
use crate::checkpoint::tree;
use crate::exit::{DEFAULT_CHECKPOINT_CODE, Ended, Exit, Failure};
use crate::host::cpu;
use crate::htcondor::advice::{ON_EXIT_REMOVE, takes_for_ours};
use crate::sandbox::{STATE_DIR, SetupStep};
use crate::supervise::machine::{End, Input};
use crate::supervise::prepare::launch::Launch;
use crate::supervise::prepare::placeholders;
use crate::supervise::work::open_beneath;
use crate::supervise::work::stdio;

impl Supervisor {
    /// The payload's own end, with what has to be said about it.
    pub(super) fn payload_ended(&mut self, ended: Ended) -> Input {
        tracing::info!("the payload ended by {ended}");
        if let Some(failure) = self.wrong_processor(ended) {
            return Input::WrongProcessor(failure);
        }
        if let Ended::Exited(code) = ended
            && takes_for_ours(&self.launch.job, code)
        {
            self.warn(format!(
                "the program's own exit code {code} means to on_exit_remove that the job cannot go on here, so that it runs again: write \
                 on_exit_remove = {ON_EXIT_REMOVE}"
            ));
        }
        Input::PayloadEnded(ended)
    }

    /// A restored payload that dies of SIGILL where the processor lacks what the first one had has not failed: it chose
    /// its code there, past its baseline. The checkpoint is intact, and another host can go on with it.
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

    /// Ends everything of the job that is left, and says how it ends.
    pub(super) fn finish(mut self, end: End) -> Ending {
        let result = self.exit_of(end);
        // Nothing of the job outlives us.
        self.sandbox.kill();
        let vacated = self.machine.leaving();
        if let Ok(Exit::Payload(_) | Exit::AmbiguousCode | Exit::OutputLost) = result {
            // A dump that failed, say, and then the signal has ended the payload. HTCondor takes every end in a vacate
            // for a requeue, and the next host needs what was saved before.
            if vacated { placeholders::make(&self.launch.job) } else { clean_up(&self.launch) }
        }
        self.chirp.finish();
        Ending { result, vacated }
    }

    fn exit_of(&self, end: End) -> Result<Exit, Failure> {
        match end {
            End::Payload(Ended::Exited(0)) if self.lost.is_some() => {
                tracing::error!("the program ended with 0, but its output is not complete: exit 1 instead");
                Ok(Exit::OutputLost)
            }
            End::Payload(ended) => Ok(Exit::Payload(ended)),
            End::Ambiguous => {
                let code = self.launch.job.checkpoint_code().unwrap_or(DEFAULT_CHECKPOINT_CODE);
                tracing::error!(
                    "the payload's own exit code {code} is the job's checkpoint_exit_code, and HTCondor would take its end for a \
                     checkpoint: exit 1 instead; choose another checkpoint_exit_code"
                );
                Ok(Exit::AmbiguousCode)
            }
            End::Checkpointed => {
                Ok(Exit::Checkpointed(self.launch.job.checkpoint_code().unwrap_or(DEFAULT_CHECKPOINT_CODE)))
            }
            End::NeverRan(signal) => {
                tracing::warn!("the payload had not begun when we were asked to leave: nothing is lost");
                Ok(Exit::Payload(Ended::Signaled(signal)))
            }
            End::Failed(failure) => Err(failure),
            End::Harmed(ended) => Err(self.payload_harmed(ended)),
            End::RestoreTooSlow => Err(self.failed_restore("criu did not end in time", None)),
            End::Stuck { saved } => Err(self.cannot_go_on("the sandbox does not answer", saved)),
            End::SandboxGone { saved, restoring } => self.sandbox_was_killed(saved, restoring),
            End::StarterGone => Err(Failure::start(
                "cannot go on",
                "the starter is gone, and nothing that is saved here would be carried: the job is started elsewhere",
            )),
        }
    }

    /// That is not the payload's own end: what has been saved is there to go on from.
    fn sandbox_was_killed(&self, saved: bool, restoring: bool) -> Result<Exit, Failure> {
        let why = "the sandbox was killed from outside (too little memory, perhaps)";
        match (saved, restoring) {
            (false, _) => {
                tracing::error!("{why}");
                Ok(Exit::Payload(Ended::Signaled(libc::SIGKILL)))
            }
            (true, true) => Err(self.failed_restore(why, None)),
            (true, false) => Err(self.cannot_go_on(why, true)),
        }
    }

    /// criu was killed while it worked inside the payload, which may have another instruction or other registers now
    /// than it thinks. Neither what it would compute nor how it would end is its own.
    fn payload_harmed(&self, ended: Ended) -> Failure {
        let why = format!("criu ended by {ended} while it worked inside the payload, which may be damaged");
        self.cannot_go_on(&why, self.generation > 0)
    }

    fn cannot_go_on(&self, why: &str, saved: bool) -> Failure {
        let remedy = match saved {
            false => "there is no checkpoint yet; let the job begin again",
            true => "the checkpoint is intact; let the job go on from it on another host",
        };
        Failure::start("cannot go on", why).with_remedy(remedy).with_exit(Exit::CannotRestoreHere)
    }

    pub(super) fn cannot_execute(&self, errno: i32, step: &SetupStep) -> Failure {
        let errno = nix::errno::Errno::from_raw(errno);
        let what = format!("cannot run {}", self.launch.program);
        if *step != SetupStep::ExecuteProgram {
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

/// After the payload's own end: the checkpoint is not shipped to the user, but an empty file stays where HTCondor
/// looks.
fn clean_up(launch: &Launch) {
    for path in launch.place.files() {
        if let Err(error) = open_beneath::empty(&launch.job.scratch, Path::new(path.file_name().unwrap_or_default())) {
            tracing::warn!("cannot empty {}: {error}", path.display());
        }
    }
    if let Err(error) = tree::remove_all(&launch.job.scratch.join(STATE_DIR)) {
        tracing::warn!("cannot remove {STATE_DIR}: {error}");
    }
    stdio::mark_changed(&launch.streams, &launch.job.scratch);
}
