//! The job as HTCondor presents it: where the scratch directory is, what the ads promise. Outside HTCondor there is
//! neither ad, and that is said, not an error.

use std::env;
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;

use super::ClassAd;

/// The attribute by which we tell the queue, and the next start, how many hosts in a row could not restore the newest
/// checkpoint.
pub const FAILED_RESTORES: &str = "ChirpCriuFailedRestores";

/// The attribute by which we tell the queue, and the next start, which machine could not restore the checkpoint.
pub const REFUSED_BY: &str = "ChirpCriuRefusedBy";

/// The attribute by which we tell the queue, and the next start, in which attempt the payload last ended by itself.
/// Without it an exit with 75 and a payload's own end look the same to the next start: evictions overwrite `ExitCode`,
/// and 25.14 has no `ToE`.
pub const ENDED_ATTEMPT: &str = "ChirpCriuEndedAttempt";

/// What the starter told this job.
#[derive(Debug, Clone)]
pub struct Job {
    /// The scratch directory, without symbolic links.
    pub scratch: PathBuf,
    /// The job ad.
    pub ad: Option<ClassAd>,
    /// The machine ad.
    pub machine: Option<ClassAd>,
}

impl Job {
    /// From the environment that a starter makes: `_CONDOR_SCRATCH_DIR`, `_CONDOR_JOB_AD`, `_CONDOR_MACHINE_AD`.
    /// `scratch`, if given, wins; without either it is the working directory.
    pub fn from_environment(scratch: Option<&Path>) -> std::io::Result<Job> {
        let scratch = match scratch {
            Some(path) => path.to_path_buf(),
            None => match env::var_os("_CONDOR_SCRATCH_DIR") {
                Some(path) => PathBuf::from(path),
                None => env::current_dir()?,
            },
        };
        let scratch = scratch.canonicalize()?;
        let read = |variable, name| {
            let path = env::var_os(variable).map_or_else(|| scratch.join(name), PathBuf::from);
            ClassAd::read(&path).ok()
        };
        Ok(Job { ad: read("_CONDOR_JOB_AD", ".job.ad"), machine: read("_CONDOR_MACHINE_AD", ".machine.ad"), scratch })
    }

    /// Whether a starter runs us.
    pub fn under_htcondor(&self) -> bool {
        self.ad.is_some()
    }

    /// The exit code that HTCondor takes for a checkpoint, if the job promises one.
    pub fn checkpoint_code(&self) -> Option<u8> {
        let ad = self.ad.as_ref()?;
        // Submit sets it with the code, a transform does not. Without it the code would be the end of the job; without
        // a code, a plain exit 0 would be "the checkpoint", and nobody wants that (docs/measurements.md, "HTCondor's
        // checkpoint attributes").
        if ad.boolean("WantFTOnCheckpoint") != Some(true) {
            return None;
        }
        ad.integer("SuccessCheckpointExitCode").and_then(|code| u8::try_from(code).ok()).filter(|&code| code != 0)
    }

    /// The signal that `kill_sig` names.
    pub fn kill_signal(&self) -> Option<Signal> {
        signal_attribute(self.ad.as_ref()?, "KillSig")
    }

    /// The signal by which the startd asks for a periodic checkpoint.
    pub fn checkpoint_signal(&self) -> Option<Signal> {
        let ad = self.ad.as_ref()?;
        (ad.boolean("WantCheckpointSignal") == Some(true)).then(|| signal_attribute(ad, "CheckpointSig"))?
    }

    /// Where the starter's chirp socket is described.
    pub fn chirp_config(&self) -> Option<PathBuf> {
        self.ad.as_ref()?;
        Some(env::var_os("_CONDOR_CHIRP_CONFIG").map_or_else(|| self.scratch.join(".chirp.config"), PathBuf::from))
    }

    /// A name that no other job has, ever: `GlobalJobId`, or as much of it as there is.
    pub fn unique_id(&self) -> Option<String> {
        self.ad.as_ref()?.string("GlobalJobId").or_else(|| self.id())
    }

    /// Which attempt this is: how often HTCondor has seen the job end by itself so far (`NumJobCompletions`, which
    /// evictions do not change; measured on 23.9 and 25.14). An exit with 75 counts there, too.
    pub fn attempt(&self) -> i64 {
        self.ad.as_ref().and_then(|ad| ad.integer("NumJobCompletions")).unwrap_or(0)
    }

    /// Whether what was written in that attempt is of one that has ended by itself and was not the last: a policy
    /// (`max_retries`) runs the job again. An end that HTCondor took for an eviction is none: it has not counted it.
    pub fn is_retry_of(&self, attempt: i64) -> bool {
        let ended = self.ad.as_ref().and_then(|ad| ad.integer(ENDED_ATTEMPT));
        ended.is_some_and(|ended| attempt <= ended && ended < self.attempt())
    }

    /// Whose job it is: `user@domain`.
    pub fn user(&self) -> Option<String> {
        self.ad.as_ref()?.string("User")
    }

    /// How many hosts in a row have tried to restore the newest checkpoint and failed, as the queue has been told.
    pub fn failed_restores(&self) -> i64 {
        self.ad.as_ref().and_then(|ad| ad.integer(FAILED_RESTORES)).unwrap_or(0)
    }

    /// The same when this host has failed too: one that fails again is not counted again.
    pub fn failed_restores_with_this(&self) -> i64 {
        let last = self.ad.as_ref().and_then(|ad| ad.string(REFUSED_BY));
        let again = last.is_some() && last == self.machine.as_ref().and_then(|ad| ad.string("Machine"));
        let count = self.failed_restores();
        if again && count > 0 { count } else { count + 1 }
    }

    /// Whether the queue has been told of an end in this very attempt.
    pub fn told_of_an_end_in_this_attempt(&self) -> bool {
        self.ad.as_ref().and_then(|ad| ad.integer(ENDED_ATTEMPT)) == Some(self.attempt())
    }

    /// `cluster.proc`, if the ad has them.
    pub fn id(&self) -> Option<String> {
        let ad = self.ad.as_ref()?;
        Some(format!("{}.{}", ad.integer("ClusterId")?, ad.integer("ProcId")?))
    }
}

/// A signal by name, with or without SIG, or by number.
pub fn parse_signal(text: &str) -> Option<Signal> {
    let text = text.trim();
    if let Ok(number) = text.parse::<i32>() {
        return Signal::try_from(number).ok();
    }
    let name = text.to_ascii_uppercase();
    let name = if name.starts_with("SIG") { name } else { format!("SIG{name}") };
    name.parse().ok()
}

fn signal_attribute(ad: &ClassAd, name: &str) -> Option<Signal> {
    parse_signal(&ad.literal(name)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(text: &str) -> Job {
        Job { scratch: "/".into(), ad: Some(ClassAd::parse(text)), machine: None }
    }

    #[test]
    fn the_checkpoint_code_is_only_what_the_ad_promises() {
        let code = |code: i32| {
            job(&format!("SuccessCheckpointExitCode = {code}\nWantFTOnCheckpoint = true")).checkpoint_code()
        };
        assert_eq!((code(77), code(0), code(256)), (Some(77), None, None));
        assert_eq!(job("SuccessCheckpointExitCode = 77").checkpoint_code(), None);
        assert_eq!(job("WantFTOnCheckpoint = true").checkpoint_code(), None);
    }

    #[test]
    fn a_retry_is_what_htcondor_has_counted_and_we_have_told() {
        let retry = |ad: &str| job(ad).is_retry_of(1);
        assert!(retry("NumJobCompletions = 2\nChirpCriuEndedAttempt = 1"));
        assert!(retry("NumJobCompletions = 4\nChirpCriuEndedAttempt = 3"));
        // Nobody has told: the end that was counted may have been a 75.
        assert!(!retry("NumJobCompletions = 2"));
        // Told, and taken for an eviction.
        assert!(!retry("NumJobCompletions = 1\nChirpCriuEndedAttempt = 1"));
        // It is of a later attempt than the one that ended.
        assert!(!retry("NumJobCompletions = 2\nChirpCriuEndedAttempt = 0"));
    }

    #[test]
    fn hosts_that_fail_in_a_row_are_counted_once_each() {
        let count = |ad: &str, machine: &str| {
            let machine = Some(ClassAd::parse(&format!("Machine = \"{machine}\"")));
            Job { machine, ..job(ad) }.failed_restores_with_this()
        };
        assert_eq!(count("", "a"), 1);
        assert_eq!(count("ChirpCriuFailedRestores = 1\nChirpCriuRefusedBy = \"a\"", "a"), 1);
        assert_eq!(count("ChirpCriuFailedRestores = 1\nChirpCriuRefusedBy = \"a\"", "b"), 2);
        // It was refused here before anything was tried.
        assert_eq!(count("ChirpCriuRefusedBy = \"a\"", "a"), 1);
    }

    #[test]
    fn signals_by_name_and_number() {
        assert_eq!(job("KillSig = \"SIGTSTP\"").kill_signal(), Some(Signal::SIGTSTP));
        assert_eq!(job("KillSig = 15").kill_signal(), Some(Signal::SIGTERM));
        assert_eq!(parse_signal("usr2"), Some(Signal::SIGUSR2));
        assert_eq!(parse_signal("nonsense"), None);
        let asked = job("WantCheckpointSignal = true\nCheckpointSig = \"SIGUSR1\"");
        assert_eq!(asked.checkpoint_signal(), Some(Signal::SIGUSR1));
        assert_eq!(job("CheckpointSig = \"SIGUSR1\"").checkpoint_signal(), None);
    }
}
