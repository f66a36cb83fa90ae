//! The moment when a new generation replaces the old one: a rename, after everything is on the disk.
//!
//! With `keep = 2` the old one first gets a second name, so that at every moment the newest and, once there are two,
//! the one before it are there.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::{io, iter};

/// The checkpoint's permission bits from its first byte: it holds the payload's memory.
const PRIVATE: u32 = 0o600;

/// Where a new generation goes.
#[derive(Debug, Clone)]
pub struct Place {
    /// The checkpoint.
    pub newest: PathBuf,
    /// Where the generation that it replaces goes; `None`: nowhere.
    pub previous: Option<PathBuf>,
    /// The file that was at `newest` when it was last looked at.
    seen: Seen,
}

/// Device, inode, length and time of a file; `None` if there is none. A commit is always another inode.
type Seen = Option<(u64, u64, u64, i64, i64)>;

fn see(path: &Path) -> Seen {
    let metadata = path.metadata().ok()?;
    Some((metadata.dev(), metadata.ino(), metadata.len(), metadata.mtime(), metadata.mtime_nsec()))
}

impl Place {
    /// As it is now: only what is at `newest` from here on may be replaced.
    pub fn new(newest: PathBuf, previous: Option<PathBuf>) -> Place {
        let seen = see(&newest);
        Place { newest, previous, seen }
    }

    /// The newest, and the previous one if there is a place for it.
    pub fn files(&self) -> impl Iterator<Item = &Path> + Clone {
        iter::once(&self.newest).chain(&self.previous).map(PathBuf::as_path)
    }

    /// After a change of our own.
    pub fn look(&mut self) {
        self.seen = see(&self.newest);
    }
}

/// A new generation that is being written; dropped without [`Draft::commit`], it leaves nothing.
#[derive(Debug)]
pub struct Draft {
    path: PathBuf,
    place: Place,
    committed: bool,
}

impl Draft {
    /// A new file in `directory` that is to become the newest in the same file system. What an earlier attempt left
    /// there is overwritten; one of this process that is not gone yet is not.
    pub fn create(directory: &Path, place: Place) -> io::Result<(Draft, File)> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let path = directory.join(format!("checkpoint-{}.draft", NUMBER.fetch_add(1, Ordering::Relaxed)));
        let _ = fs::remove_file(&path);
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(PRIVATE).open(&path)?;
        Ok((Draft { path, place, committed: false }, file))
    }

    /// Makes it the checkpoint. The file's content must be on the disk already; when this returns, its name is too, or
    /// a warning says that it may not be.
    ///
    /// # Errors
    /// Another process has put a file there meanwhile: a copy of the job that lives on after a network partition must
    /// not replace what its successor has saved.
    pub fn commit(mut self) -> io::Result<()> {
        let newest = &self.place.newest;
        if see(newest) != self.place.seen {
            return Err(io::Error::other(format!(
                "{} is no longer the file that was there: another condor-criu saves there too",
                newest.display()
            )));
        }
        if let Some(previous) = &self.place.previous
            && newest.metadata().is_ok_and(|metadata| metadata.len() > 0)
        {
            self.keep(newest, previous)?;
        }
        fs::rename(&self.path, newest)?;
        self.committed = true;
        // It is the checkpoint now, and is what HTCondor will carry. An error would let the payload go on as if it were
        // not, and no later generation could replace it; not every file system can sync a directory.
        if let Some(directory) = newest.parent()
            && let Err(error) = File::open(directory).and_then(|directory| directory.sync_all())
        {
            tracing::warn!(
                "cannot sync {}: a loss of power could bring back the generation before: {error}",
                directory.display()
            );
        }
        Ok(())
    }

    /// Gives the old generation the name of the previous one, and leaves it its own.
    fn keep(&self, newest: &Path, previous: &Path) -> io::Result<()> {
        let second = self.path.with_extension("previous");
        let _ = fs::remove_file(&second);
        match fs::hard_link(newest, &second) {
            Ok(()) => fs::rename(&second, previous),
            // A file system without hard links: for a moment it has the other name alone, under which it is found too.
            Err(_) => fs::rename(newest, previous),
        }
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.committed {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// An empty file where HTCondor will look for one, unless there already is something.
pub fn placeholder(path: &Path) -> io::Result<()> {
    match OpenOptions::new().write(true).create_new(true).mode(PRIVATE).open(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_old_generation_stays_until_the_commit() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("checkpoint");
        fs::write(&target, "old").unwrap();
        let place = Place::new(target.clone(), None);
        let (draft, mut file) = Draft::create(dir.path(), place.clone()).unwrap();
        file.write_all(b"new").unwrap();
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, PRIVATE);
        drop(draft);
        assert_eq!(fs::read(&target).unwrap(), b"old");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        let (draft, mut file) = Draft::create(dir.path(), place).unwrap();
        file.write_all(b"new").unwrap();
        draft.commit().unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"new");
        placeholder(&target).unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"new");
    }

    #[test]
    fn what_another_has_committed_meanwhile_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("checkpoint");
        fs::write(&target, "old").unwrap();
        let places = ["a", "b"].map(|name| (dir.path().join(name), Place::new(target.clone(), None)));
        let drafts = places.map(|(directory, place)| {
            fs::create_dir(&directory).unwrap();
            let (draft, mut file) = Draft::create(&directory, place).unwrap();
            file.write_all(directory.file_name().unwrap().as_bytes()).unwrap();
            draft
        });
        let [first, second] = drafts;
        first.commit().unwrap();
        assert!(second.commit().unwrap_err().to_string().contains("another condor-criu"));
        assert_eq!(fs::read(&target).unwrap(), b"a");
    }

    #[test]
    fn the_generation_before_gets_a_name_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let (newest, previous) = (dir.path().join("newest"), dir.path().join("previous"));
        placeholder(&newest).unwrap();
        placeholder(&previous).unwrap();
        let commit = |content: &str| {
            let place = Place::new(newest.clone(), Some(previous.clone()));
            let (draft, mut file) = Draft::create(dir.path(), place).unwrap();
            file.write_all(content.as_bytes()).unwrap();
            draft.commit().unwrap();
            (fs::read_to_string(&newest).unwrap(), fs::read_to_string(&previous).unwrap())
        };
        // A placeholder is no generation.
        assert_eq!(commit("1"), ("1".into(), String::new()));
        assert_eq!(commit("2"), ("2".into(), "1".into()));
        assert_eq!(commit("3"), ("3".into(), "2".into()));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }
}
