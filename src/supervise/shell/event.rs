//! Everything that can happen to a supervisor, in one enum and one channel.

use std::os::fd::{AsFd, OwnedFd};

use crossbeam_channel::Sender;

use crate::exit::Failure;
use crate::host::scan::Finding;
use crate::sandbox;
use crate::supervise::work::relay;
use crate::supervise::work::save;
use crate::supervise::work::unpack::Unpacked;

/// What happened.
pub enum Event {
    /// A signal came.
    Signal(i32),
    /// The sandbox's init says something.
    Sandbox(sandbox::Event),
    /// The init is gone.
    SandboxGone,
    /// Who started us is gone.
    StarterGone,
    /// The wall clock has been set.
    ClockSet,
    /// The checkpoint's files are in place.
    Unpacked(Box<Result<Unpacked, Failure>>),
    /// What the payload has that cannot be carried, as of now.
    Scanned(Vec<Finding>),
    /// The images cannot be given to criu; the reason comes with criu's end.
    StreamBroken,
    /// criu waits, or the checkpoint is committed, or why not.
    Saving(save::Told),
    /// The relays of the standard streams.
    Relays(relay::Said),
}

/// A thread that turns signals into events. `signals` has been collecting them since the start.
pub fn watch_signals(mut signals: signal_hook::iterator::Signals, events: Sender<Event>) -> std::io::Result<()> {
    spawn("signals", move || {
        for number in signals.forever() {
            if events.send(Event::Signal(number)).is_err() {
                return;
            }
        }
    })
}

/// A thread that hears the sandbox's init.
pub fn watch_sandbox(socket: OwnedFd, events: Sender<Event>) -> std::io::Result<()> {
    spawn("sandbox", move || {
        loop {
            let event = match sandbox::receive(socket.as_fd()) {
                Ok(Some((event, _))) => Event::Sandbox(event),
                Ok(None) => Event::SandboxGone,
                Err(error) => {
                    tracing::error!("cannot hear the sandbox: {error}");
                    Event::SandboxGone
                }
            };
            let last = matches!(event, Event::SandboxGone);
            if events.send(event).is_err() || last {
                return;
            }
        }
    })
}

/// Bytes. Our threads do little; the default of 2 MiB each would count as memory of the job where limits are strict.
const STACK: usize = 256 * 1024;

/// A thread with a small stack that nobody waits for: it ends with the process.
pub fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    std::thread::Builder::new().name(name.to_owned()).stack_size(STACK).spawn(work).map(drop)
}
