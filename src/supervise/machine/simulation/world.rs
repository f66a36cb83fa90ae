//! The simulated world: what is in it, and what happens.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::time::Duration;

use super::super::*;
use super::Mutant;
use super::choices::Choices;
use crate::exit::{Ended, Failure};

/// A job's checkpoint code.
pub const CODE: u8 = 85;
/// The payload ends by itself before this moment of its own time.
pub const LIFE: u64 = 4_000_000;
/// How long a dump or a restore may take, in the simulated world.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// From a vacate to its answer at the latest: every try of a cause that passes may take all of its time.
pub fn vacate_bound() -> Duration {
    let one = QUIET + PATIENCE * 2 + GRACE * 4 + Duration::from_secs(1);
    one * (SOON_TRIES + 2) + START_GRACE.max(UNPACK_GRACE) * 2 + STALLED + PATIENCE
}

/// What happens later.
#[derive(Debug, Clone, PartialEq)]
pub enum Later {
    /// An input, if nobody has taken it back.
    Input(Input),
    /// The payload's own end, by this count of its lives.
    PayloadEnds(Ended, u32),
    /// criu comes to this, if it is still this criu.
    Criu(Comes, u32),
    /// Packing comes to its end, if it is still this one.
    Packing(bool, u32),
    /// Somebody kills something.
    Kill(Victim),
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Comes {
    Holds,
    Ends(DumpEnd),
    Restored,
    NotRestored,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Victim {
    Payload,
    Criu,
    Sandbox,
    Starter,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Criu {
    None,
    Dumps,
    Holds,
    Restores,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Payload {
    NotYet,
    /// With what is left of its own life, in milliseconds, and since when.
    Runs {
        left: u64,
        since: u64,
    },
    Held {
        left: u64,
    },
    Ended(Ended),
}

pub struct World {
    pub choices: Choices,
    pub machine: Machine,
    pub rules: Rules,
    pub now: u64,
    pub later: BinaryHeap<Reverse<(u64, u64)>>,
    pub what: BTreeMap<u64, Later>,
    pub count: u64,
    pub criu: Criu,
    pub criu_number: u32,
    pub payload: Payload,
    pub life: u32,
    pub own_end: Ended,
    pub packing: Option<(u32, bool)>,
    pub packing_number: u32,
    /// The end that is being saved.
    pub saving_end: Option<Ended>,
    pub end_not_saved: bool,
    /// Committed: of the running payload, or of an end.
    pub committed: Vec<Option<Ended>>,
    pub restored: bool,
    pub vacated: Option<u64>,
    pub answered: Option<u64>,
    pub promised: bool,
    pub sandbox_gone: bool,
    pub end: Option<End>,
    pub transitions: u64,
    pub history: Vec<String>,
}

impl World {
    pub fn new(mut choices: Choices, mutant: Option<Mutant>) -> World {
        let rules = Rules { code: (choices.below(2) == 0).then_some(CODE) };
        let restored = choices.below(3) == 1;
        let (mut machine, first) = Machine::begin(rules, restored);
        machine.mutant = mutant;
        let own_end = match choices.below(8) {
            0..=4 => Ended::Exited(0),
            5 => Ended::Exited(3),
            6 => Ended::Exited(CODE),
            _ => Ended::Signaled(11),
        };
        let mut world = World {
            choices,
            machine,
            rules,
            now: 0,
            later: BinaryHeap::new(),
            what: BTreeMap::new(),
            count: 0,
            criu: Criu::None,
            criu_number: 0,
            payload: Payload::NotYet,
            life: 0,
            own_end,
            packing: None,
            packing_number: 0,
            saving_end: None,
            end_not_saved: false,
            committed: Vec::new(),
            restored,
            vacated: None,
            answered: None,
            promised: false,
            sandbox_gone: false,
            end: None,
            transitions: 0,
            history: Vec::new(),
        };
        world.plan_the_starter();
        for action in first {
            world.act(action);
        }
        world
    }

    /// What HTCondor does, at moments of its own.
    pub fn plan_the_starter(&mut self) {
        for _ in 0..self.choices.below(4) {
            let at = u64::from(self.choices.below(60_000));
            let input = match self.choices.below(4) {
                0 => Input::Vacate(15),
                1 => Input::Checkpoint { promised: self.rules.code.is_some() && self.choices.below(3) == 2 },
                2 => Input::Signal(10),
                _ => Input::Due(Reason::Interval),
            };
            self.at(at, Later::Input(input));
        }
        // It wants the slot back in the end, whatever happens.
        self.at(LIFE * 2, Later::Input(Input::Vacate(15)));
        for victim in [Victim::Payload, Victim::Criu, Victim::Sandbox, Victim::Starter] {
            if self.choices.rarely(12) {
                let at = u64::from(self.choices.below(60_000));
                self.at(at, Later::Kill(victim));
            }
        }
    }

    pub fn at(&mut self, at: u64, what: Later) {
        self.count += 1;
        self.later.push(Reverse((at, self.count)));
        self.what.insert(self.count, what);
    }

    pub fn after(&mut self, wait: u64, what: Later) {
        self.at(self.now + wait, what);
    }

    pub fn soon(&mut self, what: Later) {
        let wait = self.choices.soon();
        self.after(wait, what);
    }

    /// Until the end, or until nothing follows any more.
    pub fn run(&mut self) -> Result<(), String> {
        while self.end.is_none() {
            let next = self.later.peek().map(|Reverse((at, _))| *at);
            let deadline = self.machine.deadline().and_then(|deadline| u64::try_from(deadline.as_millis()).ok());
            let tick = deadline.filter(|deadline| next.is_none_or(|next| *deadline <= next));
            if let Some(at) = tick {
                self.now = self.now.max(at);
                self.input(Input::Tick)?;
            } else if let Some(Reverse((at, number))) = self.later.pop() {
                self.now = self.now.max(at);
                if let Some(what) = self.what.remove(&number) {
                    self.happens(what)?;
                }
            } else {
                return Err(self.broken("every run ends: nothing follows any more"));
            }
            if self.transitions > 5_000 {
                return Err(self.broken("every run ends: it goes round in circles"));
            }
            self.check()?;
        }
        Ok(())
    }

    pub fn broken(&self, rule: &str) -> String {
        format!("{rule}\n  in {:?} at {} ms\n  {}", self.machine.state(), self.now, self.history.join("\n  "))
    }

    pub fn happens(&mut self, what: Later) -> Result<(), String> {
        match what {
            Later::Input(input) => self.input(input),
            Later::PayloadEnds(ended, life) if life == self.life && matches!(self.payload, Payload::Runs { .. }) => {
                self.payload = Payload::Ended(ended);
                self.input(Input::PayloadEnded(ended))
            }
            Later::Criu(comes, number) if number == self.criu_number => self.criu_comes_to(comes),
            Later::Packing(good, number) if self.packing.is_some_and(|(this, _)| this == number) => self.packed(good),
            Later::Kill(victim) => self.kill(victim),
            _ => Ok(()),
        }
    }

    pub fn criu_comes_to(&mut self, comes: Comes) -> Result<(), String> {
        match (comes, self.criu) {
            (Comes::Holds, Criu::Dumps) => {
                if !matches!(self.payload, Payload::Runs { .. }) {
                    return Ok(());
                }
                self.hold();
                self.criu = Criu::Holds;
                let passes = self.choices.below(2) == 0;
                let unfit = self.choices.rarely(10);
                self.input(if unfit { Input::Unfit { passes } } else { Input::Held })
            }
            (Comes::Ends(end), Criu::Dumps | Criu::Holds) => {
                self.criu = Criu::None;
                self.release();
                self.input(Input::DumpEnded(end))
            }
            (Comes::Restored, Criu::Restores) => {
                self.criu = Criu::None;
                self.begin_life();
                self.input(Input::Restored)
            }
            (Comes::NotRestored, Criu::Restores) => {
                self.criu = Criu::None;
                self.input(Input::NotRestored(Failure::start("cannot restore", "criu failed")))
            }
            _ => Ok(()),
        }
    }

    pub fn packed(&mut self, good: bool) -> Result<(), String> {
        let off = self.packing.take().is_some_and(|(_, off)| off);
        // The packer looks whether criu holds the tree, or the tree has ended, before it commits.
        let whole = self.criu == Criu::Holds || self.saving_end.is_some();
        let good = good && !off && whole;
        if good {
            self.committed.push(self.saving_end);
        } else if self.saving_end.is_some() {
            self.end_not_saved = true;
        }
        self.input(Input::Packed(good))
    }

    pub fn kill(&mut self, victim: Victim) -> Result<(), String> {
        match victim {
            Victim::Payload if matches!(self.payload, Payload::Runs { .. } | Payload::Held { .. }) => {
                self.payload = Payload::Ended(Ended::Signaled(9));
                self.input(Input::PayloadEnded(Ended::Signaled(9)))
            }
            Victim::Criu if self.criu == Criu::Restores => self.criu_comes_to(Comes::NotRestored),
            Victim::Criu if self.criu != Criu::None => {
                let harmed = self.criu == Criu::Dumps && self.choices.below(2) == 1;
                let end = if harmed { DumpEnd::Harmed(Ended::Signaled(9)) } else { DumpEnd::PutBack { passes: false } };
                self.criu_comes_to(Comes::Ends(end))
            }
            Victim::Sandbox => {
                self.sandbox_gone = true;
                self.criu = Criu::None;
                self.life += 1;
                self.input(Input::SandboxGone)
            }
            Victim::Starter => self.input(Input::StarterGone),
            _ => Ok(()),
        }
    }

    pub fn begin_life(&mut self) {
        self.life += 1;
        let left = u64::from(self.choices.below(LIFE as u32));
        self.payload = Payload::Runs { left, since: self.now };
        self.after(left, Later::PayloadEnds(self.own_end, self.life));
    }

    pub fn hold(&mut self) {
        if let Payload::Runs { left, since } = self.payload {
            self.life += 1;
            self.payload = Payload::Held { left: left.saturating_sub(self.now - since) };
        }
    }

    pub fn release(&mut self) {
        if let Payload::Held { left } = self.payload {
            self.life += 1;
            self.payload = Payload::Runs { left, since: self.now };
            self.after(left, Later::PayloadEnds(self.own_end, self.life));
        }
    }

    pub fn input(&mut self, input: Input) -> Result<(), String> {
        match &input {
            Input::Vacate(_) => _ = self.vacated.get_or_insert(self.now),
            Input::Checkpoint { promised: true } => self.promised = true,
            _ => {}
        }
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            self.transitions += 1;
            let line = format!("{:>7} ms {input:?} in {:?}", self.now, self.machine.state());
            let actions = self.machine.next(Duration::from_millis(self.now), input);
            self.history.push(format!("{line}: {actions:?}"));
            for action in actions {
                if self.end.is_some() {
                    return Err(self.broken("nothing runs after the end"));
                }
                self.guard(&action)?;
                inputs.extend(self.act(action));
            }
        }
        Ok(())
    }
}
