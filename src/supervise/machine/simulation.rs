//! The machine against a simulated world, driven by a seed: HTCondor's starter, criu, the sandbox, the disk, the readers of the streams,
//! and the clock. Everything can be late, fail, hang or die at any moment. What must hold is in [`World::check`] and [`World::end`], each
//! rule with its name. A world that breaks one is shrunk to the few choices that matter, and printed.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use super::*;
use crate::exit::{Ended, Failure};

/// A fault that is planted: the three hangs of version 0.1.0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    /// A save waits for the reader of stdout, however long that takes.
    WaitForReader,
    /// The payload's end while its checkpoint is packed is dropped.
    DropTheEnd,
    /// The relays are not told of the end, and are waited for.
    NoDrain,
}

/// A job's checkpoint code.
const CODE: u8 = 85;
/// The payload ends by itself before this moment of its own time.
const LIFE: u64 = 4_000_000;
/// How long a dump or a restore may take, in the simulated world.
const PATIENCE: Duration = Duration::from_secs(20);

/// From a vacate to its answer at the latest: every try of a cause that passes may take all of its time.
fn vacate_bound() -> Duration {
    let one = QUIET + PATIENCE * 2 + GRACE * 4 + Duration::from_secs(1);
    one * (SOON_TRIES + 2) + START_GRACE.max(UNPACK_GRACE) * 2 + STALLED + PATIENCE
}

/// What the world chooses: from a seed at first, and from a list when a run is repeated. 0 is the choice that harms nothing.
struct Choices {
    made: Vec<u32>,
    at: usize,
    seed: Option<u64>,
}

impl Choices {
    fn of(seed: u64) -> Choices {
        Choices { made: Vec::new(), at: 0, seed: Some(seed) }
    }

    fn again(made: Vec<u32>) -> Choices {
        Choices { made, at: 0, seed: None }
    }

    /// Below `n`.
    fn below(&mut self, n: u32) -> u32 {
        let choice = match &mut self.seed {
            // splitmix64, S. Vigna, public domain
            Some(state) => {
                *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
                let mut z = *state;
                z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
                let choice = ((z ^ (z >> 31)) % u64::from(n)) as u32;
                self.made.push(choice);
                choice
            }
            None => self.made.get(self.at).copied().unwrap_or(0) % n,
        };
        self.at += 1;
        choice
    }

    /// True once in `n`.
    fn rarely(&mut self, n: u32) -> bool {
        self.below(n) == n - 1
    }

    /// Milliseconds: mostly few.
    fn soon(&mut self) -> u64 {
        match self.below(8) {
            0..=4 => u64::from(self.below(20)),
            5 | 6 => u64::from(self.below(2_000)),
            _ => u64::from(self.below(40_000)),
        }
    }
}

/// What happens later.
#[derive(Debug, Clone, PartialEq)]
enum Later {
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
enum Comes {
    Holds,
    Ends(DumpEnd),
    Restored,
    NotRestored,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Victim {
    Payload,
    Criu,
    Sandbox,
    Starter,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Criu {
    None,
    Dumps,
    Holds,
    Restores,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Payload {
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

struct World {
    choices: Choices,
    machine: Machine,
    rules: Rules,
    now: u64,
    later: BinaryHeap<Reverse<(u64, u64)>>,
    what: std::collections::BTreeMap<u64, Later>,
    count: u64,
    criu: Criu,
    criu_number: u32,
    payload: Payload,
    life: u32,
    own_end: Ended,
    packing: Option<(u32, bool)>,
    packing_number: u32,
    /// The end that is being saved.
    saving_end: Option<Ended>,
    end_not_saved: bool,
    /// Committed: of the running payload, or of an end.
    committed: Vec<Option<Ended>>,
    restored: bool,
    vacated: Option<u64>,
    answered: Option<u64>,
    promised: bool,
    sandbox_gone: bool,
    end: Option<End>,
    transitions: u64,
    history: Vec<String>,
}

impl World {
    fn new(mut choices: Choices, mutant: Option<Mutant>) -> World {
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
            what: std::collections::BTreeMap::new(),
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
    fn plan_the_starter(&mut self) {
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

    fn at(&mut self, at: u64, what: Later) {
        self.count += 1;
        self.later.push(Reverse((at, self.count)));
        self.what.insert(self.count, what);
    }

    fn after(&mut self, wait: u64, what: Later) {
        self.at(self.now + wait, what);
    }

    fn soon(&mut self, what: Later) {
        let wait = self.choices.soon();
        self.after(wait, what);
    }

    /// Until the end, or until nothing follows any more.
    fn run(&mut self) -> Result<(), String> {
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

    fn broken(&self, rule: &str) -> String {
        format!("{rule}\n  in {:?} at {} ms\n  {}", self.machine.state(), self.now, self.history.join("\n  "))
    }

    fn happens(&mut self, what: Later) -> Result<(), String> {
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

    fn criu_comes_to(&mut self, comes: Comes) -> Result<(), String> {
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

    fn packed(&mut self, good: bool) -> Result<(), String> {
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

    fn kill(&mut self, victim: Victim) -> Result<(), String> {
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

    fn begin_life(&mut self) {
        self.life += 1;
        let left = u64::from(self.choices.below(LIFE as u32));
        self.payload = Payload::Runs { left, since: self.now };
        self.after(left, Later::PayloadEnds(self.own_end, self.life));
    }

    fn hold(&mut self) {
        if let Payload::Runs { left, since } = self.payload {
            self.life += 1;
            self.payload = Payload::Held { left: left.saturating_sub(self.now - since) };
        }
    }

    fn release(&mut self) {
        if let Payload::Held { left } = self.payload {
            self.life += 1;
            self.payload = Payload::Runs { left, since: self.now };
            self.after(left, Later::PayloadEnds(self.own_end, self.life));
        }
    }

    fn input(&mut self, input: Input) -> Result<(), String> {
        match &input {
            Input::Vacate(_) => _ = self.vacated.get_or_insert(self.now),
            Input::Checkpoint { promised: true } => self.promised = true,
            _ => {}
        }
        let mut inputs = std::collections::VecDeque::from([input]);
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

    /// Rules for an action at its moment.
    fn guard(&self, action: &Action) -> Result<(), String> {
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

    /// Does it; what follows at once.
    fn act(&mut self, action: Action) -> Option<Input> {
        match action {
            Action::Spawn => match self.choices.below(12) {
                0..=9 => self.soon(Later::Input(Input::Spawned)),
                10 => self.soon(Later::Input(Input::NotSpawned(Failure::start("cannot run", "not found")))),
                _ => {}
            },
            Action::Begun => {
                if self.payload == Payload::NotYet {
                    self.begin_life();
                }
            }
            Action::Unpack => match self.choices.below(12) {
                0..=8 => self.soon(Later::Input(Input::Unpacked(Unpacked::Files { patience: PATIENCE }))),
                9 => self.soon(Later::Input(Input::Unpacked(Unpacked::Ended(self.own_end)))),
                10 => {
                    let failure = Failure::start("cannot restore", "disk full");
                    self.soon(Later::Input(Input::Unpacked(Unpacked::Failed(failure))));
                }
                _ => {}
            },
            Action::Restore => {
                self.criu_number += 1;
                self.criu = Criu::Restores;
                match self.choices.below(8) {
                    0..=5 => self.soon(Later::Criu(Comes::Restored, self.criu_number)),
                    6 => self.soon(Later::Criu(Comes::NotRestored, self.criu_number)),
                    _ if self.choices.below(2) == 0 => self.soon(Later::Input(Input::StreamBroken)),
                    _ => {}
                }
            }
            Action::Quiet => {
                if !self.choices.rarely(6) {
                    self.soon(Later::Input(Input::Quiet));
                }
            }
            Action::Dump(_) => return Some(self.begin_dump()),
            Action::GiveUp => {
                if self.choices.below(3) != 2 {
                    self.soon(Later::Criu(Comes::Ends(DumpEnd::PutBack { passes: false }), self.criu_number));
                }
            }
            Action::KillCriu if self.criu == Criu::Restores => {
                self.soon(Later::Criu(Comes::NotRestored, self.criu_number));
            }
            Action::KillCriu => match self.choices.below(8) {
                0..=5 => {
                    self.after(1, Later::Criu(Comes::Ends(DumpEnd::PutBack { passes: false }), self.criu_number));
                }
                6 => {
                    let harmed = DumpEnd::Harmed(Ended::Signaled(9));
                    self.after(1, Later::Criu(Comes::Ends(harmed), self.criu_number));
                }
                _ => {}
            },
            Action::Pack(_) => {
                self.packing_number += 1;
                self.packing = Some((self.packing_number, false));
                // A machine that is short of memory is so now.
                for victim in [Victim::Payload, Victim::Criu, Victim::Sandbox] {
                    if self.choices.rarely(20) {
                        self.soon(Later::Kill(victim));
                    }
                }
                match self.choices.below(8) {
                    0..=4 => self.soon(Later::Packing(true, self.packing_number)),
                    5 => self.soon(Later::Packing(false, self.packing_number)),
                    6 => {
                        self.packing = None;
                        return Some(Input::Packed(false));
                    }
                    _ => {}
                }
            }
            Action::CancelPacking => {
                if let Some((_, off)) = &mut self.packing {
                    *off = true;
                }
            }
            Action::LetGo => {
                if !self.choices.rarely(8) {
                    self.soon(Later::Criu(Comes::Ends(DumpEnd::PutBack { passes: false }), self.criu_number));
                }
            }
            Action::PassSignal(number) => {
                if self.vacated.is_some() && number == 15 {
                    self.answered.get_or_insert(self.now);
                }
                if self.choices.below(2) == 0 {
                    self.soon(Later::PayloadEnds(Ended::Signaled(number), self.life));
                }
            }
            Action::SaveEnd(ended) => {
                self.packing_number += 1;
                self.packing = Some((self.packing_number, false));
                self.saving_end = Some(ended);
                match self.choices.below(6) {
                    0..=3 => self.soon(Later::Packing(true, self.packing_number)),
                    4 => self.soon(Later::Packing(false, self.packing_number)),
                    _ => {}
                }
            }
            Action::SayEndNotSaved => self.end_not_saved = true,
            Action::Drain => match self.choices.below(6) {
                0..=3 => self.soon(Later::Input(Input::StreamsDone)),
                4 => {
                    self.soon(Later::Input(Input::StreamsMoved));
                    self.soon(Later::Input(Input::StreamsDone));
                }
                _ => {}
            },
            Action::ScheduleSoon(reason) => self.after(1_000, Later::Input(Input::Due(reason))),
            Action::Schedule { .. } if self.rules.code.is_some() && self.choices.below(2) == 1 => {
                self.soon(Later::Input(Input::Due(Reason::Interval)));
            }
            Action::End(end) => self.end = Some(end),
            Action::Schedule { .. } | Action::Unschedule | Action::CountVacate | Action::GoOn | Action::SayPassedOn => {
            }
        }
        None
    }

    fn begin_dump(&mut self) -> Input {
        match self.choices.below(12) {
            10 => return Input::DumpRefused,
            11 if self.machine.saved => return Input::NoTime,
            _ => {}
        }
        self.criu_number += 1;
        self.criu = Criu::Dumps;
        match self.choices.below(8) {
            0..=5 => self.soon(Later::Criu(Comes::Holds, self.criu_number)),
            6 => {
                let passes = self.choices.below(2) == 0;
                self.soon(Later::Criu(Comes::Ends(DumpEnd::PutBack { passes }), self.criu_number));
            }
            _ => {}
        }
        Input::DumpBegun { patience: PATIENCE }
    }

    /// Rules that hold after every step.
    fn check(&self) -> Result<(), String> {
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
    fn end(&self, end: &End) -> Result<(), String> {
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

/// How often something has to be tried.
fn transitions() -> u64 {
    const ORDINARY: u64 = 1_000_000;
    if std::env::var_os("CONDOR_CRIU_LONG").is_some() { ORDINARY * 100 } else { ORDINARY }
}

/// The fewest and smallest choices that still break a rule.
fn shrink(mut made: Vec<u32>, mutant: Option<Mutant>) -> String {
    let breaks = |made: &[u32]| World::new(Choices::again(made.to_vec()), mutant).run().err();
    for _ in 0..4 {
        let mut length = made.len();
        while length > 1 {
            let shorter = &made[..length / 2];
            if breaks(shorter).is_some() {
                made.truncate(length / 2);
            }
            length /= 2;
        }
        for at in 0..made.len() {
            let before = made[at];
            for smaller in [0, before / 2] {
                if made[at] != 0 && smaller < made[at] {
                    let kept = std::mem::replace(&mut made[at], smaller);
                    if breaks(&made).is_none() {
                        made[at] = kept;
                    }
                }
            }
        }
    }
    format!("{}\n  choices {made:?}", breaks(&made).unwrap_or_default())
}

/// Runs worlds until something breaks or enough has been tried: what broke, or how many transitions and worlds.
fn explore(first: u64, enough: u64, mutant: Option<Mutant>) -> Result<(u64, u64), String> {
    let (mut transitions, mut seed) = (0, first);
    while transitions < enough {
        let mut world = World::new(Choices::of(seed), mutant);
        if world.run().is_err() {
            return Err(format!("seed {seed}: {}", shrink(world.choices.made, mutant)));
        }
        transitions += world.transitions;
        seed = seed.wrapping_add(0x1_0000_0001);
    }
    Ok((transitions, (seed.wrapping_sub(first)) / 0x1_0000_0001))
}

#[test]
fn every_rule_holds_in_a_million_transitions() {
    let seed = std::env::var("CONDOR_CRIU_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| std::time::UNIX_EPOCH.elapsed().map_or(1, |since| since.as_nanos() as u64));
    match explore(seed, transitions(), None) {
        Ok((transitions, worlds)) => println!("{transitions} transitions in {worlds} worlds from seed {seed}"),
        Err(broken) => panic!("{broken}\nrepeat it with CONDOR_CRIU_SEED={seed}"),
    }
}

#[test]
fn the_three_hangs_of_old_are_found_again() {
    for (mutant, rule) in [
        (Mutant::WaitForReader, "every vacate is answered in time"),
        (Mutant::DropTheEnd, "every run ends"),
        (Mutant::NoDrain, "every run ends"),
    ] {
        let found = match explore(1, 1_000_000, Some(mutant)) {
            Err(found) => found,
            Ok(tried) => panic!("{mutant:?} was not found: {tried:?}"),
        };
        assert!(found.contains("every "), "{mutant:?}: {found}");
        println!("{mutant:?} ({rule}): {found}");
    }
}
