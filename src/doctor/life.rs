//! One life of the probe under `condor-criu run`, in the way that jobs run, with a deadline: whatever hangs is killed.

use std::fs::File;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::exit::Ended;
use crate::sandbox::probe::READY;

/// Name of the probe's executable in the scratch directory.
const PROGRAM: &str = "probe";
/// Where the words go that `run` says before it has a log.
pub(super) const STDERR: &str = "_condor_stderr";

enum Happened {
    Ready,
    Ended(ExitStatus),
}

/// What became of a life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It ended.
    Ended(Ended),
    /// It was killed at the deadline.
    TooLate,
}

/// Puts the probe's executable into `scratch`: one file for all lives of the probe below `place`, since a container's
/// `/tmp` may have room for a few copies only (Apptainer's has 64 MB).
fn install(place: &Path, scratch: &Path) -> io::Result<()> {
    let program = place.join(PROGRAM);
    if !program.exists() {
        std::fs::copy(std::env::current_exe()?, &program)?;
    }
    let here = scratch.join(PROGRAM);
    std::fs::hard_link(&program, &here).or_else(|_| std::fs::copy(&program, &here).map(drop))
}

/// Runs the probe in `scratch`, which is below `place`; if `vacate`, asks it to leave as soon as it stands.
pub(super) fn live(
    place: &Path,
    scratch: &Path,
    flags: &[String],
    vacate: bool,
    deadline: Instant,
) -> io::Result<Outcome> {
    install(place, scratch)?;
    let watch = Inotify::init(InitFlags::IN_CLOEXEC)?;
    watch.add_watch(scratch, AddWatchFlags::IN_CREATE)?;
    let stream = |name: &str| File::options().append(true).create(true).open(scratch.join(name));
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("run").arg("--scratch").arg(scratch).args(flags).args(["--interval", "never", "--"]);
    command.arg(format!("./{PROGRAM}")).arg("probe").current_dir(scratch);
    command.stdin(Stdio::null()).stdout(stream("_condor_stdout")?).stderr(stream(STDERR)?);
    // The job that this command may run in is not the probe's.
    for name in ["_CONDOR_SCRATCH_DIR", "_CONDOR_JOB_AD", "_CONDOR_MACHINE_AD", "_CONDOR_CHIRP_CONFIG"] {
        command.env_remove(name);
    }
    let mut child = command.spawn()?;
    let pid = Pid::from_raw(child.id() as i32);
    let (sender, happened) = crossbeam_channel::unbounded();
    let ended = sender.clone();
    std::thread::spawn(move || drop(child.wait().map(|status| ended.send(Happened::Ended(status)))));
    std::thread::spawn(move || see_ready(&watch, &sender));
    let outcome = wait(&happened, pid, vacate, deadline);
    if outcome == Outcome::TooLate {
        let _ = kill(pid, Signal::SIGKILL);
        // Its sandbox goes with it; the directory is removed only then.
        while !matches!(happened.recv(), Ok(Happened::Ended(_)) | Err(_)) {}
    }
    Ok(outcome)
}

fn wait(happened: &Receiver<Happened>, pid: Pid, vacate: bool, deadline: Instant) -> Outcome {
    loop {
        match happened.recv_deadline(deadline) {
            Ok(Happened::Ready) if vacate => drop(kill(pid, Signal::SIGTERM)),
            Ok(Happened::Ready) => {}
            Ok(Happened::Ended(status)) => {
                let exited = || Ended::Exited(status.code().unwrap_or(0) as u8);
                return Outcome::Ended(status.signal().map_or_else(exited, Ended::Signaled));
            }
            Err(_) => return Outcome::TooLate,
        }
    }
}

/// Ends with the process if nothing is made.
fn see_ready(watch: &Inotify, sender: &Sender<Happened>) {
    while let Ok(events) = watch.read_events() {
        if events.iter().any(|event| event.name.as_deref() == Some(READY.as_ref())) {
            let _ = sender.send(Happened::Ready);
            return;
        }
    }
}
