//! When to checkpoint: Daly's optimum between the price of a checkpoint and the work that an eviction loses.

use std::time::Duration;

use crate::htcondor::ClassAd;

/// The interval between checkpoints that loses the least, after J. T. Daly, "A higher order estimate of the optimum
/// checkpoint interval for restart dumps", FGCS 22 (2006), equation 37:
/// τ = √(2δM)·[1 + ⅓√(δ/2M) + δ/18M] − δ if δ < 2M, else M; δ the cost of a checkpoint, M the mean time between
/// interrupts. Never so often that checkpoints cost more than `share` of the time.
pub fn optimal_interval(cost: Duration, mean: Duration, share: f64) -> Duration {
    let delta = cost.as_secs_f64();
    let mean = mean.as_secs_f64();
    let daly = if delta < 2.0 * mean {
        let ratio = delta / (2.0 * mean);
        (2.0 * delta * mean).sqrt() * (1.0 + ratio.sqrt() / 3.0 + ratio / 9.0) - delta
    } else {
        mean
    };
    // cost / (interval + cost) ≤ share
    let affordable = delta * (1.0 - share) / share;
    Duration::from_secs_f64(daly.max(affordable).clamp(1.0, 1e9))
}

/// The mean time between evictions of this job: what the settings say, counted as one observation, and what has been
/// seen.
pub fn mean_time(setting: Duration, ran: Duration, vacates: u32) -> Duration {
    (setting + ran) / (vacates + 1)
}

/// A factor between 0.9 and 1, the same for the same text: a thousand jobs that started together do not upload
/// together.
pub fn jitter(text: &str) -> f64 {
    let digest = blake3::hash(text.as_bytes());
    1.0 - 0.1 * f64::from(digest.as_bytes()[0]) / 256.0
}

/// When the slot is known to end, in seconds since the epoch: the pilot's end (`GLIDEIN_ToDie`), or its retirement and
/// the time that it then grants to a job (`GLIDEIN_ToRetire`, `MaxJobRetirementTime`).
pub fn known_end(machine: &ClassAd) -> Option<f64> {
    let dies = machine.number("GLIDEIN_ToDie");
    let retirement = machine.number("MaxJobRetirementTime").unwrap_or(0.0).max(0.0);
    let retires = machine.number("GLIDEIN_ToRetire").map(|at| at + retirement);
    [dies, retires].into_iter().flatten().reduce(f64::min)
}

/// Before a known end there is a checkpoint this much earlier: it and its upload have to be through.
pub fn margin(cost: Duration) -> Duration {
    /// For the upload, whose speed is not known; a glidein's last minute is not for work.
    const UPLOAD: Duration = Duration::from_secs(60);
    cost * 2 + UPLOAD
}

/// Bytes per second of an upload, from the seconds between the end of a periodic checkpoint and the start of
/// condor-criu in the same place. `None` if HTCondor's own work in that time, which is not known to the second, may
/// have been most of it.
pub fn upload_rate(bytes: u64, between: f64) -> Option<f64> {
    /// Exit 85 to running again takes 1 to 2 s for a job with next to nothing to upload (docs/measurements.md, "The
    /// price of a restart in place").
    const HTCONDORS: f64 = 1.5;
    let upload = between - HTCONDORS;
    (upload >= HTCONDORS && bytes > 0).then(|| bytes as f64 / upload)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_job_has_seen_moves_the_mean() {
        let hour = Duration::from_secs(3600);
        assert_eq!(mean_time(9 * hour, Duration::ZERO, 0), 9 * hour);
        assert_eq!(mean_time(9 * hour, 11 * hour, 0), 20 * hour);
        assert_eq!(mean_time(9 * hour, hour, 4), 2 * hour);
    }

    #[test]
    fn jitter_spreads_and_is_never_later() {
        let all: Vec<f64> = (0..100).map(|job| jitter(&format!("{job}.0"))).collect();
        assert!(all.iter().all(|factor| (0.9..=1.0).contains(factor)));
        assert!(all.iter().any(|factor| *factor < 0.92) && all.iter().any(|factor| *factor > 0.98));
    }

    #[test]
    fn the_earliest_known_end_counts() {
        assert_eq!(
            known_end(&ClassAd::parse("GLIDEIN_ToDie = 1000\nGLIDEIN_ToRetire = 500\nMaxJobRetirementTime = 100")),
            Some(600.0)
        );
        assert_eq!(known_end(&ClassAd::parse("GLIDEIN_ToDie = 1000")), Some(1000.0));
        assert_eq!(known_end(&ClassAd::parse("MaxJobRetirementTime = 100")), None);
    }

    #[test]
    fn an_upload_is_told_from_htcondors_own_second() {
        // docs/measurements.md, "The price of a restart in place": 1 GB in 7 s, a small job in 1 to 2 s.
        let rate = upload_rate(1_000_000_000, 7.0).unwrap();
        assert!((1.7e8..1.9e8).contains(&rate), "{rate}");
        assert_eq!(upload_rate(1_000_000, 2.0), None);
        assert_eq!(upload_rate(0, 100.0), None);
    }

    #[test]
    fn daly_s_optimum_agrees_with_the_published_formula() {
        // docs/measurements.md, "Daly's formula": δ = 5 min; M = 24 h, 6 h, 15 min → 117, 57, 9.1 min
        let cost = Duration::from_secs(300);
        for (mean, minutes) in [(24.0 * 60.0, 117.0), (6.0 * 60.0, 57.0), (15.0, 9.1)] {
            let found = optimal_interval(cost, Duration::from_secs_f64(mean * 60.0), 0.99).as_secs_f64() / 60.0;
            assert!((found - minutes).abs() < 0.6, "{mean} min: {found}, not {minutes}");
        }
    }

    #[test]
    fn checkpoints_never_cost_more_than_their_share() {
        let cost = Duration::from_secs(300);
        let interval = optimal_interval(cost, Duration::from_secs(900), 0.05);
        assert!(cost.as_secs_f64() / (interval + cost).as_secs_f64() <= 0.0501);
    }
}
