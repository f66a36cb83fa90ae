//! The last step: what the sandbox shall be.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::checked::Checked;
use super::found::Found;
use super::ground::Ground;
use super::launch::Launch;
use super::{environment, host_files, program, threads};
use crate::criu;
use crate::exit::Failure;
use crate::host::baseline::Baseline;
use crate::htcondor::Job;
use crate::sandbox::compat;
use crate::sandbox::{CRIU_DIR, Command, LAID_DIR, Plan, STATE_DIR, inside};
use crate::supervise::work::stdio::{self, Stream};

/// Plans, and unpacks the host's files that a checkpoint brings.
pub(super) fn plan(
    program: &OsString,
    arguments: &[OsString],
    found: Found,
    ground: Ground,
    checked: Checked,
) -> Result<Launch, Failure> {
    let (job, settings) = (&found.job, &found.settings);
    let Checked { criu, not_carried, identity, groups, kernel, host, cpu, here } = checked;
    let Ground { streams, opened, from_previous, checkpoint } = ground;
    let manifest = opened.as_ref().map(|opened| &opened.manifest);
    let job_dir = manifest.map_or_else(|| settings.job_dir.clone(), |manifest| manifest.job_dir.clone());
    let network = match manifest {
        Some(manifest) => manifest.network,
        None => settings.network.unwrap_or_else(|| program::network(program, job)),
    };
    let compat = match &opened {
        Some(opened) => opened.compat.clone(),
        None => program::compat(program, job, settings.compat),
    };
    let payload = opened.is_none().then(|| {
        let mut command = payload_command(program, arguments, job, &job_dir, &streams, settings.cpu_baseline);
        if compat.is_some() {
            compat::preload(&mut command.environment);
        }
        command
    });
    let reaper = opened.as_ref().map_or_else(|| Plan::built_in_reaper().to_vec(), |opened| opened.reaper.clone());
    let state_dir = job.scratch.join(STATE_DIR);
    let laid = match &opened {
        Some(opened) => host_files::unpack(opened, &state_dir.join(LAID_DIR), threads(settings, job))?,
        None => Vec::new(),
    };
    // Its libraries would be laid over too, and it has been linked with this host's.
    let criu = if laid.is_empty() || criu.bundled {
        criu
    } else {
        criu::closure::copy(&criu, &state_dir.join("criu")).map_err(|error| found.unwritable(error))?
    };
    let (relayed, readers) = match manifest {
        Some(manifest) => (manifest.relayed.clone(), manifest.readers.clone()),
        None => relays(&streams),
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
    let program = Path::new(program).file_name().unwrap_or(program).to_string_lossy().into_owned();
    let Found { job, settings, place, lock, .. } = found;
    Ok(Launch {
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
        lock,
        place,
        checkpoint,
        from_previous,
        opened,
        program,
        plan,
    })
}

/// The streams that become named pipes, and those whose end to read from the reaper holds.
fn relays(streams: &[Stream; 3]) -> (Vec<u8>, Vec<u8>) {
    let relayed: Vec<u8> = (0..3).filter(|number| streams[usize::from(*number)] == Stream::Relayed).collect();
    let readers = relayed.iter().copied().filter(|number| *number > 0).collect();
    (relayed, readers)
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
        stdio: stdio::inside_sandbox(streams, job_dir),
        ignore_sigpipe: job.under_htcondor(),
    }
}
