//! At every moment of a run something is done to it: it, its init or its criu is killed, its disk is full, broken or
//! read-only, its writes are short, its clock jumps. Whatever the moment, one generation is whole, the job goes on from
//! it with whole output, and nothing of the sandbox is left.
//!
//! `tests/cuts/cut.c` does it, from outside; a moment is a system call. The run is one that restores generation 1, and
//! saves and commits generation 2 at a vacate.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on stops")]

mod common;
#[path = "cuts/disk.rs"]
mod disk;
#[path = "cuts/fault.rs"]
mod fault;
#[path = "cuts/left.rs"]
mod left;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::local::{Bench, Host, PATIENCE, assert_code, starts_seen};
use common::long;
use disk::Disk;
use fault::{ERRORS, Fault};
use left::{no_lock_and_no_mount_is_left, no_process_is_left, nothing_is_open_to_others};
use nix::sys::signal::Signal;

/// Each worker's jobs are a user's of its own, so that what is left of a run can be told from the others'.
const USERS: u32 = 5100;
/// More than processors: a run mostly waits.
const WORKERS: usize = 3;
/// Steps of the payload: more than it makes before it is told to hurry.
const STEPS: usize = 400;
const WORDS: [&str; 5] = ["--log-level=debug", "--keep=2", "--", "./steps", "400"];
const PREVIOUS: &str = "criu-checkpoint.previous.tar.zst";

struct Cuts {
    bench: Bench,
    /// The first of this test's users: another test's run at the same time.
    users: u32,
}

/// What a run came to, as the tracer tells it.
struct Report {
    /// Exit code, or the signal's number below zero.
    result: i32,
    /// How many moments were counted.
    count: usize,
    /// The call at which it happened; `nothing` if the run ended before.
    call: String,
}

/// How many moments are tried of all, by the ordinary `./test` and by the long one; spread evenly.
struct Tried {
    short: usize,
    long: usize,
}

impl Cuts {
    /// With generation 1 in the scratch directory `base`.
    fn new(test: u32) -> Cuts {
        // The users that tell one run's processes from another's, and /proc of theirs.
        assert!(nix::unistd::geteuid().is_root(), "run it as root: every run is another user's");
        let cuts = Cuts { bench: Bench::new(), users: USERS + 10 * test };
        for (source, name) in [("cut.c", "cut"), ("steps.c", "steps")] {
            let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cuts").join(source);
            let program = cuts.bench.path().join(name);
            assert!(Command::new("gcc").args(["-O2", "-o"]).arg(&program).arg(source).status().unwrap().success());
        }
        let base = cuts.host("base", cuts.users, None);
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
    fn run(
        &self,
        host: &Host<'_>,
        words: &[&str],
        (fault, nth): (Fault, usize),
        signal: Signal,
        disk: Option<&Disk>,
    ) -> Report {
        let report = self.bench.path().join(format!("report-{}", host.user));
        let run = host.command(words);
        let stream = |name: &str| File::options().append(true).open(host.scratch.join(name)).unwrap();
        let mut cut = Command::new(self.bench.path().join("cut"));
        cut.arg(&report).arg(fault.word()).arg(nth.to_string()).arg("--").arg(run.get_program()).args(run.get_args());
        cut.current_dir(&host.scratch).env("_CONDOR_SCRATCH_DIR", &host.scratch).env_remove("CONDOR_CRIU_CRIU");
        cut.env("CUT_USER", host.user.to_string()).env("CUT_SIGNAL", (signal as i32).to_string());
        cut.env("CUT_FILE", host.scratch.join("condor-criu.log")).env("CUT_TEXT", "the payload runs again");
        cut.env("CUT_ENOUGH", "cannot save the payload").env("CUT_HURRY", host.scratch.join(".hurry"));
        if let Some(disk) = disk {
            cut.env("CUT_DISK", disk.breaks());
        }
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
        Report { result: words[0].parse().unwrap(), count: words[1].parse().unwrap(), call: words[2..].join(" ") }
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
        let user = self.users + 1 + worker as u32;
        let base = self.bench.host("base", self.users);
        // What a run that failed has left must not disturb the next.
        for name in ["here", "next"] {
            let _ = fs::remove_dir_all(self.bench.path().join(format!("{name}-{user}")));
        }
        let name = format!("here-{user}");
        let disk = (fault == Fault::Disk).then(|| Disk::mounted(&self.bench.path().join(&name)));
        let host = self.host(&name, user, Some(&base));
        // Answered with a checkpoint or passed on; or only answered.
        let signal = if matches!(fault, Fault::Kill | Fault::Init) || nth.is_multiple_of(2) {
            Signal::SIGTERM
        } else {
            Signal::SIGUSR2
        };
        if let Some(disk) = &disk {
            disk.sync();
        }
        let report = self.run(&host, &WORDS, (fault, nth), signal, disk.as_ref());
        no_process_is_left(&host);
        no_lock_and_no_mount_is_left(&host, disk.is_some());
        nothing_is_open_to_others(&host, &base.read("data.txt"));
        assert!(
            fault.allows(report.result),
            "ended by {}\nstderr: {}\nlog: {}",
            report.result,
            host.stderr(),
            host.log()
        );
        let finished = |host: &Host<'_>| {
            let output = host.stdout();
            let log = host.log();
            assert_eq!((output.lines().count(), starts_seen(&output)), (STEPS, 1), "{output}\n{log}");
            let steps: String = (1..=STEPS).map(|step| format!("step{step}\n")).collect();
            assert_eq!(host.read("data.txt"), steps, "{log}");
        };
        let given_up = ["while it worked inside the payload", "cannot restore on this host"];
        let is_said = given_up.iter().any(|words| host.log().contains(words));
        assert!(fault != Fault::Criu || report.result != 75 || is_said, "{}", host.log());
        // criu is slow to begin where each of its calls is looked at, and the payload may be quicker with its own end.
        let is_told = report.result == -15 || (report.result == 42 && fault != Fault::Criu);
        if is_told && fault.leaves_a_disk() {
            assert!(host.log().contains("cannot save the payload"), "{}", host.log());
        }
        if report.result == 42 && fault != Fault::Disk {
            finished(&host);
            return (report.call, "the payload's own end, undisturbed".to_owned());
        }
        let generation = self.generation(&host);
        if matches!(fault, Fault::Short { .. } | Fault::Clock(_)) {
            assert_eq!(generation, 2, "{}", host.log());
        }
        // Once everything is in our hands, no death of others keeps it from being carried.
        assert!(fault != Fault::Init || (generation == 2) == (report.result == 85), "{}", host.log());
        let next = self.host(&format!("next-{user}"), user, Some(&host));
        next.write(".hurry", "");
        assert_code(&next, next.run(&WORDS), 42);
        finished(&next);
        no_process_is_left(&next);
        no_lock_and_no_mount_is_left(&next, false);
        if let Some(disk) = disk {
            disk.gone();
        }
        (report.call, format!("{}, generation {generation}", report.result))
    }

    /// All points, or a sample of them spread evenly; several at a time.
    fn all(&self, what: &str, faults: &[Fault], count: usize, Tried { short, long }: Tried) {
        let points = count * faults.len();
        let wanted = if long::wanted() { long } else { short };
        let chosen: Vec<(Fault, usize)> = if wanted >= points {
            (1..=count).flat_map(|nth| faults.iter().map(move |fault| (*fault, nth))).collect()
        } else {
            (0..wanted).map(|at| (faults[at % faults.len()], 1 + at * count / wanted)).collect()
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
                                let short = why.downcast_ref::<&str>().unwrap_or(&"a panic").to_string();
                                let why = why.downcast::<String>().map_or(short, |why| *why);
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
        // The number of points differs from run to run, by what threads do and how often criu looks for something to
        // come.
        assert!(missed * 5 <= chosen.len() + 5, "{missed} of {} runs ended before their point", chosen.len());
    }
}

/// Counts the moments of a fault in a run that nothing disturbs, and tries them.
fn try_all(test: u32, what: &str, faults: &[Fault], tried: Tried) {
    let cuts = Cuts::new(test);
    let base = cuts.bench.host("base", cuts.users);
    let disk = (faults[0] == Fault::Disk).then(|| Disk::mounted(&cuts.bench.path().join("counted")));
    let host = cuts.host("counted", cuts.users, Some(&base));
    let report = cuts.run(&host, &WORDS, (faults[0], 0), Signal::SIGTERM, disk.as_ref());
    assert_eq!(report.result, 85, "{}", host.log());
    assert_eq!(cuts.generation(&host), 2);
    cuts.all(what, faults, report.count, tried);
}

const ALL: usize = usize::MAX;

#[test]
fn cut_off_at_every_system_call() {
    try_all(0, "cut off", &[Fault::Kill], Tried { short: 36, long: ALL });
}

#[test]
fn a_full_or_broken_disk_at_every_system_call() {
    try_all(1, "errors", &ERRORS, Tried { short: 36, long: ALL });
}

#[test]
fn the_init_is_killed_at_every_system_call() {
    try_all(2, "the init killed", &[Fault::Init], Tried { short: 9, long: ALL });
}

#[test]
fn criu_is_killed_at_its_own_system_calls() {
    try_all(3, "criu killed", &[Fault::Criu], Tried { short: 9, long: 600 });
}

#[test]
fn every_write_is_short() {
    let faults = [Fault::Short { lasting: true }, Fault::Short { lasting: false }];
    try_all(4, "short writes", &faults, Tried { short: 6, long: ALL });
}

#[test]
fn the_scratch_directory_becomes_read_only_half_way() {
    if !Disk::possible() {
        let allowed = std::env::var_os("CONDOR_CRIU_ALLOW_NO_LOOP").is_some();
        assert!(allowed, "no loop device with ext4 can be mounted here: allow that with CONDOR_CRIU_ALLOW_NO_LOOP=1");
        return;
    }
    try_all(5, "read-only", &[Fault::Disk], Tried { short: 9, long: ALL });
}

#[test]
fn the_wall_clock_jumps_whenever_it_is_looked_at() {
    try_all(6, "clock jumps", &[Fault::Clock(5), Fault::Clock(-5)], Tried { short: 6, long: ALL });
}

/// Seconds until the next periodic checkpoint, as the last start has set them.
fn next_checkpoint(host: &Host<'_>) -> f64 {
    let log = host.log();
    let told = log.rsplit("next checkpoint seconds=").next().and_then(|rest| rest.split(' ').next()?.parse().ok());
    told.unwrap_or_else(|| panic!("no next checkpoint\n{log}"))
}

#[test]
fn a_clock_that_is_set_before_a_restart_in_place_changes_no_interval() {
    for hours in [5, -5] {
        let cuts = Cuts::new(7);
        let host = cuts.host("periodic", cuts.users, None);
        let words = ["--first-checkpoint=1s", "--", "./steps", "400"];
        assert_code(&host, host.run(&words), 85);
        assert!(host.log().contains("reason=interval"), "{}", host.log());
        let fault = (Fault::Clock(hours), 1);
        assert_eq!(cuts.run(&host, &words, fault, Signal::SIGTERM, None).result, 85, "{}", host.log());
        // By the price of a checkpoint that takes a second or two; one of five hours is four days, one of no time is
        // one second.
        let seconds = next_checkpoint(&host);
        assert!((30.0..3600.0).contains(&seconds), "{hours} h: {seconds} s\n{}", host.log());
    }
}
