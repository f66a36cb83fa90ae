//! What both directions share: listening, waiting for criu or for a cancellation, messages, and descriptors.

use std::fs::File;
use std::io::{self, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use super::{StreamError, proto};

/// Size of the pipes in bytes, where the kernel allows it (`/proc/sys/fs/pipe-max-size` is 1 MiB for users by default).
/// The larger, the fewer switches between criu and us; beyond 4 MiB criu was reported to have trouble.
const PIPE_SIZE: i32 = 1 << 20;

/// Ends a [`Capture`](super::Capture) or a [`Serve`](super::Serve) from another thread: when criu has ended without
/// ever connecting, or has failed, or a deadline has passed. Not when it has ended well: then the last bytes may still
/// be on their way, and the end of its connection is noticed without help. May be called at any time, and more than
/// once.
#[derive(Clone, Debug)]
pub struct Cancel(Arc<Stop>);

impl Cancel {
    /// Makes `run` return [`StreamError::Cancelled`] soon.
    pub fn cancel(&self) {
        self.0.cancelled.store(true, Ordering::Release);
        self.0.stop();
    }
}

/// A flag that threads can wait for beside a descriptor, and the first error.
#[derive(Debug)]
pub struct Stop {
    event: EventFd,
    cancelled: AtomicBool,
    error: Mutex<Option<StreamError>>,
}

impl Stop {
    pub(super) fn new() -> io::Result<Arc<Self>> {
        let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        Ok(Arc::new(Self { event, cancelled: AtomicBool::new(false), error: Mutex::new(None) }))
    }

    fn stop(&self) {
        // It fails only when it was called so often that the counter is full, and then it is set.
        let _ = self.event.write(1);
    }

    /// Remembers the first error and stops everything.
    pub fn fail(&self, error: StreamError) {
        self.error.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        self.stop();
    }

    /// What `run` returns after all threads have ended.
    pub fn result(&self) -> Result<(), StreamError> {
        // Whoever cancels because of an error wants to hear of that error.
        match self.error.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(error) => Err(error),
            None if self.cancelled.load(Ordering::Acquire) => Err(StreamError::Cancelled),
            None => Ok(()),
        }
    }

    /// Waits until `fd` is ready or has ended; an error when it is time to stop.
    pub fn wait(&self, fd: BorrowedFd<'_>, what: PollFlags) -> io::Result<()> {
        self.wait_any([PollFd::new(fd, what)]).map(drop)
    }

    /// Waits until one of two can be read; whether the first can.
    pub fn wait_first(&self, first: BorrowedFd<'_>, second: BorrowedFd<'_>) -> io::Result<bool> {
        self.wait_any([first, second].map(|fd| PollFd::new(fd, PollFlags::POLLIN))).map(|ready| ready == 0)
    }

    /// Waits until one of them is ready or has ended; which is the first of these.
    fn wait_any<const N: usize>(&self, wanted: [PollFd<'_>; N]) -> io::Result<usize> {
        let mut fds: Vec<PollFd<'_>> =
            wanted.into_iter().chain([PollFd::new(self.event.as_fd(), PollFlags::POLLIN)]).collect();
        loop {
            match poll(&mut fds, PollTimeout::NONE) {
                Err(nix::errno::Errno::EINTR) => continue,
                Err(e) => return Err(e.into()),
                Ok(_) => {}
            }
            let ready = |fd: &PollFd<'_>| fd.any().unwrap_or(true);
            if fds.last().is_some_and(ready) {
                return Err(io::Error::other(Stopped));
            }
            if let Some(first) = fds.iter().position(ready) {
                return Ok(first);
            }
        }
    }
}

/// Not the kind "interrupted", which readers of the standard library answer by trying again.
#[derive(Debug, thiserror::Error)]
#[error("it is time to stop")]
struct Stopped;

/// Whether an error means only that it was time to stop; the cause is another one.
pub fn stopped(e: &io::Error) -> bool {
    e.get_ref().is_some_and(|inner| inner.is::<Stopped>())
}

/// A descriptor that is read until its end or until it is time to stop.
pub struct Waiting<'a, T> {
    /// What is read; a blocking descriptor.
    pub inner: &'a T,
    /// When to stop.
    pub stop: &'a Stop,
}

impl<'a, T> Read for Waiting<'a, T>
where
    &'a T: Read,
    T: AsFd,
{
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let mut inner = self.inner;
        loop {
            self.stop.wait(self.inner.as_fd(), PollFlags::POLLIN)?;
            // After poll a pipe or socket with one reader does not block.
            match inner.read(to) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }
}

/// A socket in the images directory that waits for criu.
#[derive(Debug)]
pub struct Listener {
    socket: UnixListener,
    path: PathBuf,
    pub stop: Arc<Stop>,
}

impl Listener {
    /// Binds `name` in `images`. What an earlier run left there is removed.
    pub fn bind(images: &Path, name: &str) -> Result<Self, StreamError> {
        let path = images.join(name);
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(StreamError::Io { doing: "removing an old socket", source: e });
            }
            _ => {}
        }
        // Room in sockaddr_un, the zero byte at the end included.
        const SUN_PATH: usize = 108;
        let binding = StreamError::io("listening for criu in the images directory");
        let socket = if path.as_os_str().len() < SUN_PATH {
            UnixListener::bind(&path)
        } else {
            // criu itself knows the directory by a shorter name, or could not connect.
            let dir = File::open(images).map_err(&binding)?;
            UnixListener::bind(format!("/proc/self/fd/{}/{name}", dir.as_raw_fd()))
        };
        let stop = Stop::new().map_err(&binding)?;
        Ok(Self { socket: socket.map_err(&binding)?, path, stop })
    }

    pub fn cancel_handle(&self) -> Cancel {
        Cancel(Arc::clone(&self.stop))
    }

    /// Waits for criu.
    pub fn accept(&self) -> Result<UnixStream, StreamError> {
        const WAITING: &str = "waiting for criu";
        self.stop.wait(self.socket.as_fd(), PollFlags::POLLIN).map_err(StreamError::cancelled_or(WAITING))?;
        Ok(self.socket.accept().map_err(StreamError::io(WAITING))?.0)
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // It has been found by criu or never will be; in a directory that is gone there is nothing to remove.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// The next request; `None` when criu has closed the connection.
pub fn next_request(connection: &UnixStream, stop: &Stop) -> Result<Option<String>, StreamError> {
    let reading = |e: io::Error| match e.kind() {
        _ if stopped(&e) => StreamError::Cancelled,
        io::ErrorKind::UnexpectedEof => StreamError::protocol("the connection ended in the middle of a request"),
        _ => StreamError::Io { doing: "reading a request of criu", source: e },
    };
    let mut length = [0; 4];
    let mut got = 0;
    while got < length.len() {
        match (Waiting { inner: connection, stop }).read(&mut length[got..]).map_err(reading)? {
            0 if got == 0 => return Ok(None),
            0 => return Err(reading(io::ErrorKind::UnexpectedEof.into())),
            more => got += more,
        }
    }
    let length = u32::from_le_bytes(length);
    if length > proto::MAX_MESSAGE {
        return Err(StreamError::protocol(format!("a request of {length} bytes")));
    }
    let mut message = vec![0; length as usize];
    let mut rest = &mut message[..];
    while !rest.is_empty() {
        match (Waiting { inner: connection, stop }).read(rest).map_err(reading)? {
            0 => return Err(reading(io::ErrorKind::UnexpectedEof.into())),
            more => rest = &mut rest[more..],
        }
    }
    proto::parse_request(&message).map(Some)
}

/// Sends a reply.
pub fn send_reply(connection: &UnixStream, exists: bool) -> Result<(), StreamError> {
    let mut connection = connection;
    connection.write_all(&proto::reply(exists)).map_err(StreamError::io("answering criu"))
}

/// The one byte that carries the end of a pipe.
pub fn receive_pipe(connection: &UnixStream, stop: &Stop) -> Result<File, StreamError> {
    const RECEIVING: &str = "receiving a pipe from criu";
    let receiving = StreamError::io(RECEIVING);
    stop.wait(connection.as_fd(), PollFlags::POLLIN).map_err(StreamError::cancelled_or(RECEIVING))?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let received = loop {
        match recvmsg(connection, &mut [IoSliceMut::new(&mut byte)], &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => {}
            other => break other.map_err(|e| receiving(e.into()))?,
        }
    };
    if received.bytes == 0 {
        return Err(StreamError::protocol("the connection ended where a pipe should come"));
    }
    let pipe = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    let pipe = pipe.map(File::from).ok_or_else(|| StreamError::protocol("a byte came without a pipe"))?;
    // Only a wish: the limit may be lower, or all that the user may have is used up.
    let _ = nix::fcntl::fcntl(&pipe, nix::fcntl::FcntlArg::F_SETPIPE_SZ(PIPE_SIZE));
    Ok(pipe)
}
