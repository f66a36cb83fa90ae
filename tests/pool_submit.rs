//! What people write in submit files, on the real pool: each variant with checkpoints in place and a move to the other
//! host.

mod common;

use common::count::{Count, PATIENCE, SUBMIT, commits, restores};
use common::job::{Condition, File};
use common::pool::{Pool, on_both_series};

on_both_series!(
    kill_sig_is_the_vacate_signal,
    any_checkpoint_exit_code,
    the_attributes_set_by_hand,
    no_output_list,
    streamed_output,
    an_executable_in_a_subdirectory,
    an_executable_of_the_host,
    standard_input_and_quoted_arguments,
);

/// Periodic checkpoints, a vacate, the end.
#[track_caller]
fn checkpoints_moves_and_ends(pool: &Pool, count: Count) {
    let count = count.flags("--interval 2s").submit(pool);
    let first = count.reaches(30);
    assert_eq!(count.vacated(), first.other());
    let records = count.ends_well();
    // A vacate that comes while a periodic checkpoint is being taken needs no other one.
    let (periodic, vacates) = (commits(&records, "interval"), commits(&records, "vacate"));
    assert!(periodic >= 2 && vacates <= 1, "{records:#?}");
    assert_eq!(restores(&records), periodic + vacates, "{records:#?}");
    assert_eq!(count.job.history().starts, 2);
}

fn kill_sig_is_the_vacate_signal(pool: &Pool) {
    let count = Count::to(90).with("kill_sig = SIGTSTP").submit(pool);
    let first = count.reaches(20);
    assert_eq!(count.vacated(), first.other());
    count.reaches(30);
    count.ends_well();
    assert!(count.log().contains("asked to leave signal=SIGTSTP"), "{}", count.log());
}

fn any_checkpoint_exit_code(pool: &Pool) {
    checkpoints_moves_and_ends(pool, Count::to(100).with("checkpoint_exit_code = 77"));
}

fn the_attributes_set_by_hand(pool: &Pool) {
    let lines = "+WantFTOnCheckpoint = True\n+SuccessCheckpointExitCode = 85";
    checkpoints_moves_and_ends(pool, Count::to(100).without("checkpoint_exit_code").with(lines));
}

fn no_output_list(pool: &Pool) {
    checkpoints_moves_and_ends(pool, Count::to(100).without_output_list());
}

fn streamed_output(pool: &Pool) {
    checkpoints_moves_and_ends(pool, Count::to(100).with("stream_output = True\nstream_error = True"));
}

fn an_executable_in_a_subdirectory(pool: &Pool) {
    checkpoints_moves_and_ends(pool, Count::to(100).program("tools/bin/count", "tools/bin/count"));
}

fn an_executable_of_the_host(pool: &Pool) {
    checkpoints_moves_and_ends(pool, Count::to(100).program("python3 count", "count"));
}

fn standard_input_and_quoted_arguments(pool: &Pool) {
    let arguments = [r"'two words'", r"'it''s'", r#"""double"""#, r"back\slash", "*", "'$HOME'", "''", "--interval"];
    let expected = ["two words", "it's", r#""double""#, r"back\slash", "*", "$HOME", "", "--interval"];
    let text = format!(
        "{SUBMIT}arguments = \"run --criu /opt/criu --interval 2s -- ./echo {}\"\n\
         transfer_input_files = echo\ninput = lines\n",
        arguments.join(" ")
    );
    let lines: String = (1..=80).map(|number| format!("line {number}\n")).collect();
    let job = pool
        .submit(&text, &[File::program("echo", include_str!("payloads/echo")), File::data("lines", lines.as_bytes())]);
    job.wait_for(Condition::Scratch("_condor_stdout", "line 30\n".into()), PATIENCE);
    job.vacate();
    job.wait_for(Condition::Done, PATIENCE);

    let stdout = job.read("job.out");
    let secret = stdout.split(' ').next().unwrap_or_default();
    let shown = expected.map(|argument| format!("[{argument}]")).join("\n");
    let expected: String =
        format!("{shown}\n{lines}{shown}\n").lines().fold(String::new(), |all, line| all + secret + " " + line + "\n");
    assert_eq!((stdout, job.history().exit_code), (expected, Some(42)), "{}", job.read("condor-criu.log"));
}
