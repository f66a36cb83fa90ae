//! What others on the host can see of a job, what its log tells, and what the payload can reach of us.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on stops")]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use common::local::{Bench, FIRST_USER, Host, SECOND_USER, assert_code};
use nix::sys::signal::Signal;

const COUNT: &str = include_str!("payloads/count.py");

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
            // criu cannot empty the bounding set without CAP_SETPCAP, and leaves its own. It is a bound for what an
            // execve(2) may add, and with no_new_privs that adds nothing (capabilities(7)).
            Some("CapBnd") => "0000010000080006",
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

#[test]
fn two_jobs_of_one_user_do_not_see_each_other_and_the_root_is_read_only() {
    let bench = Bench::new();
    let (one, two) = (bench.host("one", FIRST_USER), bench.host("two", FIRST_USER));
    let hide = "for place in /tmp /var/tmp /dev/shm; do echo secret >$place/mine-3381; done; echo up; while [ ! -e go ]; do sleep 0.05; done";
    let mut job = one.start(&["--", "sh", "-c", hide, "argument-3381"]);
    job.until_output("up");
    let look = "import glob, os\n\
        print([path for place in ('/tmp', '/var/tmp', '/dev/shm') for path in glob.glob(place + '/*')])\n\
        print(any(b'argument-' + b'3381' in open(path, 'rb').read() for path in glob.glob('/proc/[0-9]*/cmdline')))\n\
        for kind in ('uid', 'gid'):\n    \
            print([line.split()[2] for line in open(f'/proc/self/{kind}_map')])\n\
        for path in ('/new', '/etc/new', '/proc/sys/kernel/hostname'):\n    \
            try:\n        open(path, 'w'); print('written')\n    \
            except OSError: print('refused')\n";
    assert_code(&two, two.run(&["--", "python3", "-c", look]), 0);
    let expected = "[]\nFalse\n['1']\n['1']\nrefused\nrefused\nrefused\n";
    assert_eq!(two.stdout(), expected, "{}", two.stderr());
    one.write("go", "");
    assert_code(&one, job.end(), 0);
}

#[test]
fn what_the_starter_gives_a_job_is_not_in_its_checkpoint() {
    let bench = Bench::new();
    let host = bench.host("host", FIRST_USER);
    host.job_ad(85);
    fs::create_dir(host.scratch.join(".condor_creds")).unwrap();
    host.own(&host.scratch.join(".condor_creds"));
    for name in [".condor_creds/token", ".chirp.config", ".machine.ad"] {
        host.write(name, "# cookie-5519\n");
    }
    host.write("mine", "# of the job\n");
    let mut job = host.start(&["--", "sh", "-c", "echo >>mine; echo up; sleep 60"]);
    job.until_output("up").signal(Signal::SIGTERM);
    assert_code(&host, job.end(), 85);
    let to = bench.path().join("extracted");
    let extracted = Command::new(bench.binary()).arg("extract").arg(host.checkpoint()).arg(&to).output().unwrap();
    assert!(extracted.status.success(), "{}", String::from_utf8_lossy(&extracted.stderr));
    let has = |text: &str| Command::new("grep").args(["-rqa", text]).arg(&to).status().unwrap().success();
    assert!(has("# of the job"), "nothing is found in it");
    assert!(!has("cookie-5519"), "a checkpoint holds what the starter has given the job");
}

#[test]
fn a_payload_that_spoils_its_checkpoint_harms_its_own_job_and_nothing_is_run_of_it() {
    let bench = Bench::new();
    let host = bench.host("host", FIRST_USER);
    host.job_ad(85);
    let script = "trap 'exit 7' TERM; [ -e .again ] && echo garbage >criu-checkpoint.tar.zst; echo up; while :; do sleep 0.05; done";
    let words = ["--", "sh", "-c", script];
    let mut job = host.start(&words);
    job.until_output("up").signal(Signal::SIGTERM);
    assert_code(&host, job.end(), 85);
    drop(job);
    // It is not the file that was there: nothing is put in its place, and the payload learns that it is not saved.
    let other = bench.host("other", FIRST_USER);
    other.job_ad(85).write(".again", "");
    let mut job = other.start(&words);
    job.until_output("up").signal(Signal::SIGTERM);
    assert_code(&other, job.end(), 7);
    drop(job);
    assert!(other.log().contains("is no longer the file that was there"), "{}", other.log());
    assert_eq!(other.read("criu-checkpoint.tar.zst"), "garbage\n");
    let before = other.stdout();
    assert_code(&other, other.run(&words), 125);
    assert_eq!(other.stdout(), before, "something was run");
}

/// A checkpoint of the job at line 9, and the host that made it.
fn saved<'a>(bench: &'a Bench, ad: &str) -> Host<'a> {
    let first = bench.host("first", FIRST_USER);
    first.job_ad(85).write("count.py", COUNT);
    first.write(".job.ad", format!("{}{ad}", first.read(".job.ad")));
    let mut job = first.start(&["--", "python3", "count.py", "30"]);
    job.until_output("line9 ").signal(Signal::SIGTERM);
    assert_code(&first, job.end(), 85);
    drop(job);
    first
}

#[test]
fn another_user_s_checkpoint_is_not_restored_unless_asked_for() {
    let bench = Bench::new();
    let first = saved(&bench, "User = \"alice@pool\"\n");
    let checkpoint = fs::read(first.checkpoint()).unwrap();
    let host = |name: &str, user: &str| {
        let host = bench.host(name, FIRST_USER);
        host.job_ad(85).write("count.py", COUNT);
        host.write(".job.ad", format!("{}User = \"{user}\"\n", host.read(".job.ad")));
        first.carry_to(&host, &[]);
        host
    };
    let words = ["--", "python3", "count.py", "30"];
    // A job of another user.
    let mallory = host("mallory", "mallory@pool");
    assert_code(&mallory, mallory.run(&words), 125);
    assert!(mallory.stderr().contains("it is of a job of alice@pool"), "{}", mallory.stderr());
    assert_eq!(fs::read(mallory.checkpoint()).unwrap(), checkpoint);
    assert_eq!(mallory.stdout(), first.stdout());
    // A file of another user.
    let stolen = host("stolen", "alice@pool");
    if nix::unistd::geteuid().is_root() {
        std::os::unix::fs::chown(stolen.checkpoint(), Some(SECOND_USER), None).unwrap();
        fs::set_permissions(stolen.checkpoint(), fs::Permissions::from_mode(0o644)).unwrap();
        assert_code(&stolen, stolen.run(&words), 125);
        assert!(stolen.stderr().contains(&format!("it is the file of user {SECOND_USER}")), "{}", stolen.stderr());
    } else {
        allow_no_root("a file of another user");
    }
    // By one's own word.
    let asked = host("asked", "mallory@pool");
    assert_code(&asked, asked.run(&["--foreign", "restore", "--", "python3", "count.py", "30"]), 42);
    assert_eq!(asked.stdout().lines().count(), 30);
}

#[test]
fn a_checkpoint_that_needs_more_room_than_there_is_is_refused_before_it_is_unpacked() {
    let bench = Bench::new();
    let first = bench.host("first", FIRST_USER);
    first.job_ad(85);
    let script = "head -c 30000000 /dev/urandom >big; echo up; while [ ! -e go ]; do sleep 0.05; done; wc -c <big";
    first.write("job", format!("#!/bin/sh\n{script}\n"));
    let mut job = first.start(&["--", "./job"]);
    job.until_output("up").signal(Signal::SIGTERM);
    assert_code(&first, job.end(), 85);
    if !nix::unistd::geteuid().is_root() {
        allow_no_root("a scratch directory that is too small");
        return;
    }
    let small = bench.host("small", FIRST_USER);
    let size = fs::metadata(first.checkpoint()).unwrap().len() + (10 << 20);
    let options = format!("size={size},mode=0755,uid={FIRST_USER},gid={FIRST_USER}");
    let mounted = Mounted::tmpfs(&small.scratch, &options);
    small.job_ad(85).write("job", first.read("job"));
    first.carry_to(&small, &[]);
    assert_code(&small, small.run(&["--", "./job"]), 75);
    assert!(small.stderr().contains("bytes in the scratch directory, where"), "{}", small.stderr());
    assert!(!small.scratch.join("big").exists());
    drop(mounted);
}

/// A file system that is there until the test ends.
struct Mounted<'a>(&'a Path);

impl<'a> Mounted<'a> {
    fn tmpfs(path: &'a Path, options: &str) -> Mounted<'a> {
        let done = Command::new("mount").args(["-t", "tmpfs", "-o", options, "none"]).arg(path).status();
        assert!(done.unwrap().success());
        Mounted(path)
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

/// What only root can make is left out only where that is allowed by name.
#[track_caller]
fn allow_no_root(what: &str) {
    let allowed = std::env::var_os("CONDOR_CRIU_ALLOW_NO_ROOT").is_some();
    assert!(allowed, "only root can make {what}: allow that with CONDOR_CRIU_ALLOW_NO_ROOT=1");
}
