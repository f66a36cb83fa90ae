//! `condor-criu.log` as JSON, with the real criu on this machine: every line is an object, and whoever reads the log
//! reads this form too.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on stops")]

mod common;

use std::process::Command;

use common::local::{Bench, FIRST_USER, Host, SECOND_USER, assert_code};
use nix::sys::signal::Signal;
use serde_json::Value;

const COUNT: &str = include_str!("payloads/count.py");
const AD: &str = "ClusterId = 7\nProcId = 0\nGlobalJobId = \"ap#7.0#1\"\nSuccessCheckpointExitCode = 85\n\
                  WantFTOnCheckpoint = true\nWhenToTransferOutput = \"ON_EXIT_OR_EVICT\"\n";

/// The log's lines; each has what every line has.
fn lines(host: &Host<'_>) -> Vec<Value> {
    let log = host.log();
    let object = |line: &str| -> Value {
        let object: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        humantime::parse_rfc3339(object["time"].as_str().unwrap()).unwrap();
        assert!(["INFO", "WARN", "ERROR"].contains(&object["level"].as_str().unwrap()), "{line}");
        assert!(!object["message"].as_str().unwrap().is_empty(), "{line}");
        object
    };
    log.lines().map(object).collect()
}

fn report(host: &Host<'_>) -> Value {
    let event =
        |code: u16, time: &str, words: &str| format!("{code:03} (007.000.000) 2026-11-24 {time} {words}\n...\n");
    let user_log = event(0, "10:00:00", "Job submitted from host: <10.0.0.1:9618>")
        + &event(1, "10:00:01", "Job executing on host: <10.0.0.9:9618?alias=ep1.pool&x>");
    let user_log = host.write("job.log", user_log);
    let page = host.scratch.join("page.html");
    let mut command = Command::new(env!("CARGO_BIN_EXE_condor-criu"));
    let done = command.arg("report").arg(user_log).arg("-o").arg(&page).env("TZ", "UTC").output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let html = host.read("page.html");
    let (_, rest) = html.split_once("id=\"sums\">").unwrap();
    serde_json::from_str(rest.split_once("</script>").unwrap().0).unwrap()
}

#[test]
fn every_line_is_an_object_and_the_report_reads_them() {
    let bench = Bench::new();
    let first = bench.host("first", FIRST_USER);
    first.write(".job.ad", AD);
    first.write("count.py", COUNT);
    let mut job = first.start(&["--log-format", "json", "--", "python3", "count.py", "20"]);
    job.until_output("line9 ").signal(Signal::SIGTERM);
    assert_code(&first, job.end(), 85);

    // By the job ad this time.
    let second = bench.host("second", SECOND_USER);
    second.write(".job.ad", format!("{AD}CriuLogFormat = \"json\"\n"));
    second.write("count.py", COUNT);
    first.carry_to(&second, &[]);
    assert_code(&second, second.run(&["--", "python3", "count.py", "20"]), 42);

    let lines = lines(&second);
    let records: Vec<&str> = lines.iter().filter_map(|line| line["record"].as_str()).collect();
    assert_eq!(records, ["started", "committed", "started", "restored"], "{}", second.log());
    let record = |name: &str| lines.iter().find(|line| line["record"] == name).unwrap();
    assert_eq!(record("started")["job"], "7.0");
    assert_eq!((&record("committed")["reason"], &record("committed")["generation"]), (&"vacate".into(), &1.into()));
    assert!(record("restored")["seconds"].as_f64().unwrap() > 0.0);
    let last = lines.last().unwrap();
    assert_eq!((&last["condor_criu_job"], &last["ended"]["exited"]), (&"ap#7.0#1".into(), &42.into()), "{last}");

    let sums = report(&second);
    assert_eq!((&sums["checkpoints"], &sums["bytes"]), (&1.into(), &record("committed")["bytes"]), "{sums}");
    // Told again, as the last line says, when the same start comes once more.
    assert_code(&second, second.run(&["--", "python3", "count.py", "20"]), 42);
    assert_eq!(second.stdout().lines().count(), 20);
}

#[test]
fn a_rehearsal_and_a_trial_read_them_and_a_bad_form_is_refused() {
    let bench = Bench::new();
    let host = bench.host("here", FIRST_USER);
    host.write("same.py", "import time\nfor n in range(30):\n    print(n, flush=True)\n    time.sleep(0.1)\n");
    let run = |words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_condor-criu"));
        command.args(words).env("CONDOR_CRIU_LOG_FORMAT", "json").env("CONDOR_CRIU_CRIU", host.criu.join("criu"));
        let done = command.current_dir(&host.scratch).output().unwrap();
        let said = [done.stdout, done.stderr].concat();
        (done.status.code(), String::from_utf8_lossy(&said).into_owned())
    };
    let (code, said) = run(&["rehearse", "--evictions", "1", "--", "python3", "same.py"]);
    assert!(code == Some(0) && said.contains("vacate"), "{said}");
    let row = said.lines().find(|line| line.contains("vacate")).unwrap_or_default();
    assert!(row.split_whitespace().any(|word| word == "MB"), "{said}");
    let (_, said) = run(&["doctor", "--json", "--after", "1s", "--", "python3", "same.py"]);
    let report: Value = serde_json::from_str(&said).unwrap_or_else(|error| panic!("{said}: {error}"));
    let checks = report["checks"].as_array().unwrap();
    for (name, words) in [("save program", "it stood still for"), ("restore program", "in another directory, in")] {
        let check = checks.iter().find(|check| check["name"] == name).unwrap();
        assert!(check.to_string().contains(words), "{check}");
    }
    let (code, said) = run(&["run", "--log-format", "xml", "--", "true"]);
    assert!(code == Some(125) && said.contains("log_format is \"text\" or \"json\""), "{said}");
}
