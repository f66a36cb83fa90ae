//! What the ads make condor-criu decide, with the real criu on this machine: what a vacate's time allows, a known end
//! of the slot, and whether a start is a retry.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on stops")]

mod common;

use std::time::{SystemTime, UNIX_EPOCH};

use common::local::{Bench, FIRST_USER, Host, assert_code, real_criu};
use nix::sys::signal::Signal;

const AD: &str = "ClusterId = 7\nProcId = 0\nSuccessCheckpointExitCode = 85\nWantFTOnCheckpoint = true\n\
                  WhenToTransferOutput = \"ON_EXIT_OR_EVICT\"\nOnExitRemove = ExitCode =!= 75\n";

/// Counts; with memory that zstd:19 needs seconds for, and half of which it can save.
const COUNT: &str = "import os, time\n\
    ballast = bytes(b % 16 + 65 for b in os.urandom(12 << 20))\n\
    for n in range(1, 61):\n    print(n, flush=True)\n    time.sleep(0.1)\n\
    print(len(ballast))\n";

fn whole() -> String {
    (1..=60).map(|n| format!("{n}\n")).collect::<String>() + &(12 << 20).to_string() + "\n"
}

fn to_the_end(host: &Host<'_>, words: &[&str]) {
    while host.run(words).code() == Some(85) {}
    assert_eq!(host.stdout(), whole(), "{}", host.log());
}

#[test]
fn compression_that_a_vacate_has_no_time_for_is_lowered() {
    let bench = Bench::new();
    let host = bench.host("host", FIRST_USER);
    host.write(".job.ad", format!("{AD}JobMaxVacateTime = 1\n"));
    let words = ["--compression", "zstd:19", "--interval", "never", "--", "python3", "-c", COUNT];
    // Not a periodic one: after that the time until it runs again would be taken for the upload's, and on a busy
    // machine that alone is more than a second, for which compression is left out. As it is, the upload is taken to be
    // as long as the packing.
    let mut job = host.start(&words);
    job.until_output("2\n").signal(Signal::SIGUSR2);
    assert_code(&host, job.end(), 85);
    drop(job);
    let hard = host.checkpoint().metadata().unwrap().len();
    let mut job = host.start(&words);
    job.until("condor-criu.log", "the payload runs again").signal(Signal::SIGTERM);
    assert_code(&host, job.end(), 85);
    let log = host.log();
    assert!(log.contains("a vacate leaves 1 s: saving with less compression compression=Zstd { level: 1 }"), "{log}");
    assert!(log.contains("committed generation=2 reason=vacate"), "{log}");
    assert!(host.checkpoint().metadata().unwrap().len() > hard, "it was not packed otherwise");
    drop(job);
    to_the_end(&host, &words);
}

/// criu has its hands in the program while its memory is packed, and takes them out of it when it finds its pipes
/// closed.
#[test]
fn a_dump_that_is_too_slow_is_given_up_and_harms_nothing() {
    let bench = Bench::new();
    let host = bench.host("host", FIRST_USER);
    host.write(".job.ad", AD);
    host.write("condor-criu.toml", "dump_timeout = '300ms'\n");
    let words = ["--compression", "zstd:19", "--interval", "never", "--", "python3", "-c", COUNT];
    let mut job = host.start(&words);
    job.until_output("2\n").signal(Signal::SIGUSR2);
    job.until("condor-criu.log", "cannot save the payload: criu did not end in time");
    assert_code(&host, job.end(), 0);
    assert_eq!(host.stdout(), whole(), "{}", host.log());
    assert!(!host.log().contains("is killed"), "{}", host.log());
}

#[test]
fn what_a_vacate_has_no_time_for_at_all_is_told_and_the_periodic_checkpoint_stands() {
    let bench = Bench::new();
    let host = bench.host("host", FIRST_USER);
    host.write(".job.ad", format!("{AD}JobMaxVacateTime = 0\n"));
    let words = ["--interval", "never", "--", "python3", "-c", COUNT];
    // With nothing to lose it is tried.
    let mut job = host.start(&words);
    job.until_output("2\n").signal(Signal::SIGTERM);
    assert_code(&host, job.end(), 85);
    drop(job);
    assert!(host.log().contains("saving with less compression compression=None"), "{}", host.log());
    let first = std::fs::read(host.checkpoint()).unwrap();

    let seen = host.stdout().lines().count();
    let mut job = host.start(&words);
    job.until_output(&format!("{}\n", seen + 4)).signal(Signal::SIGTERM);
    assert_code(&host, job.end(), 85);
    drop(job);
    let log = host.log();
    let told = log.lines().find(|line| line.contains("s more than the 0 s that a vacate leaves: generation 1 stands"));
    let missing =
        told.and_then(|line| line.split("a checkpoint needs ").nth(1)?.split(' ').next()?.parse::<f64>().ok());
    assert!(missing.is_some_and(|seconds| seconds < 60.0), "{log}");
    // At every start it is said what the submit file lacks.
    assert!(log.contains("and a vacate leaves 0 s: add job_max_vacate_time = "), "{log}");
    assert!(std::fs::read(host.checkpoint()).unwrap() == first, "the periodic checkpoint was touched");
    to_the_end(&host, &words);
}

#[test]
fn a_known_end_of_the_slot_beats_the_interval() {
    // A minute is left for the upload.
    let ends: [fn(u64) -> String; 2] = [
        |now| format!("GLIDEIN_ToDie = {}\n", now + 67),
        |now| format!("GLIDEIN_ToRetire = {}\nMaxJobRetirementTime = 60\nGLIDEIN_ToDie = {}\n", now + 7, now + 9000),
    ];
    for end in ends {
        let bench = Bench::new();
        let host = bench.host("host", FIRST_USER);
        host.write(".job.ad", AD);
        let ad = end(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs());
        host.write(".machine.ad", &ad);
        let words = ["--interval", "1h", "--", "python3", "-c", COUNT];
        assert_code(&host, host.run(&words), 85);
        let log = host.log();
        assert!(log.contains("committed generation=1 reason=deadline"), "{ad}{log}");
        // Elsewhere nothing ends.
        host.write(".machine.ad", "");
        to_the_end(&host, &words);
        assert!(!host.log().contains("committed generation=2"), "{}", host.log());
    }
}

/// The ad of a start after so many ends that HTCondor counted, with the attempt that was told to have ended.
fn attempt(host: &Host<'_>, counted: u32, told: Option<u32>) {
    let told = told.map_or(String::new(), |attempt| format!("ChirpCriuEndedAttempt = {attempt}\n"));
    host.write(".job.ad", format!("{AD}NumJobCompletions = {counted}\n{told}TransferOutput = \"result\"\n"));
}

#[test]
fn an_attempt_begins_from_the_beginning_only_after_the_payload_s_own_end() {
    let bench = Bench::new();
    let host = bench.host("host", FIRST_USER);
    let words = ["--", "sh", "-c", "echo ran; echo ran >&2; cat result 2>/dev/null; echo x >>result; exit 9"];
    attempt(&host, 0, None);
    assert_code(&host, host.run(&words), 9);
    // Told, but taken for an eviction; not told, and counted (a 75): it has ended, and once is enough.
    for (counted, told) in [(0, Some(0)), (1, None)] {
        attempt(&host, counted, told);
        assert_code(&host, host.run(&words), 9);
        assert_eq!((host.stdout(), host.stderr()), ("ran\n".into(), "ran\n".into()), "{}", host.log());
    }
    // Counted and told: a policy's retry, without what was written before.
    attempt(&host, 2, Some(1));
    assert_code(&host, host.run(&words), 9);
    assert_eq!((host.stdout(), host.read("result")), ("ran\n".into(), "x\n".into()), "{}", host.log());
    assert!(host.log().contains("from the beginning"), "{}", host.log());
}

#[test]
fn an_end_that_was_saved_is_not_told_to_the_next_attempt() {
    let bench = Bench::new();
    let mut host = bench.host("host", FIRST_USER);
    // A dump that waits, so that the payload can end while it is under way.
    let lib = real_criu().join("lib");
    let criu = real_criu().join("criu");
    let script = format!(
        "#!/bin/sh\n[ \"$1\" != dump ] || sleep 10\nexec {0}/ld-linux-x86-64.so.2 --library-path {0} {1} \"$@\"\n",
        lib.display(),
        criu.display()
    );
    host.criu = host.write("slow-criu", script);
    let asked = "TransferInput = \"stop\"\nWantCheckpointSignal = true\nCheckpointSig = \"SIGUSR1\"\n";
    host.write(".job.ad", format!("{AD}{asked}"));
    let words = [
        "--",
        "sh",
        "-c",
        "echo up; [ ! -e mine ] || exit 3; touch mine; while [ ! -e stop ]; do sleep 0.02; done; exit 5",
    ];
    let mut job = host.start(&words);
    job.until_output("up").signal(Signal::SIGUSR1);
    job.until("condor-criu.log", "saving reason=signal");
    host.write("stop", "");
    assert_code(&host, job.end(), 85);
    drop(job);
    // HTCondor brings the input again.
    host.write("stop", "");
    host.write(".job.ad", format!("{AD}{asked}NumJobCompletions = 1\nChirpCriuEndedAttempt = 0\n"));
    assert_code(&host, host.run(&words), 5);
    assert_eq!(host.stdout(), "up\n", "{}", host.log());
    assert!(host.log().contains("from the beginning"), "{}", host.log());
}
