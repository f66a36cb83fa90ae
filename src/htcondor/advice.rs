//! What of a job ad would lose work, said at the job's start with the submit file line that is missing.

use std::time::Duration;

use super::job::ENDED_ATTEMPT;
use super::{ClassAd, Job};

/// `on_exit_remove` of a job under condor-criu: 75 sends it to another host, unless it is the program's own end, of
/// which the queue has just been told. HTCondor counts an end before it evaluates this (measured on 23.9 and 25.14).
pub const ON_EXIT_REMOVE: &str = "ExitCode =!= 75 || ChirpCriuEndedAttempt =?= NumJobCompletions - 1";

/// Seconds; HTCondor's default `MachineMaxVacateTime`, which ends a vacate however much the job asks for.
const MACHINE_VACATE_SECONDS: i64 = 600;

/// Each piece: what would be lost, and the line that cures it. `checkpoint` and `log` are our files' names, `last_dump`
/// what the last checkpoint took.
pub fn advice(job: &Job, checkpoint: &str, log: &str, last_dump: Option<Duration>) -> Vec<String> {
    let Some(ad) = &job.ad else { return Vec::new() };
    let mut found = Vec::new();
    let code = ad.integer("SuccessCheckpointExitCode");
    if code.is_none() {
        found.push("there are no periodic checkpoints: add checkpoint_exit_code = 85".to_owned());
    } else if ad.boolean("WantFTOnCheckpoint") != Some(true) {
        found.push(
            "HTCondor would take a checkpoint for the job's end, so there are none: add +WantFTOnCheckpoint = True"
                .to_owned(),
        );
    }
    if ad.string("WhenToTransferOutput").as_deref() != Some("ON_EXIT_OR_EVICT") {
        found.push(
            "an eviction loses everything since the last periodic checkpoint: add when_to_transfer_output = ON_EXIT_OR_EVICT"
                .to_owned(),
        );
    }
    let output = list(ad, "TransferOutput");
    let carried = list(ad, "TransferCheckpoint").or_else(|| output.clone());
    if code.is_some() && carried.as_ref().is_some_and(|names| !names.iter().any(|name| name == checkpoint)) {
        found
            .push(format!("a periodic checkpoint is not carried: add transfer_checkpoint_files = {checkpoint}, {log}"));
    }
    if output.is_some_and(|names| !names.iter().any(|name| name == checkpoint)) {
        found.push(format!("the checkpoint at an eviction is not carried: add {checkpoint} to transfer_output_files"));
    }
    found.extend(on_exit_remove(ad));
    if ad.expression("CheckpointDestination").is_some() {
        found.push(
            "the checkpoint at an eviction does not go to checkpoint_destination and is lost: leave it out".to_owned(),
        );
    }
    if let (Some(last), window) = (last_dump, vacate_window(job))
        && last > window
    {
        found.push(format!(
            "the last checkpoint took {} s and a vacate leaves {} s: add job_max_vacate_time = {}",
            last.as_secs(),
            window.as_secs(),
            last.as_secs() * 2 + 30
        ));
    }
    found
}

/// What is missing for `keep = 2`: a previous generation that is not carried is none.
pub fn previous_not_carried(job: &Job, previous: &str) -> Option<String> {
    let ad = job.ad.as_ref()?;
    let lists = [("TransferOutput", "transfer_output_files"), ("TransferCheckpoint", "transfer_checkpoint_files")];
    let lacks = |name: &str| list(ad, name).is_some_and(|names| !names.iter().any(|name| name == previous));
    let found: Vec<&str> = lists.into_iter().filter(|(name, _)| lacks(name)).map(|(_, command)| command).collect();
    (!found.is_empty()).then(|| {
        format!("keep = 2, but the second generation is not carried: add {previous} to {}", found.join(" and "))
    })
}

/// What `on_exit_remove` lacks. From `max_retries` submit makes `NumJobCompletions > JobMaxRetries || ExitCode =?= 0`,
/// and joins a line of the user's by another "or" (seen with 23.9 and 25.14).
fn on_exit_remove(ad: &ClassAd) -> Option<String> {
    let expression = ad.expression("OnExitRemove").unwrap_or_default();
    let knows_75 = expression.contains("75");
    let retries = ad.integer("JobMaxRetries").filter(|_| expression.contains("JobMaxRetries"));
    let Some(retries) = retries else {
        return (!knows_75).then(|| {
            format!(
                "a host that cannot restore the checkpoint would end the job: add on_exit_remove = {ON_EXIT_REMOVE}"
            )
        });
    };
    let wrong = if knows_75 {
        "HTCondor joins max_retries and on_exit_remove by \"or\", so that nothing is ever retried"
    } else {
        "a host that cannot restore the checkpoint uses up one of max_retries"
    };
    let success = ad.integer("JobSuccessExitCode").unwrap_or(0);
    Some(format!(
        "{wrong}: leave max_retries out and write on_exit_remove = ({ON_EXIT_REMOVE}) && (ExitCode =?= {success} || \
         NumJobCompletions > {retries})"
    ))
}

/// Whether the job ad's `on_exit_remove` would take the program's own exit code for our 75 and run the job again, for
/// ever.
pub fn takes_for_ours(job: &Job, code: u8) -> bool {
    let expression = job.ad.as_ref().and_then(|ad| ad.expression("OnExitRemove"));
    code == 75 && expression.is_some_and(|text| text.contains("75") && !text.contains(ENDED_ATTEMPT))
}

/// How long a vacate leaves: the smaller of what job and machine allow.
pub fn vacate_window(job: &Job) -> Duration {
    let machine =
        job.machine.as_ref().and_then(|ad| ad.integer("MachineMaxVacateTime")).unwrap_or(MACHINE_VACATE_SECONDS);
    let asked = job.ad.as_ref().and_then(|ad| ad.integer("JobMaxVacateTime")).unwrap_or(machine);
    Duration::from_secs(u64::try_from(machine.min(asked)).unwrap_or(0))
}

/// A transfer list; `None` if it is not set, which is not the same as empty.
pub fn list(ad: &ClassAd, name: &str) -> Option<Vec<String>> {
    let text = ad.string(name)?;
    Some(text.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str, last: Option<u64>) -> Vec<String> {
        let job = Job { scratch: "/".into(), ad: Some(ClassAd::parse(text)), machine: None };
        advice(&job, "cp", "log", last.map(Duration::from_secs))
    }

    #[test]
    fn a_good_ad_gets_no_advice() {
        let good = "SuccessCheckpointExitCode = 85\nWantFTOnCheckpoint = true\nWhenToTransferOutput = \"ON_EXIT_OR_EVICT\"\n\
                    TransferCheckpoint = \"cp,log\"\nTransferOutput = \"cp, log, out\"\nJobMaxVacateTime = 60\n\
                    OnExitRemove = ExitCode =!= 75";
        assert!(of(good, Some(30)).is_empty(), "{:?}", of(good, Some(30)));
        assert!(of(good, Some(90))[0].contains("job_max_vacate_time = 210"));
    }

    #[test]
    fn a_second_generation_that_stays_behind_is_told() {
        let told = |ad: &str| {
            let job = Job { scratch: "/".into(), ad: Some(ClassAd::parse(ad)), machine: None };
            previous_not_carried(&job, "old")
        };
        assert_eq!(told("TransferCheckpoint = \"cp, old\""), None);
        let text = told("TransferCheckpoint = \"cp, log\"\nTransferOutput = \"cp\"").unwrap();
        assert!(text.contains("add old to transfer_output_files and transfer_checkpoint_files"), "{text}");
    }

    #[test]
    fn each_loss_is_named_with_its_cure() {
        let found = of("TransferOutput = \"out\"\nCheckpointDestination = \"x\"", None).join("\n");
        for cure in ["checkpoint_exit_code = 85", "ON_EXIT_OR_EVICT", "add cp to transfer_output_files", "leave it out"]
        {
            assert!(found.contains(cure), "{cure}: {found}");
        }
        let found = of("SuccessCheckpointExitCode = 85\nTransferCheckpoint = \"other\"", None).join("\n");
        assert!(
            found.contains("transfer_checkpoint_files = cp, log") && found.contains("+WantFTOnCheckpoint"),
            "{found}"
        );
    }

    #[test]
    fn retries_are_joined_as_submit_cannot() {
        let of = |text: &str| on_exit_remove(&ClassAd::parse(text));
        let submits = "JobMaxRetries = 2\nOnExitRemove = NumJobCompletions > JobMaxRetries || ExitCode =?= 0";
        let line = format!("on_exit_remove = ({ON_EXIT_REMOVE}) && (ExitCode =?= 0 || NumJobCompletions > 2)");
        let alone = of(submits).unwrap();
        assert!(alone.contains("uses up one") && alone.ends_with(&line), "{alone}");
        let joined = of(&format!("{submits} || ExitCode =!= 75")).unwrap();
        assert!(joined.contains("nothing is ever retried") && joined.ends_with(&line), "{joined}");
        assert!(of("OnExitRemove = true").unwrap().ends_with(ON_EXIT_REMOVE));
        assert_eq!(of(&format!("OnExitRemove = {ON_EXIT_REMOVE}")), None);
        // What is advised is not advised again.
        assert_eq!(of(&line.replace("on_exit_remove", "OnExitRemove")), None);
    }

    #[test]
    fn a_75_of_the_program_is_told_from_ours_by_the_line_that_we_advise() {
        let taken = |code: u8, expression: &str| {
            let ad = Some(ClassAd::parse(&format!("OnExitRemove = {expression}")));
            takes_for_ours(&Job { scratch: "/".into(), ad, machine: None }, code)
        };
        assert!(taken(75, "ExitCode =!= 75") && !taken(3, "ExitCode =!= 75"));
        assert!(!taken(75, ON_EXIT_REMOVE) && !taken(75, "true"));
    }
}
