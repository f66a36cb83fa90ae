//! What a signal means: leave, save and go on, or something for the payload.

use nix::sys::signal::Signal;

use super::supervisor::Supervisor;
use crate::supervise::machine::Input;

impl Supervisor {
    pub(super) fn signalled(&self, number: i32) -> Input {
        let known = Signal::try_from(number).ok();
        let is = |signals: &[Signal]| known.filter(|signal| signals.contains(signal));
        let settings = &self.launch.settings;
        if let Some(signal) = is(&settings.vacate_signals) {
            tracing::info!(%signal, state = ?self.machine.state(), "asked to leave");
            return Input::Vacate(number);
        }
        if let Some(signal) = is(&settings.checkpoint_signals) {
            let job = &self.launch.job;
            let promised = job.checkpoint_signal() == Some(signal) && job.checkpoint_code().is_some();
            return Input::Checkpoint { promised };
        }
        Input::Signal(number)
    }
}
