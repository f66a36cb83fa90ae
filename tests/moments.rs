//! Checkpoints in a bad moment, which the rehearsals at random moments have found and which are held open here.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on stops")]

mod common;

use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

use common::local::{Bench, FIRST_USER, SECOND_USER, assert_code};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const PATIENCE: Duration = Duration::from_secs(60);

#[track_caller]
fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// proc_pid_stat(5): the state and the parent of a process.
fn state(pid: i32) -> Option<(char, i32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut words = stat.rsplit_once(") ")?.1.split(' ');
    Some((words.next()?.chars().next()?, words.next()?.parse().ok()?))
}

/// The payload that has this argument; condor-criu's own processes have it too.
fn payload_with(argument: &str) -> Option<i32> {
    let pids = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let is = |pid: &i32| {
        let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let name = fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
        name == b"payload\n" && words.split(|byte| *byte == 0).any(|word| word == argument.as_bytes())
    };
    pids.into_iter().find(is)
}

/// CRIU would save it, and wait for ever at the restore: the job would never end.
#[test]
fn a_payload_that_has_ended_unseen_is_not_saved() {
    let bench = Bench::new();
    let host = bench.host("host", FIRST_USER);
    host.job_ad(85);
    host.write("payload", "#!/bin/sh\necho begun\nwhile [ ! -e go ]; do sleep 0.05; done\nexit 42\n");
    let mark = format!("mark-{}", std::process::id());
    let mut job = host.start(&["--interval", "never", "--", "./payload", &mark]);
    job.until_output("begun");
    let payload = wait_for("no payload", || payload_with(&mark));
    let (_, reaper) = state(payload).unwrap();
    kill(Pid::from_raw(reaper), Signal::SIGSTOP).unwrap();
    wait_for("the reaper did not stop", || (state(reaper)?.0 == 'T').then_some(()));
    host.write("go", "");
    wait_for("the payload did not end", || (state(payload)?.0 == 'Z').then_some(()));
    job.signal(Signal::SIGTERM);
    job.until("condor-criu.log", "cannot save the payload yet: a process ended in the very moment of the checkpoint");
    // While criu holds it, a SIGCONT is lost: CRIU puts back the stop that it found.
    wait_for("the reaper did not go on", || {
        let _ = kill(Pid::from_raw(reaper), Signal::SIGCONT);
        state(reaper).is_none_or(|(state, _)| state != 'T' && state != 't').then_some(())
    });
    // What is saved is its end, which the next host tells.
    assert_code(&host, job.end(), 85);
    let next = bench.host("next", SECOND_USER);
    next.job_ad(85);
    host.carry_to(&next, &["payload"]);
    assert_code(&next, next.run(&["--interval", "never", "--", "./payload", &mark]), 42);
    assert_eq!(next.stdout(), "begun\n");
}

/// Ends its children, the last one first, as soon as it sees that it has stood still.
const ENDS_CHILDREN: &str = "\
import os, signal, time
children = []
for _ in range(100):
    child = os.fork()
    if child == 0:
        signal.pause()
    children.append(child)
print('begun', flush=True)
last = time.time()
while (now := time.time()) - last < 1:
    last = now
for child in reversed(children):
    os.kill(child, signal.SIGKILL)
print({os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children}, flush=True)
os._exit(5)
";

/// CRIU lets the restored tasks go one after the other, and by itself gives up if one is gone before its turn.
#[test]
fn a_payload_may_end_its_children_in_the_moment_of_a_restore() {
    let bench = Bench::new();
    let host = bench.host("host", FIRST_USER);
    host.job_ad(85);
    host.write("ends.py", ENDS_CHILDREN);
    let words = ["--interval", "never", "--", "python3", "ends.py"];
    let mut job = host.start(&words);
    job.until_output("begun").signal(Signal::SIGTERM);
    assert_code(&host, job.end(), 85);
    std::thread::sleep(Duration::from_secs(1));
    let next = bench.host("next", SECOND_USER);
    next.job_ad(85);
    host.carry_to(&next, &["ends.py"]);
    assert_code(&next, next.run(&words), 5);
    assert_eq!(next.stdout(), "begun\n{-9}\n");
}

/// The payload's stdin is a pipe of ours because it was one at the first start; that it is none any more at the next
/// must not be forgotten.
#[test]
fn a_stdin_that_is_a_pipe_only_at_the_first_start_is_restored_twice() {
    let bench = Bench::new();
    let host = bench.host("host", FIRST_USER);
    host.job_ad(85);
    let words = ["--", "sh", "-c", "echo begun; while [ ! -e go ]; do sleep 0.05; done; exit 42"];
    let mut first = host.command(&words).stdin(Stdio::piped()).spawn().unwrap();
    wait_for("it did not begin", || host.stdout().contains("begun").then_some(()));
    kill(Pid::from_raw(first.id() as i32), Signal::SIGTERM).unwrap();
    assert_code(&host, first.wait().unwrap(), 85);
    for generation in 1..=2 {
        let mut job = host.start(&words);
        job.until("condor-criu.log", &format!("the payload runs again generation={generation}"));
        if generation == 1 {
            job.signal(Signal::SIGTERM);
            assert_code(&host, job.end(), 85);
        } else {
            host.write("go", "");
            assert_code(&host, job.end(), 42);
        }
    }
}
