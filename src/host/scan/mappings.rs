//! What a process has mapped, from /proc/PID/maps.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::Kind;
use crate::procfs::{self, Mapping};

const DELETED: &[u8] = b" (deleted)";

/// Adds what `process`, its directory in procfs, has mapped.
pub(super) fn look(process: &Path, kinds: &mut BTreeSet<Kind>) {
    let maps = procfs::maps(process);
    kinds.extend(procfs::mappings(&maps).filter_map(|line| kind(&line)));
    add_wrong(process, &maps, kinds);
    // What may only be executed cannot be opened by CRIU either.
    if let Ok(program) = fs::read_link(process.join("exe"))
        && fs::metadata(process.join("exe")).is_ok_and(|metadata| metadata.is_file())
        && fs::File::open(process.join("exe")).is_err_and(|error| error.kind() == std::io::ErrorKind::PermissionDenied)
    {
        kinds.insert(Kind::Unreadable(program));
    }
}

/// Adds only what CRIU would save without an error and could not restore rightly.
pub(super) fn look_for_wrong(process: &Path, kinds: &mut BTreeSet<Kind>) {
    add_wrong(process, &procfs::maps(process), kinds);
}

fn add_wrong(process: &Path, maps: &[u8], kinds: &mut BTreeSet<Kind>) {
    add_memfds(process, maps, kinds);
    if has_asan(maps) {
        kinds.insert(Kind::AddressSanitizer);
    }
}

/// AddressSanitizer of gcc and clang keeps what it knows of the memory at a fixed place of x86-64. A restore dies of
/// SIGSEGV (seen of CRIU 4.2.1).
fn has_asan(maps: &[u8]) -> bool {
    maps.split(|byte| *byte == b'\n').any(|line| line.starts_with(b"7fff7000-"))
}

fn kind(line: &Mapping<'_>) -> Option<Kind> {
    if line.path.starts_with(b"anon_inode:[io_uring]") {
        return Some(Kind::IoUring);
    }
    let path = line.path.strip_suffix(DELETED)?;
    match path {
        // Memory that processes share has no file; the kernel calls it so. memfds have their own rule.
        b"/dev/zero" => None,
        _ if path.starts_with(b"/memfd:") => None,
        b"/[aio]" => Some(Kind::Aio),
        _ if path.starts_with(b"/SYSV") => Some(Kind::SysvShm),
        b"/secretmem" => Some(Kind::SecretMemory),
        // Huge pages without a file.
        _ if path.starts_with(b"/anon_hugepage") => None,
        _ => Some(Kind::DeletedMapping(PathBuf::from(OsStr::from_bytes(path)))),
    }
}

fn add_memfds(process: &Path, maps: &[u8], kinds: &mut BTreeSet<Kind>) {
    let mapped = shared_memfds(maps);
    if mapped.is_empty() {
        return;
    }
    let descriptors = fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
    let mut open = descriptors.filter(|descriptor| {
        let link = fs::read_link(descriptor.path()).unwrap_or_default();
        link.to_string_lossy().starts_with("/memfd:")
            && fs::metadata(descriptor.path()).is_ok_and(|metadata| mapped.contains(&metadata.ino()))
    });
    if open.next().is_some() {
        kinds.insert(Kind::Memfd);
    }
}

/// Inodes of the memfds that are mapped shared.
fn shared_memfds(maps: &[u8]) -> BTreeSet<u64> {
    procfs::mappings(maps)
        .filter(|line| line.shared && line.path.starts_with(b"/memfd:"))
        .map(|line| line.inode)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_shared_mappings_of_memfds_count() {
        let maps = b"7f0000000000-7f0000001000 rw-s 00000000 00:01 1042  /memfd:a b (deleted)\n\
                    7f0000001000-7f0000002000 rw-p 00000000 00:01 1043  /memfd:private (deleted)\n\
                    7f0000002000-7f0000003000 rw-s 00000000 00:19 7     /dev/shm/x\n\
                    7f0000003000-7f0000004000 rw-p 00000000 00:00 0\nnonsense\n";
        assert_eq!(shared_memfds(maps), BTreeSet::from([1042]));
        assert!(procfs::mappings(maps).all(|line| kind(&line).is_none()));
    }

    #[test]
    fn address_sanitizer_is_told_by_its_shadow() {
        let shadow = b"7ffe0000-7ffe1000 rw-p 00000000 00:00 0\n7fff7000-8fff7000 rw-p 00000000 00:00 0 \n";
        assert!(has_asan(shadow) && !has_asan(b"7fff70000000-7fff70001000 rw-p 00000000 00:00 0\n"));
    }

    #[test]
    fn each_deleted_mapping_is_of_its_kind() {
        let of = |path: &str| {
            let line = format!("7f00-7f01 rw-s 00000000 00:01 5                          {path}\n");
            procfs::mappings(line.as_bytes()).find_map(|line| kind(&line))
        };
        assert_eq!(of("/dev/zero (deleted)"), None);
        assert_eq!(of("/SYSV00000000 (deleted)"), Some(Kind::SysvShm));
        assert_eq!(of("/[aio] (deleted)"), Some(Kind::Aio));
        assert_eq!(of("anon_inode:[io_uring]"), Some(Kind::IoUring));
        assert_eq!(of("/job/a b (deleted)"), Some(Kind::DeletedMapping("/job/a b".into())));
        assert_eq!(of("/job/a b"), None);
    }
}
