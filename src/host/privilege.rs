//! Where criu's rights come from: `mode`.
//!
//! * `rootless`: from a user namespace of the job's own. Nobody gives anything.
//! * `capabilities`: from file capabilities that an administrator gives criu
//!   (`setcap cap_checkpoint_restore,cap_sys_ptrace+ep`), for hosts that forbid user namespaces. It is refused.
//!   Measured with CRIU 4.2.1 on Linux 6.18, as an ordinary user: CRIU saves and restores a tree so, but only the same
//!   pids at the same paths. Without a user namespace there is no namespace at all: unshare(2) of mounts, pids and time
//!   is EPERM. So nothing makes one host like another. HTCondor names the scratch directory anew for each start, and it
//!   cannot be bound to a fixed path. A pid that somebody has makes the restore fail. The monotonic clocks cannot be
//!   carried, and sleeps hang for days where the uptime is smaller. What a dead condor-criu or a hanging restore leaves
//!   behind is not killed by the end of a namespace. A job that had saved itself so would be refused by every host from
//!   its first eviction on. docs/limits.md has the table.
//! * `auto`: `rootless`, which is the only one that works.

use std::fmt;
use std::path::Path;

use clap::ValueEnum;

use super::namespaces::Cause;

/// See the module.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// The one that works
    #[default]
    Auto,
    /// From a user namespace of the job's own
    Rootless,
    /// From file capabilities of criu: refused, with the reason
    Capabilities,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Mode::Auto => "auto",
            Mode::Rootless => "rootless",
            Mode::Capabilities => "capabilities",
        })
    }
}

/// Why a job cannot have this mode, if so.
pub fn refusal(mode: Mode) -> Option<Cause> {
    (mode == Mode::Capabilities).then(|| Cause {
        why: "without a user namespace a job has the host's process ids, clocks and paths, and its checkpoint could go on only in the \
              same directory of the same host, where HTCondor never starts an evicted job again"
            .to_owned(),
        remedy: "use mode = \"auto\" on hosts that allow user namespaces (condor-criu doctor says what forbids them); criu needs no file \
                 capabilities there"
            .to_owned(),
    })
}

/// Whether this executable has file capabilities (capabilities(7): the extended attribute `security.capability`).
pub fn has_file_capabilities(path: &Path) -> bool {
    let mut buffer = [0_u8; 64];
    rustix::fs::getxattr(path, "security.capability", &mut buffer).is_ok_and(|length| length > 0)
}
