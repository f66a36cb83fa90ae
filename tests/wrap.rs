//! `wrap` on submit files of many shapes: what condor_submit makes of the result differs only in what is meant to
//! differ, on both series.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on stops")]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::local::FIRST_USER;

/// What `wrap` means to change, and what follows from another executable (another cluster, if there are several),
/// another name of the file, and another second.
const CHANGED: [&str; 24] = [
    "arguments",
    "args",
    "checkpointexitcode",
    "clusterid",
    "cmd",
    "diskusage",
    "enteredcurrentstatus",
    "executablesize",
    "filesystemdomain",
    "imagesize",
    "jobmaxretries",
    "jobsubmitfile",
    "jobsuccessexitcode",
    "onexitremove",
    "onexithold",
    "procid",
    "qdate",
    "requirements",
    "shouldtransferfiles",
    "successcheckpointexitcode",
    "transfercheckpoint",
    "transferexecutable",
    "wantftoncheckpoint",
    "whentotransferoutput",
];

/// Enough of a configuration for `condor_submit -dry-run`, which talks to nobody.
const CONFIG: &str = "LOCAL_DIR = /tmp/c\nLOG = /tmp/c\nSPOOL = /tmp/c\nEXECUTE = /tmp/c\nLOCK = /tmp/c\nRUN = /tmp/c\n\
    CONDOR_HOST = 127.0.0.1\nUID_DOMAIN = pool\nFILESYSTEM_DOMAIN = pool\nNETWORK_INTERFACE = 127.0.0.1\n\
    FULL_HOSTNAME = ap.pool\nENABLE_IPV6 = False\n";

type Ad = BTreeMap<String, String>;

/// The ads that `condor_submit -dry-run` prints: blocks of `Name=value`; those of later jobs have only what differs
/// from the first.
fn ads(text: &str) -> Vec<Ad> {
    let mut ads: Vec<Ad> = Vec::new();
    let mut open = false;
    for line in text.lines() {
        match line.split_once('=') {
            Some((name, value)) if !name.trim().is_empty() && !name.contains(' ') => {
                if !open {
                    let before = ads.first().cloned().unwrap_or_default();
                    ads.push(before);
                    open = true;
                }
                ads.last_mut().unwrap().insert(name.trim().to_ascii_lowercase(), value.trim().to_owned());
            }
            _ => open = false,
        }
    }
    ads
}

/// A folder with what the submit files name, and condor_submit's words about all of them, by name.
fn dry_run(dir: &Path, tree: &Path) -> BTreeMap<String, (Vec<Ad>, String)> {
    let script = "mkdir -p /tmp/c; export CONDOR_CONFIG=/mnt/config; for f in *.sub; do mkdir -p /tmp/c/$f; \
                  condor_submit -dry-run /tmp/c/$f/ads \"$f\" >/tmp/c/$f/words 2>&1; echo \"@@ $f $?\"; cat /tmp/c/$f/ads; \
                  echo; echo @words; cat /tmp/c/$f/words; done";
    let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/setup/in-root"));
    command.arg(tree).arg(dir).arg(FIRST_USER.to_string()).args(["sh", "-c", script]);
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut found = BTreeMap::new();
    for block in text.split("@@ ").skip(1) {
        let (head, rest) = block.split_once('\n').unwrap();
        let (name, code) = head.split_once(' ').unwrap();
        let (printed, words) = rest.split_once("@words\n").unwrap_or((rest, ""));
        let words = if code == "0" { String::new() } else { format!("exit {code}: {words}") };
        found.insert(name.trim_end_matches(".sub").to_owned(), (ads(printed), words));
    }
    found
}

fn files(dir: &Path) {
    fs::create_dir_all(dir.join("deep")).unwrap();
    for program in ["sim", "deep/tool", "condor-criu"] {
        fs::write(dir.join(program), "#!/bin/sh\n").unwrap();
        fs::set_permissions(dir.join(program), fs::Permissions::from_mode(0o755)).unwrap();
    }
    for data in ["a.dat", "b.dat", "deep/c.dat", "image.sif"] {
        fs::write(dir.join(data), "x\n").unwrap();
    }
    fs::write(dir.join("list.txt"), "1 one\n2 two\n").unwrap();
    fs::write(dir.join("common.inc"), "request_memory = 512M\n+Included = true\n").unwrap();
    fs::write(dir.join("config"), CONFIG).unwrap();
    fs::set_permissions(dir, fs::Permissions::from_mode(0o777)).unwrap();
}

fn root(series: &str) -> PathBuf {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/setup/root");
    let output = Command::new(script).arg(series).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    PathBuf::from(String::from_utf8(output.stdout).unwrap().trim())
}

/// The user's own part of a wrapped list or command line.
fn unwrapped(name: &str, value: &str) -> String {
    match name {
        "transferinput" => value.split_once(',').map_or(String::new(), |(_, rest)| format!("\"{}", rest.trim_start())),
        "transferoutput" => value
            .replace("criu-checkpoint.tar.zst, condor-criu.log, ", "")
            .replace("criu-checkpoint.tar.zst,condor-criu.log,", ""),
        _ => value.to_owned(),
    }
}

fn compare(name: &str, before: &Ad, after: &Ad) -> Vec<String> {
    let mut wrong = Vec::new();
    let text = |ad: &Ad, key: &str| ad.get(key).cloned().unwrap_or_default();
    let program = text(before, "cmd").trim_matches('"').to_owned();
    let arguments = |ad: &Ad| {
        let found = ad.get("arguments").or_else(|| ad.get("args")).cloned().unwrap_or_else(|| "\"\"".to_owned());
        found.trim_matches('"').to_owned()
    };
    let named = if text(before, "transferexecutable") == "false" {
        program.clone()
    } else {
        format!("./{}", Path::new(&program).file_name().unwrap().to_string_lossy())
    };
    let expected = format!("run -- {named} {}", arguments(before)).trim_end().to_owned();
    // A job without arguments may have an empty string, or none.
    if arguments(after).trim_end() != expected {
        wrong.push(format!("{name}: arguments are {:?}, not {expected:?}", arguments(after)));
    }
    for (key, value) in [
        ("cmd", "\"/mnt/condor-criu\""),
        ("successcheckpointexitcode", "85"),
        ("wantftoncheckpoint", "true"),
        ("whentotransferoutput", "\"ON_EXIT_OR_EVICT\""),
        ("shouldtransferfiles", "\"YES\""),
        ("transfercheckpoint", "\"criu-checkpoint.tar.zst, condor-criu.log\""),
    ] {
        if !text(after, key).eq_ignore_ascii_case(value)
            && text(after, key).replace(", ", ",") != value.replace(", ", ",")
        {
            wrong.push(format!("{name}: {key} is {}", text(after, key)));
        }
    }
    if !text(after, "onexitremove").contains("ExitCode =!= 75") {
        wrong.push(format!("{name}: OnExitRemove is {}", text(after, "onexitremove")));
    }
    let keys: std::collections::BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    for key in keys {
        if CHANGED.contains(&key.as_str()) {
            continue;
        }
        let (old, new) = (text(before, key), unwrapped(key, &text(after, key)));
        let same = old == new
            || old.replace(", ", ",") == new.replace(", ", ",")
            || old.trim_matches('"').is_empty() && new.trim_matches('"').is_empty();
        let ours_alone = key == "transferoutput" && new.contains("criu-checkpoint") && old.trim_matches('"').is_empty();
        if !same && !ours_alone {
            wrong.push(format!("{name}: {key} was {old}, is {new}"));
        }
    }
    wrong
}

fn on(series: &str) {
    let dir = tempfile::tempdir().unwrap();
    let (plain, wrapped) = (dir.path().join("plain"), dir.path().join("wrapped"));
    for place in [&plain, &wrapped] {
        fs::create_dir(place).unwrap();
        files(place);
    }
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let shapes = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/submit");
    // 25.14 takes only one queue statement: "Extra data found after queue statement".
    let taken = |name: &std::ffi::OsStr| series == "23" || !name.to_string_lossy().starts_with("queue-twice");
    let mut count = 0;
    for entry in
        fs::read_dir(shapes).unwrap().flatten().filter(|entry| entry.path().extension() == Some("sub".as_ref()))
    {
        let name = entry.file_name();
        if !taken(&name) {
            continue;
        }
        fs::copy(entry.path(), plain.join(&name)).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_condor-criu"));
        // Where the files are that it includes.
        command.current_dir(&plain);
        command
            .arg("wrap")
            .arg(entry.path())
            .arg("-o")
            .arg(wrapped.join(&name))
            .args(["--executable", "/mnt/condor-criu"]);
        let done = command.output().unwrap();
        assert!(done.status.success(), "{name:?}: {}", String::from_utf8_lossy(&done.stderr));
        count += 1;
    }
    assert!(count >= 40, "{count} submit files");
    let tree = root(series);
    let (before, after) = (dry_run(&plain, &tree), dry_run(&wrapped, &tree));
    let mut wrong = Vec::new();
    assert_eq!(before.len(), count);
    for (name, (ads, words)) in &before {
        let (new, new_words) = &after[name];
        if !words.is_empty() || ads.is_empty() {
            wrong.push(format!("{name} as it is: {words}"));
        } else if !new_words.is_empty() {
            wrong.push(format!("{name}: {new_words}"));
        } else if ads.len() != new.len() {
            wrong.push(format!("{name}: {} jobs instead of {}", new.len(), ads.len()));
        } else {
            wrong.extend(ads.iter().zip(new).flat_map(|(old, new)| compare(name, old, new)));
        }
    }
    assert!(wrong.is_empty(), "{:#?}", wrong);
}

#[test]
fn submit_files_of_many_shapes_on_23() {
    on("23");
}

#[test]
fn submit_files_of_many_shapes_on_25() {
    on("25");
}
