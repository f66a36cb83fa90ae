//! What an administrator does to execution points, and many evictions, on real pools that are made for it.
//! `pool_matrix` has the events that no job survives in place.

mod common;

use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use common::count::{Count, PATIENCE, commits, restores};
use common::job::{Condition, State};
use common::pool::{Host, Pool, Series, with_both_series};

with_both_series!(
    execution_points_are_switched_off,
    the_pilot_is_told_to_end,
    the_startd_asks_for_checkpoints,
    a_claim_is_worn_out,
    the_pilot_s_end_is_known,
);

mod long {
    crate::common::pool::long_with_both_series!(ten_evictions_in_a_row, twenty_jobs_and_random_evictions);
    use super::{ten_evictions_in_a_row, twenty_jobs_and_random_evictions};
}

/// Longer than a lease, and than all timeouts of the pool together.
const LONG_PATIENCE: Duration = Duration::from_secs(400);

fn execution_points_are_switched_off(series: Series) {
    let pool = &Pool::up(series);
    let count = Count::to(260).flags("--interval 2s").first_on(Host::Ep1).submit(pool);
    let turns = [(Host::Ep1, "-graceful"), (Host::Ep2, "-fast"), (Host::Ep1, "-fast"), (Host::Ep2, "-graceful")];
    for (turn, (host, how)) in (1..).zip(turns) {
        assert_eq!(count.reaches(50 * turn), host);
        let starts = count.starts();
        condor(pool, host, &["condor_off", "-startd", how]);
        count.job.wait_for(Condition::Starts(starts + 1), PATIENCE);
        assert_eq!(count.job.host(), host.other());
        condor(pool, host, &["condor_on", "-startd"]);
    }
    let records = count.ends_well();
    // Two are graceful; one that comes while a periodic checkpoint is being taken leaves with that.
    assert!((1..=2).contains(&commits(&records, "vacate")), "{records:#?}");
}

fn the_pilot_is_told_to_end(series: Series) {
    let pool = &Pool::up(series);
    let count = Count::to(90).first_on(Host::Ep2).submit(pool);
    count.reaches(20);
    pool.ask(Host::Ep2, "root", &["pkill", "-TERM", "-x", "condor_master"]);
    count.job.wait_for(Condition::RunningOn(Host::Ep1), PATIENCE);
    let records = count.ends_well();
    assert_eq!((commits(&records, "vacate"), restores(&records)), (1, 1), "{records:#?}");
}

fn the_startd_asks_for_checkpoints(series: Series) {
    let pool = &Pool::up(series);
    for host in [Host::Ep1, Host::Ep2] {
        pool.configure(host, "PERIODIC_CHECKPOINT = (time() - LastPeriodicCheckpoint) > 4\n");
    }
    let lines = "+WantCheckpointSignal = True\n+CheckpointSig = \"SIGUSR1\"";
    let count = Count::to(180).with(lines).submit(pool);
    count.job.wait_for(Condition::Uploads(2), PATIENCE);
    count.job.vacate();
    count.job.wait_for(Condition::Starts(2), PATIENCE);
    let records = count.ends_well();
    assert!(commits(&records, "signal") >= 2, "{records:#?}\n{}", count.log());
}

fn a_claim_is_worn_out(series: Series) {
    let pool = &Pool::up(series);
    for host in [Host::Ep1, Host::Ep2] {
        pool.configure(host, "CLAIM_WORKLIFE = 5\n");
    }
    let count = Count::to(200).flags("--interval 8s").submit(pool);
    let records = count.ends_well();
    let taken = commits(&records, "interval");
    assert!(taken >= 2, "{records:#?}");
    assert_eq!(restores(&records), taken, "{records:#?}");
    let starts = count.starts();
    match series {
        // It always restarts a job in place.
        Series::V23 | Series::Workloads => assert_eq!(starts, 1, "{}", count.log()),
        Series::V25 | Series::Apptainer => assert_eq!(starts, taken + 1, "{}", count.log()),
    }
}

fn the_pilot_s_end_is_known(series: Series) {
    /// Before its first checkpoint a job is to leave a minute for the upload, and twice what a small one costs.
    const MARGIN: u64 = 64;
    let pool = &Pool::up(series);
    // Its first run is on the pilot, and no other: the pilot would take it back as gladly as ep1.
    let lines = "requirements = ifThenElse(NumJobStarts > 0, TARGET.Machine == \"ep1.pool\", \
                 TARGET.GLIDEIN_ToDie =!= undefined)";
    let count = Count::to(300).flags("--interval 1h --first-checkpoint never").with(lines).submit(pool);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    let attributes = "STARTD_ATTRS = $(STARTD_ATTRS) GLIDEIN_ToDie\n";
    pool.configure(Host::Ep2, &format!("GLIDEIN_ToDie = {}\n{attributes}", now + MARGIN + 15));
    count.job.wait_for(Condition::Uploads(1), PATIENCE);
    // The pilot's end itself leaves no time.
    count.job.vacate_fast();
    count.job.wait_for(Condition::RunningOn(Host::Ep1), PATIENCE);
    let records = count.ends_well();
    assert!(commits(&records, "deadline") >= 1 && restores(&records) >= 1, "{records:#?}");
    assert_eq!(commits(&records, "interval") + commits(&records, "vacate"), 0, "{records:#?}");
}

fn ten_evictions_in_a_row(series: Series) {
    let pool = &Pool::up(series);
    let count = Count::to(260).submit(pool);
    for turn in 1..=10 {
        count.reaches(20 * turn);
        count.job.vacate();
        count.job.wait_for(Condition::Starts(turn + 1), PATIENCE);
    }
    let records = count.ends_well();
    assert_eq!((commits(&records, "vacate"), restores(&records)), (10, 10), "{records:#?}");
}

fn twenty_jobs_and_random_evictions(series: Series) {
    let pool = &Pool::up(series);
    // Room for all of them on one host, for the time when the other one is avoided.
    for host in [Host::Ep1, Host::Ep2] {
        pool.configure(host, "NUM_CPUS = 24\n");
    }
    let counts: Vec<_> = (0..20).map(|_| Count::to(1500).flags("--interval 20s").submit(pool)).collect();
    let began = Instant::now();
    let mut seed = u64::from(std::process::id());
    let mut evictions = 0;
    while began.elapsed() < Duration::from_secs(300) {
        // Knuth's generator: nothing here deserves a dependency.
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let count = &counts[(seed >> 33) as usize % counts.len()];
        if let State::Running(_) = count.job.state() {
            if seed >> 62 == 0 {
                count.job.vacate_fast()
            } else {
                count.job.vacate()
            }
            evictions += 1;
        }
        sleep(Duration::from_secs(2));
    }
    assert!(evictions > 50, "only {evictions} evictions");
    for count in &counts {
        count.job.wait_for(Condition::Done, LONG_PATIENCE);
        count.ends_well();
    }
}

/// One of HTCondor's commands to the master of an execution point, as its administrator gives it there: the access
/// point forgets masters, which report seldom.
#[track_caller]
fn condor(pool: &Pool, host: Host, argv: &[&str]) {
    let administrator = if host == Host::Ep2 { "pilot" } else { "root" };
    pool.ask(host, administrator, argv);
}
