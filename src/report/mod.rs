//! `condor-criu report`: what happened to jobs, as one page. HTCondor's user logs are read ([`history`]), condor-criu's
//! own where they are ([`own_log`]); both become the same jobs ([`model`]), and those a page ([`page`]), which
//! `rehearse --report` writes too.

pub mod history;
pub mod model;
pub mod own_log;
pub mod page;
mod plot;
pub mod text;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use jiff::tz::TimeZone;

use crate::exit::{Exit, Failure};
use crate::htcondor::userlog::{self, Event, JobId};
use crate::journal;
use model::{Checkpoint, Job, Sums};
use page::About;

/// Bytes of a log of ours that are looked at to tell what it is.
const HEAD: u64 = 4096;

/// Writes the page about the jobs of these logs to `output`.
pub fn report(logs: &[PathBuf], output: &Path) -> Result<Exit, Failure> {
    let mut events: Vec<Event> = Vec::new();
    let mut seen = HashMap::new();
    let mut own = BTreeSet::new();
    for path in logs {
        let cannot = |error| Failure::start(format!("cannot read {}", path.display()), error).with_exit(Exit::Negative);
        if own_log::is_ours(&head(path).map_err(cannot)?) {
            own.insert(path.clone());
            continue;
        }
        let found = userlog::read(path, &TimeZone::system()).map_err(cannot)?;
        if found.is_empty() {
            return Err(Failure::start(
                format!("cannot use {}", path.display()),
                "there is no event of a user log in it",
            )
            .with_remedy(
                "name the file that `log =` in the submit file names, not in XML or JSON, or a condor-criu.log",
            )
            .with_exit(Exit::Negative));
        }
        events.extend(new_ones(found, &mut seen));
        // Where HTCondor puts it: beside the user log.
        own.extend(Some(path.with_file_name(journal::NAME)).filter(|path| path.is_file()));
    }
    // Within a second, the order of the logs counts.
    events.sort_by(|a, b| a.at.total_cmp(&b.at));
    let mut jobs = history::jobs(&events);
    add_checkpoints(&mut jobs, &own)?;
    let about = About { title: title(&jobs), words: told(&jobs), notes: NOTES.map(str::to_owned).into() };
    write(output, &page::page(&about, &jobs))?;
    let sums = Sums::of(&jobs);
    let ran = sums.counted + sums.lost;
    crate::say!(
        "{}: {} jobs, {} counted, {} lost, {} saved by checkpoints",
        output.display(),
        sums.jobs,
        text::cpu_time(sums.counted, ran),
        text::cpu_time(sums.lost, ran),
        text::cpu_time(sums.saved, ran)
    );
    Ok(Exit::Success)
}

/// Those events of one log that no log before it had: a job of a DAG writes to its own log and to the DAG's.
fn new_ones(found: Vec<Event>, seen: &mut HashMap<(JobId, u16, u64, String), usize>) -> Vec<Event> {
    let mut here = HashMap::new();
    let mut new = Vec::new();
    for event in found {
        let key = (event.job, event.code, event.at.to_bits(), event.text.clone());
        let count = here.entry(key.clone()).or_insert(0_usize);
        *count += 1;
        let before = seen.entry(key).or_default();
        if *count > *before {
            *before = *count;
            new.push(event);
        }
    }
    new
}

const NOTES: [&str; 3] = [
    "Counted: time in which a program ran and whose work was not lost. Lost: time from the beginning of the last upload that was finished, or \
     else from the start on that host, to an eviction. Saved: time before an eviction that such an upload has kept; without checkpoints it would be \
     lost too. Times of programs are multiplied with the cpus of their slots.",
    "A user log does not say what was uploaded: for jobs that are not checkpointed but send output home at an eviction, too little is shown as lost.",
    "Frozen times, sizes and ticks are from condor-criu.log; what a host wrote there after its last upload is not in it.",
];

fn head(path: &Path) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut std::io::Read::take(std::fs::File::open(path)?, HEAD), &mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn add_checkpoints(jobs: &mut [Job], logs: &BTreeSet<PathBuf>) -> Result<(), Failure> {
    let places: BTreeMap<String, usize> =
        jobs.iter().enumerate().map(|(number, job)| (job.name.clone(), number)).collect();
    let mut seen: BTreeSet<(usize, u64)> = BTreeSet::new();
    for path in logs {
        let text = std::fs::read(path).map_err(|error| {
            Failure::start(format!("cannot read {}", path.display()), error).with_exit(Exit::Negative)
        })?;
        let found: Vec<(String, Checkpoint)> = own_log::checkpoints(&String::from_utf8_lossy(&text));
        for (name, checkpoint) in found {
            let Some(&number) = places.get(&name) else { continue };
            // The same log may be beside several user logs.
            if seen.insert((number, checkpoint.at.to_bits())) {
                own_log::add(&mut jobs[number], checkpoint);
            }
        }
    }
    Ok(())
}

fn title(jobs: &[Job]) -> String {
    match jobs {
        [job] => format!("Job {}", job.name),
        _ => {
            let clusters = Sums::by_cluster(jobs);
            let shown: Vec<&str> = clusters.keys().take(3).map(String::as_str).collect();
            let more = if clusters.len() > 3 { ", …" } else { "" };
            let word = if clusters.len() == 1 { "Cluster" } else { "Clusters" };
            format!("{word} {}{more}: {} jobs", shown.join(", "), jobs.len())
        }
    }
}

/// The whole in one sentence.
fn told(jobs: &[Job]) -> Vec<String> {
    let sums = Sums::of(jobs);
    let ran = sums.counted + sums.lost;
    let mut words = format!(
        "{} of {} jobs have ended. Evictions: {}. Of all computing {} was lost",
        sums.done,
        sums.jobs,
        sums.evictions,
        text::percent(sums.lost, ran)
    );
    if sums.saved > 0.0 {
        let without = text::percent(sums.lost + sums.saved, ran);
        words.push_str(&format!("; without checkpoints it would have been {without}"));
    }
    words.push('.');
    vec![words]
}

/// Beside it, then renamed: a page is whole or what it was.
pub(crate) fn write(output: &Path, html: &str) -> Result<(), Failure> {
    let cannot = |error| Failure::start(format!("cannot write {}", output.display()), error).with_exit(Exit::Negative);
    let name = output.file_name().unwrap_or_default().to_string_lossy();
    let draft = output.with_file_name(format!(".{name}.part"));
    std::fs::write(&draft, html).map_err(cannot)?;
    std::fs::rename(&draft, output).map_err(cannot)
}
