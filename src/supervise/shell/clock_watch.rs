//! Tells when the wall clock is set: what waits for a time of day has to be reckoned anew.

use crossbeam_channel::Sender;
use nix::errno::Errno;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use super::event::{self, Event};

/// A thread that tells whenever the wall clock has been set.
pub fn watch(events: Sender<Event>) -> std::io::Result<()> {
    let timer = TimerFd::new(ClockId::CLOCK_REALTIME, TimerFlags::TFD_CLOEXEC)?;
    event::spawn("clock", move || {
        // It is never to come; timerfd_create(2): a wait for it ends with ECANCELED when the clock is set, which nix
        // takes for an end like any other.
        let never = Expiration::OneShot(TimeSpec::new(i64::from(i32::MAX) << 8, 0));
        let flags = TimerSetTimeFlags::TFD_TIMER_ABSTIME | TimerSetTimeFlags::TFD_TIMER_CANCEL_ON_SET;
        while timer.set(never, flags).is_ok()
            && matches!(timer.wait(), Ok(()) | Err(Errno::ECANCELED))
            && events.send(Event::ClockSet).is_ok()
        {}
    })
}
