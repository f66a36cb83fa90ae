//! The payload's clocks: CLOCK_MONOTONIC and CLOCK_BOOTTIME count from the boot of the host, so on another host they
//! jump, and a sleep until an absolute time may last for days. A time namespace adds the difference.

use std::fs;

use nix::sched::{CloneFlags, setns, unshare};
use nix::time::{ClockId, clock_gettime};

use super::plan::ClockOffsets;
use super::step::{StepFailed, io, step};

const NANOSECONDS: i64 = 1_000_000_000;
/// <linux/sched.h>; nix has no name for it yet.
const CLONE_NEWTIME: i32 = 0x80;
/// The offsets of the namespace that the next child will be in.
const OFFSETS: &str = "/proc/self/timens_offsets";

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
/// (docs/measurements.md, "Clocks").
pub(super) fn enter(offsets: ClockOffsets) -> Result<(), StepFailed> {
    let newtime = CloneFlags::from_bits_retain(CLONE_NEWTIME);
    step("make a time namespace", unshare(newtime))?;
    // A host that is itself in a time namespace: what is written counts from the machine's clocks, and a new namespace
    // begins with what its parent has (time_namespaces(7)).
    let text = step("read the host's clocks", io(fs::read_to_string(OFFSETS)))?;
    let line = |name, ns: i64| {
        let ns = ns.saturating_add(offset(&text, name));
        format!("{name} {} {}\n", ns.div_euclid(NANOSECONDS), ns.rem_euclid(NANOSECONDS))
    };
    let text = line("monotonic", offsets.monotonic_ns) + &line("boottime", offsets.boottime_ns);
    step("set the clocks", io(fs::write(OFFSETS, text)))?;
    let namespace = step("open the time namespace", io(fs::File::open("/proc/self/ns/time_for_children")))?;
    step("enter the time namespace", setns(namespace, newtime))
}

/// `monotonic  864000  5` → nanoseconds; no offset if the clock is not there.
fn offset(text: &str, clock: &str) -> i64 {
    let line = text.lines().find_map(|line| line.strip_prefix(clock));
    let mut numbers =
        line.unwrap_or_default().split_ascii_whitespace().map(|number| number.parse::<i64>().unwrap_or(0));
    let (seconds, nanoseconds) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    seconds.saturating_mul(NANOSECONDS).saturating_add(nanoseconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_s_own_offsets_are_read() {
        let text = "monotonic           3         500000000\nboottime            -7         0\n";
        assert_eq!((offset(text, "monotonic"), offset(text, "boottime")), (3_500_000_000, -7_000_000_000));
        assert_eq!(offset("", "monotonic"), 0);
    }

    #[test]
    fn offsets_carry_a_clock_to_another_host_and_on() {
        let here = ClockReadings { monotonic_ns: 5_000_000_001, boottime_ns: 9 };
        let then = ClockReadings { monotonic_ns: 2_000_000_000, boottime_ns: 100 };
        let offsets = here.offsets_to(then);
        assert_eq!(here.seen_with(offsets), then);
        assert_eq!(offsets.monotonic_ns, -3_000_000_001);
    }
}
