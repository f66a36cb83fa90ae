//! A run is cut off before every system call by which condor-criu changes a file or a process, and every such call on a file is let
//! fail as a full or broken disk lets it fail: whatever the moment, one generation is whole, the job goes on from it with whole
//! output, and nothing of the sandbox is left.
//!
//! `tests/cuts/cut.c` cuts, from outside. The run is one that restores generation 1, and saves and commits generation 2 at a vacate.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on stops")]

mod common;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::local::{Bench, Host, PATIENCE, assert_code, starts_seen};
use common::long;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::Signal;

/// Each worker's jobs are a user's of its own, so that what is left of a run can be told from the others'.
const USERS: u32 = 5100;
/// More than processors: a run mostly waits.
const WORKERS: usize = 3;
/// Steps of the payload: more than it makes before it is told to hurry.
const STEPS: usize = 400;
const WORDS: [&str; 5] = ["--log-level=debug", "--keep=2", "--", "./steps", "400"];
const PREVIOUS: &str = "criu-checkpoint.previous.tar.zst";

/// How many points the ordinary `./test` takes of all.
const SAMPLE: usize = 36;

struct Cuts {
    bench: Bench,
}

/// What a run came to, as the tracer tells it.
struct Report {
    /// Exit code, or the signal's number below zero.
    result: i32,
    /// How many calls were counted.
    count: usize,
    /// The call that was cut; `nothing` if the run ended before.
    call: String,
}

/// What is done at the point.
#[derive(Clone, Copy, Debug)]
enum Fault {
    Cut,
    /// An error, from the one call only (`once`) or from all that follow too (`on`).
    Error(Errno, &'static str),
}

/// A disk that is full stays full.
const ERRORS: [Fault; 3] =
    [Fault::Error(Errno::EIO, "once"), Fault::Error(Errno::ENOSPC, "on"), Fault::Error(Errno::EDQUOT, "once")];

impl Cuts {
    /// With generation 1 in the scratch directory `base`.
    fn new() -> Cuts {
        // The users that tell one run's processes from another's, and /proc of theirs.
        assert!(nix::unistd::geteuid().is_root(), "run it as root: every run is another user's");
        let cuts = Cuts { bench: Bench::new() };
        for (source, name) in [("cut.c", "cut"), ("steps.c", "steps")] {
            let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cuts").join(source);
            let program = cuts.bench.path().join(name);
            assert!(Command::new("gcc").args(["-O2", "-o"]).arg(&program).arg(source).status().unwrap().success());
        }
        let base = cuts.host("base", USERS, None);
        let mut job = base.start(&WORDS);
        job.until_output("step3 ").signal(Signal::SIGTERM);
        assert_code(&base, job.end(), 85);
        drop(job);
        cuts
    }

    /// A host with the job, and what another brought.
    fn host(&self, name: &str, user: u32, from: Option<&Host<'_>>) -> Host<'_> {
        let host = self.bench.host(name, user);
        host.job_ad(85);
        let copied = Command::new("cp").arg(self.bench.path().join("steps")).arg(&host.scratch).status().unwrap();
        assert!(copied.success());
        host.own(&host.scratch.join("steps"));
        if let Some(from) = from {
            from.carry_to(&host, &[PREVIOUS]);
        }
        host
    }

    /// Runs the job on that host with a fault at the `nth` point; with 0, only counts.
    fn run(&self, host: &Host<'_>, fault: Fault, nth: usize, signal: Signal) -> Report {
        let report = self.bench.path().join(format!("report-{}", host.user));
        let run = host.command(&WORDS);
        let stream = |name: &str| File::options().append(true).open(host.scratch.join(name)).unwrap();
        let mut cut = Command::new(self.bench.path().join("cut"));
        cut.arg(&report);
        match fault {
            Fault::Cut => cut.arg("cut"),
            Fault::Error(errno, how) => cut.args([&(errno as i32).to_string(), how]),
        };
        cut.arg(nth.to_string()).arg("--").arg(run.get_program()).args(run.get_args());
        cut.current_dir(&host.scratch).env("_CONDOR_SCRATCH_DIR", &host.scratch).env_remove("CONDOR_CRIU_CRIU");
        cut.env("CUT_USER", host.user.to_string()).env("CUT_SIGNAL", (signal as i32).to_string());
        cut.env("CUT_FILE", host.scratch.join("condor-criu.log")).env("CUT_TEXT", "the payload runs again");
        cut.env("CUT_HURRY", host.scratch.join(".hurry"));
        cut.stdin(Stdio::null()).stdout(stream("_condor_stdout")).stderr(stream("_condor_stderr"));
        let mut child = cut.spawn().unwrap();
        let deadline = Instant::now() + PATIENCE;
        while child.try_wait().unwrap().is_none() {
            if Instant::now() > deadline {
                let _ = child.kill();
                let _ = child.wait();
                panic!("the run hangs\n{}", host.log());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(child.wait().unwrap().code(), Some(0), "the tracer failed\n{}", host.stderr());
        let text = fs::read_to_string(&report).unwrap();
        let words: Vec<&str> = text.split_whitespace().collect();
        Report { result: words[0].parse().unwrap(), count: words[1].parse().unwrap(), call: words[3].to_owned() }
    }

    fn ours(&self, words: &[&str], file: &Path) -> (bool, String) {
        let output = Command::new(self.bench.binary()).args(words).arg(file).output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Which generation is there; it is whole.
    fn generation(&self, host: &Host<'_>) -> u64 {
        let (whole, _) = self.ours(&["verify"], &host.checkpoint());
        assert!(whole, "the checkpoint is not whole\n{}", host.log());
        let (_, text) = self.ours(&["inspect", "--json"], &host.checkpoint());
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        json["manifest"]["generation"].as_u64().expect("a generation")
    }

    /// The fault of this number, and all that must hold after it; returns what was seen.
    fn point(&self, worker: usize, fault: Fault, nth: usize) -> (String, String) {
        let user = USERS + 1 + worker as u32;
        let base = self.bench.host("base", USERS);
        // What a run that failed has left must not disturb the next.
        for name in ["here", "next"] {
            let _ = fs::remove_dir_all(self.bench.path().join(format!("{name}-{user}")));
        }
        let host = self.host(&format!("here-{user}"), user, Some(&base));
        let signal =
            if matches!(fault, Fault::Cut) || nth.is_multiple_of(2) { Signal::SIGTERM } else { Signal::SIGUSR2 };
        let report = self.run(&host, fault, nth, signal);
        nothing_is_left(&host);
        let finished = |host: &Host<'_>| {
            let output = host.stdout();
            let log = host.log();
            assert_eq!((output.lines().count(), starts_seen(&output)), (STEPS, 1), "{output}\n{log}");
            let steps: String = (1..=STEPS).map(|step| format!("step{step}\n")).collect();
            assert_eq!(host.read("data.txt"), steps, "{log}");
        };
        // On a disk that stays full there is no log either.
        let told = |host: &Host<'_>| {
            let can = !matches!(fault, Fault::Error(_, "on"));
            assert!(!can || host.log().contains("cannot save the payload"), "{}", host.log());
        };
        let seen = match (fault, report.result) {
            (Fault::Cut, -9 | 85) => format!("generation {}", self.generation(&host)),
            (Fault::Error(..), code @ (85 | 75)) => {
                format!("exit code {code}, generation {}", self.generation(&host))
            }
            // The signal could not be answered with a checkpoint, which is said, and the payload went on to its end.
            (Fault::Error(..), 42) => {
                finished(&host);
                told(&host);
                "the payload's own end, undisturbed".to_owned()
            }
            (Fault::Error(..), -15) => {
                told(&host);
                format!("signal 15, generation {}", self.generation(&host))
            }
            (_, other) => panic!("ended by {other}\nstderr: {}\nlog: {}", host.stderr(), host.log()),
        };
        if report.result != 42 {
            let next = self.host(&format!("next-{user}"), user, Some(&host));
            next.write(".hurry", "");
            assert_code(&next, next.run(&WORDS), 42);
            finished(&next);
            nothing_is_left(&next);
        }
        (report.call, seen)
    }

    /// All points, or a sample of them spread evenly; several at a time.
    fn all(&self, what: &str, faults: &[Fault], count: usize) {
        let points = count * faults.len();
        let chosen: Vec<(Fault, usize)> = if long::wanted() {
            (1..=count).flat_map(|nth| faults.iter().map(move |fault| (*fault, nth))).collect()
        } else {
            let sample = SAMPLE.min(count);
            (0..sample).map(|at| (faults[at % faults.len()], 1 + at * count / sample)).collect()
        };
        let next = AtomicUsize::new(0);
        let (failed, seen) = (Mutex::new(Vec::new()), Mutex::new(BTreeMap::<String, usize>::new()));
        let began = Instant::now();
        std::thread::scope(|scope| {
            for worker in 0..WORKERS {
                let (next, failed, seen, chosen) = (&next, &failed, &seen, &chosen);
                scope.spawn(move || {
                    while let Some((fault, nth)) = chosen.get(next.fetch_add(1, Ordering::Relaxed)) {
                        match catch_unwind(AssertUnwindSafe(|| self.point(worker, *fault, *nth))) {
                            Ok((call, end)) => {
                                let mut seen = seen.lock().unwrap();
                                *seen.entry(format!("at {call}")).or_default() += 1;
                                *seen.entry(format!("then {end}")).or_default() += 1;
                            }
                            Err(why) => {
                                let why = why.downcast::<String>().map_or_else(|_| "a panic".to_owned(), |why| *why);
                                let told = format!("{fault:?} at {nth}: {why}");
                                let _ = writeln!(std::io::stderr(), "FAILED: {told}");
                                failed.lock().unwrap().push(told);
                            }
                        }
                    }
                });
            }
        });
        let (failed, seen) = (failed.into_inner().unwrap(), seen.into_inner().unwrap());
        let missed = seen.get("at nothing").copied().unwrap_or_default();
        // On stderr itself: what a test prints in the usual way is shown only when it fails.
        let _ = writeln!(
            std::io::stderr(),
            "{what}: {points} points, {} tried, {} hit, {missed} not reached, {} failed, {:.0} s: {seen:?}",
            chosen.len(),
            chosen.len() - missed - failed.len(),
            failed.len(),
            began.elapsed().as_secs_f64()
        );
        assert!(failed.is_empty(), "{} failed; the first:\n{}", failed.len(), failed[0]);
        // The number of points differs a little from run to run, by what threads do.
        assert!(missed * 10 <= chosen.len(), "{missed} of {} runs ended before their point", chosen.len());
    }
}

/// No process of the host's user, stopped or not, no mount, no lock.
fn nothing_is_left(host: &Host<'_>) {
    let processes = || -> Vec<PathBuf> {
        let entries = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
        let number =
            |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().parse::<u32>().is_ok());
        // The owner of what is not dumpable is root; the uid is in status.
        let user = |path: &PathBuf| {
            let status = fs::read_to_string(path.join("status")).unwrap_or_default();
            // Dead, and only not yet waited for by this machine's init.
            if status.contains("\nState:\tZ") {
                return false;
            }
            let uid = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap_or_default().to_owned();
            uid.split_whitespace().any(|uid| uid == host.user.to_string())
        };
        entries.filter(number).filter(user).collect()
    };
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left = processes();
        if left.is_empty() {
            break;
        }
        let status = || fs::read_to_string(left[0].join("status")).unwrap_or_default();
        assert!(Instant::now() < deadline, "{} processes are left: {}\n{}", left.len(), status(), host.log());
        std::thread::sleep(Duration::from_millis(5));
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(host.scratch.to_str().unwrap()), "a mount is left\n{mounts}");
    let lock = Flock::lock(File::open(&host.scratch).unwrap(), FlockArg::LockExclusiveNonblock);
    assert!(lock.is_ok(), "the scratch directory is locked");
    assert!(host.scratch.metadata().unwrap().uid() == host.user);
}

#[test]
fn cut_off_at_every_system_call() {
    let cuts = Cuts::new();
    let base = cuts.bench.host("base", USERS);
    let host = cuts.host("counted", USERS, Some(&base));
    let report = cuts.run(&host, Fault::Cut, 0, Signal::SIGTERM);
    assert_eq!(report.result, 85, "{}", host.log());
    assert_eq!(cuts.generation(&host), 2);
    cuts.all("cut off", &[Fault::Cut], report.count);
}

#[test]
fn a_full_or_broken_disk_at_every_system_call() {
    let cuts = Cuts::new();
    let base = cuts.bench.host("base", USERS);
    let host = cuts.host("counted", USERS, Some(&base));
    let report = cuts.run(&host, ERRORS[0], 0, Signal::SIGTERM);
    assert_eq!(report.result, 85, "{}", host.log());
    cuts.all("errors", &ERRORS, report.count);
}
