//! The supervisor's part in the early word: when the payload is looked at, and what is said, once, and taken back.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::super::machine::State;
use super::event::{self, Event};
use super::supervisor::Supervisor;
use crate::host::scan::{self, Effect, Finding, Kind};
use crate::htcondor::chirp::Attribute;
use crate::sandbox::compat;

/// When a payload that has begun, or goes on here, is looked at first: it has then loaded what it needs.
pub const FIRST: Duration = Duration::from_secs(5);
/// Each time is this much later than the one before, up to [`RARELY`].
const FACTOR: u32 = 6;
/// A look at a hundred processes costs some milliseconds; so often it is nothing.
const RARELY: Duration = Duration::from_secs(30 * 60);

/// What is known of the payload, and when it is looked at again.
#[derive(Debug, Default)]
pub(super) struct Early {
    next: Option<Instant>,
    wait: Duration,
    findings: Vec<Finding>,
    /// What was said to be in the way of a checkpoint that succeeded: it is not said again.
    refuted: BTreeSet<Kind>,
}

impl Early {
    /// The payload runs, from its start or again.
    pub(super) fn begin(&mut self) {
        self.wait = FIRST;
        self.next = Some(Instant::now() + FIRST);
    }

    /// When the payload is to be looked at.
    pub(super) fn due(&self) -> Option<Instant> {
        self.next
    }

    /// It has been saved, against what was said: that is no longer true. Whether something was said.
    pub(super) fn was_wrong(&mut self) -> bool {
        let (wrong, right) = std::mem::take(&mut self.findings)
            .into_iter()
            .partition::<Vec<_>, _>(|finding| finding.kind.effect() == Effect::NotSaved);
        self.findings = right;
        let any = !wrong.is_empty();
        self.refuted.extend(wrong.into_iter().map(|finding| finding.kind));
        any
    }
}

/// What a person is told: the first process of each kind, once, however often others take its place.
fn kinds(findings: &[Finding]) -> BTreeSet<&Kind> {
    findings.iter().map(|finding| &finding.kind).collect()
}

impl Supervisor {
    /// Looks at the payload in a thread: a vacate does not wait for it.
    pub(super) fn begin_scan(&mut self) {
        self.early.wait = (self.early.wait * FACTOR).min(RARELY);
        self.early.next = Some(Instant::now() + self.early.wait);
        // What is stopped or not yet there is looked at the next time.
        if !matches!(self.machine.state(), State::Running { .. }) {
            return;
        }
        compat::sweep(self.sandbox.shm());
        let (proc, network, sender) = (self.sandbox.proc(), self.launch.plan.network, self.sender.clone());
        let looked = event::spawn("scan", move || drop(sender.send(Event::Scanned(scan::scan(&proc, network)))));
        if let Err(error) = looked {
            tracing::debug!("cannot look at the payload: {error}");
        }
    }

    pub(super) fn scanned(&mut self, mut findings: Vec<Finding>) {
        findings.retain(|finding| !self.early.refuted.contains(&finding.kind));
        let (before, now) = (kinds(&self.early.findings), kinds(&findings));
        if before == now {
            return;
        }
        for finding in findings.iter().filter(|finding| !before.contains(&finding.kind)) {
            match finding.kind.effect() {
                Effect::NotSaved => tracing::warn!("early word: the payload cannot be saved: {finding}"),
                Effect::Lost => tracing::warn!("early word: {finding}"),
            }
        }
        if now.is_empty() {
            tracing::info!("early word: nothing is in the way of a checkpoint any more");
        }
        self.early.findings = findings;
        self.chirp.tell(Attribute::Warning(self.standing_warning()));
    }

    /// What the user should know as long as nothing worse has happened.
    pub(super) fn standing_warning(&self) -> String {
        let word = |finding: &Finding| match finding.kind.effect() {
            Effect::NotSaved => format!("cannot be saved: {finding}"),
            Effect::Lost => finding.to_string(),
        };
        let mut words: Vec<String> = self.early.findings.iter().map(word).collect();
        if !self.advice.is_empty() {
            words.push(self.advice.clone());
        }
        words.join("; ")
    }
}
