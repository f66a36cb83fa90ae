//! Where a workload runs: on this machine, or on a host whose root has all that it needs.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on stops")]

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::unistd::Pid;

use super::local::{Bench, Host, real_criu};

/// A kind of host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// This machine.
    Here,
    /// The Debian 13 root that `tests/setup/root workloads` makes.
    Root,
}

/// What a script of tests/setup makes; quick when it is made.
pub fn prepared(script: &str, arguments: &[&str]) -> PathBuf {
    let path = format!("{}/tests/setup/{script}", env!("CARGO_MANIFEST_DIR"));
    let output = Command::new(path).args(arguments).stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "tests/setup/{script} {} made nothing", arguments.join(" "));
    PathBuf::from(String::from_utf8(output.stdout).unwrap().trim())
}

impl Place {
    /// The root's folder.
    pub fn tree(self) -> Option<PathBuf> {
        (self == Place::Root).then(|| prepared("root", &["workloads"]))
    }

    /// A shell command there as the host's user, in its scratch directory, standard streams as HTCondor opens them.
    pub fn shell(self, bench: &Bench, host: &Host<'_>, script: &str) -> Command {
        let user = host.user.to_string();
        match self.tree() {
            None => {
                let mut command = Command::new("setpriv");
                command.args(["--reuid", &user, "--regid", &user, "--clear-groups", "sh", "-c", script]);
                command.current_dir(&host.scratch);
                command
            }
            Some(tree) => {
                let name = host.scratch.strip_prefix(bench.path()).unwrap().display();
                let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/setup/in-root"));
                command.arg(tree).arg(bench.path()).args([&user, "sh", "-c", &format!("cd {name}; {script}")]);
                command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("HOME", "/tmp");
                command
            }
        }
    }

    /// `condor-criu run` with these words, as a shell reads them. If `cvmfs` names a file of the scratch directory, the
    /// host has that image mounted through FUSE at /run/cvmfs.
    pub fn start(self, bench: &Bench, host: &Host<'_>, cvmfs: &str, words: &str) -> Child {
        let (binary, criu) = match self {
            Place::Here => (bench.binary(), real_criu()),
            Place::Root => ("/mnt/condor-criu".into(), "/mnt/criu-folder".into()),
        };
        let run = format!("exec {} run --criu {} {words}", binary.display(), criu.display());
        let stream = |name: &str| File::options().append(true).create(true).open(host.scratch.join(name)).unwrap();
        let (out, err) = (stream("_condor_stdout"), stream("_condor_stderr"));
        for name in ["_condor_stdout", "_condor_stderr"] {
            std::os::unix::fs::chown(host.scratch.join(name), Some(host.user), Some(host.user)).unwrap();
        }
        drop((out, err));
        let run = format!("{run} >>_condor_stdout 2>>_condor_stderr");
        let mut command = self.shell(bench, host, &run);
        if !cvmfs.is_empty() {
            let image = host.scratch.join(cvmfs);
            command.env("IN_ROOT_CVMFS", Path::new("/mnt").join(image.strip_prefix(bench.path()).unwrap()));
        }
        command.stdin(Stdio::null()).spawn().unwrap()
    }

    /// condor-criu's process, whom HTCondor would signal.
    pub fn pid(self, job: &Child) -> Pid {
        match self {
            Place::Here => Pid::from_raw(job.id() as i32),
            Place::Root => {
                let children = format!("/proc/{0}/task/{0}/children", job.id());
                Pid::from_raw(fs::read_to_string(children).unwrap().trim().parse().unwrap())
            }
        }
    }

    /// What the place needs beside the binary.
    pub fn prepare(self, bench: &Bench) {
        if self == Place::Root {
            let to = bench.path().join("criu-folder");
            assert!(Command::new("cp").arg("-r").arg(real_criu()).arg(to).status().unwrap().success());
        }
    }
}
