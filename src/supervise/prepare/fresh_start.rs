//! A start from the beginning, without what the spool still holds of an earlier attempt. There are two reasons for it.
//! A policy (`max_retries`) runs the job again after its own end, and HTCondor would start a job without checkpoints
//! so. Or the user has said so of a checkpoint that cannot be restored.

use std::collections::BTreeSet;
use std::io;
use std::path::{Component, Path, PathBuf};

use crate::checkpoint::Place;
use crate::checkpoint::tree::Tree;
use crate::exit::Failure;
use crate::htcondor::advice::list;
use crate::htcondor::{ClassAd, Job};
use crate::journal;
use crate::supervise::work::checkpoint_file::WORK;
use crate::supervise::work::open_beneath;
use crate::supervise::work::stdio::Stream;
use crate::supervise::work::unpack::Opened;

/// Directories that a starter makes and binds to the job's `/tmp` and `/var/tmp` (docs/measurements.md, "A job's
/// directories").
const HTCONDORS: [&str; 3] = ["tmp", "var", "var/tmp"];

/// Empties the checkpoint and the streams, and removes what the earlier attempt is known to have written: what `before`
/// carries, and what the job's output lists name. Inputs stay; one that was changed in place is what HTCondor has
/// brought.
pub fn begin(
    job: &Job,
    place: &Place,
    before: Option<&Opened>,
    streams: &[Stream; 3],
    why: &str,
) -> Result<(), Failure> {
    tracing::warn!(attempt = job.attempt(), "{why}: from the beginning");
    let removed = clear(job, place, before, streams).map_err(|error| {
        Failure::start("cannot start from the beginning", error)
            .with_remedy("what an earlier attempt left in the scratch directory must be removable")
    })?;
    if let Some(first) = removed.first() {
        tracing::info!(count = removed.len(), first = %first.display(), "removed what the earlier attempt had written");
    }
    Ok(())
}

fn clear(job: &Job, place: &Place, before: Option<&Opened>, streams: &[Stream; 3]) -> io::Result<Vec<PathBuf>> {
    let written = before.map(|opened| {
        let names = opened.reader.members().map(|member| member.name.as_path());
        names.filter_map(|name| name.strip_prefix(WORK).ok()).map(Path::to_path_buf).collect()
    });
    let inputs = before.map_or(&[][..], |opened| opened.manifest.inputs.as_slice());
    let keep = inputs.iter().map(|input| input.path.clone()).collect();
    let ours = place.files().filter_map(Path::file_name).map(Path::new);
    let removed = remove(job, written.unwrap_or_default(), keep, ours.clone())?;
    for name in ours {
        open_beneath::empty(&job.scratch, name)?;
    }
    for stream in &streams[1..] {
        if let Stream::File(path) = stream {
            open_beneath::empty(&job.scratch, path)?;
        }
    }
    Ok(removed)
}

/// Removes those of `written` and of the output lists that are no inputs. `keep` are inputs beside those that the ad
/// names, `ours` the checkpoints.
fn remove<'a>(
    job: &Job,
    written: Vec<PathBuf>,
    mut keep: BTreeSet<PathBuf>,
    ours: impl Iterator<Item = &'a Path>,
) -> io::Result<Vec<PathBuf>> {
    let empty = ClassAd::default();
    let ad = job.ad.as_ref().unwrap_or(&empty);
    let named = inputs(ad);
    // Which of the written files were inputs that have been changed cannot be told then.
    let mut gone = if named.is_some() { written } else { Vec::new() };
    keep.extend(named.unwrap_or_default());
    keep.insert(PathBuf::from(journal::NAME));
    keep.extend(ours.map(Path::to_path_buf));
    let outputs = ["TransferOutput", "TransferCheckpoint"].into_iter().filter_map(|name| list(ad, name)).flatten();
    let listed: BTreeSet<PathBuf> = outputs.filter_map(|output| below(Path::new(&output))).collect();
    gone.extend(listed.iter().cloned());
    gone.retain(|path| !path.as_os_str().is_empty() && !HTCONDORS.iter().any(|place| path == Path::new(place)));
    // What is in a directory comes before it.
    gone.sort_by(|a, b| b.cmp(a));
    gone.dedup();
    let mut removed: Vec<PathBuf> = Vec::new();
    let mut tree = Tree::open(&job.scratch)?;
    for path in gone {
        let Ok(Some(found)) = tree.stat(&path) else { continue };
        if keep.iter().any(|kept| kept.starts_with(&path) || path.starts_with(kept)) {
            continue;
        }
        if !found.is_dir() || listed.contains(&path) {
            tree.remove(&path)?;
        } else if let Err(error) = tree.remove_empty(&path) {
            // With something in it that nobody is known to have written.
            tracing::debug!("{} stays: {error}", path.display());
            continue;
        }
        removed.push(path);
    }
    Ok(removed)
}

/// What the ad says that HTCondor brings, by its place in the scratch directory; `None` if the ad does not tell: the
/// content of a directory (`dir/`), or files with other names here.
fn inputs(ad: &ClassAd) -> Option<BTreeSet<PathBuf>> {
    let entries = list(ad, "TransferInput").unwrap_or_default();
    if ad.expression("TransferInputRemaps").is_some() || entries.iter().any(|entry| entry.ends_with('/')) {
        return None;
    }
    let more = ["Cmd", "In", "x509userproxy", "ContainerImage"].into_iter().filter_map(|name| ad.string(name));
    let mut found = BTreeSet::from([PathBuf::from("condor_exec.exe")]);
    for entry in entries.into_iter().chain(more) {
        let path = Path::new(&entry);
        found.extend(path.file_name().map(PathBuf::from));
        // With preserve_relative_paths
        found.extend(below(path));
    }
    Some(found)
}

/// The path, if it is one below the scratch directory.
fn below(path: &Path) -> Option<PathBuf> {
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => clean.push(name),
            Component::CurDir => {}
            _ => return None,
        }
    }
    Some(clean)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn left(ad: &str, written: &[&str]) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir_all(at("results/deep")).unwrap();
        fs::create_dir_all(at("data")).unwrap();
        fs::create_dir(at("tmp")).unwrap();
        for name in
            ["results/deep/out", "data/in", "changed", "scratch", "tmp/x", "cp", "condor-criu.log", "condor_exec.exe"]
        {
            fs::write(at(name), name).unwrap();
        }
        let job = Job { scratch: dir.path().into(), ad: Some(ClassAd::parse(ad)), machine: None };
        let written = written.iter().map(PathBuf::from).collect();
        remove(&job, written, BTreeSet::new(), std::iter::once(Path::new("cp"))).unwrap();
        let names =
            ["results", "data/in", "changed", "scratch", "tmp", "tmp/x", "cp", "condor-criu.log", "condor_exec.exe"];
        names.iter().filter(|name| at(name).exists()).map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn what_was_written_goes_and_what_was_given_stays() {
        let written = ["results", "results/deep/out", "changed", "scratch", "data", "tmp", "tmp/x", "condor_exec.exe"];
        let ad =
            "TransferInput = \"/home/me/changed,data/in\"\nTransferOutput = \"results, cp, condor-criu.log, ../x, /\"";
        assert_eq!(left(ad, &written), ["data/in", "changed", "tmp", "cp", "condor-criu.log", "condor_exec.exe"]);
        // A directory's content: which of these are inputs is not known.
        let ad = "TransferInput = \"given/\"\nTransferOutput = \"results\"";
        assert_eq!(
            left(ad, &written),
            ["data/in", "changed", "scratch", "tmp", "tmp/x", "cp", "condor-criu.log", "condor_exec.exe"]
        );
    }
}
