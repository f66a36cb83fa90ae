//! What is in a checkpoint's archive besides the images, and what it is made of.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use crate::checkpoint::{Inputs, Manifest, NotCarried};

/// Prefix of the scratch directory's files in the archive.
pub const WORK: &str = "work";
/// Prefix of `/dev/shm` in the archive.
pub const SHM: &str = "shm";
/// Prefix of the host's files in the archive.
pub const HOST: &str = "host";
/// The reaper's executable in the archive: CRIU wants the same file at a restore, and a later condor-criu may have
/// another.
pub const REAPER: &str = "sandbox/reaper";
/// The compatibility helper in the archive, for the same reason.
pub const COMPAT: &str = "sandbox/compat.so";
/// Bytes of one of these at most; ours have some pages.
pub const HELPER_MAX: u64 = 1024 * 1024;
/// The system calls that the dump has interrupted, if there are any; see `sandbox/criu_preload/calls`.
pub const CALLS: &str = "sandbox/calls";

/// What is saved while criu holds the tree.
pub struct Stopped {
    /// The scratch directory on this host.
    pub scratch: PathBuf,
    /// A path to the sandbox's `/dev/shm`.
    pub shm: PathBuf,
    /// A path to the sandbox's root.
    pub root: PathBuf,
    /// The reaper's executable.
    pub reaper: Vec<u8>,
    /// The compatibility helper, if the payload has it.
    pub compat: Option<Vec<u8>>,
    /// The system calls that the dump has interrupted.
    pub calls: Option<Vec<u8>>,
    /// Which of the scratch directory's entries stay out.
    pub not_carried: NotCarried,
    /// What need not be carried.
    pub inputs: Arc<Mutex<Inputs>>,
    /// Everything of the manifest that is known before packing.
    pub manifest: Manifest,
}

/// A committed checkpoint.
#[derive(Debug, Clone)]
pub struct Committed {
    /// What it says of itself.
    pub manifest: Manifest,
    /// Its size in bytes.
    pub bytes: u64,
    /// Seconds from the dump's begin until it was durable.
    pub seconds: f64,
}
