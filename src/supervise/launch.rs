//! From flags, ads and files to a sandbox that stands: everything that must be known before the first event.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::errno::Errno;
use nix::unistd::{getegid, geteuid};

use super::afresh;
use super::bring_back::Opened;
use super::choose::{self, Chosen};
use super::machine::Rules;
use super::streams::{self, Stream};
use super::{alone, carry, environment, gate, needs, placeholders, trust};
use crate::checkpoint::ended::EndRecord;
use crate::checkpoint::manifest::Processor;
use crate::checkpoint::{self, NotCarried, Place, commit, tree};
use crate::criu::{self, Criu, command, find};
use crate::exit::Failure;
use crate::host::baseline::Baseline;
use crate::host::namespaces::UNMASK;
use crate::host::{self, cpu, privilege};
use crate::htcondor::Job;
use crate::journal;
use crate::sandbox::compat;
use crate::sandbox::{
    CRIU_DIR, Command, Identity, LAID_DIR, Plan, STATE_DIR, Sandbox, SandboxError, SetupStep, inside,
    supplementary_groups,
};
use crate::settings::{Layer, Settings};

/// What `condor-criu run` was told on its command line.
#[derive(Debug, Clone, Default)]
pub struct RunOptions {
    /// Settings among the flags.
    pub flags: Layer,
    /// `--config`
    pub config: Option<PathBuf>,
    /// `--scratch`
    pub scratch: Option<PathBuf>,
    /// The payload and its arguments.
    pub command: Vec<OsString>,
}

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
    pub alone: Option<alone::Lock>,
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

/// Threads for the archive: as many as the slot has cpus, since the host's count is not ours to use.
pub fn threads(settings: &Settings, job: &Job) -> usize {
    if settings.threads > 0 {
        return settings.threads;
    }
    let allowed = host::allowed_cpus();
    let ads = [(&job.machine, "Cpus"), (&job.ad, "RequestCpus")];
    let promised = ads.iter().find_map(|(ad, name)| ad.as_ref()?.integer(name));
    promised.and_then(|cpus| usize::try_from(cpus).ok()).unwrap_or(allowed).clamp(1, allowed)
}

/// What there is to do.
pub enum Prepared {
    /// Start or restore.
    Launch(Box<Launch>),
    /// Only the status is left to be told.
    Ended(EndRecord),
}

/// Reads, checks and decides; makes nothing but our directory and the placeholders.
pub fn prepare(options: &RunOptions, job: Job) -> Result<Prepared, Failure> {
    let (Some(program), arguments) = (options.command.first(), options.command.get(1..).unwrap_or_default()) else {
        return Err(Failure::start("cannot run", "no program is named")
            .with_remedy("condor-criu run [OPTIONS] -- PROGRAM [ARG…]"));
    };
    let settings = Settings::resolve(options.flags.clone(), options.config.as_deref(), &job)?;
    let mut place = Place::new(
        job.scratch.join(checkpoint::file_name(settings.compression)),
        (settings.keep > 1).then(|| job.scratch.join(checkpoint::previous_name(settings.compression))),
    );
    // In a restart in place the payload may have closed it.
    if let Err(error) = tree::open_for_good(&job.scratch) {
        tracing::debug!("{}: {error}", job.scratch.display());
    }
    // Before anything else can fail: a listed file that is missing would put the job on hold.
    // A link there is a payload's doing, and no checkpoint.
    let brought =
        place.files().filter_map(|path| path.symlink_metadata().ok()).any(|file| file.is_file() && file.len() > 0);
    let unwritable = |error: std::io::Error| {
        let failure = Failure::start(format!("cannot write to the scratch directory {}", job.scratch.display()), error)
            .with_remedy("checkpoints are written there; name another directory with --scratch");
        // A full disk of this host must not end a job that another host can go on with.
        failure.of_this_host_if(brought)
    };
    for path in place.files() {
        commit::placeholder(path).map_err(unwritable)?;
    }
    let alone = alone::lock(&job.scratch)?;
    // The last line of an earlier life, before we add to it.
    let told = EndRecord::read(&job.scratch.join(journal::NAME));
    journal::open(&job.scratch, settings.log_level).map_err(unwritable)?;
    journal::say_where(&job, &settings);
    placeholders::remove(&job);
    let told = told.filter(|record| job.unique_id().as_ref() == Some(&record.condor_criu_job));
    let told_before = told.as_ref().is_some_and(|record| job.is_retry_of(record.attempt));
    if let Some(record) = told.filter(|_| !told_before) {
        tracing::info!("the payload had ended by {} when the job was taken away", record.ended);
        return Ok(Prepared::Ended(record));
    }

    let streams = streams::of_this_process(&job.scratch);
    let mut from_previous = false;
    let mut opened = match choose::choose(&place, &settings, &job, threads(&settings, &job))? {
        Chosen::Nothing => None,
        Chosen::Newest(newest) => Some(newest),
        Chosen::Previous(previous, why) => {
            tracing::warn!(generation = previous.manifest.generation, "{why}; going on from the generation before it");
            from_previous = true;
            Some(previous)
        }
        Chosen::Restart(why, intact) => {
            afresh::begin(
                &job,
                &place,
                intact.as_ref(),
                &streams,
                &format!("{why}, and on_unrestorable = \"restart\""),
            )?;
            None
        }
    };
    let of_before = opened.as_ref().is_some_and(|opened| job.is_retry_of(opened.manifest.attempt));
    if of_before || (told_before && opened.is_none()) {
        let why = "the payload had ended by itself, and the job is run again";
        afresh::begin(&job, &place, opened.as_ref(), &streams, why)?;
        opened = None;
    }
    let opened = opened.map(Arc::new);
    place.look();
    let checkpoint = match &place.previous {
        Some(previous) if from_previous => previous.clone(),
        _ => place.newest.clone(),
    };
    if let Some(opened) = opened.as_ref().filter(|_| !settings.foreign) {
        trust::is_ours(&checkpoint, opened, &job)?;
    }
    let state_dir = job.scratch.join(STATE_DIR);
    make_state_dir(&state_dir).map_err(unwritable)?;
    let criu = criu::find(settings.criu.as_deref(), &job.scratch, &state_dir.join("criu")).map_err(|error| {
        let _ = fs::remove_dir_all(&state_dir);
        let failure = Failure::start("cannot checkpoint anything here", &error).with_remedy(error.remedy());
        failure.of_this_host_if(opened.is_some())
    })?;
    tracing::info!(version = %criu.version, bundled = criu.bundled, "criu is {}", criu.directory.join(&criu.name).display());
    if criu.version < find::TESTED {
        tracing::warn!(
            "CRIU {} fails on every socket with kernel 6.18 and on guard pages; use {}",
            criu.version,
            find::TESTED
        );
    }

    let stream_files = streams.iter().filter_map(|stream| match stream {
        // stdin is an input like any other
        Stream::File(path) => Some(path.as_path()),
        _ => None,
    });
    let names = [checkpoint::file_name, checkpoint::previous_name].map(|name| name(settings.compression));
    let ours = [Path::new(journal::NAME), Path::new(names[0]), Path::new(names[1])];
    let not_carried =
        NotCarried::new(ours.into_iter().chain(stream_files.skip(usize::from(matches!(streams[0], Stream::File(_))))));

    if let Some(cause) = privilege::refusal(settings.mode) {
        let failure = Failure::start("cannot run with mode = \"capabilities\"", cause.why).with_remedy(cause.remedy);
        return Err(failure.of_this_host_if(opened.is_some()));
    }
    let (outer_uid, outer_gid) = (geteuid(), getegid());
    let inner = opened.as_ref().map(|opened| (opened.manifest.identity.uid, opened.manifest.identity.gid));
    let (inner_uid, inner_gid) = inner.unwrap_or((outer_uid.as_raw(), outer_gid.as_raw()));
    let identity = Identity { inner_uid, inner_gid, outer_uid, outer_gid };
    let groups = groups_inside(&identity)?;
    let here = cpu::offered();
    let uname = nix::sys::utsname::uname().map_err(|error| Failure::start("cannot read the kernel's name", error))?;
    let kernel = uname.release().to_string_lossy().into_owned();
    let host = uname.nodename().to_string_lossy().into_owned();
    if let Some(opened) = &opened {
        gate::pass(&opened.manifest, &gate::Here { flags: &here, kernel: &kernel, criu: criu.version })?;
        trust::fits(&checkpoint, opened, &job.scratch, &not_carried)?;
    }
    // What it was started with, it may use on every later host.
    let cpu = opened.as_ref().map_or_else(
        || Processor {
            needs: settings.cpu_baseline.needs(&here),
            offered: here.clone(),
            baseline: settings.cpu_baseline.to_string(),
            xsave: cpu::xsave(),
        },
        |opened| opened.manifest.host.cpu.clone(),
    );

    let job_dir = opened.as_ref().map_or_else(|| settings.job_dir.clone(), |opened| opened.manifest.job_dir.clone());
    let network = match &opened {
        Some(opened) => opened.manifest.network,
        None => settings.network.unwrap_or_else(|| needs::network(program, &job)),
    };
    let compat = match &opened {
        Some(opened) => opened.compat.clone(),
        None => needs::compat(program, &job, settings.compat),
    };
    let payload = opened.is_none().then(|| {
        let mut command = payload_command(program, arguments, &job, &job_dir, &streams, settings.cpu_baseline);
        if compat.is_some() {
            compat::preload(&mut command.environment);
        }
        command
    });
    let reaper = opened.as_ref().map_or_else(|| Plan::built_in_reaper().to_vec(), |opened| opened.reaper.clone());
    let laid = match &opened {
        Some(opened) => carry::unpack(opened, &state_dir.join(LAID_DIR), threads(&settings, &job))?,
        None => Vec::new(),
    };
    // Its libraries would be laid over too, and it has been linked with this host's.
    let criu = if laid.is_empty() || criu.bundled {
        criu
    } else {
        criu::closure::copy(&criu, &state_dir.join("criu")).map_err(unwritable)?
    };
    let plan = Plan {
        scratch: job.scratch.clone(),
        job_dir,
        identity,
        network,
        criu_dir: criu.directory.clone(),
        criu_command: criu.command(Path::new(CRIU_DIR)),
        reaper,
        compat,
        calls: opened.as_ref().and_then(|opened| opened.calls.clone()),
        laid,
        payload,
    };
    let (relayed, readers) = match &opened {
        Some(opened) => (opened.manifest.relayed.clone(), opened.manifest.readers.clone()),
        None => {
            let relayed = (0..3).filter(|number| streams[usize::from(*number)] == Stream::Relayed);
            let relayed: Vec<u8> = relayed.collect();
            (relayed.clone(), relayed.into_iter().filter(|number| *number > 0).collect())
        }
    };
    let program = Path::new(program).file_name().unwrap_or(program).to_string_lossy().into_owned();
    Ok(Prepared::Launch(Box::new(Launch {
        job,
        settings,
        criu,
        streams,
        relayed,
        readers,
        not_carried,
        identity,
        groups,
        kernel,
        host,
        cpu,
        here,
        alone,
        place,
        checkpoint,
        from_previous,
        opened,
        program,
        plan,
    })))
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

/// The supplementary groups as the sandbox will show them: the mapped one by its inner number, others as the overflow
/// gid (user_namespaces(7)).
fn groups_inside(identity: &Identity) -> Result<Vec<u32>, Failure> {
    /// /proc/sys/kernel/overflowgid
    const OVERFLOW_GID: u32 = 65534;
    let groups = supplementary_groups().map_err(|error| Failure::start("cannot read this user's groups", error))?;
    let outer = identity.outer_gid.as_raw();
    Ok(groups.into_iter().map(|group| if group == outer { identity.inner_gid } else { OVERFLOW_GID }).collect())
}

/// Our directory, empty but for what the sandbox binds.
fn make_state_dir(path: &Path) -> std::io::Result<()> {
    tree::remove_all(path)?;
    let mut builder = fs::DirBuilder::new();
    builder.mode(0o700).create(path)?;
    builder.mode(0o700).create(path.join("work"))?;
    builder.create(path.join("images"))?;
    for name in ["tmp", "vartmp"] {
        builder.mode(0o1777).create(path.join(name))?;
        // mkdir(2) obeys the umask; a /tmp must not.
        fs::set_permissions(path.join(name), std::os::unix::fs::PermissionsExt::from_mode(0o1777))?;
    }
    Ok(())
}

fn payload_command(
    program: &OsString,
    arguments: &[OsString],
    job: &Job,
    job_dir: &Path,
    streams: &[Stream; 3],
    baseline: Baseline,
) -> Command {
    let named = std::env::var_os("_CONDOR_SCRATCH_DIR").map(PathBuf::from);
    let names: Vec<&Path> = named.as_deref().into_iter().chain([job.scratch.as_path()]).collect();
    let here = std::env::current_dir().unwrap_or_else(|_| job.scratch.clone());
    // What is neither in the scratch directory nor anywhere that the sandbox shows becomes the job's directory.
    let hidden = ["/tmp", "/var/tmp", "/proc"].iter().any(|place| here.starts_with(place));
    let directory = inside(&here, &job.scratch, job_dir)
        .unwrap_or_else(|| if hidden { job_dir.to_path_buf() } else { here.clone() });
    let path = Path::new(program);
    let program =
        names.iter().find_map(|scratch| inside(path, scratch, job_dir)).map_or_else(|| program.clone(), Into::into);
    let mut environment = environment::payload(std::env::vars_os(), &names, job_dir, &directory);
    baseline.add_to(&mut environment);
    Command {
        program,
        arguments: arguments.to_vec(),
        environment,
        directory,
        stdio: streams::inside_sandbox(streams, job_dir),
        ignore_sigpipe: job.under_htcondor(),
    }
}
