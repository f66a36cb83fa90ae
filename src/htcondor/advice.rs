//! What of a job ad would lose work, said at the job's start with the submit file line that is missing.

use std::time::Duration;

use super::{ClassAd, Job};

/// Seconds; HTCondor's default `MachineMaxVacateTime`, which ends a vacate however much the job asks for.
const MACHINE_VACATE_SECONDS: i64 = 600;

/// Each piece: what would be lost, and the line that cures it. `checkpoint` and `log` are our files' names, `last_dump` what the
/// last checkpoint took.
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
    if !ad.expression("OnExitRemove").is_some_and(|expression| expression.contains("75")) {
        found.push(
            "a host that cannot restore the checkpoint would end the job: add on_exit_remove = ExitCode =!= 75"
                .to_owned(),
        );
    }
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
                    TransferCheckpoint = \"cp,log\"\nTransferOutput = \"cp, log, out\"\nJobMaxVacateTime = 60\nOnExitRemove = ExitCode =!= 75";
        assert!(of(good, Some(30)).is_empty(), "{:?}", of(good, Some(30)));
        assert!(of(good, Some(90))[0].contains("job_max_vacate_time = 210"));
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
}
