//! The wall clock, which may be set at any time by hours: only what is a time of day by its meaning goes by it. How
//! long something took is told by clocks that nobody sets.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// A moment of a host that does not depend on how its clock is set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Boot {
    /// /proc/sys/kernel/random/boot_id
    pub id: String,
    /// CLOCK_BOOTTIME, in milliseconds.
    pub uptime_ms: u64,
}

/// Seconds since the epoch.
pub fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// This boot of the host, and how long it has lasted: with the time that it was asleep, without that by which its clock
/// was set.
pub fn boot() -> Option<Boot> {
    // proc_sys_kernel(5)
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?.trim().to_owned();
    let uptime = clock_gettime(ClockId::CLOCK_BOOTTIME).ok()?;
    let ms = uptime.tv_sec() * 1000 + uptime.tv_nsec() / 1_000_000;
    Some(Boot { id, uptime_ms: u64::try_from(ms).ok()? })
}

/// Seconds between two moments of one boot; `None` if it is another or the later one is not known.
pub fn between(earlier: &Boot, later: &Boot) -> Option<f64> {
    let same = earlier.id == later.id;
    let ms = later.uptime_ms.checked_sub(earlier.uptime_ms).filter(|_| same)?;
    Some(ms as f64 / 1000.0)
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
