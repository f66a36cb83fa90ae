//! Removes what may be closed to its owner.

use std::io;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::sys::stat::fstatat;
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::{CHANGE, LIST, Stat, Tree, named};

impl Tree {
    /// What bears this name, if something does.
    pub fn stat(&mut self, path: &Path) -> io::Result<Option<Stat>> {
        let (Some(name), Some(parent)) = (path.file_name(), path.parent()) else { return Err(Errno::EINVAL.into()) };
        let found =
            self.directory(parent, LIST).and_then(|holder| Ok(fstatat(holder, name, AtFlags::AT_SYMLINK_NOFOLLOW)?));
        match found {
            Ok(stat) => Ok(Some(stat.into())),
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Removes a directory if it is empty.
    pub fn remove_empty(&mut self, path: &Path) -> io::Result<()> {
        let (holder, name) = self.holder(path)?;
        Ok(unlinkat(holder, name, UnlinkatFlags::RemoveDir)?)
    }

    /// Removes what bears this name, with all below it. That it is not there is no error.
    pub fn remove(&mut self, path: &Path) -> io::Result<()> {
        let (holder, name) = match self.holder(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        let known = self.opened.len();
        match unlinkat(&holder, name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => return Ok(()),
            Err(Errno::EISDIR) => {}
            Err(errno) => return Err(named(path, errno.into())),
        }
        let mut last = None;
        for entry in self.walk_from(path.to_path_buf(), CHANGE, |_| false)?.into_iter().rev() {
            let (Some(name), Some(above)) = (entry.path.file_name(), entry.path.parent()) else { continue };
            let holder = match last.take() {
                Some((known, holder)) if known == above => holder,
                _ => self.directory(above, CHANGE)?,
            };
            let how = if entry.stat.is_dir() { UnlinkatFlags::RemoveDir } else { UnlinkatFlags::NoRemoveDir };
            match unlinkat(&holder, name, how) {
                Ok(()) | Err(Errno::ENOENT) => {}
                Err(errno) => return Err(named(&entry.path, errno.into())),
            }
            last = Some((above.to_path_buf(), holder));
        }
        // What was opened up below is gone.
        self.opened.truncate(known);
        unlinkat(&holder, name, UnlinkatFlags::RemoveDir).map_err(|errno| named(path, errno.into()))
    }
}

/// Removes what is at `path`, with all below it; that nothing is there is no error.
pub fn remove_all(path: &Path) -> io::Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Err(Errno::EINVAL.into()) };
    Tree::open(parent)?.remove(Path::new(name))
}
