//! The shell around the machine: it turns what happens into inputs, and actions into deeds. What it keeps is what deeds
//! need (descriptors, threads, figures); what decides is in [`super::machine`].

mod checkpoint;
mod clock_watch;
mod deeds;
pub mod early;
mod early_scan;
mod end;
pub mod event;
mod plan;
mod restore;
mod schedule;
mod signal;
mod start;
mod starter_watch;
mod supervisor;

pub(super) use supervisor::{Ending, Supervisor};
