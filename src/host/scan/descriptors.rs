//! What a process has open, from /proc/PID/fd.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use nix::sys::statfs::statfs;

use super::Kind;
use crate::procfs;

/// Descriptors without a file that CRIU 4.2 saves without privilege (docs/measurements.md, "What CRIU saves without
/// privilege").
const KNOWN: [&str; 7] = ["[eventpoll]", "[eventfd]", "[signalfd]", "[timerfd]", "inotify", "[fanotify]", "[pidfd]"];
/// Protocols of sockets that it saves, as the kernel's socket file system names them (`system.sockprotoname`, a trusted
/// name of the kernel's own protocol structure).
const PROTOCOLS: [&str; 7] = ["TCP", "TCPv6", "UDP", "UDPv6", "UNIX", "UNIX-STREAM", "NETLINK"];
/// Majors of devices that have no state: memory devices (null, zero, random), terminals, and the slaves of
/// pseudo-terminals. Documentation/admin-guide/devices.txt
const STATELESS: [u64; 3] = [1, 4, 5];
const PTY_SLAVES: std::ops::RangeInclusive<u64> = 136..=143;

/// Adds what `process`, its directory in procfs, has open; calls `socket` with the inode of each socket.
pub(super) fn look(process: &Path, kinds: &mut BTreeSet<Kind>, mut socket: impl FnMut(u64)) {
    for entry in fs::read_dir(process.join("fd")).into_iter().flatten().flatten() {
        let Ok(link) = fs::read_link(entry.path()) else { continue };
        let name = link.to_string_lossy();
        if let Some(name) = name.strip_prefix("anon_inode:") {
            match name {
                "[eventfd]" if is_semaphore(process, &entry.file_name()) => drop(kinds.insert(Kind::SemaphoreEventfd)),
                "[io_uring]" => drop(kinds.insert(Kind::IoUring)),
                _ if KNOWN.contains(&name) => {}
                _ => drop(kinds.insert(Kind::Descriptor(name.trim_matches(['[', ']']).to_owned()))),
            }
        } else if let Some(inode) = name.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']')) {
            inode.parse().map(&mut socket).unwrap_or_default();
            if let Some(protocol) = protocol(&entry.path()).filter(|protocol| !PROTOCOLS.contains(&protocol.as_str())) {
                kinds.insert(Kind::Socket(protocol));
            }
        } else if name.starts_with('/') && is_device(&entry.path()) {
            kinds.insert(Kind::Device(link));
        } else if link.parent() == Some(Path::new("/")) && is_queue(&entry.path()) {
            kinds.insert(Kind::MessageQueue);
        }
    }
}

/// Adds eventfds with EFD_SEMAPHORE alone.
pub(super) fn look_for_semaphores(process: &Path, kinds: &mut BTreeSet<Kind>) {
    let mut descriptors = fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
    let found = descriptors.any(|entry| {
        fs::read_link(entry.path()).is_ok_and(|link| link == Path::new("anon_inode:[eventfd]"))
            && is_semaphore(process, &entry.file_name())
    });
    if found {
        kinds.insert(Kind::SemaphoreEventfd);
    }
}

/// proc_pid_fdinfo(5); kernels before 6.5 do not tell.
fn is_semaphore(process: &Path, descriptor: &OsStr) -> bool {
    procfs::number(&process.join("fdinfo").join(descriptor), "eventfd-semaphore") == Some(1)
}

/// Queues are in a file system of their own, whether or not it is mounted anywhere.
fn is_queue(link: &Path) -> bool {
    /// MQUEUE_MAGIC of the kernel's ipc/mqueue.c.
    const MAGIC: i64 = 0x1980_0202;
    statfs(link).is_ok_and(|found| found.filesystem_type().0 == MAGIC)
}

/// The protocol of a socket, by the link of its descriptor in procfs.
fn protocol(link: &Path) -> Option<String> {
    let mut name = [0; 64];
    let length = rustix::fs::getxattr(link, "system.sockprotoname", &mut name).ok()?;
    let name = name.get(..length)?.split(|byte| *byte == 0).next()?;
    Some(String::from_utf8_lossy(name).into_owned())
}

fn is_device(link: &Path) -> bool {
    let Ok(metadata) = fs::metadata(link) else { return false };
    let kind = metadata.file_type();
    let major = nix::sys::stat::major(metadata.rdev());
    kind.is_block_device() || (kind.is_char_device() && !STATELESS.contains(&major) && !PTY_SLAVES.contains(&major))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_descriptors_are_nothing_and_sockets_have_a_protocol() {
        let null = fs::File::open("/dev/null").unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let (mut kinds, mut sockets) = (BTreeSet::new(), 0);
        look(Path::new("/proc/self"), &mut kinds, |_| sockets += 1);
        let link = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&listener));
        assert_eq!(protocol(Path::new(&link)).as_deref(), Some("TCP"));
        assert!(sockets > 0);
        // Other tests of this process may have devices and namespaces open; what is here must not be among them.
        assert!(
            !kinds.contains(&Kind::Device("/dev/null".into()))
                && !kinds.iter().any(|kind| matches!(kind, Kind::Socket(_)))
        );
        drop((null, listener));
    }
}
