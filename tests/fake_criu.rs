//! What the real criu cannot be made to do at will: hang, die, lie. A shell script stands for it; what it does not play
//! is passed on to the real one.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on stops")]

mod common;

use std::os::unix::process::ExitStatusExt;

use common::local::{Bench, FIRST_USER, Host, assert_code, real_criu, starts_seen};
use nix::sys::signal::Signal;

const COUNT: &str = include_str!("payloads/count.py");

/// Makes `play`, the body of a `case` over criu's first argument, this host's criu. The real one is in a folder beside
/// it, which the sandbox binds with it; `$real` runs it.
fn fake(host: &mut Host<'_>, play: &str) {
    let folder = host.scratch.parent().unwrap().join("fake");
    let copied = std::process::Command::new("cp").arg("-r").arg(real_criu()).arg(&folder).status().unwrap();
    assert!(copied.success());
    std::fs::rename(folder.join("lib"), folder.join("real-lib")).unwrap();
    std::fs::rename(folder.join("criu"), folder.join("real-criu")).unwrap();
    let script = format!(
        "#!/bin/sh\nhere=${{0%/*}}\nreal=\"$here/real-lib/ld-linux-x86-64.so.2 --library-path $here/real-lib $here/real-criu\"\n\
         case $1 in\n{play}\nesac\nexec $real \"$@\"\n"
    );
    std::fs::write(folder.join("criu"), script).unwrap();
    std::fs::set_permissions(folder.join("criu"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    host.criu = folder.join("criu");
}

#[test]
fn a_dump_that_fails_harms_nothing_and_the_signal_is_passed_on() {
    let bench = Bench::new();
    let mut host = bench.host("host", FIRST_USER);
    fake(
        &mut host,
        "dump) echo 'Error (compel/src/lib/ptrace.c:27): suspending seccomp failed: Operation not permitted' >&2; exit 1;;",
    );
    let script = "trap 'echo saved myself; exit 7' TERM; for i in $(seq 200); do echo line$i; sleep 0.05; done";
    let mut job = host.start(&["--", "sh", "-c", script]);
    job.until_output("line3\n").signal(Signal::SIGTERM);
    assert_code(&host, job.end(), 7);
    assert!(host.stdout().ends_with("saved myself\n"), "{}", host.stdout());
    assert!(host.log().contains("has a seccomp filter"), "{}", host.log());
}

#[test]
fn a_cause_that_passes_costs_a_vacate_nothing() {
    let bench = Bench::new();
    let mut host = bench.host("host", FIRST_USER);
    // Once; what tells that it has been is in the job's own /tmp.
    fake(
        &mut host,
        "dump) if mkdir /tmp/tried; then echo 'Error (criu/pipes.c:436): Unable to set a pipe size: Operation not permitted' >&2; \
         exit 1; fi;;",
    );
    let script = "trap 'exit 7' TERM; for i in $(seq 100); do echo line$i; sleep 0.05; done; exit 4";
    let words = ["--", "sh", "-c", script];
    let mut job = host.start(&words);
    job.until_output("line3\n").signal(Signal::SIGTERM);
    assert_code(&host, job.end(), 85);
    drop(job);
    assert!(host.log().contains("cannot save the payload yet: the user's jobs on this host"), "{}", host.log());
    assert_code(&host, host.run(&words), 4);
    assert!(host.stdout().ends_with("line99\nline100\n"), "{}", host.stdout());
}

#[test]
fn a_dump_that_fails_leaves_the_checkpoint_before_it() {
    let bench = Bench::new();
    let mut host = bench.host("host", FIRST_USER);
    host.write("count.py", COUNT);
    let words = ["--", "python3", "count.py", "30"];
    let mut job = host.start(&words);
    job.until_output("line3 ").signal(Signal::SIGTERM);
    assert_code(&host, job.end(), 85);
    drop(job);
    let before = std::fs::read(host.checkpoint()).unwrap();
    fake(&mut host, "dump) exit 1;;");
    let mut job = host.start(&words);
    // On a busy machine it may have come further than that line before it was saved.
    job.until("condor-criu.log", "the payload runs again").signal(Signal::SIGUSR2);
    job.until("condor-criu.log", "cannot save the payload");
    assert_eq!(std::fs::read(host.checkpoint()).unwrap(), before);
    assert_code(&host, job.end(), 42);
    assert_eq!((host.stdout().lines().count(), starts_seen(&host.stdout())), (30, 1));
}

#[test]
fn a_dump_that_hangs_is_given_up() {
    let bench = Bench::new();
    let mut host = bench.host("host", FIRST_USER);
    fake(&mut host, "dump) exec sleep 1000;;");
    host.write("condor-criu.toml", "dump_timeout = '1s'");
    host.write("count.py", COUNT);
    let mut job = host.start(&["--", "python3", "count.py", "160"]);
    job.until_output("line3 ").signal(Signal::SIGUSR2);
    job.until("condor-criu.log", "did not end in time and is given up");
    job.until("condor-criu.log", "does not end and is killed");
    job.until("condor-criu.log", "cannot save the payload: criu did not end in time");
    assert_code(&host, job.end(), 42);
    assert_eq!((host.stdout().lines().count(), starts_seen(&host.stdout())), (160, 1));
}

/// What a dump that comes to nothing costs: neither the program nor a checkpoint. `said` is in the log.
fn comes_to_nothing(play: &str, said: &str) {
    let bench = Bench::new();
    let mut host = bench.host("host", FIRST_USER);
    fake(&mut host, play);
    host.write("count.py", COUNT);
    let mut job = host.start(&["--", "python3", "count.py", "30"]);
    job.until_output("line3 ").signal(Signal::SIGUSR2);
    job.until("condor-criu.log", said);
    assert_code(&host, job.end(), 42);
    assert_eq!((host.stdout().lines().count(), starts_seen(&host.stdout())), (30, 1));
    assert_eq!(std::fs::metadata(host.checkpoint()).unwrap().len(), 0);
}

/// A real criu, killed when it has written every image and holds the tree: our socket is gone as soon as it waits
/// there.
const KILLED_WHILE_IT_HOLDS: &str = "dump) $real \"$@\" & real=$!; while [ -S /job/.condor-criu/images/held.sock ]; do sleep 0.01; done; \
     kill -KILL $real; wait $real; kill -KILL $$;;";

/// So much that packing takes seconds.
const MUCH: &str = "head -c 40000000 /dev/urandom >much; ";

#[test]
fn a_criu_that_dies_while_it_holds_everything_is_undone() {
    let bench = Bench::new();
    let mut host = bench.host("host", FIRST_USER);
    fake(&mut host, KILLED_WHILE_IT_HOLDS);
    host.write("count.py", COUNT);
    let script = format!("{MUCH} exec python3 count.py 40");
    let mut job = host.start(&["--compression", "zstd:19", "--", "sh", "-c", &script]);
    job.until_output("line3 ").signal(Signal::SIGUSR2);
    job.until("condor-criu.log", "before the checkpoint was committed");
    job.until("condor-criu.log", "the tree went on before everything was packed");
    assert_code(&host, job.end(), 42);
    assert_eq!((host.stdout().lines().count(), starts_seen(&host.stdout())), (40, 1));
    assert_eq!(std::fs::metadata(host.checkpoint()).unwrap().len(), 0);
}

#[test]
fn a_dump_without_our_helpers_is_none() {
    // As a criu that is linked statically would leave them.
    comes_to_nothing("dump) unset LD_PRELOAD; exec $real \"$@\";;", "linked statically");
}

#[test]
fn a_child_that_was_stopped_before_a_failed_dump_stays_stopped() {
    let bench = Bench::new();
    let mut host = bench.host("host", FIRST_USER);
    fake(&mut host, KILLED_WHILE_IT_HOLDS);
    let script = MUCH.to_owned()
        + "sh -c 'kill -STOP $$; echo went on' & child=$!; for i in $(seq 60); do echo line$i; sleep 0.05; done; \
                  grep State: /proc/$child/status; kill -CONT $child; wait";
    let mut job = host.start(&["--compression", "zstd:19", "--", "sh", "-c", &script]);
    job.until_output("line9\n").signal(Signal::SIGUSR2);
    job.until("condor-criu.log", "cannot save the payload");
    assert_code(&host, job.end(), 0);
    let output = host.stdout();
    assert!(output.ends_with("State:\tT (stopped)\nwent on\n"), "{output}");
}

#[test]
fn a_restore_that_hangs_or_fails_is_for_another_host() {
    let bench = Bench::new();
    let mut host = bench.host("host", FIRST_USER);
    host.write("count.py", COUNT);
    let words = ["--", "python3", "count.py", "20"];
    let mut job = host.start(&words);
    job.until_output("line3 ").signal(Signal::SIGTERM);
    assert_code(&host, job.end(), 85);
    drop(job);
    let before = std::fs::read(host.checkpoint()).unwrap();
    host.write("condor-criu.toml", "restore_timeout = '2s'");
    fake(
        &mut host,
        "restore) [ -e /job/hang ] && exec sleep 1000; echo 'Error (criu/x.c:1): Something new' >&2; exit 1;;",
    );
    host.write("hang", "");
    // Unknown files are removed before a restore; this one must stay.
    host.write(".hang", "");
    std::fs::write(host.criu.clone(), std::fs::read_to_string(&host.criu).unwrap().replace("/job/hang", "/job/.hang"))
        .unwrap();
    assert_code(&host, host.run(&words), 75);
    assert!(host.log().contains("did not end in time"), "{}", host.log());
    std::fs::remove_file(host.scratch.join(".hang")).unwrap();
    assert_code(&host, host.run(&words), 75);
    assert!(host.log().contains("CRIU says: Something new"), "{}", host.log());
    assert_eq!(std::fs::read(host.checkpoint()).unwrap(), before);
    // Elsewhere it goes on.
    host.criu = real_criu();
    assert_code(&host, host.run(&words), 42);
    assert_eq!((host.stdout().lines().count(), starts_seen(&host.stdout())), (20, 1));
}

#[test]
fn a_restore_that_hangs_leaves_no_process() {
    let bench = Bench::new();
    let mut host = bench.host("host", FIRST_USER);
    host.write("count.py", COUNT);
    let words = ["--", "python3", "count.py", "20"];
    let mut job = host.start(&words);
    job.until_output("line3 ").signal(Signal::SIGTERM);
    assert_code(&host, job.end(), 85);
    drop(job);
    host.write("condor-criu.toml", "restore_timeout = '3s'");
    // What a restore that stops half way leaves behind: processes that are nobody's children and heed no signal.
    fake(
        &mut host,
        "restore) setsid sh -c 'trap \"\" TERM INT HUP; while :; do date +%s%N >>/job/.tick; sleep 0.02; done' & exec sleep 1000;;",
    );
    assert_code(&host, host.run(&words), 75);
    assert!(host.log().contains("did not end in time"), "{}", host.log());
    // wait(2) for the namespace's first process returns only when all others are gone, and condor-criu has waited.
    let last = host.read(".tick");
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert!(!last.is_empty() && host.read(".tick") == last, "a process of the restore is still there");
}

/// A host with generation 1 of the count.
fn saved(host: &Host<'_>) -> Vec<u8> {
    host.write("count.py", COUNT);
    let mut job = host.start(&SAVED);
    job.until_output("line3 ").signal(Signal::SIGTERM);
    assert_code(host, job.end(), 85);
    std::fs::read(host.checkpoint()).unwrap()
}

const SAVED: [&str; 4] = ["--", "python3", "count.py", "30"];

/// The real one goes on from generation 1, which is as it was.
#[track_caller]
fn goes_on(host: &mut Host<'_>, before: &[u8]) {
    assert!(std::fs::read(host.checkpoint()).unwrap() == before, "the checkpoint has changed\n{}", host.log());
    host.criu = real_criu();
    assert_code(host, host.run(&SAVED), 42);
    assert_eq!((host.stdout().lines().count(), starts_seen(&host.stdout())), (30, 1), "{}", host.log());
}

#[test]
fn the_death_of_the_init_costs_no_checkpoint() {
    // What criu does at its moment; the file that tells of it is one that a restore leaves alone.
    let dumping = "dump) echo now >/job/.now; exec sleep 1000;;";
    let restoring = "restore) echo now >/job/.now; exec sleep 1000;;";
    for (moment, play) in [("restoring", restoring), ("running", ""), ("dumping", dumping)] {
        let bench = Bench::new();
        let mut host = bench.host("host", FIRST_USER);
        let before = saved(&host);
        fake(&mut host, play);
        host.write(".now", "");
        let mut job = host.start(&SAVED);
        if moment != "restoring" {
            job.until("condor-criu.log", "the payload runs again");
        }
        if moment == "dumping" {
            job.signal(Signal::SIGUSR2);
        }
        if moment != "running" {
            job.until(".now", "now");
        }
        job.kill_init();
        assert_code(&host, job.end(), 75);
        assert!(host.log().contains("the sandbox was killed from outside"), "{moment}: {}", host.log());
        drop(job);
        goes_on(&mut host, &before);
    }
}

#[test]
fn a_criu_that_dies_at_a_restore_costs_no_checkpoint() {
    // Before it has done anything, and when the whole tree is there.
    for play in ["restore) kill -KILL $$;;", "restore) $real \"$@\"; kill -KILL $$;;"] {
        let bench = Bench::new();
        let mut host = bench.host("host", FIRST_USER);
        let before = saved(&host);
        fake(&mut host, play);
        assert_code(&host, host.run(&SAVED), 75);
        goes_on(&mut host, &before);
    }
}

#[test]
fn a_criu_that_is_killed_inside_the_payload_leaves_nothing_to_go_on_with() {
    // Its helper has said that it has changed something; what it leaves may run on or die of that.
    let dies = "for at in /proc/[0-9]*; do read -r name <$at/comm; [ \"$name\" = python3 ] && kill -TRAP ${at#/proc/}; done; sleep 0.3;";
    for then in ["", dies] {
        let bench = Bench::new();
        let mut host = bench.host("host", FIRST_USER);
        let before = saved(&host);
        fake(&mut host, &format!("dump) : >/.condor-criu/run/modifying; {then} kill -KILL $$;;"));
        let mut job = host.start(&SAVED);
        job.until("condor-criu.log", "the payload runs again").signal(Signal::SIGUSR2);
        assert_code(&host, job.end(), 75);
        assert!(host.log().contains("while it worked inside the payload"), "{}", host.log());
        drop(job);
        goes_on(&mut host, &before);
    }
}

#[test]
fn criu_has_the_capabilities_that_it_needs_and_no_way_to_others() {
    // CAP_DAC_OVERRIDE is 1, CAP_DAC_READ_SEARCH 2, CAP_NET_ADMIN 12, CAP_NET_RAW 13, CAP_SYS_PTRACE 19,
    // CAP_CHECKPOINT_RESTORE 40 (<linux/capability.h>).
    let always = (1_u64 << 1) | (1 << 2) | (1 << 19) | (1 << 40);
    for (network, expected) in [("host", always), ("private", always | (1 << 12) | (1 << 13))] {
        let bench = Bench::new();
        let mut host = bench.host("host", FIRST_USER);
        host.write("seen", "");
        fake(&mut host, "dump) grep ^Cap /proc/self/status >/job/seen; exit 1;;");
        let mut job =
            host.start(&["--network", network, "--", "sh", "-c", "echo up; while [ ! -e go ]; do sleep 0.05; done"]);
        job.until_output("up").signal(Signal::SIGUSR2);
        job.until("condor-criu.log", "cannot save the payload");
        host.write("go", "");
        assert_code(&host, job.end(), 0);
        let seen = host.read("seen");
        let sets: Vec<u64> = seen
            .lines()
            .map(|line| u64::from_str_radix(line.split_whitespace().nth(1).unwrap(), 16).unwrap())
            .collect();
        assert_eq!(sets, [expected; 5], "{network}\n{seen}");
    }
}

#[test]
fn the_death_of_the_supervisor_is_the_death_of_all() {
    let bench = Bench::new();
    let host = bench.host("host", FIRST_USER);
    let mut job = host.start(&["--", "sh", "-c", "echo up; while :; do date +%s%N >tick; sleep 0.02; done"]);
    job.until_output("up").until("tick", "1").signal(Signal::SIGKILL);
    assert_eq!(job.end().signal(), Some(libc::SIGKILL));
    // wait(2) says when we are gone; the kernel kills the namespace on its own time.
    let mut last = host.read("tick");
    let mut quiet = 0;
    for _ in 0..500 {
        std::thread::sleep(std::time::Duration::from_millis(10));
        let now = host.read("tick");
        quiet = if now == last { quiet + 1 } else { 0 };
        last = now;
        if quiet == 50 {
            return;
        }
    }
    panic!("the payload lives on");
}
