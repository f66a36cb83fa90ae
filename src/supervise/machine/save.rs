//! The machine's part in a save: from the reason to a commit, or back to a payload that runs on.

use super::{
    Action, DumpEnd, End, GRACE, Input, Leave, Machine, Moment, Outcome, Patience, QUIET, SOON_TRIES, State, Tree,
};
use crate::checkpoint::Reason;

impl Machine {
    pub(super) fn begin_save(&mut self, now: Moment, reason: Reason) -> Vec<Action> {
        let State::Running { tries } = self.state else { return Vec::new() };
        self.state = State::Quieting { reason, tries, deadline: now + QUIET };
        #[cfg(test)]
        if self.mutant == Some(super::simulation::Mutant::WaitForReader) {
            self.state = State::Quieting { reason, tries, deadline: Moment::MAX };
        }
        vec![Action::Unschedule, Action::Quiet]
    }

    /// Until criu has been started.
    pub(super) fn before_dump(&mut self, now: Moment, input: Input) -> Vec<Action> {
        match (&self.state, input) {
            (&State::Quieting { reason, tries, .. }, Input::Quiet) => self.dump(reason, tries),
            // A reader that stalls does not keep us.
            (&State::Quieting { reason, tries, .. }, Input::Tick) if self.late(now) => self.dump(reason, tries),
            (&State::Preparing { reason, tries }, Input::DumpBegun { patience }) => {
                let deadline = now + patience;
                self.state = State::Dumping { reason, tries, patience, then: Patience::Waiting, deadline };
                Vec::new()
            }
            (&State::Preparing { reason, .. }, Input::DumpRefused) => {
                self.came_to(now, Outcome::Failed { reason, passes: None })
            }
            (State::Preparing { .. }, Input::NoTime) if self.leaving() && self.saved => {
                self.end(now, End::Checkpointed)
            }
            // Only a vacate has an end.
            (&State::Preparing { reason, .. }, Input::NoTime) => {
                self.came_to(now, Outcome::Failed { reason, passes: None })
            }
            (_, Input::PayloadEnded(ended)) => self.payload_ended(now, ended),
            (_, Input::SandboxGone) => self.end(now, End::SandboxGone { saved: self.saved, restoring: false }),
            _ => Vec::new(),
        }
    }

    fn dump(&mut self, reason: Reason, tries: u32) -> Vec<Action> {
        // A vacate that came meanwhile is why it is taken now.
        let reason = if self.leaving() { Reason::Vacate } else { reason };
        self.state = State::Preparing { reason, tries };
        vec![Action::Dump(reason)]
    }

    pub(super) fn dumping(&mut self, now: Moment, input: Input) -> Vec<Action> {
        let State::Dumping { reason, tries, patience, then, deadline } = &mut self.state else { return Vec::new() };
        let (reason, tries) = (*reason, *tries);
        match input {
            Input::Held => {
                self.state = State::Packing { reason, tree: Tree::Held, deadline: now + *patience };
                vec![Action::Pack(reason)]
            }
            Input::Unfit { passes } => self.let_go(now, Outcome::Failed { reason, passes: passes.then_some(tries) }),
            Input::DumpEnded(DumpEnd::PutBack { passes }) => {
                self.came_to(now, Outcome::Failed { reason, passes: passes.then_some(tries) })
            }
            Input::DumpEnded(DumpEnd::Harmed(ended)) => self.end(now, End::Harmed(ended)),
            Input::Tick if *deadline <= now => {
                *deadline = now + GRACE;
                match then {
                    Patience::Waiting => {
                        *then = Patience::GivenUp;
                        vec![Action::GiveUp]
                    }
                    Patience::GivenUp => {
                        *then = Patience::Killed;
                        vec![Action::KillCriu]
                    }
                    Patience::Killed => self.end(now, End::Stuck { saved: self.saved }),
                }
            }
            Input::PayloadEnded(ended) => self.payload_ended(now, ended),
            Input::SandboxGone => self.end(now, End::SandboxGone { saved: self.saved, restoring: false }),
            _ => Vec::new(),
        }
    }

    pub(super) fn packing(&mut self, now: Moment, input: Input) -> Vec<Action> {
        let State::Packing { reason, tree, deadline } = &mut self.state else { return Vec::new() };
        let (reason, was) = (*reason, *tree);
        match input {
            Input::Packed(true) => {
                self.saved = true;
                self.failures = 0;
                // Without a code in the job ad HTCondor would take the exit for the job's end.
                if self.leaving() || self.rules.code.is_some() {
                    return self.end(now, End::Checkpointed);
                }
                self.packed(now, was, Outcome::Committed)
            }
            Input::Packed(false) => self.packed(now, was, Outcome::Failed { reason, passes: None }),
            Input::PayloadEnded(ended) => {
                #[cfg(test)]
                if self.mutant == Some(super::simulation::Mutant::DropTheEnd) {
                    return Vec::new();
                }
                *tree = Tree::Ended(ended);
                Vec::new()
            }
            Input::SandboxGone => {
                *tree = Tree::Gone;
                Vec::new()
            }
            Input::DumpEnded(DumpEnd::Harmed(ended)) => self.end(now, End::Harmed(ended)),
            // What is packed now is of a tree that runs on.
            Input::DumpEnded(DumpEnd::PutBack { .. }) if was == Tree::Held => {
                *tree = Tree::Loose;
                vec![Action::CancelPacking]
            }
            Input::Tick if *deadline <= now => {
                let mut actions = vec![Action::CancelPacking];
                actions.extend(self.packed(now, was, Outcome::Failed { reason, passes: None }));
                actions
            }
            _ => Vec::new(),
        }
    }

    /// The archive is finished, or given up; the tree is what it is.
    fn packed(&mut self, now: Moment, tree: Tree, outcome: Outcome) -> Vec<Action> {
        match tree {
            Tree::Held => self.let_go(now, outcome),
            Tree::Loose => self.came_to(now, outcome),
            Tree::Ended(ended) => self.payload_ended(now, ended),
            Tree::Gone => self.end(now, End::SandboxGone { saved: self.saved, restoring: false }),
        }
    }

    fn let_go(&mut self, now: Moment, outcome: Outcome) -> Vec<Action> {
        self.state = State::Releasing { outcome, killed: false, deadline: now + GRACE };
        vec![Action::LetGo]
    }

    pub(super) fn releasing(&mut self, now: Moment, input: Input) -> Vec<Action> {
        let State::Releasing { outcome, killed, deadline } = &mut self.state else { return Vec::new() };
        let outcome = *outcome;
        match input {
            Input::DumpEnded(DumpEnd::PutBack { .. }) => self.came_to(now, outcome),
            Input::DumpEnded(DumpEnd::Harmed(ended)) => self.end(now, End::Harmed(ended)),
            Input::Tick if *deadline <= now && !*killed => {
                *killed = true;
                *deadline = now + GRACE;
                vec![Action::KillCriu]
            }
            Input::Tick if *deadline <= now => self.end(now, End::Stuck { saved: self.saved }),
            // One that was given up.
            Input::Packed(true) => {
                self.saved = true;
                Vec::new()
            }
            Input::PayloadEnded(ended) => self.payload_ended(now, ended),
            Input::SandboxGone => self.end(now, End::SandboxGone { saved: self.saved, restoring: false }),
            _ => Vec::new(),
        }
    }

    /// The payload runs on, as if nothing had been. If we were asked to leave and have nothing to show, it gets the
    /// signal, so that a program with a handler of its own can use it.
    fn came_to(&mut self, now: Moment, outcome: Outcome) -> Vec<Action> {
        self.state = State::Running { tries: 0 };
        let mut actions = vec![Action::GoOn];
        match (outcome, self.leave) {
            (Outcome::Failed { reason, passes: Some(tries) }, _) if tries < SOON_TRIES => {
                self.state = State::Running { tries: tries + 1 };
                actions.push(Action::ScheduleSoon(reason));
            }
            (Outcome::Failed { .. }, Leave::Asked(signal)) => {
                self.failures += 1;
                self.leave = Leave::PassedOn(signal);
                actions.extend([Action::SayPassedOn, Action::PassSignal(signal)]);
            }
            (Outcome::Failed { .. }, _) => {
                self.failures += 1;
                actions.push(Action::Schedule { failures: self.failures });
            }
            // It came while the tree was let go, after the commit: what has been done since is saved too.
            (Outcome::Committed, Leave::Asked(_)) => {
                actions.push(Action::CountVacate);
                actions.extend(self.begin_save(now, Reason::Vacate));
            }
            (Outcome::Committed, _) => actions.push(Action::Schedule { failures: 0 }),
        }
        actions
    }
}
