//! When to checkpoint: Daly's optimum between the price of a checkpoint and the work that an eviction loses.

use std::time::Duration;

/// The OSPool's measured lower bound: at least 9 cpu hours lie between two lost attempts (htcondor-facts, section 10).
pub const MEAN_TIME_BETWEEN_EVICTIONS: Duration = Duration::from_secs(9 * 3600);
/// The part of the time that checkpoints may cost.
pub const SHARE_MAX: f64 = 0.05;
/// A program that cannot be checkpointed is to be known after minutes, not hours.
pub const FIRST_CHECKPOINT: Duration = Duration::from_secs(10 * 60);

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn daly_s_optimum_agrees_with_the_published_formula() {
        // htcondor-facts, section 8: δ = 5 min; M = 24 h, 6 h, 15 min → 117, 57, 9.1 min
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
