//! The index: what the archive knows of its members and frames, and the check that all its numbers agree.

use serde::{Deserialize, Serialize};

use super::codec::{Codec, Container};
use super::error::ArchiveError;
use super::filter::Filter;
use super::format::{Digest, MAX_FRAME, opening};
use crate::name::Name;

/// What a member is. There is no kind for devices and sockets: neither can travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A regular file, or an image of criu.
    File,
    /// A directory.
    Dir,
    /// A symbolic link; `link` is its target as it was.
    Symlink,
    /// A further name of a member; `link` is the name of that member.
    Hardlink,
    /// A named pipe.
    Fifo,
}

/// A time of last modification, or of last access.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mtime {
    /// Seconds since the epoch, before it negative.
    pub s: i64,
    /// Nanoseconds, below 1,000,000,000.
    pub ns: u32,
}

impl From<(i64, u32)> for Mtime {
    fn from((s, ns): (i64, u32)) -> Mtime {
        Mtime { s, ns }
    }
}

/// A piece of a member's content, in the order of the content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Extent {
    /// Bytes of a frame.
    Data {
        /// Number of the frame, counted from 0 in the order of the file.
        frame: u32,
        /// Where the bytes begin in the decoded frame.
        at: u32,
        /// How many bytes.
        len: u32,
    },
    /// A hole, or zeros: nothing is stored.
    Zero {
        /// How many zero bytes.
        zero: u64,
    },
}

impl Extent {
    /// Bytes of content that this stands for.
    pub fn content(&self) -> u64 {
        match self {
            Self::Data { len, .. } => u64::from(*len),
            Self::Zero { zero } => *zero,
        }
    }
}

/// One member, as the index knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its name.
    pub name: Name,
    /// What it is.
    pub kind: Kind,
    /// Permission bits, setuid, setgid and sticky included.
    pub mode: u32,
    /// Time of last modification.
    pub mtime: Mtime,
    /// Time of last access, if it is another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub atime: Option<Mtime>,
    /// Extended attributes, POSIX ACLs among them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub xattrs: Vec<Xattr>,
    /// Length of its content in bytes.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub size: u64,
    /// Target of a link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<Name>,
    /// Its content.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub extents: Vec<Extent>,
}

/// An extended attribute. Its value is written as names are: text where it is UTF-8, hexadecimal where it is not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Xattr {
    /// As xattr(7) has it: `user.origin`, `system.posix_acl_access`.
    pub name: Name,
    /// Its bytes.
    pub value: Name,
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// One frame. Where it begins is the sum of the lengths before it: frames lie end to end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frame {
    /// Stored length in bytes.
    pub stored: u32,
    /// Decoded length in bytes, a piece of the tar.
    pub decoded: u32,
    /// How it is stored.
    pub codec: Codec,
    /// What was done to a range of it before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<Filter>,
    /// blake3 of the stored bytes.
    pub blake3: Digest,
}

/// The index, as JSON in the member [`INDEX`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Index {
    /// The frames from the opening to the index, in the order of the file.
    pub frames: Vec<Frame>,
    /// The members.
    pub members: Vec<Member>,
}

impl Index {
    /// Compares all numbers with each other and with where the index begins, so that nothing that follows them can
    /// leave the file, a frame, or the bounds of memory.
    pub fn check(&self, container: Container, index_at: u64) -> Result<(), ArchiveError> {
        let damaged = |what: String| Err(ArchiveError::Damaged { what });
        let mut end = opening(container).len() as u64;
        for (number, frame) in self.frames.iter().enumerate() {
            if frame.decoded > MAX_FRAME || frame.stored > 2 * MAX_FRAME || frame.stored == 0 {
                return damaged(format!("frame {number} claims {} bytes, decoded {}", frame.stored, frame.decoded));
            }
            if frame.filter.is_some_and(|filter| !filter.fits(frame.decoded)) {
                return damaged(format!("frame {number} has an impossible filter"));
            }
            end += u64::from(frame.stored);
        }
        if end != index_at {
            return damaged(format!("the frames end at byte {end} and the index begins at {index_at}"));
        }
        for member in &self.members {
            self.check_member(member).or_else(|what| damaged(format!("member {:?}: {what}", member.name)))?;
        }
        Ok(())
    }

    fn check_member(&self, member: &Member) -> Result<(), String> {
        member.name.check()?;
        match (member.kind, &member.link) {
            (Kind::Hardlink, Some(link)) => link.check()?,
            (Kind::Symlink, Some(_)) | (Kind::File | Kind::Dir | Kind::Fifo, None) => {}
            _ => return Err("a link without target, or a target without link".into()),
        }
        if member.mode > 0o7777
            || [Some(member.mtime), member.atime].iter().flatten().any(|time| time.ns >= 1_000_000_000)
        {
            return Err("mode or time is out of range".into());
        }
        if member.kind != Kind::File && (member.size != 0 || !member.extents.is_empty()) {
            return Err("it is no file and has content".into());
        }
        let mut size = 0_u64;
        for extent in &member.extents {
            if let Extent::Data { frame, at, len } = *extent {
                let decoded = self.frames.get(frame as usize).map_or(0, |frame| frame.decoded);
                if at.checked_add(len).is_none_or(|end| end > decoded) {
                    return Err(format!("bytes {at}+{len} are not in frame {frame}"));
                }
            }
            size = size.checked_add(extent.content()).ok_or("its size overflows")?;
        }
        // Offsets in a file are signed in the kernel; no member may be longer.
        if size != member.size || i64::try_from(size).is_err() {
            return Err(format!("its size is {} and its pieces add up to {size}", member.size));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_indexes_are_refused() {
        let start = opening(Container::Zstd).len() as u64;
        let frame = Frame { stored: 100, decoded: 1000, codec: Codec::Zstd, filter: None, blake3: Digest::of(b"") };
        let member = Member {
            name: Name::new("a"),
            kind: Kind::File,
            mode: 0o644,
            mtime: Mtime::default(),
            atime: None,
            xattrs: vec![],
            size: 10,
            link: None,
            extents: vec![Extent::Data { frame: 0, at: 512, len: 10 }],
        };
        let check = |frame: &Frame, member: &Member| {
            let index = Index { frames: vec![frame.clone()], members: vec![member.clone()] };
            index.check(Container::Zstd, start + u64::from(frame.stored)).is_ok()
        };
        assert!(check(&frame, &member));
        assert!(!check(&Frame { decoded: MAX_FRAME + 1, ..frame.clone() }, &member));
        assert!(!check(&Frame { stored: 2 * MAX_FRAME + 1, ..frame.clone() }, &member));
        assert!(!check(&Frame { stored: 0, ..frame.clone() }, &member));
        let filter = Some(Filter { elem: 8, delta: false, at: 512, len: 800 });
        assert!(!check(&Frame { filter, ..frame.clone() }, &member));
        let zeros = vec![Extent::Zero { zero: u64::MAX }, Extent::Zero { zero: 11 }];
        for bad in [
            Member { name: Name::new("../a"), ..member.clone() },
            Member { size: 11, ..member.clone() },
            Member { mode: 0o10000, ..member.clone() },
            Member { mtime: Mtime { s: 0, ns: 1_000_000_000 }, ..member.clone() },
            Member { kind: Kind::Dir, ..member.clone() },
            Member { kind: Kind::Symlink, size: 0, extents: vec![], ..member.clone() },
            Member { link: Some(Name::new("b")), ..member.clone() },
            Member { extents: vec![Extent::Data { frame: 1, at: 0, len: 10 }], ..member.clone() },
            Member { extents: vec![Extent::Data { frame: 0, at: 991, len: 10 }], ..member.clone() },
            Member { extents: vec![Extent::Data { frame: 0, at: u32::MAX, len: 10 }], ..member.clone() },
            Member { extents: zeros, ..member.clone() },
            Member { size: 1 << 63, extents: vec![Extent::Zero { zero: 1 << 63 }], ..member.clone() },
        ] {
            assert!(!check(&frame, &bad), "{bad:?}");
        }
        let escape = Some(Name::new("../../etc/passwd"));
        let link = Member { kind: Kind::Hardlink, size: 0, extents: vec![], link: escape, ..member.clone() };
        assert!(!check(&frame, &link));
    }
}
