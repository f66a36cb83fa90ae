//! Every run ends within seconds of its cause: whatever the standard streams are, whoever reads them, and whatever
//! dies.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on stops")]

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use common::local::{Bench, FIRST_USER, Host, assert_code};
use nix::pty::openpty;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// No run here has a reason to take longer, even on a busy machine.
const SECONDS: Duration = Duration::from_secs(30);

#[track_caller]
fn ends(child: &mut Child) -> ExitStatus {
    let deadline = Instant::now() + SECONDS;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            panic!("it did not end");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// What stdout and stderr are.
#[derive(Debug, Clone, Copy)]
enum Streams {
    Terminal,
    Pipe,
    /// A pipe that nobody reads, and that is full.
    FullPipe,
}

/// The ends that are kept open meanwhile.
type Others = Vec<OwnedFd>;

fn with_streams(command: &mut Command, streams: Streams) -> Others {
    let (ours, theirs): (OwnedFd, OwnedFd) = match streams {
        Streams::Terminal => {
            let pty = openpty(None, None).unwrap();
            (pty.master, pty.slave)
        }
        Streams::Pipe | Streams::FullPipe => nix::unistd::pipe().unwrap(),
    };
    if matches!(streams, Streams::FullPipe) {
        use nix::fcntl::{FcntlArg, OFlag, fcntl};
        let flags = OFlag::from_bits_retain(fcntl(&theirs, FcntlArg::F_GETFL).unwrap());
        fcntl(&theirs, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK)).unwrap();
        while nix::unistd::write(&theirs, &[b'x'; 4096]).is_ok() {}
        fcntl(&theirs, FcntlArg::F_SETFL(flags)).unwrap();
    }
    command.stdout(theirs.try_clone().unwrap()).stderr(theirs);
    vec![ours]
}

/// A host with a checkpoint that no host can restore: it is another user's program on a processor that does not exist
/// here is too much to fake, so the file is of a newer format, which is refused in the same way.
fn with_newer_checkpoint(host: &Host<'_>) {
    let mut job = host.start(&["--", "sh", "-c", "echo up; sleep 60"]);
    job.until_output("up").signal(Signal::SIGTERM);
    assert_code(host, job.end(), 85);
    host.write("condor-criu.toml", "restore_timeout = '1s'");
}

#[test]
fn failures_end_whatever_the_streams_are() {
    let bench = Bench::new();
    for streams in [Streams::Terminal, Streams::Pipe, Streams::FullPipe] {
        let cases: [(&str, &[&str], i32); 4] = [
            ("not-found", &["--", "nonexist"], 127),
            ("not-executable", &["--", "./plain"], 126),
            ("bad-setting", &["--interval", "soon", "--", "true"], 125),
            ("no-host", &["--", "sh", "-c", "echo up; sleep 60"], 75),
        ];
        for (name, words, code) in cases {
            let mut host = bench.host(&format!("{name}-{streams:?}"), FIRST_USER);
            host.write("plain", "no program");
            if code == 75 {
                with_newer_checkpoint(&host);
                let folder = host.scratch.parent().unwrap().join(format!("no-criu-{streams:?}"));
                fs::create_dir_all(&folder).unwrap();
                fs::write(
                    folder.join("criu"),
                    "#!/bin/sh\n[ \"$1\" = --version ] && echo 'Version: 4.2.1' && exit\nsleep 1000\n",
                )
                .unwrap();
                fs::set_permissions(folder.join("criu"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
                host.criu = folder.join("criu");
            }
            let mut command = host.command(words);
            let _others = with_streams(&mut command, streams);
            let status = ends(&mut command.spawn().unwrap());
            assert_eq!(status.code(), Some(code), "{name} {streams:?}\n{}", host.log());
        }
    }
}

/// `program | head -1`, with the program under condor-criu.
#[test]
fn a_reader_that_leaves_is_seen_by_the_program() {
    let bench = Bench::new();
    let host = bench.host("host", FIRST_USER);
    let mut child = host.command(&["--", "yes"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "y\n");
    assert_eq!(ends(&mut child).signal(), Some(libc::SIGPIPE), "{}", host.log());
}

/// Under HTCondor jobs begin with SIGPIPE ignored: the program gets the error.
#[test]
fn a_program_that_ignores_the_signal_sees_the_error() {
    let bench = Bench::new();
    let host = bench.host("host", FIRST_USER);
    host.job_ad(85);
    let script = "i=0; while echo line 2>why; do i=$((i+1)); done; exit 9";
    let mut child = host.command(&["--", "sh", "-c", script]).stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(ends(&mut child).code(), Some(9), "{}", host.log());
    // dash names every error of its echo so.
    assert!(host.read("why").contains("I/O error"), "{}", host.read("why"));
}

/// The reader is seen to leave after a move, too.
#[test]
fn a_reader_that_leaves_after_a_restore_is_seen() {
    let bench = Bench::new();
    let host = bench.host("host", FIRST_USER);
    let words = ["--", "sh", "-c", "echo begun; while [ ! -e go ]; do sleep 0.1; done; exec yes"];
    let mut child = host.command(&words).stdout(Stdio::piped()).spawn().unwrap();
    let mut reader = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM).unwrap();
    assert_eq!(ends(&mut child).code(), Some(85), "{}", host.log());
    host.write("go", "");
    let next = bench.host("next", FIRST_USER);
    host.carry_to(&next, &[]);
    let mut child = next.command(&words).stdout(Stdio::piped()).spawn().unwrap();
    let mut job = std::time::Instant::now();
    while !next.log().contains("the payload runs again") {
        assert!(job.elapsed() < SECONDS, "{}", next.log());
        std::thread::sleep(Duration::from_millis(20));
    }
    next.write("go", "");
    job = std::time::Instant::now();
    let mut reader = BufReader::new(child.stdout.take().unwrap());
    reader.read_line(&mut line).unwrap();
    drop(reader);
    assert_eq!(ends(&mut child).signal(), Some(libc::SIGPIPE), "{} s\n{}", job.elapsed().as_secs(), next.log());
}

#[test]
fn output_that_cannot_be_written_is_no_success() {
    let bench = Bench::new();
    let host = bench.host("host", FIRST_USER);
    let full = || Stdio::from(fs::File::options().write(true).open("/dev/full").unwrap());
    let status = ends(&mut host.command(&["--", "sh", "-c", "echo lost; exit 0"]).stdout(full()).spawn().unwrap());
    assert_eq!(status.code(), Some(1), "{}", host.log());
    assert!(host.log().contains("its output is not complete"), "{}", host.log());
    // The program's own word about it stands.
    let script = "i=0; while [ $i -lt 1000 ]; do echo lost || exit 7; i=$((i+1)); sleep 0.01; done";
    host.job_ad(85);
    let status = ends(&mut host.command(&["--", "sh", "-c", script]).stdout(full()).spawn().unwrap());
    assert_eq!(status.code(), Some(7), "{}", host.log());
}

#[test]
fn a_reader_that_stalls_keeps_no_save() {
    let bench = Bench::new();
    let host = bench.host("host", FIRST_USER);
    let script = "head -c 300000 /dev/zero | tr '\\0' x; touch done; sleep 30; exit 4";
    let words = ["--", "sh", "-c", script];
    let mut child = host.command(&words).stdout(Stdio::piped()).spawn().unwrap();
    let mut out = child.stdout.take().unwrap();
    let deadline = Instant::now() + SECONDS;
    while !host.log().contains("the payload runs") {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(10));
    }
    std::thread::sleep(Duration::from_millis(500));
    kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM).unwrap();
    assert_eq!(ends(&mut child).code(), Some(85), "{}", host.log());
    let mut first = Vec::new();
    out.read_to_end(&mut first).unwrap();
    // The rest comes after the move, and nothing twice.
    let next = bench.host("next", FIRST_USER);
    host.carry_to(&next, &[]);
    let mut child = next.command(&words).stdout(Stdio::piped()).spawn().unwrap();
    let mut out = child.stdout.take().unwrap();
    let mut rest = vec![0; 300_000 - first.len()];
    out.read_exact(&mut rest).unwrap();
    assert!(first.iter().chain(&rest).all(|byte| *byte == b'x'));
    child.kill().unwrap();
    child.wait().unwrap();
}

/// The processes of a job, by the name of their program.
fn processes(of: u32, name: &str) -> Vec<i32> {
    let children = |pid: u32| {
        let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        text.split_whitespace().map(|pid| pid.parse().unwrap()).collect::<Vec<u32>>()
    };
    let mut all = children(of);
    let mut at = 0;
    while at < all.len() {
        all.extend(children(all[at]));
        at += 1;
    }
    let is = |pid: &u32| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == name);
    all.into_iter().filter(is).map(|pid| pid as i32).collect()
}

/// Killed while its checkpoint is packed: by the kernel that has no memory left, say.
#[test]
fn a_payload_that_is_killed_while_it_is_packed() {
    let bench = Bench::new();
    for (signal, code) in [(Signal::SIGTERM, Some(85)), (Signal::SIGUSR2, None)] {
        let host = bench.host(&format!("{signal}"), FIRST_USER);
        let script = "head -c 60000000 /dev/urandom >much; echo up; sleep 61";
        let words = ["--compression", "zstd:19", "--", "sh", "-c", script];
        let mut child = host.command(&words).spawn().unwrap();
        let deadline = Instant::now() + SECONDS;
        while !host.stdout().contains("up") {
            assert!(Instant::now() < deadline, "{}", host.log());
            std::thread::sleep(Duration::from_millis(10));
        }
        let id = child.id();
        kill(Pid::from_raw(id as i32), signal).unwrap();
        // criu has written every image when nobody listens for it any more.
        let held = host.scratch.join(".condor-criu/images/held.sock");
        while !host.log().contains("saving") || held.exists() {
            assert!(Instant::now() < deadline, "{}", host.log());
            std::thread::sleep(Duration::from_millis(5));
        }
        for victim in processes(id, "sleep").into_iter().chain(processes(id, "sh")) {
            let _ = kill(Pid::from_raw(victim), Signal::SIGKILL);
        }
        let reaper = processes(id, "reaper");
        assert_eq!(reaper.len(), 1);
        kill(Pid::from_raw(reaper[0]), Signal::SIGKILL).unwrap();
        let status = ends(&mut child);
        match code {
            Some(code) => assert_eq!(status.code(), Some(code), "{}", host.log()),
            // There is nobody to go on, and that is told as soon as it is known.
            None => assert_eq!(status.signal(), Some(libc::SIGKILL), "{}", host.log()),
        }
        // What was saved stands, where somebody goes on with it.
        assert_eq!(fs::metadata(host.checkpoint()).unwrap().len() > 0, code.is_some(), "{}", host.log());
    }
}

/// A parent with job control learns of every child that stops. It is not to learn of a save.
#[test]
fn no_process_sees_a_stop() {
    let bench = Bench::new();
    for round in 0..4 {
        let host = bench.host(&format!("host{round}"), FIRST_USER);
        let script = "set -m; bash -c 'echo up; for i in $(seq 30); do sleep 0.05; done; exit 3'; echo status $?";
        let mut job = host.start(&["--", "bash", "-c", script]);
        job.until_output("up").signal(Signal::SIGUSR2);
        job.until("condor-criu.log", "committed");
        assert_code(&host, job.end(), 0);
        assert_eq!(host.stdout(), "up\nstatus 3\n");
    }
}

#[test]
fn words_for_people_need_no_reader() {
    let bench = Bench::new();
    let host = bench.host("host", FIRST_USER);
    let mut job = host.start(&["--", "sh", "-c", "echo up; sleep 60"]);
    job.until_output("up").signal(Signal::SIGTERM);
    assert_code(&host, job.end(), 85);
    for words in [vec!["inspect", "criu-checkpoint.tar.zst"], vec!["verify", "criu-checkpoint.tar.zst"]] {
        let (reader, writer) = nix::unistd::pipe().unwrap();
        drop(reader);
        let mut command = Command::new(bench.binary());
        command.args(&words).current_dir(&host.scratch).stdout(writer).stderr(Stdio::piped());
        let output = command.spawn().unwrap().wait_with_output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && !stderr.contains("panicked"), "{words:?} {}\n{stderr}", output.status);
    }
}

/// HTCondor's starter drops what is in the pipe when the job has ended: nothing is left there for a reader that is slow
/// and goes on.
#[test]
fn a_slow_reader_has_read_all_at_the_end() {
    const BYTES: usize = 40_000;
    let bench = Bench::new();
    let host = bench.host("host", FIRST_USER);
    let (mut reader, writer) = std::io::pipe().unwrap();
    let script = format!("head -c {BYTES} /dev/zero; exit 4");
    let mut command = host.command(&["--", "sh", "-c", &script]);
    let mut job = command.stdout(writer).spawn().unwrap();
    // It has the other end of the pipe, too.
    drop(command);
    let mut read = 0;
    let mut buffer = [0; 4096];
    while job.try_wait().unwrap().is_none() {
        if rustix::io::ioctl_fionread(&reader).unwrap() > 0 {
            read += reader.read(&mut buffer).unwrap();
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(job.wait().unwrap().code(), Some(4), "{}", host.log());
    assert_eq!(read, BYTES, "{}", host.log());
}
