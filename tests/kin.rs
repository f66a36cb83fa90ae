//! Kinship survives any number of moves: nothing of the tree is ever left out, and nobody gets another parent, session
//! or group.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on stops")]

mod common;

use std::time::Duration;

use common::local::{Bench, FIRST_USER, assert_code, through_three_moves};
use nix::sys::signal::Signal;

const KIN: &str = include_str!("payloads/kin.py");

const SAID: &str = "ready\nstatus 9\nstatus 15\nstatus 11\nstatus 1792\ndaemon as before\ndaemon in a group as before\norphan as before\n";

#[test]
fn orphans_daemons_and_ended_children_after_three_moves() {
    let bench = Bench::new();
    // Orphans look for their parent's end every hundredth of a second.
    let host = through_three_moves(&bench, ("kin.py", KIN), &[], Duration::from_millis(200));
    assert_eq!(host.stdout(), SAID, "{}", host.stderr());
}

/// CRIU would bring back 72: it is tried again, and here the parent waits in time.
#[test]
fn an_exit_code_that_cannot_come_back_is_waited_for() {
    let bench = Bench::new();
    let host = bench.host("host", FIRST_USER);
    let script = "import os, time\nchild = os.fork()\nif child == 0: os._exit(200)\nprint('ready', flush=True)\ntime.sleep(2)\n\
                  print(os.waitpid(child, 0)[1] >> 8, flush=True)\ntime.sleep(60)\n";
    let mut job = host.start(&["--", "python3", "-c", script]);
    job.until_output("ready").signal(Signal::SIGTERM);
    job.until("condor-criu.log", "CRIU brings such codes back only up to 127");
    assert_code(&host, job.end(), 85);
    assert_eq!(host.stdout(), "ready\n200\n");
}

/// `kill -TERM -1` of a program that ignores the signal is no reason to end.
#[test]
fn a_signal_to_everybody_does_not_end_the_reaper() {
    let bench = Bench::new();
    let host = bench.host("host", FIRST_USER);
    let script = "trap '' TERM HUP USR1; kill -TERM -1; kill -HUP -1; kill -USR1 -1; sleep 0.2; exit 6";
    assert_code(&host, host.run(&["--", "sh", "-c", script]), 6);
}
