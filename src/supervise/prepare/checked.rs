//! The third step: what the job needs, and whether this host has it. Our directory is made here.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use nix::unistd::{getegid, geteuid};

use super::found::Found;
use super::ground::Ground;
use super::{host_check, ownership};
use crate::checkpoint::manifest::Processor;
use crate::checkpoint::{self, NotCarried, tree};
use crate::criu::{self, Criu};
use crate::exit::Failure;
use crate::host::{cpu, privilege};
use crate::journal;
use crate::sandbox::{Identity, STATE_DIR, supplementary_groups};
use crate::supervise::work::stdio::Stream;

/// What is known of this host, and of the job on it.
pub(super) struct Checked {
    pub(super) criu: Criu,
    pub(super) not_carried: NotCarried,
    pub(super) identity: Identity,
    pub(super) groups: Vec<u32>,
    /// `uname -r`
    pub(super) kernel: String,
    /// `uname -n`
    pub(super) host: String,
    /// What the payload needs of a processor.
    pub(super) cpu: Processor,
    /// What this host's processor offers.
    pub(super) here: BTreeSet<String>,
}

impl Checked {
    /// # Errors
    /// This host cannot do it: another may, if there is a checkpoint.
    pub(super) fn check(found: &Found, ground: &Ground) -> Result<Checked, Failure> {
        let opened = ground.opened.as_deref();
        let criu = find_criu(found, ground)?;
        let not_carried = not_carried(found, ground);
        if let Some(cause) = privilege::refusal(found.settings.mode) {
            let failure = Failure::start("cannot run with mode = \"capabilities\"", cause.why);
            return Err(failure.with_remedy(cause.remedy).of_this_host_if(opened.is_some()));
        }
        let (outer_uid, outer_gid) = (geteuid(), getegid());
        let inner = opened.map(|opened| (opened.manifest.identity.uid, opened.manifest.identity.gid));
        let (inner_uid, inner_gid) = inner.unwrap_or((outer_uid.as_raw(), outer_gid.as_raw()));
        let identity = Identity { inner_uid, inner_gid, outer_uid, outer_gid };
        let groups = groups_inside(&identity)?;
        let here = cpu::offered();
        let uname = nix::sys::utsname::uname();
        let uname = uname.map_err(|error| Failure::start("cannot read the kernel's name", error))?;
        let kernel = uname.release().to_string_lossy().into_owned();
        let host = uname.nodename().to_string_lossy().into_owned();
        if let Some(opened) = opened {
            let this = host_check::Here { flags: &here, kernel: &kernel, criu: criu.version };
            host_check::pass(&opened.manifest, &this)?;
            ownership::fits(&ground.checkpoint, opened, &found.job.scratch, &not_carried)?;
        }
        let baseline = found.settings.cpu_baseline;
        // What it was started with, it may use on every later host.
        let cpu = opened.map_or_else(
            || Processor {
                needs: baseline.needs(&here),
                offered: here.clone(),
                baseline: baseline.to_string(),
                xsave: cpu::xsave(),
            },
            |opened| opened.manifest.host.cpu.clone(),
        );
        Ok(Checked { criu, not_carried, identity, groups, kernel, host, cpu, here })
    }
}

fn find_criu(found: &Found, ground: &Ground) -> Result<Criu, Failure> {
    let (job, settings) = (&found.job, &found.settings);
    let state_dir = job.scratch.join(STATE_DIR);
    make_state_dir(&state_dir).map_err(|error| found.unwritable(error))?;
    let criu = criu::find(settings.criu.as_deref(), &job.scratch, &state_dir.join("criu")).map_err(|error| {
        let _ = fs::remove_dir_all(&state_dir);
        let failure = Failure::start("cannot checkpoint anything here", &error).with_remedy(error.remedy());
        failure.of_this_host_if(ground.opened.is_some())
    })?;
    let (version, tested) = (criu.version, criu::TESTED);
    tracing::info!(%version, bundled = criu.bundled, "criu is {}", criu.directory.join(&criu.name).display());
    if version < tested {
        tracing::warn!("CRIU {version} fails on every socket with kernel 6.18 and on guard pages; use {tested}");
    }
    Ok(criu)
}

/// What stays out of checkpoints: our own files, and stdout and stderr, which HTCondor carries.
fn not_carried(found: &Found, ground: &Ground) -> NotCarried {
    let streams = &ground.streams;
    let stream_files = streams.iter().filter_map(|stream| match stream {
        // stdin is an input like any other
        Stream::File(path) => Some(path.as_path()),
        _ => None,
    });
    let names = [checkpoint::file_name, checkpoint::previous_name].map(|name| name(found.settings.compression));
    let ours = [Path::new(journal::NAME), Path::new(names[0]), Path::new(names[1])];
    NotCarried::new(ours.into_iter().chain(stream_files.skip(usize::from(matches!(streams[0], Stream::File(_))))))
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
