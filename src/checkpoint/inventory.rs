//! What is in the scratch directory, and what of it a checkpoint must carry.
//!
//! Three kinds of file: HTCondor's and ours (never carried), inputs that the job was given and has not touched (not
//! carried, but named with their digest, because HTCondor brings them again), and everything else (carried).

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::manifest::Input;
use crate::sandbox::STATE_DIR;

/// Names at the top level that a starter makes; they belong to one host and are made anew on the next.
const HTCONDORS: [&str; 12] = [
    ".job.ad",
    ".machine.ad",
    ".update.ad",
    ".chirp.config",
    ".condor_creds",
    ".docker_sock",
    ".docker_stdout",
    ".docker_stderr",
    ".execution_overlay.ad",
    ".update.ad.tmp",
    "_condor_stdout",
    "_condor_stderr",
];
/// What is carried of our own directory: the payload's `/tmp` and `/var/tmp`.
const OURS_CARRIED: [&str; 2] = ["tmp", "vartmp"];

/// A file's state, by which a change is seen: every write moves the change time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

impl Stamp {
    fn of(metadata: &Metadata) -> Stamp {
        Stamp {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.len(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// Which entries of the scratch directory are not the payload's.
#[derive(Debug, Clone, Default)]
pub struct NotCarried {
    names: BTreeSet<PathBuf>,
}

impl NotCarried {
    /// HTCondor's names, our own (`ours`, relative to the scratch directory), and the standard streams.
    pub fn new<'a>(ours: impl IntoIterator<Item = &'a Path>) -> NotCarried {
        let names = HTCONDORS.iter().map(PathBuf::from).chain(ours.into_iter().map(Path::to_path_buf));
        NotCarried { names: names.collect() }
    }

    /// Whether the entry at this relative path, with all below it, stays out.
    fn excludes(&self, path: &Path) -> bool {
        if let Ok(below) = path.strip_prefix(STATE_DIR) {
            let mut parts = below.components();
            return match parts.next() {
                None => false,
                Some(first) => !OURS_CARRIED.iter().any(|name| first.as_os_str() == *name),
            };
        }
        self.names.contains(path)
    }

    /// Whether an entry that no checkpoint knows may be the host's own. Starters leave dot files of their own at the
    /// top level, and newer ones leave more.
    fn may_be_the_hosts(&self, path: &Path) -> bool {
        let top = path.components().count() == 1;
        self.excludes(path)
            || path == Path::new(STATE_DIR)
            || top && path.as_os_str().to_string_lossy().starts_with('.')
    }
}

/// Every entry of the scratch directory that is the payload's or an input, parents before their content.
///
/// # Errors
/// An entry that vanishes meanwhile is left out; another failure to read a directory is an error.
pub fn walk(scratch: &Path, not_carried: &NotCarried) -> io::Result<Vec<(PathBuf, Metadata)>> {
    let mut found = Vec::new();
    let mut open = vec![PathBuf::new()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(scratch.join(&directory))? {
            let entry = entry?;
            let path = directory.join(entry.file_name());
            if not_carried.excludes(&path) {
                continue;
            }
            let metadata = match entry.metadata() {
                Ok(metadata) => metadata,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            if metadata.is_dir() {
                open.push(path.clone());
            }
            found.push((path, metadata));
        }
    }
    found.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(found)
}

/// The inputs of a job, from its first start or from a checkpoint, with their digests as far as they are known.
#[derive(Debug, Default)]
pub struct Inputs {
    known: BTreeMap<PathBuf, (Stamp, Option<String>)>,
    /// Those whose digest is still to be read.
    pending: Vec<PathBuf>,
}

impl Inputs {
    /// At the first start everything that is there is an input.
    pub fn at_first_start(scratch: &Path, not_carried: &NotCarried) -> io::Result<Inputs> {
        let files = walk(scratch, not_carried)?.into_iter().filter(|(_, metadata)| metadata.is_file());
        let known: BTreeMap<_, _> = files.map(|(path, metadata)| (path, (Stamp::of(&metadata), None))).collect();
        Ok(Inputs { pending: known.keys().cloned().collect(), known })
    }

    /// After a restore the inputs are those that the checkpoint names, if they are what they were.
    ///
    /// # Errors
    /// What is wrong with the first one that is missing or differs.
    pub fn of_checkpoint(scratch: &Path, inputs: &[Input]) -> Result<Inputs, String> {
        let mut known = BTreeMap::new();
        for input in inputs {
            let path = scratch.join(&input.path);
            let shown = input.path.display();
            let metadata =
                path.symlink_metadata().map_err(|error| format!("the input file {shown} is missing: {error}"))?;
            if !metadata.is_file() {
                return Err(format!("the input file {shown} is no regular file"));
            }
            if metadata.len() != input.size {
                return Err(format!("the input file {shown} has {} bytes, not {}", metadata.len(), input.size));
            }
            match digest(&path) {
                Ok(found) if found == input.digest => {}
                Ok(_) => return Err(format!("the input file {shown} has another content")),
                Err(error) => return Err(format!("the input file {shown} cannot be read: {error}")),
            }
            known.insert(input.path.clone(), (Stamp::of(&metadata), Some(input.digest.clone())));
        }
        Ok(Inputs { known, pending: Vec::new() })
    }

    /// Reads one more input whose digest is not known yet; `false` when there is none. What changes meanwhile is no
    /// input any more.
    pub fn digest_one(&mut self, scratch: &Path) -> bool {
        let Some(path) = self.pending.pop() else { return false };
        let Some(stamp) = self.known.get(&path).map(|(stamp, _)| *stamp) else { return true };
        let full = scratch.join(&path);
        let found = digest(&full).ok();
        let unchanged = full.symlink_metadata().is_ok_and(|metadata| Stamp::of(&metadata) == stamp);
        match found {
            Some(found) if unchanged => drop(self.known.insert(path, (stamp, Some(found)))),
            _ => drop(self.known.remove(&path)),
        }
        true
    }

    /// The input at this path, if it is unchanged.
    pub fn unchanged(&self, path: &Path, metadata: &Metadata) -> Option<Input> {
        let (stamp, digest) = self.known.get(path)?;
        (*stamp == Stamp::of(metadata))
            .then(|| Some(Input { path: path.to_path_buf(), size: stamp.size, digest: digest.clone()? }))?
    }
}

fn digest(path: &Path) -> io::Result<String> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(File::open(path)?)?;
    Ok(hasher.finalize().to_hex().to_string())
}

/// Removes what neither the checkpoint (`carried`, `inputs`) nor HTCondor knows: it was written after the checkpoint, or
/// came back from the spool, which never forgets a file. Returns what was removed.
pub fn remove_unknown(
    scratch: &Path,
    not_carried: &NotCarried,
    carried: &BTreeSet<PathBuf>,
    inputs: &[Input],
) -> io::Result<Vec<PathBuf>> {
    let inputs: BTreeSet<&Path> = inputs.iter().map(|input| input.path.as_path()).collect();
    // Directories that hold an input may be ones that HTCondor made for it.
    let holders: HashSet<&Path> = inputs.iter().flat_map(|input| input.ancestors().skip(1)).collect();
    let mut removed: Vec<PathBuf> = Vec::new();
    for (path, metadata) in walk(scratch, not_carried)? {
        let known = carried.contains(&path) || inputs.contains(path.as_path());
        // Paths are in order, part by part: what is below a directory follows it at once.
        let gone = removed.last().is_some_and(|above| path.starts_with(above));
        let holds_input = metadata.is_dir() && holders.contains(path.as_path());
        if known || gone || holds_input || not_carried.may_be_the_hosts(&path) {
            continue;
        }
        let full = scratch.join(&path);
        if metadata.is_dir() {
            fs::remove_dir_all(&full)?
        } else {
            fs::remove_file(&full)?
        }
        removed.push(path);
    }
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changed_files_are_carried_and_unchanged_inputs_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir_all(at(".condor-criu/tmp")).unwrap();
        fs::create_dir_all(at(".condor-criu/work")).unwrap();
        for name in ["in", "changed", ".job.ad", "_condor_stdout", ".condor-criu/work/log", ".condor-criu/tmp/t", "log"]
        {
            fs::write(at(name), name).unwrap();
        }
        let not_carried = NotCarried::new([Path::new("log")]);
        let mut inputs = Inputs::at_first_start(dir.path(), &not_carried).unwrap();
        while inputs.digest_one(dir.path()) {}
        fs::write(at("changed"), "changed").unwrap();
        fs::write(at("new"), "new").unwrap();
        let walked = walk(dir.path(), &not_carried).unwrap();
        let names: Vec<&str> = walked.iter().map(|(path, _)| path.to_str().unwrap()).collect();
        assert_eq!(names, [".condor-criu", ".condor-criu/tmp", ".condor-criu/tmp/t", "changed", "in", "new"]);
        let unchanged: Vec<PathBuf> = walked
            .iter()
            .filter_map(|(path, metadata)| inputs.unchanged(path, metadata))
            .map(|input| input.path)
            .collect();
        assert_eq!(unchanged, [PathBuf::from(".condor-criu/tmp/t"), PathBuf::from("in")]);
    }

    #[test]
    fn what_came_after_the_checkpoint_is_removed_and_the_hosts_files_stay() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir_all(at("late/deep")).unwrap();
        fs::create_dir_all(at("given")).unwrap();
        for name in ["kept", "given/in", "late/deep/x", "late.txt", ".job.ad", ".some_new_starter_file"] {
            fs::write(at(name), name).unwrap();
        }
        let carried = BTreeSet::from([PathBuf::from("kept")]);
        let input = Input { path: "given/in".into(), size: 8, digest: String::new() };
        let removed = remove_unknown(dir.path(), &NotCarried::new([]), &carried, &[input]).unwrap();
        assert_eq!(removed, [PathBuf::from("late"), PathBuf::from("late.txt")]);
        assert!(at("kept").exists() && at("given/in").exists() && at(".some_new_starter_file").exists());
    }

    #[test]
    fn what_is_below_a_removed_directory_is_gone_whatever_sorts_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir_all(at("late/deep")).unwrap();
        // As text, "late-2" and "late.txt" stand between "late" and "late/deep".
        for name in ["late/deep/x", "late/y", "late-2", "late.txt", "later"] {
            fs::write(at(name), name).unwrap();
        }
        let removed = remove_unknown(dir.path(), &NotCarried::new([]), &BTreeSet::new(), &[]).unwrap();
        assert_eq!(removed, ["late", "late-2", "late.txt", "later"].map(PathBuf::from));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn an_input_with_another_content_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("in"), "abc").unwrap();
        let input = Input { path: "in".into(), size: 3, digest: blake3::hash(b"abc").to_hex().to_string() };
        assert!(Inputs::of_checkpoint(dir.path(), std::slice::from_ref(&input)).is_ok());
        fs::write(dir.path().join("in"), "abd").unwrap();
        let why = Inputs::of_checkpoint(dir.path(), &[input]).unwrap_err();
        assert!(why.contains("another content"), "{why}");
    }
}
