//! On the real pool with streamed stdout and stderr: every failure ends the job within seconds, and its words arrive.

mod common;

use common::count::{PATIENCE, SUBMIT};
use common::job::{Condition, File};
use common::pool::{Pool, on_both_series};

on_both_series!(failures_end_with_streamed_output, a_program_that_writes_much_is_streamed_whole);

const STREAMED: &str = "stream_output = true\nstream_error = true\n";

fn failures_end_with_streamed_output(pool: &Pool) {
    let cases = [
        ("--interval soon -- true", 125, "soon"),
        ("--criu /opt/criu -- ./plain", 126, "cannot run"),
        ("--criu /opt/criu -- nonexist", 127, "no such program"),
    ];
    let jobs = cases.map(|(arguments, code, words)| {
        let text = format!(
            "{SUBMIT}{STREAMED}arguments = run {arguments}\ntransfer_input_files = plain\n\
             transfer_output_files = criu-checkpoint.tar.zst,condor-criu.log\n"
        );
        (pool.submit(&text, &[File::data("plain", "no program")]), code, words)
    });
    for (job, code, words) in jobs {
        job.wait_for(Condition::Done, PATIENCE);
        assert_eq!(job.history().exit_code, Some(code), "{}", job.read("job.err"));
        assert!(job.read("job.err").contains(words), "{}", job.read("job.err"));
    }
}

fn a_program_that_writes_much_is_streamed_whole(pool: &Pool) {
    const LINES: usize = 60_000;
    let text = format!(
        "{SUBMIT}{STREAMED}arguments = run --criu /opt/criu -- ./much\ntransfer_input_files = much\n\
         transfer_output_files = criu-checkpoint.tar.zst,condor-criu.log\n"
    );
    let script = format!("#!/bin/sh\nseq {LINES}\necho done >&2\nexit 4\n");
    let job = pool.submit(&text, &[File::program("much", script)]);
    job.wait_for(Condition::Done, PATIENCE);
    assert_eq!(job.history().exit_code, Some(4));
    let expected: String = (1..=LINES).map(|line| format!("{line}\n")).collect();
    assert!(job.read("job.out") == expected, "{} bytes of {}", job.read("job.out").len(), expected.len());
    assert!(job.read("job.err").ends_with("done\n"));
}
