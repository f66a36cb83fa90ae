//! Writes members into a directory and trusts nothing that the archive says.
//!
//! An archive comes from the access point, where it may have been made by anyone who can submit, and it is unpacked
//! before the payload's sandbox exists. So no member is written by its path: each directory on the way is opened from the one
//! above it without following links, and only the last component is created in it. A symbolic link in the way is an
//! error, whoever made it. Nothing is ever written through a link, and a file is made new, so that a link to a foreign
//! file is replaced and not followed.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, renameat};
use nix::sys::stat::{Mode, SFlag, UtimensatFlags, fchmod, fstat, fstatat, futimens, mkdirat, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{LinkatFlags, UnlinkatFlags, linkat, mkfifoat, symlinkat, unlinkat};

use super::error::ArchiveError;
use super::index::{Kind, Member, Mtime};
use super::member::Piece;
use super::reader::Reader;

/// What to do where a member's place is taken by something that is no directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Existing {
    /// Unlink it and make a new file.
    #[default]
    Unlink,
    /// Make a file beside it and rename it over, so that there is always one or the other.
    Rename,
    /// Write a regular file anew in its place: same inode, so who has it open sees the new content. Anything else is unlinked.
    Truncate,
}

/// How to extract.
#[derive(Clone, Copy, Debug, Default)]
pub struct ExtractOptions {
    /// What to do with what is there.
    pub existing: Existing,
    /// Whether files keep setuid, setgid and sticky bits. Directories always do: there they give nobody rights.
    pub keep_special_bits: bool,
    /// Whether symbolic links may have targets that are absolute or lead out. A payload's own are restored as they were; for
    /// looking into an archive of unknown origin leave it off.
    pub any_symlink: bool,
    /// Threads that decode ahead for large files.
    pub threads: usize,
}

/// What has been extracted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extracted {
    /// Members, directories included.
    pub members: u64,
    /// Bytes of content, holes included.
    pub bytes: u64,
}

/// Writes all members below `prefix` (without a slash at its end; empty for all) into the directory `into`, named by what follows
/// the prefix. Modes and times of directories are set at the end. What was there and is not in the archive stays.
pub fn extract(
    reader: &Reader,
    prefix: impl AsRef<OsStr>,
    into: BorrowedFd<'_>,
    options: &ExtractOptions,
) -> Result<Extracted, ArchiveError> {
    let prefix = prefix.as_ref().as_bytes();
    let mut extractor = Extractor { reader, options, prefix, into, parent: None, links: HashSet::new() };
    let mut sum = Extracted::default();
    let mut dirs = Vec::new();
    for member in reader.members() {
        let Some(path) = member.name.below(prefix) else { continue };
        extractor.member(member, path)?;
        if member.kind == Kind::Dir {
            dirs.push((path, member));
        }
        sum.members += 1;
        sum.bytes += member.size;
    }
    // The deepest first: a directory that has got its mode may let nobody in.
    dirs.sort_by_key(|(path, _)| std::cmp::Reverse(path.len()));
    for (path, member) in dirs {
        let dir = extractor.dir(path, &member.name)?;
        set_mode_and_time(dir.as_fd(), member.mode, member.mtime).map_err(|e| failed(member, "its mode", e))?;
    }
    Ok(sum)
}

struct Extractor<'a> {
    reader: &'a Reader,
    options: &'a ExtractOptions,
    prefix: &'a [u8],
    into: BorrowedFd<'a>,
    /// The directory of the last member: members of one directory follow each other.
    parent: Option<(Vec<u8>, OwnedFd)>,
    /// Members that a hard link may point at: those that this run has made.
    links: HashSet<&'a [u8]>,
}

fn failed(member: &Member, what: &str, e: Errno) -> ArchiveError {
    named(&member.name, what, e)
}

/// A disk that is full or broken and limits that are reached say nothing about the archive; what is in the way may.
fn named(name: &dyn std::fmt::Display, what: &str, e: Errno) -> ArchiveError {
    use Errno::{EDQUOT, EFBIG, EIO, EMFILE, ENFILE, ENOMEM, ENOSPC, EROFS};
    match e {
        EDQUOT | EFBIG | EIO | EMFILE | ENFILE | ENOMEM | ENOSPC | EROFS => {
            ArchiveError::Io { doing: format!("cannot extract \"{name}\": {what}"), source: e.into() }
        }
        e => ArchiveError::Extract { name: name.to_string(), what: format!("{what}: {}", e.desc()) },
    }
}

fn refused(member: &Member, what: &str) -> ArchiveError {
    ArchiveError::Extract { name: member.name.to_string(), what: what.into() }
}

/// The directory part and the last component.
fn split(path: &[u8]) -> (&[u8], &OsStr) {
    let (dir, name) = match path.iter().rposition(|b| *b == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (&path[..0], path),
    };
    (dir, OsStr::from_bytes(name))
}

const DIR: OFlag = OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

impl<'a> Extractor<'a> {
    /// Opens the directory `path` step by step, making what is missing; open only to ourselves until its own member says more.
    fn dir(&self, path: &[u8], of: &dyn std::fmt::Display) -> Result<OwnedFd, ArchiveError> {
        let failed = |e: Errno| match e {
            Errno::ELOOP | Errno::ENOTDIR => ArchiveError::Extract {
                name: of.to_string(),
                what: "there is something in the way that is no directory".into(),
            },
            e => named(&of, "its directory", e),
        };
        let mut dir = openat(self.into, ".", DIR, Mode::empty()).map_err(failed)?;
        for part in path.split(|b| *b == b'/').filter(|part| !part.is_empty()) {
            let part = OsStr::from_bytes(part);
            dir = match openat(&dir, part, DIR, Mode::empty()) {
                Err(Errno::ENOENT) => {
                    mkdirat(&dir, part, Mode::S_IRWXU).map_err(failed)?;
                    openat(&dir, part, DIR, Mode::empty()).map_err(failed)?
                }
                other => other.map_err(failed)?,
            };
        }
        Ok(dir)
    }

    fn member(&mut self, member: &'a Member, path: &'a [u8]) -> Result<(), ArchiveError> {
        let (dir, name) = split(path);
        let parent = match self.parent.take() {
            Some((known, fd)) if known == dir => fd,
            _ => self.dir(dir, &member.name)?,
        };
        let at = parent.as_fd();
        match member.kind {
            Kind::Dir => self.make_dir(member, at, name)?,
            Kind::File => self.make_file(member, at, name)?,
            Kind::Symlink => self.make_symlink(member, at, name, dir)?,
            Kind::Hardlink => self.make_hardlink(member, at, name)?,
            Kind::Fifo => {
                clear(at, name).map_err(|e| failed(member, "what is in its place", e))?;
                mkfifoat(at, name, Mode::S_IRUSR | Mode::S_IWUSR).map_err(|e| failed(member, "making a FIFO", e))?;
                // Opened for both, which does not wait; a FIFO that we made an instant ago has no other end.
                let flags = OFlag::O_RDWR | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
                let fifo = openat(at, name, flags, Mode::empty()).map_err(|e| failed(member, "opening it", e))?;
                let mode = self.mode(member);
                set_mode_and_time(fifo.as_fd(), mode, member.mtime).map_err(|e| failed(member, "its mode", e))?;
            }
        }
        if member.kind != Kind::Dir {
            self.links.insert(member.name.as_bytes());
        }
        self.parent = Some((dir.to_vec(), parent));
        Ok(())
    }

    fn mode(&self, member: &Member) -> u32 {
        if self.options.keep_special_bits { member.mode } else { member.mode & 0o777 }
    }

    fn make_dir(&self, member: &Member, at: BorrowedFd<'_>, name: &OsStr) -> Result<(), ArchiveError> {
        let making = |e| failed(member, "making a directory", e);
        match mkdirat(at, name, Mode::S_IRWXU) {
            Err(Errno::EEXIST) => {}
            other => return other.map_err(making),
        }
        let there = fstatat(at, name, AtFlags::AT_SYMLINK_NOFOLLOW).map_err(making)?;
        if SFlag::from_bits_truncate(there.st_mode) & SFlag::S_IFMT == SFlag::S_IFDIR {
            return Ok(());
        }
        unlinkat(at, name, UnlinkatFlags::NoRemoveDir).and_then(|()| mkdirat(at, name, Mode::S_IRWXU)).map_err(making)
    }

    fn make_file(&self, member: &Member, at: BorrowedFd<'_>, name: &OsStr) -> Result<(), ArchiveError> {
        let making = |e| failed(member, "making the file", e);
        // A name that nobody has; 255 bytes are the most that a file system takes.
        let beside = format!(".condor-criu.{}.part", std::process::id());
        let (open_name, fresh) = match self.options.existing {
            Existing::Rename => (OsStr::new(&beside), true),
            Existing::Unlink => (name, true),
            Existing::Truncate => (name, false),
        };
        let flags = OFlag::O_WRONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let in_place = if fresh { None } else { open_regular(at, name, flags) };
        let file = match in_place {
            Some(file) => file,
            None => {
                clear(at, open_name).map_err(|e| failed(member, "what is in its place", e))?;
                let new = flags | OFlag::O_CREAT | OFlag::O_EXCL;
                openat(at, open_name, new, Mode::S_IRUSR | Mode::S_IWUSR).map_err(making)?
            }
        };
        let file = File::from(file);
        let written = self.write(member, &file).and_then(|()| {
            set_mode_and_time(file.as_fd(), self.mode(member), member.mtime)
                .map_err(|e| failed(member, "its mode", e))?;
            if open_name != name {
                renameat(at, open_name, at, name).map_err(|e| failed(member, "renaming it", e))?;
            }
            Ok(())
        });
        if written.is_err() && open_name != name {
            let _ = unlinkat(at, open_name, UnlinkatFlags::NoRemoveDir);
        }
        written
    }

    fn write(&self, member: &Member, file: &File) -> Result<(), ArchiveError> {
        let writing = |e| ArchiveError::io(format!("writing {}", member.name), e);
        file.set_len(0).map_err(writing)?;
        // Its length first, so that a full disk is found early and holes are holes.
        file.set_len(member.size).map_err(writing)?;
        let mut content = self.reader.open_member(&member.name, self.options.threads)?;
        let mut at = 0;
        while let Some(piece) = content.next_piece()? {
            let len = piece.len();
            if let Piece::Data(bytes) = piece {
                file.write_all_at(bytes, at).map_err(writing)?;
            }
            at += len;
        }
        Ok(())
    }

    fn make_symlink(&self, member: &Member, at: BorrowedFd<'_>, name: &OsStr, dir: &[u8]) -> Result<(), ArchiveError> {
        let target = member.link.as_ref().ok_or_else(|| refused(member, "it has no target"))?;
        if !self.options.any_symlink && leads_out(dir, target.as_bytes()) {
            return Err(refused(member, "it is a symbolic link that may lead out of the directory"));
        }
        let failed = |e| failed(member, "making a symbolic link", e);
        clear(at, name).map_err(failed)?;
        symlinkat(target.as_path(), at, name).map_err(failed)?;
        let time = time(member.mtime);
        utimensat(at, name, &TimeSpec::UTIME_OMIT, &time, UtimensatFlags::NoFollowSymlink).map_err(failed)
    }

    fn make_hardlink(&self, member: &Member, at: BorrowedFd<'_>, name: &OsStr) -> Result<(), ArchiveError> {
        let target = member.link.as_ref().ok_or_else(|| refused(member, "it has no target"))?;
        // Only to what this run has made: what lay in the directory before is none of the archive's business.
        let path = target.below(self.prefix).filter(|_| self.links.contains(target.as_bytes()));
        let path = path.ok_or_else(|| refused(member, "it is a hard link to what has not been extracted"))?;
        let (target_dir, target_name) = split(path);
        let from = self.dir(target_dir, &member.name)?;
        let failed = |e| failed(member, "making a hard link", e);
        clear(at, name).map_err(failed)?;
        linkat(&from, target_name, at, name, LinkatFlags::empty()).map_err(failed)
    }
}

/// Unlinks what is there; a directory stays, and is an error.
fn clear(at: BorrowedFd<'_>, name: &OsStr) -> Result<(), Errno> {
    match unlinkat(at, name, UnlinkatFlags::NoRemoveDir) {
        Err(Errno::ENOENT) => Ok(()),
        other => other,
    }
}

/// The regular file of one name that is there, if that is what is there.
fn open_regular(at: BorrowedFd<'_>, name: &OsStr, flags: OFlag) -> Option<OwnedFd> {
    let file = openat(at, name, flags, Mode::empty()).ok()?;
    let found = fstat(&file).ok()?;
    let regular = SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT == SFlag::S_IFREG;
    // A file with another name may be somebody else's.
    (regular && found.st_nlink == 1).then_some(file)
}

fn time(mtime: Mtime) -> TimeSpec {
    TimeSpec::new(mtime.s, i64::from(mtime.ns))
}

fn set_mode_and_time(fd: BorrowedFd<'_>, mode: u32, mtime: Mtime) -> Result<(), Errno> {
    fchmod(fd, Mode::from_bits_truncate(mode))?;
    futimens(fd, &TimeSpec::UTIME_OMIT, &time(mtime))
}

/// Whether a link in `dir` (relative to the root of the extraction) may lead out of it. Steps up are taken only at the start of the
/// target, where they count real directories; behind a component that may itself be a link nobody knows where `..` leads.
fn leads_out(dir: &[u8], target: &[u8]) -> bool {
    if target.starts_with(b"/") {
        return true;
    }
    let mut depth = dir.split(|b| *b == b'/').filter(|part| !part.is_empty()).count();
    let mut parts = target.split(|b| *b == b'/').filter(|part| !part.is_empty() && *part != b".").peekable();
    while parts.next_if(|part| *part == b"..").is_some() {
        match depth.checked_sub(1) {
            Some(above) => depth = above,
            None => return true,
        }
    }
    parts.any(|part| part == b"..")
}

#[cfg(test)]
#[path = "extract_tests.rs"]
mod tests;
