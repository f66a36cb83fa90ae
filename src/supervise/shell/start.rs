//! From a launch to a supervisor that listens: the sandbox first, while there is one thread, then the threads that tell
//! of events.

use std::time::Duration;

use crossbeam_channel::Sender;
use signal_hook::iterator::Signals;

use super::clock_watch;
use super::event::{self, Event};
use super::starter_watch;
use super::supervisor::{Parts, Supervisor};
use crate::checkpoint::Inputs;
use crate::exit::{Exit, Failure};
use crate::host::cpu;
use crate::htcondor::advice::{advice, previous_not_carried};
use crate::htcondor::chirp::{Attribute, Chirp};
use crate::journal;
use crate::sandbox::Sandbox;
use crate::supervise::prepare::launch::Launch;
use crate::supervise::work::relay::Relays;

impl Supervisor {
    /// Makes the sandbox and listens. This process must have one thread.
    pub fn start(launch: Launch, signals: Signals) -> Result<Supervisor, Failure> {
        // Once there is a checkpoint, another host can go on with it.
        let exit = if launch.opened.is_some() { Exit::CannotRestoreHere } else { Exit::CannotStart };
        let cannot = |error: std::io::Error| Failure::start("cannot start", error).with_exit(exit);
        let pipes = Relays::prepare(&launch.relayed, &launch.job.scratch).map_err(cannot)?;
        let inputs = match &launch.opened {
            Some(_) => Inputs::default(),
            None => Inputs::at_first_start(&launch.job.scratch, &launch.not_carried).map_err(cannot)?,
        };
        let sandbox = launch.sandbox()?;
        // Threads only from here on: the init is a copy of this process.
        let (sender, events) = crossbeam_channel::unbounded();
        watch(&launch, &sandbox, signals, &sender).map_err(cannot)?;
        let said = sender.clone();
        let relays = Relays::start(pipes, move |what| drop(said.send(Event::Relays(what)))).map_err(cannot)?;
        let user_log = launch.job.ad.as_ref().and_then(|ad| ad.boolean("WantIOProxy")) == Some(true);
        let chirp = Chirp::start(launch.job.chirp_config(), user_log);
        let advice = tell_first(&launch, &chirp);
        Ok(Supervisor::new(Parts { launch, sandbox, events, sender, relays, inputs, chirp, advice }))
    }
}

fn watch(launch: &Launch, sandbox: &Sandbox, signals: Signals, sender: &Sender<Event>) -> std::io::Result<()> {
    event::watch_signals(signals, sender.clone())?;
    event::watch_sandbox(sandbox.events()?, sender.clone())?;
    if launch.job.under_htcondor()
        && let Err(error) = starter_watch::watch_starter(sender.clone())
    {
        tracing::debug!("cannot see whether the starter lives: {error}");
    }
    if let Err(error) = clock_watch::watch(sender.clone()) {
        tracing::debug!("cannot see whether the clock is set: {error}");
    }
    Ok(())
}

/// What the log and the pool are told before anything happens; returns the advice that stands.
fn tell_first(launch: &Launch, chirp: &Chirp) -> String {
    let job = &launch.job;
    let last_cost = launch.opened.as_ref().map(|opened| opened.manifest.cost);
    let last_dump = last_cost.map(|cost| Duration::from_secs_f64(cost.frozen_seconds.clamp(0.0, 1e9)));
    let name = launch.place.newest.file_name().unwrap_or_default().to_string_lossy();
    let mut advice = advice(job, &name, journal::NAME, last_dump);
    let previous = launch.place.previous.as_ref().and_then(|path| path.file_name()?.to_str());
    advice.extend(previous.and_then(|name| previous_not_carried(job, name)));
    for piece in &advice {
        tracing::warn!("{piece}");
    }
    if launch.from_previous {
        advice.push("the newest checkpoint could not be restored: going on from the one before it".to_owned());
    }
    let advice = advice.join("; ");
    if !advice.is_empty() {
        chirp.tell(Attribute::Warning(advice.clone()));
    }
    chirp.tell(Attribute::Microarch(cpu::level(&launch.cpu.needs).microarch()));
    if job.told_of_an_end_in_this_attempt() {
        // HTCondor took it for an eviction, and the payload goes on from before it.
        chirp.tell(Attribute::EndedAttempt(-1));
    }
    advice
}
