//! CRIU's image streaming: images go through pipes between criu and us, and no image file touches the disk.
//!
//! # The protocol
//!
//! criu started with `--stream` does not open image files. It connects, once and without retrying, to a unix stream
//! socket in its images directory: `streamer-capture.sock` for a dump, `streamer-serve.sock` for a restore. So we
//! listen before criu is started. On this socket go small messages, on pipes the images.
//!
//! A message is a length (u32, little-endian) and a protobuf message of that length. There are two:
//!
//! ```text
//! request   field 1, string: the name of an image, "core-300.img"    0e 00 00 00  0a 0c  63 6f 72 65 …
//! reply     field 1, bool: whether there is such an image           02 00 00 00  08 01
//! ```
//!
//! A **dump** sends a request, and at once, without waiting for anything, one byte (0) that carries a descriptor by
//! SCM_RIGHTS: the read end of a pipe. There is no reply. The image is whole when the pipe ends.
//!
//! A **restore** sends a request and waits for our reply. After *true* it sends the byte with the write end of a pipe;
//! we write the image and close. After *false* nothing follows. It asks for images that there may not be, so *false* is
//! no error.
//!
//! What follows from that, and from what was seen:
//!
//! * Requests come one after another, from several processes of criu that share the connection under a lock. Data moves
//!   on many pipes at once: some images are open from the start of a dump to its end, and at a restore the pages of all
//!   tasks are read in parallel. Serving one pipe to its end before looking at another is a deadlock; here each has a
//!   thread.
//! * The socket's end means that no more requests come; pipes may still carry data. There is no end mark and no length
//!   anywhere, so a criu that was killed looks like one that is done. A dump is good only if criu *waits at
//!   `held.sock`* and every pipe has reached its end: both are what [`Capture::run`] returns.
//! * A dump's last word comes on a second socket, `held.sock`, which is ours and not criu's. The helper that is
//!   preloaded into criu connects to it when every image has been written and the tasks are still held. It waits there
//!   until we close it.
//! * The last request of a dump is for `inventory.img`, and the first one of a restore too.
//! * If we close a pipe early at a dump, criu fails and the payload goes on unharmed. If we do at a restore, criu may
//!   wait for ever: whoever gets an error from [`Serve::run`] must kill it.
//!
//! Names and messages come from criu, which runs as the payload's user, so they are checked as if they came from the
//! payload.
//!
//! This module knows nothing of archives: images go to an [`ImageSink`] and come from an [`ImageSource`].

mod capture;
pub mod proto;
mod serve;
mod socket;

use std::io::{self, Read};

pub use capture::{Capture, Captured, Held};
pub use serve::{Hold, Serve, Served};
pub use socket::Cancel;

/// Where the images of a dump go.
pub trait ImageSink: Sync {
    /// Begins the image `name`, a file name without directories. Several are open at once.
    fn image<'a>(&'a self, name: &str) -> io::Result<Box<dyn ImageWriter + 'a>>;
}

/// An image of a dump on its way.
pub trait ImageWriter: Send {
    /// Reads from `source` once, of at most as many bytes as it likes; returns how many, 0 at the end. Reading is the
    /// writer's part because only so the bytes go from the pipe straight to where they are wanted.
    fn fill(&mut self, source: &mut dyn Read) -> io::Result<usize>;
    /// The image is whole.
    fn finish(self: Box<Self>) -> io::Result<()>;
}

/// Where the images of a restore come from.
pub trait ImageSource: Sync {
    /// Opens the image `name`; `None` if there is none, which is no error. Several are open at once.
    fn open<'a>(&'a self, name: &str) -> io::Result<Option<Box<dyn ImageReader + 'a>>>;
}

/// An image of a restore on its way.
pub trait ImageReader: Send {
    /// Bytes in all pieces together.
    fn size(&self) -> u64;
    /// The next piece; `None` at the end.
    fn next(&mut self) -> io::Result<Option<Lent>>;
}

/// A piece of an image. Its memory does not change before it is dropped, so that the pipe can carry the memory itself
/// and no copy of it.
pub type Lent = Box<dyn AsRef<[u8]> + Send>;

/// Why images could not be streamed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StreamError {
    /// [`Cancel::cancel`] was called.
    #[error("streaming was cancelled")]
    Cancelled,
    /// criu said something that is not in the protocol.
    #[error("criu's image streaming: {what}")]
    Protocol {
        /// What.
        what: String,
    },
    /// The sink or the source failed.
    #[error("image {name}: {source}")]
    Image {
        /// The image.
        name: String,
        /// Its error.
        source: io::Error,
    },
    /// The operating system refused.
    #[error("{doing}: {source}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// The system's answer.
        source: io::Error,
    },
}

impl StreamError {
    fn io(doing: &'static str) -> impl Fn(io::Error) -> Self {
        move |source| Self::Io { doing, source }
    }

    /// That it is time to stop is no error of the system.
    fn cancelled_or(doing: &'static str) -> impl Fn(io::Error) -> Self {
        move |source| if socket::stopped(&source) { Self::Cancelled } else { Self::Io { doing, source } }
    }

    fn protocol(what: impl Into<String>) -> Self {
        Self::Protocol { what: what.into() }
    }
}

#[cfg(test)]
mod tests;
