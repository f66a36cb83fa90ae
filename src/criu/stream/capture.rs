//! The dump's side: criu hands over the read ends of pipes, and what comes out of them goes to a sink. In the end criu
//! waits, with the tasks still held, until it is let go.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::socket::{Cancel, Listener, Stop, Waiting, next_request, receive_pipe, stopped};
use super::{ImageSink, StreamError};
use crate::criu::command::HELD;

/// Listens for a `criu dump --stream`.
#[derive(Debug)]
pub struct Capture {
    listener: Listener,
    /// Where criu waits when it has sent everything.
    held: Listener,
}

/// What a dump has sent.
#[derive(Debug, Default)]
pub struct Captured {
    /// Images.
    pub images: u64,
    /// Bytes in all of them.
    pub bytes: u64,
    /// criu waits, and holds the tasks. Without it criu has closed the connection: it has ended, or is about to.
    pub held: Option<Held>,
}

/// A criu that has written every image and holds the tasks. [`Held::release`] lets them go on, and so does dropping it.
#[derive(Debug)]
pub struct Held {
    waiting: UnixStream,
    /// criu would take the end of this for ours.
    _images: UnixStream,
}

impl Held {
    /// Lets the tasks go on, whoever else has this.
    pub fn release(&self) {
        let _ = self.waiting.shutdown(std::net::Shutdown::Both);
    }

    /// Whether criu still holds the tasks. It does not if it was killed.
    pub fn holds(&self) -> bool {
        // criu sends nothing here: what can be read is the end.
        let mut end = [PollFd::new(self.waiting.as_fd(), PollFlags::POLLIN)];
        matches!(poll(&mut end, PollTimeout::ZERO), Ok(0))
    }
}

impl Capture {
    /// Listens in the directory that criu will get as `-D`. criu may be started after this.
    pub fn listen(images_dir: &Path) -> Result<Self, StreamError> {
        let listener = Listener::bind(images_dir, "streamer-capture.sock")?;
        Ok(Self { held: Listener::bind(images_dir, HELD)?, listener })
    }

    /// What ends [`Capture::run`] from another thread.
    pub fn cancel_handle(&self) -> Cancel {
        self.listener.cancel_handle()
    }

    /// Takes all images of one dump. Returns when criu waits to be let go, or has closed the connection, and every pipe
    /// has ended. Only a criu that waits has saved everything. The first error stops everything: criu then finds its
    /// pipes closed, fails, and leaves the payload as it was.
    pub fn run(self, sink: &dyn ImageSink) -> Result<Captured, StreamError> {
        let connection = self.listener.accept()?;
        let stop = &*self.listener.stop;
        let (images, bytes) = (AtomicU64::new(0), AtomicU64::new(0));
        let mut waiting = None;
        std::thread::scope(|scope| {
            let result = requests(&connection, &self.held, stop, |name, pipe| {
                images.fetch_add(1, Ordering::Relaxed);
                let thread = std::thread::Builder::new().name("criu-image".into());
                let bytes = &bytes;
                let body = move || match image(&name, &pipe, sink, stop) {
                    Ok(len) => {
                        bytes.fetch_add(len, Ordering::Relaxed);
                    }
                    Err(source) if stopped(&source) => {}
                    Err(source) => stop.fail(StreamError::Image { name, source }),
                };
                thread.spawn_scoped(scope, body).map(|_| ()).map_err(StreamError::io("starting a thread"))
            });
            match result {
                Ok(held) => waiting = held,
                Err(error) => stop.fail(error),
            }
        });
        stop.result()?;
        let held = waiting.map(|waiting| Held { waiting, _images: connection });
        Ok(Captured { images: images.into_inner(), bytes: bytes.into_inner(), held })
    }
}

/// Answers requests until criu waits, which is returned, or ends.
fn requests(
    connection: &UnixStream,
    held: &Listener,
    stop: &Stop,
    start: impl Fn(String, File) -> Result<(), StreamError>,
) -> Result<Option<UnixStream>, StreamError> {
    // Requests first: what was asked for before criu began to wait is in the connection by then.
    while stop.wait_first(connection.as_fd(), held.as_fd()).map_err(StreamError::cancelled_or("waiting for criu"))? {
        let Some(name) = next_request(connection, stop)? else { return Ok(None) };
        let pipe = receive_pipe(connection, stop)?;
        start(name, pipe)?;
    }
    held.accept().map(Some)
}

/// One image, from the first byte to the end of its pipe.
fn image(name: &str, pipe: &File, sink: &dyn ImageSink, stop: &Stop) -> std::io::Result<u64> {
    let mut writer = sink.image(name)?;
    let mut source = Waiting { inner: pipe, stop };
    let mut sum = 0;
    loop {
        match writer.fill(&mut source)? {
            0 => break,
            len => sum += len as u64,
        }
    }
    writer.finish()?;
    Ok(sum)
}
