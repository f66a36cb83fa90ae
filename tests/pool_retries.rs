//! Jobs that a policy starts again after their own end, on the real pool: an attempt that failed by itself is followed
//! by one from the beginning, with nothing left of it, and an eviction in any attempt is still no attempt.

mod common;

use common::count::{PATIENCE, SUBMIT};
use common::job::{Condition, File, Job};
use common::pool::{Pool, on_both_series};

on_both_series!(retried_from_the_beginning, evicted_in_the_second_attempt, held_by_its_exit_code_and_released,);

/// Fails until its third attempt. What it knows of the attempt is from its first start, and so it is only right if that
/// was not in an earlier one.
const SCRIPT: &str = "#!/bin/sh\n\
    trap 'exit 4' USR1\n\
    attempt=$(sed -n 's/^NumJobCompletions = //p' .job.ad)\n\
    echo \"attempt $attempt\"\n\
    ls -d left results >&2 2>/dev/null\n\
    mkdir results; echo \"$attempt\" >results/attempt; echo \"$attempt\" >>left; echo changed >>given\n\
    n=0\nwhile [ $n -lt 60 ]; do sleep 0.1; n=$((n + 1)); echo \"$n of 60\"; done\n\
    cat given >results/given\n\
    [ \"$attempt\" -ge 2 ]\n";

/// Retries as the documentation writes them: 75 is no attempt of the program's.
const RETRIES: &str = "on_exit_remove = (ExitCode =!= 75 || ChirpCriuEndedAttempt =?= NumJobCompletions - 1) && \
                       (ExitCode =?= 0 || NumJobCompletions > 2)\n";

fn submit<'p>(pool: &'p Pool, lines: &str) -> Job<'p> {
    let text = format!(
        "{SUBMIT}{lines}arguments = run --criu /opt/criu --interval 3s -- ./script\n\
         transfer_input_files = script, given\n\
         transfer_output_files = results, left, criu-checkpoint.tar.zst, condor-criu.log\n"
    );
    // A later attempt may run where the one before did.
    let text = text
        .lines()
        .filter(|line| !line.starts_with("requirements"))
        .fold(String::new(), |all, line| all + line + "\n");
    pool.submit(&text, &[File::program("script", SCRIPT), File::data("given", "given\n")])
}

#[track_caller]
fn the_third_attempt_is_whole(job: &Job<'_>) {
    job.wait_for(Condition::Done, PATIENCE);
    let log = job.read("condor-criu.log");
    let lines: String = (1..=60).map(|number| format!("{number} of 60\n")).collect();
    assert_eq!(job.read("job.out"), format!("attempt 2\n{lines}"), "{log}");
    let history = job.history();
    assert_eq!((history.exit_code, history.ad["NumJobCompletions"].as_i64()), (Some(0), Some(3)), "{log}");
    // Nothing of an earlier attempt was there when it began.
    assert_eq!(
        (job.read("job.err"), job.read("left"), job.read("results/attempt")),
        ("".into(), "2\n".into(), "2\n".into()),
        "{log}"
    );
    assert_eq!(job.read("results/given"), "given\nchanged\n", "{log}");
}

fn retried_from_the_beginning(pool: &Pool) {
    let jobs = ["max_retries = 2\non_exit_remove =\n", RETRIES].map(|lines| submit(pool, lines));
    for job in &jobs {
        the_third_attempt_is_whole(job);
    }
    // What submit has made of max_retries is recognised, and the line that is advised instead is the other job's.
    let advised = jobs.each_ref().map(|job| job.read("condor-criu.log").contains(RETRIES.trim_end()));
    assert_eq!(advised, [true, false]);
}

fn evicted_in_the_second_attempt(pool: &Pool) {
    let job = submit(pool, RETRIES);
    job.wait_for(Condition::Starts(2), PATIENCE);
    // Before it has a checkpoint of its own, when the spool still has that of the first.
    job.wait_for(Condition::Scratch("_condor_stdout", "attempt 1\n1 of 60\n".into()), PATIENCE);
    job.vacate_fast();
    job.wait_for(Condition::Starts(3), PATIENCE);
    job.wait_for(Condition::Scratch("_condor_stdout", "20 of 60".into()), PATIENCE);
    job.vacate();
    job.wait_for(Condition::Starts(4), PATIENCE);
    the_third_attempt_is_whole(&job);
}

fn held_by_its_exit_code_and_released(pool: &Pool) {
    let job = submit(pool, "on_exit_hold = ExitCode =?= 1\n");
    for _ in 0..2 {
        job.wait_for(Condition::Held, PATIENCE);
        job.release();
    }
    the_third_attempt_is_whole(&job);
}
