//! Jobs under condor-criu: the payload `tests/payloads/count`, and what it must have left at its end.

use std::time::Duration;

use condor_criu::journal::{self, Record};

use super::job::{Condition, File, Job};
use super::pool::{Host, Pool};

/// For everything that should take seconds; the machine may be busy with other tests.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Seconds between two steps.
const PACE: &str = "0.1";

const CHECKPOINT: &str = "criu-checkpoint.tar.zst";

/// What the documentation tells a user to write; a vacated job runs on the other host.
pub const SUBMIT: &str = "\
executable = /opt/condor-criu/condor-criu
when_to_transfer_output = ON_EXIT_OR_EVICT
checkpoint_exit_code = 85
transfer_checkpoint_files = criu-checkpoint.tar.zst,condor-criu.log
on_exit_remove = ExitCode =!= 75 || ChirpCriuEndedAttempt =?= NumJobCompletions - 1
job_machine_attrs = Machine
requirements = TARGET.Machine =!= MY.MachineAttrMachine0
";

/// What is to be submitted.
pub struct Count {
    steps: usize,
    end: &'static str,
    flags: &'static str,
    program: &'static str,
    place: &'static str,
    lines: String,
    outputs: Option<&'static str>,
    megabytes: usize,
    criu: Option<(&'static str, &'static str)>,
}

impl Count {
    /// So many steps, exit code 42, and checkpoints only at a vacate. A vacated job runs on the other host.
    pub fn to(steps: usize) -> Count {
        Count {
            steps,
            end: "42",
            flags: "--interval never",
            program: "./count",
            place: "count",
            lines: SUBMIT.to_owned(),
            outputs: Some("results,sums,late"),
            megabytes: 0,
            criu: None,
        }
    }

    /// With so much memory that must travel, packed without compression.
    pub fn heavy(self, megabytes: usize) -> Count {
        let count = Count { megabytes, ..self };
        count.with(&format!("request_memory = {}", megabytes + 100))
    }

    /// Runs there first.
    pub fn first_on(self, host: Host) -> Count {
        let here = format!("(NumJobStarts > 0 || TARGET.Machine == \"{host}.pool\")");
        self.with(&format!("requirements = {here} && TARGET.Machine =!= MY.MachineAttrMachine0"))
    }

    /// Written in another way, with the program's file at another place.
    pub fn program(self, program: &'static str, place: &'static str) -> Count {
        Count { program, place, ..self }
    }

    /// Without the line of the submit file that begins with this.
    pub fn without(mut self, line: &str) -> Count {
        let keep = |text: &&str| !text.starts_with(line);
        self.lines = self.lines.lines().filter(keep).fold(String::new(), |all, text| all + text + "\n");
        self
    }

    /// With this script as criu.
    pub fn bringing_criu(self, name: &'static str, script: &'static str) -> Count {
        Count { criu: Some((name, script)), ..self }
    }

    /// Another exit code, or the signal (`SEGV`) that it dies by.
    pub fn ending(self, end: &'static str) -> Count {
        Count { end, ..self }
    }

    /// Other flags of `condor-criu run`.
    pub fn flags(self, flags: &'static str) -> Count {
        Count { flags, ..self }
    }

    /// More lines of the submit file, which win.
    pub fn with(mut self, lines: &str) -> Count {
        self.lines += lines;
        self.lines += "\n";
        self
    }

    /// No `transfer_output_files`.
    pub fn without_output_list(self) -> Count {
        Count { outputs: None, ..self }
    }

    /// Submits it.
    #[track_caller]
    pub fn submit(self, pool: &Pool) -> Counting<'_> {
        let Count { steps, end, flags, program, place, mut lines, outputs, megabytes, criu } = self;
        let compression = if megabytes > 0 { "--compression none" } else { "" };
        let file = place.split('/').next().unwrap_or(place);
        let mut files = vec![File::program(place, include_str!("../payloads/count"))];
        lines += &format!("transfer_input_files = {file}");
        let mut criu_path = "/opt/criu".to_owned();
        if let Some((name, script)) = criu {
            files.push(File::program(name, script));
            lines += &format!(",{name}");
            criu_path = format!("./{name}");
        }
        lines += "\n";
        if let Some(outputs) = outputs {
            lines += &format!("transfer_output_files = {outputs},{CHECKPOINT},condor-criu.log\n");
        }
        lines += &format!(
            "arguments = run --criu {criu_path} {compression} {flags} -- {program} {steps} {PACE} {end} {megabytes}\n"
        );
        let job = pool.submit(&lines, &files);
        Counting { job, steps, end, deep: outputs.is_some() }
    }
}

/// A job that counts.
pub struct Counting<'p> {
    pub job: Job<'p>,
    steps: usize,
    end: &'static str,
    deep: bool,
}

impl Counting<'_> {
    /// Waits until it has come to this step; returns where.
    #[track_caller]
    pub fn reaches(&self, step: usize) -> Host {
        self.job.wait_for(Condition::Scratch("sums", format!("step {step} sum")), PATIENCE);
        self.job.host()
    }

    /// Vacates it and waits until it is on another host; returns which. Its next steps are made there: a vacate can
    /// take seconds to arrive.
    #[track_caller]
    pub fn vacated(&self) -> Host {
        let starts = self.starts();
        self.job.vacate();
        self.job.wait_for(Condition::Starts(starts + 1), PATIENCE);
        self.job.host()
    }

    /// How often it has been started.
    pub fn starts(&self) -> usize {
        self.job.events().iter().filter(|event| event.code == 1).count()
    }

    /// Waits for its end and looks at everything that is left; returns what the log says.
    #[track_caller]
    pub fn ends_well(&self) -> Vec<Record> {
        self.job.wait_for(Condition::Done, PATIENCE);
        let history = self.job.history();
        match self.end.parse() {
            Ok(code) => assert_eq!((history.exit_by_signal, history.exit_code), (false, Some(code)), "{}", self.log()),
            Err(_) => {
                let signal: nix::sys::signal::Signal =
                    format!("SIG{}", self.end).parse().unwrap_or_else(|_| panic!("{}", self.end));
                // HTCondor leaves the exit code of an eviction in the job ad.
                let found = (history.exit_by_signal, history.exit_signal);
                assert_eq!(found, (true, Some(signal as i64)), "{}", self.log());
            }
        }
        self.output_is_whole();
        let records = self.records();
        restores_are_from_the_newest(&records);
        records
    }

    /// Compares stdout, stderr and the output files with those of a run that nothing has disturbed.
    #[track_caller]
    pub fn output_is_whole(&self) {
        let steps = self.steps;
        let stdout = self.job.read("job.out");
        // What differs from run to run, but never from line to line: the number, the uid, the working directory.
        let start = stdout.split(" step ").next().unwrap_or_default();
        let sum = |step: usize| step * (step + 1) / 2;
        let lines: String =
            (1..=steps).map(|n| format!("{start} step {n} sum {} noted {n} counted {n}\n", sum(n))).collect();
        assert_same("stdout", &stdout, &lines, &self.log());
        let number = start.split(' ').next().unwrap_or_default();
        assert_eq!(number.len(), 12, "{start}");
        let lines: String = (10..=steps).step_by(10).map(|n| format!("{number} has come to {n}\n")).collect();
        assert_same("stderr", &self.job.read("job.err"), &lines, &self.log());
        let sums: String = (1..=steps).map(|n| format!("step {n} sum {}\n", sum(n))).collect();
        assert_same("sums", &self.job.read("sums"), &sums, &self.log());
        assert_eq!(self.job.read("late"), "done\n");
        if self.deep {
            assert_same("results/deep/sums", &self.job.read("results/deep/sums"), &sums, &self.log());
        }
        // The memory of a job that has ended is not shipped to the user.
        assert_eq!(self.job.read_bytes(CHECKPOINT).len(), 0, "the checkpoint came back");
    }

    /// condor-criu's log as it came back.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.job.path(journal::NAME)).unwrap_or_default()
    }

    /// What it says.
    pub fn records(&self) -> Vec<Record> {
        self.log().lines().filter_map(Record::parse).collect()
    }
}

/// Long texts that differ are shown from there on.
#[track_caller]
fn assert_same(what: &str, found: &str, expected: &str, log: &str) {
    if found == expected {
        return;
    }
    let same = found.lines().zip(expected.lines()).take_while(|(found, expected)| found == expected).count();
    let from = |text: &str| text.lines().skip(same.saturating_sub(1)).take(4).collect::<Vec<_>>().join("\n");
    panic!(
        "{what} differs from line {} on; it has {} lines, not {}\nfound:\n{}\nexpected:\n{}\n{log}",
        same + 1,
        found.lines().count(),
        expected.lines().count(),
        from(found),
        from(expected)
    );
}

/// The log travels with the checkpoint, so that the last commit in it is the newest that has arrived.
#[track_caller]
pub fn restores_are_from_the_newest(records: &[Record]) {
    let mut newest = 0;
    for record in records {
        match record {
            Record::Committed { generation, .. } => {
                assert_eq!(*generation, newest + 1, "{records:#?}");
                newest = *generation;
            }
            Record::Restored { generation, .. } => assert_eq!(*generation, newest, "{records:#?}"),
            _ => {}
        }
    }
}

/// How many checkpoints were committed for this reason: `interval`, `vacate`, `signal`.
pub fn commits(records: &[Record], why: &str) -> usize {
    records.iter().filter(|record| matches!(record, Record::Committed { reason, .. } if reason == why)).count()
}

/// How many restores there were.
pub fn restores(records: &[Record]) -> usize {
    records.iter().filter(|record| matches!(record, Record::Restored { .. })).count()
}
