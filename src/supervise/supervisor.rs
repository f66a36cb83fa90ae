//! The event loop: one enum of events, one enum of states, deadlines instead of sleeps.

use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use nix::sys::signal::Signal;
use signal_hook::iterator::Signals;

use super::alone;
use super::bring_back::{Finish, Serving};
use super::early::Early;
use super::ending::clean_up;
use super::events::{self, Event};
use super::launch::{self, Launch};
use super::placeholders;
use super::save::Saving;
use super::streams::{Relays, Stream};
use super::wall_clock;
use crate::checkpoint::manifest::{Boot, Cost, History, Tree};
use crate::checkpoint::{Inputs, Reason};
use crate::criu::command;
use crate::exit::{DEFAULT_CHECKPOINT_CODE, Ended, Exit, Failure};
use crate::host::cpu;
use crate::htcondor::advice::{advice, previous_not_carried};
use crate::htcondor::chirp::{Attribute, Chirp};
use crate::journal;
use crate::sandbox::{self, ClockOffsets, CriuJob, Request, STATE_DIR, Sandbox};

/// Bytes a second that even a slow disk and a busy processor manage; it only decides when criu is given up.
const SLOW: u64 = 20_000_000;
/// Given to criu whatever the size.
const PATIENCE: Duration = Duration::from_secs(120);

/// And to put everything back when it is given up.
const GRACE: Duration = Duration::from_secs(5);

/// Where the supervisor is in the life of the job.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum State {
    /// The payload has been asked for and does not run yet.
    Starting,
    /// The checkpoint's files are being put back.
    Unpacking,
    /// criu is restoring.
    Restoring,
    /// The payload runs.
    Running,
    /// criu is saving.
    Dumping { reason: Reason, began: Instant },
    /// The payload is stopped, the archive is being written.
    Packing { reason: Reason, began: Instant },
}

pub(super) struct Supervisor {
    pub(super) launch: Launch,
    pub(super) sandbox: Sandbox,
    pub(super) relays: Relays,
    /// The standard streams that the payload has open as pipes of ours, since its first start.
    pub(super) relayed: Vec<u8>,
    /// The checkpoint that is being taken.
    pub(super) saving: Option<Saving>,
    pub(super) serving: Option<Serving>,
    /// What is left to do for the files of a restore.
    pub(super) finish: Finish,
    pub(super) inputs: Arc<Mutex<Inputs>>,
    events: Receiver<Event>,
    pub(super) sender: Sender<Event>,
    pub(super) state: State,
    pub(super) tree: Option<Tree>,
    /// The last committed generation; 0 before the first.
    pub(super) generation: u64,
    pub(super) history: History,
    pub(super) offsets: ClockOffsets,
    /// When criu is given up.
    pub(super) deadline: Option<Instant>,
    /// When the next checkpoint is due.
    pub(super) next_checkpoint: Option<Instant>,
    /// When it would be due if no end of the slot were known.
    pub(super) regular: Option<Instant>,
    /// Why it will be taken.
    pub(super) next_reason: Reason,
    /// A checkpoint was asked for while there was nothing to save.
    pub(super) wanted: bool,
    /// HTCondor's startd has asked for a checkpoint: the next exit must be one (htcondor-facts, section 5).
    pub(super) promised: bool,
    /// The signal that asked us to leave was passed on to the payload.
    pub(super) passed_on: bool,
    /// The payload has ended, and that is being saved.
    pub(super) ended: Option<Ended>,
    /// There is no sandbox any more, and what was stopped in it is being packed.
    pub(super) gone: bool,
    /// What the last checkpoint cost.
    pub(super) last_cost: Option<Cost>,
    /// The way to the pool.
    pub(super) chirp: Chirp,
    /// What the job ad lacks: the warning that stands while nothing worse is to be said.
    pub(super) advice: String,
    /// What the payload has that cannot be carried.
    pub(super) early: Early,
    /// The signal that asked us to leave.
    pub(super) vacate: Option<Signal>,
    /// Dumps that failed since the last one that did not.
    pub(super) failures: u32,
    /// Resident memory of the payload when the last dump began, in bytes.
    pub(super) resident: u64,
    /// How much work its packing is, see [`super::window::effort`].
    pub(super) effort: f64,
    /// When the checkpoint was packed, if this is its restart in place.
    pub(super) packed_here: Option<Boot>,
    running_since: Option<Instant>,
    pub(super) started: Instant,
}

/// The loop goes on, or this is the end.
pub(super) type Step = Option<Result<Exit, Failure>>;

impl Supervisor {
    pub(super) fn start(launch: Launch, signals: Signals) -> Result<Supervisor, Failure> {
        // Once there is a checkpoint, another host can go on with it.
        let exit = if launch.opened.is_some() { Exit::CannotRestoreHere } else { Exit::CannotStart };
        let cannot = |error: std::io::Error| Failure::start("cannot start", error).with_exit(exit);
        let relayed: Vec<u8> = match &launch.opened {
            // What the payload has open are the pipes of its first start.
            Some(opened) => opened.manifest.relayed.clone(),
            None => (0..3).filter(|number| launch.streams[usize::from(*number)] == Stream::Relayed).collect(),
        };
        let pipes = Relays::prepare(&relayed, &launch.job.scratch).map_err(cannot)?;
        let inputs = match &launch.opened {
            Some(_) => Inputs::default(),
            None => Inputs::at_first_start(&launch.job.scratch, &launch.not_carried).map_err(cannot)?,
        };
        let sandbox = launch.sandbox()?;
        // Threads only from here on: the init is a copy of this process.
        let (sender, events) = crossbeam_channel::unbounded();
        events::watch_signals(signals, sender.clone()).map_err(cannot)?;
        events::watch_sandbox(sandbox.events().map_err(cannot)?, sender.clone()).map_err(cannot)?;
        if launch.job.under_htcondor()
            && let Err(error) = alone::watch_starter(sender.clone())
        {
            tracing::debug!("cannot see whether the starter lives: {error}");
        }
        if let Err(error) = wall_clock::watch(sender.clone()) {
            tracing::debug!("cannot see whether the clock is set: {error}");
        }
        let relays = Relays::start(pipes).map_err(cannot)?;
        let history = launch.opened.as_ref().map(|opened| opened.manifest.history).unwrap_or_default();
        let last_cost = launch.opened.as_ref().map(|opened| opened.manifest.cost);
        let job = &launch.job;
        let user_log = job.ad.as_ref().and_then(|ad| ad.boolean("WantIOProxy")) == Some(true);
        let chirp = Chirp::start(job.chirp_config(), user_log);
        let last_dump = last_cost.map(|cost| Duration::from_secs_f64(cost.frozen_seconds.clamp(0.0, 1e9)));
        let name = launch.place.newest.file_name().unwrap_or_default().to_string_lossy();
        let mut advice = advice(job, &name, journal::NAME, last_dump);
        let previous = launch.place.previous.as_ref().and_then(|path| path.file_name()?.to_str());
        advice.extend(previous.and_then(|name| previous_not_carried(job, name)));
        for piece in &advice {
            tracing::warn!("{piece}");
        }
        if launch.from_previous {
            advice.push("the newest checkpoint could not be restored: going on from the one before it".to_owned());
        }
        let advice = advice.join("; ");
        if !advice.is_empty() {
            chirp.tell(Attribute::Warning(advice.clone()));
        }
        chirp.tell(Attribute::Microarch(cpu::level(&launch.cpu.needs).microarch()));
        if job.told_of_an_end_in_this_attempt() {
            // HTCondor took it for an eviction, and the payload goes on from before it.
            chirp.tell(Attribute::EndedAttempt(-1));
        }
        let generation = launch.opened.as_ref().map_or(0, |opened| opened.manifest.generation);
        Ok(Supervisor {
            launch,
            sandbox,
            relays,
            relayed,
            saving: None,
            serving: None,
            finish: Finish::default(),
            inputs: Arc::new(Mutex::new(inputs)),
            events,
            sender,
            state: State::Starting,
            tree: None,
            generation,
            history,
            offsets: ClockOffsets::default(),
            deadline: None,
            next_checkpoint: None,
            regular: None,
            next_reason: Reason::Interval,
            wanted: false,
            promised: false,
            passed_on: false,
            ended: None,
            gone: false,
            last_cost,
            chirp,
            advice,
            early: Early::default(),
            vacate: None,
            failures: 0,
            resident: 0,
            effort: 1.0,
            packed_here: None,
            running_since: None,
            started: Instant::now(),
        })
    }

    /// Until there is an exit status.
    /// Also whether we had been asked to leave by then.
    pub(super) fn run(mut self) -> (Result<Exit, Failure>, bool) {
        let first = if self.launch.opened.is_some() { self.begin_unpacking() } else { self.begin_payload() };
        let result = match first {
            Some(result) => result,
            None => self.listen(),
        };
        // Nothing of the job outlives us.
        self.sandbox.kill();
        if let Ok(Exit::Payload(_) | Exit::AmbiguousCode) = result {
            // After a checkpoint, what is left in the pipes is part of it.
            self.relays.finish();
            match self.vacate {
                None => clean_up(&self.launch),
                // A dump that failed, say, and then the signal has ended the payload. HTCondor takes every end in a vacate
                // for a requeue, and the next host needs what was saved before.
                Some(_) => placeholders::make(&self.launch.job),
            }
        }
        self.chirp.finish();
        (result, self.vacate.is_some())
    }

    fn listen(&mut self) -> Result<Exit, Failure> {
        loop {
            let due = [self.deadline, self.next_checkpoint, self.early.due()].into_iter().flatten().min();
            let event = match due {
                Some(at) => self.events.recv_deadline(at),
                None => self.events.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            let step = match event {
                Ok(event) => self.answer(event),
                Err(RecvTimeoutError::Timeout) => self.time_has_come(),
                // We hold a sender ourselves.
                Err(RecvTimeoutError::Disconnected) => Some(Err(Failure::start("cannot go on", "no events any more"))),
            };
            if let Some(result) = step {
                return result;
            }
        }
    }

    fn answer(&mut self, event: Event) -> Step {
        match event {
            Event::Signal(number) => self.signalled(number),
            Event::Sandbox(event) => self.sandbox_says(event),
            Event::ClockSet => {
                self.clock_set();
                None
            }
            Event::Unpacked(result) => self.unpacked(result),
            Event::Scanned(findings) => {
                self.scanned(findings);
                None
            }
            Event::StreamBroken => {
                self.tell_init(&Request::KillCriu);
                None
            }
            Event::Packed(result) => self.packed(result),
            Event::StarterGone => Some(Err(Failure::start(
                "cannot go on",
                "the starter is gone, and nothing that is saved here would be carried: the job is started elsewhere",
            ))),
            Event::SandboxGone => self.sandbox_gone(),
        }
    }

    fn sandbox_says(&mut self, event: sandbox::Event) -> Step {
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
                self.now_running()
            }
            sandbox::Event::ExecFailed { errno, step } => Some(Err(self.cannot_execute(errno, &step))),
            sandbox::Event::CriuEnded { harmed: true, ended, .. } => Some(Err(self.payload_harmed(ended))),
            sandbox::Event::CriuEnded { job: CriuJob::Dump, ended, .. } => self.dumped(ended),
            sandbox::Event::CriuEnded { job: CriuJob::Restore, ended, root, .. } => self.restored(ended, root),
            sandbox::Event::PayloadEnded(ended) => self.payload_ended(ended),
        }
    }

    fn time_has_come(&mut self) -> Step {
        let now = Instant::now();
        if self.deadline.is_some_and(|at| at <= now) {
            self.deadline = None;
            return match (self.state, &mut self.saving) {
                (State::Restoring, _) => Some(Err(self.failed_restore("criu did not end in time", None))),
                (_, Some(saving)) if !saving.given_up() => {
                    tracing::error!("criu did not end in time and is given up");
                    saving.give_up();
                    self.deadline = Some(now + GRACE);
                    None
                }
                _ => {
                    tracing::error!("criu does not end and is killed");
                    self.tell_init(&Request::KillCriu);
                    None
                }
            };
        }
        if self.early.due().is_some_and(|at| at <= now) {
            self.begin_scan();
        }
        if self.next_checkpoint.is_some_and(|at| at <= now) {
            self.next_checkpoint = None;
            if self.state == State::Running {
                return self.begin_checkpoint(self.next_reason);
            }
        }
        None
    }

    fn begin_payload(&mut self) -> Step {
        self.tell_init(&Request::Clock(self.offsets));
        self.tell_init(&Request::Spawn);
        let inputs = Arc::clone(&self.inputs);
        let scratch = self.launch.job.scratch.clone();
        // Read while the payload runs, so that a checkpoint need not wait for it.
        let read = events::spawn("inputs", move || {
            while inputs.lock().unwrap_or_else(std::sync::PoisonError::into_inner).digest_one(&scratch) {}
        });
        read.err().map(|error| Err(Failure::start("cannot start", error)))
    }

    pub(super) fn now_running(&mut self) -> Step {
        self.state = State::Running;
        self.relays.resume();
        self.running_since = Some(Instant::now());
        self.early.begin();
        self.chirp.tell(Attribute::State("running"));
        self.schedule();
        // What was asked for while there was nothing to save.
        match (self.vacate, std::mem::take(&mut self.wanted)) {
            (Some(_), _) => self.begin_checkpoint(Reason::Vacate),
            (None, true) => self.begin_checkpoint(Reason::Signal),
            (None, false) => None,
        }
    }

    /// Seconds that the payload has run in this life.
    pub(super) fn ran(&self) -> f64 {
        self.running_since.map_or(0.0, |since| since.elapsed().as_secs_f64())
    }

    /// The end after a commit.
    pub(super) fn checkpointed(&self) -> Exit {
        Exit::Checkpointed(self.launch.job.checkpoint_code().unwrap_or(DEFAULT_CHECKPOINT_CODE))
    }

    pub(super) fn tell_init(&self, request: &Request) {
        if let Err(error) = self.sandbox.request(request) {
            // It is gone, which its own event says.
            tracing::debug!("cannot ask the sandbox: {error}");
        }
    }

    pub(super) fn work_dir(&self) -> PathBuf {
        self.launch.job.scratch.join(STATE_DIR).join("work")
    }

    pub(super) fn images_dir(&self) -> PathBuf {
        self.launch.job.scratch.join(STATE_DIR).join("images")
    }

    /// A path to the sandbox's `/dev/shm` from here.
    pub(super) fn shm_path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.sandbox.shm().as_raw_fd()))
    }

    pub(super) fn threads(&self) -> usize {
        launch::threads(&self.launch.settings, &self.launch.job)
    }

    pub(super) fn with_places<T>(&self, make: impl FnOnce(&command::Places<'_>) -> T) -> T {
        let state = self.launch.plan.inner_state_dir();
        make(&command::Places {
            images: &state.join("images"),
            work: &state.join("work"),
            job: &self.launch.plan.job_dir,
        })
    }
}

/// How long criu may take for this many bytes.
pub(super) fn patience(bytes: u64) -> Duration {
    PATIENCE + Duration::from_secs(bytes / SLOW)
}
