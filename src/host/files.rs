//! The host's own files that a payload has mapped or open: programs and libraries above all. CRIU saves their names,
//! not their content, and restores only where it finds the same ones again. So a checkpoint names them, with what CRIU
//! will compare, and carries them where the next host may be another distribution.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use elf::ElfStream;
use elf::abi::PT_NOTE;
use elf::endian::AnyEndian;
use elf::note::Note;
use nix::sys::statfs::{self, FsType, statfs};
use serde::{Deserialize, Serialize};

use super::content;
use crate::procfs;
use crate::sandbox::OUR_ROOT;

/// What belongs to the payload, the kernel or us, and is not the host's.
const NOT_THE_HOSTS: [&str; 6] = ["/dev", "/proc", "/sys", "/tmp", "/var/tmp", OUR_ROOT];
/// Bytes; a larger file that is no program or library is data, and is named but not carried.
const DATA_MAX: u64 = 64 * 1024 * 1024;
/// File systems that the next host has too, or has not: a copy of theirs is not ours to carry. Lustre, GPFS, CephFS,
/// BeeGFS, AFS; statfs(2) and their own headers.
const SHARED: [u32; 5] = [0x0BD0_0BD0, 0x4750_4653, 0x00C3_6400, 0x1983_0326, 0x5346_414F];

/// Regular files of the host that the processes of `proc` (a mounted procfs) have mapped or open for reading; `job_dir`
/// is the job's own. Paths are as the processes see them.
pub fn used(proc: &Path, job_dir: &Path) -> BTreeSet<PathBuf> {
    let hosts = |path: &Path| {
        path.is_absolute() && !path.starts_with(job_dir) && !NOT_THE_HOSTS.iter().any(|place| path.starts_with(place))
    };
    let mut found = BTreeSet::new();
    // pid 1 is our init, which is not saved.
    for (_, process) in procfs::processes(proc).filter(|(pid, _)| *pid != 1) {
        found.extend(mapped(&procfs::maps(&process)).filter(|path| hosts(path)));
        let descriptors = fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
        for descriptor in descriptors {
            let Ok(path) = fs::read_link(descriptor.path()) else { continue };
            let regular = fs::metadata(descriptor.path()).is_ok_and(|metadata| metadata.is_file());
            if regular && hosts(&path) && read_only(&process, &descriptor.file_name()) {
                found.insert(path);
            }
        }
    }
    found
}

/// Regular files that the processes of `proc` have open so that CRIU compares their sizes, with one that has it. What
/// is only added to is not compared.
pub fn open(proc: &Path) -> Vec<(u32, PathBuf)> {
    let mut found = Vec::new();
    for (pid, process) in procfs::processes(proc).filter(|(pid, _)| *pid > 1) {
        for descriptor in fs::read_dir(process.join("fd")).into_iter().flatten().flatten() {
            let regular = fs::metadata(descriptor.path()).is_ok_and(|metadata| metadata.is_file());
            let only_added_to = flags(&process, &descriptor.file_name())
                .is_some_and(|flags| flags & (libc::O_ACCMODE | libc::O_APPEND) == libc::O_WRONLY | libc::O_APPEND);
            if let Some(path) = fs::read_link(descriptor.path()).ok().filter(|_| regular && !only_added_to) {
                found.push((pid, path));
            }
        }
    }
    found
}

/// The files that are mapped. What is deleted cannot be saved anyway.
fn mapped(maps: &[u8]) -> impl Iterator<Item = PathBuf> + '_ {
    let paths = procfs::mappings(maps).map(|mapping| mapping.path);
    let files = paths.filter(|path| path.starts_with(b"/") && !path.ends_with(b" (deleted)"));
    files.map(|path| PathBuf::from(std::ffi::OsStr::from_bytes(path)))
}

/// What is open for writing changes, and CRIU judges it.
fn read_only(process: &Path, descriptor: &std::ffi::OsStr) -> bool {
    flags(process, descriptor).is_some_and(|flags| flags & libc::O_ACCMODE == libc::O_RDONLY)
}

/// proc_pid_fdinfo(5): `flags` is octal; the lowest two bits are the access mode.
fn flags(process: &Path, descriptor: &std::ffi::OsStr) -> Option<i32> {
    let flags = procfs::field(&process.join("fdinfo").join(descriptor), "flags")?;
    i32::from_str_radix(&flags, 8).ok()
}

/// A file of the host, outside the carried directories.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostFile {
    /// As the payload sees it.
    #[serde(with = "crate::name::bytes")]
    pub path: PathBuf,
    /// Bytes.
    pub size: u64,
    /// Of its content, for what has no build id (`crate::host::content`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// The GNU build id in hex, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build_id: Option<String>,
    /// Whether the checkpoint carries it.
    pub carried: bool,
}

/// The file at `path` below `root`.
pub fn describe(root: &Path, path: &Path) -> io::Result<HostFile> {
    let full = below(root, path);
    let metadata = fs::metadata(&full)?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    let build_id = build_id(&full).ok().flatten();
    Ok(HostFile { path: path.to_path_buf(), size: metadata.size(), digest: None, build_id, carried: false })
}

/// `path` as it is reached through `root`.
pub fn below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

/// The GNU build id of an ELF file, in hex.
fn build_id(path: &Path) -> Result<Option<String>, elf::ParseError> {
    let mut file = ElfStream::<AnyEndian, _>::open_stream(File::open(path)?)?;
    let segments: Vec<_> = file.segments().iter().filter(|segment| segment.p_type == PT_NOTE).copied().collect();
    for segment in segments {
        for note in file.segment_data_as_notes(&segment)? {
            if let Note::GnuBuildId(id) = note {
                return Ok(Some(id.0.iter().map(|byte| format!("{byte:02x}")).collect()));
            }
        }
    }
    Ok(None)
}

/// How this host's file differs from the one that a checkpoint needs, if it does: by what CRIU compares.
pub fn difference(needed: &HostFile) -> Option<String> {
    match describe(Path::new("/"), &needed.path) {
        Err(_) => Some("which is not here".into()),
        Ok(found) if found.size != needed.size => {
            Some(format!("which has {} bytes here, not {}", found.size, needed.size))
        }
        Ok(found) if found.build_id != needed.build_id => Some("of which this host has another build".into()),
        Ok(_) => {
            let digest = needed.digest.as_ref()?;
            match File::open(&needed.path).and_then(|file| content::digest(&file)) {
                Ok(found) if found == *digest => None,
                Ok(_) => Some("which has another content here".into()),
                Err(error) => Some(format!("which cannot be read here: {error}")),
            }
        }
    }
}

/// Whether a file may be carried: a program or library, or data of a moderate size, on a file system of this host's
/// own.
pub fn may_be_carried(root: &Path, file: &HostFile) -> bool {
    let small = file.build_id.is_some() || file.size <= DATA_MAX;
    small && !on_shared_file_system(&below(root, &file.path))
}

fn on_shared_file_system(path: &Path) -> bool {
    let known = [statfs::NFS_SUPER_MAGIC, statfs::FUSE_SUPER_MAGIC, statfs::SMB_SUPER_MAGIC, statfs::CODA_SUPER_MAGIC];
    let shared = |kind: FsType| known.contains(&kind) || SHARED.contains(&(kind.0 as u32));
    statfs(path).is_ok_and(|found| shared(found.filesystem_type()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mapped_files_are_those_with_a_path_that_is_still_there() {
        let maps = b"55e0-55e1 r--p 00000000 fe:00 1234    /usr/bin/a b\n7f00-7f01 rw-p 0 00:00 0 \n\
                     7f01-7f02 r-xp 0 fe:00 9 /usr/lib/x (deleted)\n7fff-8000 r-xp 0 00:00 0   [vdso]\n";
        assert_eq!(mapped(maps).collect::<Vec<_>>(), [PathBuf::from("/usr/bin/a b")]);
    }

    #[test]
    fn a_program_of_this_host_is_what_it_is() {
        let sh = describe(Path::new("/"), &Path::new("/bin/sh").canonicalize().unwrap()).unwrap();
        assert!(sh.build_id.as_ref().is_some_and(|id| id.len() >= 16), "{sh:?}");
        assert_eq!(difference(&sh), None);
        assert!(may_be_carried(Path::new("/"), &sh));
        let other = HostFile { build_id: Some("00".into()), ..sh.clone() };
        assert!(difference(&other).unwrap().contains("another build"));
        let changed = HostFile { build_id: sh.build_id.clone(), digest: Some("00".into()), ..sh.clone() };
        assert!(difference(&changed).unwrap().contains("another content"));
        let gone = HostFile { path: "/nonexistent/x".into(), ..sh };
        assert!(difference(&gone).unwrap().contains("not here"));
    }

    #[test]
    fn this_process_s_own_libraries_are_found_where_proc_is_ours() {
        // /proc/self is of no number; a directory with one entry stands for a mounted procfs.
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/proc/self", dir.path().join("300")).unwrap();
        std::os::unix::fs::symlink("/proc/self", dir.path().join("1")).unwrap();
        let held = File::open("/etc/passwd").unwrap();
        let found = used(dir.path(), Path::new("/job"));
        drop(held);
        assert!(found.contains(Path::new("/etc/passwd")), "{found:?}");
        assert!(!found.iter().any(|path| path.starts_with("/proc") || path.starts_with("/dev")));
    }
}
