//! The dump's side: criu hands over the read ends of pipes, and what comes out of them goes to a sink.

use std::fs::File;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use super::socket::{Cancel, Listener, Stop, Waiting, next_request, receive_pipe, stopped};
use super::{ImageSink, StreamError};

/// Listens for a `criu dump --stream`.
#[derive(Debug)]
pub struct Capture {
    listener: Listener,
}

/// What a dump has sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Captured {
    /// Images.
    pub images: u64,
    /// Bytes in all of them.
    pub bytes: u64,
}

impl Capture {
    /// Listens in the directory that criu will get as `-D`. criu may be started after this.
    pub fn listen(images_dir: &Path) -> Result<Self, StreamError> {
        Ok(Self { listener: Listener::bind(images_dir, "streamer-capture.sock")? })
    }

    /// What ends [`Capture::run`] from another thread.
    pub fn cancel_handle(&self) -> Cancel {
        self.listener.cancel_handle()
    }

    /// Takes all images of one dump. Returns when criu has closed the connection and every pipe has ended; that the dump
    /// is good is said only by criu's exit status in addition. The first error stops everything: criu then finds its pipes closed,
    /// fails, and leaves the payload as it was.
    pub fn run(self, sink: &dyn ImageSink) -> Result<Captured, StreamError> {
        let connection = self.listener.accept()?;
        let stop = &*self.listener.stop;
        let (images, bytes) = (AtomicU64::new(0), AtomicU64::new(0));
        std::thread::scope(|scope| {
            let result = requests(&connection, stop, |name, pipe| {
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
            if let Err(error) = result {
                stop.fail(error);
            }
        });
        stop.result()?;
        Ok(Captured { images: images.into_inner(), bytes: bytes.into_inner() })
    }
}

fn requests(
    connection: &UnixStream,
    stop: &Stop,
    start: impl Fn(String, File) -> Result<(), StreamError>,
) -> Result<(), StreamError> {
    while let Some(name) = next_request(connection, stop)? {
        let pipe = receive_pipe(connection, stop)?;
        start(name, pipe)?;
    }
    Ok(())
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
