//! The supervisor's part in the early word: when the payload is looked at, and what is said, once, and taken back.

use std::collections::BTreeSet;
use std::time::Instant;

use super::early::{FACTOR, RARELY};
use super::event::{self, Event};
use super::supervisor::Supervisor;
use crate::host::scan::{self, Effect, Finding, Kind};
use crate::htcondor::chirp::Attribute;
use crate::journal::Record;
use crate::sandbox::compat;
use crate::supervise::machine::State;

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
                Effect::NotSaved => Record::EarlyWord(format!("the payload cannot be saved: {finding}")).tell(),
                Effect::Lost => Record::EarlyWord(finding.to_string()).tell(),
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
