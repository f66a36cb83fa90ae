//! Evictions at bad moments, on the real pool: before there is any output, while a checkpoint is being carried to the
//! access point, while it is being restored, and with less time than a checkpoint needs.

mod common;

use common::count::{Count, Counting, PATIENCE, commits, restores};
use common::job::Condition;
use common::pool::{Pool, on_both_series};

on_both_series!(
    vacated_before_any_output,
    vacated_while_uploading,
    vacated_while_restoring,
    vacated_while_restoring_what_the_spool_has_no_output_of,
    vacated_with_no_time_for_compression,
    vacated_with_no_time_for_a_checkpoint,
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

/// The real criu, for whose restore as much time goes by as for a long upload.
const SLOW_RESTORE: &str = "#!/bin/sh\n\
    case \" $* \" in *' restore '*) sleep 8;; esac\n\
    exec /opt/criu/lib/ld-linux-x86-64.so.2 --library-path /opt/criu/lib /opt/criu/criu \"$@\"\n";

/// The real criu, slow at saving.
const SLOW_DUMP: &str = "#!/bin/sh\n\
    case \" $* \" in *' dump '*) sleep 6;; esac\n\
    exec /opt/criu/lib/ld-linux-x86-64.so.2 --library-path /opt/criu/lib /opt/criu/criu \"$@\"\n";

/// One periodic checkpoint, from which it is known what the next one takes; then a vacate.
fn vacated_after_the_first_checkpoint<'p>(pool: &'p Pool, count: Count) -> Counting<'p> {
    let count = count.submit(pool);
    count.job.wait_for(Condition::Uploads(1), PATIENCE);
    count.job.wait_for(Condition::Scratch(LOG, "the payload runs again generation=1".into()), PATIENCE);
    let first = count.job.host();
    assert_eq!(count.vacated(), first.other());
    count
}

fn vacated_with_no_time_for_compression(pool: &Pool) {
    let count = Count::to(150)
        .bringing_criu("slow-criu", SLOW_RESTORE)
        .flags("--first-checkpoint 2s --interval 1h --compression zstd:19")
        .with("job_max_vacate_time = 4");
    let count = vacated_after_the_first_checkpoint(pool, count);
    let records = count.ends_well();
    let log = count.log();
    assert!(log.contains("a vacate leaves 4 s: saving with less compression"), "{log}");
    assert_eq!((commits(&records, "interval"), commits(&records, "vacate"), restores(&records)), (1, 1, 2), "{log}");
}

fn vacated_with_no_time_for_a_checkpoint(pool: &Pool) {
    // It runs on until the dump really begins.
    let count = Count::to(200)
        .bringing_criu("slow-criu", SLOW_DUMP)
        .flags("--first-checkpoint 2s --interval 1h --compression none")
        .with("job_max_vacate_time = 3");
    let count = vacated_after_the_first_checkpoint(pool, count);
    let records = count.ends_well();
    let log = count.log();
    // It left by itself, in time: had it been killed, this line would not have been carried.
    assert!(log.contains("s more than the 3 s that a vacate leaves: generation 1 stands"), "{log}");
    assert_eq!((commits(&records, "interval"), commits(&records, "vacate"), restores(&records)), (1, 0, 2), "{log}");
}
