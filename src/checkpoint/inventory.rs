//! What is in the scratch directory, and what of it a checkpoint must carry.
//!
//! Three kinds of file: HTCondor's and ours (never carried), inputs that the job was given and has not touched (not
//! carried, but named with their digest, because HTCondor brings them again), and everything else (carried).

use std::collections::{BTreeSet, HashSet};
use std::io;
use std::path::{Path, PathBuf};

use super::manifest::Input;
use super::tree::{Entry, Tree};
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
    pub fn excludes(&self, path: &Path) -> bool {
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
pub fn walk(scratch: &mut Tree, not_carried: &NotCarried) -> io::Result<Vec<Entry>> {
    scratch.walk(|path| not_carried.excludes(path))
}

/// The same as far as nothing is closed, while the payload runs.
pub fn look(scratch: &mut Tree, not_carried: &NotCarried) -> io::Result<Vec<Entry>> {
    scratch.look(|path| not_carried.excludes(path))
}

/// Removes what neither the checkpoint (`carried`, `inputs`) nor HTCondor knows: it was written after the checkpoint,
/// or came back from the spool, which never forgets a file. `gone` are hidden files that the payload had removed.
/// Returns what was removed.
pub fn remove_unknown(
    scratch: &Path,
    not_carried: &NotCarried,
    carried: &BTreeSet<PathBuf>,
    inputs: &[Input],
    gone: &BTreeSet<PathBuf>,
) -> io::Result<Vec<PathBuf>> {
    let inputs: BTreeSet<&Path> = inputs.iter().map(|input| input.path.as_path()).collect();
    // Directories that hold an input may be ones that HTCondor made for it.
    let holders: HashSet<&Path> = inputs.iter().flat_map(|input| input.ancestors().skip(1)).collect();
    let mut tree = Tree::open(scratch)?;
    let mut removed: Vec<PathBuf> = Vec::new();
    for Entry { path, stat } in walk(&mut tree, not_carried)? {
        let known = carried.contains(&path) || inputs.contains(path.as_path());
        // Paths are in order, part by part: what is below a directory follows it at once.
        let already = removed.last().is_some_and(|above| path.starts_with(above));
        let holds_input = stat.is_dir() && holders.contains(path.as_path());
        let hosts = not_carried.may_be_the_hosts(&path) && !gone.contains(&path);
        if known || already || holds_input || hosts {
            continue;
        }
        tree.remove(&path)?;
        removed.push(path);
    }
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::Inputs;
    use crate::checkpoint::given::Clock;
    use std::fs;

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
        let mut tree = Tree::open(dir.path()).unwrap();
        let walked = walk(&mut tree, &not_carried).unwrap();
        let names: Vec<&str> = walked.iter().map(|entry| entry.path.to_str().unwrap()).collect();
        assert_eq!(names, [".condor-criu", ".condor-criu/tmp", ".condor-criu/tmp/t", "changed", "in", "new"]);
        let unchanged: Vec<PathBuf> = walked
            .iter()
            .filter_map(|entry| inputs.unchanged(&tree, entry, Clock::Tells))
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
        for name in ["kept", "given/in", "late/deep/x", "late.txt", ".job.ad", ".some_new_starter_file", ".gone"] {
            fs::write(at(name), name).unwrap();
        }
        let carried = BTreeSet::from([PathBuf::from("kept")]);
        let input = Input { path: "given/in".into(), size: 8, digest: String::new() };
        let gone = BTreeSet::from([PathBuf::from(".gone")]);
        let removed = remove_unknown(dir.path(), &NotCarried::new([]), &carried, &[input], &gone).unwrap();
        assert_eq!(removed, [".gone", "late", "late.txt"].map(PathBuf::from));
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
        let removed =
            remove_unknown(dir.path(), &NotCarried::new([]), &BTreeSet::new(), &[], &BTreeSet::new()).unwrap();
        assert_eq!(removed, ["late", "late-2", "late.txt", "later"].map(PathBuf::from));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
