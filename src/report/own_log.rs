//! condor-criu's own log beside a job's events: which checkpoints there were, and when the program stood still for
//! them.

use std::time::UNIX_EPOCH;

use super::model::{Checkpoint, Job, Kind, Stretch};
use crate::journal::{Line, Record};

/// The checkpoints in a log, each with the job that the log names (`12.0`; empty outside HTCondor).
pub fn checkpoints(text: &str) -> Vec<(String, Checkpoint)> {
    let mut job = String::new();
    let mut found = Vec::new();
    for Line { time, record } in text.lines().filter_map(Line::parse) {
        let at = time.and_then(|time| time.duration_since(UNIX_EPOCH).ok()).map(|since| since.as_secs_f64());
        match (at, record) {
            (_, Some(Record::Started { job: name, .. })) => job = name,
            (Some(at), Some(Record::Committed { generation, reason, frozen_seconds, commit_seconds, bytes })) => {
                let checkpoint =
                    Checkpoint { at, generation, reason, bytes, frozen: frozen_seconds, commit: commit_seconds };
                found.push((job.clone(), checkpoint));
            }
            _ => {}
        }
    }
    found
}

/// Whether a text is a log of ours.
pub fn is_ours(text: &str) -> bool {
    text.lines().take(5).any(|line| matches!(Record::parse(line), Some(Record::Started { .. })))
}

/// Adds a checkpoint to its job: the time that the program stood still is cut out of its running, or of the upload that
/// followed, whose beginning a user log tells in whole seconds.
pub fn add(job: &mut Job, checkpoint: Checkpoint) {
    let from = checkpoint.at - checkpoint.commit;
    let to = from + checkpoint.frozen;
    let mut stretches = Vec::with_capacity(job.stretches.len() + 2);
    for stretch in job.stretches.drain(..) {
        let inside = matches!(stretch.kind, Kind::Running | Kind::Lost | Kind::Uploading)
            && from < stretch.to
            && to > stretch.from;
        if !inside {
            stretches.push(stretch);
            continue;
        }
        let (from, to) = (from.max(stretch.from), to.min(stretch.to));
        let parts = [(stretch.kind, stretch.from, from), (Kind::Frozen, from, to), (stretch.kind, to, stretch.to)];
        for (kind, from, to) in parts.into_iter().filter(|(_, from, to)| to > from) {
            stretches.push(Stretch { kind, from, to, host: stretch.host.clone() });
        }
    }
    job.stretches = stretches;
    job.checkpoints.push(checkpoint);
    job.checkpoints.sort_by(|a, b| a.at.total_cmp(&b.at));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::model::Standing;

    const LOG: &str = "2026-11-24T10:00:00.000000Z  INFO starting version=\"0.1.0\" scratch=/x job=\"7.0\"\n\
        2026-11-24T10:00:20.500000Z  INFO committed generation=1 reason=interval frozen_seconds=1.0 commit_seconds=1.5 bytes=1000\n\
        2026-11-24T10:00:21Z  INFO ending exit=Checkpointed(85)\n";

    #[test]
    fn a_checkpoint_is_cut_out_of_the_running() {
        assert!(is_ours(LOG) && !is_ours("000 (1.0.0) 11/24 x\n...\n"));
        let found = checkpoints(LOG);
        assert_eq!((found.len(), found[0].0.as_str(), found[0].1.generation), (1, "7.0", 1));
        let at = found[0].1.at;
        let running = Stretch { kind: Kind::Running, from: at - 20.0, to: at + 0.5, host: None };
        let mut job = Job {
            name: "7.0".into(),
            stretches: vec![running],
            checkpoints: vec![],
            standing: Standing::Running,
            cpus: 1.0,
            evictions: 0,
            saved: 0.0,
        };
        add(&mut job, found[0].1.clone());
        let kinds: Vec<Kind> = job.stretches.iter().map(|stretch| stretch.kind).collect();
        assert_eq!(kinds, [Kind::Running, Kind::Frozen, Kind::Running]);
        assert_eq!((job.seconds(Kind::Frozen), job.seconds(Kind::Running)), (1.0, 19.5));
    }
}
