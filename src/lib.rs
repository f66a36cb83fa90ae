//! condor-criu: saves and restores any program that runs as an HTCondor job.
//!
//! The folders are the rooms of the house; a room knows only those above it in its need. Data goes one way:
//! job ad and flags → settings → plan → sandbox → event loop → archive → exit status.

pub mod checkpoint;
pub mod criu;
