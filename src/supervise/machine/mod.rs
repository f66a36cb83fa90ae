//! What the supervisor decides, and nothing else: a pure machine. It has no clock, no file and no process in it.
//!
//! ```text
//! Starting ─────────────┐                   ┌──────────── a save that came to nothing ────────────┐
//! Unpacking → Restoring ┴▶ Running ─▶ Quieting ─▶ Dumping ─▶ Packing ─▶ Releasing ─────────────────┘
//!                             │                                  │
//!                             ▼ the payload ends                 ▼ committed, and we leave
//!                          Draining ─▶ SavingEnd ─────────────▶ Over
//! ```
//!
//! [`Machine::next`] takes one [`Input`] and the time, and returns the [`Action`]s that follow. The shell around it
//! (`supervise/shell`) turns events into inputs and actions into deeds. So every order of events can be tried without a
//! process: `simulation.rs` does that, `table.rs` tries every state with every input.

mod end;
mod save;
#[cfg(test)]
mod simulation;
mod state;
#[cfg(test)]
mod table;

pub use state::{
    Action, DumpEnd, End, Input, Leave, Moment, Outcome, Patience, Rules, SOON_TRIES, State, Tree, Unpacked,
};

use std::time::Duration;

use crate::checkpoint::Reason;

/// A payload that has been asked for gets so long to begin when we are asked to leave: its program may be on a disk
/// that hangs.
pub const START_GRACE: Duration = Duration::from_secs(10);
/// Files that are being put back are waited for so long when we are asked to leave: HTCondor would carry half of the
/// outputs.
pub const UNPACK_GRACE: Duration = Duration::from_secs(60);
/// The relays of the standard streams end the step that they are in. One whose reader stalls does not keep us.
pub const QUIET: Duration = Duration::from_secs(1);
/// criu is given so long to put everything back: when it is given up, when it is let go, and again when it was killed.
pub const GRACE: Duration = Duration::from_secs(5);
/// What the payload wrote before its own end is carried as long as its reader takes something in this time. A program
/// that wrote to the reader itself would wait for ever.
pub const STALLED: Duration = Duration::from_secs(30);
/// After a failure nothing of the payload's is waiting to be read; what was begun may be ended.
pub const DRAIN: Duration = Duration::from_secs(1);

/// Where the job is, what HTCondor wants of it, and what follows from what happens.
#[derive(Debug, Clone, PartialEq)]
pub struct Machine {
    state: State,
    /// HTCondor wants the slot back.
    leave: Leave,
    /// HTCondor's startd has asked for a checkpoint: the next exit must be one (docs/measurements.md, "Periodic
    /// checkpoint signals").
    promised: bool,
    /// There is a committed checkpoint.
    saved: bool,
    /// Saves that failed since the last one that did not.
    failures: u32,
    rules: Rules,
    /// A fault that is planted, to see that the simulation finds it.
    #[cfg(test)]
    pub(super) mutant: Option<simulation::Mutant>,
}

impl Machine {
    /// At the begin: what there is to do first.
    pub fn begin(rules: Rules, restore: bool) -> (Machine, Vec<Action>) {
        let (state, action) = if restore {
            (State::Unpacking { wanted: false, deadline: None }, Action::Unpack)
        } else {
            (State::Starting { wanted: false, deadline: None }, Action::Spawn)
        };
        let machine = Machine {
            state,
            leave: Leave::No,
            promised: false,
            saved: restore,
            failures: 0,
            rules,
            #[cfg(test)]
            mutant: None,
        };
        (machine, vec![action])
    }

    /// Where it is.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Whether HTCondor wants the slot back.
    pub fn leaving(&self) -> bool {
        self.leave != Leave::No
    }

    /// When it wants to hear [`Input::Tick`].
    pub fn deadline(&self) -> Option<Moment> {
        match self.state {
            State::Starting { deadline, .. } | State::Unpacking { deadline, .. } => deadline,
            State::Restoring { deadline, .. }
            | State::Quieting { deadline, .. }
            | State::Dumping { deadline, .. }
            | State::Packing { deadline, .. }
            | State::Releasing { deadline, .. }
            | State::SavingEnd { deadline, .. }
            | State::Draining { deadline, .. } => Some(deadline),
            State::Running { .. } | State::Preparing { .. } | State::Over => None,
        }
    }

    /// What follows from `input` at the time `now`.
    pub fn next(&mut self, now: Moment, input: Input) -> Vec<Action> {
        if let Some(actions) = self.everywhere(now, &input) {
            return actions;
        }
        match &self.state {
            State::Starting { .. } | State::Unpacking { .. } | State::Restoring { .. } => self.not_yet(now, input),
            State::Running { .. } => self.running(now, input),
            State::Quieting { .. } | State::Preparing { .. } => self.before_dump(now, input),
            State::Dumping { .. } => self.dumping(now, input),
            State::Packing { .. } => self.packing(now, input),
            State::Releasing { .. } => self.releasing(now, input),
            State::SavingEnd { .. } => self.saving_end(now, input),
            State::Draining { .. } => self.draining(now, input),
            State::Over => Vec::new(),
        }
    }

    /// What means the same in every state, or is only kept in mind.
    fn everywhere(&mut self, now: Moment, input: &Input) -> Option<Vec<Action>> {
        if matches!(self.state, State::Draining { .. } | State::Over) {
            return None;
        }
        match input {
            Input::Signal(number) => Some(vec![Action::PassSignal(*number)]),
            Input::StarterGone => Some(self.end(now, End::StarterGone)),
            Input::WrongProcessor(failure) => Some(self.end(now, End::Failed(failure.clone()))),
            Input::Checkpoint { promised } => {
                self.promised |= promised;
                None
            }
            Input::Vacate(signal) => match self.leave {
                Leave::No => {
                    self.leave = Leave::Asked(*signal);
                    None
                }
                // One is answered already.
                Leave::Asked(_) => Some(Vec::new()),
                // The payload has not heeded the first.
                Leave::PassedOn(_) => Some(vec![Action::PassSignal(*signal)]),
            },
            _ => None,
        }
    }

    /// Before the payload runs.
    fn not_yet(&mut self, now: Moment, input: Input) -> Vec<Action> {
        let (late, leaving) = (self.late(now), self.leaving());
        match (&mut self.state, input) {
            (
                State::Starting { wanted, .. } | State::Unpacking { wanted, .. } | State::Restoring { wanted, .. },
                Input::Checkpoint { .. },
            ) => {
                *wanted = true;
                Vec::new()
            }
            // It may have begun already, and is saved as soon as it can be.
            (State::Starting { deadline, .. }, Input::Vacate(_)) => {
                *deadline = Some(now + START_GRACE);
                Vec::new()
            }
            // Or HTCondor would carry half of the outputs.
            (State::Unpacking { deadline, .. }, Input::Vacate(_)) => {
                *deadline = Some(now + UNPACK_GRACE);
                Vec::new()
            }
            // What is committed is all that there is.
            (State::Restoring { .. }, Input::Vacate(_)) => self.end(now, End::Checkpointed),
            (State::Starting { wanted, .. }, Input::Spawned) | (State::Restoring { wanted, .. }, Input::Restored) => {
                let wanted = *wanted;
                self.now_running(now, wanted)
            }
            (State::Starting { .. }, Input::NotSpawned(failure))
            | (State::Unpacking { .. }, Input::Unpacked(Unpacked::Failed(failure)))
            | (State::Restoring { .. }, Input::NotRestored(failure)) => self.end(now, End::Failed(failure)),
            (State::Unpacking { .. }, Input::Unpacked(_)) if leaving => self.end(now, End::Checkpointed),
            (State::Unpacking { .. }, Input::Unpacked(Unpacked::Ended(ended))) => self.end(now, End::Payload(ended)),
            (State::Unpacking { wanted, .. }, Input::Unpacked(Unpacked::Files { patience })) => {
                self.state = State::Restoring { wanted: *wanted, deadline: now + patience };
                vec![Action::Restore]
            }
            // criu would wait for images that do not come.
            (State::Restoring { .. }, Input::StreamBroken) => vec![Action::KillCriu],
            (_, Input::Tick) if late => match (&self.state, self.leave) {
                (State::Restoring { .. }, _) => self.end(now, End::RestoreTooSlow),
                (State::Unpacking { .. }, _) => self.end(now, End::Checkpointed),
                (_, Leave::Asked(signal) | Leave::PassedOn(signal)) => self.end(now, End::NeverRan(signal)),
                (_, Leave::No) => Vec::new(),
            },
            (_, Input::PayloadEnded(ended)) => self.payload_ended(now, ended),
            (_, Input::SandboxGone) => {
                let restoring = !matches!(self.state, State::Starting { .. });
                self.end(now, End::SandboxGone { saved: self.saved, restoring })
            }
            _ => Vec::new(),
        }
    }

    fn running(&mut self, now: Moment, input: Input) -> Vec<Action> {
        match input {
            Input::Vacate(_) => {
                let mut actions = vec![Action::CountVacate];
                actions.extend(self.begin_save(now, Reason::Vacate));
                actions
            }
            Input::Checkpoint { .. } => self.begin_save(now, Reason::Signal),
            Input::Due(reason) => self.begin_save(now, reason),
            Input::PayloadEnded(ended) => self.payload_ended(now, ended),
            Input::SandboxGone => self.end(now, End::SandboxGone { saved: self.saved, restoring: false }),
            // A save that was given up has been committed all the same.
            Input::Packed(true) => {
                self.saved = true;
                Vec::new()
            }
            _ => Vec::new(),
        }
    }

    /// The payload runs: from its start, or again.
    fn now_running(&mut self, now: Moment, wanted: bool) -> Vec<Action> {
        self.state = State::Running { tries: 0 };
        let mut actions = vec![Action::Begun, Action::Schedule { failures: self.failures }];
        // What was asked for while there was nothing to save.
        match (self.leave, wanted) {
            (Leave::Asked(_), _) => actions.extend(self.begin_save(now, Reason::Vacate)),
            (_, true) => actions.extend(self.begin_save(now, Reason::Signal)),
            _ => {}
        }
        actions
    }

    fn late(&self, now: Moment) -> bool {
        self.deadline().is_some_and(|deadline| deadline <= now)
    }
}
