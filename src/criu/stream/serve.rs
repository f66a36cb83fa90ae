//! The restore's side: criu asks for images by name and hands over the write ends of pipes.

use std::fs::File;
use std::io::{self, BufRead, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::PollFlags;

use super::socket::{Cancel, Listener, Stop, next_request, receive_pipe, send_reply, stopped};
use super::{ImageSource, StreamError};

/// Listens for a `criu restore --stream`.
#[derive(Debug)]
pub struct Serve {
    listener: Listener,
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

    /// Gives one restore what it asks for. Returns when criu has closed the connection and every image has been written. The first
    /// error, a damaged frame for one, stops everything at once; criu, with a pipe that has ended early, may then wait for
    /// ever and has to be killed.
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

type Image<'a> = Box<dyn BufRead + Send + 'a>;

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
fn write(mut image: Image<'_>, pipe: &File, stop: &Stop) -> io::Result<u64> {
    // A write that does not fit into the pipe would wait where nobody can stop it.
    let flags = OFlag::from_bits_retain(fcntl(pipe, FcntlArg::F_GETFL)?);
    fcntl(pipe, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    let mut to = pipe;
    let mut sum = 0;
    loop {
        let bytes = image.fill_buf()?;
        if bytes.is_empty() {
            return Ok(sum);
        }
        match to.write(bytes) {
            Ok(len) => {
                image.consume(len);
                sum += len as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => stop.wait(pipe.as_fd(), PollFlags::POLLOUT)?,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}
