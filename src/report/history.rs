//! From a job's events to its stretches of time.
//!
//! A user log does not say whether an upload was a checkpoint. So: what a program did up to the beginning of its last
//! upload that was finished is kept, what it did after that is lost at an eviction. That is right for jobs under
//! condor-criu and for others that checkpoint themselves; for a job that only sends output home at an eviction it
//! flatters.

use std::collections::BTreeMap;

use super::model::{Job, Kind, Standing, Stretch};
use crate::htcondor::userlog::{Event, JobId};

/// Events of HTCondor's user log by number: condor_event.h of its source, and the manual's "Job Event Log Codes".
mod code {
    pub const SUBMIT: u16 = 0;
    pub const EXECUTE: u16 = 1;
    pub const EVICTED: u16 = 4;
    pub const TERMINATED: u16 = 5;
    pub const SHADOW_EXCEPTION: u16 = 7;
    pub const ABORTED: u16 = 9;
    pub const HELD: u16 = 12;
    pub const RELEASED: u16 = 13;
    pub const REMOTE_ERROR: u16 = 21;
    pub const DISCONNECTED: u16 = 22;
    pub const RECONNECTED: u16 = 23;
    pub const RECONNECT_FAILED: u16 = 24;
    pub const FILE_TRANSFER: u16 = 40;
}

/// Seconds that may lie between two events of one moment: a user log has whole seconds, and two processes write it.
const RESOLUTION: f64 = 2.0;

/// The jobs of these events.
pub fn jobs(events: &[Event]) -> Vec<Job> {
    let mut by_job: BTreeMap<JobId, Vec<&Event>> = BTreeMap::new();
    for event in events {
        by_job.entry(event.job).or_default().push(event);
    }
    by_job.into_iter().map(|(id, events)| job(id, &events)).collect()
}

fn job(id: JobId, events: &[&Event]) -> Job {
    let mut life = Life::new(id.to_string());
    for event in events {
        life.hear(event);
    }
    life.end(events.last().map_or(0.0, |event| event.at))
}

/// A job while its events are read.
struct Life {
    job: Job,
    open: Option<Stretch>,
    /// Index of the first stretch of this attempt.
    attempt: usize,
    /// Up to when the work of this attempt is at the access point.
    kept: Option<f64>,
    /// When the upload began that is under way.
    upload: Option<f64>,
}

impl Life {
    fn new(name: String) -> Life {
        let job = Job {
            name,
            stretches: Vec::new(),
            checkpoints: Vec::new(),
            standing: Standing::Waiting,
            cpus: 1.0,
            evictions: 0,
            saved: 0.0,
        };
        Life { job, open: None, attempt: 0, kept: None, upload: None }
    }

    fn hear(&mut self, event: &Event) {
        match event.code {
            code::SUBMIT => self.begin(Kind::Waiting, event.at, None),
            code::EXECUTE => {
                let slot = event.value("SlotName", ':').map(|slot| slot.rsplit('@').next().unwrap_or(slot).to_owned());
                if let Some(cpus) = event.value("Cpus", '=').and_then(|text| text.parse().ok()) {
                    self.job.cpus = cpus;
                }
                self.begin(Kind::Running, event.at, slot.or_else(|| alias(&event.text)));
                self.attempt = self.job.stretches.len();
                self.kept = None;
                self.upload = None;
                self.job.standing = Standing::Running;
            }
            code::FILE_TRANSFER => self.transfer(event),
            code::EVICTED | code::SHADOW_EXCEPTION | code::REMOTE_ERROR | code::RECONNECT_FAILED => {
                self.evicted(event.at)
            }
            code::TERMINATED => {
                self.close(event.at);
                self.job.standing = ended(&event.text);
            }
            code::ABORTED => {
                self.evicted(event.at);
                self.close(event.at);
                self.job.standing = Standing::Removed;
            }
            code::HELD => {
                self.evicted(event.at);
                self.begin(Kind::Held, event.at, None);
                self.job.standing = Standing::Held;
            }
            code::RELEASED => {
                self.begin(Kind::Waiting, event.at, None);
                self.job.standing = Standing::Waiting;
            }
            code::DISCONNECTED => self.begin(Kind::Disconnected, event.at, self.host()),
            code::RECONNECTED => self.begin(Kind::Running, event.at, self.host()),
            _ => {}
        }
    }

    fn transfer(&mut self, event: &Event) {
        let first = event.text.lines().next().unwrap_or_default();
        match (first.starts_with("Started"), first.contains("input files")) {
            (true, true) => self.begin(Kind::Transferring, event.at, alias(&event.text)),
            // Its end is told by the event "executing", which may stand before it in the log.
            (false, true) => {}
            (true, false) => {
                self.upload = Some(event.at);
                self.begin(Kind::Uploading, event.at, self.host());
            }
            (false, false) => {
                if first.starts_with("Finished")
                    && let Some(began) = self.upload.take()
                {
                    self.kept = Some(began);
                    // In place, unless an event says otherwise.
                    self.begin(Kind::Running, event.at, self.host());
                }
            }
        }
    }

    /// The end of an attempt that is not the job's.
    fn evicted(&mut self, at: f64) {
        let on_a_host = self.job.standing == Standing::Running;
        // What a vacate has saved and sent does not run again before it is told to be evicted: there was no restart in
        // place.
        if let Some(open) = &mut self.open
            && self.kept.is_some()
            && open.kind == Kind::Running
            && at - open.from <= RESOLUTION
        {
            open.kind = Kind::Uploading;
        }
        self.begin(Kind::Waiting, at, None);
        if !on_a_host {
            return;
        }
        self.job.standing = Standing::Waiting;
        self.job.evictions += 1;
        let kept = self.kept.unwrap_or(f64::NEG_INFINITY);
        let mut attempt = self.job.stretches.split_off(self.attempt.min(self.job.stretches.len()));
        for stretch in &mut attempt {
            if stretch.kind != Kind::Running {
                continue;
            }
            // An upload that was finished begins where a stretch ends, so that no stretch is in two parts.
            if stretch.from >= kept {
                stretch.kind = Kind::Lost;
            } else {
                self.job.saved += stretch.seconds();
            }
        }
        self.job.stretches.append(&mut attempt);
    }

    fn host(&self) -> Option<String> {
        self.open.as_ref().and_then(|open| open.host.clone())
    }

    fn begin(&mut self, kind: Kind, at: f64, host: Option<String>) {
        self.close(at);
        self.open = Some(Stretch { kind, from: at, to: at, host });
    }

    fn close(&mut self, at: f64) {
        if let Some(mut stretch) = self.open.take() {
            stretch.to = at.max(stretch.from);
            if stretch.to > stretch.from {
                self.job.stretches.push(stretch);
            }
        }
    }

    fn end(mut self, at: f64) -> Job {
        self.close(at);
        self.job
    }
}

/// `…&alias=ep1.pool&…` in an address.
fn alias(text: &str) -> Option<String> {
    let after = text.rsplit_once("alias=")?.1;
    Some(after.split(['&', '>']).next().unwrap_or(after).to_owned())
}

/// `(1) Normal termination (return value 42)` or `(0) Abnormal termination (signal 11)`
fn ended(text: &str) -> Standing {
    let number = |before: &str| -> Option<i64> { text.split(before).nth(1)?.split(')').next()?.trim().parse().ok() };
    match (number("(signal "), number("(return value ")) {
        (Some(signal), _) => Standing::Signaled(signal),
        (None, code) => Standing::Exited(code.unwrap_or(0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::htcondor::userlog::parse;
    use jiff::tz::TimeZone;

    fn log(lines: &[(&str, u32, &str)]) -> Vec<Job> {
        let text: String = lines
            .iter()
            .map(|(code, second, words)| {
                format!("{code} (7.0.0) 2026-11-24 10:{:02}:{:02} {words}\n...\n", second / 60, second % 60)
            })
            .collect();
        jobs(&parse(&text, &TimeZone::UTC, 2026))
    }

    const IN: &str = "Started transferring input files";
    const OUT: &str = "Started transferring output files";
    const SENT: &str = "Finished transferring output files";
    const RUN: &str = "Job executing on host: <1.2.3.4:9618?alias=ep1.pool&x>\n\tSlotName: slot1@ep1.pool\n\tCpus = 4";

    #[test]
    fn what_is_after_the_last_upload_is_lost_at_an_eviction() {
        let jobs = log(&[
            ("000", 0, "submitted"),
            ("040", 5, IN),
            ("001", 10, RUN),
            ("040", 40, OUT),
            ("040", 42, SENT),
            ("004", 60, "Job was evicted."),
            ("001", 70, RUN),
            ("040", 100, OUT),
            ("040", 101, SENT),
            ("005", 101, "Job terminated.\n\t(1) Normal termination (return value 42)"),
        ]);
        let job = &jobs[0];
        assert_eq!((job.name.as_str(), job.cpus, job.evictions), ("7.0", 4.0, 1));
        assert_eq!(job.standing, Standing::Exited(42));
        let seconds = |kind| job.seconds(kind);
        assert_eq!((seconds(Kind::Running), seconds(Kind::Lost), job.saved), (60.0, 18.0, 30.0));
        assert_eq!((seconds(Kind::Waiting), seconds(Kind::Transferring), seconds(Kind::Uploading)), (15.0, 5.0, 3.0));
        assert_eq!(
            job.stretches.iter().find(|stretch| stretch.kind == Kind::Running).unwrap().host.as_deref(),
            Some("ep1.pool")
        );
    }

    #[test]
    fn a_checkpoint_at_the_vacate_loses_nothing_and_a_cut_upload_all_since_the_last() {
        let vacated = log(&[
            ("000", 0, "s"),
            ("001", 10, RUN),
            ("040", 40, OUT),
            ("040", 42, SENT),
            ("004", 42, "Job was evicted."),
        ]);
        assert_eq!((vacated[0].saved, vacated[0].seconds(Kind::Lost)), (30.0, 0.0));
        let cut = log(&[
            ("000", 0, "s"),
            ("001", 10, RUN),
            ("040", 40, OUT),
            ("022", 41, "Job disconnected, attempting to reconnect"),
            ("024", 71, "Job reconnection failed"),
            ("004", 80, "Job was evicted."),
        ]);
        assert_eq!((cut[0].saved, cut[0].seconds(Kind::Lost), cut[0].evictions), (0.0, 30.0, 1));
        assert_eq!(cut[0].seconds(Kind::Disconnected), 30.0);
    }

    #[test]
    fn an_eviction_that_is_told_a_second_after_its_upload_loses_nothing() {
        let told = |at| {
            log(&[
                ("000", 0, "s"),
                ("001", 10, RUN),
                ("040", 40, OUT),
                ("040", 40, SENT),
                ("004", at, "Job was evicted."),
            ])
        };
        assert_eq!((told(41)[0].saved, told(41)[0].seconds(Kind::Lost)), (30.0, 0.0));
        // A restart in place after a periodic checkpoint.
        assert_eq!((told(60)[0].saved, told(60)[0].seconds(Kind::Lost)), (30.0, 20.0));
    }

    #[test]
    fn held_released_and_removed() {
        let jobs = log(&[
            ("000", 0, "s"),
            ("001", 10, RUN),
            ("012", 20, "Job was held."),
            ("013", 50, "Job was released."),
            ("009", 55, "Job was aborted."),
        ]);
        assert_eq!((jobs[0].seconds(Kind::Held), jobs[0].seconds(Kind::Waiting), jobs[0].evictions), (30.0, 15.0, 1));
        assert_eq!(jobs[0].standing, Standing::Removed);
        assert_eq!(ended("(0) Abnormal termination (signal 11)"), Standing::Signaled(11));
    }
}
