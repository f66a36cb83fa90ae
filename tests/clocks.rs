//! Hosts whose uptimes differ by days, which a time namespace makes: clocks go on without a jump, and sleeps end when
//! they should, on the way to a smaller uptime and to a larger one.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on stops")]

mod common;

use std::fs;
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use common::local::{Bench, Host, SECOND_USER, assert_code, real_criu};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const PAYLOAD: &[u8] = include_bytes!("payloads/clocks.py");
/// The payload sleeps for nine seconds in all; one whose clock has jumped back sleeps for days.
const PATIENCE: Duration = Duration::from_secs(120);
const DAY: i64 = 86_400;

/// `condor-criu run` on a host that has been up for this much longer than this machine, and with another reading of
/// CLOCK_BOOTTIME.
fn start(bench: &Bench, host: &Host<'_>, days: i64) -> Child {
    let user = host.user.to_string();
    let run = format!("{} run --criu {} -- python3 clocks.py", bench.binary().display(), real_criu().display());
    let mut command = Command::new("unshare");
    let (monotonic, boottime) = ((days * DAY).to_string(), (days * DAY + days * 3600).to_string());
    command.args(["--time", "--monotonic", &monotonic, "--boottime", &boottime, "--fork", "--kill-child"]);
    command.args(["setpriv", "--reuid", &user, "--regid", &user, "--clear-groups", "sh", "-c"]);
    command
        .arg(format!("exec {run} >>_condor_stdout 2>>_condor_stderr </dev/null"))
        .current_dir(&host.scratch)
        .env("_CONDOR_SCRATCH_DIR", &host.scratch);
    command.env_remove("CONDOR_CRIU_CRIU").spawn().unwrap()
}

fn said(host: &Host<'_>) -> String {
    format!("stdout: {}\nstderr: {}\nlog: {}", host.stdout(), host.stderr(), host.log())
}

fn end(job: &mut Child, host: &Host<'_>) -> ExitStatus {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = job.try_wait().unwrap() {
            return status;
        }
        if Instant::now() > deadline {
            let _ = job.kill();
            panic!("it sleeps for ever\n{}", said(host));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// In the middle of a sleep.
fn vacate(job: &mut Child, host: &Host<'_>, line: &str) {
    let deadline = Instant::now() + PATIENCE;
    while !host.stdout().contains(line) {
        assert!(job.try_wait().unwrap().is_none() && Instant::now() < deadline, "{}", said(host));
        std::thread::sleep(Duration::from_millis(10));
    }
    let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", job.id())).unwrap();
    kill(Pid::from_raw(children.trim().parse().unwrap()), Signal::SIGTERM).unwrap();
    assert_code(host, end(job, host), 85);
}

#[test]
fn uptimes_that_differ_by_days() {
    let bench = Bench::new();
    // Eleven days less, then thirty more.
    let uptimes = [("first", 11), ("second", 0), ("third", 30)];
    let hosts: Vec<Host<'_>> = uptimes.iter().map(|(name, _)| bench.host(name, SECOND_USER)).collect();
    for (number, (host, (_, days))) in hosts.iter().zip(uptimes).enumerate() {
        host.write("clocks.py", PAYLOAD);
        let mut job = start(&bench, host, days);
        match hosts.get(number + 1) {
            Some(next) => {
                vacate(&mut job, host, &format!("sleeping {number}\n"));
                host.carry_to(next, &[]);
            }
            None => assert_code(host, end(&mut job, host), 42),
        }
    }
    let last = &hosts[2];
    let expected: String = (0..3).map(|number| format!("sleeping {number}\nslept {number} True\n")).collect();
    assert_eq!(last.stdout(), expected + "all True backwards False\n", "{}", said(last));
    assert_eq!(last.log().matches("the payload runs again").count(), 2, "{}", last.log());
}
