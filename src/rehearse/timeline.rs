//! A rehearsal as the jobs of a report: the uninterrupted run, and the one with evictions.

use super::Options;
use super::life::{Ending, Eviction, EvictionKind, Life, host};
use crate::exit::Ended;
use crate::journal;
use crate::report::model::{Job, Kind, Standing, Stretch};
use crate::report::own_log;
use crate::report::page::About;

/// The page's words.
pub(super) fn about(program: &str, options: &Options, differences: &[String], evictions: usize) -> About {
    let verdict = if !differences.is_empty() {
        format!("{program} cannot be checkpointed as it is: {}.", differences.join("; "))
    } else if evictions == 0 {
        format!("{program} ended before it could be evicted: nothing is known.")
    } else {
        format!(
            "{program} can be checkpointed: after {evictions} evictions exit status, stdout, stderr and every file are as without one."
        )
    };
    let how = if options.hard { "by SIGKILL, with nothing carried" } else { "by the vacate signal" };
    About {
        title: format!("Rehearsal of {program}"),
        words: vec![verdict],
        notes: vec![format!(
            "The program ran once without evictions, then again with evictions {how}, each restart in another directory. Lost is what it had done \
             since the checkpoint that it went on from. There is no queue and no network here: the time between two lives is that of a local copy."
        )],
    }
}

/// The two jobs.
pub(super) fn jobs(peace: &Life, last: &Life, evictions: &[Eviction]) -> Vec<Job> {
    let undisturbed = job("uninterrupted", vec![stretch(peace)], peace);
    let mut stretches = Vec::new();
    let (mut saved, mut since_eviction) = (0.0, 0.0);
    for eviction in evictions {
        let life = Stretch {
            kind: Kind::Running,
            from: eviction.began,
            to: eviction.ended,
            host: Some(eviction.host.clone()),
        };
        if let Some(before) = stretches.last().map(|last: &Stretch| last.to) {
            stretches.push(Stretch { kind: Kind::Transferring, from: before, to: life.from, host: None });
        }
        // SIGKILL loses this life's work: what a life has saved ends it. Each eviction would have lost all since the
        // one before.
        if eviction.kind != EvictionKind::Hard {
            since_eviction += life.seconds();
        }
        if eviction.takes_away() {
            saved += std::mem::take(&mut since_eviction);
        }
        let kind = if eviction.kind == EvictionKind::Hard { Kind::Lost } else { Kind::Running };
        stretches.push(Stretch { kind, ..life });
    }
    if let Some(before) = stretches.last().map(|last| last.to) {
        stretches.push(Stretch { kind: Kind::Transferring, from: before, to: last.began, host: None });
    }
    stretches.push(stretch(last));
    let mut evicted = job("with evictions", stretches, last);
    evicted.evictions = evictions.iter().filter(|eviction| eviction.takes_away()).count();
    evicted.saved = saved;
    for (_, checkpoint) in own_log::checkpoints(&journal::read(&last.scratch)) {
        own_log::add(&mut evicted, checkpoint);
    }
    vec![undisturbed, evicted]
}

fn stretch(life: &Life) -> Stretch {
    Stretch { kind: Kind::Running, from: life.began, to: life.ended, host: Some(host(&life.scratch)) }
}

fn job(name: &str, stretches: Vec<Stretch>, life: &Life) -> Job {
    let standing = match &life.ending {
        Ending::Payload(Ended::Exited(code)) => Standing::Exited((*code).into()),
        Ending::Payload(Ended::Signaled(number)) => Standing::Signaled((*number).into()),
        Ending::Ours(_) => Standing::Held,
    };
    Job { name: name.into(), stretches, checkpoints: Vec::new(), standing, cpus: 1.0, evictions: 0, saved: 0.0 }
}
