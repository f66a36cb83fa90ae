//! Everything that a supervisor starts with.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use nix::errno::Errno;
use nix::unistd::geteuid;

use super::lock::Lock;
use super::threads;
use crate::checkpoint::manifest::Processor;
use crate::checkpoint::{NotCarried, Place};
use crate::criu::{Criu, command};
use crate::exit::Failure;
use crate::host::namespaces::UNMASK;
use crate::htcondor::Job;
use crate::sandbox::{Identity, Plan, Sandbox, SandboxError, SetupStep};
use crate::settings::Settings;
use crate::supervise::machine::Rules;
use crate::supervise::work::stdio::Stream;
use crate::supervise::work::unpack::Opened;

/// Everything that a supervisor starts with.
pub struct Launch {
    /// The job.
    pub job: Job,
    /// The settings.
    pub settings: Settings,
    /// Which criu.
    pub criu: Criu,
    /// The standard streams.
    pub streams: [Stream; 3],
    /// The standard streams that the payload has open as pipes of ours, since its first start.
    pub relayed: Vec<u8>,
    /// Those of them whose end to read from the reaper holds.
    pub readers: Vec<u8>,
    /// What stays out of checkpoints.
    pub not_carried: NotCarried,
    /// Who the payload is.
    pub identity: Identity,
    /// The groups that it sees.
    pub groups: Vec<u32>,
    /// `uname -r`
    pub kernel: String,
    /// `uname -n`
    pub host: String,
    /// What the payload needs of a processor.
    pub cpu: Processor,
    /// What this host's processor offers.
    pub here: BTreeSet<String>,
    /// Held while we live: nobody else saves there.
    #[expect(dead_code, reason = "it ends with the process")]
    pub lock: Option<Lock>,
    /// Where checkpoints are kept.
    pub place: Place,
    /// The checkpoint that there is: what is restored.
    pub checkpoint: PathBuf,
    /// It is the generation before the newest, which is given up.
    pub from_previous: bool,
    /// What to restore, if there is something.
    pub opened: Option<Arc<Opened>>,
    /// Name of the program, for the manifest.
    pub program: String,
    /// What the init knows.
    pub plan: Plan,
}

impl Launch {
    /// What the machine goes by.
    pub fn rules(&self) -> Rules {
        Rules { code: self.job.checkpoint_code() }
    }

    /// Threads for the archive.
    pub fn threads(&self) -> usize {
        threads(&self.settings, &self.job)
    }

    /// Where criu works.
    pub fn with_places<T>(&self, make: impl FnOnce(&command::Places<'_>) -> T) -> T {
        let state = self.plan.inner_state_dir();
        make(&command::Places { images: &state.join("images"), work: &state.join("work"), job: &self.plan.job_dir })
    }

    /// A generation of this start is in its place.
    pub fn committed(&mut self) {
        self.place.look();
        self.from_previous = false;
    }

    /// Where the next generation goes. One that is given up does not take the place of the one that was restored.
    pub fn commit_place(&self) -> Place {
        let mut place = self.place.clone();
        place.previous.take_if(|_| self.from_previous);
        place
    }

    /// Makes the sandbox. This process must have one thread.
    pub fn sandbox(&self) -> Result<Sandbox, Failure> {
        Sandbox::create(&self.plan).map_err(|error| {
            let remedy = remedy(&error);
            let failure = Failure::start("cannot make the sandbox", error);
            let failure = failure.of_this_host_if(self.opened.is_some());
            match remedy {
                Some(remedy) => failure.with_remedy(remedy),
                None => failure,
            }
        })
    }
}

/// What an administrator or the user can do about a sandbox that cannot be made.
pub fn remedy(error: &SandboxError) -> Option<&'static str> {
    match error {
        SandboxError::Namespaces(Errno::ENOSPC | Errno::EUSERS) => Some(
            "user namespaces are used up or forbidden here: the administrator raises sysctl user.max_user_namespaces",
        ),
        SandboxError::Namespaces(Errno::EPERM | Errno::EACCES) => Some(
            "user namespaces are forbidden here: by sysctl kernel.unprivileged_userns_clone = 0, by AppArmor \
             (kernel.apparmor_restrict_unprivileged_userns = 1), by a container's seccomp filter, or because this is a chroot",
        ),
        SandboxError::Step { step: SetupStep::MountProc, .. } => Some(UNMASK),
        SandboxError::Step { step: SetupStep::MapIdentity, errno: Errno::EPERM } if geteuid().is_root() => Some(
            "since Linux 5.12 root of a container may be mapped only with CAP_SETFCAP: run the job as another user of the container, or \
             let the administrator add that capability",
        ),
        SandboxError::Step { step: SetupStep::MapIdentity, errno: Errno::EPERM } => Some(
            "user namespaces are restricted here (AppArmor on Ubuntu 24.04): the administrator allows them for condor-criu",
        ),
        _ => None,
    }
}
