//! The supervisor's part in a restore: files first, then criu, which asks for its images as it goes.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::bring_back::{self, Places, Serving, Unpacked};
use super::events::{self, Event};
use super::policy;
use super::supervisor::{State, Step, Supervisor, patience};
use super::wall_clock;
use crate::checkpoint::Reason;
use crate::checkpoint::manifest::Tree;
use crate::criu::{command, log};
use crate::exit::{Ended, Exit, Failure};
use crate::htcondor::chirp::Attribute;
use crate::sandbox::{ClockReadings, CriuJob, Request};

impl Supervisor {
    pub(super) fn begin_unpacking(&mut self) -> Step {
        self.state = State::Unpacking;
        let opened = Arc::clone(self.launch.opened.as_ref()?);
        let manifest = &opened.manifest;
        tracing::info!(generation = manifest.generation, reason = %manifest.reason, from = %manifest.host.name, "restoring");
        self.chirp.tell(Attribute::State("restoring"));
        self.chirp.tell(Attribute::Generation(manifest.generation));
        if manifest.reason == Reason::Interval && manifest.host.name == self.launch.host {
            self.packed_here = manifest.host.boot.clone();
        }
        let then = manifest.clock;
        self.offsets = ClockReadings::now().unwrap_or(then).offsets_to(then);
        self.tree = Some(manifest.tree);
        let scratch = self.launch.job.scratch.clone();
        let checkpoint = self.launch.checkpoint.clone();
        let not_carried = self.launch.not_carried.clone();
        let shm = self.shm_path();
        let threads = self.threads();
        let ours = !self.launch.settings.foreign;
        let sender = self.sender.clone();
        let unpack = events::spawn("unpack", move || {
            let places = Places { scratch: &scratch, not_carried: &not_carried, shm: &shm, ours, threads };
            let result = bring_back::unpack(&opened, &checkpoint, &places);
            let _ = sender.send(Event::Unpacked(result));
        });
        unpack.err().map(|error| Err(Failure::start("cannot start", error).with_exit(Exit::CannotRestoreHere)))
    }

    pub(super) fn unpacked(&mut self, result: Result<Unpacked, Failure>) -> Step {
        match result {
            Err(failure) => Some(Err(failure)),
            Ok(_) if self.vacate.is_some() => Some(Ok(self.checkpointed())),
            Ok(unpacked) => {
                self.inputs = Arc::new(Mutex::new(unpacked.inputs));
                self.finish = unpacked.finish;
                // Given away: when it is served, its memory is free again.
                let opened = self.launch.opened.take()?;
                if let Some(ended) = opened.manifest.finished {
                    tracing::info!("the payload had ended by {ended} before the last checkpoint");
                    return Some(Ok(Exit::Payload(ended)));
                }
                let rewrite = bring_back::rewrite(&opened.manifest, &self.launch.groups, &self.launch.kernel);
                let sender = self.sender.clone();
                let broken = move || drop(sender.send(Event::StreamBroken));
                match Serving::begin(opened, &self.images_dir(), rewrite, self.threads(), broken) {
                    Ok(serving) => self.serving = Some(serving),
                    Err(failure) => return Some(Err(failure)),
                }
                self.state = State::Restoring;
                let size = self.launch.checkpoint.metadata().map_or(0, |metadata| metadata.len());
                let timeout = self.launch.settings.restore_timeout;
                self.deadline = Some(Instant::now() + timeout.unwrap_or_else(|| patience(size)));
                self.tell_init(&Request::Clock(self.offsets));
                let args = self.with_places(|places| command::restore(places, self.launch.plan.network));
                self.tell_init(&Request::Criu { job: CriuJob::Restore, args });
                None
            }
        }
    }

    pub(super) fn restored(&mut self, ended: Ended, root: Option<i32>) -> Step {
        self.deadline = None;
        // After a good end the last images may still be on their way to nobody; the thread ends by itself.
        let serving = self.serving.take();
        let (Ended::Exited(0), Some(root), Some(tree)) = (ended, root, self.tree) else {
            if let Some(failure) = serving.and_then(|serving| serving.end(&self.launch.checkpoint)) {
                return Some(Err(failure));
            }
            let cause = log::cause(&self.work_dir().join(command::RESTORE_LOG), &self.work_dir().join("criu.out"));
            for line in &cause.lines {
                tracing::error!("criu: {line}");
            }
            return Some(Err(self.failed_restore(&cause.why, cause.remedy)));
        };
        self.tree = Some(Tree { root, ..tree });
        std::mem::take(&mut self.finish).finish_files(&self.shm_path());
        self.tell_init(&Request::Adopt { main: tree.main });
        let seconds = self.started.elapsed().as_secs_f64();
        tracing::info!(generation = self.generation, seconds, "the payload runs again");
        if self.launch.job.failed_restores() > 0 && !self.launch.from_previous {
            self.chirp.tell(Attribute::FailedRestores(0));
        }
        let now = wall_clock::boot();
        let since = self.packed_here.take().zip(now).and_then(|(then, now)| wall_clock::between(&then, &now));
        if let Some(since) = since {
            let frozen = self.last_cost.map_or(0.0, |cost| cost.frozen_seconds);
            let gap = (since + frozen).clamp(0.0, 1e6);
            self.history.gap_seconds = Some(self.history.gap_seconds.map_or(gap, |before| (before + gap) / 2.0));
            let bytes = self.launch.checkpoint.metadata().map_or(0, |metadata| metadata.len());
            if let Some(rate) = policy::upload_rate(bytes, since - seconds) {
                tracing::info!(bytes_per_second = rate, "the upload, as far as it can be told");
                self.history.upload_rate = Some(self.history.upload_rate.map_or(rate, |before| (before + rate) / 2.0));
            }
        }
        self.now_running()
    }

    /// It was tried here and failed: two such hosts in a row are one too many (`choose`).
    pub(super) fn failed_restore(&self, why: &str, remedy: Option<String>) -> Failure {
        self.chirp.tell(Attribute::FailedRestores(self.launch.job.failed_restores_with_this()));
        self.cannot_restore(why, remedy)
    }

    pub(super) fn cannot_restore(&self, why: &str, remedy: Option<String>) -> Failure {
        Failure::start("cannot restore on this host", why)
            .with_remedy(
                remedy.unwrap_or_else(|| "the checkpoint is intact; let the job run on another host".to_owned()),
            )
            .with_exit(Exit::CannotRestoreHere)
    }
}
