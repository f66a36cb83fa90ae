//! Tells when HTCondor's starter is gone: without it nothing that we save is carried anywhere, and the job is started
//! elsewhere.

use std::io;
use std::os::fd::AsFd;

use crossbeam_channel::Sender;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::getppid;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::event::{self, Event};

/// A thread that tells when the process that has started us is gone: under HTCondor the starter, without which nothing
/// that we save is carried anywhere.
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
