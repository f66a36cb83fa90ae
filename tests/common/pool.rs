//! A real HTCondor pool for a test: the Rust side of `tests/pool/pool`.
//!
//! [`Pool::shared`] gives the one pool of a test file, in which jobs run side by side. A test that cuts
//! cables, kills hosts or changes the configuration takes one of its own with [`Pool::up`]. Either goes
//! down when the test program ends, however it ends: a process beside it waits for that. All of this
//! needs root and fails, never skips, without it.

use std::cell::Cell;
use std::fmt;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, OnceLock};
use std::time::{SystemTime, UNIX_EPOCH};

use super::job::{File, Job};

/// How long a command on a host may take; one that hangs must not hang the test.
const COMMAND_SECONDS: &str = "300";

/// The HTCondor versions that the pools run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Series {
    /// 23.9, from Debian trixie.
    V23,
    /// 25.14, from Debian forky.
    V25,
    /// 25.14, from Debian sid, on hosts that have Apptainer.
    Apptainer,
    /// 23.9, on hosts that have all that the workload suite runs.
    Workloads,
}

impl Series {
    fn argument(self) -> &'static str {
        match self {
            Series::V23 => "23",
            Series::V25 => "25",
            Series::Apptainer => "apptainer",
            Series::Workloads => "workloads",
        }
    }
}

/// A host of the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Host {
    /// The access point.
    Ap,
    /// The execution point where HTCondor runs as root and a job as alice, uid 1500.
    Ep1,
    /// The glidein: all of it runs as pilot, uid 1600.
    Ep2,
}

impl Host {
    /// The folder below which HTCondor makes the scratch directories.
    pub fn execute(self) -> &'static str {
        match self {
            Host::Ap => unreachable!("no job runs on the access point"),
            Host::Ep1 => "/var/lib/condor/execute",
            Host::Ep2 => "/srv/pilot/glidein/a/longer/path/to/execute",
        }
    }

    /// The other execution point.
    pub fn other(self) -> Host {
        match self {
            Host::Ap => unreachable!("there is one access point"),
            Host::Ep1 => Host::Ep2,
            Host::Ep2 => Host::Ep1,
        }
    }

    /// The host in a name such as `slot1_1@ep1.pool`.
    pub fn in_name(name: &str) -> Option<Host> {
        let machine = name.rsplit('@').next()?;
        [Host::Ap, Host::Ep1, Host::Ep2].into_iter().find(|host| machine == format!("{host}.pool"))
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Host::Ap => "ap",
            Host::Ep1 => "ep1",
            Host::Ep2 => "ep2",
        })
    }
}

/// A running pool. When a test that holds it panics, all logs are kept in `target/pool-logs`.
pub struct Pool {
    hosts: Arc<Hosts>,
    logs_kept: Cell<bool>,
}

/// The pool itself, which goes down with its last user.
struct Hosts {
    folder: PathBuf,
    series: Series,
}

impl Pool {
    /// The pool of this series that all tests of the file share, started by the first that asks.
    pub fn shared(series: Series) -> Pool {
        static V23: OnceLock<Arc<Hosts>> = OnceLock::new();
        static V25: OnceLock<Arc<Hosts>> = OnceLock::new();
        static APPTAINER: OnceLock<Arc<Hosts>> = OnceLock::new();
        static WORKLOADS: OnceLock<Arc<Hosts>> = OnceLock::new();
        let cell = match series {
            Series::V23 => &V23,
            Series::V25 => &V25,
            Series::Apptainer => &APPTAINER,
            Series::Workloads => &WORKLOADS,
        };
        Pool::of(Arc::clone(cell.get_or_init(|| Arc::new(Hosts::up(series)))))
    }

    /// A pool for one test alone.
    pub fn up(series: Series) -> Pool {
        Pool::of(Arc::new(Hosts::up(series)))
    }

    fn of(hosts: Arc<Hosts>) -> Pool {
        Pool { hosts, logs_kept: Cell::new(false) }
    }

    /// Which HTCondor it runs.
    pub fn series(&self) -> Series {
        self.hosts.series
    }

    /// Runs a command on a host and returns what came of it.
    pub fn exec(&self, host: Host, user: &str, argv: &[&str]) -> Output {
        self.command("exec", &[&host.to_string(), "--user", user, "--", "timeout", COMMAND_SECONDS])
            .args(argv)
            .stdin(Stdio::null())
            .output()
            .unwrap_or_else(|error| panic!("tests/pool/pool cannot be run: {error}"))
    }

    /// Runs a command that must succeed, and returns its standard output.
    #[track_caller]
    pub fn ask(&self, host: Host, user: &str, argv: &[&str]) -> String {
        let output = self.exec(host, user, argv);
        assert!(
            output.status.success(),
            "`{}` as {user} on {host}: {}\n{}{}",
            argv.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr),
            String::from_utf8_lossy(&output.stdout),
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Submits a job as alice, from a folder of its own that holds `files`. The text needs only what matters
    /// to the test: small requests, file transfer, and `job.log`, `job.out`, `job.err` are set before it.
    #[track_caller]
    pub fn submit(&self, text: &str, files: &[File]) -> Job<'_> {
        Job::submit(self, text, files)
    }

    /// Pulls a host's network cable out.
    #[track_caller]
    pub fn cable_out(&self, host: Host) {
        self.pool("cable", &[&host.to_string(), "out"], "");
    }

    /// Plugs it in again.
    #[track_caller]
    pub fn cable_in(&self, host: Host) {
        self.pool("cable", &[&host.to_string(), "in"], "");
    }

    /// A power cut on a host.
    #[track_caller]
    pub fn kill(&self, host: Host) {
        self.pool("kill", &[&host.to_string()], "");
    }

    /// Boots a host that was killed.
    #[track_caller]
    pub fn start(&self, host: Host) {
        self.pool("start", &[&host.to_string()], "");
    }

    /// Adds HTCondor configuration on a host; returns when it is in force.
    #[track_caller]
    pub fn configure(&self, host: Host, text: &str) {
        self.pool("config", &[&host.to_string()], text);
    }

    /// The folder that the access point has as `/shared`.
    pub fn shared_folder(&self) -> PathBuf {
        self.hosts.folder.join("shared")
    }

    /// Keeps all logs, once, when the test is failing.
    pub(super) fn keep_logs_of_a_panic(&self) {
        if !std::thread::panicking() || self.logs_kept.replace(true) {
            return;
        }
        let test = std::thread::current().name().unwrap_or("test").replace("::", "-");
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/pool-logs").join(format!("{test}-{seconds}"));
        match run(self.command("logs", &[&folder.to_string_lossy()]), "") {
            Ok(()) => eprintln!("the pool's logs are in {}", folder.display()),
            Err(error) => eprintln!("the pool's logs could not be kept: {error}"),
        }
    }

    fn command(&self, name: &str, arguments: &[&str]) -> Command {
        command(name, &self.hosts.folder, arguments)
    }

    #[track_caller]
    fn pool(&self, name: &str, arguments: &[&str], input: &str) {
        if let Err(error) = run(self.command(name, arguments), input) {
            panic!("{error}");
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.keep_logs_of_a_panic();
    }
}

impl Hosts {
    fn up(series: Series) -> Hosts {
        // Below target, which is on a disk: the scratch directories should be on a plain file system.
        let folder = tempfile::Builder::new()
            .prefix("pool-")
            .tempdir_in(env!("CARGO_TARGET_TMPDIR"))
            .unwrap_or_else(|error| panic!("no folder for the pool (which needs root): {error}"))
            .keep();
        let owner = std::process::id().to_string();
        let up = command(
            "up",
            &folder,
            &["--series", series.argument(), "--bin", env!("CARGO_BIN_EXE_condor-criu"), "--owner", &owner],
        );
        if let Err(error) = run(up, "") {
            panic!("no pool of series {series:?}: {error}");
        }
        Hosts { folder, series }
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        let down = run(command("down", &self.folder, &[]), "");
        let removed = std::fs::remove_dir_all(&self.folder).map_err(|error| error.to_string());
        if let Err(error) = down.and(removed) {
            eprintln!("the pool did not go down: {error}");
        }
    }
}

fn command(name: &str, folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/pool/pool"));
    command.arg(name).arg(folder).args(arguments);
    command
}

fn run(mut command: Command, input: &str) -> Result<(), String> {
    let said = |error: std::io::Error| format!("tests/pool/pool cannot be run: {error}");
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().map_err(said)?;
    // Its standard input is closed as soon as this is written; a command that reads none may be gone.
    let _ = child.stdin.take().map(|mut stdin| stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output().map_err(said)?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("{command:?}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr))),
    }
}

/// Makes each of these functions, which take a pool, a test on the shared pool of either series.
#[allow(unused_macros, reason = "see common")]
macro_rules! on_both_series {
    ($($scenario:ident),* $(,)?) => {
        mod series_23 {
            $(#[test] fn $scenario() { super::$scenario(&crate::common::pool::Pool::shared(crate::common::pool::Series::V23)); })*
        }
        mod series_25 {
            $(#[test] fn $scenario() { super::$scenario(&crate::common::pool::Pool::shared(crate::common::pool::Series::V25)); })*
        }
    };
}
#[allow(unused_imports, reason = "see common")]
pub(crate) use on_both_series;

/// Makes each of these functions, which take a series and make their own pool, a test for either one.
#[allow(unused_macros, reason = "see common")]
macro_rules! with_both_series {
    ($($scenario:ident),* $(,)?) => {
        mod series_23 {
            $(#[test] fn $scenario() { super::$scenario(crate::common::pool::Series::V23); })*
        }
        mod series_25 {
            $(#[test] fn $scenario() { super::$scenario(crate::common::pool::Series::V25); })*
        }
    };
}
#[allow(unused_imports, reason = "see common")]
pub(crate) use with_both_series;

/// The same for what takes minutes.
#[allow(unused_macros, reason = "see common")]
macro_rules! long_with_both_series {
    ($($scenario:ident),* $(,)?) => {
        mod series_23 {
            $(#[test] #[ignore = "takes minutes: ./test --long"] fn $scenario() { super::$scenario(crate::common::pool::Series::V23); })*
        }
        mod series_25 {
            $(#[test] #[ignore = "takes minutes: ./test --long"] fn $scenario() { super::$scenario(crate::common::pool::Series::V25); })*
        }
    };
}
#[allow(unused_imports, reason = "see common")]
pub(crate) use long_with_both_series;
