//! A scratch directory belongs to one condor-criu at a time.
//!
//! After a network partition HTCondor may start a job a second time while the first copy still runs. What the first one
//! saves then goes nowhere. Where both see the scratch directory (a shared file system), it must not take the place of
//! what the second one saves. [`crate::checkpoint::commit`] has the last word on that.

use std::fs::File;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::exit::Failure;

/// The lock; it ends with the process, however that ends.
pub type Lock = Flock<File>;

/// Takes the scratch directory; `None` where the file system knows no locks.
///
/// # Errors
/// Another condor-criu has it.
pub fn lock(scratch: &Path) -> Result<Option<Lock>, Failure> {
    let what = || format!("cannot use the scratch directory {}", scratch.display());
    let directory = File::open(scratch).map_err(|error| Failure::start(what(), error))?;
    match Flock::lock(directory, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Some(lock)),
        Err((_, Errno::EWOULDBLOCK)) => Err(Failure::start(what(), "another condor-criu runs in it")
            .with_remedy("wait for it to end, or name another directory with --scratch")),
        Err((_, errno)) => {
            tracing::debug!("the scratch directory cannot be locked: {errno}");
            Ok(None)
        }
    }
}
