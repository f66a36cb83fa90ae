//! The scenario of HTCondor's own test of self-checkpointing jobs (`test_checkpoint_ct.py`): a script of nineteen
//! steps, which has itself vacated after its seventh step in the first run and after its fourteenth in the second.
//! There it saves itself every five steps; here it knows nothing of checkpoints, and its output is to be the same.
//!
//! As there: the submit file's attributes, `when_to_transfer_output = ON_EXIT` included, by which a vacate carries
//! nothing; the order of events in the user log; no hold; `CommittedTime`, and how often it was written. Otherwise than
//! there: the script asks for the number of its run at each step, because it is never started again; it waits for the
//! vacate as long as it is in that run; and it says what the original says where it saves itself, because the output is
//! to be the same. It has itself vacated with a token, because the hosts here are several. And `CommittedTime` is
//! compared with condor-criu's log instead of 15 to 60 s, see [`committed_time`].

mod common;

use condor_criu::journal::Record;

use common::count::{PATIENCE, SUBMIT, commits, restores};
use common::job::{Condition, File, Job};
use common::pool::{Host, Pool, on_both_series};

on_both_series!(without_anything_at_a_vacate, with_a_checkpoint_at_a_vacate);

const STEPS: usize = 19;

/// `condor_q` and `condor_vacate_job` are the real ones, in a process of their own. One that lives across a checkpoint
/// finds its connection to the access point closed after the restore (it is in the host's network) and fails: seen on
/// 23.9, where the schedd's log has the connection's end at the second of the dump and `condor_q` that it "failed to
/// authenticate" a moment after the restore. So it is asked again, as whoever speaks over a network does, and that is
/// told.
const SCRIPT: &str = r#"#!/usr/bin/python3
import os
import subprocess
import sys
import time

job, steps = sys.argv[1], int(sys.argv[2])
os.environ["_CONDOR_SEC_TOKEN_DIRECTORY"] = os.path.join(os.getcwd(), "tokens")
os.environ["PATH"] = os.environ.get("PATH", "") + ":/usr/bin"


def condor(program, *words):
    to_the_queue = ["-name", "ap.pool", "-pool", "ap.pool"]
    for _ in range(5):
        ran = subprocess.run([program, *to_the_queue, job, *words], capture_output=True, text=True, timeout=20)
        if ran.returncode == 0:
            return ran.stdout.strip()
        print(f"{program} asks again: {ran.stdout}{ran.stderr}".replace("\n", " "), file=sys.stderr, flush=True)
    sys.exit(f"{program}: {ran.stdout}{ran.stderr}")


def run():
    return int(condor("condor_q", "-af", "NumShadowStarts"))


for step in range(steps):
    print(f"Starting step {step}.", flush=True)
    done = step + 1
    if done % 5 == 0:
        print(f"Checkpointing after {done}.\nResuming after step {done}.", flush=True)
        continue
    this = run()
    if this * 7 == done:
        condor("condor_vacate_job")
        for _ in range(60):
            time.sleep(1)
            if run() != this:
                break
        else:
            print("Nobody came in a minute.")
            sys.exit(1)
    time.sleep(1)
print(f"Completed all {steps} steps.")
"#;

fn without_anything_at_a_vacate(pool: &Pool) {
    // A vacate carries nothing, and the script must have been saved in each run; the original saves itself after five
    // seconds.
    scenario(pool, "ON_EXIT");
}

fn with_a_checkpoint_at_a_vacate(pool: &Pool) {
    scenario(pool, "ON_EXIT_OR_EVICT");
}

fn scenario(pool: &Pool, when: &str) {
    let token = pool.ask(Host::Ap, "root", &["condor_token_create", "-identity", "alice@pool"]);
    let text = format!(
        "{SUBMIT}arguments = run --criu /opt/criu --interval 3s -- ./counting.py $(CLUSTER).$(PROCESS) {STEPS}\n\
         when_to_transfer_output = {when}\n\
         transfer_input_files = counting.py,tokens\n\
         transfer_output_files =\n\
         want_io_proxy = True\n\
         leave_in_queue = True\n"
    );
    let lines = text.lines().filter(|line| !(line.starts_with("transfer_output_files") && when != "ON_EXIT"));
    let text: String = lines.flat_map(|line| [line, "\n"]).collect();
    let files = [File::program("counting.py", SCRIPT), File::secret("tokens/alice", token)];
    let job = pool.submit(&text, &files);
    job.wait_for(Condition::Starts(2), PATIENCE);
    job.wait_for(Condition::Starts(3), PATIENCE);
    job.wait_for(Condition::Done, PATIENCE);
    is_as_in_the_original(pool, &job, when);
}

fn is_as_in_the_original(pool: &Pool, job: &Job<'_>, when: &str) {
    let log = std::fs::read_to_string(job.path("condor-criu.log")).unwrap_or_default();
    let mut expected = String::new();
    for step in 0..STEPS {
        expected += &format!("Starting step {step}.\n");
        if (step + 1) % 5 == 0 {
            expected += &format!("Checkpointing after {0}.\nResuming after step {0}.\n", step + 1);
        }
    }
    expected += &format!("Completed all {STEPS} steps.\n");
    assert_eq!(job.read("job.out"), expected, "{when}\n{}\n{log}", job.read("job.err"));
    // submit, execute, transfer, execute, transfer, execute, transfer, end; other events may come between, but no hold
    let events: Vec<u16> = job.events().iter().map(|event| event.code).collect();
    let mut wanted = [0, 1, 40, 1, 40, 1, 40, 5].into_iter().peekable();
    for code in &events {
        wanted.next_if_eq(code);
    }
    assert!(wanted.peek().is_none() && !events.contains(&12), "{when}: {events:?}");
    assert_eq!(events.iter().filter(|code| **code == 1).count(), 3, "{when}: {events:?}");

    let ad = job.queued().unwrap_or_default();
    // Nothing but a checkpoint makes a command fail.
    let records: Vec<_> = log.lines().filter_map(Record::parse).collect();
    let stderr = job.read("job.err");
    assert!(stderr.lines().count() <= restores(&records), "{when}: {stderr}\n{log}");

    committed_time(&ad, &log, when);
    // One for each checkpoint that was carried while it ran, and one for the end.
    let carried = commits(&records, "interval");
    let spool = pool.ask(Host::Ap, "root", &["sh", "-c", "cat /var/spool/condor/job_queue.log"]);
    let line = format!("103 {}.0 CommittedTime ", job.id());
    let updates = spool.lines().filter(|text| text.starts_with(&line)).count();
    assert_eq!(updates, carried + 1, "{when}: CommittedTime was written {updates} times\n{log}");
    pool.ask(Host::Ap, "alice", &["condor_rm", job.id()]);
}

/// How HTCondor counts it (starter and shadow; measured by this on 23.9 and 25.14): at each checkpoint that is carried
/// while the job runs, the life of the process that has just ended, cut to whole seconds; at the end, the time since
/// the last of these exits or since the start of the run; at a vacate nothing, whether its checkpoint is used or not.
/// The original has four lives and wants 15 s; here are six to eight, each cut, so that 15 s can be less than 10.
fn committed_time(ad: &serde_json::Value, log: &str, when: &str) {
    let time = |line: &str| line.split(' ').next()?.parse::<jiff::Timestamp>().ok();
    let (mut counted, mut all, mut lives) = (0.0, 0.0, 0.0);
    for life in log.split_inclusive(" INFO ending ").collect::<Vec<_>>() {
        let Some(began) = life.lines().find(|line| line.contains(" INFO starting ")).and_then(time) else { continue };
        let Some(ended) = life.lines().last().and_then(time) else { continue };
        let seconds = (ended - began).as_secs_f64();
        all += seconds;
        if !life.contains("reason=vacate frozen_seconds") {
            (counted, lives) = (counted + seconds, lives + 1.0);
        }
    }
    assert!(all >= 15.0, "{when}: the lives have {all} s\n{log}");
    let committed = ad["CommittedTime"].as_f64().unwrap_or(0.0);
    // A life is a little longer than what the log has of it; the end's includes the last upload.
    let found = counted - lives..=counted + lives + 5.0;
    assert!(found.contains(&committed), "{when}: CommittedTime is {committed}, not {found:?}\n{log}");
}
