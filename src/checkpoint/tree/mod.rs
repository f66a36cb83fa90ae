//! A directory of files that their owner may have closed to itself: listed, read and removed all the same, and left
//! with the modes that it had. A Go module cache has directories of mode 0555, a program may give its files any mode,
//! and the packer is the owner of them all.
//!
//! Nothing is done by a path from the root: each way is opened below the directory, without following a link, in steps
//! that one system call takes. So a path may be longer than PATH_MAX, and a link that a payload has made leads nowhere.

mod remove;
mod stat;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::fstatat;

pub use remove::remove_all;
pub use stat::Stat;

/// Bytes of a path that are opened in one call; PATH_MAX is 4096.
const STEP: usize = 4000;
/// What the owner needs to list a directory and to reach what is in it.
const LIST: u32 = 0o500;
/// And to change it.
const CHANGE: u32 = 0o700;

/// Something in the tree.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Relative to the tree.
    pub path: PathBuf,
    /// What it is.
    pub stat: Stat,
}

/// A directory with all below it.
pub struct Tree {
    base: OwnedFd,
    /// Directories that were opened up, and the modes that they get back.
    opened: Vec<(PathBuf, u32)>,
}

impl Tree {
    /// The directory at `path`.
    pub fn open(path: &Path) -> io::Result<Tree> {
        match File::open(path) {
            Ok(directory) if directory.metadata()?.is_dir() => Ok(Tree { base: directory.into(), opened: Vec::new() }),
            Ok(_) => Err(Errno::ENOTDIR.into()),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                let handle = nix::fcntl::open(path, PATH_ONLY | OFlag::O_DIRECTORY, nix::sys::stat::Mode::empty())?;
                let mode = Stat::of_open(&handle)?.mode();
                change_mode(&handle, mode | LIST)?;
                Ok(Tree { base: File::open(path)?.into(), opened: vec![(PathBuf::new(), mode)] })
            }
            Err(error) => Err(error),
        }
    }

    /// The directory itself.
    pub fn base(&self) -> BorrowedFd<'_> {
        self.base.as_fd()
    }

    /// Everything in it that `excluded` does not name, parents before what is in them. What vanishes meanwhile is left
    /// out.
    pub fn walk(&mut self, excluded: impl Fn(&Path) -> bool) -> io::Result<Vec<Entry>> {
        self.walk_from(PathBuf::new(), LIST, excluded)
    }

    /// The same without what is closed: nothing is opened up, and nobody can see that someone has looked.
    pub fn look(&mut self, excluded: impl Fn(&Path) -> bool) -> io::Result<Vec<Entry>> {
        self.walk_from(PathBuf::new(), 0, excluded)
    }

    fn walk_from(&mut self, from: PathBuf, need: u32, excluded: impl Fn(&Path) -> bool) -> io::Result<Vec<Entry>> {
        let mut found = Vec::new();
        let mut open = vec![from];
        while let Some(directory) = open.pop() {
            let handle = match self.directory(&directory, need) {
                Err(error) if need == 0 && error.kind() == io::ErrorKind::PermissionDenied => continue,
                other => other.map_err(|error| named(&directory, error))?,
            };
            for entry in fs::read_dir(in_proc(&handle))? {
                let name = entry?.file_name();
                let path = directory.join(&name);
                if excluded(&path) {
                    continue;
                }
                let stat = match fstatat(&handle, name.as_os_str(), AtFlags::AT_SYMLINK_NOFOLLOW) {
                    Ok(stat) => Stat::from(stat),
                    Err(Errno::ENOENT) => continue,
                    Err(Errno::EACCES) if need == 0 => continue,
                    Err(errno) => return Err(named(&path, errno.into())),
                };
                if stat.is_dir() {
                    open.push(path.clone());
                }
                found.push(Entry { path, stat });
            }
        }
        found.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(found)
    }

    /// The regular file of this entry, for reading, whatever its mode: it has that again when what this returns is let
    /// go.
    pub fn read(&self, entry: &Entry) -> io::Result<Reading> {
        let failed = |error: io::Error| named(&entry.path, error);
        let plain = OFlag::O_RDONLY | OFlag::O_NONBLOCK;
        // The time of last access is carried, and must not become ours.
        let opened = match open_below(&self.base, &entry.path, plain | OFlag::O_NOATIME) {
            Err(Errno::EPERM) => open_below(&self.base, &entry.path, plain),
            other => other,
        };
        let mut closed = None;
        let file = match opened {
            Err(Errno::EACCES) => {
                let handle = open_below(&self.base, &entry.path, PATH_ONLY).map_err(|errno| failed(errno.into()))?;
                change_mode(&handle, entry.stat.mode() | 0o400).map_err(failed)?;
                closed = Some(Closed { handle, mode: entry.stat.mode() });
                open_below(&self.base, &entry.path, plain | OFlag::O_NOATIME)
            }
            other => other,
        };
        Ok(Reading { file: file.map_err(|errno| failed(errno.into()))?.into(), _closed: closed })
    }

    /// A handle of what is at `path`, through directories that may be closed until the tree is let go.
    pub fn reach(&mut self, path: &Path) -> io::Result<OwnedFd> {
        let (Some(name), Some(parent)) = (path.file_name(), path.parent()) else { return Err(Errno::EINVAL.into()) };
        Ok(open_below(self.directory(parent, LIST)?, Path::new(name), PATH_ONLY)?)
    }

    /// What the symbolic link of this entry holds.
    pub fn read_link(&self, entry: &Entry) -> io::Result<std::ffi::OsString> {
        let handle =
            open_below(&self.base, &entry.path, PATH_ONLY).map_err(|errno| named(&entry.path, errno.into()))?;
        Ok(nix::fcntl::readlinkat(&handle, "")?)
    }

    /// The directory that holds what is at `path`, in which its owner can make and remove names from now until the tree
    /// is let go; and the last part of the path.
    pub fn holder<'a>(&mut self, path: &'a Path) -> io::Result<(OwnedFd, &'a OsStr)> {
        let (Some(name), Some(parent)) = (path.file_name(), path.parent()) else { return Err(Errno::EINVAL.into()) };
        Ok((self.directory(parent, CHANGE).map_err(|error| named(parent, error))?, name))
    }

    /// Opens a directory that its owner can list, and change if `need` says so, from now until the tree is let go.
    fn directory(&mut self, path: &Path, need: u32) -> io::Result<OwnedFd> {
        let handle = match (open_below(&self.base, path, PATH_ONLY | OFlag::O_DIRECTORY), path.parent()) {
            // One above it is closed.
            (Err(Errno::EACCES), Some(above)) => {
                self.directory(above, LIST)?;
                open_below(&self.base, path, PATH_ONLY | OFlag::O_DIRECTORY)
            }
            (opened, _) => opened,
        }?;
        let mode = Stat::of_open(&handle)?.mode();
        if mode & need != need {
            match change_mode(&handle, mode | need) {
                Ok(()) => self.opened.push((path.to_path_buf(), mode)),
                // It is another's; perhaps it can be opened all the same.
                Err(error) => tracing::debug!("{}: {error}", path.display()),
            }
        }
        Ok(open_below(&self.base, path, OFlag::O_RDONLY | OFlag::O_DIRECTORY)?)
    }
}

/// A file that is being read.
pub struct Reading {
    /// Open for reading.
    pub file: File,
    _closed: Option<Closed>,
}

/// A file that is open to its owner for a while.
struct Closed {
    handle: OwnedFd,
    mode: u32,
}

impl Drop for Closed {
    fn drop(&mut self) {
        if let Err(error) = change_mode(&self.handle, self.mode) {
            tracing::warn!("a file keeps a wider mode than {:o}: {error}", self.mode);
        }
    }
}

impl Drop for Tree {
    /// The deepest first: who closes a directory cannot reach what is below it any more.
    fn drop(&mut self) {
        for (path, mode) in std::mem::take(&mut self.opened).into_iter().rev() {
            let closed = open_below(&self.base, &path, PATH_ONLY | OFlag::O_DIRECTORY)
                .map_err(io::Error::from)
                .and_then(|handle| change_mode(&handle, mode));
            match closed {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!("{} keeps a wider mode: {error}", path.display());
                }
                _ => {}
            }
        }
    }
}

/// A descriptor of what bears a name, which needs no right but that of search on the way.
const PATH_ONLY: OFlag = OFlag::O_PATH;

/// Opens `path` below `base` without following a link.
pub fn open_below(base: impl AsFd, path: &Path, flags: OFlag) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS;
    let open = |at: BorrowedFd<'_>, path: &[u8], flags: OFlag| {
        // With O_PATH a link itself may be the end of the way (openat2(2)).
        let how = OpenHow::new().flags(flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC).resolve(resolve);
        openat2(at, if path.is_empty() { &b"."[..] } else { path }, how)
    };
    let mut rest = path.as_os_str().as_bytes();
    let mut at: Option<OwnedFd> = None;
    while rest.len() > STEP {
        let cut = rest[..STEP].iter().rposition(|byte| *byte == b'/').ok_or(Errno::ENAMETOOLONG)?;
        let from = at.as_ref().map_or(base.as_fd(), AsFd::as_fd);
        at = Some(open(from, &rest[..cut], OFlag::O_PATH | OFlag::O_DIRECTORY)?);
        rest = &rest[cut + 1..];
    }
    open(at.as_ref().map_or(base.as_fd(), AsFd::as_fd), rest, flags)
}

/// Sets the mode of what `handle`, which may be one without any right, stands for.
pub fn change_mode(handle: impl AsFd, mode: u32) -> io::Result<()> {
    fs::set_permissions(in_proc(&handle), fs::Permissions::from_mode(mode))
}

fn in_proc(handle: &impl AsFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", handle.as_fd().as_raw_fd()))
}

fn named(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// Lets the owner change the directory at `path` from now on.
pub fn open_for_good(path: &Path) -> io::Result<()> {
    let handle = nix::fcntl::open(path, PATH_ONLY | OFlag::O_DIRECTORY, nix::sys::stat::Mode::empty())?;
    let mode = Stat::of_open(&handle)?.mode();
    if mode & CHANGE == CHANGE { Ok(()) } else { change_mode(&handle, mode | CHANGE) }
}

/// Lets the owner change the directory at `path` until this is dropped.
pub fn open_up(path: &Path) -> io::Result<Tree> {
    let mut tree = Tree::open(path)?;
    tree.directory(Path::new(""), CHANGE)?;
    Ok(tree)
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
