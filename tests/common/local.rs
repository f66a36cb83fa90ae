//! Jobs on this machine: the built binary in a scratch directory of the test's, started as HTCondor's starter would
//! start it, as an ordinary user even if the tests run as root.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on stops")]

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Users that need not exist in any passwd file.
pub const FIRST_USER: u32 = 5000;
/// Another host's user.
pub const SECOND_USER: u32 = 5001;
/// No test here takes longer; one that does hangs.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// What `tests/setup/criu` makes; quick when it is made.
pub fn real_criu() -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let make = || {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/setup/criu");
        let output = Command::new(script).stderr(Stdio::inherit()).output().unwrap();
        assert!(output.status.success(), "{script} made no criu");
        PathBuf::from(String::from_utf8(output.stdout).unwrap().trim())
    };
    FOLDER.get_or_init(make).clone()
}

/// A place for hosts, with a copy of the binary that every user can reach.
pub struct Bench {
    dir: tempfile::TempDir,
}

impl Bench {
    pub fn new() -> Bench {
        Bench::at(&std::env::temp_dir())
    }

    /// In a new directory below this one.
    pub fn at(place: &Path) -> Bench {
        let dir = tempfile::tempdir_in(place).unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let bin = dir.path().join("condor-criu");
        // By another process: a descriptor of ours that is open for writing could be inherited by a job that another
        // test starts at this moment, and the file could not be executed.
        let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_condor-criu")).arg(&bin).status().unwrap();
        assert!(copied.success());
        Bench { dir }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn binary(&self) -> PathBuf {
        self.dir.path().join("condor-criu")
    }

    /// A scratch directory of this name, of this user.
    pub fn host(&self, name: &str, user: u32) -> Host<'_> {
        let scratch = self.dir.path().join(name);
        fs::create_dir_all(&scratch).unwrap();
        let host = Host { bench: self, scratch, user, groups: None, criu: real_criu() };
        host.own(&host.scratch);
        host
    }
}

/// A scratch directory and who runs jobs in it.
pub struct Host<'a> {
    bench: &'a Bench,
    pub scratch: PathBuf,
    pub user: u32,
    /// Supplementary groups, as setpriv(1) takes them; none otherwise.
    pub groups: Option<&'static str>,
    pub criu: PathBuf,
}

impl Host<'_> {
    pub fn own(&self, path: &Path) {
        if nix::unistd::geteuid().is_root() {
            chown(path, Some(self.user), Some(self.user)).unwrap();
        }
    }

    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.scratch.join(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        self.own(&path);
        path
    }

    /// A job ad that promises `code` for a checkpoint.
    pub fn job_ad(&self, code: u8) -> &Self {
        let ad = format!("ClusterId = 7\nProcId = 0\nSuccessCheckpointExitCode = {code}\nWantFTOnCheckpoint = true\n");
        self.write(".job.ad", ad);
        self
    }

    pub fn read(&self, name: &str) -> String {
        let bytes = fs::read(self.scratch.join(name)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    pub fn stdout(&self) -> String {
        self.read("_condor_stdout")
    }

    pub fn stderr(&self) -> String {
        self.read("_condor_stderr")
    }

    pub fn log(&self) -> String {
        self.read("condor-criu.log")
    }

    pub fn checkpoint(&self) -> PathBuf {
        self.scratch.join("criu-checkpoint.tar.zst")
    }

    /// `condor-criu run` with these words after `run`, standard streams as HTCondor opens them.
    pub fn command(&self, words: &[&str]) -> Command {
        let stream = |name: &str| {
            let path = self.scratch.join(name);
            let file = File::options().append(true).create(true).open(&path).unwrap();
            self.own(&path);
            file
        };
        let mut command = match self.groups {
            None => Command::new(self.bench.binary()),
            Some(groups) => {
                let user = self.user.to_string();
                let mut command = Command::new("setpriv");
                command.args(["--reuid", &user, "--regid", &user, "--groups", groups]).arg(self.bench.binary());
                command
            }
        };
        command.arg("run").arg("--criu").arg(&self.criu).args(words).current_dir(&self.scratch);
        command.stdin(Stdio::null()).stdout(stream("_condor_stdout")).stderr(stream("_condor_stderr"));
        command.env("_CONDOR_SCRATCH_DIR", &self.scratch).env_remove("CONDOR_CRIU_CRIU");
        if nix::unistd::geteuid().is_root() && self.groups.is_none() {
            // std drops root's supplementary groups with its uid.
            command.uid(self.user).gid(self.user);
        }
        command
    }

    pub fn start(&self, words: &[&str]) -> Running<'_> {
        Running { host: self, child: self.command(words).spawn().unwrap() }
    }

    /// Until its end.
    pub fn run(&self, words: &[&str]) -> ExitStatus {
        self.start(words).end()
    }

    /// What HTCondor carries to another host: these files, the standard streams, the checkpoint and the log.
    pub fn carry_to(&self, other: &Host<'_>, more: &[&str]) {
        let names = ["_condor_stdout", "_condor_stderr", "criu-checkpoint.tar.zst", "condor-criu.log"];
        for name in names.iter().chain(more) {
            let content = fs::read(self.scratch.join(name)).unwrap();
            other.write(name, content);
        }
    }
}

/// A job that runs.
pub struct Running<'a> {
    host: &'a Host<'a>,
    child: Child,
}

impl Running<'_> {
    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    /// Kills the sandbox's init, our child's only child that is the first of a pid namespace.
    pub fn kill_init(&self) {
        let pid = self.child.id();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        let is_init = |child: &&str| {
            let status = fs::read_to_string(format!("/proc/{child}/status")).unwrap_or_default();
            let line = status.lines().find_map(|line| line.strip_prefix("NSpid:").map(str::to_owned));
            line.is_some_and(|line| line.split_whitespace().last() == Some("1"))
        };
        let init = children.split_whitespace().find(is_init).expect("an init").parse().unwrap();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(init), nix::sys::signal::Signal::SIGKILL).unwrap();
    }

    /// Waits until a file of the scratch directory contains `text`.
    pub fn until(&mut self, name: &str, text: &str) -> &mut Self {
        let deadline = Instant::now() + PATIENCE;
        while !self.host.read(name).contains(text) {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("ended by {status} before {name} had {text:?}\n{}", self.everything());
            }
            assert!(Instant::now() < deadline, "{name} never had {text:?}\n{}", self.everything());
            std::thread::sleep(Duration::from_millis(5));
        }
        self
    }

    pub fn until_output(&mut self, text: &str) -> &mut Self {
        self.until("_condor_stdout", text)
    }

    /// How it has ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    pub fn end(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            if Instant::now() > deadline {
                let _ = self.child.kill();
                panic!("did not end\n{}", self.everything());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn everything(&self) -> String {
        let work = fs::read_to_string(self.host.scratch.join(".condor-criu/work/dump.log")).unwrap_or_default();
        format!(
            "stdout: {}\nstderr: {}\nlog: {}\ndump: {work}",
            self.host.stdout(),
            self.host.stderr(),
            self.host.log()
        )
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Through three moves, each to another user's directory, and to its end: the script, given this word, says `ready`, and
/// ends with 0 some time after a file `go` appears. It runs for `settled` before each move.
pub fn through_three_moves<'a>(bench: &'a Bench, script: (&str, &str), word: &[&str], settled: Duration) -> Host<'a> {
    let (name, content) = script;
    let words: Vec<&str> = ["--", "python3", name].iter().chain(word).copied().collect();
    let mut host = bench.host("host0", FIRST_USER);
    for number in 1..=3 {
        host.write(name, content);
        let mut job = host.start(&words);
        if number > 1 {
            job.until("condor-criu.log", &format!("the payload runs again generation={}", number - 1));
        }
        job.until_output("ready\n");
        std::thread::sleep(settled);
        job.signal(nix::sys::signal::Signal::SIGTERM);
        assert_code(&host, job.end(), 85);
        drop(job);
        let next = bench.host(&format!("host{number}"), if number % 2 == 0 { FIRST_USER } else { SECOND_USER });
        host.carry_to(&next, &[]);
        host = next;
    }
    host.write(name, content);
    let mut job = host.start(&words);
    job.until("condor-criu.log", "the payload runs again generation=3");
    host.write("go", "");
    let status = job.end();
    drop(job);
    assert_code(&host, status, 0);
    host
}

/// The exit code, with everything that explains another.
#[track_caller]
pub fn assert_code(host: &Host<'_>, status: ExitStatus, code: i32) {
    assert_eq!(
        status.code(),
        Some(code),
        "signal {:?}\nstderr: {}\nlog: {}",
        status.signal(),
        host.stderr(),
        host.log()
    );
}

/// How many values the second column of stdout has: a program that keeps a random number only in memory and prints it
/// in every line was started once if it is one.
pub fn starts_seen(text: &str) -> usize {
    text.lines().filter_map(|line| line.split(' ').nth(1)).collect::<std::collections::BTreeSet<_>>().len()
}

/// Makes a criu in `folder` whose dumps fail at a deleted file that is open.
pub fn criu_without_ghosts(folder: &Path) -> PathBuf {
    assert!(Command::new("cp").arg("-r").arg(real_criu()).arg(folder).status().unwrap().success());
    fs::rename(folder.join("lib"), folder.join("real-lib")).unwrap();
    fs::rename(folder.join("criu"), folder.join("real-criu")).unwrap();
    let script = "#!/bin/sh\nhere=${0%/*}\nreal=\"$here/real-lib/ld-linux-x86-64.so.2 --library-path $here/real-lib $here/real-criu\"\n\
                  case $1 in dump) exec $real \"$@\" --ghost-limit 1;; esac\nexec $real \"$@\"\n";
    fs::write(folder.join("criu"), script).unwrap();
    fs::set_permissions(folder.join("criu"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    folder.join("criu")
}
