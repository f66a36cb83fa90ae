//! From a parsed command line to the room that does it.

use crate::checkpoint::inspect;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::cli::{Cli, Command, Rehearse, Run, SettingsFlags};
use crate::criu::{bundle, find};
use crate::doctor::{self, Place, Trial, advertise::advertise};
use crate::exit::{Ended, Exit, Failure};
use crate::host;
use crate::htcondor::{ClassAd, Job, submit};
use crate::sandbox::{OUR_ROOT, probe};
use crate::settings::{Layer, Settings};
use crate::supervise::{self, RunOptions};
use crate::{rehearse, report};

/// The words of the command line. A job that the access point has wrapped (condor-config/access-point.conf) has its own
/// arguments, whatever they are, and its program in the job ad: then this is `run`.
pub fn words() -> Vec<OsString> {
    let mut given: Vec<OsString> = std::env::args_os().collect();
    // What the program itself starts in the sandbox is no job.
    let job = (!Path::new(OUR_ROOT).exists()).then(|| std::env::var_os("_CONDOR_JOB_AD")).flatten();
    let program = job.and_then(|path| ClassAd::read(Path::new(&path)).ok()?.string("CriuProgram"));
    if let Some(program) = program {
        let me = given.first().cloned().unwrap_or_default();
        let run = [me, "run".into(), "--".into(), program.into()];
        given.splice(..given.len().min(1), run);
    }
    given
}

/// Does what the command line says.
pub fn dispatch(cli: Cli) -> Result<Exit, Failure> {
    match cli.command {
        Command::Run(Run { settings, config, scratch, command }) => {
            supervise::run(&RunOptions { flags: settings.layer(), config, scratch, command })
        }
        Command::Doctor { json, after, mut settings, command } => {
            absolute(&mut settings);
            let flags = settings.clone().flags();
            let trial = (!command.is_empty()).then_some(Trial { command, after, flags });
            doctor::doctor(&of_this_host(settings.layer())?, json, trial.as_ref())
        }
        Command::Advertise { settings } => advertise(&of_this_host(settings.layer())?),
        Command::Bundle { output, criu } => make_bundle(&output, criu.as_deref()),
        Command::Report { logs, output } => report::report(&logs, &output),
        Command::Wrap { submit, output, executable } => wrap(&submit, output.as_deref(), executable),
        Command::Probe => probe::run()
            .map(|()| Exit::Payload(Ended::Exited(probe::WELL as u8)))
            .map_err(|why| Failure::start("the probe is not what it was", why).with_exit(Exit::Negative)),
        Command::Inspect { checkpoint, json } => inspect::inspect(&checkpoint, json),
        Command::Verify { checkpoint } => inspect::verify(&checkpoint, host::allowed_cpus()),
        Command::Extract { checkpoint, directory } => {
            inspect::extract_to(&checkpoint, &directory, host::allowed_cpus())
        }
        Command::Rehearse(Rehearse {
            evict_every,
            evictions,
            signal,
            hard,
            transfer,
            keep_in,
            report,
            mut settings,
            command,
        }) => {
            absolute(&mut settings);
            let run_flags = settings.flags();
            rehearse::run(&rehearse::Options {
                evict_every,
                evictions,
                signal,
                hard,
                transfer,
                keep: keep_in,
                report,
                run_flags,
                command,
            })
        }
    }
}

/// A criu that is named is relative to where the user stands, not to a scratch directory.
fn absolute(settings: &mut SettingsFlags) {
    if let Some(criu) = &mut settings.criu
        && let Ok(path) = Path::new(criu).canonicalize()
    {
        *criu = path.to_string_lossy().into_owned();
    }
}

/// The settings without a job: flags, environment, and the host's file.
fn of_this_host(flags: Layer) -> Result<Settings, Failure> {
    Settings::resolve(flags, None, &Job { scratch: "/nonexistent".into(), ad: None, machine: None })
}

fn make_bundle(output: &Path, criu: Option<&Path>) -> Result<Exit, Failure> {
    let what = format!("cannot make {}", output.display());
    let place = Place::new().map_err(|error| Failure::start(&*what, error))?;
    let here = std::env::current_dir().map_err(|error| Failure::start(&*what, error))?;
    let found = find::find(criu, &here, &place.path().join("criu"))
        .map_err(|error| Failure::start(&*what, &error).with_remedy(error.remedy()))?;
    let made = bundle::make(&found, output).map_err(|error| Failure::start(&*what, error))?;
    crate::say!("{}: {} bytes, CRIU {} in {} files", output.display(), made.bytes, found.version, made.parts);
    Ok(Exit::Success)
}

fn wrap(submit: &Path, output: Option<&Path>, executable: Option<PathBuf>) -> Result<Exit, Failure> {
    let what = format!("cannot wrap {}", submit.display());
    let cannot = |error: std::io::Error| Failure::start(&*what, error).with_exit(Exit::Negative);
    let text = if submit == Path::new("-") {
        std::io::read_to_string(std::io::stdin()).map_err(cannot)?
    } else {
        std::fs::read_to_string(submit).map_err(cannot)?
    };
    let own = executable.is_none();
    let executable = executable.map_or_else(std::env::current_exe, Ok).map_err(cannot)?;
    // As condor_submit finds it: from where it is started.
    let read = |file: &str| std::fs::read_to_string(file).ok();
    let wrapped = submit::wrap(&text, &executable.to_string_lossy(), &read)
        .map_err(|refused| Failure::start(&*what, &refused).with_remedy(refused.remedy).with_exit(Exit::Negative))?;
    match output {
        Some(path) => std::fs::write(path, wrapped).map_err(cannot)?,
        None => crate::say!("{}", wrapped.trim_end_matches('\n')),
    }
    if own && !bundle::carried() {
        crate::say_err!(
            "note: this condor-criu carries no CRIU: execution points must have one; or make a bundle and name it with --executable"
        );
    }
    Ok(Exit::Success)
}
