//! From a checkpoint to files in place, ready for criu: the first half of a restore. The second is the supervisor's.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::save::{IMAGES, REAPER, SHM, WORK};
use super::streams;
use crate::checkpoint::archive::{ArchiveError, ExtractOptions, Reader, extract};
use crate::checkpoint::{Inputs, Manifest, NotCarried, inventory, manifest};
use crate::exit::{Exit, Failure};

/// A checkpoint that has been opened and understood.
pub struct Opened {
    /// The archive.
    pub reader: Reader,
    /// What it says of itself.
    pub manifest: Manifest,
    /// The reaper that its tree was started with.
    pub reaper: Vec<u8>,
}

/// What unpacking found.
pub struct Unpacked {
    /// The inputs, as they are on this host.
    pub inputs: Inputs,
}

/// Opens the checkpoint at `path`; `None` if there is none yet: no file, or an empty one.
pub fn open(path: &Path) -> Result<Option<Opened>, Failure> {
    if !path.metadata().is_ok_and(|metadata| metadata.len() > 0) {
        return Ok(None);
    }
    let refused = |error| archive_failure(path, &error);
    let reader = match Reader::open(path) {
        Err(ArchiveError::Empty) => return Ok(None),
        opened => opened.map_err(refused)?,
    };
    let manifest = parse_manifest(&what(path), reader.manifest())?;
    let mut reaper = Vec::new();
    reader.copy_to(REAPER, &mut reaper).map_err(refused)?;
    Ok(Some(Opened { reader, manifest, reaper }))
}

fn what(path: &Path) -> String {
    format!("cannot use the checkpoint {}", path.display())
}

/// An archive that cannot be read: by this version or on this host (then elsewhere), or not at all.
fn archive_failure(path: &Path, error: &ArchiveError) -> Failure {
    let failure = Failure::start(what(path), error);
    match error {
        ArchiveError::NewerFormat { .. } => failure
            .with_remedy("use the condor-criu that wrote it, or a newer one; the checkpoint is left as it was")
            .with_exit(Exit::CannotRestoreHere),
        ArchiveError::Io { .. } => failure.with_exit(Exit::CannotRestoreHere),
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

/// Reads a manifest, refusing a newer one by its number before its shape is looked at.
pub fn parse_manifest(what: &str, bytes: &[u8]) -> Result<Manifest, Failure> {
    let value: serde_json::Value = serde_json::from_slice(bytes)
        .map_err(|error| Failure::start(what, format!("its manifest is no JSON: {error}")))?;
    let format = value.get("format").and_then(serde_json::Value::as_u64).unwrap_or(0);
    if format > u64::from(manifest::FORMAT) {
        let why = format!("it has format {format}; this condor-criu knows formats up to {}", manifest::FORMAT);
        return Err(Failure::start(what, why)
            .with_remedy("use the condor-criu that wrote it, or a newer one; the checkpoint is left as it was")
            .with_exit(Exit::CannotRestoreHere));
    }
    serde_json::from_value(value).map_err(|error| Failure::start(what, format!("its manifest is not whole: {error}")))
}

/// Why this host cannot restore it, if it cannot: the identity's part. Processors and kernels are another's.
pub fn refusal(manifest: &Manifest, groups: &[u32]) -> Option<String> {
    // Groups that the sandbox does not map all read as the overflow gid, so that only their number can differ.
    (manifest.identity.groups.len() != groups.len()).then(|| {
        format!(
            "the job's user had {} supplementary groups where the checkpoint was made and has {} here",
            manifest.identity.groups.len(),
            groups.len()
        )
    })
}

/// Puts every file back: the scratch directory, `/dev/shm` and criu's images.
pub fn unpack(
    opened: &Opened,
    checkpoint: &Path,
    scratch: &Path,
    not_carried: &NotCarried,
    shm: &Path,
    images: &Path,
    threads: usize,
) -> Result<Unpacked, Failure> {
    let manifest = &opened.manifest;
    let carried: BTreeSet<PathBuf> = opened
        .reader
        .members()
        .filter_map(|member| member.name.as_path().strip_prefix(WORK).ok().map(Path::to_path_buf))
        .collect();
    let removed = inventory::remove_unknown(scratch, not_carried, &carried, &manifest.inputs)
        .map_err(|error| here(format!("cannot remove what came after the checkpoint: {error}")))?;
    if !removed.is_empty() {
        tracing::info!(count = removed.len(), first = %removed[0].display(), "removed what was written after the checkpoint");
    }
    let inputs = Inputs::of_checkpoint(scratch, &manifest.inputs).map_err(here)?;
    // The payload's own links are restored as they were; they are followed only by the payload, in its sandbox.
    let options = ExtractOptions { threads, any_symlink: true, ..ExtractOptions::default() };
    for (prefix, into) in [(WORK, scratch), (SHM, shm), (IMAGES, images)] {
        let directory = File::open(into).map_err(|error| here(format!("cannot open {}: {error}", into.display())))?;
        extract::extract(&opened.reader, prefix, directory.as_fd(), &options)
            .map_err(|error| archive_failure(checkpoint, &error))?;
    }
    // criu is told not to insist; a program that looks finds what it knew, where the directory is the job's own.
    if let Err(error) = fs::set_permissions(scratch, fs::Permissions::from_mode(manifest.job_dir_mode & 0o777)) {
        tracing::debug!("the scratch directory keeps its mode: {error}");
    }
    let missing = streams::cut_back(&manifest.streams, scratch)
        .map_err(|error| here(format!("cannot cut back the output: {error}")))?;
    for (path, bytes) in missing {
        tracing::warn!("{} is {bytes} bytes shorter than when the checkpoint was made", path.display());
    }
    Ok(Unpacked { inputs })
}
