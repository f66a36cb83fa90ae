//! The restore's side: criu asks for images by name and hands over the write ends of pipes.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, IoSlice, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, vmsplice};
use nix::poll::PollFlags;
use rustix::io::ioctl_fionread;

use super::socket::{Cancel, Listener, Stop, next_request, receive_pipe, send_reply, stopped};
use super::{ImageReader, ImageSource, Lent, StreamError};
use crate::criu::command::HELD;

/// Listens for a `criu restore --stream`.
#[derive(Debug)]
pub struct Serve {
    listener: Listener,
}

/// Where a restore waits when everything is there and nothing runs yet.
#[derive(Debug)]
pub struct Hold {
    listener: Listener,
}

impl Hold {
    /// Listens in the directory that criu will get as `-D`.
    pub fn listen(images_dir: &Path) -> Result<Self, StreamError> {
        Ok(Self { listener: Listener::bind(images_dir, HELD)? })
    }

    /// What ends [`Hold::wait`] from another thread.
    pub fn cancel_handle(&self) -> Cancel {
        self.listener.cancel_handle()
    }

    /// Waits for criu, does this, and lets criu go on.
    pub fn wait(self, then: impl FnOnce()) -> Result<(), StreamError> {
        let waiting = self.listener.accept()?;
        then();
        drop(waiting);
        Ok(())
    }
}

/// What a restore has been given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Served {
    /// Images that it asked for and got.
    pub images: u64,
    /// Images that it asked for and that there are not.
    pub absent: u64,
    /// Images whose pipe criu closed before their end; none when all goes well.
    pub unread: u64,
    /// Bytes in all of them.
    pub bytes: u64,
}

impl Serve {
    /// Listens in the directory that criu will get as `-D`. criu may be started after this.
    pub fn listen(images_dir: &Path) -> Result<Self, StreamError> {
        Ok(Self { listener: Listener::bind(images_dir, "streamer-serve.sock")? })
    }

    /// What ends [`Serve::run`] from another thread.
    pub fn cancel_handle(&self) -> Cancel {
        self.listener.cancel_handle()
    }

    /// Gives one restore what it asks for. Returns when criu has closed the connection and every image has been
    /// written. The first error, a damaged frame for one, stops everything at once; criu, with a pipe that has ended
    /// early, may then wait for ever and has to be killed.
    pub fn run(self, source: &dyn ImageSource) -> Result<Served, StreamError> {
        let connection = self.listener.accept()?;
        let stop = &*self.listener.stop;
        let counts = Counts::default();
        std::thread::scope(|scope| {
            let result = requests(&connection, stop, source, &counts, |name, image, pipe| {
                let thread = std::thread::Builder::new().name("criu-image".into());
                let counts = &counts;
                let body = move || match write(image, &pipe, stop) {
                    Ok(len) => {
                        counts.bytes.fetch_add(len, Ordering::Relaxed);
                    }
                    // Not our error but criu's, which says so by its exit status.
                    Err(e) if e.kind() == io::ErrorKind::BrokenPipe => {
                        counts.unread.fetch_add(1, Ordering::Relaxed);
                    }
                    Err(e) if stopped(&e) => {}
                    Err(source) => stop.fail(StreamError::Image { name, source }),
                };
                thread.spawn_scoped(scope, body).map(|_| ()).map_err(StreamError::io("starting a thread"))
            });
            if let Err(error) = result {
                stop.fail(error);
            }
        });
        stop.result()?;
        Ok(Served {
            images: counts.images.into_inner(),
            absent: counts.absent.into_inner(),
            unread: counts.unread.into_inner(),
            bytes: counts.bytes.into_inner(),
        })
    }
}

#[derive(Default)]
struct Counts {
    images: AtomicU64,
    absent: AtomicU64,
    unread: AtomicU64,
    bytes: AtomicU64,
}

type Image<'a> = Box<dyn ImageReader + 'a>;

fn requests<'a>(
    connection: &UnixStream,
    stop: &Stop,
    source: &'a dyn ImageSource,
    counts: &Counts,
    start: impl Fn(String, Image<'a>, File) -> Result<(), StreamError>,
) -> Result<(), StreamError> {
    while let Some(name) = next_request(connection, stop)? {
        // Opened before the answer, so that an error is no "true".
        let image = source.open(&name).map_err(|source| StreamError::Image { name: name.clone(), source })?;
        send_reply(connection, image.is_some())?;
        match image {
            None => counts.absent.fetch_add(1, Ordering::Relaxed),
            Some(image) => {
                start(name, image, receive_pipe(connection, stop)?)?;
                counts.images.fetch_add(1, Ordering::Relaxed)
            }
        };
    }
    Ok(())
}

/// One image, from its first byte to its last.
pub(super) fn write(mut image: Image<'_>, pipe: &File, stop: &Stop) -> io::Result<u64> {
    // A write that does not fit into the pipe would wait where nobody can stop it.
    let flags = OFlag::from_bits_retain(fcntl(pipe, FcntlArg::F_GETFL)?);
    fcntl(pipe, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    let size = image.size();
    let mut sending = Sending { pipe, stop, sent: 0, lendable: lendable(size, pipe)?, lent: VecDeque::new() };
    while let Some(piece) = image.next()? {
        sending.send(piece)?;
    }
    // criu takes a pipe that ends for an image that is whole.
    if sending.sent != size {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("it has {} bytes and not {size}", sending.sent),
        ));
    }
    Ok(size)
}

/// How much of an image may be lent: all but the last pipeful. When that has been written too, nothing that was lent
/// can still be in the pipe, and nobody has to wait for criu before the memory is used again.
fn lendable(size: u64, pipe: &File) -> io::Result<u64> {
    let capacity = fcntl(pipe, FcntlArg::F_GETPIPE_SZ)?;
    Ok(size.saturating_sub(capacity.unsigned_abs().into()))
}

/// An image on its way into a pipe.
///
/// The pipe carries pages of our own memory (vmsplice) where it can: a write would make the kernel take new pages, copy
/// into them, and free them again after criu has copied out of them. Measured: a quarter of the processor's time of a
/// restore.
struct Sending<'a> {
    pipe: &'a File,
    stop: &'a Stop,
    sent: u64,
    /// Up to this byte of the image.
    lendable: u64,
    /// Pieces that may still be in the pipe, each with the image's byte behind it.
    lent: VecDeque<(u64, Lent)>,
}

impl Sending<'_> {
    fn send(&mut self, piece: Lent) -> io::Result<()> {
        let bytes = (*piece).as_ref();
        let len = bytes.len();
        let to_lend = (len as u64).min(self.lendable.saturating_sub(self.sent)) as usize;
        let lent = self.lend(&bytes[..to_lend])?;
        self.copy(&bytes[lent..])?;
        if lent > 0 {
            self.lent.push_back((self.sent - (len - lent) as u64, piece));
        }
        self.take_back()
    }

    /// Returns how much the kernel took; it may refuse to at all.
    fn lend(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut at = 0;
        while at < bytes.len() {
            match vmsplice(self.pipe, &[IoSlice::new(&bytes[at..])], SpliceFFlags::SPLICE_F_NONBLOCK) {
                Ok(len) => at += len,
                Err(Errno::EAGAIN) => self.stop.wait(self.pipe.as_fd(), PollFlags::POLLOUT)?,
                Err(Errno::EINTR) => {}
                Err(Errno::EINVAL | Errno::ENOSYS | Errno::EPERM | Errno::EFAULT) => {
                    self.lendable = 0;
                    break;
                }
                Err(e) => return Err(e.into()),
            }
        }
        self.sent += at as u64;
        Ok(at)
    }

    fn copy(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        let mut to = self.pipe;
        while !bytes.is_empty() {
            match to.write(bytes) {
                Ok(len) => {
                    bytes = &bytes[len..];
                    self.sent += len as u64;
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    self.stop.wait(self.pipe.as_fd(), PollFlags::POLLOUT)?;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Drops what criu has read.
    fn take_back(&mut self) -> io::Result<()> {
        if self.lent.is_empty() {
            return Ok(());
        }
        let read = self.sent - ioctl_fionread(self.pipe)?;
        while self.lent.front().is_some_and(|(end, _)| *end <= read) {
            self.lent.pop_front();
        }
        Ok(())
    }
}
