//! Hosts that differ, on the real pool: a processor that the checkpoint does not fit, and execution points that have no
//! criu.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on stops")]

mod common;

use std::process::Command;

use common::count::{Count, PATIENCE, SUBMIT, commits, restores};
use common::job::{Condition, File, State};
use common::local::real_criu;
use common::pool::{Host, Pool, Series, with_both_series};

with_both_series!(a_lesser_processor_refuses_and_the_job_finds_another, execution_points_without_criu);

/// What the documentation says about steering: not to the machine that refused, and not to one of a lower level.
const STEER: &str = "requirements = (NumJobStarts > 0 || TARGET.Machine == \"ep1.pool\") && \
                     TARGET.Machine =!= MY.ChirpCriuRefusedBy";

fn a_lesser_processor_refuses_and_the_job_finds_another(series: Series) {
    let pool = &Pool::up(series);
    // The second host's processor has SSE2 and nothing more. That this masks its /proc does not matter: nothing is
    // restored there.
    let lesser = "echo 'flags : fpu sse sse2 lm' >/run/cpuinfo && mount --bind /run/cpuinfo /proc/cpuinfo";
    pool.ask(Host::Ep2, "root", &["sh", "-c", lesser]);
    let count = Count::to(150).with(STEER).submit(pool);
    assert_eq!(count.reaches(20), Host::Ep1);
    pool.ask(Host::Ep1, "root", &["condor_off", "-startd", "-graceful"]);
    // Vacated there, matched here, refused here, and idle because there is no other host.
    let refused = |job: &common::job::Job<'_>| {
        job.queued().is_some_and(|ad| ad["ChirpCriuRefusedBy"].as_str() == Some("ep2.pool"))
    };
    let deadline = std::time::Instant::now() + PATIENCE;
    while !(refused(&count.job) && count.job.state() == State::Idle) {
        assert!(std::time::Instant::now() < deadline, "{:?} {:#?}", count.job.state(), count.job.queued());
        std::thread::sleep(std::time::Duration::from_millis(300));
    }
    let ad = count.job.queued().unwrap();
    let warning = ad["ChirpCriuWarning"].as_str().unwrap_or_default();
    assert!(
        warning.contains("cannot restore on this host: the checkpoint needs ") && warning.contains("x86-64-v1"),
        "{warning}"
    );
    pool.ask(Host::Ep1, "root", &["condor_on", "-startd"]);
    count.job.wait_for(Condition::RunningOn(Host::Ep1), PATIENCE);
    let records = count.ends_well();
    assert_eq!((commits(&records, "vacate"), restores(&records)), (1, 1), "{records:#?}");
}

fn execution_points_without_criu(series: Series) {
    let pool = &Pool::up(series);
    for host in [Host::Ep1, Host::Ep2] {
        pool.ask(host, "root", &["rm", "-f", "/usr/sbin/criu"]);
    }
    let bundle = pool.shared_folder().join("condor-criu-bundle");
    let mut command = Command::new(env!("CARGO_BIN_EXE_condor-criu"));
    let made = command.arg("bundle").arg("--criu").arg(real_criu()).arg("-o").arg(&bundle).status().unwrap();
    assert!(made.success());
    const SCRIPT: &str = "#!/bin/sh\nn=0\nwhile [ $n -lt 60 ]; do sleep 0.1; n=$((n + 1)); echo $n; done\n";
    let text = format!(
        "{SUBMIT}executable = /shared/condor-criu-bundle\narguments = run --interval never -- ./script\n\
         transfer_input_files = script\noutput = script.out\n"
    );
    let job = pool.submit(&text, &[File::program("script", SCRIPT)]);
    for (starts, line) in [(2, "15\n"), (3, "40\n")] {
        job.wait_for(Condition::Scratch("_condor_stdout", line.into()), PATIENCE);
        job.vacate();
        job.wait_for(Condition::Starts(starts), PATIENCE);
    }
    job.wait_for(Condition::Done, PATIENCE);
    let log = job.read("condor-criu.log");
    assert_eq!(job.read("script.out"), (1..=60).map(|number| format!("{number}\n")).collect::<String>(), "{log}");
    assert_eq!(log.matches("/.condor-criu/criu/criu").count(), 3, "{log}");
}
