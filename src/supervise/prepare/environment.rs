//! The payload's environment: what the job was given, with every path that names this host's scratch directory
//! replaced by the one that is the same on all hosts.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

/// What makes the dynamic linker bind all symbols at the start. Bound lazily, its resolver saves registers into an area
/// whose size it read from the processor of the first host, and crashes on one with more registers
/// (docs/measurements.md, "Processors").
const BIND_NOW: &str = "LD_BIND_NOW";
/// Where programs put temporary files.
const TEMPORARY: [&str; 3] = ["TMPDIR", "TMP", "TEMP"];
/// Our own settings are not the payload's.
const OURS: &str = "CONDOR_CRIU_";
/// By these variables HTCondor's procd finds processes that have left their family. They name daemons of this host by
/// pid and start time. Daemons of another host may have the same ones; glideins in containers that started in the same
/// second do. There the procd would kill the payload together with somebody else's job. The sandbox lets nothing leave.
const ANCESTORS: &str = "_CONDOR_ANCESTOR_";

/// The payload's environment. `scratch` are the names of the scratch directory on this host (with and without symbolic
/// links), `job_dir` its name inside, `directory` the payload's working directory inside.
pub fn payload(
    given: impl Iterator<Item = (OsString, OsString)>,
    scratch: &[&Path],
    job_dir: &Path,
    directory: &Path,
) -> Vec<(OsString, OsString)> {
    let mut environment: Vec<(OsString, OsString)> = given
        .filter(|(name, _)| [OURS, ANCESTORS].iter().all(|prefix| !name.as_bytes().starts_with(prefix.as_bytes())))
        .map(|(name, value)| {
            let value = scratch.iter().fold(value, |value, path| replace(&value, path, job_dir));
            (name, value)
        })
        .collect();
    for name in TEMPORARY {
        set_if(&mut environment, name, OsStr::new("/tmp"), name == "TMPDIR");
    }
    set_if(&mut environment, "PWD", directory.as_os_str(), true);
    if !environment.iter().any(|(name, _)| name == BIND_NOW) {
        environment.push((BIND_NOW.into(), "1".into()));
    }
    environment
}

/// Sets a variable that is there, or also one that is not if `always`.
fn set_if(environment: &mut Vec<(OsString, OsString)>, name: &str, value: &OsStr, always: bool) {
    match environment.iter_mut().find(|(known, _)| known == name) {
        Some((_, old)) => *old = value.to_os_string(),
        None if always => environment.push((name.into(), value.to_os_string())),
        None => {}
    }
}

/// Every occurrence of the path `from` in `value` that ends at the end of a path component.
fn replace(value: &OsStr, from: &Path, to: &Path) -> OsString {
    let (value, from, to) = (value.as_bytes(), from.as_os_str().as_bytes(), to.as_os_str().as_bytes());
    // The root, or nothing, is no place that could be meant.
    if from.len() < 2 {
        return OsString::from_vec(value.to_vec());
    }
    let mut result = Vec::with_capacity(value.len());
    let mut at = 0;
    while at < value.len() {
        let rest = &value[at..];
        let ends_well =
            |next: Option<&u8>| next.is_none_or(|byte| !byte.is_ascii_alphanumeric() && !b"_-.".contains(byte));
        let begins_well = at == 0 || !(value[at - 1].is_ascii_alphanumeric() || b"_-./".contains(&value[at - 1]));
        if begins_well && rest.starts_with(from) && ends_well(rest.get(from.len())) {
            result.extend_from_slice(to);
            at += from.len();
        } else {
            result.push(value[at]);
            at += 1;
        }
    }
    OsString::from_vec(result)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_in_the_scratch_directory_become_those_of_the_sandbox() {
        let given = [
            ("_CONDOR_SCRATCH_DIR", "/ex/dir_7"),
            ("_CONDOR_JOB_AD", "/ex/dir_7/.job.ad"),
            ("LIBS", "/ex/dir_7/lib:/ex/dir_77/lib:/opt/ex/dir_7:/ex/dir_7"),
            ("CONDOR_CRIU_INTERVAL", "1h"),
            ("_CONDOR_ANCESTOR_47", "65:1795448801:1676757279"),
            ("TMPDIR", "/somewhere"),
            ("TEMP", "/ex/dir_7"),
        ];
        let given = given.into_iter().map(|(name, value)| (name.into(), value.into()));
        let found = payload(given, &[Path::new("/ex/dir_7")], Path::new("/job"), Path::new("/job/sub"));
        let get = |name: &str| found.iter().find(|(known, _)| known == name).map(|(_, value)| value.to_str().unwrap());
        assert_eq!(get("_CONDOR_SCRATCH_DIR"), Some("/job"));
        assert_eq!(get("_CONDOR_JOB_AD"), Some("/job/.job.ad"));
        assert_eq!(get("LIBS"), Some("/job/lib:/ex/dir_77/lib:/opt/ex/dir_7:/job"));
        assert_eq!(get("CONDOR_CRIU_INTERVAL"), None);
        assert_eq!(get("_CONDOR_ANCESTOR_47"), None);
        assert_eq!(get("TMPDIR"), Some("/tmp"));
        assert_eq!(get("TEMP"), Some("/tmp"));
        assert_eq!(get("TMP"), None);
        assert_eq!(get("PWD"), Some("/job/sub"));
        assert_eq!(get("LD_BIND_NOW"), Some("1"));
    }
}
