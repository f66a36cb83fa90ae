//! The payload's standard streams.
//!
//! A descriptor that was opened outside the sandbox cannot be dumped, so each stream is opened again by its path inside:
//! a file in the scratch directory as that file, `/dev/null` as such, and anything else (a terminal, a pipe, HTCondor's
//! streamed output) as a named pipe in our directory, with a thread that carries the bytes.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use nix::fcntl::{OFlag, open};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use super::within;
use crate::checkpoint::manifest::StreamFile;
use crate::sandbox::{STATE_DIR, StdioPath, inside};

/// Bytes that one step carries; the size of a pipe.
const STEP: usize = 64 * 1024;

/// What one standard stream is on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stream {
    /// A file in the scratch directory, relative to it.
    File(PathBuf),
    /// `/dev/null`
    Null,
    /// Anything else: carried through a named pipe.
    Relayed,
}

/// What stdin, stdout and stderr of this process are.
pub fn of_this_process(scratch: &Path) -> [Stream; 3] {
    [0, 1, 2].map(|number| {
        let link = PathBuf::from(format!("/proc/self/fd/{number}"));
        let (Ok(path), Ok(metadata)) = (fs::read_link(&link), fs::metadata(&link)) else { return Stream::Null };
        if path == Path::new("/dev/null") {
            return Stream::Null;
        }
        match path.strip_prefix(scratch) {
            Ok(relative) if metadata.is_file() => Stream::File(relative.to_path_buf()),
            _ => Stream::Relayed,
        }
    })
}

/// How the payload opens them.
pub fn inside_sandbox(streams: &[Stream; 3], job_dir: &Path) -> [StdioPath; 3] {
    [0, 1, 2].map(|number| {
        let flags = match (&streams[number], number) {
            (_, 0) => OFlag::O_RDONLY,
            // At the end, as HTCondor does at a restart in place; CRIU then does not insist on the size either.
            (Stream::File(_), _) => OFlag::O_WRONLY | OFlag::O_APPEND,
            // CRIU saves what is still in a pipe only if it sees an end that can be read (criu/pipes.c).
            (Stream::Relayed, _) => OFlag::O_RDWR,
            _ => OFlag::O_WRONLY,
        };
        let path = match &streams[number] {
            Stream::File(relative) => inside(relative, Path::new(""), job_dir).unwrap_or_default(),
            Stream::Null => "/dev/null".into(),
            Stream::Relayed => job_dir.join(fifo_name(number as u8)),
        };
        StdioPath { path, flags }
    })
}

/// Relative to the scratch directory.
fn fifo_name(descriptor: u8) -> PathBuf {
    Path::new(STATE_DIR).join("stdio").join(descriptor.to_string())
}

/// Gives outputs that are files another time. Without `transfer_output_files` HTCondor sends what has changed since it
/// brought the files to this host, and what was written on the hosts before would stay behind if nothing was added here.
pub fn mark_changed(streams: &[Stream; 3], scratch: &Path) {
    for stream in &streams[1..] {
        let Stream::File(path) = stream else { continue };
        let marked = File::options().append(true).open(scratch.join(path)).and_then(|file| {
            // HTCondor compares whole seconds.
            let other = file.metadata()?.modified()? + Duration::from_secs(1);
            file.set_modified(other.max(SystemTime::now()))
        });
        if let Err(error) = marked {
            tracing::warn!("{} may stay behind: {error}", path.display());
        }
    }
}

/// The streams that are files, with their sizes now.
pub fn sizes(streams: &[Stream; 3], scratch: &Path) -> Vec<StreamFile> {
    let files = streams.iter().enumerate().filter_map(|(number, stream)| match stream {
        Stream::File(path) => {
            let size = scratch.join(path).metadata().ok()?.len();
            Some(StreamFile { descriptor: number as u8, path: path.clone(), size, links: Vec::new() })
        }
        _ => None,
    });
    files.collect()
}

/// Cuts off what was written to stdout and stderr after the checkpoint. Returns, for each that is shorter than it was,
/// how many bytes are missing.
pub fn cut_back(recorded: &[StreamFile], scratch: &Path) -> io::Result<Vec<(PathBuf, u64)>> {
    let mut missing = Vec::new();
    let directory = File::open(scratch)?;
    for stream in recorded.iter().filter(|stream| stream.descriptor != 0) {
        let file = within::open_output(&directory, &stream.path)?;
        let size = file.metadata()?.len();
        if size > stream.size {
            file.set_len(stream.size)?;
        } else if size < stream.size {
            missing.push((stream.path.clone(), stream.size - size));
        }
    }
    Ok(missing)
}

/// Lets the relays carry, or holds them back between two steps.
struct Gate {
    closed: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    /// Waits until it is open; it stays open while the guard lives.
    fn pass(&self) -> MutexGuard<'_, bool> {
        let closed = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
        self.opened.wait_while(closed, |closed| *closed).unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, closed: bool) {
        *self.closed.lock().unwrap_or_else(PoisonError::into_inner) = closed;
        self.opened.notify_all();
    }
}

/// The threads that carry bytes between this process's streams and the named pipes.
pub struct Relays {
    threads: Vec<JoinHandle<()>>,
    gate: Arc<Gate>,
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

    /// Makes the threads. They carry nothing before the first [`Relays::resume`]: a pipe that is filled and closed before the
    /// payload has opened it would lose what is in it.
    pub fn start(pipes: Vec<(u8, File)>) -> io::Result<Relays> {
        let gate = Arc::new(Gate { closed: Mutex::new(true), opened: Condvar::new() });
        let (reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
        let mut threads = Vec::new();
        for (descriptor, pipe) in pipes {
            let gate = Arc::clone(&gate);
            let end = reader.try_clone()?;
            let name = format!("stdio-{descriptor}");
            let thread = std::thread::Builder::new().name(name).spawn(move || {
                let done = match descriptor {
                    0 => feed(pipe, &end, &gate),
                    1 => carry(&pipe, io::stdout().lock(), &end, &gate),
                    _ => carry(&pipe, io::stderr().lock(), &end, &gate),
                };
                if let Err(error) = done {
                    tracing::warn!("descriptor {descriptor} is carried no further: {error}");
                }
            })?;
            threads.push(thread);
        }
        Ok(Relays { threads, gate, end: Some(writer) })
    }

    /// Stops carrying: what is in the pipes from now on belongs to the checkpoint.
    pub fn pause(&self) {
        self.gate.set(true);
    }

    /// Carries again.
    pub fn resume(&self) {
        self.gate.set(false);
    }

    /// Carries what is left and ends.
    pub fn finish(mut self) {
        self.gate.set(false);
        drop(self.end.take());
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Waits for `source` or the end; `true` means the end.
fn wait(source: &impl AsFd, end: &OwnedFd) -> io::Result<bool> {
    let mut watched = [PollFd::new(source.as_fd(), PollFlags::POLLIN), PollFd::new(end.as_fd(), PollFlags::POLLIN)];
    match poll(&mut watched, PollTimeout::NONE) {
        Ok(_) | Err(nix::errno::Errno::EINTR) => {}
        Err(errno) => return Err(errno.into()),
    }
    Ok(watched[1].any().unwrap_or(false))
}

fn carry(mut pipe: &File, mut to: impl Write, end: &OwnedFd, gate: &Gate) -> io::Result<()> {
    let mut buffer = vec![0; STEP];
    loop {
        let ended = wait(pipe, end)?;
        let _held = gate.pass();
        loop {
            match pipe.read(&mut buffer) {
                Ok(0) => break,
                Ok(length) => {
                    to.write_all(&buffer[..length])?;
                    to.flush()?;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if ended {
            return Ok(());
        }
    }
}

/// Our stdin to the payload. At its end the pipe is closed, and the payload reads the end too.
fn feed(mut pipe: File, end: &OwnedFd, gate: &Gate) -> io::Result<()> {
    let mut stdin = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut buffer = vec![0; STEP];
    loop {
        if wait(&stdin, end)? {
            return Ok(());
        }
        let length = {
            let _held = gate.pass();
            stdin.read(&mut buffer)?
        };
        if length == 0 {
            return Ok(());
        }
        let mut rest = &buffer[..length];
        while !rest.is_empty() {
            match pipe.write(rest) {
                Ok(written) => rest = &rest[written..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let mut watched =
                        [PollFd::new(pipe.as_fd(), PollFlags::POLLOUT), PollFd::new(end.as_fd(), PollFlags::POLLIN)];
                    let _ = poll(&mut watched, PollTimeout::NONE);
                    if watched[1].any().unwrap_or(false) {
                        return Ok(());
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_output_is_cut_off_and_missing_output_is_told() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("out"), "before after").unwrap();
        fs::write(dir.path().join("err"), "x").unwrap();
        let recorded = [
            StreamFile { descriptor: 1, path: "out".into(), size: 6, links: Vec::new() },
            StreamFile { descriptor: 2, path: "err".into(), size: 3, links: Vec::new() },
        ];
        let missing = cut_back(&recorded, dir.path()).unwrap();
        assert_eq!(fs::read(dir.path().join("out")).unwrap(), b"before");
        assert_eq!(missing, [(PathBuf::from("err"), 2)]);
    }

    #[test]
    fn nothing_is_cut_through_a_link_or_outside() {
        let dir = tempfile::tempdir().unwrap();
        let outside = dir.path().join("outside");
        let scratch = dir.path().join("scratch");
        fs::create_dir(&scratch).unwrap();
        fs::write(&outside, "mine").unwrap();
        std::os::unix::fs::symlink(&outside, scratch.join("out")).unwrap();
        std::os::unix::fs::symlink(dir.path(), scratch.join("dir")).unwrap();
        mkfifo(&scratch.join("fifo"), Mode::from_bits_truncate(0o600)).unwrap();
        for path in ["out", "dir/outside", "../outside", "fifo"] {
            let recorded = [StreamFile { descriptor: 1, path: path.into(), size: 0, links: Vec::new() }];
            assert!(cut_back(&recorded, &scratch).is_err(), "{path}");
        }
        assert_eq!(fs::read(&outside).unwrap(), b"mine");
        let recorded = [StreamFile { descriptor: 1, path: "new".into(), size: 0, links: Vec::new() }];
        assert_eq!(cut_back(&recorded, &scratch).unwrap(), []);
        assert!(scratch.join("new").is_file());
    }
}
