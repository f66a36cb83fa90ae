//! The supervisor's part in a restore: files first, then criu, which asks for its images as it goes.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use super::event::{self, Event};
use super::supervisor::Supervisor;
use crate::checkpoint::Reason;
use crate::checkpoint::manifest::Tree;
use crate::clock;
use crate::criu::{command, log};
use crate::exit::{Ended, Exit, Failure};
use crate::htcondor::chirp::Attribute;
use crate::journal::Record;
use crate::sandbox::{ClockReadings, CriuJob, Request};
use crate::supervise::machine::{Input, Unpacked};
use crate::supervise::patience;
use crate::supervise::timing::interval;
use crate::supervise::work::unpack::{self, Places, Serving};

impl Supervisor {
    pub(super) fn unpack(&mut self) {
        let Some(opened) = self.launch.opened.as_ref().map(Arc::clone) else { return };
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
        let threads = self.launch.threads();
        let ours = !self.launch.settings.foreign;
        let sender = self.sender.clone();
        let unpack = event::spawn("unpack", move || {
            let places = Places { scratch: &scratch, not_carried: &not_carried, shm: &shm, ours, threads };
            let result = unpack::unpack(&opened, &checkpoint, &places);
            let _ = sender.send(Event::Unpacked(Box::new(result)));
        });
        if let Err(error) = unpack {
            let failure = Failure::start("cannot start", error).with_exit(Exit::CannotRestoreHere);
            self.follows.push_back(Input::Unpacked(Unpacked::Failed(failure)));
        }
    }

    pub(super) fn unpacked(&mut self, unpacked: unpack::Unpacked) -> Input {
        self.inputs = Arc::new(Mutex::new(unpacked.inputs));
        self.finish = unpacked.finish;
        let ended = self.launch.opened.as_ref().and_then(|opened| opened.manifest.finished);
        if let Some(ended) = ended {
            tracing::info!("the payload had ended by {ended} before the last checkpoint");
            return Input::Unpacked(Unpacked::Ended(ended));
        }
        let size = self.launch.checkpoint.metadata().map_or(0, |metadata| metadata.len());
        let patience = self.launch.settings.restore_timeout.unwrap_or_else(|| patience(size));
        Input::Unpacked(Unpacked::Files { patience })
    }

    pub(super) fn restore(&mut self) {
        // Given away: when it is served, its memory is free again.
        let Some(opened) = self.launch.opened.take() else { return };
        let rewrite = unpack::rewrite(&opened.manifest, &self.launch.groups, &self.launch.kernel);
        let sender = self.sender.clone();
        let broken = move || drop(sender.send(Event::StreamBroken));
        let (finish, shm) = (std::mem::take(&mut self.finish), self.shm_path());
        let held = move || finish.finish_files(&shm);
        match Serving::begin(opened, &self.images_dir(), rewrite, self.launch.threads(), broken, held) {
            Ok(serving) => self.serving = Some(serving),
            Err(failure) => {
                self.follows.push_back(Input::NotRestored(failure));
                return;
            }
        }
        self.tell_init(&Request::Clock(self.offsets));
        let args = self.launch.with_places(|places| command::restore(places, self.launch.plan.network));
        self.tell_init(&Request::Criu { job: CriuJob::Restore, args });
    }

    pub(super) fn restored(&mut self, ended: Ended, root: Option<i32>) -> Input {
        // After a good end the last images may still be on their way to nobody; the thread ends by itself.
        let serving = self.serving.take();
        let (Ended::Exited(0), Some(root), Some(tree)) = (ended, root, self.tree) else {
            if let Some(failure) = serving.and_then(|serving| serving.end(&self.launch.checkpoint)) {
                return Input::NotRestored(failure);
            }
            let (log, words) = self.criu_logs(command::RESTORE_LOG);
            let cause = log::cause(&log, &words);
            for line in &cause.lines {
                tracing::error!("criu: {line}");
            }
            return Input::NotRestored(self.failed_restore(&cause.why, cause.remedy));
        };
        self.tree = Some(Tree { root, ..tree });
        self.tell_init(&Request::Adopt { main: tree.main });
        let seconds = self.started.elapsed().as_secs_f64();
        Record::Restored { generation: self.generation, seconds }.tell();
        if self.launch.job.failed_restores() > 0 && !self.launch.from_previous {
            self.chirp.tell(Attribute::FailedRestores(0));
        }
        self.learn_of_the_upload(seconds);
        Input::Restored
    }

    /// At a restart in place: how long the upload took, from the end of the save until now.
    fn learn_of_the_upload(&mut self, seconds: f64) {
        let now = clock::boot();
        let since = self.packed_here.take().zip(now).and_then(|(then, now)| clock::between(&then, &now));
        let Some(since) = since else { return };
        let frozen = self.last_cost.map_or(0.0, |cost| cost.frozen_seconds);
        let gap = (since + frozen).clamp(0.0, 1e6);
        self.history.gap_seconds = Some(self.history.gap_seconds.map_or(gap, |before| (before + gap) / 2.0));
        let bytes = self.launch.checkpoint.metadata().map_or(0, |metadata| metadata.len());
        if let Some(rate) = interval::upload_rate(bytes, since - seconds) {
            tracing::info!(bytes_per_second = rate, "the upload, as far as it can be told");
            self.history.upload_rate = Some(self.history.upload_rate.map_or(rate, |before| (before + rate) / 2.0));
        }
    }

    /// criu's log and what it wrote besides.
    pub(super) fn criu_logs(&self, name: &str) -> (PathBuf, PathBuf) {
        (self.work_dir().join(name), self.work_dir().join("criu.out"))
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
