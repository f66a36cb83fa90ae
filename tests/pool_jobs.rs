//! The whole way of a job on the real pool: condor_submit as an ordinary user, checkpoints in place, evictions of every
//! kind that a user can cause, restores on the other host under another uid and another path, and the payload's own
//! end.

mod common;

use common::count::{Count, Counting, PATIENCE, commits, restores};
use common::job::Condition;
use common::pool::{Pool, on_both_series};

on_both_series!(
    periodic_checkpoints_in_place,
    vacated_there_and_back_again,
    held_and_released,
    vacated_fast_it_goes_on_from_the_last_periodic_checkpoint,
    death_by_a_signal,
    death_by_a_signal_after_a_restore,
    the_checkpoint_code_of_the_payload_itself,
    the_code_of_a_refusal_of_the_payload_itself,
);

fn periodic_checkpoints_in_place(pool: &Pool) {
    let count = Count::to(120).flags("--interval 2s").submit(pool);
    let records = count.ends_well();
    let taken = commits(&records, "interval");
    assert!(taken >= 3, "{records:#?}");
    assert_eq!(restores(&records), taken);
    assert_eq!(count.job.history().starts, 1);
}

fn vacated_there_and_back_again(pool: &Pool) {
    let count = Count::to(140).submit(pool);
    let first = count.reaches(15);
    assert_eq!(count.vacated(), first.other());
    count.reaches(40);
    assert_eq!(count.vacated(), first);
    count.reaches(65);
    assert_eq!(count.vacated(), first.other());
    count.reaches(90);
    let records = count.ends_well();
    assert_eq!((commits(&records, "vacate"), restores(&records)), (3, 3), "{records:#?}");
}

fn held_and_released(pool: &Pool) {
    let count = Count::to(100).submit(pool);
    let first = count.reaches(15);
    count.job.hold();
    count.job.wait_for(Condition::Held, PATIENCE);
    count.job.release();
    assert_eq!(count.reaches(50), first.other());
    let records = count.ends_well();
    assert_eq!((commits(&records, "vacate"), restores(&records)), (1, 1), "{records:#?}");
}

fn vacated_fast_it_goes_on_from_the_last_periodic_checkpoint(pool: &Pool) {
    let count = Count::to(140).flags("--interval 3s").submit(pool);
    count.job.wait_for(Condition::Uploads(1), PATIENCE);
    // Beyond the checkpoint, so that there is something to be done again.
    let first = count.reaches(45);
    count.job.vacate_fast();
    count.job.wait_for(Condition::Starts(2), PATIENCE);
    assert_eq!(count.job.host(), first.other());
    let records = count.ends_well();
    // What the log said after the last commit is lost with the first host.
    let taken = commits(&records, "interval");
    assert!(taken >= 2, "{records:#?}");
    assert_eq!((commits(&records, "vacate"), restores(&records)), (0, taken), "{records:#?}");
    assert_eq!(count.job.history().starts, 2);
}

fn death_by_a_signal(pool: &Pool) {
    let counts = ["SEGV", "KILL"].map(|signal| Count::to(5).ending(signal).submit(pool));
    for count in counts {
        assert_eq!(restores(&count.ends_well()), 0);
    }
}

fn death_by_a_signal_after_a_restore(pool: &Pool) {
    let counts = ["SEGV", "KILL"].map(|signal| Count::to(90).ending(signal).submit(pool));
    for count in &counts {
        count.reaches(10);
        count.job.vacate();
    }
    for count in counts {
        assert_eq!(restores(&count.ends_well()), 1);
    }
}

fn the_checkpoint_code_of_the_payload_itself(pool: &Pool) {
    let count = Count::to(5).ending("85").submit(pool);
    count.job.wait_for(Condition::Done, PATIENCE);
    count.output_is_whole();
    assert_eq!(count.job.history().exit_code, Some(1), "{}", count.log());
    assert!(count.log().contains("the payload's own exit code 85"), "{}", count.log());
}

fn the_code_of_a_refusal_of_the_payload_itself(pool: &Pool) {
    let warns = |count: &Counting<'_>| count.log().contains("the program's own exit code 75 means to on_exit_remove");
    // The line of the documentation tells it from a refusal; in any life of the job.
    let count = Count::to(90).ending("75").submit(pool);
    let first = count.reaches(10);
    assert_eq!(count.vacated(), first.other());
    count.ends_well();
    assert_eq!(count.job.history().ad["NumJobCompletions"].as_i64(), Some(1));
    assert!(!warns(&count), "{}", count.log());
    // A simpler one does not, and that is said.
    let count =
        Count::to(5).ending("75").with("on_exit_remove = ExitCode =!= 75 || NumJobCompletions > 1").submit(pool);
    count.ends_well();
    assert_eq!(count.job.history().ad["NumJobCompletions"].as_i64(), Some(2));
    assert!(warns(&count), "{}", count.log());
}
