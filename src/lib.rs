//! condor-criu: saves and restores any program that runs as an HTCondor job.
//!
//! The folders are the rooms of the house; a room imports only from rooms below it (docs/architecture.md). Data goes
//! one way: job ad and flags → settings → plan → sandbox → event loop → archive → exit status.

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
compile_error!(
    "condor-criu is for x86-64 Linux: the registers, system calls and images that it handles are that processor's"
);

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
pub mod procfs;
pub mod rehearse;
pub mod report;
pub mod sandbox;
pub mod say;
pub mod settings;
pub mod supervise;
