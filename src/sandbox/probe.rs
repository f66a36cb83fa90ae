//! The payload of `doctor` and `advertise`: a small tree with a thread, a child, a pipe, a file, shared memory and a timer, which waits
//! until it has been saved and restored and then looks whether everything is what it was.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork, pipe};

use super::plan::PIDFILE;

/// Made in the working directory when the tree stands.
pub const READY: &str = "ready";
/// Written before and after; in the working directory.
pub const FILE: &str = "probe.txt";
/// Exit code if all is well: no shell and no runtime has this one.
pub const WELL: i32 = 42;

/// The child's own exit code.
const CHILD: i32 = 7;
/// How often the timer ticks.
const TICK: Duration = Duration::from_millis(10);
/// Nobody asks for longer.
const PATIENCE: Duration = Duration::from_secs(60);

/// The whole life of the probe; what is not as it was, if anything.
pub fn run() -> Result<(), String> {
    let told = |what: &'static str| move |error: nix::Error| format!("{what}: {error}");
    let length = NonZeroUsize::MIN;
    let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: a new mapping at an address of the kernel's choice, which nothing else knows; it is never unmapped.
    let shared = unsafe { mmap_anonymous(None, length, access, MapFlags::MAP_SHARED) }.map_err(told("mmap"))?;
    let shared = shared.cast::<u8>().as_ptr();
    let (reader, writer) = pipe().map_err(told("pipe"))?;
    // SAFETY: one thread so far, and the child only reads, stores a byte and ends.
    let child = match unsafe { fork() }.map_err(told("fork"))? {
        ForkResult::Parent { child } => child,
        ForkResult::Child => {
            drop(writer);
            let mut byte = [0];
            let got = File::from(reader).read_exact(&mut byte).is_ok();
            // SAFETY: the mapping above, one byte at its start; the parent reads it after this process has ended.
            unsafe { shared.write_volatile(byte[0]) };
            // SAFETY: ends this forked child without running anything of the parent's.
            unsafe { libc::_exit(if got { CHILD } else { 1 }) }
        }
    };
    drop(reader);
    let (ask, asked) = mpsc::channel::<u32>();
    let thread = std::thread::spawn(move || asked.recv().map(|number| number + 1).unwrap_or(0));
    let mut file = File::options().append(true).create(true).open(FILE).map_err(|error| format!("file: {error}"))?;
    file.write_all(b"before\n").map_err(|error| format!("file: {error}"))?;
    let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::empty()).map_err(told("timer"))?;
    let tick = Expiration::Interval(TimeSpec::from_duration(TICK));
    timer.set(tick, TimerSetTimeFlags::empty()).map_err(told("timer"))?;
    let began = Instant::now();
    File::create(READY).map_err(|error| format!("file: {error}"))?;

    // criu leaves this where it restores.
    while !Path::new(PIDFILE).exists() {
        timer.wait().map_err(told("timer"))?;
        if began.elapsed() > PATIENCE {
            return Err("nobody has saved and restored the probe".into());
        }
    }

    file.write_all(b"after\n").map_err(|error| format!("file: {error}"))?;
    let sent = ask.send(1).is_ok();
    if !sent || !matches!(thread.join(), Ok(2)) {
        return Err("the thread is lost".into());
    }
    nix::unistd::write(writer.as_fd(), b"x").map_err(told("pipe"))?;
    match waitpid(child, None) {
        Ok(WaitStatus::Exited(_, CHILD)) => {}
        other => return Err(format!("the child is lost: {other:?}")),
    }
    // SAFETY: as above; the child has ended.
    if unsafe { shared.read_volatile() } != b'x' {
        return Err("the shared memory is not shared any more".into());
    }
    if fs::read_to_string(FILE).ok().as_deref() != Some("before\nafter\n") {
        return Err("the file has another content".into());
    }
    // A jump would be of hours or days.
    if began.elapsed() > PATIENCE {
        return Err("the monotonic clock has jumped".into());
    }
    Ok(())
}
