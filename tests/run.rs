//! `condor-criu run` with the real criu, on this machine: a payload's whole life without HTCondor.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on stops")]

mod common;

use std::fs;
use std::os::unix::process::ExitStatusExt;

use common::local::{Bench, FIRST_USER, SECOND_USER, assert_code, starts_seen};
use nix::sys::signal::Signal;

const COUNT: &str = include_str!("payloads/count.py");
const TREE: &str = include_str!("payloads/tree.py");

#[test]
fn the_payload_s_status_and_output_are_its_own() {
    let bench = Bench::new();
    let host = bench.host("host", FIRST_USER);
    assert_code(&host, host.run(&["--", "sh", "-c", "echo out; echo err >&2; exit 42"]), 42);
    assert_eq!((host.stdout().as_str(), host.stderr().as_str()), ("out\n", "err\n"));
    // What HTCondor looks for is there, and empty; nothing else is left.
    assert_eq!(fs::metadata(host.checkpoint()).unwrap().len(), 0);
    assert!(!host.scratch.join(".condor-criu").exists());
}

#[test]
fn the_payload_has_no_capability_and_no_way_to_one() {
    let bench = Bench::new();
    let host = bench.host("host", FIRST_USER);
    host.run(&["--", "grep", "-E", "^(Cap|NoNewPrivs)", "/proc/self/status"]);
    let lines: Vec<String> = host.stdout().lines().map(str::to_owned).collect();
    assert_eq!(lines.len(), 6, "{lines:?}");
    for line in lines {
        let expected = if line.starts_with("NoNewPrivs") { "1" } else { "0000000000000000" };
        assert!(line.ends_with(expected), "{line}");
    }
}

#[test]
fn a_vacated_payload_goes_on_elsewhere_under_another_user() {
    let bench = Bench::new();
    let first = bench.host("first", FIRST_USER);
    first.job_ad(85).write("count.py", COUNT);
    let mut job = first.start(&["--", "python3", "count.py", "30"]);
    job.until_output("line9 ").signal(Signal::SIGTERM);
    assert_code(&first, job.end(), 85);

    let second = bench.host("a/longer/path/second", SECOND_USER);
    second.job_ad(85).write("count.py", COUNT);
    first.carry_to(&second, &[]);
    let mut job = second.start(&["--", "python3", "count.py", "30"]);
    // On a busy machine the first host may have come to this line; a signal that comes before a process catches it
    // would stop it.
    job.until("condor-criu.log", "the payload runs again").until_output("line19 ").signal(Signal::SIGTSTP);
    assert_code(&second, job.end(), 85);

    let third = bench.host("third", FIRST_USER);
    third.job_ad(85).write("count.py", COUNT);
    second.carry_to(&third, &[]);
    assert_code(&third, third.run(&["--", "python3", "count.py", "30"]), 42);
    let output = third.stdout();
    assert_eq!((output.lines().count(), starts_seen(&output)), (30, 1), "{output}");
    assert_eq!(third.read("data.txt"), output.replace("line", ""));
    assert_eq!(third.stderr(), "");
}

#[test]
fn a_tree_of_processes_is_saved_whole() {
    let bench = Bench::new();
    let peace = bench.host("peace", FIRST_USER);
    peace.write("tree.py", TREE);
    assert_code(&peace, peace.run(&["--", "python3", "tree.py", "40"]), 0);
    assert!(peace.stdout().contains("thread ran True orphan lives True\nclock True\n"), "{}", peace.stdout());

    let mut host = bench.host("host0", FIRST_USER);
    for (number, line) in ["step 9 ", "step 19 ", "step 29 "].into_iter().enumerate() {
        host.job_ad(85).write("tree.py", TREE);
        let mut job = host.start(&["--", "python3", "tree.py", "40"]);
        job.until_output(line).signal(Signal::SIGTERM);
        let status = job.end();
        assert_code(&host, status, 85);
        drop(job);
        let user = if number % 2 == 0 { SECOND_USER } else { FIRST_USER };
        let next = bench.host(&format!("host{}", number + 1), user);
        host.carry_to(&next, &[]);
        host = next;
    }
    host.write("tree.py", TREE);
    assert_code(&host, host.run(&["--", "python3", "tree.py", "40"]), 0);
    assert_eq!(host.stdout(), peace.stdout());
    assert_eq!(host.read("out/deep/log"), peace.read("out/deep/log"));
    let left: Vec<_> =
        fs::read_dir(host.scratch.join("out")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["deep"]);
}

#[test]
fn a_periodic_checkpoint_ends_with_the_job_s_code_and_goes_on_in_place() {
    let bench = Bench::new();
    let host = bench.host("host", FIRST_USER);
    host.job_ad(77).write("count.py", COUNT);
    let words = ["--interval", "1s", "--", "python3", "count.py", "80", "3"];
    let mut lives = 0;
    loop {
        let status = host.run(&words);
        match status.code() {
            Some(77) => lives += 1,
            _ => break assert_code(&host, status, 3),
        }
    }
    assert!(lives >= 2, "{lives} checkpoints\n{}", host.log());
    assert_eq!((host.stdout().lines().count(), starts_seen(&host.stdout())), (80, 1));
}

#[test]
fn without_a_code_in_the_ad_there_are_no_periodic_checkpoints() {
    let bench = Bench::new();
    let host = bench.host("host", FIRST_USER);
    assert_code(&host, host.run(&["--interval", "1s", "--", "sh", "-c", "sleep 2; exit 4"]), 4);
    assert!(host.log().contains("no periodic checkpoints"), "{}", host.log());
}

#[test]
fn what_came_after_the_checkpoint_is_undone() {
    let bench = Bench::new();
    let first = bench.host("first", FIRST_USER);
    let script = "exec 3>created; for i in 0 1 2 3 4 5 6 7 8 9; do echo line$i; echo $i >>appended; echo $i >&3; sleep 0.2; done";
    let mut job = first.start(&["--", "sh", "-c", script]);
    job.until_output("line4").signal(Signal::SIGTERM);
    assert_code(&first, job.end(), 85);

    // The spool may hold newer files than the checkpoint, and files that the payload had not made yet.
    let second = bench.host("second", SECOND_USER);
    first.carry_to(&second, &["appended", "created"]);
    for name in ["_condor_stdout", "appended", "created"] {
        second.write(name, first.read(name) + "later\n");
    }
    second.write("late-file", "x");
    assert_code(&second, second.run(&["--", "sh", "-c", script]), 0);
    let numbers: String = (0..10).map(|i| format!("{i}\n")).collect();
    assert_eq!(second.stdout(), (0..10).map(|i| format!("line{i}\n")).collect::<String>());
    assert_eq!((second.read("appended"), second.read("created")), (numbers.clone(), numbers));
    assert!(!second.scratch.join("late-file").exists());
}

#[test]
fn death_by_a_signal_is_ours_too_before_and_after_a_restore() {
    let bench = Bench::new();
    for (signal, number) in [("SEGV", libc::SIGSEGV), ("KILL", libc::SIGKILL), ("RTMIN", libc::SIGRTMIN())] {
        let host = bench.host(signal, FIRST_USER);
        let script = format!("echo up; while [ ! -e go ]; do sleep 0.05; done; kill -{signal} $$");
        let words = ["--", "bash", "-c", &script];
        let mut job = host.start(&words);
        job.until_output("up");
        host.write("go", "");
        assert_eq!(job.end().signal(), Some(number), "{}", host.log());

        let host = bench.host(&format!("{signal}-restored"), FIRST_USER);
        let mut job = host.start(&words);
        job.until_output("up").signal(Signal::SIGTERM);
        assert_code(&host, job.end(), 85);
        let mut job = host.start(&words);
        job.until("condor-criu.log", "runs again");
        host.write("go", "");
        assert_eq!(job.end().signal(), Some(number), "{}", host.log());
    }
}

#[test]
fn the_payload_s_own_checkpoint_code_is_not_taken_for_a_checkpoint() {
    let bench = Bench::new();
    let host = bench.host("host", FIRST_USER);
    host.job_ad(85);
    assert_code(&host, host.run(&["--", "sh", "-c", "exit 85"]), 1);
    assert!(host.log().contains("checkpoint_exit_code"), "{}", host.log());
}

#[test]
fn other_signals_are_the_payload_s() {
    let bench = Bench::new();
    let host = bench.host("host", FIRST_USER);
    let mut job = host.start(&["--", "sh", "-c", "trap 'echo hup; exit 9' HUP; echo up; while :; do sleep 0.05; done"]);
    job.until_output("up").signal(Signal::SIGHUP);
    assert_code(&host, job.end(), 9);
    assert_eq!(host.stdout(), "up\nhup\n");
}

#[test]
fn save_and_go_on_without_a_code_goes_on_in_place() {
    let bench = Bench::new();
    let host = bench.host("host", FIRST_USER);
    host.write("count.py", COUNT);
    let mut job = host.start(&["--", "python3", "count.py", "30"]);
    job.until_output("line4 ").signal(Signal::SIGUSR2);
    job.until("condor-criu.log", "committed generation=1");
    assert!(fs::metadata(host.checkpoint()).unwrap().len() > 0);
    assert_code(&host, job.end(), 42);
    assert_eq!((host.stdout().lines().count(), starts_seen(&host.stdout())), (30, 1));
}

#[test]
fn two_vacate_signals_are_one() {
    let bench = Bench::new();
    let host = bench.host("host", FIRST_USER);
    host.write("count.py", COUNT);
    let mut job = host.start(&["--", "python3", "count.py", "30"]);
    job.until_output("line2 ").signal(Signal::SIGTERM);
    job.signal(Signal::SIGTERM);
    assert_code(&host, job.end(), 85);
    // At once, before anything is restored, too: what is committed stands.
    let mut job = host.start(&["--", "python3", "count.py", "30"]);
    job.until("condor-criu.log", "restoring generation=1").signal(Signal::SIGTERM);
    let status = job.end();
    assert_code(&host, status, 85);
    assert_code(&host, host.run(&["--", "python3", "count.py", "30"]), 42);
    assert_eq!((host.stdout().lines().count(), starts_seen(&host.stdout())), (30, 1));
}

#[test]
fn a_terminal_and_pipes_are_standard_streams_too() {
    let bench = Bench::new();
    let host = bench.host("host", FIRST_USER);
    let run = format!(
        "{} run --criu {} -- sh -c 'read word; echo got $word; echo warn >&2; exit 6'",
        bench.binary().display(),
        host.criu.display()
    );
    // A pipe.
    let mut command = std::process::Command::new("sh");
    command.args(["-c", &format!("echo hello | {run}")]).current_dir(&host.scratch);
    let output = command.output().unwrap();
    assert_eq!(
        (output.status.code(), output.stdout.as_slice()),
        (Some(6), b"got hello\n".as_slice()),
        "{}",
        host.log()
    );
    // A terminal.
    let typed = bench.path().join("typed");
    fs::write(&typed, "hello\n").unwrap();
    let mut command = std::process::Command::new("script");
    command.args(["-qec", &run, "/dev/null"]).current_dir(&host.scratch).stdin(fs::File::open(typed).unwrap());
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(6), "{text}\n{}", host.log());
    assert!(text.contains("got hello") && text.contains("warn") && text.contains("not under HTCondor"), "{text}");
}

#[test]
fn the_binary_needs_no_loader() {
    let path = env!("CARGO_BIN_EXE_condor-criu");
    let file = fs::File::open(path).unwrap();
    let elf = elf::ElfStream::<elf::endian::AnyEndian, _>::open_stream(file).unwrap();
    assert!(elf.segments().iter().all(|segment| segment.p_type != elf::abi::PT_INTERP), "{path} names an interpreter");
}

#[test]
fn after_the_startd_s_checkpoint_signal_the_next_exit_is_a_checkpoint_even_if_the_payload_ends() {
    let bench = Bench::new();
    let host = bench.host("host", FIRST_USER);
    let ad = "ClusterId = 7\nProcId = 0\nSuccessCheckpointExitCode = 85\nWantFTOnCheckpoint = true\n\
              WantCheckpointSignal = true\nCheckpointSig = \"SIGUSR1\"\n";
    host.write(".job.ad", ad);
    // An ordinary one first.
    let words =
        ["--", "sh", "-c", "for i in 0 1 2 3 4 5 6 7 8 9; do echo line$i; sleep 0.1; done; echo x >result; exit 5"];
    let mut job = host.start(&words);
    job.until_output("line3").signal(Signal::SIGUSR1);
    assert_code(&host, job.end(), 85);
    assert_code(&host, host.run(&words), 5);

    // A payload that ends at the very moment: `doctored` criu sees nobody to dump.
    let host = bench.host("end", FIRST_USER);
    host.write(".job.ad", ad);
    let words =
        ["--", "sh", "-c", "echo up; while [ ! -e go ]; do sleep 0.02; done; echo done; echo x >result; exit 5"];
    let mut job = host.start(&words);
    job.until_output("up");
    host.write("go", "");
    job.signal(Signal::SIGUSR1);
    let status = job.end();
    // Which of the two came first is not ours to choose; either way the promise is kept.
    assert_code(&host, status, 85);
    assert_code(&host, host.run(&words), 5);
    assert_eq!((host.stdout().as_str(), host.read("result").as_str()), ("up\ndone\n", "x\n"));
}

#[test]
fn what_is_listed_and_not_written_yet_is_there_and_never_reaches_the_payload() {
    let bench = Bench::new();
    let host = bench.host("host", FIRST_USER);
    let ad = "SuccessCheckpointExitCode = 85\nWantFTOnCheckpoint = true\n\
              TransferCheckpoint = \"criu-checkpoint.tar.zst,condor-criu.log,result,out/deep\"\n";
    host.write(".job.ad", ad);
    let script = "echo up; sleep 1; ls; [ ! -e result ] && [ ! -e out ] && echo x >result";
    let words = ["--", "sh", "-c", script];
    let mut job = host.start(&words);
    job.until_output("up").signal(Signal::SIGTERM);
    assert_code(&host, job.end(), 85);
    drop(job);
    for name in ["result", "out/deep"] {
        assert!(host.scratch.join(name).is_file(), "{name}");
    }
    assert_code(&host, host.run(&words), 0);
    assert_eq!(host.read("result"), "x\n");
}

#[test]
fn monotonic_time_does_not_jump() {
    let bench = Bench::new();
    let host = bench.host("host", FIRST_USER);
    // Sleeps until an absolute time, as Python does, across an eviction that lasts.
    let script = "import time\nstart = time.monotonic()\nprint('up', flush=True)\ntime.sleep(6)\n\
                  elapsed = time.monotonic() - start\nprint('slept', 5.9 < elapsed < 13, elapsed)\n";
    let words = ["--", "python3", "-c", script];
    let mut job = host.start(&words);
    job.until_output("up").signal(Signal::SIGTERM);
    assert_code(&host, job.end(), 85);
    drop(job);
    // Longer than the clocks may be off; the dump itself is part of the sleep, and takes a second where the machine is
    // busy.
    std::thread::sleep(std::time::Duration::from_secs(8));
    let began = std::time::Instant::now();
    assert_code(&host, host.run(&words), 0);
    assert!(host.stdout().contains("slept True"), "{}", host.stdout());
    assert!(began.elapsed() > std::time::Duration::from_secs(1), "the rest of the sleep was lost");
}

#[test]
fn a_payload_that_ended_in_a_vacate_does_not_run_again() {
    let bench = Bench::new();
    let host = bench.host("host", FIRST_USER);
    let words = ["--", "sh", "-c", "echo ran; echo x >>result; exit 9"];
    // HTCondor requeues a job that has ended while it was being vacated, and starts the same command again.
    for _ in 0..2 {
        host.job_ad(85);
        assert_code(&host, host.run(&words), 9);
        assert_eq!((host.stdout().as_str(), host.read("result").as_str()), ("ran\n", "x\n"));
    }
    // Another job is not meant.
    host.write(".job.ad", "ClusterId = 8\nProcId = 0\n");
    assert_code(&host, host.run(&words), 9);
    assert_eq!(host.stdout(), "ran\nran\n");
}

#[test]
fn other_supplementary_groups_are_no_obstacle() {
    let bench = Bench::new();
    // More, other and none: criu's own restore would fail or hang for each.
    let lists = [Some("5000,7001,7002"), Some("5001"), Some("4000,5000,7002"), None];
    let words = ["--", "python3", "count.py", "40"];
    for (number, groups) in lists.into_iter().enumerate() {
        let user = if number % 2 == 0 { FIRST_USER } else { SECOND_USER };
        let mut host = bench.host(&format!("host{number}"), user);
        host.groups = groups;
        host.write("count.py", COUNT);
        if number > 0 {
            bench.host(&format!("host{}", number - 1), user).carry_to(&host, &[]);
        }
        let mut job = host.start(&words);
        if number + 1 == lists.len() {
            assert_code(&host, job.end(), 42);
            assert_eq!((host.stdout().lines().count(), starts_seen(&host.stdout())), (40, 1));
        } else {
            job.until_output(&format!("line{} ", number * 8 + 4)).signal(Signal::SIGTERM);
            assert_code(&host, job.end(), 85);
        }
    }
}

#[test]
fn a_memfd_that_would_come_back_wrong_is_refused() {
    let bench = Bench::new();
    let host = bench.host("host", FIRST_USER);
    let script = "import mmap, os, time\nfd = os.memfd_create('buffer')\nos.ftruncate(fd, 8192)\nshared = mmap.mmap(fd, 8192)\n\
                  for i in range(20):\n    shared[0:2] = b'%02d' % i\n    print('line%d' % i, os.pread(fd, 2, 0).decode(), flush=True)\n    time.sleep(0.1)\n";
    let mut job = host.start(&["--", "python3", "-c", script]);
    job.until_output("line4 ").signal(Signal::SIGUSR2);
    job.until("condor-criu.log", "maps a memfd whose descriptor is still open");
    assert_code(&host, job.end(), 0);
    assert_eq!(host.stdout(), (0..20).map(|i| format!("line{i} {i:02}\n")).collect::<String>());
    assert_eq!(fs::metadata(host.checkpoint()).unwrap().len(), 0);
}
