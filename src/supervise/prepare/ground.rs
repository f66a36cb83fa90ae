//! The second step: which generation the job goes on from, if there is one, and whether it is ours.

use std::path::PathBuf;
use std::sync::Arc;

use super::found::Found;
use super::generation::{self, Chosen};
use super::{fresh_start, ownership, threads};
use crate::exit::Failure;
use crate::supervise::work::stdio::{self, Stream};
use crate::supervise::work::unpack::Opened;

/// What the job goes on from.
pub(super) struct Ground {
    /// The standard streams.
    pub(super) streams: [Stream; 3],
    /// What to restore, if there is something.
    pub(super) opened: Option<Arc<Opened>>,
    /// It is the generation before the newest, which is given up.
    pub(super) from_previous: bool,
    /// The file that it is in.
    pub(super) checkpoint: PathBuf,
}

impl Ground {
    /// Chooses, and clears away what the choice leaves behind.
    pub(super) fn choose(found: &mut Found) -> Result<Ground, Failure> {
        let Found { job, settings, .. } = &*found;
        let streams = stdio::of_this_process(&job.scratch);
        let afresh = |before: Option<&Opened>, why: &str| fresh_start::begin(job, &found.place, before, &streams, why);
        let mut from_previous = false;
        let mut opened = match generation::choose(&found.place, settings, job, threads(settings, job))? {
            Chosen::Nothing => None,
            Chosen::Newest(newest) => Some(newest),
            Chosen::Previous(previous, why) => {
                let generation = previous.manifest.generation;
                tracing::warn!(generation, "{why}; going on from the generation before it");
                from_previous = true;
                Some(previous)
            }
            Chosen::Restart(why, intact) => {
                afresh(intact.as_ref(), &format!("{why}, and on_unrestorable = \"restart\""))?;
                None
            }
        };
        let of_before = opened.as_ref().is_some_and(|opened| job.is_retry_of(opened.manifest.attempt));
        if of_before || (found.told_before() && opened.is_none()) {
            afresh(opened.as_ref(), "the payload had ended by itself, and the job is run again")?;
            opened = None;
        }
        found.place.look();
        let checkpoint = match &found.place.previous {
            Some(previous) if from_previous => previous.clone(),
            _ => found.place.newest.clone(),
        };
        if let Some(opened) = opened.as_ref().filter(|_| !found.settings.foreign) {
            ownership::is_ours(&checkpoint, opened, &found.job)?;
        }
        Ok(Ground { streams, opened: opened.map(Arc::new), from_previous, checkpoint })
    }
}
