//! The payload of `doctor` and `advertise`: a small tree with a thread, a child, a pipe, a file, shared memory and a
//! timer. It waits until it has been saved and restored. Then it looks whether everything is what it was.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::mpsc::{self, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork, pipe};

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
    let tree = Tree::stand()?;
    tree.wait_for_a_restore()?;
    tree.look()
}

fn told(what: &'static str) -> impl Fn(nix::Error) -> String {
    move |error| format!("{what}: {error}")
}

fn in_the_file(error: std::io::Error) -> String {
    format!("file: {error}")
}

/// What is to be saved and restored.
struct Tree {
    /// A byte that the child writes and we read.
    shared: *mut u8,
    /// To the child, which waits at the other end.
    pipe: OwnedFd,
    child: Pid,
    /// To the thread, which adds one.
    ask: Sender<u32>,
    thread: JoinHandle<u32>,
    file: File,
    timer: TimerFd,
    began: Instant,
}

impl Tree {
    /// Makes all of it, and says so.
    fn stand() -> Result<Tree, String> {
        let shared = shared_byte()?;
        let (reader, pipe) = pipe().map_err(told("pipe"))?;
        // SAFETY: one thread so far, and the child only reads, stores a byte and ends.
        let child = match unsafe { fork() }.map_err(told("fork"))? {
            ForkResult::Parent { child } => child,
            ForkResult::Child => {
                drop(pipe);
                be_the_child(reader, shared)
            }
        };
        drop(reader);
        let (ask, asked) = mpsc::channel::<u32>();
        let thread = std::thread::spawn(move || asked.recv().map(|number| number + 1).unwrap_or(0));
        let mut file = File::options().append(true).create(true).open(FILE).map_err(in_the_file)?;
        file.write_all(b"before\n").map_err(in_the_file)?;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::empty()).map_err(told("timer"))?;
        let tick = Expiration::Interval(TimeSpec::from_duration(TICK));
        timer.set(tick, TimerSetTimeFlags::empty()).map_err(told("timer"))?;
        let began = Instant::now();
        File::create(READY).map_err(in_the_file)?;
        Ok(Tree { shared, pipe, child, ask, thread, file, timer, began })
    }

    /// criu leaves a file where it restores.
    fn wait_for_a_restore(&self) -> Result<(), String> {
        while !Path::new(PIDFILE).exists() {
            self.timer.wait().map_err(told("timer"))?;
            if self.began.elapsed() > PATIENCE {
                return Err("nobody has saved and restored the probe".into());
            }
        }
        Ok(())
    }

    /// Whether everything is what it was.
    fn look(mut self) -> Result<(), String> {
        self.file.write_all(b"after\n").map_err(in_the_file)?;
        let sent = self.ask.send(1).is_ok();
        if !sent || !matches!(self.thread.join(), Ok(2)) {
            return Err("the thread is lost".into());
        }
        nix::unistd::write(self.pipe.as_fd(), b"x").map_err(told("pipe"))?;
        match waitpid(self.child, None) {
            Ok(WaitStatus::Exited(_, CHILD)) => {}
            other => return Err(format!("the child is lost: {other:?}")),
        }
        // SAFETY: the mapping is never unmapped, and the child, which wrote to it, has ended.
        if unsafe { self.shared.read_volatile() } != b'x' {
            return Err("the shared memory is not shared any more".into());
        }
        if fs::read_to_string(FILE).ok().as_deref() != Some("before\nafter\n") {
            return Err("the file has another content".into());
        }
        // A jump would be of hours or days.
        if self.began.elapsed() > PATIENCE {
            return Err("the monotonic clock has jumped".into());
        }
        Ok(())
    }
}

/// Memory that a child shares; it is never unmapped.
fn shared_byte() -> Result<*mut u8, String> {
    let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: a new mapping at an address of the kernel's choice, which nothing else knows.
    let shared = unsafe { mmap_anonymous(None, NonZeroUsize::MIN, access, MapFlags::MAP_SHARED) };
    Ok(shared.map_err(told("mmap"))?.cast::<u8>().as_ptr())
}

/// Hands the byte that comes through the pipe to the shared memory.
fn be_the_child(pipe: OwnedFd, shared: *mut u8) -> ! {
    let mut byte = [0];
    let got = File::from(pipe).read_exact(&mut byte).is_ok();
    // SAFETY: the mapping of `shared_byte`; the parent reads it after this process has ended.
    unsafe { shared.write_volatile(byte[0]) };
    // SAFETY: ends this forked child without running anything of the parent's.
    unsafe { libc::_exit(if got { CHILD } else { 1 }) }
}
