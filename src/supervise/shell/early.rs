//! What is known of a payload before it is saved.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::host::scan::{Effect, Finding, Kind};

/// When a payload that has begun, or goes on here, is looked at first: it has then loaded what it needs.
pub const FIRST: Duration = Duration::from_secs(5);
/// Each time is this much later than the one before, up to [`RARELY`].
pub const FACTOR: u32 = 6;
/// A look at a hundred processes costs some milliseconds; so often it is nothing.
pub const RARELY: Duration = Duration::from_secs(30 * 60);

/// What is known of the payload, and when it is looked at again.
#[derive(Debug, Default)]
pub struct Early {
    /// When it is looked at again.
    pub next: Option<Instant>,
    /// How long that is after the last time.
    pub wait: Duration,
    /// What was found.
    pub findings: Vec<Finding>,
    /// What was said to be in the way of a checkpoint that succeeded: it is not said again.
    pub refuted: BTreeSet<Kind>,
}

impl Early {
    /// The payload runs, from its start or again.
    pub fn begin(&mut self) {
        self.wait = FIRST;
        self.next = Some(Instant::now() + FIRST);
    }

    /// When the payload is to be looked at.
    pub fn due(&self) -> Option<Instant> {
        self.next
    }

    /// It has been saved, against what was said: that is no longer true. Whether something was said.
    pub fn was_wrong(&mut self) -> bool {
        let (wrong, right) = std::mem::take(&mut self.findings)
            .into_iter()
            .partition::<Vec<_>, _>(|finding| finding.kind.effect() == Effect::NotSaved);
        self.findings = right;
        let any = !wrong.is_empty();
        self.refuted.extend(wrong.into_iter().map(|finding| finding.kind));
        any
    }
}
