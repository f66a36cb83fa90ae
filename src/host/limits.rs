//! Resource limits: what a payload has of them, and what this host gives.
//!
//! CRIU sets the limits that a process had. Only privilege raises a hard limit. Where the kernel refuses it, CRIU
//! leaves the process with the limits of the host, soft ones too, without a word. Measured with CRIU 4.2.1: open files,
//! file size, stack, locked memory, address space, processes, signals. So a lower hard limit is written into the images
//! on their way and said in the log; a limit below what the payload has in use is refused before anything is unpacked.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::procfs;

/// In the kernel's order, which is that of CRIU's images; the names of proc_pid_limits(5).
pub const NAMES: [&str; 16] = [
    "cpu time",
    "file size",
    "data size",
    "stack size",
    "core file size",
    "resident set",
    "processes",
    "open files",
    "locked memory",
    "address space",
    "file locks",
    "pending signals",
    "msgqueue size",
    "nice priority",
    "realtime priority",
    "realtime timeout",
];

/// Limits by name; `None` means unlimited.
pub type Hard = BTreeMap<String, Option<u64>>;

/// What the processes of a payload have.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// The highest hard limit of any process.
    pub hard: Hard,
    /// The most that a process has in use, where that can be seen and the kernel would refuse to restore more than the
    /// limit.
    pub used: BTreeMap<String, u64>,
}

/// The limits of the processes of `proc` (a mounted procfs), without its first, which is our init.
pub fn of_tree(proc: &Path) -> Limits {
    let mut limits = Limits::default();
    for (_, path) in procfs::processes(proc).filter(|(pid, _)| *pid != 1) {
        for (name, hard) in parse(&fs::read_to_string(path.join("limits")).unwrap_or_default()) {
            let highest = limits.hard.entry(name).or_insert(hard);
            *highest = highest.zip(hard).map(|(one, other)| one.max(other));
        }
        for (name, used) in used(&path) {
            let most = limits.used.entry(name.to_owned()).or_insert(0);
            *most = used.max(*most);
        }
    }
    limits
}

/// This process's hard limits: the payload gets no more.
pub fn here() -> Hard {
    parse(&fs::read_to_string("/proc/self/limits").unwrap_or_default())
}

/// proc_pid_limits(5): `Max open files            1024                 20000                files`.
fn parse(text: &str) -> Hard {
    let line = |line: &str| {
        let rest = line.strip_prefix("Max ")?;
        let name = NAMES.iter().find(|name| rest.starts_with(**name))?;
        let hard = rest[name.len()..].split_ascii_whitespace().nth(1)?;
        Some(((*name).to_owned(), if hard == "unlimited" { None } else { Some(hard.parse().ok()?) }))
    };
    text.lines().filter_map(line).collect()
}

/// What one process has in use.
fn used(process: &Path) -> Vec<(&'static str, u64)> {
    let status = procfs::text(&process.join("status"));
    // proc_pid_status(5): in kB.
    let bytes =
        |key: &str| procfs::value(&status, key)?.trim_end_matches("kB").trim().parse::<u64>().ok()?.checked_mul(1024);
    let descriptors = fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
    let highest = descriptors.filter_map(|entry| entry.file_name().to_str()?.parse::<u64>().ok()).max();
    let found = [
        ("open files", highest.map(|number| number + 1)),
        ("address space", bytes("VmSize")),
        ("locked memory", bytes("VmLck")),
    ];
    found.into_iter().filter_map(|(name, used)| Some((name, used?))).collect()
}

/// Why a host with the limits `here` cannot restore what has these in use, if so.
pub fn refusal(needed: &Limits, here: &Hard) -> Option<String> {
    let too_low = needed.used.iter().find_map(|(name, used)| {
        let hard = here.get(name).copied().flatten()?;
        (*used > hard).then_some((name, used, hard))
    });
    too_low.map(|(name, used, hard)| {
        format!("the checkpoint has {used} of \"{name}\" in use, and the hard limit for that is {hard} here")
    })
}

/// The hard limits that become lower on a host with the limits `here`, in words.
pub fn lowered(needed: &Limits, here: &Hard) -> Vec<String> {
    let lower = needed.hard.iter().filter_map(|(name, had)| {
        let hard = here.get(name).copied().flatten()?;
        let had = match had {
            Some(had) if *had <= hard => return None,
            Some(had) => had.to_string(),
            None => "unlimited".to_owned(),
        };
        Some(format!("the hard limit for \"{name}\" is {hard} here and was {had}"))
    });
    lower.collect()
}

/// `here` in the kernel's order, for the images.
pub fn in_order(here: &Hard) -> Vec<Option<u64>> {
    NAMES.iter().map(|name| here.get(*name).copied().flatten()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_s_limits_are_read() {
        let here = here();
        assert_eq!(here.len(), NAMES.len(), "{here:?}");
        let (_, hard) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).unwrap();
        assert_eq!(in_order(&here)[7], Some(hard));
    }

    #[test]
    fn what_is_in_use_must_fit_and_the_rest_is_lowered() {
        let hard = |files: Option<u64>| Hard::from([("open files".to_owned(), files)]);
        let needed = Limits { hard: hard(Some(20_000)), used: BTreeMap::from([("open files".to_owned(), 1500)]) };
        assert_eq!((refusal(&needed, &hard(Some(1500))), refusal(&needed, &hard(None))), (None, None));
        assert!(refusal(&needed, &hard(Some(1499))).unwrap().contains("1500 of \"open files\""));
        assert_eq!(lowered(&needed, &hard(Some(20_000))), Vec::<String>::new());
        assert_eq!(lowered(&needed, &hard(Some(4096))).len(), 1);
        let unlimited = Limits { hard: hard(None), ..needed };
        assert!(lowered(&unlimited, &hard(Some(4096)))[0].contains("4096 here and was unlimited"));
        assert_eq!(lowered(&unlimited, &hard(None)).len(), 0);
    }
}
