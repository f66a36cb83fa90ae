//! Whether what criu has saved is the whole payload, and can come back. It is looked at while criu holds the tree: what
//! is wrong now would be wrong in the checkpoint.

use std::path::Path;

use super::sessions::{self, Member};
use crate::procfs::{self, Stat};

/// Why a checkpoint of this moment must not be committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unfit {
    /// CRIU 4.2.1 would wait for ever at the restore: a child of the reaper has ended, and the reaper has not waited
    /// for it yet. It does as soon as it goes on.
    NotReaped(i32),
    /// A process has ended with an exit code that CRIU 4.2.1 would bring back without its highest bit, and its parent
    /// has not waited for it yet.
    LateCode {
        /// Its pid in the sandbox.
        pid: i32,
        /// Its exit code.
        code: i32,
    },
    /// A process of the payload does not belong to the tree that is saved: the checkpoint would be without it.
    LeftOut {
        /// Its pid in the sandbox.
        pid: i32,
        /// Its name.
        name: String,
    },
    /// A process is in a session that CRIU would not find a way to.
    LostSession {
        /// Its pid in the sandbox.
        pid: i32,
        /// Its name.
        name: String,
    },
}

impl Unfit {
    /// Whether it is otherwise as soon as the tree goes on.
    pub fn passes(&self) -> bool {
        matches!(self, Unfit::NotReaped(_) | Unfit::LateCode { .. })
    }
}

impl std::fmt::Display for Unfit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Unfit::NotReaped(pid) => {
                write!(f, "a process ended in the very moment of the checkpoint (process {pid})")
            }
            Unfit::LateCode { pid, code } => write!(
                f,
                "process {pid} has ended with exit code {code}, its parent has not waited for it yet, and CRIU brings such codes back only \
                 up to 127"
            ),
            Unfit::LeftOut { pid, name } => {
                write!(f, "process {pid} ({name}) has left the payload's tree, and the checkpoint would be without it")
            }
            Unfit::LostSession { pid, name } => write!(
                f,
                "process {pid} ({name}) is in the session of a process that has ended, and its parent has left that session: CRIU cannot bring \
                 it back there; what to do: let the process that calls setsid do that before it starts others"
            ),
        }
    }
}

/// Looks at every process in `proc`, the sandbox's, whose first process is the init. `root` is the root of the tree
/// that criu saves.
pub(super) fn look(proc: &Path, root: i32) -> Option<Unfit> {
    let processes: Vec<(i32, Stat)> =
        procfs::processes(proc).filter_map(|(pid, path)| Some((pid.cast_signed(), Stat::read(&path)?))).collect();
    let unreaped = processes.iter().find(|(_, process)| process.state == 'Z' && process.parent == root);
    if let Some((pid, _)) = unreaped {
        return Some(Unfit::NotReaped(*pid));
    }
    let late =
        |(_, process): &&(i32, Stat)| process.state == 'Z' && process.parent != 1 && process.exit_code >> 8 > 127;
    if let Some((pid, process)) = processes.iter().find(late) {
        return Some(Unfit::LateCode { pid: *pid, code: process.exit_code >> 8 });
    }
    // What has ended is the init's to reap. criu traces the tree, and may have been started by a script.
    let mut criu = tracer(proc, root);
    let parent = |pid: i32| processes.iter().find(|process| process.0 == pid).map(|process| process.1.parent);
    while let Some(above) = criu.and_then(parent).filter(|above| *above > 1) {
        criu = Some(above);
    }
    let ours = |(pid, process): &&(i32, Stat)| {
        process.parent == 1 && *pid != root && process.state != 'Z' && Some(*pid) != criu
    };
    if let Some((pid, process)) = processes.iter().find(ours) {
        return Some(Unfit::LeftOut { pid: *pid, name: process.name.clone() });
    }
    let members = processes.iter().filter(|(pid, process)| process.parent != 1 || *pid == root);
    let members = members.map(|(pid, process)| Member { pid: *pid, parent: process.parent, session: process.session });
    let lost = sessions::lost(root, &members.collect::<Vec<_>>())?;
    let name = processes.iter().find(|(pid, _)| *pid == lost).map(|(_, process)| process.name.clone());
    Some(Unfit::LostSession { pid: lost, name: name.unwrap_or_default() })
}

/// proc_pid_status(5), TracerPid: whoever holds this process.
pub(super) fn tracer(proc: &Path, pid: i32) -> Option<i32> {
    procfs::field(&proc.join(pid.to_string()).join("status"), "TracerPid")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn who_is_outside_the_tree_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let add = |pid: i32, name: &str, state: char, parent: i32| {
            let place = dir.path().join(pid.to_string());
            fs::create_dir_all(&place).unwrap();
            fs::write(place.join("stat"), format!("{pid} ({name}) {state} {parent} 1 300 0")).unwrap();
        };
        add(1, "condor-criu-ini", 'S', 0);
        add(7, "ld-linux", 'S', 1);
        add(300, "reaper", 't', 1);
        fs::write(dir.path().join("300/status"), "Name:\treaper\nTracerPid:\t7\n").unwrap();
        add(301, "a) Z 300", 't', 300);
        add(302, "gone", 'Z', 1);
        assert_eq!(look(dir.path(), 300), None);
        add(303, "sh", 't', 1);
        assert_eq!(look(dir.path(), 300), Some(Unfit::LeftOut { pid: 303, name: "sh".into() }));
        let zeros = "0 ".repeat(45);
        fs::write(dir.path().join("301/stat"), format!("301 (a) Z 302 1 300 {zeros}51200\n")).unwrap();
        assert_eq!(look(dir.path(), 300), Some(Unfit::LateCode { pid: 301, code: 200 }));
        add(304, "sh", 'Z', 300);
        assert_eq!(look(dir.path(), 300), Some(Unfit::NotReaped(304)));
    }
}
