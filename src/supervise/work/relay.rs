//! The relays: threads that carry bytes between this process's standard streams and the payload's named pipes.
//!
//! Nobody waits for a reader here but the thread that serves it. A step of a relay moves what can be moved at once and
//! never waits; only between two steps it waits, for bytes, for room, for the end. So a save brings the relays to rest
//! within a moment, whatever the readers do. A reader that has gone is passed on: the pipe is closed, and the payload
//! sees EPIPE as without us.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::fcntl::{OFlag, SpliceFFlags, open, splice};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use crate::supervise::work::stdio::fifo_name;
use crate::supervise::work::target::{Target, ready};

/// Bytes that one step carries at most; the size of a pipe.
const STEP: usize = 64 * 1024;
/// PIPE_BUF: a pipe that poll(2) calls writable takes so many without a wait.
const SURE: usize = 4096;

/// What a relay has to tell.
#[derive(Debug)]
pub enum Said {
    /// All of them rest.
    Quiet,
    /// One carries no further: the pipe's other end may be closed too.
    Closed {
        /// 1 or 2
        descriptor: u8,
        /// What the payload wrote is lost, for this reason. Without one, its reader has gone.
        lost: Option<io::Error>,
    },
    /// Something was carried while they end.
    Moved,
    /// Nothing is left to be carried.
    Done,
}

/// Lets the relays carry, or holds them back between two steps.
struct Gate {
    now: Mutex<Now>,
    changed: Condvar,
}

#[derive(Default)]
struct Now {
    closed: bool,
    /// Steps that are being done.
    steps: usize,
    /// Relays of outputs that have not come to their end.
    carrying: usize,
    ending: bool,
}

struct Shared {
    gate: Gate,
    say: Box<dyn Fn(Said) + Send + Sync>,
}

impl Shared {
    fn now(&self) -> MutexGuard<'_, Now> {
        self.gate.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a step as soon as the gate is open.
    fn enter(&self) -> Step<'_> {
        let changed = &self.gate.changed;
        let mut now = changed.wait_while(self.now(), |now| now.closed).unwrap_or_else(PoisonError::into_inner);
        now.steps += 1;
        Step(self)
    }
}

/// One step; its end lets the gate come to rest.
struct Step<'a>(&'a Shared);

impl Drop for Step<'_> {
    fn drop(&mut self) {
        let mut now = self.0.now();
        now.steps -= 1;
        let quiet = now.closed && now.steps == 0;
        drop(now);
        if quiet {
            (self.0.say)(Said::Quiet);
        }
    }
}

/// The threads that carry bytes.
pub struct Relays {
    shared: Arc<Shared>,
    /// Closing it tells them to carry what is left and end.
    end: Option<OwnedFd>,
}

impl Relays {
    /// Makes the named pipes (before the payload opens them) for these descriptors.
    pub fn prepare(descriptors: &[u8], scratch: &Path) -> io::Result<Vec<(u8, File)>> {
        let mut pipes = Vec::new();
        for &descriptor in descriptors {
            let path = scratch.join(fifo_name(descriptor));
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent)?;
            }
            if !path.symlink_metadata().is_ok_and(|metadata| metadata.file_type().is_fifo()) {
                let _ = fs::remove_file(&path);
                mkfifo(&path, Mode::from_bits_truncate(0o600))?;
            }
            // Both ends: the payload's open must not wait for us, nor ours for the payload.
            let flags = OFlag::O_RDWR | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
            pipes.push((descriptor, File::from(open(&path, flags, Mode::empty())?)));
        }
        Ok(pipes)
    }

    /// Makes the threads. They carry nothing before the first [`Relays::resume`]: a pipe that is filled and closed
    /// before the payload has opened it would lose what is in it.
    pub fn start(pipes: Vec<(u8, File)>, say: impl Fn(Said) + Send + Sync + 'static) -> io::Result<Relays> {
        let carrying = pipes.iter().filter(|(descriptor, _)| *descriptor > 0).count();
        let now = Now { closed: true, carrying, ..Now::default() };
        let gate = Gate { now: Mutex::new(now), changed: Condvar::new() };
        let shared = Arc::new(Shared { gate, say: Box::new(say) });
        let (reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
        for (descriptor, pipe) in pipes {
            let end = reader.try_clone()?;
            let shared = Arc::clone(&shared);
            let name = format!("stdio-{descriptor}");
            // Nobody joins them: one whose reader stalls ends with the process.
            std::thread::Builder::new().name(name).spawn(move || match descriptor {
                0 => {
                    if let Err(error) = feed(pipe, &end, &shared) {
                        tracing::warn!("stdin is carried no further: {error}");
                    }
                }
                _ => carry_all(descriptor, pipe, &end, &shared),
            })?;
        }
        Ok(Relays { shared, end: Some(writer) })
    }

    /// Brings them to rest, and says when: what is in the pipes from then on belongs to the checkpoint.
    pub fn quiet(&self) {
        let mut now = self.shared.now();
        now.closed = true;
        let at_once = now.steps == 0;
        drop(now);
        if at_once {
            (self.shared.say)(Said::Quiet);
        }
    }

    /// Carries again.
    pub fn resume(&self) {
        self.shared.now().closed = false;
        self.shared.gate.changed.notify_all();
    }

    /// Carries what is left and ends; says when.
    pub fn drain(&mut self) {
        let mut now = self.shared.now();
        now.ending = true;
        let none = now.carrying == 0;
        drop(now);
        self.resume();
        drop(self.end.take());
        if none {
            (self.shared.say)(Said::Done);
        }
    }
}

/// What a step came to.
enum Moved {
    Some,
    /// The payload has written nothing more.
    Empty,
    /// There is no room.
    Full,
}

/// An output on its way.
struct Carrier<'a> {
    pipe: &'a File,
    to: Target,
    /// Read and not written yet.
    rest: Vec<u8>,
}

impl Carrier<'_> {
    fn step(&mut self) -> io::Result<Moved> {
        if let Target::Pipe(to) = &self.to {
            let flags = SpliceFFlags::SPLICE_F_NONBLOCK;
            return match splice(self.pipe, None, to, None, STEP, flags) {
                Ok(0) => Ok(Moved::Empty),
                Ok(_) | Err(Errno::EINTR) => Ok(Moved::Some),
                Err(Errno::EAGAIN) if ready(self.pipe.as_fd(), PollFlags::POLLIN) => Ok(Moved::Full),
                Err(Errno::EAGAIN) => Ok(Moved::Empty),
                Err(errno) => Err(errno.into()),
            };
        }
        if !ready(self.to.fd(), PollFlags::POLLOUT) {
            let waits = !self.rest.is_empty() || ready(self.pipe.as_fd(), PollFlags::POLLIN);
            return Ok(if waits { Moved::Full } else { Moved::Empty });
        }
        if self.rest.is_empty() {
            let mut buffer = [0; SURE];
            match self.pipe.read(&mut buffer) {
                Ok(length) => self.rest.extend_from_slice(&buffer[..length]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Moved::Empty),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(Moved::Some),
                Err(error) => return Err(error),
            }
        }
        match self.to.write(&self.rest) {
            Ok(written) => drop(self.rest.drain(..written)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Moved::Full),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        Ok(Moved::Some)
    }
}

/// Until the end, or until there is nobody to carry it to.
fn carry_all(descriptor: u8, pipe: File, end: &OwnedFd, shared: &Shared) {
    let carried = Target::of(descriptor).and_then(|to| carry(&pipe, to, end, shared));
    // The payload gets EPIPE when nobody else has this pipe open to read it.
    drop(pipe);
    let reader_gone = |error: &io::Error| error.kind() == io::ErrorKind::BrokenPipe;
    if let Err(error) = carried {
        let lost = (!reader_gone(&error)).then_some(error);
        (shared.say)(Said::Closed { descriptor, lost });
    }
    let mut now = shared.now();
    now.carrying -= 1;
    let done = now.ending && now.carrying == 0;
    drop(now);
    if done {
        (shared.say)(Said::Done);
    }
}

fn carry(pipe: &File, to: Target, end: &OwnedFd, shared: &Shared) -> io::Result<()> {
    let mut carrier = Carrier { pipe, to, rest: Vec::new() };
    let mut ended = false;
    let mut full = false;
    loop {
        // A reader that leaves is seen while nothing is written, too.
        let from = (!full).then_some((pipe.as_fd(), PollFlags::POLLIN));
        let room = if full { PollFlags::POLLOUT } else { PollFlags::empty() };
        let until = (!ended).then_some((end.as_fd(), PollFlags::POLLIN));
        let waited = wait(&[from, Some((carrier.to.fd(), room)), until], ended && !full)?;
        if waited[1].intersects(PollFlags::POLLERR) {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        ended |= !waited[2].is_empty();
        let moved = {
            let _step = shared.enter();
            let mut any = false;
            loop {
                match carrier.step()? {
                    Moved::Some => any = true,
                    other => break (any, other),
                }
                // A gate that closes does not wait until all has been carried.
                if shared.now().closed {
                    break (any, Moved::Some);
                }
            }
        };
        if moved.0 && shared.now().ending {
            (shared.say)(Said::Moved);
        }
        full = matches!(moved.1, Moved::Full);
        if ended && matches!(moved.1, Moved::Empty) {
            carrier.to.taken(|| (shared.say)(Said::Moved));
            return Ok(());
        }
    }
}

/// Waits for one of three, or only looks; what happened to each.
fn wait(watched: &[Option<(BorrowedFd<'_>, PollFlags)>; 3], look: bool) -> io::Result<[PollFlags; 3]> {
    let mut all: Vec<PollFd<'_>> = watched.iter().flatten().map(|(fd, what)| PollFd::new(*fd, *what)).collect();
    match poll(&mut all, if look { PollTimeout::ZERO } else { PollTimeout::NONE }) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(errno) => return Err(errno.into()),
    }
    let mut happened = all.iter().map(|fd| fd.revents().unwrap_or(PollFlags::empty()));
    Ok([0, 1, 2].map(|at| match watched[at] {
        Some(_) => happened.next().unwrap_or(PollFlags::empty()),
        None => PollFlags::empty(),
    }))
}

/// Our stdin to the payload. At its end the pipe is closed, and the payload reads the end too. Nothing is read for
/// which there is no room, so that a checkpoint leaves nothing behind here.
fn feed(mut pipe: File, end: &OwnedFd, shared: &Shared) -> io::Result<()> {
    let mut stdin = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut buffer = [0; SURE];
    loop {
        for (fd, what) in [(pipe.as_fd(), PollFlags::POLLOUT), (stdin.as_fd(), PollFlags::POLLIN)] {
            if !wait(&[None, Some((fd, what)), Some((end.as_fd(), PollFlags::POLLIN))], false)?[2].is_empty() {
                return Ok(());
            }
        }
        let _step = shared.enter();
        // It may have waited at the gate.
        if !ready(pipe.as_fd(), PollFlags::POLLOUT) || !ready(stdin.as_fd(), PollFlags::POLLIN) {
            continue;
        }
        match stdin.read(&mut buffer)? {
            0 => return Ok(()),
            length => pipe.write_all(&buffer[..length])?,
        }
    }
}
