//! What the supervisor and the sandbox's init say to each other: JSON datagrams over a SOCK_SEQPACKET pair. A message
//! is whole or absent, and each side sees the other's end as the end of the socket.

use std::io;
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::plan::ClockOffsets;
use super::step::SetupStep;
use crate::exit::Ended;

/// Bytes; the longest message is a criu failure with a few lines of its log, far below this.
const MESSAGE_MAX: usize = 64 * 1024;

/// What the supervisor asks of the init.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Enter a time namespace with these offsets; once, before the payload is started or restored, and as late as
    /// possible, because the payload's clocks run from here on.
    Clock(ClockOffsets),
    /// Start the payload (its command is in the plan that both sides have).
    Spawn,
    /// After a restore: which process gets the signals that are meant for the payload.
    Adopt {
        /// Its pid inside the sandbox.
        main: i32,
    },
    /// Run criu with these arguments, after `criu` itself.
    Criu {
        /// What for; comes back in [`Event::CriuEnded`].
        job: CriuJob,
        /// The arguments.
        args: Vec<String>,
    },
    /// Kill criu: its deadline has passed or it is no longer wanted.
    KillCriu,
    /// A signal for the payload's first process.
    Signal(i32),
    /// Nobody reads this standard stream of the payload's any more: close the end to read from that the reaper holds.
    CloseReader(u8),
}

/// Why criu is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CriuJob {
    /// Save the payload, and hold it until it is let go.
    Dump,
    /// Bring the payload back; it runs when criu has ended well.
    Restore,
}

/// Why the init does not start criu for a dump.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CriuRefusal {
    /// There are SysV objects in the sandbox, which CRIU would leave out without an error: how many of each kind.
    SysvObjects(String),
}

/// What the init tells the supervisor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// The namespaces and mounts stand; a descriptor of the private `/dev/shm` comes with this message.
    Ready,
    /// The sandbox cannot be made: the step and the system's answer.
    SetupFailed {
        /// What was being done.
        step: SetupStep,
        /// errno
        errno: i32,
    },
    /// The payload runs: pids inside the sandbox.
    Spawned {
        /// The reaper, root of the dumped tree.
        root: i32,
        /// The payload's first process.
        main: i32,
    },
    /// The payload's program could not be executed.
    ExecFailed {
        /// errno of execve(2), or of the step before it.
        errno: i32,
        /// Which step.
        step: SetupStep,
    },
    /// criu was not started: what it would make is known to be wrong.
    Refused(CriuRefusal),
    /// criu ended.
    CriuEnded {
        /// What it was run for.
        job: CriuJob,
        /// How it ended.
        ended: Ended,
        /// A restore: pid of the root of the restored tree, if it lives.
        root: Option<i32>,
        /// A dump that was killed while it worked inside a process: the tree may be damaged.
        harmed: bool,
    },
    /// The root of the payload's tree ended, with the payload's status.
    PayloadEnded(Ended),
}

/// Sends one message, with a descriptor if there is one.
pub fn send<T: Serialize>(socket: BorrowedFd<'_>, message: &T, descriptor: Option<RawFd>) -> io::Result<()> {
    let bytes = serde_json::to_vec(message)?;
    let parts = [IoSlice::new(&bytes)];
    let descriptors: Vec<RawFd> = descriptor.into_iter().collect();
    let rights = [ControlMessage::ScmRights(&descriptors)];
    let control: &[ControlMessage<'_>] = if descriptors.is_empty() { &[] } else { &rights };
    loop {
        match sendmsg::<()>(socket.as_raw_fd(), &parts, control, MsgFlags::MSG_NOSIGNAL, None) {
            Ok(_) => return Ok(()),
            Err(Errno::EINTR) => continue,
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Waits for one message; `None` when the other side has gone.
pub fn receive<T: DeserializeOwned>(socket: BorrowedFd<'_>) -> io::Result<Option<(T, Option<OwnedFd>)>> {
    let mut buffer = vec![0; MESSAGE_MAX];
    let mut control = cmsg_space!([RawFd; 1]);
    let (length, descriptor) = loop {
        let mut parts = [IoSliceMut::new(&mut buffer)];
        match recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut control), MsgFlags::MSG_CMSG_CLOEXEC) {
            Ok(message) => {
                let mut descriptor = None;
                for part in message.cmsgs()? {
                    if let ControlMessageOwned::ScmRights(descriptors) = part {
                        descriptor = descriptors.first().copied();
                    }
                }
                break (message.bytes, descriptor);
            }
            Err(Errno::EINTR) => continue,
            Err(Errno::ECONNRESET) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        }
    };
    // SAFETY: the kernel has just made this descriptor for us and nobody else knows its number.
    let descriptor = descriptor.map(|raw| unsafe { OwnedFd::from_raw_fd(raw) });
    if length == 0 {
        return Ok(None);
    }
    Ok(Some((serde_json::from_slice(&buffer[..length])?, descriptor)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
    use std::os::fd::AsFd;

    #[test]
    fn messages_and_descriptors_arrive_and_the_end_is_seen() {
        let (a, b) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).unwrap();
        let file = std::fs::File::open("/dev/null").unwrap();
        send(a.as_fd(), &Event::Ready, Some(file.as_raw_fd())).unwrap();
        send(a.as_fd(), &Event::PayloadEnded(Ended::Exited(42)), None).unwrap();
        drop(a);
        let (event, descriptor) = receive::<Event>(b.as_fd()).unwrap().unwrap();
        assert_eq!(event, Event::Ready);
        assert!(descriptor.is_some());
        let (event, descriptor) = receive::<Event>(b.as_fd()).unwrap().unwrap();
        assert_eq!(event, Event::PayloadEnded(Ended::Exited(42)));
        assert!(descriptor.is_none());
        assert!(receive::<Event>(b.as_fd()).unwrap().is_none());
    }
}
