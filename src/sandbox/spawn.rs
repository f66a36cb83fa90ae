//! From the init to a running payload: two forks, the limits on both, and exec errors that come back through a pipe.
//!
//! The first child becomes the reaper and root of the dumped tree, the second the payload in its own session. The
//! pids are above those that criu takes for itself when it runs in the same pid namespace.

use std::ffi::{CString, OsString};
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::stat::Mode;
use nix::unistd::{ForkResult, Pid, chdir, dup2_stderr, dup2_stdin, dup2_stdout, execve, fork, pipe2, setsid};

use super::message::{CriuJob, Event};
use super::plan::{Command, FIRST_PID, Plan, REAPER};
use super::step::{SetupStep, StepFailed, io, step};
use super::{criu_preload, identity};

/// The reaper's pid is the one after. criu takes the low ones when it restores in the same pid namespace; after a
/// wrap the kernel begins again at 300 (RESERVED_PIDS), so that what is above stays free of its criu_preload.
pub(super) const PID_BEFORE_ROOT: i32 = FIRST_PID as i32 - 1;
/// Where programs are looked for if the job has no PATH, as HTCondor starts it.
pub const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// Starts the payload. The event is `Spawned` or `ExecFailed`.
pub(super) fn payload(plan: &Plan, command: &Command) -> Result<Event, StepFailed> {
    continue_pids_after(PID_BEFORE_ROOT)?;
    let (reader, writer) = step("make a pipe", pipe2(OFlag::O_CLOEXEC))?;
    // SAFETY: the init has one thread, so that the child may do whatever it could do.
    let root = match step("fork", unsafe { fork() })? {
        ForkResult::Child => become_reaper(plan, command, writer),
        ForkResult::Parent { child } => child,
    };
    drop(writer);
    // One line `pid N` from the reaper, and nothing more if both exec: the pipe closes with it.
    let mut said = String::new();
    let mut reader = fs::File::from(reader);
    step("wait for the payload's start", io(std::io::Read::read_to_string(&mut reader, &mut said)))?;
    let mut main = None;
    for line in said.lines() {
        if let Some(pid) = line.strip_prefix("pid ") {
            main = pid.parse().ok();
        } else if let Some((errno, what)) = line.strip_prefix("failed ").and_then(|rest| rest.split_once(' ')) {
            let step = serde_json::from_str(what).unwrap_or_else(|_| what.into());
            return Ok(Event::ExecFailed { errno: errno.parse().unwrap_or(libc::EIO), step });
        }
    }
    match main {
        Some(main) => Ok(Event::Spawned { root: root.as_raw(), main }),
        None => Ok(Event::ExecFailed { errno: libc::ECHILD, step: "start the reaper".into() }),
    }
}

/// Lets the next process of this pid namespace have the pid after `last`.
pub(super) fn continue_pids_after(last: i32) -> Result<(), StepFailed> {
    step("set the next pid", io(fs::write("/proc/sys/kernel/ns_last_pid", last.to_string())))
}

fn become_reaper(plan: &Plan, command: &Command, writer: OwnedFd) -> ! {
    let say = |failed: &StepFailed| -> ! {
        let step = serde_json::to_string(&failed.step).unwrap_or_default();
        let line = format!("failed {} {step}\n", failed.errno as i32);
        let _ = nix::unistd::write(&writer, line.as_bytes());
        // SAFETY: _exit(2) ends this forked child without running anything of the parent's.
        unsafe { libc::_exit(127) }
    };
    let started = (|| {
        // While there still are capabilities.
        identity::become_payload()?;
        step("become a subreaper", prctl::set_child_subreaper(true))?;
        step("clear the death signal", prctl::set_pdeathsig(None))?;
        step("begin a session", setsid())?;
        // SAFETY: one thread, as above.
        match step("fork", unsafe { fork() })? {
            ForkResult::Child => match become_payload(plan, command) {
                Ok(never) => match never {},
                Err(failed) => say(&failed),
            },
            ForkResult::Parent { child } => Ok::<Pid, StepFailed>(child),
        }
    })();
    let main = match started {
        Ok(main) => main,
        Err(failed) => say(&failed),
    };
    let _ = nix::unistd::write(&writer, format!("pid {main}\n").as_bytes());
    let readers = hold_readers(command);
    // Not closed now: the pipe's end tells the init that the reaper has been executed too.
    close_on_exec_above(-1);
    readers.iter().for_each(keep_on_exec);
    let arguments = [CString::from(c"condor-criu-reaper"), CString::new(main.to_string()).unwrap_or_default()];
    let reaper = CString::new(REAPER).unwrap_or_default();
    let _ = reset_signals(false);
    let _ = execve::<CString, CString>(&reaper, &arguments, &[]);
    // The payload runs, its reaper does not: nobody would learn how it ends.
    // SAFETY: as above.
    unsafe { libc::_exit(127) }
}

/// Descriptor 1 of the reaper is closed at the signal after this one, 2 at the one after that (`reaper/main.rs`).
pub(super) const CLOSE_SIGNAL: i32 = 40;

/// Opens the ends to read from of the payload's streams, each under the stream's number.
fn hold_readers(command: &Command) -> Vec<i32> {
    let mut held = Vec::new();
    for (number, stdio) in command.stdio.iter().enumerate().filter(|(_, stdio)| stdio.reader) {
        let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let Ok(file) = open(&stdio.path, flags, Mode::empty()) else { continue };
        let number = number as i32;
        // SAFETY: the reaper that this process becomes has no other use for the number.
        if unsafe { libc::dup2(file.as_raw_fd(), number) } == number {
            held.push(number);
        }
    }
    held
}

fn keep_on_exec(number: &i32) {
    // SAFETY: changes a flag of a descriptor.
    unsafe { libc::fcntl(*number, libc::F_SETFD, 0) };
}

fn become_payload(plan: &Plan, command: &Command) -> Result<std::convert::Infallible, StepFailed> {
    step("begin a session", setsid())?;
    step(format!("enter {}", command.directory.display()), chdir(&command.directory))?;
    for (number, stdio) in command.stdio.iter().enumerate() {
        let what = format!("open {} as descriptor {number}", stdio.path.display());
        let flags = stdio.flags | OFlag::O_CLOEXEC | OFlag::O_NOCTTY;
        let file = step(&*what, open(&stdio.path, flags, Mode::from_bits_truncate(0o644)))?;
        step(
            what,
            match number {
                0 => dup2_stdin(file),
                1 => dup2_stdout(file),
                _ => dup2_stderr(file),
            },
        )?;
    }
    step("reset signals", reset_signals(command.ignore_sigpipe))?;
    close_on_exec_above(2);
    let text = |text: &OsString| CString::new(text.as_bytes()).map_err(|_| Errno::EINVAL);
    let mut arguments = vec![step("pass the program's name", text(&command.program))?];
    for argument in &command.arguments {
        arguments.push(step("pass an argument", text(argument))?);
    }
    let mut environment = Vec::with_capacity(command.environment.len());
    for (name, value) in &command.environment {
        let mut pair = name.clone();
        pair.push("=");
        pair.push(value);
        environment.push(step("pass the environment", text(&pair))?);
    }
    let has_path = command.environment.iter().any(|(name, _)| name == "PATH");
    let mut refused = Errno::ENOENT;
    for candidate in candidates(plan, command) {
        // A directory of PATH that may not be searched says EACCES as well; nothing is known to be there.
        let exists = candidate.symlink_metadata().is_ok();
        let path = step("pass the program's name", text(&candidate.into_os_string()))?;
        // Without PATH a program can find itself only by its name: Python starts children of its own that way.
        if !has_path {
            arguments[0].clone_from(&path);
        }
        match execve(&path, &arguments, &environment) {
            Ok(never) => match never {},
            Err(Errno::ENOENT | Errno::ENOTDIR) => {}
            // Something is there; a later directory of PATH may still have one that runs.
            Err(errno) if exists => refused = errno,
            Err(_) => {}
        }
    }
    step(SetupStep::ExecuteProgram, Err(refused))
}

/// Where the program may be. A name without a slash is looked for in the job's directory first, where HTCondor puts
/// what it transfers, but only if it can be run there: an input file may be called `sort`.
fn candidates(plan: &Plan, command: &Command) -> Vec<PathBuf> {
    let program = Path::new(&command.program);
    if command.program.as_bytes().contains(&b'/') {
        return vec![program.to_path_buf()];
    }
    let path = command.environment.iter().find(|(name, _)| name == "PATH").map(|(_, value)| value.clone());
    let path = path.unwrap_or_else(|| DEFAULT_PATH.into());
    let mut found = Vec::new();
    let transferred = plan.job_dir.join(program);
    let in_path: Vec<PathBuf> = std::env::split_paths(&path).map(|directory| directory.join(program)).collect();
    match transferred.metadata() {
        Ok(metadata) if metadata.is_file() && metadata.permissions().mode() & 0o111 != 0 => found.push(transferred),
        // The last resort says "not executable" instead of "not found".
        Ok(metadata) if metadata.is_file() => {
            return in_path.into_iter().chain([transferred]).collect();
        }
        _ => {}
    }
    found.extend(in_path);
    found
}

/// Default dispositions and an empty mask, as a program expects them.
pub(super) fn reset_signals(ignore_sigpipe: bool) -> Result<(), Errno> {
    for number in 1..=libc::SIGRTMAX() {
        let ignore = ignore_sigpipe && number == libc::SIGPIPE;
        // SAFETY: SIG_DFL and SIG_IGN run no code of ours. SIGKILL, SIGSTOP and libc's own two refuse, which is right.
        unsafe { libc::signal(number, if ignore { libc::SIG_IGN } else { libc::SIG_DFL }) };
    }
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)
}

/// Closes every descriptor above `last`.
pub(super) fn close_above(last: i32) {
    // SAFETY: no owner of a descriptor is used after this in the children that call it; they exec or _exit.
    unsafe { libc::syscall(libc::SYS_close_range, last + 1, u32::MAX, 0) };
}

fn close_on_exec_above(last: i32) {
    // SAFETY: sets a flag on descriptors; closes nothing.
    unsafe { libc::syscall(libc::SYS_close_range, last + 1, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
}

/// Starts criu with its arguments; its words go to `output`, a file inside the sandbox.
pub(super) fn criu(plan: &Plan, job: CriuJob, arguments: &[String], output: &Path) -> Result<Pid, StepFailed> {
    // SAFETY: the init has one thread.
    match step("fork", unsafe { fork() })? {
        ForkResult::Parent { child } => Ok(child),
        ForkResult::Child => {
            let _ = become_criu(plan, job, arguments, output);
            // SAFETY: ends this forked child without running anything of the parent's.
            unsafe { libc::_exit(127) }
        }
    }
}

fn become_criu(
    plan: &Plan,
    job: CriuJob,
    arguments: &[String],
    output: &Path,
) -> Result<std::convert::Infallible, StepFailed> {
    let words = step(
        "open criu's output",
        open(output, OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_APPEND, Mode::from_bits_truncate(0o600)),
    )?;
    step("redirect", dup2_stdout(&words))?;
    step("redirect", dup2_stderr(&words))?;
    if words.as_raw_fd() > 2 {
        drop(words);
    }
    raise_descriptor_limit();
    step("reset signals", reset_signals(false))?;
    identity::become_criu(plan.network)?;
    close_above(2);
    let text = |text: &[u8]| CString::new(text).unwrap_or_default();
    let command: Vec<CString> = plan
        .criu_command
        .iter()
        .map(|word| text(word.as_bytes()))
        .chain(arguments.iter().map(|word| text(word.as_bytes())))
        .collect();
    let environment = [
        CString::from(c"PATH=/usr/sbin:/usr/bin:/sbin:/bin"),
        text(format!("XDG_RUNTIME_DIR={}", super::plan::RUN_DIR).as_bytes()),
        text(criu_preload::preload(job).as_bytes()),
    ];
    let program = command.first().cloned().unwrap_or_default();
    match execve(&program, &command, &environment) {
        Ok(never) => match never {},
        Err(errno) => {
            let _ = nix::unistd::write(std::io::stderr(), format!("cannot execute {program:?}: {errno}\n").as_bytes());
            step("execute criu", Err(errno))
        }
    }
}

/// criu places its own descriptors above those of the payload, below its soft limit (docs/measurements.md, "CRIU's
/// descriptors").
fn raise_descriptor_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

/// Ends this process by the signal, as the payload ended; returns if that signal ends nothing. A core dump, if there
/// is to be one, is the payload's and not ours.
pub(super) fn die_by(number: i32) {
    use nix::sys::resource::{Resource, setrlimit};
    let _ = setrlimit(Resource::RLIMIT_CORE, 0, 0);
    // SAFETY: SIG_DFL runs no code of ours.
    unsafe { libc::signal(number, libc::SIG_DFL) };
    if let Ok(signal) = Signal::try_from(number) {
        let mut set = SigSet::empty();
        set.add(signal);
        let _ = sigprocmask(SigmaskHow::SIG_UNBLOCK, Some(&set), None);
    }
    // SAFETY: sends a signal to this very process.
    unsafe { libc::raise(number) };
}
