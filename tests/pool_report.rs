//! The report of an eviction storm on the real pool: twenty jobs of one cluster, vacated again and again, some of them
//! without a warning. What the page says is compared with what HTCondor's history and condor-criu's logs say, and the
//! page is kept for the eye in target/report-of-a-storm.html.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on stops")]

mod common;

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use common::count::PATIENCE;
use common::pool::{Host, Pool, Series};
use serde_json::Value;

const ACCESS_POINT: &str = include_str!("../condor-config/access-point.conf");

const JOBS: usize = 20;
/// Seconds that a job runs, and those in which the pool storms.
const RUN: u32 = 40;
const STORM: Duration = Duration::from_secs(90);

#[test]
#[ignore = "takes minutes: ./test --long"]
fn a_storm_of_twenty_jobs_is_told_as_it_was() {
    let pool = &Pool::up(Series::V25);
    for host in [Host::Ep1, Host::Ep2] {
        let script = "mkdir -p /etc/condor-criu && echo 'criu = \"/opt/criu\"' >/etc/condor-criu/config.toml";
        pool.ask(host, "root", &["sh", "-c", script]);
    }
    pool.configure(Host::Ap, &format!("{ACCESS_POINT}\nCONDOR_CRIU = /opt/condor-criu/condor-criu\n"));
    let folder = pool.shared_folder().join("storm");
    for number in 0..JOBS {
        fs::create_dir_all(folder.join(format!("job{number}"))).unwrap();
    }
    let steps = RUN * 10;
    let program = format!("#!/bin/sh\nn=0\nwhile [ $n -lt {steps} ]; do sleep 0.1; n=$((n + 1)); echo $n; done\n");
    fs::write(folder.join("count"), program).unwrap();
    let submit = format!(
        "executable = count\nWantCriu = true\noutput = out\nlog = ../storm.log\ninitialdir = job$(Process)\n\
         should_transfer_files = YES\nrequest_memory = 64\nrequest_disk = 64M\nqueue {JOBS}\n"
    );
    fs::write(folder.join("storm.sub"), submit).unwrap();
    let script = "chmod 755 /shared/storm/count && chown -R alice: /shared/storm";
    pool.ask(Host::Ap, "root", &["sh", "-c", script]);
    pool.ask(Host::Ap, "alice", &["sh", "-c", "cd /shared/storm && condor_submit storm.sub"]);

    let begin = Instant::now();
    let queue = || pool.ask(Host::Ap, "root", &["condor_q", "-all", "-af", "ProcId"]).lines().count();
    for turn in 0.. {
        if queue() == 0 {
            break;
        }
        assert!(begin.elapsed() < STORM + PATIENCE, "{} jobs are left", queue());
        if begin.elapsed() < STORM {
            // A fifth of them at a time, and each third time the slots are gone at once.
            let which = format!("JobStatus == 2 && ProcId % 5 == {} && time() - JobCurrentStartDate > 3", turn % 5);
            let how: &[&str] = if turn % 3 == 2 { &["-fast"] } else { &[] };
            pool.exec(Host::Ap, "root", &[&["condor_vacate_job"], how, &["-constraint", &which]].concat());
        }
        std::thread::sleep(Duration::from_secs(2));
    }

    let read = |number: usize, name: &str| fs::read_to_string(folder.join(format!("job{number}/{name}"))).unwrap();
    let page = folder.join("page.html");
    let mut report = Command::new(env!("CARGO_BIN_EXE_condor-criu"));
    report.arg("report").arg(folder.join("storm.log")).arg("-o").arg(&page);
    report.args((0..JOBS).map(|number| folder.join(format!("job{number}/condor-criu.log"))));
    assert!(report.status().unwrap().success());
    let html = fs::read_to_string(&page).unwrap();
    fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/target/report-of-a-storm.html"), &html).unwrap();
    let (_, data) = html.split_once("id=\"sums\">").unwrap();
    let sums: Value = serde_json::from_str(data.split_once("</script>").unwrap().0).unwrap();

    let lines: String = (1..=steps).map(|step| format!("{step}\n")).collect();
    let commits = |number: usize| read(number, "condor-criu.log").matches(" committed generation=").count();
    for number in 0..JOBS {
        assert_eq!(read(number, "out"), lines, "job {number}\n{}", read(number, "condor-criu.log"));
    }
    let starts = pool.ask(Host::Ap, "root", &["condor_history", "-af", "NumJobStarts"]);
    let starts: u64 = starts.lines().map(|line| line.trim().parse::<u64>().unwrap()).sum();
    assert_eq!((sums["jobs"].as_u64(), sums["done"].as_u64()), (Some(JOBS as u64), Some(JOBS as u64)), "{sums}");
    assert_eq!(sums["evictions"].as_u64(), Some(starts - JOBS as u64), "{sums}");
    assert_eq!(sums["checkpoints"].as_u64(), Some((0..JOBS).map(commits).sum::<usize>() as u64), "{sums}");
    let seconds = |name: &str| sums[name].as_f64().unwrap();
    // Each has run for as long as it takes, and some of that more than once.
    assert!(seconds("counted") > f64::from(RUN) * JOBS as f64, "{sums}");
    assert!(seconds("saved") > 0.0 && seconds("lost") > 0.0 && seconds("frozen") > 0.0, "{sums}");
    println!("{starts} starts; {sums}");
}
