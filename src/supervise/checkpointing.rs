//! The supervisor's part in a checkpoint: when, the dump, what follows a success and what follows a failure.

use std::fs;
use std::time::{Duration, Instant};

use super::events::Event;
use super::policy;
use super::save::{self, Committed, Saving};
use super::streams::{self, Stream};
use super::supervisor::{State, Step, Supervisor, patience};
use crate::checkpoint::Reason;
use crate::checkpoint::manifest::{self, Cost, History, Host, Inner, Manifest};
use crate::criu::{command, log};
use crate::exit::Ended;
use crate::sandbox::{ClockReadings, CriuJob, Request};
use crate::settings::Interval;

/// After a dump that failed the next try comes after this much, then twice, four times … as much.
const RETRY: Duration = Duration::from_secs(5 * 60);
/// Doublings of [`RETRY`]: up to 160 minutes.
const RETRY_DOUBLINGS: u32 = 5;

impl Supervisor {
    /// Sets the time of the next periodic checkpoint.
    pub(super) fn schedule(&mut self) {
        let settings = &self.launch.settings;
        self.next_checkpoint = None;
        // Without a code in the ad, HTCondor would take the exit after a periodic checkpoint for the job's end.
        if self.launch.job.checkpoint_code().is_none() || settings.interval == Interval::Never {
            return;
        }
        let regular = match settings.interval {
            Interval::Never => return,
            Interval::Every(interval) => interval,
            Interval::Auto => policy::optimal_interval(
                Duration::from_secs_f64(self.last_cost()),
                settings.mean_time_between_evictions,
                settings.checkpoint_share,
            ),
        };
        let wait = match settings.first_checkpoint {
            Some(first) if self.generation == 0 => regular.min(first),
            _ => regular,
        };
        let wait = if self.failures > 0 {
            wait.max(RETRY * 2_u32.pow((self.failures - 1).min(RETRY_DOUBLINGS)))
        } else {
            wait
        };
        tracing::info!(seconds = wait.as_secs_f64(), "next checkpoint");
        self.next_checkpoint = Some(Instant::now() + wait);
    }

    /// Seconds that the last checkpoint cost the payload; before the first, what a small one costs.
    fn last_cost(&self) -> f64 {
        /// Measured on a real pool: exit 85 to running again takes 1 to 2 s for a small job (htcondor-facts, section 10).
        const SMALL: f64 = 2.0;
        self.history.gap_seconds.unwrap_or(SMALL)
    }

    /// Begins a dump.
    pub(super) fn begin_checkpoint(&mut self, reason: Reason) {
        let Some(tree) = self.tree else { return };
        self.next_checkpoint = None;
        let images = self.images_dir();
        let _ = fs::remove_dir_all(&images);
        if let Err(error) = fs::create_dir(&images) {
            tracing::error!("cannot checkpoint: cannot create {}: {error}", images.display());
            self.go_on_after_failure();
            return;
        }
        let resident = self.sandbox.resident_bytes();
        tracing::info!(%reason, generation = self.generation + 1, resident_bytes = resident, "saving");
        let began = Instant::now();
        let sender = self.sender.clone();
        let target = save::Target {
            state_dir: self.launch.plan.state_dir(),
            images,
            checkpoint: self.launch.checkpoint.clone(),
            began,
            compression: self.launch.settings.compression,
            threads: self.threads(),
        };
        match Saving::begin(target, move |result| drop(sender.send(Event::Packed(result.map(Box::new))))) {
            Ok(saving) => self.saving = Some(saving),
            Err(why) => {
                tracing::error!("cannot save the payload: {why}");
                self.go_on_after_failure();
                return;
            }
        }
        self.relays.pause();
        self.state = State::Dumping { reason, began };
        self.resident = resident;
        self.deadline = Some(began + self.launch.settings.dump_timeout.unwrap_or_else(|| patience(resident)));
        let args = self.with_places(|places| command::dump(places, self.launch.plan.network, tree.root));
        self.tell_init(&Request::Criu { job: CriuJob::Dump, args });
    }

    /// criu ended: the tree is stopped and saved, or goes on.
    pub(super) fn dumped(&mut self, ended: Ended) -> Step {
        self.deadline = None;
        let (State::Dumping { reason, began }, Some(saving)) = (self.state, self.saving.take()) else { return None };
        if ended != Ended::Exited(0) {
            let cause = log::cause(&self.work_dir().join(command::DUMP_LOG), &self.work_dir().join("criu.out"));
            match saving.end() {
                Some(why) => tracing::error!("cannot save the payload: {why}"),
                None => tracing::error!("cannot save the payload: {}", cause.why),
            }
            if let Some(remedy) = &cause.remedy {
                tracing::error!("what to do: {remedy}");
            }
            for line in &cause.lines {
                tracing::error!("criu: {line}");
            }
            self.go_on_after_failure();
            return None;
        }
        self.state = State::Packing { reason, began };
        if let Err(why) = self.stopped(reason).and_then(|stopped| saving.go_on(stopped)) {
            tracing::error!("cannot save the payload: {why}");
            self.go_on_after_failure();
        }
        None
    }

    /// What there is to save beside criu's images.
    fn stopped(&self, reason: Reason) -> Result<save::Stopped, String> {
        let launch = &self.launch;
        let uname = nix::sys::utsname::uname().map_err(|error| error.to_string())?;
        let text = |part: &std::ffi::OsStr| part.to_string_lossy().into_owned();
        let clock = ClockReadings::now().map_err(|error| error.to_string())?.seen_with(self.offsets);
        let mode = std::os::unix::fs::PermissionsExt::mode(
            &fs::metadata(&launch.job.scratch).map_err(|error| error.to_string())?.permissions(),
        );
        let manifest = Manifest {
            format: manifest::FORMAT,
            generation: self.generation + 1,
            created: 0,
            reason,
            job: launch.job.id(),
            program: launch.program.clone(),
            condor_criu: env!("CARGO_PKG_VERSION").to_owned(),
            host: Host {
                name: text(uname.nodename()),
                kernel: text(uname.release()),
                criu: launch.criu.version.to_string(),
            },
            identity: Inner {
                uid: launch.identity.inner_uid,
                gid: launch.identity.inner_gid,
                groups: launch.groups.clone(),
            },
            clock,
            job_dir: launch.plan.job_dir.clone(),
            job_dir_mode: mode & 0o7777,
            network: launch.plan.network,
            tree: self.tree.ok_or("there is no payload")?,
            streams: streams::sizes(&launch.streams, &launch.job.scratch),
            relayed: (0..3).filter(|number| launch.streams[usize::from(*number)] == Stream::Relayed).collect(),
            inputs: Vec::new(),
            cost: Cost { resident_bytes: self.resident, ..Cost::default() },
            history: History { run_seconds: self.history.run_seconds + self.ran(), ..self.history },
        };
        Ok(save::Stopped {
            scratch: launch.job.scratch.clone(),
            shm: self.shm_path(),
            reaper: launch.plan.reaper.clone(),
            not_carried: launch.not_carried.clone(),
            inputs: std::sync::Arc::clone(&self.inputs),
            manifest,
        })
    }

    /// Packed and committed, or not.
    pub(super) fn packed(&mut self, result: Result<Box<Committed>, String>) -> Step {
        let State::Packing { reason, .. } = self.state else { return None };
        match result {
            Ok(committed) => {
                self.generation = committed.manifest.generation;
                tracing::info!(
                    generation = self.generation,
                    %reason,
                    frozen_seconds = committed.manifest.cost.frozen_seconds,
                    commit_seconds = committed.seconds,
                    bytes = committed.bytes,
                    "committed"
                );
                self.failures = 0;
                let leave = self.vacate.is_some() || self.launch.job.checkpoint_code().is_some();
                if leave {
                    return Some(Ok(self.checkpointed()));
                }
                self.thaw();
                None
            }
            Err(why) => {
                tracing::error!("cannot save the payload: {why}; the checkpoint before it stands");
                self.go_on_after_failure();
                None
            }
        }
    }

    /// Lets the stopped tree go on.
    fn thaw(&mut self) {
        self.tell_init(&Request::Resume);
        self.relays.resume();
        save::remove_link_remaps(&self.launch.job.scratch, &self.launch.not_carried);
        let _ = fs::remove_dir_all(self.images_dir());
        self.state = State::Running;
        self.schedule();
    }

    /// The payload goes on unharmed. If we were asked to leave, it gets the signal, so that a program with a handler of
    /// its own can use it.
    fn go_on_after_failure(&mut self) {
        self.failures += 1;
        self.thaw();
        if let Some(signal) = self.vacate {
            tracing::warn!(%signal, "passing the signal on: nothing newer than generation {} is saved", self.generation);
            self.next_checkpoint = None;
            self.tell_init(&Request::Signal(signal as i32));
        }
    }
}
