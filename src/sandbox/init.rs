//! pid 1 of the sandbox: holds the namespaces, starts the payload and criu on request, adopts and reaps orphans, and
//! tells the supervisor what happens. It has capabilities over its own namespaces only. When it ends, the kernel
//! kills whatever is left in them, so that nothing of a job stays behind.

use std::collections::HashMap;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;

use super::message::{CriuJob, CriuRefusal, Event, Request, receive, send};
use super::plan::{PIDFILE, Plan};
use super::step::{StepFailed, step};
use super::{clock, criu_preload, identity, mounts, network, spawn};
use crate::exit::Ended;
use crate::procfs;

struct Init {
    plan: Plan,
    socket: OwnedFd,
    /// Root of the payload's tree.
    root: Option<Pid>,
    /// The payload's first process; after a restore the supervisor's word for it.
    main: Option<Pid>,
    criu: Option<(Pid, CriuJob)>,
    /// Children that ended before we knew who they were: a restored root can be quicker than criu's own end.
    strays: HashMap<Pid, Ended>,
    /// How the root ended while criu was at work inside the tree: whether that was its own end is known when criu has
    /// ended.
    ended_in_dump: Option<Ended>,
}

/// The life of the init; returns its exit code.
pub(super) fn run(plan: Plan, socket: OwnedFd) -> i32 {
    let mut init =
        Init { plan, socket, root: None, main: None, criu: None, strays: HashMap::new(), ended_in_dump: None };
    match init.set_up() {
        Ok((shm, children)) => {
            let ready = send(init.socket.as_fd(), &Event::Ready, Some(std::os::fd::AsRawFd::as_raw_fd(&shm)));
            drop(shm);
            match ready.and_then(|()| init.serve(&children)) {
                Ok(()) => 0,
                // The supervisor has gone; so do we, and with us all that runs here.
                Err(_) => 1,
            }
        }
        Err(failed) => {
            let event = Event::SetupFailed { step: failed.step, errno: failed.errno as i32 };
            let _ = send(init.socket.as_fd(), &event, None);
            1
        }
    }
}

impl Init {
    fn set_up(&self) -> Result<(OwnedFd, SignalFd), StepFailed> {
        // Also where the socket cannot tell: a supervisor that is killed takes the sandbox with it.
        step("ask for a death signal", prctl::set_pdeathsig(Signal::SIGKILL))?;
        let _ = prctl::set_name(c"condor-criu-ini");
        let _ = spawn::reset_signals(false);
        // Everything stays blocked for ever: the payload runs under the same uid and may send us anything.
        step("block signals", sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), None))?;
        let mut child = SigSet::empty();
        child.add(Signal::SIGCHLD);
        let children =
            step("watch children", SignalFd::with_flags(&child, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK))?;
        identity::map(&self.plan.identity)?;
        let shm = mounts::build_and_enter(&self.plan)?;
        network::set_up(self.plan.network)?;
        Ok((shm, children))
    }

    fn serve(&mut self, children: &SignalFd) -> std::io::Result<()> {
        loop {
            let mut watched =
                [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN), PollFd::new(children.as_fd(), PollFlags::POLLIN)];
            match poll(&mut watched, PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
            let asked = watched[0].any().unwrap_or(false);
            if watched[1].any().unwrap_or(false) {
                while let Ok(Some(_)) = children.read_signal() {}
                self.reap()?;
            }
            if asked {
                match receive::<Request>(self.socket.as_fd())? {
                    Some((request, _)) => self.obey(request)?,
                    None => return Ok(()),
                }
            }
        }
    }

    fn say(&self, event: &Event) -> std::io::Result<()> {
        send(self.socket.as_fd(), event, None)
    }

    fn obey(&mut self, request: Request) -> std::io::Result<()> {
        match request {
            Request::Clock(offsets) => match clock::enter(offsets) {
                Ok(()) => Ok(()),
                Err(failed) => self.say(&Event::SetupFailed { step: failed.step, errno: failed.errno as i32 }),
            },
            Request::Spawn => {
                let Some(command) = self.plan.payload.clone() else { return Ok(()) };
                let event = match spawn::payload(&self.plan, &command) {
                    Ok(event) => event,
                    Err(failed) => Event::ExecFailed { errno: failed.errno as i32, step: failed.step },
                };
                if let Event::Spawned { root, main } = event {
                    self.root = Some(Pid::from_raw(root));
                    self.main = Some(Pid::from_raw(main));
                }
                self.say(&event)
            }
            Request::Adopt { main } => {
                self.main = Some(Pid::from_raw(main));
                Ok(())
            }
            Request::Criu { job, args } => {
                if let Some(objects) = sysv_objects().filter(|_| job == CriuJob::Dump) {
                    return self.say(&Event::Refused(CriuRefusal::SysvObjects(objects)));
                }
                criu_preload::forget();
                match spawn::criu(&self.plan, job, &args, &self.criu_output()) {
                    Ok(pid) => {
                        self.criu = Some((pid, job));
                        Ok(())
                    }
                    Err(_) => self.say(&Event::CriuEnded { job, ended: Ended::Exited(127), root: None, harmed: false }),
                }
            }
            Request::KillCriu => {
                if let Some((pid, _)) = self.criu {
                    let _ = kill(pid, Signal::SIGKILL);
                }
                Ok(())
            }
            Request::Signal(number) => {
                if let Some(main) = self.main {
                    signal(main, number);
                }
                Ok(())
            }
            Request::CloseReader(descriptor) => {
                if let Some(root) = self.root {
                    signal(root, spawn::CLOSE_SIGNAL + i32::from(descriptor));
                }
                Ok(())
            }
        }
    }

    /// Learns of every child that ended.
    fn reap(&mut self) -> std::io::Result<()> {
        loop {
            let Some((pid, ended)) = wait_any()? else { return Ok(()) };
            if self.root == Some(pid) {
                self.root = None;
                if self.criu.is_some_and(|(_, job)| job == CriuJob::Dump) && criu_preload::is_modifying() {
                    self.ended_in_dump = Some(ended);
                } else {
                    self.say(&Event::PayloadEnded(ended))?;
                }
            } else if self.criu.is_some_and(|(criu, _)| criu == pid) {
                self.criu_ended(ended)?;
            } else {
                self.strays.insert(pid, ended);
            }
        }
    }

    /// Where criu's words go.
    fn criu_output(&self) -> PathBuf {
        self.plan.inner_state_dir().join("work").join("criu.out")
    }

    fn criu_ended(&mut self, ended: Ended) -> std::io::Result<()> {
        let Some((_, job)) = self.criu.take() else { return Ok(()) };
        let mut root = None;
        if job == CriuJob::Restore && ended == Ended::Exited(0) {
            root = fs::read_to_string(PIDFILE).ok().and_then(|text| text.trim().parse::<i32>().ok());
            // criu's own processes moved the cursor down; the payload's next child must not collide at a restore.
            let pids = pids();
            let highest = told_of(&pids).chain(pids.iter().copied()).max().unwrap_or(0);
            let _ = spawn::continue_pids_after(highest.max(spawn::PID_BEFORE_ROOT));
            self.root = root.map(Pid::from_raw);
        }
        let harmed = job == CriuJob::Dump && matches!(ended, Ended::Signaled(_)) && criu_preload::is_modifying();
        // One that was killed has perhaps been the end of the tree, too.
        if let Some(own) = self.ended_in_dump.take().filter(|_| !harmed) {
            self.say(&Event::PayloadEnded(own))?;
        }
        self.say(&Event::CriuEnded { job, ended, root, harmed })?;
        if let Some(early) = self.root.and_then(|root| self.strays.remove(&root)) {
            self.root = None;
            self.say(&Event::PayloadEnded(early))?;
        }
        self.strays.clear();
        Ok(())
    }
}

/// What there is of SysV IPC in this namespace, if anything: CRIU would leave it out without an error, because criu and
/// the payload share the namespace. proc(5), /proc/sysvipc: one line for each object behind a line of titles.
fn sysv_objects() -> Option<String> {
    let count = |(table, name): (&str, &str)| {
        let lines = fs::read_to_string(format!("/proc/sysvipc/{table}")).ok()?.lines().count();
        (lines > 1).then(|| format!("{} {name}", lines - 1))
    };
    let tables = [("sem", "semaphore sets"), ("msg", "message queues"), ("shm", "shared memory segments")];
    let found: Vec<String> = tables.into_iter().filter_map(count).collect();
    (!found.is_empty()).then(|| found.join(", "))
}

/// A child that ended, if there is one. nix's waitpid has no real-time signals, by which a payload can die too.
fn wait_any() -> std::io::Result<Option<(Pid, Ended)>> {
    let mut status = 0;
    loop {
        // SAFETY: writes one int, which lives until the call returns.
        match Errno::result(unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) }) {
            Ok(0) | Err(Errno::ECHILD) => return Ok(None),
            Ok(pid) if libc::WIFEXITED(status) => {
                return Ok(Some((Pid::from_raw(pid), Ended::Exited(libc::WEXITSTATUS(status) as u8))));
            }
            Ok(pid) if libc::WIFSIGNALED(status) => {
                return Ok(Some((Pid::from_raw(pid), Ended::Signaled(libc::WTERMSIG(status)))));
            }
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Every number of a signal, the real-time ones too, which nix's enum does not have.
fn signal(pid: Pid, number: i32) {
    // SAFETY: kill(2) with a pid of our own namespace touches no memory.
    unsafe { libc::kill(pid.as_raw(), number) };
}

/// All processes of the sandbox but this one.
fn pids() -> Vec<i32> {
    procfs::processes(Path::new("/proc")).map(|(pid, _)| pid.cast_signed()).filter(|pid| *pid != 1).collect()
}

/// Processes that open files below /proc tell of. One that has ended must not come back as another, criu above all: a
/// dump would take the file for one of that process.
fn told_of(pids: &[i32]) -> impl Iterator<Item = i32> {
    let links = pids.iter().flat_map(|pid| {
        let files = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        files.filter_map(|file| fs::read_link(file.path()).ok())
    });
    links.filter_map(|link| {
        let rest = link.strip_prefix("/proc").ok()?.to_str()?.to_owned();
        rest.split(['/', ' ']).next()?.parse().ok()
    })
}
