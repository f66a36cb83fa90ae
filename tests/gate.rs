//! The gate: what a checkpoint needs of a host is in its manifest, and a host that does not have it says so before
//! anything is unpacked.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on stops")]

mod common;

use std::fs;
use std::process::{Command, ExitStatus};

use common::local::{Bench, FIRST_USER, Host, SECOND_USER, assert_code};
use condor_criu::checkpoint::archive::{Compression, Meta, Reader, WriteOptions, Writer};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

const GATE: &str = include_str!("payloads/gate.py");

/// A host with a checkpoint of the payload that was started with these limits, as prlimit(1) takes them.
fn saved<'b>(bench: &'b Bench, limit: &str, words: &[&str]) -> Host<'b> {
    let host = bench.host("first", FIRST_USER);
    host.write("gate.py", GATE);
    let mut all = vec!["--", "prlimit", limit, "python3", "gate.py"];
    all.extend(words);
    let mut job = host.start(&all);
    job.until_output("step 3 ").signal(Signal::SIGTERM);
    assert_code(&host, job.end(), 85);
    drop(job);
    host
}

/// The next host, where nothing but the checkpoint, the log and the streams are.
fn next<'b>(bench: &'b Bench, from: &Host<'_>, name: &str) -> Host<'b> {
    let host = bench.host(name, SECOND_USER);
    from.carry_to(&host, &[]);
    host.write("gate.py", GATE);
    host
}

/// `run` there, under this command.
fn under(host: &Host<'_>, prefix: &[&str]) -> ExitStatus {
    let run = host.command(&["--", "prlimit", "python3", "gate.py"]);
    let user = host.user.to_string();
    let mut command = Command::new(prefix[0]);
    command.args(&prefix[1..]).args(["setpriv", "--reuid", &user, "--regid", &user, "--clear-groups"]);
    command.arg(run.get_program()).args(run.get_args()).current_dir(&host.scratch);
    command.env("_CONDOR_SCRATCH_DIR", &host.scratch).env_remove("CONDOR_CRIU_CRIU");
    let stream = |name: &str| fs::File::options().append(true).open(host.scratch.join(name)).unwrap();
    command.stdin(std::process::Stdio::null()).stdout(stream("_condor_stdout")).stderr(stream("_condor_stderr"));
    command.status().unwrap()
}

/// Refused with these words; nothing was unpacked, and the checkpoint is what it was.
#[track_caller]
fn refused(host: &Host<'_>, status: ExitStatus, before: &[u8], words: &[&str]) {
    assert_code(host, status, 75);
    let stderr = host.stderr();
    for word in words.iter().chain(&["cannot restore on this host", "the checkpoint is intact"]) {
        assert!(stderr.contains(word), "{word:?} is not in {stderr}");
    }
    assert!(fs::read(host.checkpoint()).unwrap() == before, "the checkpoint has changed");
    assert!(!host.scratch.join("written").exists(), "something was unpacked");
}

fn manifest(host: &Host<'_>) -> Value {
    serde_json::from_slice(Reader::open(host.checkpoint()).unwrap().manifest()).unwrap()
}

#[test]
fn a_lower_hard_limit_is_lowered_and_said() {
    let bench = Bench::new();
    let first = saved(&bench, "--nofile=1024:4000", &[]);
    assert!(first.stdout().contains("step 3 limits (1024, 4000)\n"), "{}", first.stdout());
    let needs = manifest(&first);
    // The highest of any process; the root of the tree is ours and has what the host gives.
    assert!(needs["limits"]["hard"]["open files"].as_u64().unwrap() >= 4000, "{needs:#}");
    assert!(needs["limits"]["used"]["open files"].as_u64().unwrap() >= 3, "{needs:#}");
    let second = next(&bench, &first, "second");
    assert_code(&second, under(&second, &["prlimit", "--nofile=2000:2000"]), 42);
    // The soft limit is its own still.
    assert!(second.stdout().ends_with("step 20 limits (1024, 2000)\n"), "{}", second.stdout());
    let log = second.log();
    assert!(
        log.contains("the hard limit for \"open files\" is 2000 here and was ") && log.contains(": lowered"),
        "{log}"
    );
}

#[test]
fn a_limit_below_what_is_in_use_is_refused() {
    let bench = Bench::new();
    let first = saved(&bench, "--nofile=3000:4000", &["descriptors"]);
    let second = next(&bench, &first, "second");
    let before = fs::read(second.checkpoint()).unwrap();
    let status = under(&second, &["prlimit", "--nofile=1200:1200"]);
    refused(&second, status, &before, &["1501 of \"open files\" in use, and the hard limit for that is 1200 here"]);
    // CRIU places descriptors of its own above those.
    assert_code(&second, under(&second, &["prlimit", "--nofile=3000:3000"]), 42);
}

/// Whether this kernel has what the test is about. A test machine that has not is to be allowed by name.
fn has_guard_pages(host: &Host<'_>) -> bool {
    let has = !host.stdout().contains("no guard pages");
    assert!(
        has || std::env::var_os("CONDOR_CRIU_ALLOW_OLD_KERNEL").is_some(),
        "this kernel has no such guard pages (Linux 6.13, in files 6.15): allow that with CONDOR_CRIU_ALLOW_OLD_KERNEL=1"
    );
    has
}

/// A kernel that calls itself 2.6 to those who ask for it.
const OLD: [&str; 2] = ["setarch", "--uname-2.6"];

#[test]
fn guard_pages_are_made_otherwise_for_an_older_kernel() {
    let bench = Bench::new();
    let first = saved(&bench, "--nofile=1024:4000", &["guard"]);
    if !has_guard_pages(&first) {
        return;
    }
    let needs = manifest(&first);
    assert!(needs["kernel_features"].as_array().unwrap().contains(&json!("stack-guards")), "{needs:#}");
    for (name, prefix) in [("old", &OLD[..]), ("same", &["env"])] {
        let second = next(&bench, &first, name);
        assert_code(&second, under(&second, prefix), 42);
        assert!(second.stdout().ends_with("guarded True\nwhole True\n"), "{name}: {}", second.stdout());
    }
}

#[test]
fn guard_pages_that_cannot_be_made_otherwise_are_refused_by_an_older_kernel() {
    let bench = Bench::new();
    let first = saved(&bench, "--nofile=1024:4000", &["guard-file"]);
    if !has_guard_pages(&first) {
        return;
    }
    let second = next(&bench, &first, "second");
    let before = fs::read(second.checkpoint()).unwrap();
    let status = under(&second, &OLD);
    let words =
        "it has guard pages in a file or in shared memory, which came with Linux 6.15; this host has Linux 2.6.";
    refused(&second, status, &before, &[words]);
    assert_code(&second, under(&second, &["env"]), 42);
    assert!(second.stdout().ends_with("guarded True\nwhole True\n"), "{}", second.stdout());
}

#[test]
fn what_the_manifest_needs_is_compared() {
    let bench = Bench::new();
    let first = saved(&bench, "--nofile=1024:4000", &[]);
    let good = manifest(&first);
    assert_eq!(good["host"]["page_size"], 4096, "{good:#}");
    let xsave = &good["host"]["cpu"]["xsave"];
    assert!(xsave["size"].as_u64().unwrap() >= 576 && xsave["features"].as_u64().unwrap() & 3 == 3, "{good:#}");
    assert_eq!(good["limits"]["hard"].as_object().unwrap().len(), 16, "{good:#}");
    type Change = fn(&mut Value);
    let changes: [(&str, Change, &[&str]); 5] = [
        ("pages", |m| m["host"]["page_size"] = json!(65536), &["memory pages of 65536 bytes, and this host has 4096"]),
        (
            "registers",
            |m| {
                m["host"]["cpu"]["needs"] = m["host"]["cpu"]["offered"].clone();
                m["host"]["cpu"]["xsave"]["features"] = json!(1_u64 << 40 | 7);
            },
            &["XSAVE features 0x10000000000"],
        ),
        (
            "a newer criu",
            |m| m["host"]["criu"] = json!("99.1.0"),
            &["made by CRIU 99.1.0", "this host has 4.", "condor-criu bundle"],
        ),
        ("a later kernel", |m| m["kernel_features"] = json!(["something-new"]), &["does not know", "newer kernel"]),
        (
            "locked memory",
            |m| m["limits"]["used"]["open files"] = json!(1_u64 << 40),
            &["1099511627776 of \"open files\" in use"],
        ),
    ];
    for (name, change, words) in changes {
        let mut manifest = good.clone();
        change(&mut manifest);
        let host = bench.host(name, SECOND_USER);
        let path = host.write("criu-checkpoint.tar.zst", "");
        let file = fs::File::options().read(true).write(true).open(&path).unwrap();
        let options = WriteOptions { compression: Compression::None, threads: 1, ..WriteOptions::default() };
        let writer = Writer::create(file, options).unwrap();
        writer.add(Meta::file("sandbox/reaper", 1), Some(&mut &b"x"[..])).unwrap();
        writer.finish(&serde_json::to_vec(&manifest).unwrap()).unwrap();
        let before = fs::read(&path).unwrap();
        let status = host.run(&["--", "true"]);
        refused(&host, status, &before, words);
    }
}

#[test]
fn capabilities_instead_of_a_user_namespace_are_refused_with_the_reason() {
    let bench = Bench::new();
    let first = saved(&bench, "--nofile=1024:4000", &[]);
    let before = fs::read(first.checkpoint()).unwrap();
    let said = "cannot run with mode = \"capabilities\": without a user namespace a job has the host's process ids";
    let words = ["--mode", "capabilities", "--", "python3", "gate.py"];
    // With a checkpoint it is for another host; without one the job cannot be run.
    assert_code(&first, first.run(&words), 75);
    assert!(first.stderr().contains(said) && fs::read(first.checkpoint()).unwrap() == before, "{}", first.stderr());
    let other = bench.host("other", SECOND_USER);
    assert_code(&other, other.run(&words), 125);
    assert!(
        other.stderr().contains(said) && other.stderr().contains("what to do: use mode = \"auto\""),
        "{}",
        other.stderr()
    );
    assert_code(&first, first.run(&["--mode", "rootless", "--", "python3", "gate.py"]), 42);
}
