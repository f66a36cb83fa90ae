//! Two generations on the real pool: when two hosts in a row cannot restore the newest, the job goes on from the one
//! before it.

mod common;

use common::count::{Count, PATIENCE, SUBMIT};
use common::job::Condition;
use common::pool::{Pool, Series, with_both_series};

with_both_series!(the_newest_cannot_be_restored_by_two_hosts);

/// The real criu, but for generation 2, which it restores nowhere.
const PICKY: &str = "#!/bin/sh\n\
    case \" $* \" in *' restore '*)\n\
        grep ' restoring ' /job/condor-criu.log | tail -n 1 | grep -q 'generation=2 ' && exit 1;;\n\
    esac\n\
    exec /opt/criu/lib/ld-linux-x86-64.so.2 --library-path /opt/criu/lib /opt/criu/criu \"$@\"\n";

fn the_newest_cannot_be_restored_by_two_hosts(series: Series) {
    let pool = &Pool::shared(series);
    assert!(SUBMIT.contains("transfer_checkpoint_files = criu-checkpoint.tar.zst,condor-criu.log"));
    let both = "transfer_checkpoint_files = \
                criu-checkpoint.tar.zst,criu-checkpoint.previous.tar.zst,condor-criu.log,results,sums,late";
    let count = Count::to(120).bringing_criu("picky-criu", PICKY).flags("--interval never --keep 2").with(both);
    let count = count.without_output_list().submit(pool);
    count.reaches(20);
    count.vacated();
    count.reaches(40);
    let starts = count.starts();
    count.job.vacate();
    // Two hosts fail, a third start goes on from generation 1.
    count.job.wait_for(Condition::Starts(starts + 3), PATIENCE);
    count.job.wait_for(Condition::Done, PATIENCE);
    let log = count.log();
    assert_eq!(count.job.history().exit_code, Some(42), "{log}");
    // Nothing of the two that failed is carried: that they did stands in the queue alone.
    assert!(log.contains("2 hosts in a row could not restore it; going on from the generation before it"), "{log}");
    count.output_is_whole();
    assert_eq!(count.job.read_bytes("criu-checkpoint.previous.tar.zst").len(), 0, "the checkpoint came back");
}
