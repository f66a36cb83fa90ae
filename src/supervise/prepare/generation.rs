//! Which generation a start goes on from: the newest, the one before it, or none.
//!
//! A generation is given up only when it proves unreadable, or when two hosts in a row have tried to restore it and
//! failed. A host that refuses before it tries (another processor, say) says nothing about the checkpoint. What follows
//! then is the setting `on_unrestorable`, and it is always said.

use std::path::Path;

use crate::checkpoint::commit::Place;
use crate::exit::{Exit, Failure};
use crate::htcondor::Job;
use crate::settings::{OnUnrestorable, Settings};
use crate::supervise::work::unpack::{self, Opened};

/// So many hosts in a row are no accident of one host.
const HOSTS: i64 = 2;

/// What to go on from.
pub enum Chosen {
    /// Nothing has been saved yet.
    Nothing,
    /// The newest generation.
    Newest(Opened),
    /// The one before it; what is newer is given up for this reason.
    Previous(Opened, String),
    /// Nothing that can be restored, for this reason, and the job is to begin again. What there is may be whole.
    Restart(String, Option<Opened>),
}

/// Opens what there is. Where something follows from damage every byte of the newest is read first, in `threads`
/// threads: damage that shows in the middle of a restore would come too late.
///
/// # Errors
/// What there is cannot be used here (75), or not at all (125).
pub fn choose(place: &Place, settings: &Settings, job: &Job, threads: usize) -> Result<Chosen, Failure> {
    let spare = place.previous.as_deref().filter(|path| path.metadata().is_ok_and(|metadata| metadata.len() > 0));
    let follows = matches!(settings.on_unrestorable, OnUnrestorable::Requeue | OnUnrestorable::Restart);
    let broken = match open(&place.newest, follows || spare.is_some(), threads) {
        Ok(Some(newest)) => match job.failed_restores() {
            failed if failed < HOSTS => return Ok(Chosen::Newest(newest)),
            failed => Broken { why: format!("{failed} hosts in a row could not restore it"), intact: Some(newest) },
        },
        Ok(None) => match spare {
            None => return Ok(Chosen::Nothing),
            Some(_) => Broken { why: "it is not there".into(), intact: None },
        },
        Err(failure) if failure.exit == Exit::CannotRestoreHere => return Err(failure),
        Err(failure) => Broken { why: failure.why, intact: None },
    };
    let generation = broken.intact.as_ref().map_or(String::new(), |opened| format!(" {}", opened.manifest.generation));
    let what = format!("the newest generation{generation} cannot be restored: {}", broken.why);
    match settings.on_unrestorable {
        OnUnrestorable::Requeue => return broken.stand(place, Exit::CannotRestoreHere),
        OnUnrestorable::Hold => return Err(broken.failure(place, Exit::CannotStart)),
        OnUnrestorable::Previous | OnUnrestorable::Restart => {}
    }
    match spare.map(|path| open(path, true, threads)) {
        Some(Ok(Some(previous))) => return Ok(Chosen::Previous(previous, what)),
        Some(Err(failure)) if failure.exit == Exit::CannotRestoreHere => return Err(failure),
        Some(Err(failure)) => tracing::error!("{failure}"),
        None | Some(Ok(None)) => {}
    }
    match settings.on_unrestorable {
        OnUnrestorable::Restart => Ok(Chosen::Restart(what, broken.intact)),
        // One that is whole may still find a host that can.
        _ => broken.stand(place, Exit::CannotStart),
    }
}

fn open(path: &Path, verify: bool, threads: usize) -> Result<Option<Opened>, Failure> {
    let opened = unpack::open(path)?;
    match &opened {
        Some(opened) if verify => opened.reader.verify(threads).map_err(|error| unpack::unusable(path, &error))?,
        _ => {}
    }
    Ok(opened)
}

/// Why the newest generation is given up, and itself if it is whole.
struct Broken {
    why: String,
    intact: Option<Opened>,
}

impl Broken {
    /// What is whole is tried once more; what is not ends with `exit`.
    fn stand(mut self, place: &Place, exit: Exit) -> Result<Chosen, Failure> {
        match self.intact.take() {
            Some(newest) => Ok(Chosen::Newest(newest)),
            None => Err(self.failure(place, exit)),
        }
    }

    fn failure(&self, place: &Place, exit: Exit) -> Failure {
        Failure::start(unpack::what(&place.newest), &self.why)
            .with_remedy(
                "the file is left as it was; take it away to start from the beginning, put back a copy that is whole, or say with \
                 on_unrestorable what is to follow",
            )
            .with_exit(exit)
    }
}
