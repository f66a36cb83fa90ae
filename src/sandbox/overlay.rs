//! The host's files that a checkpoint brings, at their paths inside the sandbox. Each is bound over what this host has
//! instead. Where the host has nothing of that name, an overlay without an upper layer lays it over the whole top-level
//! directory. Nothing of it is seen outside.

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use nix::mount::{MsFlags, mount};

use super::mounting::{bind, directory, hold};
use super::step::{StepFailed, step};
use crate::procfs;

/// Lays `paths`, absolute as the payload sees them, from below `source` into the root that is being made.
pub(super) fn lay(root: &Path, source: &OwnedFd, paths: &[PathBuf]) -> Result<(), StepFailed> {
    let source = PathBuf::from(format!("/proc/self/fd/{}", source.as_raw_fd()));
    let mut by_top: BTreeMap<PathBuf, Vec<PathBuf>> = BTreeMap::new();
    for path in paths {
        let relative: PathBuf = path.components().filter(|part| matches!(part, Component::Normal(_))).collect();
        if let Some(top) = relative.components().next() {
            by_top.entry(PathBuf::from(top.as_os_str())).or_default().push(relative);
        }
    }
    for (top, relative) in by_top {
        let (from, to) = (source.join(&top), root.join(&top));
        if !to.exists() {
            directory(&to)?;
            bind(&hold(&from)?, &to, &format!("bind /{}", top.display()))?;
        } else if relative.iter().all(|path| root.join(path).is_file()) {
            for path in relative {
                bind(&hold(&source.join(&path))?, &root.join(&path), &format!("bind /{}", path.display()))?;
            }
        } else {
            overlay(&top, &from, &to)?;
        }
    }
    Ok(())
}

/// `from` over what `to` shows. xino makes maps and stat(2) name the same device, without which CRIU cannot save again
/// (docs/measurements.md, "Overlays").
fn overlay(top: &Path, from: &Path, to: &Path) -> Result<(), StepFailed> {
    let below = submounts(to);
    let (upper, lower) = (hold(from)?, hold(to)?);
    // By descriptor: a path may have the colon that separates layers.
    let layers = format!("lowerdir=/proc/self/fd/{}:/proc/self/fd/{}", upper.as_raw_fd(), lower.as_raw_fd());
    let options = format!("{layers},xino=on,userxattr");
    let what =
        format!("lay the checkpoint's files over /{} (overlayfs in a user namespace needs Linux 5.11)", top.display());
    step(what, mount(Some("overlay"), to, Some("overlay"), MsFlags::MS_RDONLY, Some(options.as_str())))?;
    // A layer shows one file system; what was mounted below it is bound again.
    for (path, held) in below {
        if let Ok(held) = held {
            let _ = bind(&held, &path, "bind a mount again");
        }
    }
    Ok(())
}

/// Mount points below `to`, parents first, held open.
fn submounts(to: &Path) -> Vec<(PathBuf, Result<OwnedFd, StepFailed>)> {
    let points = procfs::mount_points();
    let mut below: Vec<PathBuf> = points.into_iter().filter(|point| point.starts_with(to) && point != to).collect();
    below.sort();
    below.dedup();
    below.into_iter().map(|path| (path.clone(), hold(&path))).collect()
}
