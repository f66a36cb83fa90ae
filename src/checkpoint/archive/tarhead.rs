//! Tar headers: what makes the archive a tar that other programs list.

use std::os::unix::ffi::OsStrExt;

use tar::{EntryType, Header};

use super::error::ArchiveError;
use super::index::{Kind, Mtime};
use crate::name::Name;

/// Size of a tar block in bytes; headers and contents are padded to it.
pub const BLOCK: usize = 512;

/// Zero bytes that pad `len` bytes of content to whole blocks.
pub fn padding(len: usize) -> usize {
    len.next_multiple_of(BLOCK) - len
}

/// What a header says.
#[derive(Clone, Copy)]
pub struct Head<'a> {
    /// Name of the tar member.
    pub name: &'a Name,
    /// What it is.
    pub kind: Kind,
    /// Permission bits.
    pub mode: u32,
    /// Time of last modification; tar gets whole seconds, and none before the epoch.
    pub mtime: Mtime,
    /// Length of what follows the header.
    pub size: u64,
    /// Target of a link.
    pub link: Option<&'a Name>,
}

/// Appends the header to `out`, before it those that carry a name or a target of more than 100 bytes (as GNU tar does).
pub fn write(head: &Head<'_>, out: &mut Vec<u8>) -> Result<(), ArchiveError> {
    let mut header = Header::new_gnu();
    header.set_entry_type(match head.kind {
        Kind::File => EntryType::Regular,
        Kind::Dir => EntryType::Directory,
        Kind::Symlink => EntryType::Symlink,
        Kind::Hardlink => EntryType::Link,
        Kind::Fifo => EntryType::Fifo,
    });
    header.set_mode(head.mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(u64::try_from(head.mtime.s).unwrap_or(0));
    header.set_size(head.size);
    let gnu = header.as_gnu_mut().ok_or_else(|| ArchiveError::bad("no GNU header"))?;
    if let Some(link) = head.link {
        field(&mut gnu.linkname, link.as_bytes(), EntryType::GNULongLink, out);
    }
    field(&mut gnu.name, head.name.as_bytes(), EntryType::GNULongName, out);
    header.set_cksum();
    out.extend_from_slice(header.as_bytes());
    Ok(())
}

/// Puts `value` into a field of a header; what does not fit goes in front, as the content of a header of its own.
fn field(slot: &mut [u8; 100], value: &[u8], kind: EntryType, out: &mut Vec<u8>) {
    let fits = value.len().min(slot.len());
    slot[..fits].copy_from_slice(&value[..fits]);
    if fits == value.len() {
        return;
    }
    let mut long = Header::new_gnu();
    if let Some(gnu) = long.as_gnu_mut() {
        gnu.name[..13].copy_from_slice(b"././@LongLink");
    }
    long.set_entry_type(kind);
    long.set_mode(0o644);
    long.set_uid(0);
    long.set_gid(0);
    long.set_mtime(0);
    // The content ends with a zero byte that counts.
    long.set_size(value.len() as u64 + 1);
    long.set_cksum();
    out.extend_from_slice(long.as_bytes());
    out.extend_from_slice(value);
    let end = out.len() + 1 + padding(value.len() + 1);
    out.resize(end, 0);
}

/// Name of a chunk of a large member: `images/pages-1.img/00000007`. Digits grow beyond eight where a member has more.
pub fn chunk_name(name: &Name, number: u32) -> Name {
    let mut path = name.as_path().as_os_str().to_os_string();
    path.push(format!("/{number:08}"));
    Name::new(std::ffi::OsStr::from_bytes(path.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_and_targets_are_read_back() {
        for length in [1, 99, 100, 101, 511, 512, 513, 3000] {
            let (name, link) = (Name::new("n".repeat(length)), Name::new("l".repeat(length)));
            let mtime = Mtime { s: 1_700_000_000, ns: 0 };
            let head = Head { name: &name, kind: Kind::Symlink, mode: 0o777, mtime, size: 0, link: Some(&link) };
            let mut bytes = Vec::new();
            write(&head, &mut bytes).unwrap();
            bytes.extend([0; 2 * BLOCK]);
            let mut archive = tar::Archive::new(&bytes[..]);
            let entry = archive.entries().unwrap().next().unwrap().unwrap();
            assert_eq!(&*entry.path_bytes(), name.as_bytes());
            assert_eq!(&*entry.link_name_bytes().unwrap(), link.as_bytes());
            assert_eq!(entry.header().mtime().unwrap(), 1_700_000_000);
        }
    }
}
