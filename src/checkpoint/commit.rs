//! The moment when a new generation replaces the old one: a rename, after everything is on the disk.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The checkpoint's permission bits from its first byte: it holds the payload's memory.
const PRIVATE: u32 = 0o600;

/// A new generation that is being written; dropped without [`Draft::commit`], it leaves nothing.
#[derive(Debug)]
pub struct Draft {
    path: PathBuf,
    target: PathBuf,
    committed: bool,
}

impl Draft {
    /// A new file in `directory` that is to become `target` in the same file system. What an earlier attempt left
    /// there is overwritten.
    pub fn create(directory: &Path, target: &Path) -> io::Result<(Draft, File)> {
        let path = directory.join("checkpoint.draft");
        let _ = fs::remove_file(&path);
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(PRIVATE).open(&path)?;
        Ok((Draft { path, target: target.to_path_buf(), committed: false }, file))
    }

    /// Makes it the checkpoint. The file's content must be on the disk already; when this returns, its name is too.
    pub fn commit(mut self) -> io::Result<()> {
        fs::rename(&self.path, &self.target)?;
        self.committed = true;
        match self.target.parent() {
            Some(directory) => File::open(directory)?.sync_all(),
            None => Ok(()),
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
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_old_generation_stays_until_the_commit() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("checkpoint");
        fs::write(&target, "old").unwrap();
        let (draft, mut file) = Draft::create(dir.path(), &target).unwrap();
        file.write_all(b"new").unwrap();
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, PRIVATE);
        drop(draft);
        assert_eq!(fs::read(&target).unwrap(), b"old");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        let (draft, mut file) = Draft::create(dir.path(), &target).unwrap();
        file.write_all(b"new").unwrap();
        draft.commit().unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"new");
        placeholder(&target).unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"new");
    }
}
