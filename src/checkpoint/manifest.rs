//! What a checkpoint says of itself: the member `manifest.json`. It is written last, in the same commit as all the
//! rest, and whoever restores reads it first.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::archive::Name;
use crate::clock::Boot;
use crate::criu::features::Feature;
use crate::criu::locks::Lock;
use crate::exit::{Ended, Exit, Failure};
use crate::host::cpu::Xsave;
use crate::host::files::HostFile;
use crate::host::limits::Limits;
use crate::sandbox::{ClockReadings, Network};

/// Raised when an older condor-criu could not restore what a newer one writes.
pub const FORMAT: u32 = 1;

/// Why a checkpoint was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The interval has passed.
    Interval,
    /// HTCondor wants the slot back.
    Vacate,
    /// A checkpoint-and-continue signal.
    Signal,
    /// The slot or the pilot is known to end soon.
    Deadline,
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Reason::Interval => "interval",
            Reason::Vacate => "vacate",
            Reason::Signal => "signal",
            Reason::Deadline => "deadline",
        })
    }
}

/// The manifest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// See [`FORMAT`].
    pub format: u32,
    /// 1 for the first checkpoint of a job.
    pub generation: u64,
    /// Seconds since the epoch.
    pub created: f64,
    /// Why.
    pub reason: Reason,
    /// `cluster.proc`, if HTCondor said so.
    pub job: Option<String>,
    /// Whose job it is (`User` of the job ad), if HTCondor said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// In which attempt, as HTCondor counts them (`NumJobCompletions`).
    #[serde(default)]
    pub attempt: i64,
    /// Name of the program, without its arguments, which may hold secrets.
    pub program: String,
    /// Our version.
    pub condor_criu: String,
    /// What it was made with and on.
    pub host: Host,
    /// Who the payload is.
    pub identity: Inner,
    /// The payload's clocks when it was frozen.
    pub clock: ClockReadings,
    /// Where the scratch directory is inside the sandbox.
    pub job_dir: PathBuf,
    /// Its permission bits.
    pub job_dir_mode: u32,
    /// See [`Network`].
    pub network: Network,
    /// Pids inside the sandbox.
    pub tree: Tree,
    /// Standard streams that are files in the scratch directory, with their sizes in bytes at the checkpoint.
    pub streams: Vec<StreamFile>,
    /// Named pipes that stand for standard streams which are no files, by descriptor.
    pub relayed: Vec<u8>,
    /// Those of them whose end to read from the reaper holds; none before version 0.2.0.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub readers: Vec<u8>,
    /// Files that the job was given and has not changed: not carried, because HTCondor brings them again.
    pub inputs: Vec<Input>,
    /// Hidden files at the top of the scratch directory that had been there and are gone: should HTCondor bring one
    /// again, it goes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub removed: Vec<Name>,
    /// Names of unix sockets, with their modes: also of those that nobody listens on any more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sockets: Vec<Socket>,
    /// Bytes of all files in the archive but criu's images, holes included: what unpacking makes, and no more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unpacked_bytes: Option<u64>,
    /// Record locks, which CRIU may have left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub locks: Vec<Lock>,
    /// The host's files that the payload has mapped or open.
    #[serde(default)]
    pub files: Vec<HostFile>,
    /// The payload's resource limits.
    #[serde(default)]
    pub limits: Limits,
    /// What is in the images that older kernels do not have.
    #[serde(default)]
    pub kernel_features: BTreeSet<Feature>,
    /// The payload has ended, and only its status is left to be told: HTCondor had been promised a checkpoint first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished: Option<Ended>,
    /// What it took.
    pub cost: Cost,
    /// What the payload has been through, over all its generations.
    pub history: History,
}

/// The host that a checkpoint was made on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// `uname -n`
    pub name: String,
    /// `uname -r`
    pub kernel: String,
    /// criu's version.
    pub criu: String,
    /// The processor.
    #[serde(default)]
    pub cpu: Processor,
    /// Bytes of a page of memory; 0 if it was not noted.
    #[serde(default)]
    pub page_size: u64,
    /// Which boot of it, and when in that; `None` if it was not noted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot: Option<Boot>,
}

/// What a checkpoint has to do with processors: names of /proc/cpuinfo, of what programs choose code by.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Processor {
    /// What a host must have.
    pub needs: BTreeSet<String>,
    /// What the first host offered. A program that the baseline does not bind may have chosen by any of it.
    pub offered: BTreeSet<String>,
    /// `cpu_baseline` of the first start.
    pub baseline: String,
    /// The registers that the first host's processor can save.
    #[serde(default)]
    pub xsave: Xsave,
}

/// The identity inside the sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inner {
    /// uid
    pub uid: u32,
    /// gid
    pub gid: u32,
    /// getgroups(2), in order, as the sandbox shows them.
    pub groups: Vec<u32>,
}

/// Pids inside the sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tree {
    /// The reaper.
    pub root: i32,
    /// The payload's first process.
    pub main: i32,
}

/// A standard stream that is a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamFile {
    /// 0, 1 or 2
    pub descriptor: u8,
    /// Relative to the scratch directory.
    #[serde(with = "crate::name::bytes")]
    pub path: PathBuf,
    /// Bytes.
    pub size: u64,
    /// Further names of it in the scratch directory.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub links: Vec<Name>,
}

/// A file that the job was given and has not changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Input {
    /// Relative to the scratch directory.
    #[serde(with = "crate::name::bytes")]
    pub path: PathBuf,
    /// Bytes.
    pub size: u64,
    /// blake3 of its content, in hex.
    pub digest: String,
}

/// A unix socket with a name in a directory that is carried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Socket {
    /// As that of a member of the archive: `work/…` or `shm/…`.
    pub path: Name,
    /// Permission bits.
    pub mode: u32,
}

/// Seconds and bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// From the dump's begin to the manifest: the tasks were frozen that long, and a little longer.
    pub frozen_seconds: f64,
    /// Resident memory of the payload when the dump began, in bytes.
    pub resident_bytes: u64,
    /// Bytes on the disk of the files that are carried, holes left out.
    #[serde(default)]
    pub file_bytes: u64,
    /// How much work the packing was, relative to none.
    #[serde(default)]
    pub effort: Option<f64>,
}

/// Over all generations.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct History {
    /// Seconds that the payload has run, up to this checkpoint.
    pub run_seconds: f64,
    /// How often it was vacated.
    pub vacates: u32,
    /// Seconds from the begin of a periodic dump until the payload ran again in place, the last two weighed equally, if
    /// that has been seen.
    pub gap_seconds: Option<f64>,
    /// Bytes per second of the upload after a periodic checkpoint, the last two weighed equally, if that has been seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upload_rate: Option<f64>,
}

/// Reads a manifest, refusing a newer one by its number before its shape is looked at.
pub fn parse(what: &str, bytes: &[u8]) -> Result<Manifest, Failure> {
    let value: serde_json::Value = serde_json::from_slice(bytes)
        .map_err(|error| Failure::start(what, format!("its manifest is no JSON: {error}")))?;
    let format = value.get("format").and_then(serde_json::Value::as_u64).unwrap_or(0);
    if format > u64::from(FORMAT) {
        let why = format!("it has format {format}; this condor-criu knows formats up to {}", FORMAT);
        return Err(Failure::start(what, why)
            .with_remedy("use the condor-criu that wrote it, or a newer one; the checkpoint is left as it was")
            .with_exit(Exit::CannotRestoreHere));
    }
    let manifest: Manifest = serde_json::from_value(value)
        .map_err(|error| Failure::start(what, format!("its manifest is not whole: {error}")))?;
    match leads_out(&manifest) {
        Some(path) => {
            Err(Failure::start(what, format!("its manifest names {path:?}, which no checkpoint of ours does"))
                .with_remedy("do not use it: it was made to reach files outside the job's directory"))
        }
        None => Ok(manifest),
    }
}

/// A path of the manifest that is not what it must be. Outputs are cut and inputs read before there is a sandbox, and
/// whoever can write to the access point's spool writes the manifest.
fn leads_out(manifest: &Manifest) -> Option<&Path> {
    let stays = |path: &Path| {
        let mut parts = path.components().peekable();
        parts.peek().is_some() && parts.all(|part| matches!(part, Component::Normal(_)))
    };
    let below_root = |path: &Path| path.parent() == Some(Path::new("/")) && path.strip_prefix("/").is_ok_and(stays);
    let streams = manifest.streams.iter().map(|stream| stream.path.as_path());
    let inputs = manifest.inputs.iter().map(|input| input.path.as_path());
    let links = manifest.streams.iter().flat_map(|stream| &stream.links);
    let more = links.chain(&manifest.removed).chain(manifest.sockets.iter().map(|socket| &socket.path));
    streams
        .chain(inputs)
        .chain(more.map(Name::as_path))
        .find(|path| !stays(path))
        .or_else(|| (!below_root(&manifest.job_dir)).then_some(manifest.job_dir.as_path()))
}

#[cfg(test)]
#[path = "manifest_tests.rs"]
mod tests;
