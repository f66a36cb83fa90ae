//! What the sandbox shall be: everything that its init has to know, decided before the first namespace is made.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::unistd::{Gid, Uid};
use serde::{Deserialize, Serialize};

/// Where our own things are inside the sandbox. A name that no host has at its top level.
pub const OUR_ROOT: &str = "/.condor-criu";
/// criu and its libraries, bound from wherever this host has them.
pub const CRIU_DIR: &str = "/.condor-criu/criu";
/// The executable of the root of the dumped tree.
pub const REAPER: &str = "/.condor-criu/reaper";
/// The reaper's pid when it is started, and the lowest one of the payload.
pub const FIRST_PID: u32 = 300;
/// Private and writable: criu caches its probes of the kernel here, and leaves the pid of a restored tree.
pub const RUN_DIR: &str = "/.condor-criu/run";
/// The system calls that criu interrupted, as its helpers wrote them down.
pub const CALLS: &str = "/.condor-criu/run/calls";
/// Where criu says which pid the restored root has.
pub const PIDFILE: &str = "/.condor-criu/run/restored.pid";
/// Our directory in the scratch directory. It never travels: HTCondor sends top-level files, or what is listed.
pub const STATE_DIR: &str = ".condor-criu";

/// Where in our directory the host's files are that a checkpoint brings.
pub const LAID_DIR: &str = "laid";

/// Which network the payload sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Network {
    /// The host's: the outside is reachable; established TCP connections are closed at a restore.
    #[default]
    Host,
    /// Its own, with loopback only: connections inside the payload are carried.
    Private,
}

/// Who the payload is inside, and who that is on this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// The uid that the payload sees; the same in every generation.
    pub inner_uid: u32,
    /// The gid that the payload sees; the same in every generation.
    pub inner_gid: u32,
    /// This host's uid of the job.
    pub outer_uid: Uid,
    /// This host's gid of the job.
    pub outer_gid: Gid,
}

/// What to add to this host's clocks, in nanoseconds, so that the payload's go on where they were.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ClockOffsets {
    /// for CLOCK_MONOTONIC
    pub monotonic_ns: i64,
    /// for CLOCK_BOOTTIME
    pub boottime_ns: i64,
}

/// One of stdin, stdout and stderr, opened by its path inside the sandbox (a descriptor from outside would belong
/// to a mount that CRIU does not find).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StdioPath {
    /// inside
    pub path: PathBuf,
    /// for open(2)
    pub flags: OFlag,
    /// It is a named pipe, whose end to read from the reaper holds, under the same number.
    pub reader: bool,
}

/// The payload's program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// As the user wrote it.
    pub program: OsString,
    /// Its arguments, without its name.
    pub arguments: Vec<OsString>,
    /// Its whole environment.
    pub environment: Vec<(OsString, OsString)>,
    /// Its working directory inside the sandbox.
    pub directory: PathBuf,
    /// stdin, stdout, stderr
    pub stdio: [StdioPath; 3],
    /// HTCondor starts jobs with SIGPIPE ignored; what a job finds without us it finds with us.
    pub ignore_sigpipe: bool,
}

/// The whole plan.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The scratch directory on this host.
    pub scratch: PathBuf,
    /// Where it is inside, on every host: one name below the root.
    pub job_dir: PathBuf,
    /// See [`Identity`].
    pub identity: Identity,
    /// See [`Network`].
    pub network: Network,
    /// The folder on this host that appears as [`CRIU_DIR`].
    pub criu_dir: PathBuf,
    /// The command that runs criu inside, without arguments.
    pub criu_command: Vec<OsString>,
    /// The reaper's executable: ours, or the one that the checkpoint carries.
    pub reaper: Vec<u8>,
    /// The compatibility helper, if the payload has it: ours, or the one that the checkpoint carries.
    pub compat: Option<Vec<u8>>,
    /// The system calls that the dump interrupted, if this is a restore: `criu_preload/calls`.
    pub calls: Option<Vec<u8>>,
    /// The host's files that are laid over this host's: absolute paths inside, their content below [`LAID_DIR`].
    pub laid: Vec<PathBuf>,
    /// What to start; a restore has none.
    pub payload: Option<Command>,
}

impl Plan {
    /// The reaper that this build of condor-criu embeds.
    pub fn built_in_reaper() -> &'static [u8] {
        include_bytes!(concat!(env!("OUT_DIR"), "/reaper"))
    }

    /// Our directory on this host.
    pub fn state_dir(&self) -> PathBuf {
        self.scratch.join(STATE_DIR)
    }

    /// Our directory inside the sandbox.
    pub fn inner_state_dir(&self) -> PathBuf {
        self.job_dir.join(STATE_DIR)
    }
}

/// `path` as the sandbox sees it if it lies in the scratch directory, else `None`.
pub fn inside(path: &Path, scratch: &Path, job_dir: &Path) -> Option<PathBuf> {
    let rest = path.strip_prefix(scratch).ok()?;
    // join("") would add a slash
    Some(if rest.as_os_str().is_empty() { job_dir.to_path_buf() } else { job_dir.join(rest) })
}
