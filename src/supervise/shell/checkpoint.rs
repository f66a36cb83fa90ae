//! The supervisor's part in a checkpoint: when, the dump, what follows a success and what follows a failure.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::event::Event;
use super::supervisor::{Supervisor, ThisSave};
use crate::checkpoint::Reason;
use crate::checkpoint::archive::{Compression, WriteOptions};
use crate::checkpoint::manifest::{self, Cost, History, Host, Inner, Manifest, Processor};
use crate::criu::{command, locks, log};
use crate::exit::Ended;
use crate::host::{baseline, cpu, limits, scan};
use crate::htcondor::advice::vacate_window;
use crate::htcondor::chirp::Attribute;
use crate::journal::Record;
use crate::sandbox::compat;
use crate::sandbox::{ClockReadings, CriuJob, CriuRefusal, Request};
use crate::supervise::machine::{DumpEnd, Input, State};
use crate::supervise::patience;
use crate::supervise::prepare::host_files;
use crate::supervise::timing::vacate_window::{self, Fit, Last};
use crate::supervise::work::checkpoint_file::{Committed, HELPER_MAX, Stopped};
use crate::supervise::work::save::{self, Saving};
use crate::supervise::work::stdio;

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
        let compression = match vacate_window::fit(resident.saturating_add(files), set, last, time) {
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
            Fit::Not(_) => vacate_window::quickest(set),
        };
        if compression != set {
            tracing::warn!(?compression, "a vacate leaves {} s: saving with less compression", time.as_secs());
        }
        Some(compression)
    }

    /// Starts criu, or says why not.
    pub(super) fn dump(&mut self, reason: Reason) {
        let input = match self.try_dump(reason) {
            Ok(Some(patience)) => Input::DumpBegun { patience },
            Ok(None) => Input::NoTime,
            Err(why) => {
                self.say_not_saved(&why);
                Input::DumpRefused
            }
        };
        self.follows.push_back(input);
    }

    /// How long criu may take; `None` if there is no time for it at all.
    fn try_dump(&mut self, reason: Reason) -> Result<Option<Duration>, String> {
        let tree = self.tree.ok_or("there is no payload")?;
        if self.saving.as_ref().is_some_and(Saving::works) {
            return Err("the one before is still being written".to_owned());
        }
        if let Some(why) = scan::wrong_if_restored(&self.sandbox.proc()) {
            return Err(why);
        }
        compat::sweep(self.sandbox.shm());
        let images = self.images_dir();
        let _ = fs::remove_dir_all(&images);
        fs::create_dir(&images).map_err(|error| format!("cannot create {}: {error}", images.display()))?;
        let resident = self.sandbox.resident_bytes();
        let Some(compression) = self.compression(reason, resident) else { return Ok(None) };
        tracing::info!(%reason, generation = self.generation + 1, resident_bytes = resident, "saving");
        let began = Instant::now();
        self.chirp.tell(Attribute::State("saving"));
        let sender = self.sender.clone();
        let told = move |told| drop(sender.send(Event::Saving(told)));
        self.saving = Some(Saving::begin(self.target(images, began, compression), told)?);
        self.this_save = ThisSave { resident, effort: vacate_window::effort(compression), given_up: false };
        let args = self.launch.with_places(|places| command::dump(places, self.launch.plan.network, tree.root));
        self.tell_init(&Request::Criu { job: CriuJob::Dump, args });
        Ok(Some(self.launch.settings.dump_timeout.unwrap_or_else(|| patience(resident))))
    }

    fn target(&self, images: PathBuf, began: Instant, compression: Compression) -> save::Target {
        save::Target {
            state_dir: self.launch.plan.state_dir(),
            images,
            place: self.launch.commit_place(),
            began,
            options: WriteOptions { compression, threads: self.launch.threads(), upload_rate: self.upload_rate() },
        }
    }

    /// The payload ended after HTCondor had been promised a checkpoint: its next exit must be one, and the status comes
    /// after it.
    pub(super) fn save_the_end(&mut self, ended: Ended) {
        // What was under way has nothing to save any more.
        if let Some(mut saving) = self.saving.take() {
            saving.call_off();
            saving.give_up();
        }
        let told = if self.lost.is_some() && ended == Ended::Exited(0) { Ended::Exited(1) } else { ended };
        let begun = self.stopped(Reason::Signal).and_then(|mut stopped| {
            stopped.manifest.finished = Some(told);
            let sender = self.sender.clone();
            let target = self.target(self.images_dir(), Instant::now(), self.launch.settings.compression);
            let done = move |result: Result<Committed, String>| {
                drop(sender.send(Event::Saving(save::Told::Packed(result.map(Box::new)))))
            };
            save::finished(target, stopped, done).map_err(|error| error.to_string())
        });
        if let Err(why) = begun {
            tracing::error!("cannot save the payload's end: {why}");
            self.follows.push_back(Input::Packed(false));
        }
    }

    /// Says it in the log and to the pool.
    pub(super) fn warn(&self, text: String) {
        tracing::warn!("{text}");
        self.chirp.tell(Attribute::Warning(text));
    }

    fn say_not_saved(&mut self, why: &str) {
        tracing::error!("cannot save the payload: {why}");
        self.chirp.tell(Attribute::Warning(format!("cannot be saved: {why}")));
        self.warned = true;
    }

    /// criu holds the tree: what is saved must be the whole payload.
    pub(super) fn held(&mut self) -> Input {
        let unfit = self.tree.and_then(|tree| self.sandbox.unfit(tree.root));
        let Some(unfit) = unfit else { return Input::Held };
        match unfit.passes() {
            true => tracing::warn!("cannot save the payload yet: {unfit}"),
            false => self.say_not_saved(&unfit.to_string()),
        }
        Input::Unfit { passes: unfit.passes() }
    }

    /// criu was not started, and nothing was touched.
    pub(super) fn refused(&mut self, refusal: &CriuRefusal) -> Input {
        drop(self.saving.take().and_then(Saving::end));
        let CriuRefusal::SysvObjects(objects) = refusal;
        self.say_not_saved(&format!(
            "a process uses SysV semaphores, message queues or shared memory ({objects}), which CRIU cannot save without privilege; what to \
             do: use the program's setting for POSIX semaphores and shared memory or mmap"
        ));
        Input::DumpEnded(DumpEnd::PutBack { passes: false })
    }

    /// criu ended: it has put everything back.
    pub(super) fn dump_ended(&mut self, ended: Ended) -> Input {
        // When it was let go, its own words are of no interest.
        let waited = self.saving.as_ref().is_some_and(Saving::has_held);
        if waited {
            if matches!(self.machine.state(), State::Packing { .. }) {
                self.say_not_saved(&format!("criu ended by {ended} before the checkpoint was committed"));
            }
            return Input::DumpEnded(DumpEnd::PutBack { passes: false });
        }
        let (log, words) = self.criu_logs(command::DUMP_LOG);
        let cause = log::cause(&log, &words);
        // A cause that is known is the cause: that images were left unfinished then only follows from it.
        let ours = self.saving.take().and_then(Saving::end);
        let why = match (&cause.remedy, ours) {
            _ if self.this_save.given_up => "criu did not end in time".to_owned(),
            (None, Some(ours)) => ours,
            _ => cause.why,
        };
        for line in &cause.lines {
            tracing::warn!("criu: {line}");
        }
        match (cause.passes, &cause.remedy) {
            (true, _) => tracing::warn!("cannot save the payload yet: {why}"),
            (_, Some(remedy)) => self.say_not_saved(&format!("{why}; what to do: {remedy}")),
            (_, None) => self.say_not_saved(&why),
        }
        Input::DumpEnded(DumpEnd::PutBack { passes: cause.passes })
    }

    /// Packs the rest and commits.
    pub(super) fn pack(&mut self, reason: Reason) {
        let stopped = self.stopped(reason);
        let calls = stopped.as_ref().ok().and_then(|stopped| stopped.calls.as_deref()).unwrap_or_default();
        if calls.split(|byte| *byte == b'\n').any(|line| line.ends_with(b" unknown")) && !self.said_unknown {
            self.said_unknown = true;
            tracing::warn!(
                "a sleep or a wait with a timeout had been interrupted before, and nothing tells how much of its time was left: it begins \
                 again with the whole"
            );
        }
        let going = stopped.and_then(|stopped| match &mut self.saving {
            Some(saving) => saving.go_on(stopped),
            None => Err("there is nothing to pack".to_owned()),
        });
        if let Err(why) = going {
            self.say_not_saved(&why);
            self.follows.push_back(Input::Packed(false));
        }
    }

    /// What there is to save beside criu's images.
    fn stopped(&self, reason: Reason) -> Result<Stopped, String> {
        Ok(Stopped {
            scratch: self.launch.job.scratch.clone(),
            shm: self.shm_path(),
            root: self.sandbox.root(),
            reaper: self.launch.plan.reaper.clone(),
            compat: self.launch.plan.compat.clone(),
            calls: self.sandbox.calls().filter(|calls| calls.len() as u64 <= HELPER_MAX),
            not_carried: self.launch.not_carried.clone(),
            inputs: std::sync::Arc::clone(&self.inputs),
            manifest: self.manifest(reason)?,
        })
    }

    /// What the checkpoint says of itself, as far as it is known before packing.
    fn manifest(&self, reason: Reason) -> Result<Manifest, String> {
        let launch = &self.launch;
        let clock = ClockReadings::now().map_err(|error| error.to_string())?.seen_with(self.offsets);
        let mode = std::os::unix::fs::PermissionsExt::mode(
            &fs::metadata(&launch.job.scratch).map_err(|error| error.to_string())?.permissions(),
        );
        Ok(Manifest {
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
            host: self.host(),
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
            streams: stdio::sizes(&launch.streams, &launch.job.scratch),
            relayed: launch.relayed.clone(),
            readers: launch.readers.clone(),
            inputs: Vec::new(),
            removed: Vec::new(),
            sockets: Vec::new(),
            locks: locks::of_tree(&self.sandbox.proc()),
            unpacked_bytes: None,
            files: host_files::choose(
                &self.sandbox.proc(),
                &self.sandbox.root(),
                &launch.plan.job_dir,
                &launch.settings.carry_files,
            ),
            limits: limits::of_tree(&self.sandbox.proc()),
            kernel_features: BTreeSet::new(),
            finished: None,
            cost: Cost {
                resident_bytes: self.this_save.resident,
                effort: Some(self.this_save.effort),
                ..Cost::default()
            },
            history: History { run_seconds: self.history.run_seconds + self.ran(), ..self.history },
        })
    }

    /// Where this is.
    fn host(&self) -> Host {
        Host {
            name: self.launch.host.clone(),
            kernel: self.launch.kernel.clone(),
            criu: self.launch.criu.version.to_string(),
            cpu: self.processor(),
            page_size: cpu::page_size(),
            boot: None,
        }
    }

    /// What the payload needs of a processor, as far as it can be seen by now.
    fn processor(&self) -> Processor {
        let cpu = &self.launch.cpu;
        if cpu.needs == cpu.offered || !cpu.offered.contains("avx512f") || cpu.needs.contains("avx512f") {
            return cpu.clone();
        }
        let uptime = ClockReadings::now().map_or(0, |clock| u64::try_from(clock.boottime_ns).unwrap_or(0));
        let ran = Duration::from_secs_f64(self.ran());
        let criu = self.tree.and_then(|tree| self.sandbox.criu(tree.root));
        let Some(who) = baseline::used_avx512(&self.sandbox.proc(), Duration::from_nanos(uptime), ran, criu) else {
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
    pub(super) fn packed(&mut self, result: Result<Box<Committed>, String>) -> Input {
        match result {
            Ok(committed) => {
                self.committed(&committed);
                Input::Packed(true)
            }
            Err(why) => {
                self.say_not_saved(&why);
                Input::Packed(false)
            }
        }
    }

    /// Keeps in mind what the next one needs, and tells the pool.
    fn committed(&mut self, committed: &Committed) {
        let manifest = &committed.manifest;
        self.generation = manifest.generation;
        let told = Record::Committed {
            generation: self.generation,
            reason: manifest.reason.to_string(),
            frozen_seconds: manifest.cost.frozen_seconds,
            commit_seconds: committed.seconds,
            bytes: committed.bytes,
        };
        told.tell();
        if std::mem::take(&mut self.warned) || self.early.was_wrong() {
            // The warning about saves that fail is no longer true.
            self.chirp.tell(Attribute::Warning(self.standing_warning()));
        }
        self.launch.committed();
        self.last_cost = Some(manifest.cost);
        self.chirp.tell(Attribute::State("saved"));
        if self.launch.job.failed_restores() > 0 {
            self.chirp.tell(Attribute::FailedRestores(0));
        }
        self.chirp.tell(Attribute::Generation(self.generation));
        self.chirp.tell(Attribute::CheckpointBytes(committed.bytes));
        self.chirp.tell(Attribute::FrozenSeconds(manifest.cost.frozen_seconds));
        self.chirp.tell(Attribute::LastCheckpointTime(manifest.created as u64));
        self.chirp.log(format!("condor-criu: checkpoint {} of {} bytes", self.generation, committed.bytes));
    }

    /// The tree goes on after a save.
    pub(super) fn go_on(&mut self) {
        self.relays.resume();
        save::remove_link_remaps(&self.launch.job.scratch, &self.launch.not_carried);
        let _ = fs::remove_dir_all(self.images_dir());
        self.chirp.tell(Attribute::State("running"));
    }
}
