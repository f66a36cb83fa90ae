//! What CRIU would save without an error and restore wrongly: found before a dump, and refused.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Why the processes that `proc` (a mounted procfs) shows must not be dumped, if so. pid 1, our init, is left out.
pub fn wrong_if_restored(proc: &Path) -> Option<String> {
    for entry in fs::read_dir(proc).ok()?.flatten() {
        let pid: Option<u32> = entry.file_name().to_str().and_then(|name| name.parse().ok());
        let Some(pid) = pid.filter(|pid| *pid != 1) else { continue };
        let maps = fs::read_to_string(entry.path().join("maps")).unwrap_or_default();
        let mapped = shared_memfds(&maps);
        if mapped.is_empty() {
            continue;
        }
        let descriptors = fs::read_dir(entry.path().join("fd")).into_iter().flatten().flatten();
        let mut open = descriptors.filter(|descriptor| {
            let link = fs::read_link(descriptor.path()).unwrap_or_default();
            link.to_string_lossy().starts_with("/memfd:")
                && fs::metadata(descriptor.path()).is_ok_and(|metadata| mapped.contains(&metadata.ino()))
        });
        if open.next().is_some() {
            let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            return Some(format!(
                "process {pid} ({}) maps a memfd whose descriptor is still open; CRIU would restore two memories that are no \
                 longer the same",
                name.trim()
            ));
        }
    }
    None
}

/// Inodes of the memfds that are mapped shared, from the text of /proc/PID/maps (proc_pid_maps(5)): address, permissions, offset,
/// device, inode, path.
fn shared_memfds(maps: &str) -> BTreeSet<u64> {
    let inode = |line: &str| {
        let mut fields = line.split_ascii_whitespace();
        let permissions = fields.nth(1)?;
        let inode = fields.nth(2)?.parse().ok()?;
        (permissions.ends_with('s') && fields.next()?.starts_with("/memfd:")).then_some(inode)
    };
    maps.lines().filter_map(inode).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_shared_mappings_of_memfds_count() {
        let maps = "7f0000000000-7f0000001000 rw-s 00000000 00:01 1042  /memfd:a b (deleted)\n\
                    7f0000001000-7f0000002000 rw-p 00000000 00:01 1043  /memfd:private (deleted)\n\
                    7f0000002000-7f0000003000 rw-s 00000000 00:19 7     /dev/shm/x\n\
                    7f0000003000-7f0000004000 rw-p 00000000 00:00 0\nnonsense\n";
        assert_eq!(shared_memfds(maps), BTreeSet::from([1042]));
    }
}
