//! The sandbox: the private namespaces that the payload lives in, made by an ordinary user.
//!
//! ```text
//! supervisor (host's namespaces)                 one user, pid, mount, ipc, time (and net) namespace
//!   └─ init, pid 1, capabilities over these namespaces only ──┬─ reaper, pid 300: root of what criu dumps
//!        ▲ requests, events (message.rs)                       │     └─ payload, pid 301: no capability, own session
//!        └──────────────────────────────                      └─ criu, when asked: four capabilities
//! ```
//!
//! This is the only place with `unsafe`: forks, signal dispositions, and system calls that nix does not have.
#![allow(unsafe_code)]

mod clock;
pub mod compat;
pub mod cpuid;
pub mod criu_preload;
mod fit;
mod identity;
mod init;
mod message;
mod mounting;
mod mounts;
mod network;
mod overlay;
mod plan;
pub mod probe;
mod sessions;
mod spawn;
mod step;

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use thiserror::Error;

pub use clock::ClockReadings;
pub use fit::Unfit;
pub use identity::supplementary_groups;
use plan::CALLS;

pub use message::{CriuJob, CriuRefusal, Event, Request, receive};
pub use plan::{
    CRIU_DIR, ClockOffsets, Command, FIRST_PID, Identity, LAID_DIR, Network, OUR_ROOT, PIDFILE, Plan, STATE_DIR,
    StdioPath, inside,
};
pub use spawn::DEFAULT_PATH;
pub use step::SetupStep;

/// Why there is no sandbox.
#[derive(Debug, Error)]
pub enum SandboxError {
    /// This process has more threads than the one that may make it.
    #[error("{0} threads run in condor-criu, and the sandbox's init would be a copy of one of them: report this")]
    Threads(usize),
    /// The kernel refuses the namespaces themselves.
    #[error("the kernel refuses new namespaces ({0})")]
    Namespaces(Errno),
    /// A later step.
    #[error("cannot {step}: {errno}")]
    Step {
        /// What was being done.
        step: SetupStep,
        /// The system's answer.
        errno: Errno,
    },
    /// The init ended without a word.
    #[error("the sandbox's init ended unexpectedly")]
    Gone,
    /// The pair of sockets.
    #[error("cannot talk to the sandbox: {0}")]
    Socket(#[from] io::Error),
}

/// A running sandbox. Dropping it kills everything inside.
#[derive(Debug)]
pub struct Sandbox {
    init: Pid,
    socket: OwnedFd,
    shm: OwnedFd,
    alive: bool,
}

impl Sandbox {
    /// Makes the namespaces and mounts of `plan`. The caller has one thread: the init is a copy of this process.
    pub fn create(plan: &Plan) -> Result<Sandbox, SandboxError> {
        // A lock that another thread holds would be held in the copy for ever.
        let threads = std::fs::read_dir("/proc/self/task")?.count();
        if threads > 1 {
            return Err(SandboxError::Threads(threads));
        }
        let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
            .map_err(io::Error::from)?;
        // No handler of ours may run in the copy, where it would speak through our pipe.
        let mut before = SigSet::empty();
        sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), Some(&mut before)).map_err(io::Error::from)?;
        let cloned = clone_into_namespaces(plan.network);
        if let Ok(None) = cloned {
            drop(ours);
            let code = std::panic::catch_unwind(|| {
                let socket = keep_only(theirs);
                match socket {
                    Ok(socket) => init::run(plan.clone(), socket),
                    Err(_) => 1,
                }
            });
            // SAFETY: ends the copy without running destructors or exit handlers of the supervisor.
            unsafe { libc::_exit(code.unwrap_or(101)) }
        }
        let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&before), None);
        drop(theirs);
        let init = cloned.map_err(SandboxError::Namespaces)?.ok_or(SandboxError::Gone)?;
        let mut guard = Killer { init, armed: true };
        let shm = match receive::<Event>(ours.as_fd())? {
            Some((Event::Ready, Some(shm))) => shm,
            Some((Event::SetupFailed { step, errno }, _)) => {
                return Err(SandboxError::Step { step, errno: Errno::from_raw(errno) });
            }
            _ => return Err(SandboxError::Gone),
        };
        guard.armed = false;
        Ok(Sandbox { init, socket: ours, shm, alive: true })
    }

    /// Asks the init.
    pub fn request(&self, request: &Request) -> io::Result<()> {
        message::send(self.socket.as_fd(), request, None)
    }

    /// A second descriptor of the socket, for a thread that waits for events with [`receive`].
    pub fn events(&self) -> io::Result<OwnedFd> {
        self.socket.try_clone()
    }

    /// The private `/dev/shm`, a directory.
    pub fn shm(&self) -> BorrowedFd<'_> {
        self.shm.as_fd()
    }

    /// The sandbox's `/proc`, as this process reaches it.
    pub fn proc(&self) -> std::path::PathBuf {
        self.root().join("proc")
    }

    /// The sandbox's root, as this process reaches it.
    pub fn root(&self) -> std::path::PathBuf {
        format!("/proc/{}/root", self.init).into()
    }

    /// Why a checkpoint of the tree below `root`, which criu holds now, must not be committed.
    pub fn unfit(&self, root: i32) -> Option<Unfit> {
        fit::look(&self.proc(), root)
    }

    /// The system calls that criu has interrupted in the tree that it holds now.
    pub fn calls(&self) -> Option<Vec<u8>> {
        std::fs::read(self.root().join(CALLS.trim_start_matches('/'))).ok()
    }

    /// criu, while it holds the tree below `root`: its pid inside.
    pub fn criu(&self, root: i32) -> Option<i32> {
        fit::tracer(&self.proc(), root)
    }

    /// Resident memory of everything inside but the init, in bytes; an estimate, shared pages counted once a process.
    pub fn resident_bytes(&self) -> u64 {
        let proc = self.proc();
        let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten().unwrap_or(4096) as u64;
        let pages = |entry: std::fs::DirEntry| {
            let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
            // proc_pid_statm(5): size, resident, …
            let text = std::fs::read_to_string(entry.path().join("statm")).ok()?;
            (pid != 1).then(|| text.split(' ').nth(1)?.parse::<u64>().ok())?
        };
        let entries = std::fs::read_dir(proc).into_iter().flatten().flatten();
        entries.filter_map(pages).sum::<u64>() * page
    }

    /// Kills everything inside and waits until it is gone.
    pub fn kill(&mut self) {
        if std::mem::take(&mut self.alive) {
            end(self.init);
        }
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Ends an init that has not become a [`Sandbox`].
struct Killer {
    init: Pid,
    armed: bool,
}

impl Drop for Killer {
    fn drop(&mut self) {
        if self.armed {
            end(self.init);
        }
    }
}

/// The end of a pid namespace's first process is the end of all in it, and wait(2) returns only when they are gone. One
/// that hangs in the kernel (a dead file server) is waited for no longer than this.
fn end(init: Pid) {
    const PATIENCE: u16 = 10_000;
    let gone = rustix::process::Pid::from_raw(init.as_raw())
        .and_then(|pid| rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).ok());
    let _ = nix::sys::signal::kill(init, nix::sys::signal::Signal::SIGKILL);
    if let Some(gone) = gone {
        let mut watched = [nix::poll::PollFd::new(gone.as_fd(), nix::poll::PollFlags::POLLIN)];
        while nix::poll::poll(&mut watched, PATIENCE) == Err(Errno::EINTR) {}
        let _ = waitpid(init, Some(nix::sys::wait::WaitPidFlag::WNOHANG));
    } else {
        while waitpid(init, None) == Err(Errno::EINTR) {}
    }
}

/// Ends this process by a signal; returns if that signal ends nothing.
pub fn die_by_signal(number: i32) {
    spawn::die_by(number);
}

/// fork(2) into new namespaces: `None` in the child, which is pid 1 of the new pid namespace.
fn clone_into_namespaces(network: Network) -> Result<Option<Pid>, Errno> {
    let mut flags = libc::CLONE_NEWUSER | libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWIPC;
    if network == Network::Private {
        flags |= libc::CLONE_NEWNET;
    }
    // SAFETY: without CLONE_VM and with a null stack this is fork(2): the child has its own copy of everything. The
    // caller has one thread, so that no lock is held by a thread that the child lacks.
    let pid = unsafe {
        libc::syscall(libc::SYS_clone, (flags | libc::SIGCHLD) as libc::c_ulong, 0_usize, 0_usize, 0_usize, 0_usize)
    };
    match Errno::result(pid)? {
        0 => Ok(None),
        pid => Ok(Some(Pid::from_raw(pid as i32))),
    }
}

/// In the init: the socket moves to descriptor 3, 0 to 2 become `/dev/null`, and nothing else stays open.
fn keep_only(socket: OwnedFd) -> Result<OwnedFd, Errno> {
    use nix::fcntl::{OFlag, open};
    let null = open("/dev/null", OFlag::O_RDWR | OFlag::O_CLOEXEC, nix::sys::stat::Mode::empty())?;
    nix::unistd::dup2_stdin(&null)?;
    nix::unistd::dup2_stdout(&null)?;
    nix::unistd::dup2_stderr(&null)?;
    // SAFETY: dup3 onto 3 may close a descriptor of the supervisor's copy, whose owner never runs again here. The new
    // one has this one owner.
    let moved = unsafe {
        if socket.as_raw_fd() != 3 {
            Errno::result(libc::dup3(socket.as_raw_fd(), 3, libc::O_CLOEXEC))?;
        }
        OwnedFd::from_raw_fd(3)
    };
    std::mem::forget(socket);
    std::mem::forget(null);
    spawn::close_above(3);
    Ok(moved)
}
