//! The machine's part in the end: the payload's own, or ours.

use super::{Action, DRAIN, End, GRACE, Input, Leave, Machine, Moment, STALLED, State};
use crate::exit::Ended;

impl Machine {
    /// The root of the payload's tree has ended, with the payload's status.
    pub(super) fn payload_ended(&mut self, now: Moment, ended: Ended) -> Vec<Action> {
        if let (Ended::Exited(code), Some(reserved)) = (ended, self.rules.code)
            && code == reserved
        {
            return self.end(now, End::Ambiguous);
        }
        self.end(now, End::Payload(ended))
    }

    pub(super) fn saving_end(&mut self, now: Moment, input: Input) -> Vec<Action> {
        let State::SavingEnd { ended, .. } = self.state else { return Vec::new() };
        match input {
            Input::Packed(true) => {
                self.saved = true;
                self.over(End::Checkpointed)
            }
            Input::Packed(false) => {
                let mut actions = vec![Action::SayEndNotSaved];
                actions.extend(self.over(End::Payload(ended)));
                actions
            }
            Input::Tick if self.late(now) => {
                let mut actions = vec![Action::CancelPacking, Action::SayEndNotSaved];
                actions.extend(self.over(End::Payload(ended)));
                actions
            }
            _ => Vec::new(),
        }
    }

    /// It is known how this ends. What the payload has written is carried first, unless it belongs to a checkpoint.
    pub(super) fn end(&mut self, now: Moment, end: End) -> Vec<Action> {
        let wait = match end {
            End::Payload(_) | End::Ambiguous if self.leaving() => GRACE,
            End::Payload(_) | End::Ambiguous => STALLED,
            // What is in the pipes is in the checkpoint.
            End::Checkpointed => return self.over(end),
            _ => DRAIN,
        };
        #[cfg(test)]
        if self.mutant == Some(super::simulation::Mutant::NoDrain) {
            self.state = State::Draining { end, deadline: Moment::MAX };
            return Vec::new();
        }
        self.state = State::Draining { end, deadline: now + wait };
        vec![Action::Drain]
    }

    pub(super) fn draining(&mut self, now: Moment, input: Input) -> Vec<Action> {
        let late = self.late(now);
        let State::Draining { end, deadline } = &mut self.state else { return Vec::new() };
        match input {
            Input::StreamsMoved if matches!(end, End::Payload(_) | End::Ambiguous) && !late => {
                *deadline = now + if self.leave == Leave::No { STALLED } else { GRACE };
                Vec::new()
            }
            // Someone wants the slot now, or types Ctrl-C: the reader has had its time.
            Input::Vacate(signal) => {
                *deadline = (*deadline).min(now + GRACE);
                if self.leave == Leave::No {
                    self.leave = Leave::Asked(signal);
                }
                Vec::new()
            }
            Input::Checkpoint { promised } => {
                self.promised |= promised;
                Vec::new()
            }
            Input::StreamsDone => self.drained(now),
            Input::Tick if late => self.drained(now),
            _ => Vec::new(),
        }
    }

    /// Nothing more is carried. In a vacate HTCondor takes every exit for a requeue: that the payload has ended by
    /// itself must be kept, too.
    fn drained(&mut self, now: Moment) -> Vec<Action> {
        let State::Draining { end, .. } = &self.state else { return Vec::new() };
        match end {
            &End::Payload(ended) if self.promised || matches!(self.leave, Leave::Asked(_)) => {
                self.state = State::SavingEnd { ended, deadline: now + super::UNPACK_GRACE };
                vec![Action::SaveEnd(ended)]
            }
            _ => {
                let end = end.clone();
                self.over(end)
            }
        }
    }

    fn over(&mut self, end: End) -> Vec<Action> {
        self.state = State::Over;
        vec![Action::End(end)]
    }
}
