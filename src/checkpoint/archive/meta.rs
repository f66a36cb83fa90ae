//! What is said of a member before its content comes.

use super::index::{Kind, Mtime, Xattr};
use crate::name::Name;

/// What a member is, but for its content.
#[derive(Clone, Debug)]
pub struct Meta {
    /// Its name: relative, without `.` and `..`.
    pub name: Name,
    /// What it is.
    pub kind: Kind,
    /// Permission bits.
    pub mode: u32,
    /// Time of last modification.
    pub mtime: Mtime,
    /// Time of last access, if it is another one.
    pub atime: Option<Mtime>,
    /// Extended attributes.
    pub xattrs: Vec<Xattr>,
    /// Length of the content of a file in bytes.
    pub size: u64,
    /// Target of a symbolic link as it is, or name of the member that a hard link is a further name of.
    pub link: Option<Name>,
}

impl Meta {
    /// A file of this name and size, readable by its owner alone, with no time.
    pub fn file(name: impl AsRef<std::ffi::OsStr>, size: u64) -> Self {
        Self {
            name: Name::new(name),
            kind: Kind::File,
            mode: 0o600,
            mtime: Mtime::default(),
            atime: None,
            xattrs: Vec::new(),
            size,
            link: None,
        }
    }
}
