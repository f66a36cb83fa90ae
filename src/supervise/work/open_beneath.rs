//! Files of the scratch directory that the payload, or a checkpoint, may have replaced by links and pipes. They are
//! opened from outside the sandbox: so never through a link, and without waiting for a pipe's reader.

use std::fs::File;
use std::io;
use std::path::Path;

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{Mode, SFlag, mknodat};
use nix::unistd::{LinkatFlags, linkat};

use crate::checkpoint::manifest::{Socket, StreamFile};
use crate::checkpoint::tree::{Tree, change_mode, open_below};

/// Opens the regular file `path` below `directory` for writing; makes it if it is missing.
pub fn open_output(directory: &File, path: &Path) -> io::Result<File> {
    open(directory, path, OFlag::O_CREAT, Mode::from_bits_truncate(0o644))
}

/// Makes the regular file `path` below `directory` an empty one. It must exist.
pub fn empty(directory: &Path, path: &Path) -> io::Result<()> {
    open(&File::open(directory)?, path, OFlag::empty(), Mode::empty())?.set_len(0)
}

fn open(directory: &File, path: &Path, more: OFlag, mode: Mode) -> io::Result<File> {
    let flags = OFlag::O_WRONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC | more;
    let resolve = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS;
    let file = File::from(openat2(directory, path, OpenHow::new().flags(flags).mode(mode).resolve(resolve))?);
    let metadata = file.metadata()?;
    if metadata.is_file() { Ok(file) } else { Err(io::Error::other(format!("{} is no file", path.display()))) }
}

/// Gives standard streams their further names again.
pub fn link_streams(scratch: &mut Tree, streams: &[StreamFile]) -> io::Result<()> {
    for stream in streams.iter().filter(|stream| !stream.links.is_empty()) {
        let (from, name) = scratch.holder(&stream.path)?;
        for link in &stream.links {
            scratch.remove(link.as_path())?;
            let (to, other) = scratch.holder(link.as_path())?;
            linkat(&from, name, &to, other, LinkatFlags::empty())?;
        }
    }
    Ok(())
}

/// Makes the names of those unix sockets that are below `prefix` in the archive. Whether anybody listens there is
/// criu's to know: it makes those anew.
pub fn make_sockets(tree: &mut Tree, prefix: &str, sockets: &[Socket]) -> io::Result<()> {
    for socket in sockets {
        let Ok(path) = socket.path.as_path().strip_prefix(prefix) else { continue };
        let (to, name) = tree.holder(path)?;
        mknodat(&to, name, SFlag::S_IFSOCK, Mode::S_IRUSR, 0)?;
        change_mode(open_below(&to, Path::new(name), OFlag::O_PATH)?, socket.mode & 0o777)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn nothing_outside_is_emptied() {
        let dir = tempfile::tempdir().unwrap();
        let (inside, outside) = (dir.path().join("in"), dir.path().join("out"));
        fs::create_dir(&inside).unwrap();
        fs::write(&outside, "kept").unwrap();
        fs::write(inside.join("file"), "old").unwrap();
        std::os::unix::fs::symlink(&outside, inside.join("link")).unwrap();
        std::os::unix::fs::symlink(dir.path(), inside.join("folder")).unwrap();
        nix::unistd::mkfifo(&inside.join("pipe"), Mode::S_IRWXU).unwrap();
        empty(&inside, Path::new("file")).unwrap();
        assert_eq!(fs::read(inside.join("file")).unwrap(), b"");
        for path in ["link", "folder/out", "../out", "pipe", "missing"] {
            assert!(empty(&inside, Path::new(path)).is_err(), "{path}");
        }
        assert_eq!(fs::read(&outside).unwrap(), b"kept");
    }
}
