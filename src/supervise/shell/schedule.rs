//! When the next periodic checkpoint comes: after the interval, or before the end of the slot if that is known.

use std::time::{Duration, Instant};

use super::supervisor::Supervisor;
use crate::checkpoint::Reason;
use crate::clock;
use crate::settings::Interval;
use crate::supervise::timing::interval;

/// After a dump that failed the next try comes after this much, then twice, four times … as much.
const RETRY: Duration = Duration::from_secs(5 * 60);
/// Doublings of [`RETRY`]: up to 160 minutes.
const RETRY_DOUBLINGS: u32 = 5;
impl Supervisor {
    /// Sets the time of the next periodic checkpoint.
    pub(super) fn schedule(&mut self, failures: u32) {
        self.plan.none();
        let settings = &self.launch.settings;
        // Without a code in the ad, HTCondor would take the exit after a periodic checkpoint for the job's end.
        if self.launch.job.checkpoint_code().is_none() || settings.interval == Interval::Never {
            return;
        }
        let cost = Duration::from_secs_f64(self.last_cost());
        let ran = Duration::from_secs_f64(self.history.run_seconds + self.ran());
        let regular = match settings.interval {
            Interval::Never => return,
            Interval::Every(interval) => interval,
            Interval::Auto => interval::optimal_interval(
                cost,
                interval::mean_time(settings.mean_time_between_evictions, ran, self.history.vacates),
                settings.checkpoint_share,
            ),
        };
        let wait = match settings.first_checkpoint {
            Some(first) if self.generation == 0 => regular.min(first),
            _ => regular,
        };
        let seed = format!("{} {}", self.launch.job.id().unwrap_or_default(), self.generation);
        let mut wait = wait.mul_f64(interval::jitter(&seed));
        if failures > 0 {
            wait = wait.max(RETRY * 2_u32.pow((failures - 1).min(RETRY_DOUBLINGS)));
        }
        self.plan.regular = Some(Instant::now() + wait);
        self.mind_the_end();
    }

    /// The wall clock has been set, or the machine was asleep: the slot's end, which is a time of day, has come nearer
    /// or gone away. Nothing else here goes by that clock.
    pub(super) fn clock_set(&mut self) {
        if self.plan.regular.is_some() {
            tracing::warn!("the clock of this host has been set");
            self.mind_the_end();
        }
    }

    /// Before the slot's end if that comes before the regular time.
    fn mind_the_end(&mut self) {
        let Some(regular) = self.plan.regular else { return };
        let now = Instant::now();
        let cost = Duration::from_secs_f64(self.last_cost());
        let end = self.launch.job.machine.as_ref().and_then(interval::known_end);
        let left = end.and_then(|end| Duration::try_from_secs_f64(end - clock::now()).ok());
        let deadline =
            left.and_then(|left| left.checked_sub(interval::margin(cost))).and_then(|left| now.checked_add(left));
        let (at, reason) = match deadline {
            Some(deadline) if deadline < regular => (deadline, Reason::Deadline),
            _ => (regular, Reason::Interval),
        };
        self.plan.next = Some((at, reason));
        let seconds = at.saturating_duration_since(now).as_secs_f64();
        tracing::info!(seconds, %reason, "next checkpoint");
    }

    /// Seconds that the last checkpoint cost the payload; before the first, what a small one costs.
    fn last_cost(&self) -> f64 {
        /// Measured on a real pool: exit 85 to running again takes 1 to 2 s for a small job (docs/measurements.md, "The
        /// price of a restart in place").
        const SMALL: f64 = 2.0;
        let frozen = self.last_cost.map_or(0.0, |cost| cost.frozen_seconds);
        self.history.gap_seconds.unwrap_or(frozen + SMALL)
    }
}
