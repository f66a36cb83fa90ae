//! The payload's standard streams.
//!
//! A descriptor that was opened outside the sandbox cannot be dumped, so each stream is opened again by its path
//! inside. A file in the scratch directory is opened as that file, and `/dev/null` as such. Anything else (a terminal,
//! a pipe, HTCondor's streamed output) becomes a named pipe in our directory, and a thread carries the bytes
//! ([`super::relay`]).

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use nix::fcntl::OFlag;

use crate::checkpoint::manifest::StreamFile;
use crate::sandbox::{STATE_DIR, StdioPath, inside};
use crate::supervise::work::open_beneath;

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
            _ => OFlag::O_WRONLY,
        };
        let path = match &streams[number] {
            Stream::File(relative) => inside(relative, Path::new(""), job_dir).unwrap_or_default(),
            Stream::Null => "/dev/null".into(),
            Stream::Relayed => job_dir.join(fifo_name(number as u8)),
        };
        // CRIU saves what is still in a pipe only if it sees an end that can be read (criu/pipes.c), and the payload
        // must not have one: it would never see that its reader has gone.
        let reader = number > 0 && streams[number] == Stream::Relayed;
        StdioPath { path, flags, reader }
    })
}

/// Relative to the scratch directory.
pub fn fifo_name(descriptor: u8) -> PathBuf {
    Path::new(STATE_DIR).join("stdio").join(descriptor.to_string())
}

/// Gives outputs that are files another time. Without `transfer_output_files` HTCondor sends what has changed since it
/// brought the files to this host, and what was written on the hosts before would stay behind if nothing was added
/// here.
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
        let file = open_beneath::open_output(&directory, &stream.path)?;
        let size = file.metadata()?.len();
        if size > stream.size {
            file.set_len(stream.size)?;
        } else if size < stream.size {
            missing.push((stream.path.clone(), stream.size - size));
        }
    }
    Ok(missing)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;

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
