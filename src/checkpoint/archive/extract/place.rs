//! Where a member goes: its directory, opened step by step, and what it becomes there.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, UtimensatFlags, fchmod, fstatat, futimens, mkdirat, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{LinkatFlags, UnlinkatFlags, linkat, mkfifoat, symlinkat, unlinkat};
use rustix::fs::{XattrFlags, fsetxattr};

use super::super::error::ArchiveError;
use super::super::index::{Member, Mtime};
use super::{Existing, Extractor, content, failed, leads_out, named, refused, split};
use crate::checkpoint::tree::{Stat, change_mode, open_below};

const DIR: OFlag = OFlag::O_RDONLY.union(OFlag::O_DIRECTORY);

/// The directory of the last member: members of one directory follow each other.
#[derive(Default)]
pub(super) struct Place(Option<Holder>);

/// A directory that members are made in.
pub(super) struct Holder {
    path: Vec<u8>,
    dir: OwnedFd,
    /// The group that what is made in it may get.
    group: u32,
}

/// Opens the directory `path` step by step, making what is missing; open only to ourselves until its own member says
/// more.
pub(super) fn directory(into: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd, Errno> {
    let whole = Path::new(OsStr::from_bytes(path));
    match open_below(into, whole, DIR) {
        Err(Errno::ENOENT | Errno::EACCES) => {}
        other => return other,
    }
    let mut dir = open_below(into, Path::new(""), DIR)?;
    for part in path.split(|b| *b == b'/').filter(|part| !part.is_empty()) {
        let part = OsStr::from_bytes(part);
        let open = |flags| openat(&dir, part, flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty());
        dir = match open(DIR) {
            Err(Errno::ENOENT) => {
                mkdirat(&dir, part, Mode::S_IRWXU)?;
                open(DIR)?
            }
            Err(Errno::EACCES) => {
                open_up(&open(OFlag::O_PATH | OFlag::O_DIRECTORY)?)?;
                open(DIR)?
            }
            other => other?,
        };
    }
    Ok(dir)
}

/// Lets its owner do everything in a directory.
fn open_up(handle: &OwnedFd) -> Result<(), Errno> {
    let mode = Stat::of_open(handle)?.mode();
    if mode & 0o700 == 0o700 {
        return Ok(());
    }
    change_mode(handle, mode | 0o700).map_err(errno)
}

fn errno(error: std::io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))
}

impl Place {
    pub(super) fn holder(&mut self, into: BorrowedFd<'_>, path: &[u8], of: &Member) -> Result<&Holder, ArchiveError> {
        let holder = match self.0.take() {
            Some(holder) if holder.path == path => holder,
            _ => {
                let failed = |e| named(&of.name, "its directory", e);
                let dir = directory(into, path).map_err(failed)?;
                let group = Stat::of_open(&dir).map_err(failed)?.owner().1;
                Holder { path: path.to_vec(), dir, group }
            }
        };
        Ok(self.0.insert(holder))
    }
}

impl Extractor<'_> {
    pub(super) fn make_dir(&self, place: &mut Place, path: &[u8], member: &Member) -> Result<(), ArchiveError> {
        let (dir, name) = split(path);
        let holder = place.holder(self.into, dir, member)?;
        let making = |e| failed(member, "making a directory", e);
        match mkdirat(&holder.dir, name, Mode::S_IRWXU) {
            Err(Errno::EEXIST) => {}
            other => return other.map_err(making),
        }
        let handle = openat(&holder.dir, name, OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty())
            .map_err(making)?;
        if Stat::of_open(&handle).map_err(making)?.is_dir() {
            return open_up(&handle).map_err(making);
        }
        unlinkat(&holder.dir, name, UnlinkatFlags::NoRemoveDir)
            .and_then(|()| mkdirat(&holder.dir, name, Mode::S_IRWXU))
            .map_err(making)
    }

    pub(super) fn make_file(&self, place: &mut Place, path: &[u8], member: &Member) -> Result<(), ArchiveError> {
        let (dir, name) = split(path);
        let holder = place.holder(self.into, dir, member)?;
        let making = |e| failed(member, "making the file", e);
        let new = || {
            let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            openat(&holder.dir, name, flags, Mode::S_IRUSR | Mode::S_IWUSR)
        };
        let (file, was) = match new() {
            Err(Errno::EEXIST) => {
                let kept = match self.options.existing {
                    Existing::Reuse => open_regular(&holder.dir, name),
                    Existing::Unlink => None,
                };
                match kept {
                    Some((file, size)) => (file, Some(size)),
                    None => {
                        clear(holder, name).map_err(|e| failed(member, "what is in its place", e))?;
                        (new().map_err(making)?, None)
                    }
                }
            }
            other => (other.map_err(making)?, None),
        };
        let file = File::from(file);
        content::write(self.reader, member, &file, was, self.options.threads)?;
        // A file that is kept, or is made in a directory of another group, may be of another group.
        let group = match was {
            None if holder.group == self.group => self.group,
            _ => Stat::of_open(&file).map_err(making)?.owner().1,
        };
        set_attributes(file.as_fd(), member, self.options.keep_special_bits);
        fchmod(&file, Mode::from_bits_truncate(self.mode_now(path, member, group)))
            .and_then(|()| set_times(file.as_fd(), member))
            .map_err(|e| failed(member, "its mode", e))
    }

    pub(super) fn make_fifo(&self, place: &mut Place, path: &[u8], member: &Member) -> Result<(), ArchiveError> {
        let (dir, name) = split(path);
        let holder = place.holder(self.into, dir, member)?;
        clear(holder, name).map_err(|e| failed(member, "what is in its place", e))?;
        let failed = |e| failed(member, "making a FIFO", e);
        mkfifoat(&holder.dir, name, Mode::S_IRUSR | Mode::S_IWUSR).map_err(failed)?;
        // Opened for both, which does not wait; a FIFO that we made an instant ago has no other end.
        let flags = OFlag::O_RDWR | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let fifo = openat(&holder.dir, name, flags, Mode::empty()).map_err(failed)?;
        let group = Stat::of_open(&fifo).map_err(failed)?.owner().1;
        fchmod(&fifo, Mode::from_bits_truncate(self.mode_now(path, member, group)))
            .and_then(|()| set_times(fifo.as_fd(), member))
            .map_err(failed)
    }

    pub(super) fn make_symlink(&self, place: &mut Place, path: &[u8], member: &Member) -> Result<(), ArchiveError> {
        let (dir, name) = split(path);
        let target = member.link.as_ref().ok_or_else(|| refused(member, "it has no target"))?;
        if !self.options.any_symlink && leads_out(dir, target.as_bytes()) {
            return Err(refused(member, "it is a symbolic link that may lead out of the directory"));
        }
        let holder = place.holder(self.into, dir, member)?;
        let failed = |e| failed(member, "making a symbolic link", e);
        clear(holder, name).map_err(failed)?;
        symlinkat(target.as_path(), &holder.dir, name).map_err(failed)?;
        let [atime, mtime] = times(member);
        utimensat(&holder.dir, name, &atime, &mtime, UtimensatFlags::NoFollowSymlink).map_err(failed)
    }

    pub(super) fn make_hardlink(
        &self,
        place: &mut Place,
        path: &[u8],
        member: &Member,
        target: &[u8],
    ) -> Result<(), ArchiveError> {
        let (target_dir, target_name) = split(target);
        let failed = |e| failed(member, "making a hard link", e);
        let from = directory(self.into, target_dir).map_err(failed)?;
        let (dir, name) = split(path);
        let holder = place.holder(self.into, dir, member)?;
        clear(holder, name).map_err(failed)?;
        linkat(&from, target_name, &holder.dir, name, LinkatFlags::empty()).map_err(failed)
    }
}

/// Unlinks what is there; a directory stays, and is an error.
fn clear(holder: &Holder, name: &OsStr) -> Result<(), Errno> {
    match unlinkat(&holder.dir, name, UnlinkatFlags::NoRemoveDir) {
        Err(Errno::ENOENT) => Ok(()),
        other => other,
    }
}

/// The regular file of one name that is there, if that is what is there, and its length.
fn open_regular(at: &OwnedFd, name: &OsStr) -> Option<(OwnedFd, u64)> {
    let found = Stat::from(fstatat(at, name, AtFlags::AT_SYMLINK_NOFOLLOW).ok()?);
    // A file with another name may be somebody else's.
    if !found.is_file() || found.links() != 1 {
        return None;
    }
    if found.mode() & 0o600 != 0o600 {
        let handle = openat(at, name, OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty()).ok()?;
        change_mode(&handle, 0o600).ok()?;
    }
    let flags = OFlag::O_RDWR | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let file = openat(at, name, flags, Mode::empty()).ok()?;
    let found = Stat::of_open(&file).ok()?;
    (found.is_file() && found.links() == 1).then_some((file, found.size()))
}

/// Attributes that the file system does not take are lost, which says no word about the content.
pub(super) fn set_attributes(file: BorrowedFd<'_>, member: &Member, acls: bool) {
    for attribute in &member.xattrs {
        let name = attribute.name.as_path();
        let bytes = attribute.name.as_bytes();
        if !(bytes.starts_with(b"user.") || acls && bytes.starts_with(b"system.posix_acl_")) {
            continue;
        }
        if let Err(error) = fsetxattr(file, name, attribute.value.as_bytes(), XattrFlags::empty()) {
            tracing::warn!("{} loses the attribute {}: {error}", member.name, attribute.name);
        }
    }
}

fn times(member: &Member) -> [TimeSpec; 2] {
    [member.atime.unwrap_or(member.mtime), member.mtime].map(time)
}

fn time(time: Mtime) -> TimeSpec {
    TimeSpec::new(time.s, i64::from(time.ns))
}

pub(super) fn set_times(file: BorrowedFd<'_>, member: &Member) -> Result<(), Errno> {
    let [atime, mtime] = times(member);
    futimens(file, &atime, &mtime)
}

/// By a handle that has no right.
pub(super) fn set_times_of_handle(handle: &OwnedFd, mtime: Mtime, atime: Mtime) -> Result<(), Errno> {
    let path = format!("/proc/self/fd/{}", handle.as_raw_fd());
    utimensat(nix::fcntl::AT_FDCWD, path.as_str(), &time(atime), &time(mtime), UtimensatFlags::FollowSymlink)
}
