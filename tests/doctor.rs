//! `doctor`, `advertise` and `bundle` with the real criu: on a host that has all, and on hosts that lack one thing
//! each. A host that lacks something is this one with a namespace, a mount or a filter in between.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on stops")]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use common::local::{Bench, FIRST_USER, real_criu};
use serde_json::Value;

/// A bundle of the real criu, where every user can run it; it is made once, since packing it takes seconds.
fn bundle(bench: &Bench) -> PathBuf {
    static MADE: OnceLock<Vec<u8>> = OnceLock::new();
    let path = bench.path().join("bundle");
    let bytes = MADE.get_or_init(|| {
        let mut command = Command::new(bench.binary());
        let made = command.arg("bundle").arg("--criu").arg(real_criu()).arg("-o").arg(&path).output().unwrap();
        assert_output(&made, 0);
        fs::read(&path).unwrap()
    });
    // Through another name: a file that a test has just written may still be open in a child of another test.
    let written = bench.path().join("bundle.bytes");
    fs::write(&written, bytes).unwrap();
    assert!(Command::new("install").args(["-m", "755"]).arg(&written).arg(&path).status().unwrap().success());
    path
}

/// A shell script as an ordinary user's command on a host that `before` has made worse, as root, in mount and user
/// namespaces of its own.
fn on_a_host(before: &str, command: &str) -> Output {
    let user = format!("setpriv --reuid {FIRST_USER} --regid {FIRST_USER} --clear-groups");
    let script = format!("set -e\n{before}\nexec {user} {command}");
    Command::new("unshare").args(["-m", "sh", "-c", &script]).env_remove("CONDOR_CRIU_CRIU").output().unwrap()
}

#[track_caller]
fn assert_output(output: &Output, code: i32) -> String {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(code), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    text
}

/// The check of this name in the report of `doctor --json`.
#[track_caller]
fn check(output: &Output, code: i32, name: &str) -> (String, String, String) {
    let report: Value = serde_json::from_str(&assert_output(output, code)).unwrap();
    assert_eq!(report["ok"], code == 0, "{report:#}");
    let found = report["checks"].as_array().unwrap().iter().find(|check| check["name"] == name);
    let found = found.unwrap_or_else(|| panic!("no check {name} in {report:#}"));
    let text = |key: &str| found[key].as_str().unwrap_or_default().to_owned();
    (text("status"), text("detail"), text("remedy"))
}

/// The diagnosis of a host that cannot: which check says no, and what its words and its remedy must have.
#[track_caller]
fn diagnosis(output: &Output, name: &str, why: &str, remedy: &str) {
    let found = check(output, 1, name);
    assert_eq!(found.0, "no", "{found:?}");
    assert!(found.1.contains(why), "{why:?} is not in {found:?}");
    assert!(found.2.contains(remedy), "{remedy:?} is not in {found:?}");
}

#[test]
fn a_host_that_has_all_saves_and_restores() {
    let bench = Bench::new();
    let bundle = bundle(&bench);
    let output = on_a_host("", &format!("{} doctor --json", bundle.display()));
    for name in ["criu", "sandbox", "save", "restore", "private network"] {
        assert_eq!(check(&output, 0, name).0, "yes", "{}", String::from_utf8_lossy(&output.stdout));
    }
    let words = assert_output(&on_a_host("", &format!("{} doctor", bundle.display())), 0);
    assert!(words.contains("Jobs can be checkpointed and restored on this host."), "{words}");

    // It has two seconds, which a machine that is busy with other tests may not give at the first time.
    let temporary = bench.path().join("tmp");
    fs::create_dir(&temporary).unwrap();
    fs::set_permissions(&temporary, fs::Permissions::from_mode(0o1777)).unwrap();
    let advertised = || {
        let command = format!("env TMPDIR={} {} advertise", temporary.display(), bundle.display());
        assert_output(&on_a_host("", &command), 0)
    };
    let ad = (0..20).map(|_| advertised()).find(|ad| ad.contains("private-network")).unwrap_or_else(advertised);
    assert!(ad.ends_with("\n-\n"), "{ad}");
    for line in [
        "HasCriu = true",
        "CriuVersion = \"4.",
        "CriuMode = \"rootless\"",
        "CriuKernel = \"",
        "CriuFeatures = \"private-network",
    ] {
        assert!(ad.lines().any(|found| found.starts_with(line)), "{line:?} is not in {ad}");
    }
    // Nothing stays behind.
    let left: Vec<_> = fs::read_dir(&temporary).unwrap().flatten().map(|entry| entry.path()).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn without_criu() {
    let bench = Bench::new();
    let output = on_a_host("", &format!("env PATH=/nonexistent {} doctor --json", bench.binary().display()));
    diagnosis(&output, "criu", "no criu was found", "install CRIU 4.2");
    let ad = assert_output(&on_a_host("", &format!("{} advertise", bench.binary().display())), 0);
    assert!(ad.contains("HasCriu = false\nCriuReason = \"no criu was found"), "{ad}");
}

/// A criu that is a shell script.
fn fake_criu(bench: &Bench, script: &str) -> PathBuf {
    let path = bench.path().join("criu");
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

#[test]
fn with_a_criu_that_is_too_old_or_does_not_run() {
    let bench = Bench::new();
    let doctor =
        |criu: &Path| on_a_host("", &format!("{} doctor --json --criu {}", bench.binary().display(), criu.display()));
    let old = doctor(&fake_criu(&bench, "echo Version: 3.17.1"));
    diagnosis(&old, "criu", "CRIU 3.17.1", "CRIU 4.2");
    let broken = doctor(&fake_criu(&bench, "echo no libnl here >&2; exit 127"));
    diagnosis(&broken, "criu", "no libnl here", "CRIU 4.2");
    let failing =
        doctor(&fake_criu(&bench, "[ $1 = --version ] && echo Version: 4.2.1 || { echo cannot >&2; exit 1; }"));
    diagnosis(&failing, "save", "cannot save the payload", "");
}

#[test]
fn advertise_does_not_wait_for_a_criu_that_hangs() {
    let bench = Bench::new();
    let criu = fake_criu(&bench, "[ $1 = --version ] && echo Version: 4.2.1 || exec sleep 1000");
    let began = Instant::now();
    let output = on_a_host("", &format!("{} advertise --criu {}", bench.binary().display(), criu.display()));
    let ad = assert_output(&output, 0);
    // The promise is 2 s; a hang would be for ever, and a busy machine is no reason to fail.
    assert!(began.elapsed() < Duration::from_secs(20));
    // Not known is not no: a host may just be busy.
    assert!(ad.contains("CriuReason = \"it was not done in time\"\n-\n") && !ad.contains("HasCriu"), "{ad}");
    let left = Command::new("pgrep").args(["-f", "^sleep 1000"]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&left.stdout), "", "the sandbox was not killed");
}

#[test]
fn where_user_namespaces_are_switched_off() {
    let bench = Bench::new();
    let bundle = bundle(&bench);
    // The limit is one of each user namespace: the machine itself is not changed.
    let script = format!("echo 0 >/proc/sys/user/max_user_namespaces; exec {} doctor --json", bundle.display());
    let output = Command::new("unshare").args(["-U", "-r", "-m", "sh", "-c", &script]).output().unwrap();
    diagnosis(&output, "sandbox", "max_user_namespaces = 0", "user.max_user_namespaces");
}

#[test]
fn in_a_chroot() {
    let bench = Bench::new();
    let root = bench.path().join("root");
    for directory in ["proc", "tmp", "dev"] {
        fs::create_dir_all(root.join(directory)).unwrap();
    }
    fs::copy(bundle(&bench), root.join("condor-criu")).unwrap();
    let script = format!(
        "cd {}; mount -t proc proc proc; mount --bind /dev dev; exec chroot . /condor-criu doctor --json",
        root.display()
    );
    let output = Command::new("unshare").args(["-m", "sh", "-c", &script]).output().unwrap();
    diagnosis(&output, "sandbox", "runs in a chroot", "pivot_root");
}

#[test]
fn under_a_seccomp_filter() {
    let bench = Bench::new();
    let filter = bench.path().join("filter");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/payloads/without_user_namespaces.c");
    assert!(Command::new("gcc").args(["-O1", "-o"]).arg(&filter).arg(source).status().unwrap().success());
    let output = on_a_host("", &format!("{} {} doctor --json", filter.display(), bundle(&bench).display()));
    diagnosis(&output, "sandbox", "a seccomp filter is active", "seccomp=unconfined");
    assert_eq!(check(&output, 1, "seccomp").0, "limited");
}

#[test]
fn where_proc_is_masked() {
    let bench = Bench::new();
    let masks = "mount -t tmpfs -o ro none /proc/fs";
    let output = on_a_host(masks, &format!("{} doctor --json", bundle(&bench).display()));
    diagnosis(&output, "sandbox", "mount a fresh /proc", "systempaths=unconfined");
    let found = check(&output, 1, "/proc");
    assert!(found.0 == "limited" && found.1.contains("/proc/fs"), "{found:?}");
}

#[test]
fn without_room_for_the_probe() {
    let bench = Bench::new();
    let bundle = bundle(&bench);
    let output = on_a_host("", &format!("env TMPDIR=/nonexistent {} doctor --json", bundle.display()));
    assert_output(&output, 125);
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(words.contains("cannot make a directory for the probe"), "{words}");

    let full = bench.path().join("full");
    fs::create_dir(&full).unwrap();
    let before = format!("mount -t tmpfs -o size=1m none {0}; chmod 1777 {0}", full.display());
    let output = on_a_host(&before, &format!("env TMPDIR={} {} doctor --json", full.display(), bundle.display()));
    diagnosis(&output, "criu", "No space left", "");
}

#[test]
fn a_bundle_runs_without_any_criu_and_carries_its_licence() {
    let bench = Bench::new();
    let bundle = bundle(&bench);
    let host = bench.host("host", FIRST_USER);
    let job = "sh -c 'i=0; while [ $i -lt 40 ]; do i=$((i+1)); echo $i; sleep 0.05; done; exit 3'";
    let run = |scratch: &Path| {
        let output = format!("cd {0}; exec {1} run -- {job} >>out 2>>err", scratch.display(), bundle.display());
        let user = format!("--reuid={FIRST_USER}");
        let mut command = Command::new("setpriv");
        command.args([&user, &format!("--regid={FIRST_USER}"), "--clear-groups", "sh", "-c", &output]);
        command.env_remove("CONDOR_CRIU_CRIU").env("PATH", "/usr/bin:/bin").spawn().unwrap()
    };
    let mut first = run(&host.scratch);
    while !host.read("out").contains("10\n") {
        std::thread::sleep(Duration::from_millis(5));
        assert!(first.try_wait().unwrap().is_none(), "{}", host.log());
    }
    assert!(host.scratch.join(".condor-criu/criu/lib").is_dir());
    let source = host.read(".condor-criu/criu/licences/SOURCE.txt");
    assert!(source.contains("github.com/checkpoint-restore/criu, tag v4."), "{source}");
    // Each file's package, whose source and licence are asked for.
    for file in ["criu\tcriu 4.", "lib/libc.so.6\tlibc6 2.", "lib/libnftables.so.1\tlibnftables1 "] {
        assert!(source.contains(&format!("\n{file}")), "{source}");
    }
    assert!(!source.contains("not from a package"), "{source}");
    assert!(host.read(".condor-criu/criu/licences/libnftables1.txt").contains("License: GPL-2"));
    assert!(host.read(".condor-criu/criu/licences/GPL-2.0.txt").contains("GNU GENERAL PUBLIC LICENSE"));
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(first.id() as i32), nix::sys::signal::Signal::SIGTERM).unwrap();
    assert_eq!(first.wait().unwrap().code(), Some(85), "{}", host.log());
    assert_eq!(run(&host.scratch).wait().unwrap().code(), Some(3), "{}", host.log());
    assert_eq!(host.read("out"), (1..=40).map(|number| format!("{number}\n")).collect::<String>());

    // A bundle made by a bundle is the same, not one in another; its licences too.
    let again = bench.path().join("again");
    let made = Command::new(&bundle).args(["bundle", "-o"]).arg(&again).current_dir(bench.path()).output().unwrap();
    assert_output(&made, 0);
    let (before, after) = (fs::metadata(&bundle).unwrap().len(), fs::metadata(&again).unwrap().len());
    assert!(after.abs_diff(before) < before / 200, "{before} and {after} bytes");
}

#[test]
fn a_damaged_bundle_is_refused() {
    let bench = Bench::new();
    let bundle = bundle(&bench);
    let mut bytes = fs::read(&bundle).unwrap();
    let at = bytes.len() - 5000;
    bytes[at] ^= 1;
    let written = bench.path().join("bundle.bytes");
    fs::write(&written, bytes).unwrap();
    let damaged = bench.path().join("damaged");
    assert!(Command::new("install").args(["-m", "755"]).arg(&written).arg(&damaged).status().unwrap().success());
    let output = on_a_host("", &format!("env PATH=/nonexistent {} doctor --json", damaged.display()));
    diagnosis(&output, "criu", "damaged", "");
}

/// `doctor -- PROGRAM` in a directory with this file, on this host.
fn doctor_of(bench: &Bench, script: &str, after: &str) -> Output {
    let place = bench.path().join("place");
    fs::create_dir_all(&place).unwrap();
    fs::set_permissions(&place, fs::Permissions::from_mode(0o777)).unwrap();
    fs::write(place.join("work.py"), script).unwrap();
    let bundle = bundle(bench);
    let command = format!(
        "sh -c 'cd {} && exec {} doctor --json --after {after} --compat off -- python3 work.py'",
        place.display(),
        bundle.display()
    );
    on_a_host("", &command)
}

#[test]
fn a_program_that_can_be_saved() {
    let bench = Bench::new();
    let output = doctor_of(&bench, "import time\ntime.sleep(60)\n", "7s");
    assert_eq!(check(&output, 0, "program").0, "yes");
    let saved = check(&output, 0, "save program");
    assert!(saved.0 == "yes" && saved.1.contains("bytes"), "{saved:?}");
    let restored = check(&output, 0, "restore program");
    assert!(restored.0 == "yes" && restored.1.contains("; it runs on"), "{restored:?}");
}

#[test]
fn a_program_that_is_saved_but_does_not_survive_its_restore() {
    let bench = Bench::new();
    // An inode number is what no restore can keep.
    let script = "import os, signal, time\nfirst = os.stat('.').st_ino\nwhile os.stat('.').st_ino == first:\n    time.sleep(0.05)\n\
                  os.kill(os.getpid(), signal.SIGSEGV)\n";
    let output = doctor_of(&bench, script, "7s");
    assert_eq!(check(&output, 1, "save program").0, "yes");
    diagnosis(&output, "restore program", "it was restored, and then ended by signal SIGSEGV", "rehearse");
}

#[test]
fn with_file_capabilities_for_criu() {
    let bench = Bench::new();
    let folder = bench.path().join("criu-folder");
    assert!(Command::new("cp").arg("-r").arg(real_criu()).arg(&folder).status().unwrap().success());
    let mut set = Command::new("setcap");
    set.arg("cap_checkpoint_restore,cap_sys_ptrace+ep").arg(folder.join("criu"));
    assert!(set.status().unwrap().success());
    let binary = bench.binary();
    let command = |what: &str| format!("{} {what} --criu {}", binary.display(), folder.display());
    // They are in nobody's way, and of no use.
    let output = on_a_host("", &command("doctor --json"));
    let found = check(&output, 0, "file capabilities");
    assert!(found.0 == "limited" && found.1.contains("not used") && found.2.contains("setcap -r"), "{found:?}");
    let output = on_a_host("", &command("doctor --json --mode capabilities"));
    diagnosis(&output, "sandbox", "without a user namespace a job has the host's process ids", "mode = \"auto\"");
    let ad = assert_output(&on_a_host("", &command("advertise --mode capabilities")), 0);
    let reason =
        "HasCriu = false\nCriuReason = \"cannot run with mode = \\\"capabilities\\\": without a user namespace";
    assert!(ad.contains(reason) && !ad.contains("CriuMode"), "{ad}");
}

#[test]
fn a_program_that_cannot_be_saved_and_why() {
    let bench = Bench::new();
    let script = "import time\nfrom multiprocessing import Lock\nlock = Lock()\ntime.sleep(60)\n";
    let output = doctor_of(&bench, script, "7s");
    diagnosis(&output, "program", "has /dev/shm/", "compat = \"on\"");
    diagnosis(&output, "save program", "deleted", "compat");
}

#[test]
fn a_program_that_ends_too_soon_or_does_not_exist() {
    let bench = Bench::new();
    let output = doctor_of(&bench, "raise SystemExit(3)\n", "7s");
    let found = check(&output, 1, "save program");
    assert!(found.0 == "unknown" && found.1.contains("exit code 3") && found.2.contains("--after"), "{found:?}");
    let bundle = bundle(&bench);
    let output = on_a_host("", &format!("{} doctor --json -- /nonexistent/program", bundle.display()));
    diagnosis(&output, "save program", "there is no such program", "transfer it");
}
