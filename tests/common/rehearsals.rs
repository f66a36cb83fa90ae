//! The workload suite at random moments: rounds over all rows, several rows at a time, since most of them wait most of
//! the time. One that fails does not end the others; all of them are told in the end, each with what it takes to do it
//! again.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on stops")]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::random::{Random, number};
use super::workload::Workload;

const ROUNDS: usize = 50;
const EVICTIONS: usize = 3;
/// Rows at a time, on two processors.
const WORKERS: usize = 6;
/// The rows run for five to ten seconds, so that three of these come before the end of nearly all.
const SHORTEST: Duration = Duration::from_millis(20);
const LONGEST: Duration = Duration::from_millis(2500);

fn moment(random: &mut Random) -> Duration {
    SHORTEST + Duration::from_millis(random.below(LONGEST.as_millis() as u64))
}

/// All rows, so many times; panics in the end if one has failed.
pub fn rehearse(rows: &[&(&str, Workload)]) {
    let seed = number("CONDOR_CRIU_SEED")
        .unwrap_or_else(|| SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs()));
    let rounds = number("CONDOR_CRIU_REHEARSALS").map_or(ROUNDS, |rounds| rounds as usize);
    eprintln!("{rounds} rehearsals of {} rows; CONDOR_CRIU_SEED={seed}", rows.len());
    let [next, evictions, refused] = [const { AtomicUsize::new(0) }; 3];
    let failed = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    if at >= rounds * rows.len() {
                        return;
                    }
                    let (name, row) = rows[at % rows.len()];
                    let mut random = Random::of(seed, at as u64);
                    let moments: Vec<Duration> = (0..EVICTIONS).map(|_| moment(&mut random)).collect();
                    let told = format!("round {}, {name}, at {moments:?}", at / rows.len());
                    let mut say = |why: &str| {
                        eprintln!("refused: {told}: {why}");
                        refused.fetch_add(1, Ordering::Relaxed);
                    };
                    if at % rows.len() == 0 {
                        eprintln!("round {} begins", at / rows.len());
                    }
                    match catch_unwind(AssertUnwindSafe(|| row.rehearse(&moments, &mut say))) {
                        Ok(number) => drop(evictions.fetch_add(number, Ordering::Relaxed)),
                        Err(why) => {
                            let why = why.downcast::<String>().map_or_else(|_| "a panic".to_owned(), |why| *why);
                            eprintln!("FAILED: {told}: {why}");
                            failed.lock().unwrap().push(told);
                        }
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    eprintln!(
        "{} evictions; {} failed, {} restores refused",
        evictions.into_inner(),
        failed.len(),
        refused.into_inner()
    );
    assert!(failed.is_empty(), "CONDOR_CRIU_SEED={seed}\n{}", failed.join("\n"));
}
