//! What a signal means: leave, save and go on, or something for the payload.

use nix::sys::signal::Signal;

use super::supervisor::{State, Step, Supervisor};
use crate::checkpoint::Reason;
use crate::sandbox::Request;

impl Supervisor {
    pub(super) fn signalled(&mut self, number: i32) -> Step {
        let known = Signal::try_from(number).ok();
        let is = |signals: &[Signal]| known.filter(|signal| signals.contains(signal));
        if let Some(signal) = is(&self.launch.settings.vacate_signals) {
            return self.vacated(signal);
        }
        if let Some(signal) = is(&self.launch.settings.checkpoint_signals) {
            self.promised |=
                self.launch.job.checkpoint_signal() == Some(signal) && self.launch.job.checkpoint_code().is_some();
            return match self.state {
                State::Running => self.begin_checkpoint(Reason::Signal),
                State::Starting | State::Unpacking | State::Restoring => {
                    self.wanted = true;
                    None
                }
                State::Dumping { .. } | State::Packing { .. } => None,
            };
        }
        self.tell_init(&Request::Signal(number));
        None
    }

    fn vacated(&mut self, signal: Signal) -> Step {
        if self.vacate.replace(signal).is_some() {
            return None;
        }
        tracing::info!(%signal, state = ?self.state, "asked to leave");
        match self.state {
            // It may have begun already, and is saved as soon as it can be; or HTCondor would carry half of the outputs, and
            // all of them will be in place.
            State::Starting | State::Unpacking => None,
            // What is committed is all that there is.
            State::Restoring => Some(Ok(self.checkpointed())),
            State::Running => {
                self.history.vacates += 1;
                self.begin_checkpoint(Reason::Vacate)
            }
            // One is being taken; what it ends with decides.
            State::Dumping { .. } | State::Packing { .. } => None,
        }
    }
}
