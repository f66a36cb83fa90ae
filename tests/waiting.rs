//! What CRIU alone would bring back otherwise or nowhere, without an error at the dump: it comes back as it was, or the
//! dump is refused. Each was found by CRIU's own test programs (`tests/zdtm.rs`).

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on stops")]

mod common;

use std::fs;
use std::time::Duration;

use common::local::{Bench, FIRST_USER, assert_code, through_three_moves};
use nix::sys::signal::Signal;

const PAYLOAD: &str = include_str!("payloads/waiting.py");

fn comes_back(case: &str, said: &str) {
    let bench = Bench::new();
    let host = through_three_moves(&bench, ("waiting.py", PAYLOAD), &[case], Duration::ZERO);
    assert_eq!(host.stdout(), format!("ready\n{said}\n"), "{}", host.stderr());
}

#[test]
fn the_terminal_by_its_common_name() {
    comes_back("terminal", r"b'one\n' b'two\n'");
}

#[test]
fn a_file_of_a_process_that_has_ended() {
    comes_back("ended", "1");
}

#[test]
fn a_link_that_is_watched() {
    comes_back("link", "0x4");
}

/// It is refused while something waits to be read, tried again, and saved when it has been read.
fn saved_when_it_is_read(case: &str, why: &str, read: &str) {
    let bench = Bench::new();
    let host = bench.host("host", FIRST_USER);
    host.write("waiting.py", PAYLOAD);
    let mut job = host.start(&["--", "python3", "waiting.py", case]);
    job.until_output("ready\n").signal(Signal::SIGTERM);
    job.until("condor-criu.log", &format!("cannot save the payload yet: {why}"));
    assert_code(&host, job.end(), 85);
    assert_eq!(host.stdout(), format!("ready\n{read}\nready\n"));
}

#[test]
fn a_datagram_that_says_who_sent_it() {
    let why = "a datagram of a unix socket waits to be read, and CRIU would bring it back without its sender's name";
    saved_when_it_is_read("sender", why, "b'hello' other");
}

#[test]
fn events_that_have_not_been_read() {
    let why = "a process has not read yet what inotify has told it, which CRIU would lose";
    saved_when_it_is_read("events", why, "0x100");
}

#[test]
fn a_session_that_nobody_leads_to() {
    let bench = Bench::new();
    let host = bench.host("host", FIRST_USER);
    host.write("waiting.py", PAYLOAD);
    let mut job = host.start(&["--", "python3", "waiting.py", "session"]);
    job.until_output("ready\n").signal(Signal::SIGUSR2);
    job.until(
        "condor-criu.log",
        "cannot save the payload: process 304 (python3) is in the session of a process that has ended",
    );
    assert_eq!(fs::metadata(host.checkpoint()).unwrap().len(), 0);
    host.write("go", "");
    assert_code(&host, job.end(), 0);
}
