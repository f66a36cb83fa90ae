//! The commands and flags: declarations only.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::host::baseline::Baseline;
use crate::host::privilege::Mode;
use crate::journal::LogFormat;
use crate::sandbox::compat::Compat;
use crate::settings::OnUnrestorable;
use crate::settings::words::{self, OneOf};

/// Saves and restores any program that runs as an HTCondor job.
#[derive(Debug, Parser)]
#[command(name = "condor-criu", version, about, max_term_width = 120)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// The job's executable: start or restore a program, supervise it, checkpoint it
    Run(Run),
    /// Try a program with evictions before submitting it, and compare with an uninterrupted run
    Rehearse(Rehearse),
    /// What this host can do, by really saving and restoring a small tree of processes
    Doctor {
        /// As JSON
        #[arg(long)]
        json: bool,
        /// Run the program this long before it is saved
        #[arg(long, value_name = "DUR", default_value = "10s", value_parser = humantime::parse_duration)]
        after: std::time::Duration,
        /// The settings among the flags.
        #[command(flatten)]
        settings: SettingsFlags,
        /// Also try this program, in a temporary directory with the files of this one that it names
        #[arg(trailing_var_arg = true, value_name = "PROGRAM")]
        command: Vec<OsString>,
    },
    /// The same as ClassAd attributes, for STARTD_CRON
    Advertise {
        /// The settings among the flags.
        #[command(flatten)]
        settings: SettingsFlags,
    },
    /// One executable that is condor-criu and carries CRIU with its libraries
    Bundle {
        /// Where to write it
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,
        /// The criu to carry: the executable, or a folder with criu and its libraries [default: as run finds it]
        #[arg(long, value_name = "PATH")]
        criu: Option<PathBuf>,
    },
    /// The timeline of jobs as one HTML page: running, saving, moving, lost
    Report {
        /// HTCondor's user logs (`log =` in a submit file), and condor-criu.log files that are not beside them
        #[arg(required = true, value_name = "USERLOG")]
        logs: Vec<PathBuf>,
        /// Where to write the page
        #[arg(short, long, value_name = "FILE.html")]
        output: PathBuf,
    },
    /// Turn a submit file into a checkpointing one
    Wrap {
        /// The submit file; - for standard input
        #[arg(value_name = "JOB.sub")]
        submit: PathBuf,
        /// Where to write the result [default: standard output]
        #[arg(short, long, value_name = "OUT.sub")]
        output: Option<PathBuf>,
        /// The condor-criu that jobs are to run, a bundle for instance [default: this executable]
        #[arg(long, value_name = "PATH")]
        executable: Option<PathBuf>,
    },
    /// What doctor and advertise save and restore
    #[command(hide = true)]
    Probe,
    /// What a checkpoint holds and what it needs from a host
    Inspect {
        /// The checkpoint
        checkpoint: PathBuf,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Read every byte of a checkpoint against its digests
    Verify {
        /// The checkpoint
        checkpoint: PathBuf,
    },
    /// Plain CRIU images and files, for crit and friends
    Extract {
        /// The checkpoint
        checkpoint: PathBuf,
        /// Made if it does not exist
        directory: PathBuf,
    },
}

/// `condor-criu run`
#[derive(Debug, Args)]
// The last word counts, so that a flag can be added behind those of a user.
#[command(args_override_self = true)]
pub struct Run {
    /// The settings among the flags.
    #[command(flatten)]
    pub settings: SettingsFlags,
    /// Read the settings from this file instead of condor-criu.toml in the scratch directory
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The scratch directory [default: $_CONDOR_SCRATCH_DIR, or the working directory]
    #[arg(long, value_name = "DIR")]
    pub scratch: Option<PathBuf>,
    /// The program and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "PROGRAM")]
    pub command: Vec<OsString>,
}

/// `condor-criu rehearse`
#[derive(Debug, Args)]
pub struct Rehearse {
    /// Run this long between evictions [default: the evictions spread over the uninterrupted run]
    #[arg(long, value_name = "DUR", value_parser = humantime::parse_duration)]
    pub evict_every: Option<std::time::Duration>,
    /// How many evictions
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub evictions: u32,
    /// The vacate signal
    #[arg(long, value_name = "SIG", default_value = "SIGTERM", value_parser = signal)]
    pub signal: nix::sys::signal::Signal,
    /// Evict by SIGKILL and carry nothing, as a machine that dies does (use with --interval)
    #[arg(long)]
    pub hard: bool,
    /// Give the job this file or directory too (the program and arguments that name files here are given anyway)
    #[arg(long, value_name = "PATH")]
    pub transfer: Vec<PathBuf>,
    /// Make the scratch directories here and keep them
    #[arg(long, value_name = "DIR")]
    pub keep_in: Option<PathBuf>,
    /// Write a page with the timeline of both runs
    #[arg(long, value_name = "FILE.html")]
    pub report: Option<PathBuf>,
    /// The settings among the flags.
    #[command(flatten)]
    pub settings: SettingsFlags,
    /// The program and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "PROGRAM")]
    pub command: Vec<OsString>,
}

fn signal(text: &str) -> Result<nix::sys::signal::Signal, String> {
    crate::htcondor::job::parse_signal(text).ok_or_else(|| format!("there is no signal {text}"))
}

/// Flags that are settings; the same can be said by environment, job ad and settings file.
#[derive(Debug, Clone, Args, Default)]
pub struct SettingsFlags {
    /// The criu executable, or a folder with criu and its libraries
    #[arg(long, value_name = "PATH")]
    pub criu: Option<String>,
    /// Where criu's rights come from
    #[arg(long, value_name = "WHICH", value_parser = OneOf::<Mode>::FLAG)]
    pub mode: Option<String>,
    /// How often to checkpoint while running: a duration (15min, 1h), auto or never
    #[arg(long, value_name = "DUR")]
    pub interval: Option<String>,
    /// When the first checkpoint comes at the latest: a duration or never
    #[arg(long, value_name = "DUR")]
    pub first_checkpoint: Option<String>,
    /// How a checkpoint is compressed: auto, none, zstd, zstd:LEVEL or gzip
    #[arg(long, value_name = "HOW")]
    pub compression: Option<String>,
    /// Which network the program has
    #[arg(long, value_name = "WHICH", value_parser = OneOf::<words::Network>::FLAG)]
    pub network: Option<String>,
    /// Preload the compatibility helper
    #[arg(long, value_name = "WHEN", value_parser = OneOf::<Compat>::FLAG)]
    pub compat: Option<String>,
    /// What the program may use of the processor
    #[arg(long, value_name = "LEVEL", value_parser = OneOf::<Baseline>::FLAG)]
    pub cpu_baseline: Option<String>,
    /// Which of the host's files travel with a checkpoint: auto, none, or patterns
    #[arg(long, value_name = "PATTERNS")]
    pub carry_files: Option<String>,
    /// How many generations to keep: 1 or 2
    #[arg(long, value_name = "N")]
    pub keep: Option<String>,
    /// When the newest checkpoint cannot be restored
    #[arg(long, value_name = "WHAT", value_parser = OneOf::<OnUnrestorable>::FLAG)]
    pub on_unrestorable: Option<String>,
    /// What to do with a checkpoint of another user
    #[arg(long, value_name = "WHAT", value_parser = OneOf::<words::Foreign>::FLAG)]
    pub foreign: Option<String>,
    /// Threads for packing; 0 means as many as the slot has cpus
    #[arg(long, value_name = "N")]
    pub threads: Option<String>,
    /// How condor-criu.log is written
    #[arg(long, value_name = "HOW", value_parser = OneOf::<LogFormat>::FLAG)]
    pub log_format: Option<String>,
    /// How much is written there
    #[arg(long, value_name = "LEVEL", value_parser = OneOf::<words::LogLevel>::FLAG)]
    pub log_level: Option<String>,
}

impl SettingsFlags {
    /// As the strongest layer of settings.
    pub fn layer(self) -> crate::settings::Layer {
        let given = [
            ("criu", self.criu),
            ("mode", self.mode),
            ("interval", self.interval),
            ("first_checkpoint", self.first_checkpoint),
            ("compression", self.compression),
            ("network", self.network),
            ("compat", self.compat),
            ("cpu_baseline", self.cpu_baseline),
            ("carry_files", self.carry_files),
            ("keep", self.keep),
            ("on_unrestorable", self.on_unrestorable),
            ("foreign", self.foreign),
            ("threads", self.threads),
            ("log_format", self.log_format),
            ("log_level", self.log_level),
        ];
        let values = given.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?)));
        crate::settings::Layer { origin: "the command line".into(), values: values.collect() }
    }

    /// As flags again, for another condor-criu.
    pub fn flags(self) -> Vec<OsString> {
        let flag = |(key, value): (String, String)| format!("--{}={value}", key.replace('_', "-")).into();
        self.layer().values.into_iter().map(flag).collect()
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn no_command_has_a_flag_twice() {
        <super::Cli as clap::CommandFactory>::command().debug_assert();
    }
}
