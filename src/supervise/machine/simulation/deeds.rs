//! What the simulated world does when the machine asks for a deed: mostly what it should, soon; rarely late, wrong, or
//! never.

use super::super::*;
use super::world::{Comes, Criu, Later, PATIENCE, Payload, Victim, World};
use crate::exit::{Ended, Failure};

impl World {
    /// Does it; what follows at once.
    pub fn act(&mut self, action: Action) -> Option<Input> {
        match action {
            Action::Dump(_) => return Some(self.begin_dump()),
            Action::Pack(_) => return self.pack(),
            Action::Spawn => self.spawn(),
            Action::Unpack => self.unpack(),
            Action::Restore => self.restore(),
            Action::Begun if self.payload == Payload::NotYet => self.begin_life(),
            Action::Quiet if !self.choices.rarely(6) => self.soon(Later::Input(Input::Quiet)),
            Action::GiveUp if self.choices.below(3) != 2 => self.criu_puts_back(),
            Action::KillCriu => self.kill_criu(),
            Action::CancelPacking => {
                if let Some((_, off)) = &mut self.packing {
                    *off = true;
                }
            }
            Action::LetGo if !self.choices.rarely(8) => self.criu_puts_back(),
            Action::PassSignal(number) => self.signal(number),
            Action::SaveEnd(ended) => self.save_end(ended),
            Action::SayEndNotSaved => self.end_not_saved = true,
            Action::Drain => self.drain(),
            Action::ScheduleSoon(reason) => self.after(1_000, Later::Input(Input::Due(reason))),
            Action::Schedule { .. } if self.rules.code.is_some() && self.choices.below(2) == 1 => {
                self.soon(Later::Input(Input::Due(Reason::Interval)));
            }
            Action::End(end) => self.end = Some(end),
            _ => {}
        }
        None
    }

    fn spawn(&mut self) {
        match self.choices.below(12) {
            0..=9 => self.soon(Later::Input(Input::Spawned)),
            10 => self.soon(Later::Input(Input::NotSpawned(Failure::start("cannot run", "not found")))),
            _ => {}
        }
    }

    fn unpack(&mut self) {
        let came = match self.choices.below(12) {
            0..=8 => Unpacked::Files { patience: PATIENCE },
            9 => Unpacked::Ended(self.own_end),
            10 => Unpacked::Failed(Failure::start("cannot restore", "disk full")),
            _ => return,
        };
        self.soon(Later::Input(Input::Unpacked(came)));
    }

    fn restore(&mut self) {
        self.criu_number += 1;
        self.criu = Criu::Restores;
        match self.choices.below(8) {
            0..=5 => self.soon(Later::Criu(Comes::Restored, self.criu_number)),
            6 => self.soon(Later::Criu(Comes::NotRestored, self.criu_number)),
            _ if self.choices.below(2) == 0 => self.soon(Later::Input(Input::StreamBroken)),
            _ => {}
        }
    }

    fn criu_puts_back(&mut self) {
        self.soon(Later::Criu(Comes::Ends(DumpEnd::PutBack { passes: false }), self.criu_number));
    }

    fn kill_criu(&mut self) {
        if self.criu == Criu::Restores {
            self.soon(Later::Criu(Comes::NotRestored, self.criu_number));
            return;
        }
        let end = match self.choices.below(8) {
            0..=5 => DumpEnd::PutBack { passes: false },
            6 => DumpEnd::Harmed(Ended::Signaled(9)),
            _ => return,
        };
        self.after(1, Later::Criu(Comes::Ends(end), self.criu_number));
    }

    fn pack(&mut self) -> Option<Input> {
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
        None
    }

    fn signal(&mut self, number: i32) {
        if self.vacated.is_some() && number == 15 {
            self.answered.get_or_insert(self.now);
        }
        if self.choices.below(2) == 0 {
            self.soon(Later::PayloadEnds(Ended::Signaled(number), self.life));
        }
    }

    fn save_end(&mut self, ended: Ended) {
        self.packing_number += 1;
        self.packing = Some((self.packing_number, false));
        self.saving_end = Some(ended);
        match self.choices.below(6) {
            0..=3 => self.soon(Later::Packing(true, self.packing_number)),
            4 => self.soon(Later::Packing(false, self.packing_number)),
            _ => {}
        }
    }

    fn drain(&mut self) {
        match self.choices.below(6) {
            0..=3 => self.soon(Later::Input(Input::StreamsDone)),
            4 => {
                self.soon(Later::Input(Input::StreamsMoved));
                self.soon(Later::Input(Input::StreamsDone));
            }
            _ => {}
        }
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
}
