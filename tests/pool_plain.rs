//! The real pool runs what HTCondor runs without condor-criu: when this fails, so will every other test
//! that needs the pool, and the pool or its preparation is to blame.

mod common;

use std::time::Duration;

use common::job::{Condition, File};
use common::pool::{Host, Pool, Series};

const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn a_job_has_the_uid_of_its_host() {
    let pool = Pool::shared(Series::V25);
    for (host, uid) in [(Host::Ep1, "1500"), (Host::Ep2, "1600")] {
        let text = format!("executable = who\nrequirements = Machine == \"{host}.pool\"\n");
        let job = pool.submit(&text, &[File::program("who", "#!/bin/sh\nuname -n\nid -u\nexit 3\n")]);
        job.wait_for(Condition::Done, MINUTE);

        assert_eq!(job.read("job.out"), format!("{host}\n{uid}\n"));
        let history = job.history();
        assert_eq!((history.exit_code, history.starts, history.last_host), (Some(3), 1, Some(host)));
    }
}

#[test]
fn a_job_that_dies_of_a_signal_says_so() {
    let pool = Pool::shared(Series::V25);
    let job = pool.submit("executable = die\n", &[File::program("die", "#!/bin/sh\nkill -USR1 $$\n")]);
    job.wait_for(Condition::Done, MINUTE);

    let history = job.history();
    assert_eq!((history.exit_by_signal, history.exit_signal, history.exit_code), (true, Some(10), None));
}

#[test]
fn a_vacated_job_goes_to_the_other_host() {
    let pool = Pool::shared(Series::V25);
    let text = "executable = wait\n\
                job_machine_attrs = Machine\n\
                requirements = TARGET.Machine =!= MY.MachineAttrMachine0\n";
    let script = "#!/bin/sh\necho ready\nexec sleep 600\n";
    let job = pool.submit(text, &[File::program("wait", script)]);
    job.wait_for(Condition::Scratch("_condor_stdout", "ready".into()), MINUTE);
    let first = job.host();

    job.vacate();
    job.wait_for(Condition::Starts(2), MINUTE);
    assert_eq!(job.host(), first.other());

    job.vacate_fast();
    job.wait_for(Condition::RunningOn(first), MINUTE);

    job.hold();
    job.wait_for(Condition::Held, MINUTE);
    job.release();
    job.wait_for(Condition::RunningOn(first.other()), MINUTE);
    job.remove();
    job.wait_for(Condition::Removed, MINUTE);
}
