//! What a report is about: jobs, each a row of stretches of time, and the sums that matter.

use std::collections::BTreeMap;

/// What a job did in a stretch of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// In the queue.
    Waiting,
    /// Input, or the checkpoint, is carried to the host.
    Transferring,
    /// The program runs, and what it does counts.
    Running,
    /// It runs, but what it does is lost with an eviction.
    Lost,
    /// It is stopped while it is saved.
    Frozen,
    /// Output, or a checkpoint, is carried to the access point.
    Uploading,
    /// The access point does not hear from the host.
    Disconnected,
    /// On hold.
    Held,
}

impl Kind {
    /// All, in the order of a legend.
    pub const ALL: [Kind; 8] = [
        Kind::Waiting,
        Kind::Transferring,
        Kind::Running,
        Kind::Frozen,
        Kind::Uploading,
        Kind::Lost,
        Kind::Disconnected,
        Kind::Held,
    ];

    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Kind::Waiting => "waiting",
            Kind::Transferring => "transferring",
            Kind::Running => "running",
            Kind::Lost => "lost",
            Kind::Frozen => "frozen",
            Kind::Uploading => "uploading",
            Kind::Disconnected => "disconnected",
            Kind::Held => "held",
        }
    }

    /// What is meant by the word, for a legend.
    pub fn meaning(self) -> &'static str {
        match self {
            Kind::Waiting => "in the queue",
            Kind::Transferring => "files go to the host",
            Kind::Running => "and its work counted",
            Kind::Lost => "it ran, and an eviction took its work",
            Kind::Frozen => "stopped while it is saved",
            Kind::Uploading => "files come back: a checkpoint, or output",
            Kind::Disconnected => "nothing is heard from the host",
            Kind::Held => "until somebody releases it",
        }
    }
}

/// A stretch of time.
#[derive(Debug, Clone, PartialEq)]
pub struct Stretch {
    /// What.
    pub kind: Kind,
    /// Seconds since the epoch.
    pub from: f64,
    /// Seconds since the epoch.
    pub to: f64,
    /// Where, if it was on a host.
    pub host: Option<String>,
}

impl Stretch {
    /// Seconds.
    pub fn seconds(&self) -> f64 {
        (self.to - self.from).max(0.0)
    }
}

/// A checkpoint, as condor-criu's log tells it.
#[derive(Debug, Clone, PartialEq)]
pub struct Checkpoint {
    /// When it was durable, in seconds since the epoch.
    pub at: f64,
    /// Its number.
    pub generation: u64,
    /// interval, vacate, signal or deadline
    pub reason: String,
    /// Bytes.
    pub bytes: u64,
    /// Seconds that the program was stopped.
    pub frozen: f64,
    /// Seconds until it was durable.
    pub commit: f64,
}

/// How a job stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It waits for a host.
    Waiting,
    /// It runs, or did when the log ends.
    Running,
    /// On hold.
    Held,
    /// It ended with this exit code.
    Exited(i64),
    /// It died by this signal.
    Signaled(i64),
    /// It was removed.
    Removed,
}

impl std::fmt::Display for Standing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Standing::Waiting => f.write_str("waiting"),
            Standing::Running => f.write_str("running"),
            Standing::Held => f.write_str("held"),
            Standing::Exited(code) => write!(f, "exit {code}"),
            Standing::Signaled(number) => write!(f, "signal {number}"),
            Standing::Removed => f.write_str("removed"),
        }
    }
}

/// A job.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// `12.0`, or what a rehearsal calls it.
    pub name: String,
    /// Its stretches, end to end.
    pub stretches: Vec<Stretch>,
    /// Its checkpoints, if condor-criu's log is there.
    pub checkpoints: Vec<Checkpoint>,
    /// How it stands.
    pub standing: Standing,
    /// Cpus of its slot.
    pub cpus: f64,
    /// How often it was evicted, in whatever way.
    pub evictions: usize,
    /// Seconds of running before an eviction that a checkpoint has kept.
    pub saved: f64,
}

impl Job {
    /// Seconds in stretches of this kind.
    pub fn seconds(&self, kind: Kind) -> f64 {
        self.stretches.iter().filter(|stretch| stretch.kind == kind).map(Stretch::seconds).sum()
    }
}

/// What all jobs come to, in cpu-seconds where it is time of programs.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize)]
pub struct Sums {
    /// Jobs.
    pub jobs: usize,
    /// Those that ended by themselves.
    pub done: usize,
    /// Evictions.
    pub evictions: usize,
    /// Checkpoints that logs of condor-criu tell of.
    pub checkpoints: usize,
    /// Cpu-seconds of running that counted.
    pub counted: f64,
    /// Cpu-seconds of running that were lost.
    pub lost: f64,
    /// Of what counted: cpu-seconds that an eviction would have taken without a checkpoint.
    pub saved: f64,
    /// Seconds that programs were stopped for checkpoints.
    pub frozen: f64,
    /// Seconds of uploads.
    pub uploading: f64,
    /// Bytes of all checkpoints.
    pub bytes: u64,
}

impl Sums {
    /// Over these jobs.
    pub fn of<'a>(jobs: impl IntoIterator<Item = &'a Job>) -> Sums {
        let mut sums = Sums::default();
        for job in jobs {
            sums.jobs += 1;
            sums.done += usize::from(matches!(job.standing, Standing::Exited(_) | Standing::Signaled(_)));
            sums.evictions += job.evictions;
            sums.checkpoints += job.checkpoints.len();
            sums.counted += job.seconds(Kind::Running) * job.cpus;
            sums.lost += job.seconds(Kind::Lost) * job.cpus;
            sums.saved += job.saved * job.cpus;
            sums.frozen += job.seconds(Kind::Frozen);
            sums.uploading += job.seconds(Kind::Uploading);
            sums.bytes += job.checkpoints.iter().map(|checkpoint| checkpoint.bytes).sum::<u64>();
        }
        sums
    }

    /// By cluster: `12` for `12.0` and `12.1`.
    pub fn by_cluster(jobs: &[Job]) -> BTreeMap<String, Sums> {
        let mut clusters: BTreeMap<String, Vec<&Job>> = BTreeMap::new();
        for job in jobs {
            let cluster = job.name.split('.').next().unwrap_or(&job.name);
            clusters.entry(cluster.to_owned()).or_default().push(job);
        }
        clusters.into_iter().map(|(name, jobs)| (name, Sums::of(jobs))).collect()
    }
}
