//! When the next checkpoint is due, and why.

use std::time::{Duration, Instant};

use crate::checkpoint::Reason;

/// A cause that may be gone in a moment is tried again so soon.
const SOON: Duration = Duration::from_secs(1);

/// When the next checkpoint is due, and why.
#[derive(Debug, Default)]
pub struct Plan {
    /// And why.
    pub next: Option<(Instant, Reason)>,
    /// When it would be due if no end of the slot were known.
    pub regular: Option<Instant>,
}

impl Plan {
    /// When it is due.
    pub fn due(&self) -> Option<Instant> {
        self.next.map(|(at, _)| at)
    }

    /// Why it is taken, if the time has come.
    pub fn take_due(&mut self, now: Instant) -> Option<Reason> {
        self.next.take_if(|(at, _)| *at <= now).map(|(_, reason)| reason)
    }

    /// In a moment.
    pub fn soon(&mut self, reason: Reason) {
        *self = Plan { next: Some((Instant::now() + SOON, reason)), regular: None };
    }

    /// Never.
    pub fn none(&mut self) {
        *self = Plan::default();
    }
}
