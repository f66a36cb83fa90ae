//! Writes members into a directory and trusts nothing that the archive says.
//!
//! An archive comes from the access point, where it may have been made by anyone who can submit, and it is unpacked
//! before the payload's sandbox exists. So no member is written by its path: each directory on the way is opened from
//! the one above it without following links, and only the last component is created in it. A symbolic link in the way
//! is an error, whoever made it. Nothing is ever written through a link, and a file with a second name is made new, so
//! that a link to a foreign file is replaced and not followed.
//!
//! Directories come first, open to their owner whatever their modes are to be. Then the files, in several threads. Then
//! links and named pipes, and at the end the modes and times of directories.

mod content;
mod place;

use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::errno::Errno;
use nix::unistd::getegid;

use super::error::ArchiveError;
use super::index::{Kind, Member, Mtime};
use super::lock::lock;
use super::reader::Reader;
use crate::checkpoint::tree::{Stat, Tree, change_mode};
use place::{Place, set_attributes, set_times};

/// What to do where a file's place is taken by something that is no directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Existing {
    /// Unlink it and make a new file.
    #[default]
    Unlink,
    /// Keep a regular file of one name, and write what differs in its place: it needs no room twice. Anything else is
    /// unlinked.
    Reuse,
}

/// How to extract.
#[derive(Clone, Copy, Debug, Default)]
pub struct ExtractOptions {
    /// What to do with what is there.
    pub existing: Existing,
    /// Whether files keep setuid, setgid and sticky bits, and ACLs. Directories always keep their bits: there they give
    /// nobody rights.
    pub keep_special_bits: bool,
    /// Whether symbolic links may have targets that are absolute or lead out. A payload's own are restored as they
    /// were; for looking into an archive of unknown origin leave it off.
    pub any_symlink: bool,
    /// Whether what belongs to another group than this process's stays open to its owner, and is told as [`Later`]:
    /// criu's capabilities do not reach it.
    pub leave_open: bool,
    /// Threads that write files, and that decode ahead for large ones.
    pub threads: usize,
}

/// What is to be set once more when criu has made what it makes in the directories.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Later {
    /// Below the directory of the extraction.
    pub path: PathBuf,
    /// Permission bits.
    pub mode: u32,
    /// Last change.
    pub mtime: Mtime,
    /// Last access.
    pub atime: Mtime,
}

/// What has been extracted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extracted {
    /// Members, directories included.
    pub members: u64,
    /// Bytes of content, holes included.
    pub bytes: u64,
    /// All directories, and what was left open.
    pub later: Vec<Later>,
}

/// Writes all members below `prefix` (without a slash at its end; empty for all) into the directory `into`, named by
/// what follows the prefix. What was there and is not in the archive stays.
pub fn extract(
    reader: &Reader,
    prefix: impl AsRef<OsStr>,
    into: BorrowedFd<'_>,
    options: &ExtractOptions,
) -> Result<Extracted, ArchiveError> {
    let prefix = prefix.as_ref().as_bytes();
    let extractor = Extractor { reader, options, prefix, into, group: getegid().as_raw(), later: Mutex::default() };
    let mut sum = Extracted::default();
    let (mut dirs, mut files, mut others) = (Vec::new(), Vec::new(), Vec::new());
    for member in reader.members() {
        let Some(path) = member.name.below(prefix) else { continue };
        match member.kind {
            Kind::Dir => dirs.push((path, member)),
            Kind::File => files.push((path, member)),
            _ => others.push((path, member)),
        }
        sum.members += 1;
        sum.bytes += member.size;
    }
    dirs.sort_by_key(|(path, _)| path.len());
    let mut place = Place::default();
    for (path, member) in &dirs {
        extractor.make_dir(&mut place, path, member)?;
    }
    extractor.files(&files)?;
    extractor.others(&files, &others)?;
    // The deepest first: a directory that has got its mode may let nobody in.
    for (path, member) in dirs.iter().rev() {
        extractor.finish_dir(path, member)?;
    }
    sum.later = std::mem::take(&mut lock(&extractor.later));
    Ok(sum)
}

/// Gives modes and times once more where they are not what was recorded; returns how many could not be set.
pub fn settle(later: &[Later], into: &mut Tree) -> usize {
    let mut settle = |later: &Later| {
        let handle = into.reach(&later.path)?;
        let found = Stat::of_open(&handle)?;
        if found.mode() != later.mode {
            change_mode(&handle, later.mode)?;
        }
        if Mtime::from(found.modified()) != later.mtime {
            place::set_times_of_handle(&handle, later.mtime, later.atime)?;
        }
        Ok::<_, std::io::Error>(())
    };
    later.iter().map(&mut settle).filter(Result::is_err).count()
}

struct Extractor<'a> {
    reader: &'a Reader,
    options: &'a ExtractOptions,
    prefix: &'a [u8],
    into: BorrowedFd<'a>,
    /// This process's.
    group: u32,
    later: Mutex<Vec<Later>>,
}

/// Files that a thread takes at once: those of one directory follow each other, and share frames.
const TAKEN: usize = 64;

type Named<'a> = (&'a [u8], &'a Member);

impl<'a> Extractor<'a> {
    fn files(&self, files: &[Named<'a>]) -> Result<(), ArchiveError> {
        let next = AtomicUsize::new(0);
        let work = || {
            let mut place = Place::default();
            loop {
                let from = next.fetch_add(TAKEN, Ordering::Relaxed);
                let Some(mine) = files.get(from..files.len().min(from + TAKEN)).filter(|mine| !mine.is_empty()) else {
                    return Ok(());
                };
                for (path, member) in mine {
                    if let Err(error) = self.make_file(&mut place, path, member) {
                        // The others find nothing left to do.
                        next.store(files.len(), Ordering::Relaxed);
                        return Err(error);
                    }
                }
            }
        };
        let threads = self.options.threads.clamp(1, files.len().div_ceil(TAKEN).max(1));
        std::thread::scope(|scope| {
            let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
            let mut result = work();
            for thread in others {
                let other = thread.join().unwrap_or_else(|_| Err(ArchiveError::bad("a thread has panicked")));
                result = result.and(other);
            }
            result
        })
    }

    /// Symbolic links, named pipes and further names, in the order of the archive.
    fn others(&self, files: &[Named<'a>], others: &[Named<'a>]) -> Result<(), ArchiveError> {
        let mut place = Place::default();
        // Only to what this run has made: what lay in the directory before is none of the archive's business.
        let linked = others.iter().any(|(_, member)| member.kind == Kind::Hardlink);
        let mut made: HashSet<&[u8]> =
            if linked { files.iter().map(|(path, _)| *path).collect() } else { HashSet::new() };
        for (path, member) in others {
            match member.kind {
                Kind::Symlink => self.make_symlink(&mut place, path, member)?,
                Kind::Hardlink => {
                    let target = member.link.as_ref().ok_or_else(|| refused(member, "it has no target"))?;
                    let target = target.below(self.prefix).filter(|target| made.contains(target));
                    let target =
                        target.ok_or_else(|| refused(member, "it is a hard link to what has not been extracted"))?;
                    self.make_hardlink(&mut place, path, member, target)?;
                }
                _ => self.make_fifo(&mut place, path, member)?,
            }
            made.insert(path);
        }
        Ok(())
    }

    fn mode(&self, member: &Member) -> u32 {
        if self.options.keep_special_bits || member.kind == Kind::Dir { member.mode } else { member.mode & 0o777 }
    }

    /// The mode that it gets now, with what is to be done later noted.
    fn mode_now(&self, path: &[u8], member: &Member, group: u32) -> u32 {
        let (mode, foreign) = (self.mode(member), self.options.leave_open && group != self.group);
        let open = if member.kind == Kind::Dir { mode | 0o700 } else { mode | 0o600 };
        if member.kind == Kind::Dir || foreign && open != mode {
            let path = PathBuf::from(OsStr::from_bytes(path));
            let atime = member.atime.unwrap_or(member.mtime);
            lock(&self.later).push(Later { path, mode, mtime: member.mtime, atime });
        }
        if foreign { open } else { mode }
    }

    fn finish_dir(&self, path: &[u8], member: &Member) -> Result<(), ArchiveError> {
        let failed = |e| failed(member, "its mode", e);
        let dir = place::directory(self.into, path).map_err(failed)?;
        let group = Stat::of_open(&dir).map_err(failed)?.owner().1;
        set_attributes(dir.as_fd(), member, self.options.keep_special_bits);
        nix::sys::stat::fchmod(&dir, nix::sys::stat::Mode::from_bits_truncate(self.mode_now(path, member, group)))
            .and_then(|()| set_times(dir.as_fd(), member))
            .map_err(failed)
    }
}

fn failed(member: &Member, what: &str, e: Errno) -> ArchiveError {
    named(&member.name, what, e)
}

/// A disk that is full or broken, a right that is missing and limits that are reached say nothing about the archive;
/// what is in the way may.
fn named(name: &dyn std::fmt::Display, what: &str, e: Errno) -> ArchiveError {
    use Errno::{EACCES, EDQUOT, EFBIG, EIO, EMFILE, ENFILE, ENOMEM, ENOSPC, EPERM, EROFS};
    match e {
        EACCES | EDQUOT | EFBIG | EIO | EMFILE | ENFILE | ENOMEM | ENOSPC | EPERM | EROFS => {
            ArchiveError::Io { doing: format!("cannot extract \"{name}\": {what}"), source: e.into() }
        }
        Errno::ELOOP | Errno::ENOTDIR | Errno::EXDEV => ArchiveError::Extract {
            name: name.to_string(),
            what: "there is something in the way that is no directory".into(),
        },
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

/// Whether a link in `dir` (relative to the root of the extraction) may lead out of it. Steps up are taken only at the
/// start of the target, where they count real directories; behind a component that may itself be a link nobody knows
/// where `..` leads.
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
