//! HTCondor's container universe on the real pool: the execution points have Apptainer, the job brings the image and the bundle, and a vacate
//! moves it to the other host, where it goes on in another container under another uid.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on stops")]

mod common;

use std::process::Command;

use common::count::{PATIENCE, SUBMIT};
use common::job::{Condition, File};
use common::local::real_criu;
use common::place::prepared;
use common::pool::{Host, Pool, Series};

const PROGRAM: &str = include_str!("workloads/work.py");

/// HTCondor finds out by itself whether image files can be run, with one of its own, which Debian's package lacks.
const WITH_APPTAINER: &str = "SINGULARITY = /usr/bin/apptainer\nHasSIF = True\nSTARTD_ATTRS = $(STARTD_ATTRS) HasSIF\n";

#[test]
fn a_container_job_is_moved_by_a_vacate() {
    let pool = &Pool::up(Series::Apptainer);
    for host in [Host::Ep1, Host::Ep2] {
        pool.configure(host, WITH_APPTAINER);
    }
    let bundle = pool.shared_folder().join("condor-criu");
    let made = Command::new(env!("CARGO_BIN_EXE_condor-criu"))
        .arg("bundle")
        .arg("--criu")
        .arg(real_criu())
        .arg("-o")
        .arg(&bundle)
        .status();
    assert!(made.unwrap().success());
    std::fs::copy(prepared("image", &[]), pool.shared_folder().join("image.sif")).unwrap();
    let text = format!(
        "{SUBMIT}universe = container\ncontainer_image = /shared/image.sif\nexecutable = /shared/condor-criu\n\
         arguments = run --interval never -- python3 work.py\ntransfer_input_files = work.py\noutput = work.out\nrequest_disk = 1G\n"
    );
    // The image's Python runs, not the host's: only there is this file.
    let first = "print('in the image:', __import__('os').path.exists('/.singularity.d'), flush=True)\n";
    let job = pool.submit(&text, &[File::data("work.py", format!("{first}{PROGRAM}"))]);
    for (starts, line) in [(2, "step 8 "), (3, "step 16 ")] {
        job.wait_for(Condition::Scratch("_condor_stdout", line.into()), PATIENCE);
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
    assert_eq!(log.matches("the payload runs again").count(), 2, "{log}");
}
