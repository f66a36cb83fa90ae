//! One deed for each action, and one input for each event.

use std::sync::{Arc, PoisonError};

use super::event::{self, Event};
use super::supervisor::Supervisor;
use crate::checkpoint::manifest::Tree;
use crate::exit::Failure;
use crate::htcondor::chirp::Attribute;
use crate::sandbox::{self, ClockOffsets, CriuJob, Request};
use crate::supervise::machine::{Action, DumpEnd, End, Input, Unpacked};
use crate::supervise::work::relay::Said;
use crate::supervise::work::save::Told;

impl Supervisor {
    /// Does it. What follows at once is in `self.follows`; the last action is the end.
    pub(super) fn act(&mut self, action: Action) -> Option<End> {
        match action {
            Action::Spawn => self.spawn(),
            Action::Unpack => self.unpack(),
            Action::Restore => self.restore(),
            Action::Begun => {
                self.relays.resume();
                self.running_since = Some(std::time::Instant::now());
                self.early.begin();
                self.chirp.tell(Attribute::State("running"));
            }
            Action::Schedule { failures } => self.schedule(failures),
            Action::ScheduleSoon(reason) => self.plan.soon(reason),
            Action::Unschedule => self.plan.none(),
            Action::CountVacate => self.history.vacates += 1,
            Action::Quiet => self.relays.quiet(),
            Action::Dump(reason) => self.dump(reason),
            Action::GiveUp => {
                tracing::error!("criu did not end in time and is given up");
                self.this_save.given_up = true;
                if let Some(saving) = &self.saving {
                    saving.give_up();
                }
            }
            Action::KillCriu => {
                tracing::error!("criu does not end and is killed");
                self.tell_init(&Request::KillCriu);
            }
            Action::Pack(reason) => self.pack(reason),
            Action::CancelPacking => {
                tracing::error!("the checkpoint that is being packed is called off");
                if let Some(saving) = &mut self.saving {
                    saving.call_off();
                }
            }
            Action::LetGo => {
                if let Some(saving) = &mut self.saving {
                    saving.let_go();
                }
            }
            Action::GoOn => self.go_on(),
            Action::PassSignal(number) => self.tell_init(&Request::Signal(number)),
            Action::SayPassedOn => {
                tracing::warn!("passing the signal on: nothing newer than generation {} is saved", self.generation);
            }
            Action::SaveEnd(ended) => self.save_the_end(ended),
            Action::SayEndNotSaved => tracing::error!("cannot keep the promise of a checkpoint"),
            Action::Drain => self.relays.drain(),
            Action::End(end) => return Some(end),
        }
        None
    }

    /// What it means to the machine, if anything.
    pub(super) fn understand(&mut self, event: Event) -> Option<Input> {
        match event {
            Event::Signal(number) => Some(self.signalled(number)),
            Event::Sandbox(event) => self.sandbox_says(event),
            Event::ClockSet => {
                self.clock_set();
                None
            }
            Event::Unpacked(result) => Some(match *result {
                Ok(unpacked) => self.unpacked(unpacked),
                Err(failure) => Input::Unpacked(Unpacked::Failed(failure)),
            }),
            Event::Scanned(findings) => {
                self.scanned(findings);
                None
            }
            Event::StreamBroken => Some(Input::StreamBroken),
            Event::Saving(Told::Held) => Some(self.held()),
            Event::Saving(Told::Packed(result)) => Some(self.packed(result)),
            Event::Relays(Said::Quiet) => Some(Input::Quiet),
            Event::Relays(Said::Moved) => Some(Input::StreamsMoved),
            Event::Relays(Said::Done) => Some(Input::StreamsDone),
            Event::Relays(Said::Closed { descriptor, lost }) => {
                self.stream_closed(descriptor, lost);
                None
            }
            Event::StarterGone => Some(Input::StarterGone),
            Event::SandboxGone => Some(Input::SandboxGone),
        }
    }

    fn sandbox_says(&mut self, event: sandbox::Event) -> Option<Input> {
        match event {
            sandbox::Event::Ready => None,
            sandbox::Event::SetupFailed { step, errno } => {
                // Only the clocks are made this late; a kernel without time namespaces is no reason not to run.
                let errno = nix::errno::Errno::from_raw(errno);
                tracing::warn!("cannot {step}: {errno}; the payload's monotonic clock will jump when it moves");
                self.offsets = ClockOffsets::default();
                None
            }
            sandbox::Event::Spawned { root, main } => {
                tracing::info!(program = %self.launch.program, "the payload runs");
                self.tree = Some(Tree { root, main });
                Some(Input::Spawned)
            }
            sandbox::Event::ExecFailed { errno, step } => Some(Input::NotSpawned(self.cannot_execute(errno, &step))),
            sandbox::Event::Refused(refusal) => Some(self.refused(&refusal)),
            sandbox::Event::CriuEnded { harmed: true, ended, .. } => Some(Input::DumpEnded(DumpEnd::Harmed(ended))),
            sandbox::Event::CriuEnded { job: CriuJob::Dump, ended, .. } => Some(self.dump_ended(ended)),
            sandbox::Event::CriuEnded { job: CriuJob::Restore, ended, root, .. } => Some(self.restored(ended, root)),
            sandbox::Event::PayloadEnded(ended) => Some(self.payload_ended(ended)),
        }
    }

    fn spawn(&mut self) {
        self.tell_init(&Request::Clock(self.offsets));
        self.tell_init(&Request::Spawn);
        let inputs = Arc::clone(&self.inputs);
        let scratch = self.launch.job.scratch.clone();
        // Read while the payload runs, so that a checkpoint need not wait for it.
        let read =
            event::spawn(
                "inputs",
                move || {
                    while inputs.lock().unwrap_or_else(PoisonError::into_inner).digest_one(&scratch) {}
                },
            );
        if let Err(error) = read {
            self.follows.push_back(Input::NotSpawned(Failure::start("cannot start", error)));
        }
    }

    /// Nobody takes what the payload writes there: it is to see that, as it would without us.
    fn stream_closed(&mut self, descriptor: u8, lost: Option<std::io::Error>) {
        if self.launch.readers.contains(&descriptor) {
            self.tell_init(&Request::CloseReader(descriptor));
        }
        match lost {
            None => tracing::info!("nobody reads descriptor {descriptor} any more"),
            Some(error) => {
                let why = format!("what the program wrote to descriptor {descriptor} cannot be passed on: {error}");
                tracing::error!("{why}");
                self.chirp.tell(Attribute::Warning(why.clone()));
                self.lost.get_or_insert(why);
            }
        }
    }
}
