//! The wall clock, which may be set at any time by hours: only what is a time of day by its meaning goes by it, and what waits for such a
//! time is told when it is set. How long something took is told by clocks that nobody sets.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use crossbeam_channel::Sender;
use nix::errno::Errno;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use super::shell::event::{self, Event};
use crate::checkpoint::manifest::Boot;
use crate::sandbox::ClockReadings;

/// Seconds since the epoch.
pub fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// This boot of the host, and how long it has lasted: with the time that it was asleep, without that by which its clock was set.
pub fn boot() -> Option<Boot> {
    // proc_sys_kernel(5)
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?.trim().to_owned();
    let uptime = ClockReadings::now().ok()?.boottime_ns;
    Some(Boot { id, uptime_ms: u64::try_from(uptime / 1_000_000).ok()? })
}

/// Seconds between two moments of one boot; `None` if it is another or the later one is not known.
pub fn between(earlier: &Boot, later: &Boot) -> Option<f64> {
    let same = earlier.id == later.id;
    let ms = later.uptime_ms.checked_sub(earlier.uptime_ms).filter(|_| same)?;
    Some(ms as f64 / 1000.0)
}

/// A thread that tells whenever the wall clock has been set.
pub fn watch(events: Sender<Event>) -> std::io::Result<()> {
    let timer = TimerFd::new(ClockId::CLOCK_REALTIME, TimerFlags::TFD_CLOEXEC)?;
    event::spawn("clock", move || {
        // It is never to come; timerfd_create(2): a wait for it ends with ECANCELED when the clock is set, which nix takes for an end
        // like any other.
        let never = Expiration::OneShot(TimeSpec::new(i64::from(i32::MAX) << 8, 0));
        let flags = TimerSetTimeFlags::TFD_TIMER_ABSTIME | TimerSetTimeFlags::TFD_TIMER_CANCEL_ON_SET;
        while timer.set(never, flags).is_ok()
            && matches!(timer.wait(), Ok(()) | Err(Errno::ECANCELED))
            && events.send(Event::ClockSet).is_ok()
        {}
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_between_is_told_within_one_boot_only() {
        let boot = |id: &str, uptime_ms| Boot { id: id.into(), uptime_ms };
        assert_eq!(between(&boot("a", 1000), &boot("a", 3500)), Some(2.5));
        assert_eq!(between(&boot("a", 1000), &boot("b", 3500)), None);
        assert_eq!(between(&boot("a", 3500), &boot("a", 1000)), None);
        let now = boot("now", 0);
        assert!(super::boot().is_some_and(|here| here.uptime_ms > 0 && between(&now, &here).is_none()));
    }
}
