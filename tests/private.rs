//! What others on the host can see of a job, what its log tells, and what the payload can reach of us.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on stops")]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;

use common::local::{Bench, FIRST_USER, Host, assert_code};
use nix::sys::signal::Signal;

fn mode(host: &Host<'_>, name: &str) -> u32 {
    fs::symlink_metadata(host.scratch.join(name)).unwrap().permissions().mode() & 0o7777
}

#[test]
fn nothing_of_a_job_is_open_to_others_whatever_the_umask() {
    // Inherited by what is started from here on.
    nix::sys::stat::umask(nix::sys::stat::Mode::empty());
    let bench = Bench::new();
    let host = bench.host("host", FIRST_USER);
    let words = ["--", "sh", "-c", "echo up; sleep 60"];
    let mut job = host.start(&words);
    job.until_output("up");
    for (name, expected) in [
        (".condor-criu", 0o700),
        (".condor-criu/work", 0o700),
        ("condor-criu.log", 0o600),
        ("criu-checkpoint.tar.zst", 0o600),
    ] {
        assert_eq!(mode(&host, name), expected, "{name}");
    }
    job.signal(Signal::SIGTERM);
    assert_code(&host, job.end(), 85);
    assert_eq!(mode(&host, "criu-checkpoint.tar.zst"), 0o600);
}

#[test]
fn the_log_has_no_argument_and_no_environment() {
    let bench = Bench::new();
    let host = bench.host("host", FIRST_USER);
    let words = ["--log-level", "trace", "--", "sh", "-c", "echo up; sleep 60", "argument-7391"];
    for seen in ["up", "the payload runs again"] {
        let mut command = host.command(&words);
        let mut child = command.env("PASSWORD", "environment-4826").spawn().unwrap();
        while !(host.log() + &host.stdout()).contains(seen) && child.try_wait().unwrap().is_none() {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id() as i32), Signal::SIGTERM).unwrap();
        assert_code(&host, child.wait().unwrap(), 85);
    }
    let log = host.log();
    assert!(log.contains("DEBUG") && log.contains("committed generation=2"), "{log}");
    assert!(!log.contains("argument-7391") && !log.contains("environment-4826"), "{log}");
}

#[test]
fn the_payload_cannot_touch_the_init_or_see_other_processes() {
    let bench = Bench::new();
    let host = bench.host("host", FIRST_USER);
    // PTRACE_ATTACH is 16 (<linux/ptrace.h>).
    let script = "import ctypes, os\n\
        libc = ctypes.CDLL(None, use_errno=True)\n\
        print('attach', libc.ptrace(16, 1, 0, 0), ctypes.get_errno())\n\
        for name in ('environ', 'mem', 'maps'):\n    \
            try:\n        open('/proc/1/' + name, 'rb').read(1); print(name, 'read')\n    \
            except PermissionError: print(name, 'refused')\n\
        try:\n    os.readlink('/proc/1/fd/3'); print('fd read')\n\
        except PermissionError: print('fd refused')\n\
        for number in range(1, 65):\n    \
            if number not in (32, 33): os.kill(1, number)\n\
        print(sorted(int(name) for name in os.listdir('/proc') if name.isdigit()) == [1, os.getppid(), os.getpid()])\n";
    assert_code(&host, host.run(&["--", "python3", "-c", script]), 0);
    let expected = "attach -1 1\nenviron refused\nmem refused\nmaps refused\nfd refused\nTrue\n";
    assert_eq!(host.stdout(), expected, "{}", host.stderr());
}

#[test]
fn a_restored_payload_has_no_capability_and_no_way_to_one() {
    let bench = Bench::new();
    let host = bench.host("host", FIRST_USER);
    let script = "echo up; while [ ! -e go ]; do sleep 0.05; done; grep -hE '^(Cap|NoNewPrivs)' /proc/$$/status /proc/$PPID/status";
    let words = ["--", "sh", "-c", script];
    let mut job = host.start(&words);
    job.until_output("up").signal(Signal::SIGTERM);
    assert_code(&host, job.end(), 85);
    drop(job);
    let mut job = host.start(&words);
    job.until("condor-criu.log", "the payload runs again");
    host.write("go", "");
    assert_code(&host, job.end(), 0);
    let lines: Vec<String> = host.stdout().lines().skip(1).map(str::to_owned).collect();
    // The program's, and those of the reaper above it.
    assert_eq!(lines.len(), 12, "{lines:?}");
    for line in lines {
        let expected = match line.split(':').next() {
            Some("NoNewPrivs") => "1",
            // criu cannot empty the bounding set without CAP_SETPCAP, and leaves its own. It is a bound for what an execve(2) may
            // add, and with no_new_privs that adds nothing (capabilities(7)).
            Some("CapBnd") => "0000010000080004",
            _ => "0000000000000000",
        };
        assert!(line.ends_with(expected), "{line}");
    }
}

#[test]
fn a_link_in_the_place_of_the_log_or_the_checkpoint_is_not_followed() {
    let bench = Bench::new();
    let host = bench.host("host", FIRST_USER);
    let victim = bench.host("elsewhere", FIRST_USER).write("victim", "precious\n");
    let links =
        format!("for name in condor-criu.log criu-checkpoint.tar.zst; do ln -sf {} $name; done", victim.display());
    host.job_ad(85);
    assert_code(&host, host.run(&["--", "sh", "-c", &links]), 0);
    assert_eq!(fs::read_to_string(&victim).unwrap(), "precious\n");
    // Nor at the next start, which has nowhere to write its log.
    assert_code(&host, host.run(&["--", "true"]), 125);
    assert!(host.stderr().contains("cannot write to the scratch directory"), "{}", host.stderr());
    assert_eq!(fs::read_to_string(&victim).unwrap(), "precious\n");
}
