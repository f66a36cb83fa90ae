//! `report` on user logs whose jobs are known to the second, and its page in a real browser.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on stops")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Writes events as HTCondor does.
struct Log {
    text: String,
    old: bool,
}

impl Log {
    fn event(&mut self, code: u16, proc: usize, second: u32, words: &str) {
        let (hour, minute, second) = (10 + second / 3600, second / 60 % 60, second % 60);
        let date = if self.old { "11/24" } else { "2026-11-24" };
        self.text += &format!("{code:03} (012.{proc:03}.000) {date} {hour}:{minute:02}:{second:02} {words}\n...\n");
    }

    /// A job that waits 10 s, is sent in 2 s, runs 100 s, saves itself in 4 s at a vacate, waits 8 s, runs 50 s until
    /// it is killed, waits 20 s, and runs 60 s to its end, which is sent back in 1 s.
    fn job(&mut self, proc: usize, at: u32) {
        let executing = |host: &str| {
            format!("Job executing on host: <10.0.0.9:9618?alias={host}&x>\n\tSlotName: slot1_1@{host}\n\tCpus = 2")
        };
        self.event(0, proc, at, "Job submitted from host: <10.0.0.1:9618>");
        self.event(
            40,
            proc,
            at + 10,
            "Started transferring input files\n\tTransferring to host: <10.0.0.9:9618?alias=ep1.pool&x>",
        );
        self.event(40, proc, at + 12, "Finished transferring input files");
        self.event(1, proc, at + 12, &executing("ep1.pool"));
        self.event(6, proc, at + 20, "Image size of job updated: 35000");
        self.event(40, proc, at + 112, "Started transferring output files");
        self.event(40, proc, at + 116, "Finished transferring output files");
        self.event(4, proc, at + 116, "Job was evicted.\n\t(0) CPU times");
        self.event(1, proc, at + 124, &executing("<script>alert(1)</script>"));
        self.event(4, proc, at + 174, "Job was evicted.\n\t(0) CPU times");
        self.event(1, proc, at + 194, &executing("ep1.pool"));
        self.event(40, proc, at + 254, "Started transferring output files");
        self.event(40, proc, at + 255, "Finished transferring output files");
        self.event(5, proc, at + 255, "Job terminated.\n\t(1) Normal termination (return value 3)");
    }
}

fn report(logs: &[&Path], output: &Path) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_condor-criu"));
    let done = command.arg("report").args(logs).arg("-o").arg(output).env("TZ", "UTC").output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}

fn sums(html: &str) -> Value {
    let (_, rest) = html.split_once("id=\"sums\">").unwrap();
    serde_json::from_str(rest.split_once("</script>").unwrap().0).unwrap()
}

/// What a browser makes of a page: its document after loading, and what it says on its console.
fn browse(page: &Path) -> (String, String) {
    let profile = tempfile::tempdir().unwrap();
    let mut command = Command::new("timeout");
    command.args([
        "120",
        "chromium",
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
    ]);
    command.args(["--disable-background-networking", "--disable-component-update", "--disable-sync"]);
    command
        .args(["--enable-logging=stderr", "--dump-dom"])
        .arg(format!("--user-data-dir={}", profile.path().display()));
    let done = command.arg(format!("file://{}", page.display())).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let said = String::from_utf8_lossy(&done.stderr);
    let console: String =
        said.lines().filter(|line| line.contains(":CONSOLE")).map(|line| format!("{line}\n")).collect();
    (String::from_utf8(done.stdout).unwrap(), console)
}

#[test]
fn the_numbers_are_those_of_the_log_also_in_a_browser() {
    let dir = tempfile::tempdir().unwrap();
    let mut pages = Vec::new();
    for old in [false, true] {
        let mut log = Log { text: String::new(), old };
        for proc in 0..20 {
            log.job(proc, 30 * proc as u32);
        }
        let path: PathBuf = dir.path().join(format!("job-{old}.log"));
        fs::write(&path, &log.text).unwrap();
        // Half of it once more, as in the log of a DAG.
        let half = dir.path().join(format!("dag-{old}.log"));
        fs::write(&half, &log.text[..log.text[..log.text.len() / 2].rfind("...\n").unwrap() + 4]).unwrap();
        let page = dir.path().join(format!("page-{old}.html"));
        let said = report(&[&path, &half], &page);
        assert!(said.contains("20 jobs, 1.78 cpu h counted"), "{said}");
        pages.push(page);
    }
    let html = fs::read_to_string(&pages[0]).unwrap();
    let found = sums(&html);
    // 20 jobs with 2 cpus each
    let expected = [
        ("jobs", 20.0),
        ("done", 20.0),
        ("evictions", 40.0),
        ("counted", 6400.0),
        ("lost", 2000.0),
        ("saved", 4000.0),
        ("uploading", 100.0),
    ];
    for (name, value) in expected {
        assert_eq!(found[name].as_f64(), Some(value), "{name} in {found}");
    }
    assert_eq!(sums(&fs::read_to_string(&pages[1]).unwrap()), found, "the old form of times");

    let (document, console) = browse(&pages[0]);
    assert_eq!(console, "");
    assert_eq!(sums(&document), found);
    for words in ["<b>20 of 20</b>", "<b>1.78 cpu h</b>", "<b>0.56 cpu h</b>", "<b>1.11 cpu h</b>", "<b>40</b>"] {
        assert!(document.contains(words), "{words:?} is not in the document");
    }
    assert!(
        document
            .contains("Evictions: 40. Of all computing 23.8% was lost; without checkpoints it would have been 71.4%.")
    );
    // One line a job, and nothing of a log that became markup.
    assert_eq!(document.matches("aria-label=\"Job 12.").count(), 20);
    assert!(!document.contains("<script>alert") && document.contains("&lt;script&gt;alert(1)"));
    // Works from a file and without a network: nothing is loaded from anywhere.
    assert!(!html.contains("http://") && !html.contains("https://") && !html.contains(" src="));
}

#[test]
fn checkpoints_are_taken_from_a_log_beside_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = Log { text: String::new(), old: false };
    log.job(0, 0);
    fs::write(dir.path().join("job.log"), &log.text).unwrap();
    fs::write(
        dir.path().join("condor-criu.log"),
        "2026-11-24T10:00:12.000000Z  INFO starting version=\"0.1.0\" scratch=/s job=\"12.0\"\n\
         2026-11-24T10:01:00.000000Z  INFO committed generation=1 reason=interval frozen_seconds=2.0 commit_seconds=3.0 bytes=5000000\n",
    )
    .unwrap();
    let page = dir.path().join("page.html");
    report(&[&dir.path().join("job.log")], &page);
    let found = sums(&fs::read_to_string(&page).unwrap());
    assert_eq!((found["checkpoints"].as_u64(), found["bytes"].as_u64()), (Some(1), Some(5_000_000)));
    assert_eq!((found["frozen"].as_f64(), found["counted"].as_f64()), (Some(2.0), Some(2.0 * 158.0)));
    let (document, console) = browse(&page);
    assert!(console.is_empty() && document.contains("What checkpoints cost"), "{console}");
}

#[test]
fn what_is_no_log_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x");
    fs::write(&path, "<?xml version=\"1.0\"?><classads>\n").unwrap();
    let run = |log: &Path| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_condor-criu"));
        let done = command.arg("report").arg(log).arg("-o").arg(dir.path().join("page.html")).output().unwrap();
        (done.status.code(), String::from_utf8_lossy(&done.stderr).into_owned())
    };
    let (code, words) = run(&path);
    assert!(
        code == Some(1) && words.contains("there is no event of a user log in it") && words.contains("what to do"),
        "{words}"
    );
    let (code, words) = run(&dir.path().join("missing"));
    assert!(code == Some(1) && words.contains("cannot read"), "{words}");
    assert!(!dir.path().join("page.html").exists());
}
