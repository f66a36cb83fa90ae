//! Mounts, one at a time: what the sandbox's root is made of.

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, open};
use nix::mount::{MsFlags, mount};
use nix::sys::stat::Mode;

use super::step::{StepFailed, io, step};

/// mount(2) without a source, a type or data.
pub(super) const NONE: Option<&str> = None;

pub(super) fn tmpfs(target: &Path, options: &str) -> Result<(), StepFailed> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    let what = format!("mount a tmpfs on {}", target.display());
    step(what, mount(Some("tmpfs"), target, Some("tmpfs"), flags, Some(options)))
}

pub(super) fn hold(path: &Path) -> Result<OwnedFd, StepFailed> {
    step(format!("open {}", path.display()), open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()))
}

pub(super) fn bind(source: &OwnedFd, target: &Path, what: &str) -> Result<(), StepFailed> {
    let source = PathBuf::from(format!("/proc/self/fd/{}", source.as_raw_fd()));
    step(what, mount(Some(&source), target, NONE, MsFlags::MS_BIND | MsFlags::MS_REC, NONE))
}

pub(super) fn directory(path: &Path) -> Result<(), StepFailed> {
    match fs::DirBuilder::new().mode(0o755).create(path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            step(format!("create {}", path.display()), io(Err(error)))
        }
        _ => Ok(()),
    }
}
