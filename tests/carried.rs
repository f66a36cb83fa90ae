//! A payload that was started on Debian 13 goes on on Debian 12 or 11, which has other versions of everything that it
//! has mapped, or nothing of that name, and from there on Debian 13 again.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on stops")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use common::local::{Bench, FIRST_USER, Host, SECOND_USER, assert_code, real_criu};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const PATIENCE: Duration = Duration::from_secs(90);

fn root(name: &str) -> PathBuf {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/setup/root");
    let output = Command::new(script).arg(name).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    PathBuf::from(String::from_utf8(output.stdout).unwrap().trim())
}

/// `condor-criu run` with these words in `host`'s scratch directory, on a host whose root is `tree`. It runs in there
/// as pid 1.
fn start(bench: &Bench, tree: &Path, host: &Host<'_>, words: &str) -> Child {
    let name = host.scratch.strip_prefix(bench.path()).unwrap().display();
    let job = format!(
        "cd {name}; exec /mnt/condor-criu run --criu /mnt/criu-folder {words} >>_condor_stdout 2>>_condor_stderr"
    );
    let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/setup/in-root"));
    command.arg(tree).arg(bench.path()).arg(host.user.to_string()).args(["sh", "-c", &job]);
    command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").spawn().unwrap()
}

/// Waits for a line of the payload, then evicts it; the status is condor-criu's.
fn vacate(mut job: Child, host: &Host<'_>, line: &str) -> ExitStatus {
    let deadline = Instant::now() + PATIENCE;
    while !host.stdout().contains(line) {
        assert!(job.try_wait().unwrap().is_none() && Instant::now() < deadline, "{}\n{}", host.log(), host.stderr());
        std::thread::sleep(Duration::from_millis(10));
    }
    let children = format!("/proc/{0}/task/{0}/children", job.id());
    let inside: i32 = fs::read_to_string(children).unwrap().trim().parse().unwrap();
    kill(Pid::from_raw(inside), Signal::SIGTERM).unwrap();
    job.wait().unwrap()
}

/// From Debian 13 to an older one (`old`: 12, `older`: 11) and back; stdout and the files named must be those of a run
/// on Debian 13 alone.
fn there_and_back(other: &str, payload: &str, content: &[u8], words: &str, files: &[&str]) {
    let bench = Bench::new();
    let (new, old) = (root("numeric"), root(other));
    let copied = Command::new("cp").arg("-r").arg(real_criu()).arg(bench.path().join("criu-folder")).status().unwrap();
    assert!(copied.success());

    let peace = bench.host("peace", FIRST_USER);
    peace.write(payload, content);
    let undisturbed = start(&bench, &new, &peace, words);
    let mut host = bench.host("first", FIRST_USER);
    host.write(payload, content);
    for (turn, (tree, line)) in [(&new, "step 15 "), (&old, "step 35 ")].into_iter().enumerate() {
        let job = start(&bench, tree, &host, words);
        assert_code(&host, vacate(job, &host, line), 85);
        if turn > 0 {
            assert!(host.log().contains("this host lacks files that the checkpoint brings"), "{}", host.log());
        }
        let next = bench.host(&format!("next{turn}"), SECOND_USER);
        host.carry_to(&next, &[]);
        next.write(payload, content);
        host = next;
    }
    assert_code(&host, start(&bench, &new, &host, words).wait().unwrap(), 42);
    let mut undisturbed = undisturbed;
    assert_code(&peace, undisturbed.wait().unwrap(), 42);
    assert_eq!(host.stdout(), peace.stdout());
    assert_eq!(host.stderr(), peace.stderr());
    for file in files {
        assert_eq!(fs::read(host.scratch.join(file)).unwrap(), fs::read(peace.scratch.join(file)).unwrap(), "{file}");
    }
}

fn c_program_moves_to(other: &str) {
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("walk");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/payloads/walk.c");
    assert!(Command::new("gcc").args(["-O2", "-o"]).arg(&program).arg(source).arg("-lm").status().unwrap().success());
    there_and_back(other, "walk", &fs::read(program).unwrap(), "-- ./walk", &[]);
}

#[test]
fn a_c_program_moves_to_another_distribution() {
    c_program_moves_to("old");
}

#[test]
fn a_c_program_moves_to_a_much_older_distribution() {
    c_program_moves_to("older");
}

#[test]
fn numpy_moves_to_a_host_that_has_none() {
    let script = include_bytes!("payloads/matrix.py");
    there_and_back("old", "matrix.py", script, "-- python3 matrix.py", &["state.npy"]);
}

#[test]
fn numpy_moves_to_a_much_older_host() {
    let script = include_bytes!("payloads/matrix.py");
    there_and_back("older", "matrix.py", script, "-- python3 matrix.py", &["state.npy"]);
}

#[test]
fn a_pipeline_moves_and_runs_the_next_host_s_programs() {
    let script = include_bytes!("payloads/pipeline.sh");
    there_and_back("old", "pipeline.sh", script, "-- ./pipeline.sh", &["log"]);
}

#[test]
fn what_is_not_carried_must_be_there() {
    let bench = Bench::new();
    let (new, old) = (root("numeric"), root("old"));
    assert!(
        Command::new("cp").arg("-r").arg(real_criu()).arg(bench.path().join("criu-folder")).status().unwrap().success()
    );
    let words = "--carry-files none -- ./pipeline.sh";
    let first = bench.host("first", FIRST_USER);
    first.write("pipeline.sh", include_bytes!("payloads/pipeline.sh"));
    assert_code(&first, vacate(start(&bench, &new, &first, words), &first, "step 5 "), 85);
    let second = bench.host("second", SECOND_USER);
    first.carry_to(&second, &[]);
    second.write("pipeline.sh", include_bytes!("payloads/pipeline.sh"));
    let before = fs::read(second.checkpoint()).unwrap();
    assert_code(&second, start(&bench, &old, &second, words).wait().unwrap(), 75);
    assert!(second.log().contains("the checkpoint needs /usr/bin/bash, which has "), "{}", second.log());
    // Intact, and nothing of it was unpacked.
    assert!(fs::read(second.checkpoint()).unwrap() == before && !second.scratch.join("log").exists());
    assert_code(&second, start(&bench, &new, &second, words).wait().unwrap(), 42);
}
