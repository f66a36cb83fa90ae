//! What must hold in every world: for an action at its moment, after every step, and at the end.

use std::time::Duration;

use super::super::*;
use super::world::{Criu, Payload, World, vacate_bound};
use crate::exit::Ended;

impl World {
    /// Rules for an action at its moment.
    pub fn guard(&self, action: &Action) -> Result<(), String> {
        let broken = |rule: &str| Err(self.broken(rule));
        match action {
            Action::Pack(_) if self.criu != Criu::Holds && !self.sandbox_gone => {
                broken("only what criu holds is packed")
            }
            Action::Dump(_) if self.criu != Criu::None => broken("one criu at a time"),
            Action::GoOn if self.criu != Criu::None => broken("what goes on is held by nobody"),
            Action::End(end) => self.end(end),
            _ => Ok(()),
        }
    }

    /// Rules that hold after every step.
    pub fn check(&self) -> Result<(), String> {
        if let (Some(vacated), None, None) = (self.vacated, self.answered, &self.end)
            && Duration::from_millis(self.now - vacated) > vacate_bound()
        {
            return Err(self.broken("every vacate is answered in time"));
        }
        if matches!(self.machine.state(), State::Running { .. }) && matches!(self.payload, Payload::Held { .. }) {
            return Err(self.broken("who runs is held by nobody"));
        }
        if self.machine.saved && self.committed.is_empty() && !self.restored {
            return Err(self.broken("a checkpoint that is spoken of exists"));
        }
        Ok(())
    }

    /// Rules for the end.
    pub fn end(&self, end: &End) -> Result<(), String> {
        let broken = |rule: &str| Err(self.broken(rule));
        let ended = match self.payload {
            Payload::Ended(ended) => Some(ended),
            _ => None,
        };
        match end {
            // One that a checkpoint brought is told as it was.
            End::Payload(told) if self.payload != Payload::NotYet || !self.restored => {
                if ended != Some(*told) {
                    return broken("the payload's status is never invented");
                }
                if self.promised && !self.end_not_saved {
                    return broken("the exit keeps HTCondor's promise");
                }
            }
            End::Ambiguous if ended != self.rules.code.map(Ended::Exited) => {
                return broken("the payload's status is never invented");
            }
            End::Checkpointed => {
                if self.committed.is_empty() && !self.restored {
                    return broken("a committed checkpoint is never replaced by nothing");
                }
                if self.vacated.is_none() && self.rules.code.is_none() {
                    return broken("the exit keeps HTCondor's promise");
                }
                // Its own end happens only while it runs, and no checkpoint of before stands for that.
                if let Some(own @ Ended::Exited(_)) = ended
                    && self.committed.last() != Some(&Some(own))
                {
                    return broken("the payload's status is never lost");
                }
            }
            End::Stuck { saved } | End::SandboxGone { saved, .. }
                if *saved != (self.restored || !self.committed.is_empty()) =>
            {
                return broken("a checkpoint that is spoken of exists");
            }
            _ => {}
        }
        Ok(())
    }
}
