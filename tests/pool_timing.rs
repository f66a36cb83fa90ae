//! Evictions at bad moments, on the real pool: before there is any output, while a checkpoint is being carried to the
//! access point, and while it is being restored.

mod common;

use common::count::{Count, PATIENCE, commits, restores};
use common::job::Condition;
use common::pool::{Pool, on_both_series};

on_both_series!(
    vacated_before_any_output,
    vacated_while_uploading,
    vacated_while_restoring,
    vacated_while_restoring_what_the_spool_has_no_output_of,
);

const LOG: &str = "condor-criu.log";

/// Megabytes; an upload and a restore take long enough to be hit.
const HEAVY: usize = 100;

fn vacated_before_any_output(pool: &Pool) {
    // The payload makes its outputs only after its ballast.
    let count = Count::to(60).heavy(HEAVY).submit(pool);
    count.job.wait_for(Condition::Scratch(LOG, "the payload runs".into()), PATIENCE);
    let first = count.job.host();
    assert_eq!(count.vacated(), first.other());
    count.reaches(10);
    let records = count.ends_well();
    assert_eq!((commits(&records, "vacate"), restores(&records)), (1, 1), "{records:#?}");
}

fn vacated_while_uploading(pool: &Pool) {
    let count = Count::to(120).heavy(HEAVY).flags("--interval 3s").submit(pool);
    count.job.wait_for(Condition::Uploading, PATIENCE);
    count.job.vacate();
    count.job.wait_for(Condition::Starts(2), PATIENCE);
    count.ends_well();
}

fn vacated_while_restoring(pool: &Pool) {
    let count = Count::to(60).heavy(HEAVY).submit(pool);
    let first = count.reaches(10);
    count.job.vacate();
    for host in [first.other(), first] {
        count.job.wait_for(Condition::RunningOn(host), PATIENCE);
        count.job.vacate();
    }
    count.job.wait_for(Condition::RunningOn(first.other()), PATIENCE);
    count.ends_well();
}

fn vacated_while_restoring_what_the_spool_has_no_output_of(pool: &Pool) {
    let count = Count::to(120).heavy(HEAVY).flags("--interval 3s").submit(pool);
    count.job.wait_for(Condition::Uploads(1), PATIENCE);
    let first = count.job.host();
    count.job.vacate_fast();
    count.job.wait_for(Condition::RunningOn(first.other()), PATIENCE);
    count.job.vacate();
    count.job.wait_for(Condition::RunningOn(first), PATIENCE);
    count.ends_well();
}
