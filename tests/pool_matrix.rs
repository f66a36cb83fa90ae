//! Every way in which an execution point can lose a job, at every moment that matters, on both kinds of execution
//! point: each event hits one job six times in a row, while it runs, while its checkpoint is on the way to the access
//! point and while it is being restored, on ep1 and on ep2. Each time the job goes on from the newest checkpoint that
//! the access point has.
//!
//! The moments are made long enough to be hit: the network is slow, and so is the criu that the job brings.

mod common;

use std::thread::sleep;
use std::time::{Duration, Instant};

use condor_criu::journal::Record;

use common::count::{Count, Counting, PATIENCE, commits};
use common::job::{Condition, State};
use common::pool::{Host, Pool, Series, long_with_both_series};

long_with_both_series!(
    vacated_and_held,
    switched_off_gracefully,
    switched_off_fast,
    the_pilot_is_told_to_end,
    all_processes_are_killed,
    the_host_dies,
    the_cable_is_out_for_half_a_minute,
    the_cable_is_out_for_longer_than_the_lease,
);

/// Longer than a lease, and than all timeouts of the pool together.
const LONG_PATIENCE: Duration = Duration::from_secs(400);

/// The rest of the steps, on a busy machine.
const TO_THE_END: Duration = Duration::from_secs(600);

/// The real criu, which takes 6 s longer for a restore.
const SLOW_CRIU: &str = "#!/bin/sh\n\
    case \" $* \" in *' restore '*) sleep 6;; esac\n\
    exec /opt/criu/lib/ld-linux-x86-64.so.2 --library-path /opt/criu/lib /opt/criu/criu \"$@\"\n";

/// Megabytes that cannot be compressed; with the network below, which is slow in one direction, an upload takes four
/// seconds.
const HEAVY: usize = 150;
const NETWORK: &str = "tc qdisc replace dev eth0 root tbf rate 300mbit burst 1mb latency 50ms";

/// When an event comes.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Moment {
    Running,
    Uploading,
    Restoring,
}

/// Every moment on every host; an event moves the job to the other host.
const LEGS: [(Host, Moment); 6] = [
    (Host::Ep1, Moment::Uploading),
    (Host::Ep2, Moment::Restoring),
    (Host::Ep1, Moment::Running),
    (Host::Ep2, Moment::Uploading),
    (Host::Ep1, Moment::Restoring),
    (Host::Ep2, Moment::Running),
];

/// What happens to the job or to its host.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Event {
    Vacate,
    Hold,
    Off(&'static str),
    Term,
    KillAll,
    Death,
    /// Out for 30 s, with a lease of 120; then the job is vacated, to get it to the other host.
    ShortCut,
    LongCut,
}

impl Event {
    /// Whether the job gets the chance to save what it has.
    fn is_graceful(self) -> bool {
        matches!(self, Event::Vacate | Event::Hold | Event::Off("-graceful") | Event::Term)
    }

    /// Whether an upload that it hits is cut off; otherwise HTCondor may finish it first.
    fn cuts_uploads(self) -> bool {
        matches!(self, Event::KillAll | Event::Death | Event::LongCut)
    }

    fn lease(self) -> &'static str {
        match self {
            Event::KillAll | Event::Death | Event::LongCut => "job_lease_duration = 30",
            Event::ShortCut => "job_lease_duration = 120",
            _ => "",
        }
    }

    /// Makes it happen.
    #[track_caller]
    fn hits(self, pool: &Pool, host: Host, count: &Counting<'_>) {
        match self {
            Event::Vacate => count.job.vacate(),
            Event::Hold => {
                count.job.hold();
                count.job.wait_for(Condition::Held, PATIENCE);
                count.job.release();
            }
            Event::Off(how) => {
                pool.ask(host, administrator(host), &["condor_off", "-startd", how]);
            }
            Event::Term => {
                pool.ask(host, "root", &["pkill", "-TERM", "-x", "condor_master"]);
            }
            Event::KillAll => {
                // Everything but the host's own pid 1 and this.
                pool.exec(host, "root", &["sh", "-c", "kill -9 -1"]);
            }
            Event::Death => pool.kill(host),
            Event::ShortCut => {
                pool.cable_out(host);
                sleep(Duration::from_secs(30));
                pool.cable_in(host);
                // It must not have gone anywhere else in between.
                let there = |job: &common::job::Job<'_>| matches!(job.state(), State::Running(_));
                let deadline = Instant::now() + LONG_PATIENCE;
                while !there(&count.job) && Instant::now() < deadline {
                    sleep(Duration::from_millis(200));
                }
                if count.job.state() == State::Running(host) {
                    count.job.vacate();
                }
            }
            Event::LongCut => pool.cable_out(host),
        }
    }

    /// Makes the host usable again, when the job is on the other one.
    #[track_caller]
    fn is_over(self, pool: &Pool, host: Host) {
        match self {
            Event::Vacate | Event::Hold | Event::ShortCut => return,
            Event::Off(_) => drop(pool.ask(host, administrator(host), &["condor_on", "-startd"])),
            Event::Term | Event::KillAll => {
                pool.kill(host);
                pool.start(host);
            }
            Event::Death => pool.start(host),
            // The job may still be alive at the other end, and must not disturb the one that goes on.
            Event::LongCut => pool.cable_in(host),
        }
        slow_network(pool, host);
    }
}

fn vacated_and_held(series: Series) {
    chain(series, &[Event::Vacate, Event::Hold]);
}

fn switched_off_gracefully(series: Series) {
    chain(series, &[Event::Off("-graceful")]);
}

fn switched_off_fast(series: Series) {
    chain(series, &[Event::Off("-fast")]);
}

fn the_pilot_is_told_to_end(series: Series) {
    chain(series, &[Event::Term]);
}

fn all_processes_are_killed(series: Series) {
    chain(series, &[Event::KillAll]);
}

fn the_host_dies(series: Series) {
    chain(series, &[Event::Death]);
}

fn the_cable_is_out_for_half_a_minute(series: Series) {
    chain(series, &[Event::ShortCut]);
}

fn the_cable_is_out_for_longer_than_the_lease(series: Series) {
    chain(series, &[Event::LongCut]);
}

/// Each event at each moment on each host, in one life of one job.
fn chain(series: Series, events: &[Event]) {
    let pool = &Pool::up(series);
    for host in [Host::Ep1, Host::Ep2] {
        slow_network(pool, host);
    }
    // So many steps that it does not end before the last event; with the cable out for half a minute it runs on.
    let steps = if events.contains(&Event::ShortCut) { 1500 } else { 500 * events.len() };
    let count = Count::to(steps)
        .heavy(HEAVY)
        .bringing_criu("slow-criu", SLOW_CRIU)
        .with(events.iter().map(|event| event.lease()).find(|line| !line.is_empty()).unwrap_or_default())
        .flags("")
        .with("+CriuInterval = \"4s\"")
        .first_on(Host::Ep1)
        .submit(pool);
    // So that there is something to go on from.
    count.job.wait_for(Condition::Uploads(1), PATIENCE);
    let mut down = None;
    for event in events {
        for (host, moment) in LEGS {
            let leg = format!("{event:?} while {moment:?} on {host}");
            eprintln!("{leg}");
            comes_to(&count, host, moment, &leg);
            let before = arrived(pool, &count);
            let saved = newest(&count.job.scratch(host, "condor-criu.log").unwrap_or_default());
            if (event, (host, moment)) == (&events[events.len() - 1], LEGS[LEGS.len() - 1]) {
                // From its next start on, so that the rest takes no longer than it must.
                pool.ask(Host::Ap, "alice", &["condor_qedit", count.job.id(), "CriuInterval", "\"never\""]);
            }
            event.hits(pool, host, &count);
            if let Some(host) = down.take() {
                event.is_over(pool, host);
            }
            count.job.wait_for(Condition::RunningOn(host.other()), LONG_PATIENCE);
            let from = restored_from(&count, host.other(), &leg);
            let after = arrived(pool, &count);
            assert!(from >= before && before > 0, "{leg}: from {from}, and {before} had arrived\n{}", count.log());
            // Nothing but the restore has happened since: what the access point has is what there was to go on from.
            assert_eq!(from, after, "{leg}: the newest was not used\n{}", count.log());
            if event.cuts_uploads() && moment == Moment::Uploading {
                // Otherwise this leg would show nothing. (The user log does not tell: 25.14 calls an upload finished
                // that has been cut.)
                assert!(after < saved, "{leg}: generation {saved} had arrived before\n{:#?}", count.job.events());
            }
            if event.is_graceful() && moment == Moment::Running {
                assert!(from > before, "{leg}: the vacate's own checkpoint did not arrive\n{}", count.log());
            }
            match event {
                // Takes a while, and the job may be in the next moment already.
                Event::Term | Event::KillAll | Event::Death => down = Some(host),
                _ => event.is_over(pool, host),
            }
        }
    }
    count.job.wait_for(Condition::Done, TO_THE_END);
    let records = count.ends_well();
    let graceful = events.iter().any(|event| event.is_graceful());
    assert_eq!(commits(&records, "vacate") > 0, graceful, "{records:#?}");
    let began = count.log().lines().filter(|line| line.contains("the payload runs program")).count();
    assert_eq!(began, 1, "it began more than once\n{}", count.log());
}

/// Waits for the moment; panics if it is over.
#[track_caller]
fn comes_to(count: &Counting<'_>, host: Host, moment: Moment, leg: &str) {
    let deadline = Instant::now() + LONG_PATIENCE;
    loop {
        let state = count.job.state();
        assert!(state == State::Running(host), "{leg}: it is {state:?}\n{:#?}", count.job.events());
        let life = last_life(count, host);
        let restored = life.contains("the payload runs again");
        let is_there = match moment {
            // Just restored, or just uploaded.
            Moment::Running => restored && !count.job.is_uploading(),
            Moment::Uploading => count.job.is_uploading(),
            Moment::Restoring => life.contains("restoring generation=") && !restored,
        };
        if is_there {
            return;
        }
        let missed = moment == Moment::Restoring && restored;
        assert!(!missed && Instant::now() < deadline, "{leg}: the moment was missed\n{life}");
        sleep(Duration::from_millis(50));
    }
}

/// The generation that the job is being brought back from, as soon as its log says so.
#[track_caller]
fn restored_from(count: &Counting<'_>, host: Host, leg: &str) -> u64 {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let life = last_life(count, host);
        let number = life.split("restoring generation=").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok());
        if let Some(number) = number {
            return number;
        }
        assert!(!life.contains("the payload runs program"), "{leg}: it began from the beginning\n{life}");
        assert!(Instant::now() < deadline, "{leg}: no restore on {host}\n{life}");
        sleep(Duration::from_millis(50));
    }
}

/// What its log on the host says since its last start.
fn last_life(count: &Counting<'_>, host: Host) -> String {
    let log = count.job.scratch(host, "condor-criu.log").unwrap_or_default();
    log.rsplit("INFO starting").next().unwrap_or_default().to_owned()
}

/// The newest generation that the access point has; 0 if none. The log travels with the checkpoint.
fn arrived(pool: &Pool, count: &Counting<'_>) -> u64 {
    const FIND: &str = "cat /var/spool/condor/*/*/cluster\"$1\".proc0.subproc0/condor-criu.log";
    let found = pool.exec(Host::Ap, "root", &["sh", "-c", FIND, "sh", count.job.id()]);
    newest(&String::from_utf8_lossy(&found.stdout))
}

/// The last generation that this log has a commit of; 0 if none.
fn newest(log: &str) -> u64 {
    let mut committed = log.lines().filter_map(Record::parse).filter_map(|record| match record {
        Record::Committed { generation, .. } => Some(generation),
        _ => None,
    });
    committed.next_back().unwrap_or(0)
}

fn slow_network(pool: &Pool, host: Host) {
    pool.ask(host, "root", &["sh", "-c", NETWORK]);
}

/// Who gives HTCondor's commands to the master of an execution point: the access point forgets masters, which report
/// seldom.
fn administrator(host: Host) -> &'static str {
    if host == Host::Ep2 { "pilot" } else { "root" }
}
