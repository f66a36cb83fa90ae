//! The generation before the newest, what follows when the newest cannot be restored, and one copy of a job at a time.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on stops")]

mod common;

use std::fs;
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::local::{Bench, FIRST_USER, Host, PATIENCE, SECOND_USER, assert_code, starts_seen};
use nix::sys::signal::Signal;

const COUNT: &str = include_str!("payloads/count.py");
const PREVIOUS: &str = "criu-checkpoint.previous.tar.zst";
const WORDS: [&str; 5] = ["--keep=2", "--", "python3", "count.py", "30"];

/// A host with the job, and what another brought.
fn next<'a>(bench: &'a Bench, name: &str, user: u32, from: Option<&Host<'_>>) -> Host<'a> {
    let host = bench.host(name, user);
    host.job_ad(85).write("count.py", COUNT);
    if let Some(from) = from {
        from.carry_to(&host, &[PREVIOUS]);
    }
    host
}

/// A host that has saved twice: generation 1 at line 9, generation 2 at line 19.
fn saved_twice(bench: &Bench) -> Host<'_> {
    let first = next(bench, "first", FIRST_USER, None);
    let mut job = first.start(&WORDS);
    job.until_output("line9 ").signal(Signal::SIGTERM);
    assert_code(&first, job.end(), 85);
    assert_eq!(first.read(PREVIOUS), "", "there is no generation before the first");
    let second = next(bench, "second", SECOND_USER, Some(&first));
    let mut job = second.start(&WORDS);
    job.until_output("line19 ").signal(Signal::SIGTERM);
    assert_code(&second, job.end(), 85);
    drop(job);
    assert_eq!(fs::read(second.scratch.join(PREVIOUS)).unwrap(), fs::read(first.checkpoint()).unwrap());
    second
}

/// Flips a bit in the middle, where only reading all of it finds it.
fn damage(host: &Host<'_>) {
    let file = fs::File::options().read(true).write(true).open(host.checkpoint()).unwrap();
    let at = file.metadata().unwrap().len() / 2;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 4], at).unwrap();
}

#[track_caller]
fn ends_whole(host: &Host<'_>) {
    let output = host.stdout();
    assert_eq!((output.lines().count(), starts_seen(&output)), (30, 1), "{output}");
    assert_eq!(host.read("data.txt"), output.replace("line", ""));
    // At the end none of them is sent to the user.
    assert_eq!((host.read("criu-checkpoint.tar.zst").len(), host.read(PREVIOUS).len()), (0, 0));
}

#[test]
fn a_newest_generation_that_is_damaged_is_given_up_for_the_one_before() {
    let bench = Bench::new();
    let third = next(&bench, "third", FIRST_USER, Some(&saved_twice(&bench)));
    let previous = fs::read(third.scratch.join(PREVIOUS)).unwrap();
    damage(&third);
    let mut job = third.start(&WORDS);
    // What was written after generation 1 is written again.
    job.until("condor-criu.log", "going on from the generation before it");
    job.until_output("line24 ").signal(Signal::SIGTERM);
    assert_code(&third, job.end(), 85);
    let log = third.log();
    assert!(log.contains("the newest generation cannot be restored") && log.contains("generation=3"), "{log}");
    // The damaged one has not taken the place of the one that was restored.
    assert_eq!(fs::read(third.scratch.join(PREVIOUS)).unwrap(), previous);
    let fourth = next(&bench, "fourth", SECOND_USER, Some(&third));
    assert_code(&fourth, fourth.run(&WORDS), 42);
    ends_whole(&fourth);
}

#[test]
fn a_newest_generation_that_two_hosts_could_not_restore_is_given_up_for_the_one_before() {
    let bench = Bench::new();
    let third = next(&bench, "third", FIRST_USER, Some(&saved_twice(&bench)));
    let ad = third.read(".job.ad");
    // One host says nothing.
    third.write(".job.ad", format!("{ad}ChirpCriuFailedRestores = 1\n"));
    let mut job = third.start(&WORDS);
    job.until("condor-criu.log", "the payload runs again generation=2").signal(Signal::SIGKILL);
    job.end();
    let fourth = next(&bench, "fourth", FIRST_USER, Some(&third));
    fourth.write(".job.ad", format!("{ad}ChirpCriuFailedRestores = 2\n"));
    assert_code(&fourth, fourth.run(&WORDS), 42);
    assert!(fourth.log().contains("2 hosts in a row could not restore it"), "{}", fourth.log());
    ends_whole(&fourth);
}

#[test]
fn a_newest_generation_that_is_missing_is_told_from_a_first_start() {
    let bench = Bench::new();
    let third = next(&bench, "third", FIRST_USER, Some(&saved_twice(&bench)));
    fs::remove_file(third.checkpoint()).unwrap();
    assert_code(&third, third.run(&WORDS), 42);
    assert!(third.log().contains("it is not there; going on from the generation before it"), "{}", third.log());
    ends_whole(&third);
}

#[test]
fn what_follows_from_damage_without_another_generation_is_chosen() {
    let bench = Bench::new();
    let first = next(&bench, "first", FIRST_USER, None);
    let words = |choice: &'static str| [choice, "--", "python3", "count.py", "30"];
    let mut job = first.start(&words("--keep=1"));
    job.until_output("line9 ").signal(Signal::SIGTERM);
    assert_code(&first, job.end(), 85);
    damage(&first);
    let damaged = fs::read(first.checkpoint()).unwrap();
    for (choice, code) in [("previous", 125), ("hold", 125), ("requeue", 75)] {
        let host = bench.host(choice, FIRST_USER);
        host.job_ad(85).write("count.py", COUNT);
        first.carry_to(&host, &[]);
        let flag: &'static str = format!("--on-unrestorable={choice}").leak();
        assert_code(&host, host.run(&words(flag)), code);
        assert_eq!(fs::read(host.checkpoint()).unwrap(), damaged, "{choice}");
        // Never silently from the beginning.
        assert_eq!(host.stdout(), first.stdout(), "{choice}");
    }
    let host = bench.host("restart", FIRST_USER);
    host.job_ad(85).write("count.py", COUNT);
    first.carry_to(&host, &[]);
    assert_code(&host, host.run(&words("--on-unrestorable=restart")), 42);
    assert!(host.log().contains("and on_unrestorable = \"restart\": from the beginning"), "{}", host.log());
    let output = host.stdout();
    assert_eq!((output.lines().count(), starts_seen(&output)), (30, 1), "{output}");
}

#[test]
fn a_scratch_directory_has_one_condor_criu() {
    let bench = Bench::new();
    let host = bench.host("host", FIRST_USER);
    let mut job = host.start(&["--", "sh", "-c", "echo up; while [ ! -e go ]; do sleep 0.05; done"]);
    job.until_output("up");
    assert_code(&host, host.run(&["--", "echo", "second"]), 125);
    assert!(host.stderr().contains("another condor-criu runs in it"), "{}", host.stderr());
    host.write("go", "");
    assert_code(&host, job.end(), 0);
    assert_eq!(host.stdout(), "up\n");
}

#[test]
fn a_copy_whose_starter_is_gone_does_not_live_on() {
    let bench = Bench::new();
    let host = bench.host("host", FIRST_USER);
    host.job_ad(85);
    let script = "echo up; while :; do date +%s%N >tick; sleep 0.02; done";
    let run = host.command(&["--", "sh", "-c", script]);
    // Who stands for the starter: it waits for us, and is killed alone.
    let mut starter = Command::new("sh");
    starter.args(["-c", "\"$@\"; exit", "starter"]).arg(run.get_program()).args(run.get_args());
    starter.current_dir(&host.scratch).env("_CONDOR_SCRATCH_DIR", &host.scratch).stdin(Stdio::null());
    starter.env("_CONDOR_JOB_AD", host.scratch.join(".job.ad"));
    if nix::unistd::geteuid().is_root() {
        starter.uid(FIRST_USER).gid(FIRST_USER);
    }
    let mut starter = starter.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let deadline = Instant::now() + PATIENCE;
    while host.read("tick").is_empty() {
        assert!(Instant::now() < deadline, "it never ran\n{}", host.log());
        std::thread::sleep(Duration::from_millis(5));
    }
    starter.kill().unwrap();
    starter.wait().unwrap();
    while !host.log().contains("the starter is gone") {
        assert!(Instant::now() < deadline, "it lives on\n{}", host.log());
        std::thread::sleep(Duration::from_millis(5));
    }
    // The lock is free when the last process of the sandbox is gone.
    while host.run(&["--", "true"]).code() != Some(0) {
        assert!(Instant::now() < deadline, "something of it lives on\n{}", host.log());
        std::thread::sleep(Duration::from_millis(50));
    }
    let last = host.read("tick");
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(host.read("tick"), last, "the payload lives on");
}
