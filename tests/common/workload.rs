//! The engine of the workload suite: a program runs once in peace and once through three evictions, by turns a periodic
//! checkpoint with exit 85 and a vacate, each time into another directory and under another user; exit status, stdout,
//! stderr and every file must be equal.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on stops")]

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

use condor_criu::journal::Record;
use nix::sys::signal::{Signal, kill};

use super::local::{Bench, FIRST_USER, Host, SECOND_USER};
use super::place::Place;

const EVICTIONS: usize = 3;
/// No workload here computes for longer.
const PATIENCE: Duration = Duration::from_secs(300);
/// condor-criu refuses a shorter one.
const SHORTEST_INTERVAL: Duration = Duration::from_secs(1);
/// What is not the payload's, or not the same by nature.
const NOT_COMPARED: [&str; 6] =
    [".job.ad", "_condor_stdout", "_condor_stderr", "condor-criu.log", "criu-checkpoint.tar.zst", ".condor-criu"];

/// One line of the table.
pub struct Workload {
    /// What is tested, for people.
    pub title: &'static str,
    /// Where.
    pub place: Place,
    /// A shell command that prints the program's version.
    pub version: &'static str,
    /// Files that the job is given.
    pub files: &'static [(&'static str, &'static str)],
    /// A program that is compiled once for many rows; it is `program` in the scratch directory.
    pub program: Option<fn() -> &'static [u8]>,
    /// A shell command that makes more of them, in the first scratch directory.
    pub setup: &'static str,
    /// A file of `setup`'s that each host has mounted at /run/cvmfs, through FUSE.
    pub cvmfs: &'static str,
    /// The program and its arguments, as a shell reads them.
    pub command: &'static str,
    /// Settings that it needs, as flags.
    pub settings: &'static str,
    /// The exit code.
    pub code: i32,
    /// Seconds between evictions.
    pub every: f64,
    /// Files that differ between two uninterrupted runs: times, host names.
    pub ignore: &'static [&'static str],
}

/// The fields that most rows share.
pub const PLAIN: Workload = Workload {
    title: "",
    place: Place::Here,
    version: "",
    files: &[],
    program: None,
    setup: "",
    cvmfs: "",
    command: "",
    settings: "",
    code: 0,
    every: 1.2,
    ignore: &[],
};

/// What was measured.
#[derive(Default)]
struct Measured {
    evictions: usize,
    bytes: u64,
    frozen: f64,
}

impl Workload {
    /// Runs it both ways and compares. On a busy machine an eviction may come after the program's end; then all come
    /// sooner.
    pub fn run(&self) {
        let sooner = [self.every, self.every / 2.0, self.every / 4.0];
        assert!(sooner.iter().any(|every| self.run_evicted(*every)), "{}: ended before its last eviction", self.title);
    }

    /// False if it ended before its last eviction.
    fn run_evicted(&self, every: f64) -> bool {
        let bench = Bench::new();
        self.place.prepare(&bench);
        let peace = bench.host("peace", FIRST_USER);
        let inputs = self.inputs(&bench, &peace);
        let mut undisturbed = self.place.start(
            &bench,
            &peace,
            self.cvmfs,
            &format!("--interval never {} -- {}", self.settings, self.command),
        );
        let (host, measured) = self.with_evictions(&bench, &inputs, every);
        let status = end(&mut undisturbed, &peace);
        assert_eq!(status, Some(self.code), "{}: in peace: {}\n{}", self.title, peace.stderr(), peace.log());
        self.compare(&host, &peace);
        if let Some(measured) = &measured {
            self.note(&bench, &peace, measured);
        }
        measured.is_some()
    }

    /// Both have ended; what they have left must be equal.
    fn compare(&self, host: &Host<'_>, peace: &Host<'_>) {
        assert_eq!(host.stdout(), peace.stdout(), "{}: stdout\n{}", self.title, host.log());
        assert_eq!(host.stderr(), peace.stderr(), "{}: stderr\n{}", self.title, host.log());
        let (mine, theirs) = (self.tree(&host.scratch), self.tree(&peace.scratch));
        assert_eq!(mine.keys().collect::<Vec<_>>(), theirs.keys().collect::<Vec<_>>(), "{}: files", self.title);
        for (name, content) in &mine {
            assert!(content == &theirs[name], "{}: {} differs\n{}", self.title, name.display(), host.log());
        }
    }

    /// Runs it with these evictions, each so long after its beginning or its restore, by turns a periodic checkpoint
    /// (if it comes late enough to be an interval) and a vacate; those that come after its end do not happen. Returns
    /// how many did. What HTCondor would do with a refusal (exit 75), another host with the same checkpoint, is done
    /// and told to `refused`.
    pub fn rehearse(&self, moments: &[Duration], refused: &mut dyn FnMut(&str)) -> usize {
        let bench = Bench::new();
        self.place.prepare(&bench);
        let peace = bench.host("peace", FIRST_USER);
        let inputs = self.inputs(&bench, &peace);
        let quiet = format!("--interval never {} -- {}", self.settings, self.command);
        let mut undisturbed = self.place.start(&bench, &peace, self.cvmfs, &quiet);
        let mut host = self.next_host(&bench, &inputs, 0);
        let (mut number, mut evictions, mut restores) = (0, 0, 0);
        let status = loop {
            let moment = moments.get(evictions);
            let periodic = evictions % 2 == 0 && moment.is_some_and(|moment| *moment >= SHORTEST_INTERVAL);
            let words = match moment {
                Some(moment) if periodic => {
                    format!("--interval {}ms {} -- {}", moment.as_millis(), self.settings, self.command)
                }
                _ => quiet.clone(),
            };
            let mut job = self.place.start(&bench, &host, self.cvmfs, &words);
            if let Some(moment) = moment.filter(|_| !periodic)
                && runs(&mut job, &host, restores)
            {
                std::thread::sleep(*moment);
                if job.try_wait().unwrap().is_none() {
                    let _ = kill(self.place.pid(&job), Signal::SIGTERM);
                }
            }
            let status = end(&mut job, &host);
            match status {
                Some(85) => evictions += 1,
                Some(75) => {
                    let log = host.log();
                    refused(log.lines().rfind(|line| line.contains("ERROR")).unwrap_or_default());
                    assert!(number < 2 * moments.len() + 2, "{}: refused again and again\n{log}", self.title);
                }
                _ => break status,
            }
            restores = host.log().matches("the payload runs").count();
            number += 1;
            let next = self.next_host(&bench, &inputs, number);
            host.carry_to(&next, &[]);
            host = next;
        };
        assert_eq!(status, Some(self.code), "{}: {}\n{}", self.title, host.stderr(), host.log());
        assert!(!host.log().contains("cannot save the payload:"), "{}: {}", self.title, host.log());
        let status = end(&mut undisturbed, &peace);
        assert_eq!(status, Some(self.code), "{}: in peace: {}\n{}", self.title, peace.stderr(), peace.log());
        self.compare(&host, &peace);
        evictions
    }

    /// The scratch directory on another host, under another path and user, with what HTCondor brings.
    fn next_host<'a>(&self, bench: &'a Bench, inputs: &[(PathBuf, Vec<u8>)], number: usize) -> Host<'a> {
        let user = if number.is_multiple_of(2) { FIRST_USER } else { SECOND_USER };
        let host = bench.host(&format!("{}host{number}", "deeper/".repeat(number % 3)), user);
        for (name, content) in inputs {
            host.write(name.to_str().unwrap(), content);
        }
        host
    }

    /// Runs it to its end, at which the log must have these words: it cannot be saved, and is told so.
    pub fn run_refused(&self, words: &[&str]) {
        let bench = Bench::new();
        self.place.prepare(&bench);
        let host = bench.host("host", FIRST_USER);
        self.inputs(&bench, &host);
        let words_of_run = format!("--interval never {} -- {}", self.settings, self.command);
        let mut job = self.place.start(&bench, &host, self.cvmfs, &words_of_run);
        let status = end(&mut job, &host);
        assert_eq!(status, Some(self.code), "{}: {}\n{}", self.title, host.stderr(), host.log());
        for words in words {
            assert!(host.log().contains(words), "{}: {words:?} is not in {}", self.title, host.log());
        }
    }

    /// The job's files as they are before it starts: made once, the same for all.
    fn inputs(&self, bench: &Bench, host: &Host<'_>) -> Vec<(PathBuf, Vec<u8>)> {
        host.job_ad(85);
        for (name, content) in self.files {
            host.write(name, content);
        }
        if let Some(program) = self.program {
            host.write("program", program());
        }
        if !self.setup.is_empty() {
            let output = self.place.shell(bench, host, self.setup).output().unwrap();
            assert!(output.status.success(), "{}: {}", self.title, String::from_utf8_lossy(&output.stderr));
        }
        let names = fs::read_dir(&host.scratch).unwrap().map(|entry| PathBuf::from(entry.unwrap().file_name()));
        names.map(|name| (name.clone(), fs::read(host.scratch.join(&name)).unwrap())).collect()
    }

    fn with_evictions<'a>(
        &self,
        bench: &'a Bench,
        inputs: &[(PathBuf, Vec<u8>)],
        every: f64,
    ) -> (Host<'a>, Option<Measured>) {
        let mut host = self.next_host(bench, inputs, 0);
        for number in 0..EVICTIONS {
            let periodic = number % 2 == 0;
            let interval = if periodic { format!("{}ms", (every * 1000.0) as u64) } else { "never".to_owned() };
            let words = format!("--interval {interval} {} -- {}", self.settings, self.command);
            let mut job = self.place.start(bench, &host, self.cvmfs, &words);
            if !periodic {
                until_it_runs(&mut job, &host, number);
                std::thread::sleep(Duration::from_secs_f64(every));
                let _ = kill(self.place.pid(&job), Signal::SIGTERM);
            }
            let status = end(&mut job, &host);
            if status == Some(self.code) {
                return (host, None);
            }
            assert_eq!(status, Some(85), "{}: eviction {number}: {}\n{}", self.title, host.stderr(), host.log());
            let next = self.next_host(bench, inputs, number + 1);
            host.carry_to(&next, &[]);
            host = next;
        }
        let mut job = self.place.start(
            bench,
            &host,
            self.cvmfs,
            &format!("--interval never {} -- {}", self.settings, self.command),
        );
        let status = end(&mut job, &host);
        assert_eq!(status, Some(self.code), "{}: {}\n{}", self.title, host.stderr(), host.log());
        let mut measured = Measured::default();
        for record in host.log().lines().filter_map(Record::parse) {
            if let Record::Committed { bytes, frozen_seconds, .. } = record {
                measured.evictions += 1;
                measured.bytes = measured.bytes.max(bytes);
                measured.frozen = measured.frozen.max(frozen_seconds);
            }
        }
        assert_eq!(measured.evictions, EVICTIONS, "{}: {}", self.title, host.log());
        (host, Some(measured))
    }

    /// Every file of the payload and a digest of its content.
    fn tree(&self, scratch: &Path) -> BTreeMap<PathBuf, String> {
        let mut found = BTreeMap::new();
        let mut open = vec![scratch.to_path_buf()];
        while let Some(directory) = open.pop() {
            for entry in fs::read_dir(&directory).unwrap().map(Result::unwrap) {
                let name = entry.path().strip_prefix(scratch).unwrap().to_path_buf();
                let kind = entry.file_type().unwrap();
                if NOT_COMPARED.iter().chain(self.ignore).any(|other| name == Path::new(other)) {
                    continue;
                }
                let content = if kind.is_dir() {
                    open.push(entry.path());
                    "a directory".to_owned()
                } else if kind.is_file() {
                    digest(&entry.path())
                } else if kind.is_symlink() {
                    fs::read_link(entry.path()).unwrap().display().to_string()
                } else {
                    format!("fifo {}, socket {}", kind.is_fifo(), kind.is_socket())
                };
                found.insert(name, content);
            }
        }
        found
    }

    /// A line for docs/workloads.md, if asked for: see tests/workloads/table.
    fn note(&self, bench: &Bench, host: &Host<'_>, measured: &Measured) {
        let Some(directory) = std::env::var_os("CONDOR_CRIU_WORKLOADS") else { return };
        let output = self.place.shell(bench, host, self.version).output().unwrap();
        let version = String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().trim().to_owned();
        let settings = if self.settings.is_empty() { "none".to_owned() } else { format!("`{}`", self.settings) };
        let line = format!(
            "| {} | {version} | {} | equal | {settings} | {:.1} | {:.2} |\n",
            self.title,
            measured.evictions,
            measured.bytes as f64 / 1e6,
            measured.frozen
        );
        let name = std::thread::current().name().unwrap_or_default().replace("::", "-");
        let mut file = fs::File::create(Path::new(&directory).join(name)).unwrap();
        file.write_all(line.as_bytes()).unwrap();
    }
}

/// Large and mostly empty files, too.
fn digest(path: &Path) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(fs::File::open(path).unwrap()).unwrap();
    hasher.finalize().to_hex().to_string()
}

fn end(job: &mut Child, host: &Host<'_>) -> Option<i32> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = job.try_wait().unwrap() {
            return status.code().or(status.signal().map(|signal| -signal));
        }
        if Instant::now() > deadline {
            let _ = job.kill();
            panic!("did not end\n{}\n{}\n{}", host.stdout(), host.stderr(), host.log());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn until_it_runs(job: &mut Child, host: &Host<'_>, restores: usize) {
    assert!(runs(job, host, restores), "{}\n{}", host.stderr(), host.log());
}

/// Waits until it has been started or restored more than so many times; false if it ends before.
fn runs(job: &mut Child, host: &Host<'_>, restores: usize) -> bool {
    let deadline = Instant::now() + PATIENCE;
    while host.log().matches("the payload runs").count() <= restores {
        if job.try_wait().unwrap().is_some() {
            return false;
        }
        assert!(Instant::now() < deadline, "{}\n{}", host.stderr(), host.log());
        std::thread::sleep(Duration::from_millis(10));
    }
    true
}
