//! `condor-criu doctor`: what this host can do, by doing it, and for each "no" the reason and the remedy; and
//! `condor-criu advertise`, the same for `STARTD_CRON`.
//!
//! [`probe`] saves and restores a small tree under `condor-criu run` itself ([`life`]), so that what works here works
//! for jobs. [`facts`] are what explains a failure or narrows what a job may do. [`advertise`] is the ClassAd form.

pub mod advertise;
mod facts;
mod life;
mod probe;
mod trial;

use std::path::Path;
use std::time::Instant;

use serde::Serialize;

use crate::criu::find;
use crate::criu::{self, Criu};
use crate::exit::{Exit, Failure};
use crate::host::privilege;
use crate::settings::Settings;
use facts::Facts;
pub use probe::Place;
use probe::{NotPossible, Stage, Success};
pub use trial::Trial;

/// How one question was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// As it should be.
    Yes,
    /// Works, with a limit.
    Limited,
    /// Does not work.
    No,
    /// Not tried, because something before it does not work.
    Unknown,
}

/// One question and its answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was asked: one or two words.
    pub name: &'static str,
    /// The answer.
    pub status: Status,
    /// In plain words.
    pub detail: String,
    /// What to do, where there is something to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

impl Check {
    fn new(name: &'static str, status: Status, detail: impl Into<String>) -> Check {
        Check { name, status, detail: detail.into(), remedy: None }
    }

    fn remedy(mut self, remedy: impl Into<String>) -> Check {
        self.remedy = Some(remedy.into());
        self
    }
}

/// What no host without privilege can save, whatever it is: docs/limits.md has the reasons.
const LIMITS: &str = "io_uring, kernel AIO, SysV shared memory, a program's own seccomp filter, files that are deleted while mapped, \
                      userfaultfd, perf events, traced processes, GPUs; TCP connections to the outside are closed by a restore";

#[derive(Serialize)]
struct Report<'a> {
    ok: bool,
    host: bool,
    version: &'a str,
    criu: Option<CriuReport>,
    kernel: &'a str,
    microarch: &'a str,
    features: Vec<&'static str>,
    checks: Vec<Check>,
    limits: &'a str,
}

#[derive(Serialize)]
struct CriuReport {
    version: String,
    path: std::path::PathBuf,
    bundled: bool,
}

/// Asks everything and prints it; `Success` if a job can be saved and restored here, and the program of `trial` can be
/// saved.
pub fn doctor(settings: &Settings, json: bool, trial: Option<&Trial>) -> Result<Exit, Failure> {
    let facts = Facts::gather();
    let place = Place::new().map_err(|error| Failure::start("cannot make a directory for the probe", error))?;
    let criu = find::find(settings.criu.as_deref(), place.path(), &place.path().join("criu"));
    let deadline = Instant::now() + probe::PATIENCE;
    let tried = criu.as_ref().ok().map(|criu| try_both(place.path(), criu, settings, deadline));
    let mut checks = vec![about_criu(&criu)];
    checks.extend(about_probe(tried.as_ref(), &facts));
    checks.extend(criu.as_ref().ok().and_then(about_file_capabilities));
    checks.extend(facts.checks());
    let host = tried.as_ref().is_some_and(|tried| tried.host.is_ok());
    let program = match trial {
        Some(trial) if host => trial.checks()?,
        Some(_) => vec![Check::new("save program", Status::Unknown, "not tried on this host")],
        None => Vec::new(),
    };
    let ok = host && program.iter().all(|check| matches!(check.status, Status::Yes | Status::Limited));
    checks.extend(program);
    let report = Report {
        ok,
        host,
        version: env!("CARGO_PKG_VERSION"),
        criu: criu.as_ref().ok().map(|criu| CriuReport {
            version: criu.version.to_string(),
            path: criu.directory.join(&criu.name),
            bundled: criu.bundled,
        }),
        kernel: &facts.kernel,
        microarch: &facts.microarch,
        features: tried.as_ref().map(|tried| tried.features(&facts)).unwrap_or_default(),
        checks,
        limits: LIMITS,
    };
    if json {
        let text = serde_json::to_string_pretty(&report).map_err(|error| Failure::start("cannot print", error))?;
        crate::say!("{text}");
    } else {
        print(&report);
    }
    Ok(if ok { Exit::Success } else { Exit::Negative })
}

fn print(report: &Report<'_>) {
    for check in &report.checks {
        let word = match check.status {
            Status::Yes => "yes",
            Status::Limited => "limited",
            Status::No => "NO",
            Status::Unknown => "-",
        };
        crate::say!("{:<16} {:<8} {}", check.name, word, check.detail);
        if let Some(remedy) = &check.remedy {
            crate::say!("{:<25} what to do: {remedy}", "");
        }
    }
    crate::say!("never without privilege: {}", report.limits);
    crate::say!();
    match (report.ok, report.host) {
        (true, _) => crate::say!("Jobs can be checkpointed and restored on this host."),
        (false, true) => crate::say!("Jobs can be checkpointed on this host, but this program was not: see above."),
        (false, false) => crate::say!("Jobs cannot be checkpointed on this host: see each NO above."),
    }
}

/// The probe with the host's network, and with one of its own.
struct Tried {
    host: Result<Success, NotPossible>,
    private: Result<Success, NotPossible>,
}

impl Tried {
    fn features(&self, facts: &Facts) -> Vec<&'static str> {
        let mut features = Vec::new();
        if self.private.is_ok() {
            features.push("private-network");
        }
        if facts.time_namespace {
            features.push("time-namespace");
        }
        features
    }
}

fn try_both(place: &Path, criu: &Criu, settings: &Settings, deadline: Instant) -> Tried {
    let host = probe::probe(place, "host", &flags(criu, settings, "host"), deadline);
    // What fails in the host's network fails in a private one too.
    let private = match &host {
        Ok(_) => probe::probe(place, "private", &flags(criu, settings, "private"), deadline),
        Err(failed) => Err(failed.clone()),
    };
    Tried { host, private }
}

/// The settings that decide whether it works, as flags of `run`.
fn flags(criu: &Criu, settings: &Settings, network: &str) -> Vec<String> {
    let criu = criu.directory.join(&criu.name).to_string_lossy().into_owned();
    let mut flags: Vec<String> = ["--criu", &criu, "--network", network].map(str::to_owned).into();
    flags.extend(["--cpu-baseline".to_owned(), settings.cpu_baseline.to_string()]);
    flags.extend(["--mode".to_owned(), settings.mode.to_string()]);
    flags
}

fn about_criu(criu: &Result<Criu, find::FindError>) -> Check {
    match criu {
        Ok(criu) => {
            let path = criu.directory.join(&criu.name);
            let how = if criu.bundled { ", with its own libraries" } else { "" };
            let detail = format!("{} at {}{how}", criu.version, path.display());
            if criu.version >= criu::TESTED {
                return Check::new("criu", Status::Yes, detail);
            }
            let detail = format!("{detail}: fails on sockets with kernels from 6.18 on, and on guard pages");
            Check::new("criu", Status::Limited, detail).remedy(format!("use CRIU {} or newer", criu::TESTED))
        }
        Err(error) => Check::new("criu", Status::No, error.to_string()).remedy(error.remedy()),
    }
}

/// An administrator who has given criu file capabilities means something by it.
fn about_file_capabilities(criu: &Criu) -> Option<Check> {
    let path = criu.directory.join(&criu.name);
    privilege::has_file_capabilities(&path).then(|| {
        Check::new("file capabilities", Status::Limited, format!("{} has some; they are not used", path.display()))
            .remedy("take them away (setcap -r): whoever may execute it has them, and jobs need none")
    })
}

fn about_probe(tried: Option<&Tried>, facts: &Facts) -> Vec<Check> {
    let names = ["sandbox", "save", "restore"];
    let Some(tried) = tried else {
        let mut checks = names.map(|name| Check::new(name, Status::Unknown, "not tried without criu"));
        if let Some(cause) = &facts.namespaces_forbidden {
            checks[0] = Check::new("sandbox", Status::No, cause.why.clone()).remedy(cause.remedy.clone());
        }
        return checks.into();
    };
    let mut checks: Vec<Check> = match &tried.host {
        Ok(success) => {
            let saved = format!("a small tree in {:.2} s, {} bytes", success.commit_seconds, success.bytes);
            let restored = format!("in another directory in {:.2} s, everything as it was", success.restore_seconds);
            vec![
                Check::new("sandbox", Status::Yes, "user, pid, mount, ipc namespaces without privilege"),
                Check::new("save", Status::Yes, saved),
                Check::new("restore", Status::Yes, restored),
            ]
        }
        Err(failed) => {
            let stages = [Stage::Start, Stage::Save, Stage::Restore];
            let at = stages.iter().position(|stage| *stage == failed.stage).unwrap_or(0);
            let each = names.into_iter().enumerate().map(|(number, name)| match number.cmp(&at) {
                std::cmp::Ordering::Less => Check::new(name, Status::Yes, ""),
                std::cmp::Ordering::Greater => Check::new(name, Status::Unknown, "not tried after that"),
                std::cmp::Ordering::Equal => not_possible(name, failed, facts),
            });
            each.collect()
        }
    };
    checks.push(match (&tried.host, &tried.private) {
        (Err(_), _) => Check::new("private network", Status::Unknown, "not tried after that"),
        (_, Ok(_)) => Check::new("private network", Status::Yes, "connections inside a job, so MPI, can be saved"),
        (_, Err(failed)) => {
            let detail = format!("connections inside a job cannot be saved: {}", failed.why);
            Check { remedy: failed.remedy.clone(), ..Check::new("private network", Status::Limited, detail) }
        }
    });
    checks
}

/// The failure; if the sandbox cannot be made, with what the facts say of the cause.
fn not_possible(name: &'static str, failed: &NotPossible, facts: &Facts) -> Check {
    let check = Check { remedy: failed.remedy.clone(), ..Check::new(name, Status::No, failed.why.clone()) };
    match &facts.namespaces_forbidden {
        Some(cause) if failed.stage == Stage::Start && failed.why.contains("namespaces") => {
            Check::new(name, Status::No, format!("{}: {}", failed.why, cause.why)).remedy(cause.remedy.clone())
        }
        _ => check,
    }
}
