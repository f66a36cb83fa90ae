//! Bad input, each with a clear error, its exit code from the contract, and an existing checkpoint left as it was.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on stops")]

mod common;

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use common::local::{Bench, FIRST_USER, Host, SECOND_USER, assert_code};
use nix::sys::signal::Signal;

const COUNT: &str = include_str!("payloads/count.py");

/// Runs it and expects this code, and these words on stderr.
#[track_caller]
fn refused(host: &Host<'_>, words: &[&str], code: i32, said: &[&str]) {
    let before = fs::read(host.checkpoint()).ok().filter(|bytes| !bytes.is_empty());
    assert_code(host, host.run(words), code);
    let stderr = host.stderr();
    assert!(stderr.starts_with("error: "), "{stderr}");
    for word in said {
        assert!(stderr.contains(word), "{word:?} is not in {stderr}");
    }
    assert!(!stderr.contains("panicked"), "{stderr}");
    if before.is_some() {
        assert_eq!(fs::read(host.checkpoint()).ok(), before, "the checkpoint has changed");
    }
}

/// A host with a checkpoint of a program that counts.
fn with_checkpoint<'a>(bench: &'a Bench, name: &str, lines: &str) -> Host<'a> {
    let host = bench.host(name, FIRST_USER);
    host.write("count.py", COUNT);
    let mut job = host.start(&["--", "python3", "count.py", lines]);
    job.until_output("line3 ").signal(Signal::SIGTERM);
    assert_code(&host, job.end(), 85);
    drop(job);
    host
}

#[test]
fn programs_that_cannot_run() {
    let bench = Bench::new();
    refused(
        &bench.host("absent", FIRST_USER),
        &["--", "./no-such-program"],
        127,
        &["cannot run no-such-program", "what to do"],
    );
    refused(&bench.host("in-path", FIRST_USER), &["--", "no-such-program"], 127, &["no such program"]);
    let host = bench.host("plain", FIRST_USER);
    let path = host.write("plain", "text");
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
    refused(&host, &["--", "./plain"], 126, &["cannot run plain", "ermission denied"]);
    refused(&host, &["--", "plain"], 126, &[]);
    let host = bench.host("no-format", FIRST_USER);
    host.write("no-format", "neither ELF nor script");
    refused(&host, &["--", "./no-format"], 126, &["xec format"]);
}

#[test]
fn options_and_settings_that_make_no_sense() {
    let bench = Bench::new();
    for (number, (words, said)) in [
        (&["--no-such-option", "--", "true"][..], "--no-such-option"),
        (&["--interval", "soon", "--", "true"][..], "interval"),
        (&["--network", "best", "--", "true"][..], "network"),
        (&["--config", "/no/such.toml", "--", "true"][..], "/no/such.toml"),
    ]
    .into_iter()
    .enumerate()
    {
        refused(&bench.host(&number.to_string(), FIRST_USER), words, 125, &[said]);
    }
    let host = bench.host("toml", FIRST_USER);
    host.write("condor-criu.toml", "interval = [[[");
    refused(&host, &["--", "true"], 125, &["condor-criu.toml"]);
    let host = bench.host("key", FIRST_USER);
    host.write("condor-criu.toml", "intervall = '1h'");
    refused(&host, &["--", "true"], 125, &["no setting `intervall`"]);
}

#[test]
fn bad_settings_cost_no_checkpoint() {
    let bench = Bench::new();
    let host = with_checkpoint(&bench, "host", "20");
    host.write("condor-criu.toml", "interval = [[[");
    refused(&host, &["--", "python3", "count.py", "20"], 125, &["condor-criu.toml"]);
    fs::remove_file(host.scratch.join("condor-criu.toml")).unwrap();
    assert_code(&host, host.run(&["--", "python3", "count.py", "20"]), 42);
}

#[test]
fn a_scratch_directory_that_cannot_be_written() {
    let bench = Bench::new();
    let host = bench.host("host", FIRST_USER);
    let scratch = bench.path().join("elsewhere");
    fs::create_dir(&scratch).unwrap();
    fs::set_permissions(&scratch, fs::Permissions::from_mode(0o555)).unwrap();
    let named = scratch.to_string_lossy().into_owned();
    assert!(nix::unistd::geteuid().is_root(), "needs root, to be somebody else than the owner");
    refused(&host, &["--scratch", &named, "--", "true"], 125, &["cannot write to the scratch directory", &named]);
    refused(&host, &["--scratch", "/no/such/directory", "--", "true"], 125, &["scratch directory"]);
}

#[test]
fn criu_missing_or_too_old_or_broken() {
    let bench = Bench::new();
    let mut host = bench.host("missing", FIRST_USER);
    host.criu = "/no/such/criu".into();
    refused(&host, &["--", "true"], 125, &["no criu at /no/such/criu", "--criu"]);
    for (name, script, said) in
        [("old", "#!/bin/sh\necho Version: 3.17.1\n", "CRIU 3.17.1"), ("silent", "#!/bin/sh\nexit 1\n", "does not run")]
    {
        let mut host = bench.host(name, FIRST_USER);
        host.criu = host.write("fake-criu", script);
        refused(&host, &["--", "true"], 125, &[said, "what to do"]);
    }
}

#[test]
fn no_user_namespaces() {
    let bench = Bench::new();
    let host = bench.host("host", nix::unistd::geteuid().as_raw());
    // A user namespace in which the limit is 0 is such a host.
    let run = format!(
        "echo 0 >/proc/sys/user/max_user_namespaces && exec {} run --criu {} -- true",
        bench.binary().display(),
        host.criu.display()
    );
    let output = Command::new("unshare")
        .args(["-Ur", "sh", "-c", &run])
        .current_dir(&host.scratch)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(125), "{stderr}");
    assert!(stderr.contains("user.max_user_namespaces"), "{stderr}");
}

#[test]
fn checkpoints_that_are_not_whole() {
    let bench = Bench::new();
    let good = with_checkpoint(&bench, "good", "20");
    let bytes = fs::read(good.checkpoint()).unwrap();
    let words = ["--", "python3", "count.py", "20"];
    let damaged = |name: &str, change: &dyn Fn(&mut Vec<u8>)| {
        let host = bench.host(name, SECOND_USER);
        host.write("count.py", COUNT);
        let mut changed = bytes.clone();
        change(&mut changed);
        host.write("criu-checkpoint.tar.zst", changed);
        host
    };
    for (name, keep) in [("half", bytes.len() / 2), ("almost", bytes.len() - 1), ("little", 10)] {
        let host = damaged(name, &|bytes: &mut Vec<u8>| bytes.truncate(keep));
        refused(&host, &words, 125, &["cannot use the checkpoint", "what to do"]);
    }
    refused(&damaged("foreign", &|bytes| *bytes = b"somebody else's file\n".repeat(100)), &words, 125, &["checkpoint"]);
    // One bit, in every part of the file.
    for part in 0..12 {
        let at = bytes.len() * part / 12 + 5;
        let host = damaged(&format!("bit{part}"), &|bytes: &mut Vec<u8>| bytes[at] ^= 0x10);
        let status = host.run(&words);
        let code = status.code();
        // Found at the opening, or while it is unpacked; never restored.
        assert!(code == Some(125), "bit {at}: {code:?}\n{}", host.log());
        assert_eq!(host.stdout(), "", "bit {at}");
    }
    // Nothing has been saved yet: a start from the beginning.
    let host = damaged("empty", &|bytes: &mut Vec<u8>| bytes.clear());
    assert_code(&host, host.run(&words), 42);
    assert_eq!(host.stdout().lines().count(), 20);
}

#[test]
fn a_full_disk_while_packing_costs_nothing() {
    let bench = Bench::new();
    let host = with_checkpoint(&bench, "host", "100");
    let small = bench.host("small", FIRST_USER);
    // A mount namespace of its own, so that the small disk goes with the test. What is written while it is full must
    // fit into pages that files have already: a few lines of the log, and of stdout.
    let script = format!(
        "mount -t tmpfs -o size=12m,mode=0777 tmpfs {small} && cp -p {from}/count.py {from}/criu-checkpoint.tar.zst {small}/ && \
         cd {small} && : >_condor_stdout && echo first line >condor-criu.log && chown {user} * && \
         exec setpriv --reuid={user} --regid={user} --clear-groups sh -c '{run} >>_condor_stdout 2>>err </dev/null & pid=$!; \
         until grep -q line5 _condor_stdout || ! kill -0 $pid; do sleep 0.05; done; \
         cp criu-checkpoint.tar.zst /dev/shm/before.$pid; dd if=/dev/zero of=fill bs=4k 2>/dev/null; kill -USR2 $pid; \
         until grep -q \"cannot save\" condor-criu.log || ! kill -0 $pid; do sleep 0.05; done; \
         cmp criu-checkpoint.tar.zst /dev/shm/before.$pid || echo CHANGED; rm -f fill /dev/shm/before.$pid; \
         wait $pid; echo code $?; tail -n 1 _condor_stdout; cat condor-criu.log err; ls -lA'",
        small = small.scratch.display(),
        from = host.scratch.display(),
        user = FIRST_USER,
        run = format_args!(
            "{} run --criu {} --log-level error -- python3 count.py 100",
            bench.binary().display(),
            host.criu.display()
        ),
    );
    let output = Command::new("timeout").args(["60", "unshare", "-m", "sh", "-c", &script]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains("code 42")
            && said.contains("cannot save the payload")
            && said.contains("line99 ")
            && !said.contains("CHANGED"),
        "{said}"
    );
}

#[test]
fn a_checkpoint_from_a_newer_format() {
    use condor_criu::checkpoint::archive::{Compression, WriteOptions, Writer};
    let bench = Bench::new();
    let host = bench.host("host", FIRST_USER);
    let path = host.write("criu-checkpoint.tar.zst", "");
    let file = fs::File::options().read(true).write(true).open(&path).unwrap();
    let writer =
        Writer::create(file, WriteOptions { compression: Compression::None, threads: 1, ..WriteOptions::default() })
            .unwrap();
    writer.finish(br#"{"format": 99, "payload": "something else"}"#).unwrap();
    refused(&host, &["--", "true"], 75, &["it has format 99", "newer"]);
}

#[test]
fn files_of_another_size_than_the_manifest_says() {
    use condor_criu::checkpoint::archive::{Compression, Meta, Reader, WriteOptions, Writer};
    let bench = Bench::new();
    let good = with_checkpoint(&bench, "good", "20");
    let manifest = Reader::open(good.checkpoint()).unwrap().manifest().to_vec();
    let host = bench.host("host", SECOND_USER);
    let path = host.write("criu-checkpoint.tar.zst", "");
    let file = fs::File::options().read(true).write(true).open(&path).unwrap();
    let options = WriteOptions { compression: Compression::Auto, threads: 1, ..WriteOptions::default() };
    let writer = Writer::create(file, options).unwrap();
    writer.add(Meta::file("sandbox/reaper", 1), Some(&mut &b"x"[..])).unwrap();
    // Zeros in a few bytes.
    let mut bomb = writer.stream("work/bomb").unwrap();
    std::io::copy(&mut std::io::repeat(0).take(64 << 20), &mut bomb).unwrap();
    bomb.finish().unwrap();
    writer.finish(&manifest).unwrap();
    refused(&host, &["--", "true"], 125, &["its files have another size than it says"]);
    assert!(!host.scratch.join("bomb").exists());
}

#[test]
fn a_checkpoint_that_needs_another_processor() {
    use condor_criu::checkpoint::archive::{Compression, Meta, Reader, WriteOptions, Writer};
    let bench = Bench::new();
    let good = with_checkpoint(&bench, "good", "20");
    let mut manifest: serde_json::Value =
        serde_json::from_slice(Reader::open(good.checkpoint()).unwrap().manifest()).unwrap();
    manifest["host"]["cpu"]["needs"].as_array_mut().unwrap().push("sse5".into());
    let host = bench.host("host", SECOND_USER);
    let path = host.write("criu-checkpoint.tar.zst", "");
    let file = fs::File::options().read(true).write(true).open(&path).unwrap();
    let writer =
        Writer::create(file, WriteOptions { compression: Compression::None, threads: 1, ..WriteOptions::default() })
            .unwrap();
    writer.add(Meta::file("sandbox/reaper", 1), Some(&mut &b"x"[..])).unwrap();
    writer.finish(&serde_json::to_vec(&manifest).unwrap()).unwrap();
    refused(&host, &["--", "true"], 75, &["cannot restore on this host: the checkpoint needs sse5", "intact"]);
}
