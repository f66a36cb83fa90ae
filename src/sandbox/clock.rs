//! The payload's clocks: CLOCK_MONOTONIC and CLOCK_BOOTTIME count from the boot of the host, so on another host they
//! jump, and a sleep until an absolute time may last for days. A time namespace adds the difference.

use std::fs;

use nix::sched::{CloneFlags, setns, unshare};
use nix::time::{ClockId, clock_gettime};

use super::mounts::{StepFailed, io, step};
use super::plan::ClockOffsets;

const NANOSECONDS: i64 = 1_000_000_000;
/// <linux/sched.h>; nix has no name for it yet.
const CLONE_NEWTIME: i32 = 0x80;

/// Readings of the two clocks, in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct ClockReadings {
    /// CLOCK_MONOTONIC
    pub monotonic_ns: i64,
    /// CLOCK_BOOTTIME
    pub boottime_ns: i64,
}

impl ClockReadings {
    /// This process's clocks now.
    pub fn now() -> Result<Self, nix::Error> {
        let read = |clock| clock_gettime(clock).map(|t| t.tv_sec() * NANOSECONDS + t.tv_nsec());
        Ok(ClockReadings { monotonic_ns: read(ClockId::CLOCK_MONOTONIC)?, boottime_ns: read(ClockId::CLOCK_BOOTTIME)? })
    }

    /// The offsets that make `self` (this host's clocks) read like `then`.
    pub fn offsets_to(self, then: ClockReadings) -> ClockOffsets {
        ClockOffsets {
            monotonic_ns: then.monotonic_ns.saturating_sub(self.monotonic_ns),
            boottime_ns: then.boottime_ns.saturating_sub(self.boottime_ns),
        }
    }

    /// What a process with these offsets reads when this host's clocks read `self`.
    pub fn seen_with(self, offsets: ClockOffsets) -> ClockReadings {
        ClockReadings {
            monotonic_ns: self.monotonic_ns.saturating_add(offsets.monotonic_ns),
            boottime_ns: self.boottime_ns.saturating_add(offsets.boottime_ns),
        }
    }
}

/// Enters a time namespace with these offsets. The process must be single-threaded and see itself in `/proc`. Entering
/// it at once, instead of waiting for the first child, keeps posix_spawn working on kernels before 6.6
/// (portability-facts, Clocks).
pub(super) fn enter(offsets: ClockOffsets) -> Result<(), StepFailed> {
    let newtime = CloneFlags::from_bits_retain(CLONE_NEWTIME);
    step("make a time namespace", unshare(newtime))?;
    let line = |name, ns: i64| format!("{name} {} {}\n", ns.div_euclid(NANOSECONDS), ns.rem_euclid(NANOSECONDS));
    let text = line("monotonic", offsets.monotonic_ns) + &line("boottime", offsets.boottime_ns);
    step("set the clocks", io(fs::write("/proc/self/timens_offsets", text)))?;
    let namespace = step("open the time namespace", io(fs::File::open("/proc/self/ns/time_for_children")))?;
    step("enter the time namespace", setns(namespace, newtime))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_carry_a_clock_to_another_host_and_on() {
        let here = ClockReadings { monotonic_ns: 5_000_000_001, boottime_ns: 9 };
        let then = ClockReadings { monotonic_ns: 2_000_000_000, boottime_ns: 100 };
        let offsets = here.offsets_to(then);
        assert_eq!(here.seen_with(offsets), then);
        assert_eq!(offsets.monotonic_ns, -3_000_000_001);
    }
}
