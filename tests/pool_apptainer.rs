//! HTCondor's container universe on the real pool: the execution points have Apptainer, the job brings the image and
//! the bundle, and a vacate moves it to the other host, where it goes on in another container under another uid.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on stops")]

mod common;

use std::process::Command;

use common::count::{PATIENCE, SUBMIT};
use common::job::{Condition, File, Job};
use common::local::real_criu;
use common::long;
use common::place::prepared;
use common::pool::{Host, Pool, Series};

const PROGRAM: &str = include_str!("workloads/work.py");
const ACCESS_POINT: &str = include_str!("../condor-config/access-point.conf");

/// HTCondor finds out by itself whether image files can be run, with one of its own, which Debian's package lacks.
const WITH_APPTAINER: &str = "SINGULARITY = /usr/bin/apptainer\nHasSIF = True\nSTARTD_ATTRS = $(STARTD_ATTRS) HasSIF\n";

/// A pool whose hosts run containers, with the image and a bundle in /shared.
fn pool() -> Pool {
    let pool = Pool::up(Series::Apptainer);
    for host in [Host::Ep1, Host::Ep2] {
        pool.configure(host, WITH_APPTAINER);
    }
    let mut bundle = Command::new(env!("CARGO_BIN_EXE_condor-criu"));
    bundle.arg("bundle").arg("--criu").arg(real_criu()).arg("-o").arg(pool.shared_folder().join("condor-criu"));
    assert!(bundle.status().unwrap().success());
    std::fs::copy(prepared("image", &[]), pool.shared_folder().join("image.sif")).unwrap();
    pool
}

/// Vacates it once or twice, and looks at what is left; its first line tells whether the image's Python ran, and not
/// the host's.
#[track_caller]
fn is_moved(times: usize, job: &Job<'_>) {
    // On a busy machine it is at any step when it is saved, and so the second time its own log is asked.
    let moves = [(2, "_condor_stdout", "step 8 "), (3, "condor-criu.log", "runs again")];
    for (starts, file, line) in moves.into_iter().take(times) {
        job.wait_for(Condition::Scratch(file, line.into()), PATIENCE);
        let host = job.host();
        job.vacate();
        job.wait_for(Condition::Starts(starts), PATIENCE);
        assert_eq!(job.host(), host.other());
    }
    job.wait_for(Condition::Done, PATIENCE);
    let log = job.read("condor-criu.log");
    assert_eq!(job.history().exit_code, Some(5), "{log}");
    let alone = Command::new("python3")
        .args(["-c", PROGRAM])
        .current_dir(tempfile::tempdir().unwrap().path())
        .output()
        .unwrap();
    let expected = format!("in the image: True\n{}", String::from_utf8_lossy(&alone.stdout));
    assert_eq!(job.read("work.out"), expected, "{log}");
    assert_eq!(log.matches("the payload runs again").count(), times, "{log}");
}

/// The program, which says where it runs: only in the image is this file.
fn program() -> String {
    let first = "print('in the image:', __import__('os').path.exists('/.singularity.d'), flush=True)";
    format!("#!/usr/bin/python3\n{first}\n{PROGRAM}")
}

const CONTAINER: &str =
    "universe = container\ncontainer_image = /shared/image.sif\noutput = work.out\nrequest_disk = 1G\n";

#[test]
fn a_container_job_is_moved_by_a_vacate() {
    let pool = &pool();
    let text = format!(
        "{SUBMIT}{CONTAINER}executable = /shared/condor-criu\narguments = run --interval never -- python3 work.py\n\
         transfer_input_files = work.py\n"
    );
    is_moved(2, &pool.submit(&text, &[File::data("work.py", program())]));
}

#[test]
fn one_line_in_a_container_jobs_submit_file_is_enough() {
    let pool = &pool();
    pool.configure(Host::Ap, &format!("{ACCESS_POINT}\nCONDOR_CRIU = /shared/condor-criu\n"));
    let lines =
        "job_machine_attrs = Machine\nrequirements = TARGET.Machine =!= MY.MachineAttrMachine0\nWantCriu = true\n";
    // The program comes with the job, or it is the image's own.
    let forms = [
        "executable = work.py\n",
        "executable = /usr/bin/python3\ntransfer_executable = false\narguments = work.py\ntransfer_input_files = work.py\n",
    ];
    let forms = if long::wanted() { &forms[..] } else { &forms[..1] };
    for text in forms {
        is_moved(1, &pool.submit(&format!("{lines}{CONTAINER}{text}"), &[File::program("work.py", program())]));
    }
}
