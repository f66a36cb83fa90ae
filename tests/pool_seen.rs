//! What a user sees of a job with `condor_q` and in the user log while it runs, on the real pool: whether it is safe,
//! since when, and what is wrong.

mod common;

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use common::count::{Count, PATIENCE, SUBMIT};
use common::job::{Condition, File, Job};
use common::pool::{Pool, on_both_series};
use serde_json::Value;

on_both_series!(
    whether_it_is_safe_and_since_when,
    an_ad_that_would_lose_work,
    a_line_in_the_user_log,
    a_program_that_cannot_be_saved,
);

/// HTCondor's starter sends delayed attributes after 8 s, and the shadow passes them on with its next update.
const SEEN: Duration = Duration::from_secs(60);

/// Waits until the ad in the queue is so, and returns it.
#[track_caller]
fn ad_with(job: &Job<'_>, what: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + SEEN;
    loop {
        let ad = job.queued().unwrap_or_else(|| panic!("job {} is not in the queue any more", job.id()));
        if what(&ad) {
            return ad;
        }
        let chirped = ad.as_object().into_iter().flatten().filter(|(name, _)| name.starts_with("Chirp"));
        assert!(Instant::now() < deadline, "job {} has only {:#?}", job.id(), chirped.collect::<Vec<_>>());
        std::thread::sleep(Duration::from_millis(500));
    }
}

fn warns(ad: &Value, text: &str) -> bool {
    ad["ChirpCriuWarning"].as_str().is_some_and(|warning| warning.contains(text))
}

fn whether_it_is_safe_and_since_when(pool: &Pool) {
    let count = Count::to(2000).flags("--interval 3s").submit(pool);
    count.job.wait_for(Condition::Uploads(1), PATIENCE);
    let ad = ad_with(&count.job, |ad| ad["ChirpCriuGeneration"].as_i64() >= Some(1));
    let state = ad["ChirpCriuState"].as_str().unwrap_or_default();
    assert!(["running", "saving", "saved", "restoring"].contains(&state), "{state}");
    assert!(ad["ChirpCriuCheckpointBytes"].as_i64() > Some(100_000), "{}", ad["ChirpCriuCheckpointBytes"]);
    let frozen = ad["ChirpCriuFrozenSeconds"].as_f64();
    assert!(frozen.is_some_and(|seconds| seconds > 0.0 && seconds < 60.0), "{frozen:?}");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    let age = ad["ChirpCriuLastCheckpointTime"].as_u64().and_then(|time| now.checked_sub(time));
    assert!(age.is_some_and(|seconds| seconds < 180), "{age:?}");
    let microarch = ad["ChirpCriuMicroarch"].as_str().unwrap_or_default();
    assert!(microarch.starts_with("x86_64-v"), "{microarch:?}");
    // An ad that is in order gets no advice.
    assert_eq!(ad["ChirpCriuWarning"], Value::Null);
}

fn an_ad_that_would_lose_work(pool: &Pool) {
    let count = Count::to(2000).without_output_list().with("transfer_output_files = sums,late").submit(pool);
    ad_with(&count.job, |ad| warns(ad, "add criu-checkpoint.tar.zst to transfer_output_files"));
}

fn a_line_in_the_user_log(pool: &Pool) {
    let count = Count::to(120).flags("--interval 3s").with("want_io_proxy = True").submit(pool);
    count.ends_well();
    let events = count.job.events();
    let line = events.iter().find(|event| event.code == 8 && event.text.contains("condor-criu: checkpoint 1 of "));
    assert!(line.is_some(), "{events:#?}\n{}", count.log());
}

fn a_program_that_cannot_be_saved(pool: &Pool) {
    const STEPS: usize = 600;
    let text = format!(
        "{SUBMIT}arguments = run --criu /opt/criu --interval 2s -- ./unsavable {STEPS} 0.1\n\
         transfer_input_files = unsavable\n\
         transfer_output_files = counted,state,criu-checkpoint.tar.zst,condor-criu.log\n"
    );
    let job = pool.submit(&text, &[File::program("unsavable", include_str!("payloads/unsavable"))]);
    // Before the first dump has failed, or after it: the words differ, not what they say.
    let said = |ad: &Value| ["cannot be saved: ", "mapped", " deleted"].iter().all(|word| warns(ad, word));
    let ad = ad_with(&job, said);
    assert!(warns(&ad, "keep the file while it is mapped"), "{}", ad["ChirpCriuWarning"]);
    let first = job.host();
    job.vacate();
    job.wait_for(Condition::Starts(2), PATIENCE);
    assert_eq!(job.host(), first.other());
    job.wait_for(Condition::Done, PATIENCE);

    let log = job.read("condor-criu.log");
    let counted: String = (1..=STEPS).map(|step| format!("step {}\n", step % 256)).collect();
    assert_eq!((job.read("counted"), job.history().exit_code), (counted, Some(42)), "{log}");
    // Its own way of saving itself was used.
    assert!(log.contains("passing the signal on") && !job.read("state").is_empty(), "{log}");
}
