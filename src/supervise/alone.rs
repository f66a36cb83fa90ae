//! One condor-criu for a scratch directory, and not for longer than its starter.
//!
//! After a network partition HTCondor may start a job a second time while the first copy still runs. What the first one saves then goes
//! nowhere, and on a scratch directory that both see (a shared file system) it must not take the place of what the
//! second one saves: [`crate::checkpoint::commit`] has the last word on that.

use std::fs::File;
use std::io;
use std::path::Path;

use crossbeam_channel::Sender;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::getppid;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::os::fd::AsFd;

use super::shell::event::{self, Event};
use crate::exit::Failure;

/// The lock; it ends with the process, however that ends.
pub type Lock = Flock<File>;

/// Takes the scratch directory; `None` where the file system knows no locks.
///
/// # Errors
/// Another condor-criu has it.
pub fn lock(scratch: &Path) -> Result<Option<Lock>, Failure> {
    let what = || format!("cannot use the scratch directory {}", scratch.display());
    let directory = File::open(scratch).map_err(|error| Failure::start(what(), error))?;
    match Flock::lock(directory, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Some(lock)),
        Err((_, Errno::EWOULDBLOCK)) => Err(Failure::start(what(), "another condor-criu runs in it")
            .with_remedy("wait for it to end, or name another directory with --scratch")),
        Err((_, errno)) => {
            tracing::debug!("the scratch directory cannot be locked: {errno}");
            Ok(None)
        }
    }
}

/// A thread that tells when the process that has started us is gone: under HTCondor the starter, without which nothing that we save
/// is carried anywhere.
pub fn watch_starter(events: Sender<Event>) -> io::Result<()> {
    // 0: it is outside our pid namespace; 1: it is init, or has gone before we looked.
    let Some(parent) = Pid::from_raw(getppid().as_raw()).filter(|parent| !parent.is_init()) else { return Ok(()) };
    let starter = pidfd_open(parent, PidfdFlags::empty())?;
    event::spawn("starter", move || {
        let mut gone = [PollFd::new(starter.as_fd(), PollFlags::POLLIN)];
        while let Err(Errno::EINTR) = poll(&mut gone, PollTimeout::NONE) {}
        let _ = events.send(Event::StarterGone);
    })
}
