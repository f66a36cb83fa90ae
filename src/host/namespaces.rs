//! Why the kernel refuses user namespaces here: one errno has half a dozen causes, and an administrator needs the one
//! line that cures it.

use std::fs;
use std::path::{Path, PathBuf};

use crate::procfs;

/// A cause and its cure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// In plain words.
    pub why: String,
    /// Who does what.
    pub remedy: String,
}

/// Who masks `/proc`, and what undoes it.
pub const UNMASK: &str = "the administrator sets systempaths=unconfined (Docker, Podman) or procMount: Unmasked (Kubernetes); in Apptainer, \
                          leave out what is bound below /proc";

fn cause(why: &str, remedy: &str) -> Option<Cause> {
    Some(Cause { why: why.to_owned(), remedy: remedy.to_owned() })
}

/// What forbids new user namespaces, as far as this process can see it; the surest first.
pub fn forbidden_by() -> Option<Cause> {
    let number = |path: &str| fs::read_to_string(path).ok().and_then(|text| text.trim().parse::<u64>().ok());
    if number("/proc/sys/user/max_user_namespaces") == Some(0) {
        return cause(
            "user namespaces are switched off by sysctl user.max_user_namespaces = 0",
            "the administrator sets user.max_user_namespaces to 10000 or so, in /etc/sysctl.d",
        );
    }
    // Debian's and Ubuntu's kernels have it.
    if number("/proc/sys/kernel/unprivileged_userns_clone") == Some(0) {
        return cause(
            "user namespaces are switched off by sysctl kernel.unprivileged_userns_clone = 0",
            "the administrator sets kernel.unprivileged_userns_clone = 1, in /etc/sysctl.d",
        );
    }
    if in_chroot() {
        return cause(
            "this process runs in a chroot, in which the kernel refuses user namespaces",
            "whoever makes the chroot uses pivot_root(2) instead, as container runtimes do",
        );
    }
    if seccomp_filtered() {
        return cause(
            "a seccomp filter is active, as containers of Docker, Podman and Kubernetes have it",
            "the administrator starts the container with --security-opt seccomp=unconfined (Kubernetes: seccompProfile Unconfined)",
        );
    }
    if number("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == Some(1) {
        return cause(
            "AppArmor restricts user namespaces (Ubuntu from 23.10 on)",
            "the administrator sets kernel.apparmor_restrict_unprivileged_userns = 0, or gives condor-criu a profile with `userns,`",
        );
    }
    None
}

/// Whether the root directory is no mount point: only chroot(2) makes that.
fn in_chroot() -> bool {
    !has_root(&procfs::mount_points())
}

/// Nothing at all is what an unreadable /proc shows, and then nothing is known.
fn has_root(points: &[PathBuf]) -> bool {
    points.is_empty() || points.iter().any(|point| point == Path::new("/"))
}

/// Whether this process runs under a seccomp filter (proc_pid_status(5): mode 2).
pub fn seccomp_filtered() -> bool {
    procfs::number(Path::new("/proc/self/status"), "Seccomp") == Some(2)
}

/// What is mounted below `/proc` and hides parts of it: the kernel then refuses a fresh one.
pub fn masked_proc() -> Vec<String> {
    let points = procfs::mount_points().into_iter();
    // binfmt_misc is mounted on a directory that is made for it, which hides nothing.
    points
        .filter(|point| point.starts_with("/proc") && point != Path::new("/proc"))
        .filter(|point| !point.starts_with("/proc/sys/fs/binfmt_misc"))
        .map(|point| point.display().to_string())
        .collect()
}

/// What kind of container this is, if it is one.
pub fn container() -> Option<&'static str> {
    let there = |path: &str| fs::symlink_metadata(path).is_ok();
    let set = |name: &str| std::env::var_os(name).is_some();
    if there("/.singularity.d") || set("APPTAINER_CONTAINER") || set("SINGULARITY_CONTAINER") {
        Some("Apptainer")
    } else if there("/.dockerenv") {
        Some("Docker")
    } else if there("/run/.containerenv") {
        Some("Podman")
    } else if set("KUBERNETES_SERVICE_HOST") {
        Some("Kubernetes")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chroot_has_no_mount_at_its_root() {
        assert!(has_root(&["/".into(), "/proc".into()]) && has_root(&[]));
        assert!(!has_root(&["/proc".into()]));
        assert!(!in_chroot());
    }
}
