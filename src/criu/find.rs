//! Which criu is used: the first of those places that has one, and only if its version is one that works.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use thiserror::Error;

use super::bundle;
use super::executable::{Criu, LOADER, OLDEST, Version, number};

/// Debian and others install criu in sbin, which is in no job's PATH; a job of HTCondor may have no PATH at all.
const MORE_PLACES: [&str; 4] = ["/usr/local/sbin", "/usr/sbin", "/usr/local/bin", "/usr/bin"];

/// Why there is no criu.
#[derive(Debug, Error)]
pub enum FindError {
    /// Named by the user, but not there.
    #[error("there is no criu at {0}")]
    NotThere(PathBuf),
    /// Nowhere.
    #[error("no criu was found beside condor-criu, in the scratch directory or in PATH")]
    Nowhere,
    /// It does not run.
    #[error("{path} does not run: {why}")]
    DoesNotRun {
        /// which one
        path: PathBuf,
        /// what happened
        why: String,
    },
    /// Too old.
    #[error(
        "{path} is CRIU {version}; versions before {OLDEST} cannot dump without privilege or do not start on kernels from 6.13"
    )]
    TooOld {
        /// which one
        path: PathBuf,
        /// what it says
        version: Version,
    },
}

impl FindError {
    /// What the user can do.
    pub fn remedy(&self) -> &'static str {
        "install CRIU 4.2, or name one with --criu or CONDOR_CRIU_CRIU (a file, or a folder with criu and lib/), or put such a folder `criu` beside condor-criu"
    }
}

/// Finds criu. `named` is what the user asked for; `scratch` may hold a transferred folder `criu`; what this executable
/// carries is unpacked to `unpacked`, which must not exist.
pub fn find(named: Option<&Path>, scratch: &Path, unpacked: &Path) -> Result<Criu, FindError> {
    if let Some(named) = named {
        // A relative name in a submit file means the scratch directory, where HTCondor puts what it transfers.
        let path = if named.is_relative() && !named.exists() { scratch.join(named) } else { named.to_path_buf() };
        let found = candidate(&path).ok_or(FindError::NotThere(path))?;
        return probe(found.0, found.1);
    }
    let carried = bundle::unpack(unpacked).map_err(|error| FindError::DoesNotRun {
        path: unpacked.to_path_buf(),
        why: format!("it cannot be unpacked: {error}"),
    })?;
    if let Some(carried) = carried {
        return probe(carried, "criu".into());
    }
    let beside = env::current_exe().ok().and_then(|exe| exe.parent().map(Path::to_path_buf));
    let path = env::var_os("PATH").unwrap_or_default();
    let places = [Some(scratch.to_path_buf()), beside].into_iter().flatten();
    let places = places.chain(env::split_paths(&path)).chain(MORE_PLACES.iter().map(PathBuf::from));
    for place in places.filter(|place| place.is_absolute()) {
        if let Some(found) = candidate(&place.join("criu")) {
            return probe(found.0, found.1);
        }
    }
    Err(FindError::Nowhere)
}

/// `path` as folder and name, if it is criu's executable or a folder that holds it.
fn candidate(path: &Path) -> Option<(PathBuf, OsString)> {
    let path = path.canonicalize().ok()?;
    let file = if path.is_dir() { path.join("criu") } else { path };
    if file.is_file() { Some((file.parent()?.to_path_buf(), file.file_name()?.to_os_string())) } else { None }
}

fn probe(directory: PathBuf, name: OsString) -> Result<Criu, FindError> {
    let mut criu = Criu { bundled: directory.join(LOADER).is_file(), directory, name, version: OLDEST };
    let path = criu.directory.join(&criu.name);
    let refuse = |why: String| FindError::DoesNotRun { path: path.clone(), why };
    let words = criu.command(&criu.directory);
    let output = Command::new(&words[0])
        .args(&words[1..])
        .arg("--version")
        .stdin(Stdio::null())
        .output()
        .map_err(|error| refuse(error.to_string()))?;
    let said = String::from_utf8_lossy(&output.stdout);
    criu.version = parse_version(&said).ok_or_else(|| {
        let error = String::from_utf8_lossy(&output.stderr);
        let line = error.lines().chain(said.lines()).next().unwrap_or("it says nothing");
        refuse(format!("--version says: {line}"))
    })?;
    if criu.version < OLDEST {
        return Err(FindError::TooOld { path, version: criu.version });
    }
    Ok(criu)
}

/// The number in `Version: 4.2.1`.
fn parse_version(text: &str) -> Option<Version> {
    number(text.lines().find_map(|line| line.trim().strip_prefix("Version:"))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::criu::executable::TESTED;

    #[test]
    fn versions_are_read_and_compared() {
        assert_eq!(parse_version("Version: 4.2.1\nGitID: x\n"), Some(Version(4, 2, 1)));
        assert_eq!(parse_version("Version: 4.2\n"), Some(Version(4, 2, 0)));
        assert_eq!(parse_version("Version: 3.17.1\n"), Some(Version(3, 17, 1)));
        assert_eq!(parse_version("no"), None);
        assert!(Version(3, 17, 1) < OLDEST && Version(4, 2, 0) >= TESTED && Version(4, 10, 0) > TESTED);
    }
}
