//! What a program is known to need before it runs: which network, and whether the compatibility helper fits it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::host::mpi;
use crate::htcondor::Job;
use crate::sandbox::compat::{self, Compat};
use crate::sandbox::{DEFAULT_PATH, Network};

/// Where the program is on this host, as far as can be told before the sandbox stands. A job of HTCondor has no PATH.
fn locate(program: &OsString, job: &Job) -> PathBuf {
    let path = Path::new(program);
    let places = std::env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into());
    let in_path = || std::env::split_paths(&places).map(|place| place.join(path)).find(|path| path.is_file());
    let transferred = Some(job.scratch.join(path)).filter(|path| path.is_file());
    transferred.or_else(in_path).unwrap_or_else(|| path.to_path_buf())
}

/// The compatibility helper, if the payload is to have it.
pub fn compat(program: &OsString, job: &Job, wanted: Compat) -> Option<Vec<u8>> {
    let why = match wanted {
        Compat::Off => return None,
        Compat::On => None,
        Compat::Auto => compat::refusal(&locate(program, job)),
    };
    match why {
        Some(why) => tracing::info!("compat = off: {why}"),
        None => return Some(compat::built_in().to_vec()),
    }
    None
}

/// The network that the program is known to need.
pub fn network(program: &OsString, job: &Job) -> Network {
    match mpi::uses_mpi(&locate(program, job), std::env::var_os("LD_LIBRARY_PATH").as_deref()) {
        Some(why) => {
            tracing::info!("network = private: {why}");
            Network::Private
        }
        None => Network::Host,
    }
}
