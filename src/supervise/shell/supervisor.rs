//! The event loop: events become inputs of the machine, and its actions are done one after the other.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};

use super::early::Early;
use super::event::Event;
use super::plan::Plan;
use crate::checkpoint::Inputs;
use crate::checkpoint::manifest::{Cost, History, Tree};
use crate::clock::Boot;
use crate::exit::{Exit, Failure};
use crate::htcondor::chirp::Chirp;
use crate::sandbox::{ClockOffsets, Request, Sandbox};
use crate::supervise::machine::{Action, End, Input, Machine, Moment};
use crate::supervise::prepare::launch::Launch;
use crate::supervise::work::relay::Relays;
use crate::supervise::work::save::Saving;
use crate::supervise::work::unpack::{Finish, Serving};

/// What a supervisor is made of.
pub struct Parts {
    pub launch: Launch,
    pub sandbox: Sandbox,
    pub events: Receiver<Event>,
    pub sender: Sender<Event>,
    pub relays: Relays,
    pub inputs: Inputs,
    pub chirp: Chirp,
    pub advice: String,
}

/// What deeds need.
pub struct Supervisor {
    pub(super) launch: Launch,
    pub(super) sandbox: Sandbox,
    pub(super) machine: Machine,
    /// What the machine wants done before anything happens.
    first: Vec<Action>,
    /// Inputs that follow from a deed, before anything else that happens.
    pub(super) follows: VecDeque<Input>,
    events: Receiver<Event>,
    pub(super) sender: Sender<Event>,
    pub(super) started: Instant,
    pub(super) relays: Relays,
    /// Why some of the payload's output is lost, if it is.
    pub(super) lost: Option<String>,
    /// The checkpoint that is being taken.
    pub(super) saving: Option<Saving>,
    /// What it is to be.
    pub(super) this_save: ThisSave,
    pub(super) serving: Option<Serving>,
    /// What is left to do for the files of a restore.
    pub(super) finish: Finish,
    pub(super) inputs: Arc<Mutex<Inputs>>,
    pub(super) tree: Option<Tree>,
    /// The last committed generation; 0 before the first.
    pub(super) generation: u64,
    pub(super) history: History,
    pub(super) offsets: ClockOffsets,
    /// When the next checkpoint is due.
    pub(super) plan: Plan,
    /// What the last checkpoint cost.
    pub(super) last_cost: Option<Cost>,
    /// The way to the pool.
    pub(super) chirp: Chirp,
    /// What the job ad lacks: the warning that stands while nothing worse is to be said.
    pub(super) advice: String,
    /// A save that failed was told to the pool, and none has succeeded since.
    pub(super) warned: bool,
    /// What the payload has that cannot be carried.
    pub(super) early: Early,
    /// When the checkpoint was packed, if this is its restart in place.
    pub(super) packed_here: Option<Boot>,
    pub(super) running_since: Option<Instant>,
    /// That the time of an interrupted call is not known has been said.
    pub(super) said_unknown: bool,
}

/// What is known of the save that is being taken.
#[derive(Debug, Clone, Copy)]
pub(super) struct ThisSave {
    /// Resident memory of the payload then, in bytes.
    pub(super) resident: u64,
    /// How much work its packing is, see `vacate_window::effort`.
    pub(super) effort: f64,
    /// criu has been given up.
    pub(super) given_up: bool,
}

/// How it ended, and whether HTCondor wanted the slot back.
pub struct Ending {
    /// The exit status, or the failure that has one.
    pub result: Result<Exit, Failure>,
    /// In a vacate HTCondor takes every exit for a requeue.
    pub vacated: bool,
}

impl Supervisor {
    pub(super) fn new(parts: Parts) -> Supervisor {
        let Parts { launch, sandbox, events, sender, relays, inputs, chirp, advice } = parts;
        let opened = launch.opened.as_ref();
        let (machine, first) = Machine::begin(launch.rules(), opened.is_some());
        Supervisor {
            machine,
            first,
            follows: VecDeque::new(),
            events,
            sender,
            started: Instant::now(),
            relays,
            lost: None,
            saving: None,
            this_save: ThisSave { resident: 0, effort: 1.0, given_up: false },
            serving: None,
            finish: Finish::default(),
            inputs: Arc::new(Mutex::new(inputs)),
            tree: None,
            generation: opened.map_or(0, |opened| opened.manifest.generation),
            history: opened.map(|opened| opened.manifest.history).unwrap_or_default(),
            offsets: ClockOffsets::default(),
            plan: Plan::default(),
            last_cost: opened.map(|opened| opened.manifest.cost),
            chirp,
            advice,
            warned: false,
            early: Early::default(),
            packed_here: None,
            running_since: None,
            said_unknown: false,
            launch,
            sandbox,
        }
    }

    /// Until there is an exit status.
    pub fn run(mut self) -> Ending {
        let mut actions = VecDeque::from(std::mem::take(&mut self.first));
        let end = loop {
            match self.do_all(&mut actions) {
                Some(end) => break end,
                None => actions.extend(self.wait_for_more()),
            }
        };
        self.finish(end)
    }

    /// Does what is to be done, and what follows from that; the end, if it has come.
    fn do_all(&mut self, actions: &mut VecDeque<Action>) -> Option<End> {
        loop {
            while let Some(action) = actions.pop_front() {
                if let Some(end) = self.act(action) {
                    return Some(end);
                }
                // What a deed led to comes before the next deed: a dump that is refused, say.
                while let Some(input) = self.follows.pop_front() {
                    let more = self.machine.next(self.now(), input);
                    actions.extend(more);
                }
            }
            if actions.is_empty() {
                return None;
            }
        }
    }

    /// Waits for the next thing that happens, or the next time that has come.
    fn wait_for_more(&mut self) -> Vec<Action> {
        let deadline = self.machine.deadline().and_then(|moment| self.started.checked_add(moment));
        let due = [deadline, self.plan.due(), self.early.due()].into_iter().flatten().min();
        let event = match due {
            Some(at) => self.events.recv_deadline(at),
            None => self.events.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        let input = match event {
            Ok(event) => self.understand(event),
            Err(RecvTimeoutError::Timeout) => self.time_has_come(),
            // We hold a sender ourselves.
            Err(RecvTimeoutError::Disconnected) => Some(Input::StarterGone),
        };
        let now = self.now();
        input.map(|input| self.machine.next(now, input)).unwrap_or_default()
    }

    pub(super) fn now(&self) -> Moment {
        self.started.elapsed()
    }

    fn time_has_come(&mut self) -> Option<Input> {
        let now = Instant::now();
        if self.early.due().is_some_and(|at| at <= now) {
            self.begin_scan();
        }
        if let Some(reason) = self.plan.take_due(now) {
            return Some(Input::Due(reason));
        }
        Some(Input::Tick)
    }

    /// Seconds that the payload has run in this life.
    pub(super) fn ran(&self) -> f64 {
        self.running_since.map_or(0.0, |since| since.elapsed().as_secs_f64())
    }

    pub(super) fn tell_init(&self, request: &Request) {
        if let Err(error) = self.sandbox.request(request) {
            // It is gone, which its own event says.
            tracing::debug!("cannot ask the sandbox: {error}");
        }
    }

    pub(super) fn work_dir(&self) -> PathBuf {
        self.launch.plan.state_dir().join("work")
    }

    pub(super) fn images_dir(&self) -> PathBuf {
        self.launch.plan.state_dir().join("images")
    }

    /// A path to the sandbox's `/dev/shm` from here.
    pub(super) fn shm_path(&self) -> PathBuf {
        use std::os::fd::AsRawFd;
        PathBuf::from(format!("/proc/self/fd/{}", self.sandbox.shm().as_raw_fd()))
    }
}
