//! What the job was given: inputs that HTCondor brings again need not be carried, as long as nobody has changed them.
//!
//! A change is seen by the change time, which every write moves. What is written through memory that is mapped moves it
//! at once on the usual file systems, on others when the pages are written back, and never on tmpfs ([`Clock`]).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::sys::statfs::{self, fstatfs};

use super::inventory::{NotCarried, walk};
use super::manifest::Input;
use super::tree::{Entry, Stat, Tree, open_below};

/// A file's state, by which a change is seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    identity: (u64, u64),
    size: u64,
    changed: (i64, u32),
}

impl Stamp {
    /// Of a file as stat(2) shows it.
    pub fn of(stat: &Stat) -> Stamp {
        Stamp { identity: stat.identity(), size: stat.size(), changed: stat.changed() }
    }
}

/// Digests of the host's files, by path: read once as long as the file stays what it was.
pub type HostDigests = HashMap<PathBuf, (Stamp, String)>;

/// The inputs of a job, from its first start or from a checkpoint, with their digests as far as they are known.
#[derive(Debug, Default)]
pub struct Inputs {
    known: BTreeMap<PathBuf, (Stamp, Option<String>)>,
    /// Those whose digest is still to be read.
    pending: Vec<PathBuf>,
    /// Hidden files at the top level that were given, or carried at some time. HTCondor may bring each of them again,
    /// and what is hidden and unknown is taken for a file of the starter's.
    hidden: BTreeSet<PathBuf>,
    /// See [`HostDigests`].
    pub host: HostDigests,
}

fn is_hidden(path: &Path) -> bool {
    path.as_os_str().as_bytes().starts_with(b".") && path.components().count() == 1
}

impl Inputs {
    /// At the first start everything that is there is an input.
    pub fn at_first_start(scratch: &Path, not_carried: &NotCarried) -> io::Result<Inputs> {
        let entries = walk(&mut Tree::open(scratch)?, not_carried)?;
        let files = entries.into_iter().filter(|entry| entry.stat.is_file());
        let known: BTreeMap<_, _> = files.map(|entry| (entry.path, (Stamp::of(&entry.stat), None))).collect();
        let hidden = known.keys().filter(|path| is_hidden(path)).cloned().collect();
        Ok(Inputs { pending: known.keys().cloned().collect(), known, hidden, host: HostDigests::new() })
    }

    /// After a restore the inputs are those that the checkpoint names, if they are what they were. `others` are what it
    /// carries, and hidden files that had been there before.
    ///
    /// # Errors
    /// What is wrong with the first one that is missing or differs.
    pub fn of_checkpoint(scratch: &Path, inputs: &[Input], others: &BTreeSet<PathBuf>) -> Result<Inputs, String> {
        let tree = Tree::open(scratch).map_err(|error| format!("{}: {error}", scratch.display()))?;
        let mut known = BTreeMap::new();
        for input in inputs {
            let shown = input.path.display();
            let (digest, stat) = digest(&tree, &input.path).map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => format!("the input file {shown} is missing: {error}"),
                _ => format!("the input file {shown} cannot be read: {error}"),
            })?;
            if stat.size() != input.size {
                return Err(format!("the input file {shown} has {} bytes, not {}", stat.size(), input.size));
            }
            if digest != input.digest {
                return Err(format!("the input file {shown} has another content"));
            }
            known.insert(input.path.clone(), (Stamp::of(&stat), Some(digest)));
        }
        let once = known
            .keys()
            .map(PathBuf::as_path)
            .chain(others.iter().map(PathBuf::as_path))
            .filter(|path| is_hidden(path));
        let hidden = once.map(Path::to_path_buf).collect();
        Ok(Inputs { hidden, known, pending: Vec::new(), host: HostDigests::new() })
    }

    /// Reads one more input whose digest is not known yet; `false` when there is none. What changes meanwhile is no
    /// input any more.
    pub fn digest_one(&mut self, scratch: &Path) -> bool {
        let Some(path) = self.pending.pop() else { return false };
        let Some(stamp) = self.known.get(&path).map(|(stamp, _)| *stamp) else { return true };
        let found = Tree::open(scratch).and_then(|tree| digest(&tree, &path));
        match found {
            Ok((found, stat)) if Stamp::of(&stat) == stamp => drop(self.known.insert(path, (stamp, Some(found)))),
            _ => drop(self.known.remove(&path)),
        }
        true
    }

    /// Whether it is an input that has not been changed, as far as its time tells.
    pub fn is_as_given(&self, entry: &Entry) -> bool {
        self.known.get(&entry.path).is_some_and(|(stamp, _)| *stamp == Stamp::of(&entry.stat))
    }

    /// The input at this entry, if it is unchanged.
    pub fn unchanged(&self, tree: &Tree, entry: &Entry, clock: Clock) -> Option<Input> {
        let (stamp, known) = self.known.get(&entry.path)?;
        if *stamp != Stamp::of(&entry.stat) {
            return None;
        }
        let known = known.clone()?;
        let as_it_was = match clock {
            Clock::Tells => true,
            Clock::TellsLate => written_back(tree, &entry.path).is_ok_and(|stat| Stamp::of(&stat) == *stamp),
            Clock::Silent => digest(tree, &entry.path).is_ok_and(|(found, _)| found == known),
        };
        if !as_it_was {
            return None;
        }
        Some(Input { path: entry.path.clone(), size: entry.stat.size(), digest: known })
    }

    /// Hidden files that were there at some time and are not among the `entries` of the scratch directory.
    pub fn gone(&mut self, entries: &[Entry]) -> Vec<PathBuf> {
        let here: BTreeSet<&Path> = entries.iter().map(|entry| entry.path.as_path()).collect();
        self.hidden.extend(here.iter().filter(|path| is_hidden(path)).map(|path| path.to_path_buf()));
        self.hidden.iter().filter(|path| !here.contains(path.as_path())).cloned().collect()
    }
}

/// What a file system's change time says of a write through mapped memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clock {
    /// It has moved.
    Tells,
    /// It moves when the pages are written back.
    TellsLate,
    /// Nothing: the content has to be read.
    Silent,
}

impl Clock {
    /// Of the file system of this tree. An overlay may stand on any.
    pub fn of(tree: &Tree) -> Clock {
        /// `linux/magic.h`; nix does not name it.
        const RAMFS: i64 = 0x8584_58F6;
        let telling =
            [statfs::EXT4_SUPER_MAGIC, statfs::BTRFS_SUPER_MAGIC, statfs::XFS_SUPER_MAGIC, statfs::F2FS_SUPER_MAGIC];
        let silent = [statfs::TMPFS_MAGIC, statfs::OVERLAYFS_SUPER_MAGIC];
        match fstatfs(tree.base()).map(|found| found.filesystem_type()) {
            Ok(kind) if telling.contains(&kind) => Clock::Tells,
            Ok(kind) if silent.contains(&kind) || kind.0 == RAMFS => Clock::Silent,
            _ => Clock::TellsLate,
        }
    }
}

/// What a file is when all that was written to it through memory has reached its file system.
fn written_back(tree: &Tree, path: &Path) -> io::Result<Stat> {
    let file = File::from(open_below(tree.base(), path, OFlag::O_RDONLY | OFlag::O_NONBLOCK)?);
    file.sync_all()?;
    Ok(Stat::of_open(&file)?)
}

/// Of the content of a regular file, with what it is after that.
fn digest(tree: &Tree, path: &Path) -> io::Result<(String, Stat)> {
    let file = File::from(open_below(tree.base(), path, OFlag::O_RDONLY | OFlag::O_NONBLOCK)?);
    if !Stat::of_open(&file)?.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(&file)?;
    let stat = Stat::of_open(file.as_fd())?;
    Ok((hasher.finalize().to_hex().to_string(), stat))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn an_input_with_another_content_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("in"), "abc").unwrap();
        let input = Input { path: "in".into(), size: 3, digest: blake3::hash(b"abc").to_hex().to_string() };
        let read = || Inputs::of_checkpoint(dir.path(), std::slice::from_ref(&input), &BTreeSet::new());
        assert!(read().is_ok());
        fs::write(dir.path().join("in"), "abd").unwrap();
        assert!(read().unwrap_err().contains("another content"));
        fs::remove_file(dir.path().join("in")).unwrap();
        assert!(read().unwrap_err().contains("missing"));
    }

    #[test]
    fn where_the_clock_does_not_tell_the_content_does() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("in"), "abc").unwrap();
        let mut inputs = Inputs::at_first_start(dir.path(), &NotCarried::default()).unwrap();
        while inputs.digest_one(dir.path()) {}
        let mut tree = Tree::open(dir.path()).unwrap();
        let entry = tree.walk(|_| false).unwrap().remove(0);
        for clock in [Clock::Tells, Clock::TellsLate, Clock::Silent] {
            assert!(inputs.unchanged(&tree, &entry, clock).is_some());
        }
        // As if through memory: the entry keeps its time.
        fs::write(dir.path().join("in"), "abd").unwrap();
        assert!(inputs.unchanged(&tree, &entry, Clock::Tells).is_some());
        assert!(inputs.unchanged(&tree, &entry, Clock::TellsLate).is_none());
        assert!(inputs.unchanged(&tree, &entry, Clock::Silent).is_none());
    }

    #[test]
    fn a_hidden_file_that_was_there_once_is_missed() {
        let dir = tempfile::tempdir().unwrap();
        for name in [".given", "given"] {
            fs::write(dir.path().join(name), name).unwrap();
        }
        let mut inputs = Inputs::at_first_start(dir.path(), &NotCarried::default()).unwrap();
        let mut gone = || inputs.gone(&Tree::open(dir.path()).unwrap().walk(|_| false).unwrap());
        assert_eq!(gone(), Vec::<PathBuf>::new());
        fs::write(dir.path().join(".own"), "").unwrap();
        assert_eq!(gone(), Vec::<PathBuf>::new());
        for name in [".given", "given", ".own"] {
            fs::remove_file(dir.path().join(name)).unwrap();
        }
        assert_eq!(gone(), [".given", ".own"].map(PathBuf::from));
    }
}
