//! Which of the host's files travel with a checkpoint, and how those that the next host lacks get back: into the
//! sandbox alone.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use crate::checkpoint::archive::{ExtractOptions, extract};
use crate::exit::{Exit, Failure};
use crate::host::files::HostFile;
use crate::host::{files, namespaces};
use crate::settings::CarryFiles;
use crate::supervise::work::checkpoint_file::HOST;
use crate::supervise::work::unpack::Opened;

/// More files than this are no closure of a program but a mistake in a pattern.
const FILES_MAX: usize = 20_000;

/// The host's files that the processes of `proc` use, with those marked that are to be carried, and those that `carry`
/// names besides. `root` is the sandbox's root as this process reaches it.
pub fn choose(proc: &Path, root: &Path, job_dir: &Path, carry: &CarryFiles) -> Vec<HostFile> {
    let auto = carry.auto.unwrap_or_else(|| namespaces::container().is_none());
    let used = files::used(proc, job_dir);
    let mut chosen = Vec::new();
    for path in &used {
        match files::describe(root, path) {
            Ok(mut file) => {
                file.carried = auto && files::may_be_carried(root, &file);
                chosen.push(file);
            }
            Err(error) => tracing::debug!("{}: {error}", path.display()),
        }
    }
    let more: BTreeSet<PathBuf> = carry.patterns.iter().flat_map(|pattern| matching(root, pattern)).collect();
    for path in more.difference(&used) {
        if let Ok(file) = files::describe(root, path) {
            chosen.push(HostFile { carried: true, ..file });
        }
    }
    for file in chosen.iter_mut().filter(|file| more.contains(&file.path)) {
        file.carried = true;
    }
    if chosen.len() > FILES_MAX {
        tracing::warn!("carry_files names more than {FILES_MAX} files; the rest stays behind");
        chosen.truncate(FILES_MAX);
    }
    chosen
}

/// What a pattern names, as the payload sees it.
fn matching(root: &Path, pattern: &str) -> Vec<PathBuf> {
    let full = files::below(root, Path::new(pattern));
    let Ok(found) = glob::glob(&full.to_string_lossy()) else { return Vec::new() };
    let inner = |path: PathBuf| Some(Path::new("/").join(path.strip_prefix(root).ok()?));
    found.flatten().filter_map(inner).take(FILES_MAX + 1).collect()
}

/// Puts the host's files of a checkpoint that this host lacks into the new directory `into`; returns their paths as the
/// payload will see them. None of them is put anywhere else.
///
/// # Errors
/// This host lacks one that is not carried.
pub fn unpack(opened: &Opened, into: &Path, threads: usize) -> Result<Vec<PathBuf>, Failure> {
    let here = |why: String| {
        Failure::start("cannot restore on this host", why)
            .with_remedy(
                "the checkpoint is intact; let the job run where the same system is installed, or start jobs with carry_files = \"auto\"",
            )
            .with_exit(Exit::CannotRestoreHere)
    };
    let mut lacking = Vec::new();
    for file in &opened.manifest.files {
        let Some(how) = files::difference(file) else { continue };
        if !file.carried {
            return Err(here(format!("the checkpoint needs {}, {how}", file.path.display())));
        }
        lacking.push(file.path.clone());
    }
    if lacking.is_empty() {
        return Ok(lacking);
    }
    tracing::info!(count = lacking.len(), first = %lacking[0].display(), "this host lacks files that the checkpoint brings");
    let cannot = |error: &dyn std::fmt::Display| {
        here(format!("the files that the checkpoint brings cannot be unpacked: {error}"))
    };
    fs::create_dir(into).map_err(|error| cannot(&error))?;
    let directory = File::open(into).map_err(|error| cannot(&error))?;
    let options = ExtractOptions { threads, ..ExtractOptions::default() };
    extract(&opened.reader, HOST, directory.as_fd(), &options).map_err(|error| cannot(&error))?;
    Ok(lacking)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_name_what_the_payload_sees() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("usr/lib/deep")).unwrap();
        for name in ["usr/lib/a.py", "usr/lib/deep/b.py", "usr/lib/c.txt"] {
            fs::write(dir.path().join(name), "x").unwrap();
        }
        let found = matching(dir.path(), "/usr/lib/**/*.py");
        assert_eq!(found, [PathBuf::from("/usr/lib/a.py"), PathBuf::from("/usr/lib/deep/b.py")]);
        let carry = CarryFiles { auto: Some(false), patterns: vec!["/usr/lib/*.txt".into()] };
        let chosen = choose(Path::new("/nonexistent"), dir.path(), Path::new("/job"), &carry);
        assert_eq!(chosen.len(), 1);
        assert!(chosen[0].carried && chosen[0].path == Path::new("/usr/lib/c.txt") && chosen[0].size == 1);
    }
}
