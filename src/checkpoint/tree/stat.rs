//! What stat(2) says of a file, in the words of this project.

use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::sys::stat::{FileStat, SFlag, fstat};

/// Mode, size, times and identity of a file.
#[derive(Debug, Clone, Copy)]
pub struct Stat(FileStat);

impl From<FileStat> for Stat {
    fn from(stat: FileStat) -> Stat {
        Stat(stat)
    }
}

impl Stat {
    /// Of an open file, which may be a handle without any right.
    pub fn of_open(file: impl AsFd) -> Result<Stat, Errno> {
        fstat(file).map(Stat)
    }

    fn is(&self, kind: SFlag) -> bool {
        SFlag::from_bits_truncate(self.0.st_mode) & SFlag::S_IFMT == kind
    }

    /// Whether it is a directory.
    pub fn is_dir(&self) -> bool {
        self.is(SFlag::S_IFDIR)
    }

    /// Whether it is a regular file.
    pub fn is_file(&self) -> bool {
        self.is(SFlag::S_IFREG)
    }

    /// Whether it is a symbolic link.
    pub fn is_symlink(&self) -> bool {
        self.is(SFlag::S_IFLNK)
    }

    /// Whether it is a named pipe.
    pub fn is_fifo(&self) -> bool {
        self.is(SFlag::S_IFIFO)
    }

    /// Whether it is the name of a unix socket.
    pub fn is_socket(&self) -> bool {
        self.is(SFlag::S_IFSOCK)
    }

    /// Permission bits, with setuid, setgid and sticky.
    pub fn mode(&self) -> u32 {
        self.0.st_mode & 0o7777
    }

    /// Bytes.
    pub fn size(&self) -> u64 {
        u64::try_from(self.0.st_size).unwrap_or(0)
    }

    /// Bytes on the disk; stat(2) counts in units of 512.
    pub fn stored(&self) -> u64 {
        u64::try_from(self.0.st_blocks).unwrap_or(0).saturating_mul(512)
    }

    /// Device and inode.
    pub fn identity(&self) -> (u64, u64) {
        (self.0.st_dev, self.0.st_ino)
    }

    /// Names that it has.
    pub fn links(&self) -> u64 {
        self.0.st_nlink
    }

    /// Owner and group.
    pub fn owner(&self) -> (u32, u32) {
        (self.0.st_uid, self.0.st_gid)
    }

    /// When its content was changed last.
    pub fn modified(&self) -> (i64, u32) {
        time(self.0.st_mtime, self.0.st_mtime_nsec)
    }

    /// When it was read last.
    pub fn accessed(&self) -> (i64, u32) {
        time(self.0.st_atime, self.0.st_atime_nsec)
    }

    /// When anything of it was changed last.
    pub fn changed(&self) -> (i64, u32) {
        time(self.0.st_ctime, self.0.st_ctime_nsec)
    }
}

/// Seconds since the epoch, and nanoseconds.
fn time(seconds: i64, nanoseconds: i64) -> (i64, u32) {
    (seconds, u32::try_from(nanoseconds).unwrap_or(0))
}
