//! Where an output goes: how it is written to without a wait, and what its reader has taken.

use std::fs::{self, File};
use std::io::{self, IsTerminal, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, send};

/// A reader that takes nothing for so long is left: the pipe holds what it has not read.
const READER_IDLE: Duration = Duration::from_secs(1);
/// So often it is looked what a reader has taken.
const LOOK: Duration = Duration::from_millis(2);

/// Where an output goes.
pub enum Target {
    /// The kernel moves bytes from pipe to pipe, and never waits.
    Pipe(OwnedFd),
    /// A socket.
    Socket(OwnedFd),
    /// A terminal, a file, a device.
    Other(File),
}

impl Target {
    pub fn of(descriptor: u8) -> io::Result<Target> {
        let (stdout, stderr) = (io::stdout(), io::stderr());
        let (fd, terminal) = match descriptor {
            1 => (stdout.as_fd(), stdout.is_terminal()),
            _ => (stderr.as_fd(), stderr.is_terminal()),
        };
        let kind = fs::metadata(format!("/proc/self/fd/{descriptor}"))?.file_type();
        let own = fd.try_clone_to_owned()?;
        Ok(match kind {
            kind if kind.is_fifo() => Target::Pipe(own),
            kind if kind.is_socket() => Target::Socket(own),
            // Opened anew, so that it does not wait; others who have this terminal open are not changed by that.
            _ if terminal => {
                let mut options = File::options();
                options.write(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
                Target::Other(options.open(format!("/proc/self/fd/{descriptor}")).unwrap_or_else(|_| own.into()))
            }
            _ => Target::Other(own.into()),
        })
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Target::Pipe(fd) | Target::Socket(fd) => fd.as_fd(),
            Target::Other(file) => file.as_fd(),
        }
    }

    /// Waits until the reader has taken all that is in the pipe, as long as it goes on taking; tells when it has taken
    /// something. HTCondor's starter streams what it has read, and drops what is in the pipe when the job has ended.
    pub fn taken(&self, moved: impl Fn()) {
        let Target::Pipe(pipe) = self else { return };
        // poll(2) tells of room in a pipe, and not that it is empty.
        let left = || rustix::io::ioctl_fionread(pipe).unwrap_or(0);
        let (mut before, mut idle) = (left(), Duration::ZERO);
        while before > 0 && idle < READER_IDLE && !ready(pipe.as_fd(), PollFlags::POLLERR) {
            std::thread::sleep(LOOK);
            let now = left();
            if now == before {
                idle += LOOK;
            } else {
                idle = Duration::ZERO;
                moved();
            }
            before = now;
        }
    }

    pub fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Target::Pipe(fd) => Ok(nix::unistd::write(&*fd, bytes)?),
            Target::Socket(fd) => {
                use std::os::fd::AsRawFd;
                Ok(send(fd.as_raw_fd(), bytes, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL)?)
            }
            Target::Other(file) => file.write(bytes),
        }
    }
}

/// Whether one of these has happened to it, without a wait.
pub fn ready(fd: BorrowedFd<'_>, what: PollFlags) -> bool {
    let mut watched = [PollFd::new(fd, what)];
    matches!(poll(&mut watched, PollTimeout::ZERO), Ok(1..)) && watched[0].any().unwrap_or(false)
}
