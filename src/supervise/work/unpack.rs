//! From a checkpoint to files in place, ready for criu: the first half of a restore. The second is the supervisor's.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use crate::checkpoint::archive::extract::{self, Existing, ExtractOptions, Later};
use crate::checkpoint::archive::{ArchiveError, Reader};
use crate::checkpoint::manifest::Inner;
use crate::checkpoint::streaming::ArchiveSource;
use crate::checkpoint::tree::Tree;
use crate::checkpoint::{Inputs, Manifest, NotCarried, inventory, manifest};
use crate::criu::features::Feature;
use crate::criu::images::Rewrite;
use crate::criu::owners::Owner;
use crate::criu::stream::{Cancel, Hold, Serve, StreamError};
use crate::exit::{Exit, Failure};
use crate::host::{kernel, limits};
use crate::supervise::work::checkpoint_file::{CALLS, COMPAT, HELPER_MAX, REAPER, SHM, WORK};
use crate::supervise::work::open_beneath;
use crate::supervise::work::stdio;

/// A checkpoint that has been opened and understood.
pub struct Opened {
    /// The archive.
    pub reader: Reader,
    /// What it says of itself.
    pub manifest: Manifest,
    /// The reaper that its tree was started with.
    pub reaper: Vec<u8>,
    /// The compatibility helper that its programs have mapped, if they have one.
    pub compat: Option<Vec<u8>>,
    /// The system calls that the dump interrupted.
    pub calls: Option<Vec<u8>>,
}

/// What unpacking found.
pub struct Unpacked {
    /// The inputs, as they are on this host.
    pub inputs: Inputs,
    /// What is left to do after criu.
    pub finish: Finish,
}

/// Opens the checkpoint at `path`; `None` if there is none yet: no file, or an empty one.
pub fn open(path: &Path) -> Result<Option<Opened>, Failure> {
    if !path.metadata().is_ok_and(|metadata| metadata.len() > 0) {
        return Ok(None);
    }
    let refused = |error| unusable(path, &error);
    let reader = match Reader::open(path) {
        Err(ArchiveError::Empty) => return Ok(None),
        opened => opened.map_err(refused)?,
    };
    let manifest = manifest::parse(&what(path), reader.manifest())?;
    let helper = |name: &str| {
        if reader.get(name).is_some_and(|member| member.size > HELPER_MAX) {
            return Err(Failure::start(what(path), format!("{name} in it is larger than any of ours")));
        }
        let mut bytes = Vec::new();
        reader.copy_to(name, &mut bytes).map_err(refused)?;
        Ok(bytes)
    };
    let reaper = helper(REAPER)?;
    let compat = reader.get(COMPAT).map(|_| helper(COMPAT)).transpose()?;
    let calls = reader.get(CALLS).map(|_| helper(CALLS)).transpose()?;
    Ok(Some(Opened { reader, manifest, reaper, compat, calls }))
}

/// What fails if this checkpoint does.
pub fn what(path: &Path) -> String {
    format!("cannot use the checkpoint {}", path.display())
}

/// An archive that cannot be read: by this version or on this host (then elsewhere), or not at all.
pub fn unusable(path: &Path, error: &ArchiveError) -> Failure {
    let failure = Failure::start(what(path), error);
    match error {
        ArchiveError::NewerFormat { .. } => failure
            .with_remedy("use the condor-criu that wrote it, or a newer one; the checkpoint is left as it was")
            .with_exit(Exit::CannotRestoreHere),
        ArchiveError::Io { .. } => failure
            .with_remedy("the checkpoint is left as it was; let the job run on another host")
            .with_exit(Exit::CannotRestoreHere),
        _ => failure.with_remedy(
            "the file is left as it was; take it away to start from the beginning, or put back a copy that is whole",
        ),
    }
}

/// A failure of this host, which another may not have.
fn here(why: impl std::fmt::Display) -> Failure {
    Failure::start("cannot restore on this host", why)
        .with_remedy("the checkpoint is intact; let the job run on another host")
        .with_exit(Exit::CannotRestoreHere)
}

/// What has to differ in the images on this host, which has these groups and this kernel.
pub fn rewrite(manifest: &Manifest, groups: &[u32], release: &str) -> Rewrite {
    let here = limits::here();
    Rewrite {
        groups: (manifest.identity.groups != groups).then(|| groups.to_vec()),
        undrop: kernel::lacks(release, Feature::DroppableMemory),
        unguard: kernel::lacks(release, Feature::StackGuards),
        limits: (!limits::lowered(&manifest.limits, &here).is_empty()).then(|| limits::in_order(&here)),
    }
}

/// A restore that is being served: criu asks, the archive answers.
pub struct Serving {
    cancel: Cancel,
    hold: Cancel,
    thread: JoinHandle<Result<(), StreamError>>,
}

impl Serving {
    /// Listens for criu, which may be started after this. `broken` is called if the images cannot be given: criu may
    /// then wait for ever. `held` is called when everything has been restored and nothing runs yet.
    pub fn begin(
        opened: Arc<Opened>,
        images: &Path,
        rewrite: Rewrite,
        threads: usize,
        broken: impl FnOnce() + Send + 'static,
        held: impl FnOnce() + Send + 'static,
    ) -> Result<Serving, Failure> {
        let waits = Hold::listen(images).map_err(here)?;
        let hold = waits.cancel_handle();
        let waiter = std::thread::Builder::new().name("held".into());
        waiter.spawn(move || drop(waits.wait(held))).map_err(here)?;
        let serve = Serve::listen(images).map_err(here)?;
        let cancel = serve.cancel_handle();
        let thread = std::thread::Builder::new().name("serve".into()).spawn(move || {
            let Inner { uid: user, gid: group, .. } = opened.manifest.identity;
            let (archive, locks) = (&opened.reader, &opened.manifest.locks);
            let result = serve.run(&ArchiveSource { archive, rewrite, locks, owner: Owner { user, group }, threads });
            if result.is_err() {
                broken();
            }
            result.map(drop)
        });
        Ok(Serving { cancel, hold, thread: thread.map_err(here)? })
    }

    /// After criu's end: why the images could not be given, if so.
    pub fn end(self, checkpoint: &Path) -> Option<Failure> {
        self.cancel.cancel();
        self.hold.cancel();
        let error = self.thread.join().ok()?.err()?;
        match &error {
            StreamError::Cancelled => None,
            StreamError::Image { source, .. } => {
                let damage = source.get_ref().and_then(|inner| inner.downcast_ref::<ArchiveError>());
                Some(damage.map_or_else(|| here(&error), |damage| unusable(checkpoint, damage)))
            }
            _ => Some(here(&error)),
        }
    }
}

/// What belongs to a restore that is under way in the scratch directory and in `/dev/shm`.
pub struct Places<'a> {
    /// The scratch directory on this host.
    pub scratch: &'a Path,
    /// Which of its entries stay out.
    pub not_carried: &'a NotCarried,
    /// The sandbox's `/dev/shm`.
    pub shm: &'a Path,
    /// Whether the checkpoint is known to be this user's: then setuid bits and ACLs come back too.
    pub ours: bool,
    /// Threads that write.
    pub threads: usize,
}

/// Puts every file back: the scratch directory and `/dev/shm`.
pub fn unpack(opened: &Opened, checkpoint: &Path, places: &Places<'_>) -> Result<Unpacked, Failure> {
    let Places { scratch, not_carried, shm, .. } = *places;
    let manifest = &opened.manifest;
    let carried: BTreeSet<PathBuf> = opened
        .reader
        .members()
        .filter_map(|member| member.name.as_path().strip_prefix(WORK).ok().map(Path::to_path_buf))
        .collect();
    let gone = manifest.removed.iter().map(|name| name.as_path().to_path_buf()).collect();
    let removed = inventory::remove_unknown(scratch, not_carried, &carried, &manifest.inputs, &gone)
        .map_err(|error| here(format!("cannot remove what came after the checkpoint: {error}")))?;
    if let Some(first) = removed.first() {
        tracing::info!(count = removed.len(), first = %first.display(), "removed what was written after the checkpoint");
    }
    let inputs = Inputs::of_checkpoint(scratch, &manifest.inputs, &(&carried | &gone)).map_err(here)?;
    // The payload's own links are restored as they were; they are followed only by the payload, in its sandbox.
    let options = ExtractOptions {
        existing: Existing::Reuse,
        keep_special_bits: places.ours,
        any_symlink: true,
        leave_open: true,
        threads: places.threads,
    };
    let mut settled = Vec::new();
    for (prefix, into) in [(WORK, scratch), (SHM, shm)] {
        let directory = File::open(into).map_err(|error| here(format!("cannot open {}: {error}", into.display())))?;
        let extracted = extract::extract(&opened.reader, prefix, directory.as_fd(), &options)
            .map_err(|error| unusable(checkpoint, &error))?;
        settled.push(extracted.later);
    }
    let missing = stdio::cut_back(&manifest.streams, scratch)
        .map_err(|error| here(format!("cannot cut back the output: {error}")))?;
    for (path, bytes) in missing {
        tracing::warn!("{} is {bytes} bytes shorter than when the checkpoint was made", path.display());
    }
    Tree::open(scratch)
        .and_then(|mut tree| {
            open_beneath::link_streams(&mut tree, &manifest.streams)?;
            open_beneath::make_sockets(&mut tree, WORK, &manifest.sockets)?;
            open_beneath::make_sockets(&mut Tree::open(shm)?, SHM, &manifest.sockets)
        })
        .map_err(|error| here(format!("cannot make a further name or a socket: {error}")))?;
    Ok(Unpacked {
        inputs,
        finish: Finish { scratch: scratch.to_path_buf(), mode: manifest.job_dir_mode & 0o777, settled },
    })
}

/// What is left to do for the files when criu has restored the tree: criu makes and removes names of its own in the
/// payload's directories, which moves their times.
#[derive(Debug, Default)]
pub struct Finish {
    scratch: PathBuf,
    mode: u32,
    /// Of the scratch directory and of `/dev/shm`.
    settled: Vec<Vec<Later>>,
}

impl Finish {
    /// Gives modes and times once more, while the tree is still held: a payload that runs would see the times change.
    pub fn finish_files(self, shm: &Path) {
        for (into, later) in [self.scratch.as_path(), shm].into_iter().zip(&self.settled) {
            let Ok(mut tree) = Tree::open(into) else { continue };
            match extract::settle(later, &mut tree) {
                0 => {}
                count => tracing::warn!("{count} files or directories in {} keep another mode or time", into.display()),
            }
        }
        // criu is told not to insist; a program that looks finds what it knew, where the directory is the job's own.
        if !self.scratch.as_os_str().is_empty()
            && let Err(error) = fs::set_permissions(&self.scratch, fs::Permissions::from_mode(self.mode))
        {
            tracing::debug!("the scratch directory keeps its mode: {error}");
        }
    }
}
