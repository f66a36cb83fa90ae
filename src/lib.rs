//! condor-criu: saves and restores any program that runs as an HTCondor job.
//!
//! The folders are the rooms of the house; a room knows only those above it in its need. Data goes one way:
//! job ad and flags → settings → plan → sandbox → event loop → archive → exit status.

pub mod checkpoint;
pub mod cli;
pub mod clock;
pub mod commands;
pub mod criu;
pub mod doctor;
pub mod exit;
pub mod host;
pub mod htcondor;
pub mod journal;
pub mod name;
pub mod rehearse;
pub mod report;
pub mod sandbox;
pub mod say;
pub mod settings;
pub mod supervise;
