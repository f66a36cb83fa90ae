//! The supervisor's part in a checkpoint: when, the dump, what follows a success and what follows a failure.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::carry;
use super::events::Event;
use super::save::{self, Committed, Saving};
use super::streams;
use super::supervisor::{State, Step, Supervisor, patience};
use super::window::{self, Fit, Last};
use crate::checkpoint::Reason;
use crate::checkpoint::archive::{Compression, WriteOptions};
use crate::checkpoint::manifest::{self, Cost, History, Host, Inner, Manifest, Processor};
use crate::criu::{command, locks, log};
use crate::exit::{Ended, Exit};
use crate::host::{baseline, cpu, limits, scan};
use crate::htcondor::advice::vacate_window;
use crate::htcondor::chirp::Attribute;
use crate::sandbox::compat;
use crate::sandbox::{ClockReadings, CriuJob, Request};

/// A cause that may be gone in a moment is tried again so soon, and so often, before it is a failure: a vacate has no more time.
const SOON: Duration = Duration::from_secs(1);
const SOON_TRIES: u32 = 8;

impl Supervisor {
    /// Bytes per second that the upload is expected to take: as set, else as seen.
    fn upload_rate(&self) -> Option<f64> {
        self.launch.settings.upload_rate.or(self.history.upload_rate)
    }

    /// How this checkpoint is packed; `None` if it would not be done before a vacate's end and an older one is there.
    fn compression(&self, reason: Reason, resident: u64) -> Option<Compression> {
        let set = self.launch.settings.compression;
        if reason != Reason::Vacate {
            return Some(set);
        }
        let time = vacate_window(&self.launch.job);
        let files =
            save::bytes_of_files(&self.launch.job.scratch, &self.launch.not_carried, &self.inputs, &self.shm_path());
        let last = self.last_cost.map(|cost| Last {
            bytes: cost.resident_bytes.saturating_add(cost.file_bytes),
            seconds: cost.frozen_seconds,
            effort: cost.effort,
            upload: self.history.gap_seconds.map(|gap| (gap - cost.frozen_seconds).max(0.0)),
        });
        let compression = match window::fit(resident.saturating_add(files), set, last, time) {
            Fit::Save(compression) => compression,
            Fit::Not(missing) if self.generation > 0 => {
                self.warn(format!(
                    "a checkpoint needs {:.1} s more than the {} s that a vacate leaves: generation {} stands; raise \
                     job_max_vacate_time",
                    missing.as_secs_f64(),
                    time.as_secs(),
                    self.generation
                ));
                return None;
            }
            // There is nothing to lose.
            Fit::Not(_) => window::quickest(set),
        };
        if compression != set {
            tracing::warn!(?compression, "a vacate leaves {} s: saving with less compression", time.as_secs());
        }
        Some(compression)
    }

    /// Begins a dump.
    pub(super) fn begin_checkpoint(&mut self, reason: Reason) -> Step {
        let tree = self.tree?;
        self.next_checkpoint = None;
        if let Some(why) = scan::wrong_if_restored(&self.sandbox.proc()) {
            self.go_on_after_failure(&why);
            return None;
        }
        compat::sweep(self.sandbox.shm());
        let images = self.images_dir();
        let _ = fs::remove_dir_all(&images);
        if let Err(error) = fs::create_dir(&images) {
            self.go_on_after_failure(&format!("cannot create {}: {error}", images.display()));
            return None;
        }
        let resident = self.sandbox.resident_bytes();
        let Some(compression) = self.compression(reason, resident) else { return Some(Ok(self.checkpointed())) };
        tracing::info!(%reason, generation = self.generation + 1, resident_bytes = resident, "saving");
        let began = Instant::now();
        let sender = self.sender.clone();
        self.chirp.tell(Attribute::State("saving"));
        let target = self.target(images, began, compression);
        match Saving::begin(target, move |result| drop(sender.send(Event::Packed(result.map(Box::new))))) {
            Ok(saving) => self.saving = Some(saving),
            Err(why) => {
                self.go_on_after_failure(&why);
                return None;
            }
        }
        self.relays.pause();
        self.state = State::Dumping { reason, began };
        self.resident = resident;
        self.effort = window::effort(compression);
        self.deadline = Some(began + self.launch.settings.dump_timeout.unwrap_or_else(|| patience(resident)));
        let args = self.with_places(|places| command::dump(places, self.launch.plan.network, tree.root));
        self.tell_init(&Request::Criu { job: CriuJob::Dump, args });
        None
    }

    fn target(&self, images: PathBuf, began: Instant, compression: Compression) -> save::Target {
        save::Target {
            state_dir: self.launch.plan.state_dir(),
            images,
            place: self.launch.commit_place(),
            began,
            options: WriteOptions { compression, threads: self.threads(), upload_rate: self.upload_rate() },
        }
    }

    /// The payload ended after HTCondor had been promised a checkpoint: its next exit must be one, and the status comes after it.
    pub(super) fn save_the_end(&mut self, ended: Ended) -> Result<(), String> {
        // A dump that was under way has nothing to save any more.
        if let Some(saving) = self.saving.take() {
            let _ = saving.end();
        }
        let began = Instant::now();
        let mut stopped = self.stopped(Reason::Signal)?;
        stopped.manifest.finished = Some(ended);
        let sender = self.sender.clone();
        let target = self.target(self.images_dir(), began, self.launch.settings.compression);
        save::finished(target, stopped, move |result| drop(sender.send(Event::Packed(result.map(Box::new)))))
            .map_err(|error| error.to_string())?;
        self.deadline = None;
        self.ended = Some(ended);
        self.state = State::Packing { reason: Reason::Signal, began };
        Ok(())
    }

    /// Says it in the log and to the pool.
    pub(super) fn warn(&self, text: String) {
        tracing::warn!("{text}");
        self.chirp.tell(Attribute::Warning(text));
    }

    /// criu ended: the tree is stopped and saved, or goes on.
    pub(super) fn dumped(&mut self, ended: Ended) -> Step {
        self.deadline = None;
        let (State::Dumping { reason, began }, Some(saving)) = (self.state, self.saving.take()) else { return None };
        if ended != Ended::Exited(0) {
            let cause = log::cause(&self.work_dir().join(command::DUMP_LOG), &self.work_dir().join("criu.out"));
            // A cause that is known is the cause: that images were left unfinished then only follows from it.
            let given_up = saving.given_up();
            let why = match (&cause.remedy, saving.end()) {
                _ if given_up => "criu did not end in time".to_owned(),
                (None, Some(ours)) => ours,
                _ => cause.why,
            };
            for line in &cause.lines {
                tracing::warn!("criu: {line}");
            }
            if cause.passes {
                if self.failures < SOON_TRIES {
                    tracing::warn!("cannot save the payload yet: {why}");
                    self.failures += 1;
                    self.thaw();
                    self.next_reason = reason;
                    self.regular = None;
                    self.next_checkpoint = Some(Instant::now() + SOON);
                    return None;
                }
                // All of these are one failure.
                self.failures = 0;
            }
            match &cause.remedy {
                Some(remedy) => self.go_on_after_failure(&format!("{why}; what to do: {remedy}")),
                None => self.go_on_after_failure(&why),
            }
            return None;
        }
        self.state = State::Packing { reason, began };
        if let Err(why) = self.stopped(reason).and_then(|stopped| saving.go_on(stopped)) {
            self.go_on_after_failure(&why);
        }
        None
    }

    /// What there is to save beside criu's images.
    fn stopped(&self, reason: Reason) -> Result<save::Stopped, String> {
        let launch = &self.launch;
        let clock = ClockReadings::now().map_err(|error| error.to_string())?.seen_with(self.offsets);
        let mode = std::os::unix::fs::PermissionsExt::mode(
            &fs::metadata(&launch.job.scratch).map_err(|error| error.to_string())?.permissions(),
        );
        let manifest = Manifest {
            format: manifest::FORMAT,
            // One that was given up keeps its number.
            generation: self.generation + 1 + u64::from(launch.from_previous),
            created: 0.0,
            reason,
            job: launch.job.id(),
            owner: launch.job.user(),
            attempt: launch.job.attempt(),
            program: launch.program.clone(),
            condor_criu: env!("CARGO_PKG_VERSION").to_owned(),
            host: Host {
                name: launch.host.clone(),
                kernel: launch.kernel.clone(),
                criu: launch.criu.version.to_string(),
                cpu: self.processor(),
                page_size: cpu::page_size(),
                boot: None,
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
            relayed: self.relayed.clone(),
            inputs: Vec::new(),
            removed: Vec::new(),
            sockets: Vec::new(),
            locks: locks::of_tree(&self.sandbox.proc()),
            unpacked_bytes: None,
            files: carry::choose(
                &self.sandbox.proc(),
                &self.sandbox.root(),
                &launch.plan.job_dir,
                &launch.settings.carry_files,
            ),
            limits: limits::of_tree(&self.sandbox.proc()),
            kernel_features: BTreeSet::new(),
            finished: None,
            cost: Cost { resident_bytes: self.resident, effort: Some(self.effort), ..Cost::default() },
            history: History { run_seconds: self.history.run_seconds + self.ran(), ..self.history },
        };
        Ok(save::Stopped {
            scratch: launch.job.scratch.clone(),
            shm: self.shm_path(),
            root: self.sandbox.root(),
            reaper: launch.plan.reaper.clone(),
            compat: launch.plan.compat.clone(),
            not_carried: launch.not_carried.clone(),
            inputs: std::sync::Arc::clone(&self.inputs),
            manifest,
        })
    }

    /// What the payload needs of a processor, as far as it can be seen by now.
    fn processor(&self) -> Processor {
        let cpu = &self.launch.cpu;
        if cpu.needs == cpu.offered || !cpu.offered.contains("avx512f") || cpu.needs.contains("avx512f") {
            return cpu.clone();
        }
        let uptime = ClockReadings::now().map_or(0, |clock| u64::try_from(clock.boottime_ns).unwrap_or(0));
        let ran = Duration::from_secs_f64(self.ran());
        let Some(who) = baseline::used_avx512(&self.sandbox.proc(), Duration::from_nanos(uptime), ran) else {
            return cpu.clone();
        };
        tracing::warn!(
            "{who} uses AVX-512 although cpu_baseline = {}: it asks the processor itself; the checkpoint needs all that the first \
             host offered",
            cpu.baseline
        );
        Processor { needs: cpu.offered.clone(), ..cpu.clone() }
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
                if self.failures > 0 || self.early.was_wrong() {
                    // The warning about dumps that fail is no longer true.
                    self.chirp.tell(Attribute::Warning(self.standing_warning()));
                }
                self.failures = 0;
                self.launch.committed();
                self.last_cost = Some(committed.manifest.cost);
                self.chirp.tell(Attribute::State("saved"));
                if self.launch.job.failed_restores() > 0 {
                    self.chirp.tell(Attribute::FailedRestores(0));
                }
                self.chirp.tell(Attribute::Generation(self.generation));
                self.chirp.tell(Attribute::CheckpointBytes(committed.bytes));
                self.chirp.tell(Attribute::FrozenSeconds(committed.manifest.cost.frozen_seconds));
                self.chirp.tell(Attribute::LastCheckpointTime(committed.manifest.created as u64));
                self.chirp.log(format!("condor-criu: checkpoint {} of {} bytes", self.generation, committed.bytes));
                let leave = self.vacate.is_some() || self.launch.job.checkpoint_code().is_some();
                if leave {
                    return Some(Ok(self.checkpointed()));
                }
                if self.gone {
                    return Some(self.sandbox_was_killed());
                }
                self.thaw();
                None
            }
            Err(why) => match self.ended {
                Some(ended) => {
                    tracing::error!("cannot save the payload's end: {why}");
                    Some(Ok(Exit::Payload(ended)))
                }
                None if self.gone => {
                    tracing::error!("cannot save the payload: {why}");
                    Some(self.sandbox_was_killed())
                }
                None => {
                    self.go_on_after_failure(&why);
                    None
                }
            },
        }
    }

    /// Lets the stopped tree go on.
    fn thaw(&mut self) {
        self.tell_init(&Request::Resume);
        self.relays.resume();
        save::remove_link_remaps(&self.launch.job.scratch, &self.launch.not_carried);
        let _ = fs::remove_dir_all(self.images_dir());
        self.state = State::Running;
        self.chirp.tell(Attribute::State("running"));
        self.schedule();
    }

    /// The payload goes on unharmed. If we were asked to leave, it gets the signal, so that a program with a handler of
    /// its own can use it.
    fn go_on_after_failure(&mut self, why: &str) {
        tracing::error!("cannot save the payload: {why}");
        self.chirp.tell(Attribute::Warning(format!("cannot be saved: {why}")));
        self.failures += 1;
        self.thaw();
        if let Some(signal) = self.vacate {
            tracing::warn!(%signal, "passing the signal on: nothing newer than generation {} is saved", self.generation);
            self.next_checkpoint = None;
            self.passed_on = true;
            self.tell_init(&Request::Signal(signal as i32));
        }
    }
}
