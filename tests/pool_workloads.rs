//! Real programs as jobs of the real pool, each moved between the hosts by vacates: the rows of the published matrix
//! that failed there. Each is compared with a second job of the same kind that nobody disturbs: standard output and
//! every output file, byte for byte.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on stops")]

mod common;

use std::fs;
use std::process::Command;
use std::time::Duration;

use common::count::SUBMIT;
use common::job::{Condition, File, Job};
use common::place::prepared;
use common::pool::{Host, Pool, Series, on_both_series};

/// None of these computes for longer, however busy the machine is.
const PATIENCE: Duration = Duration::from_secs(300);

on_both_series!(fork_without_root, python_multiprocessing, a_tcp_client_that_connects_again);

/// A program and what it leaves behind.
struct Program<'a> {
    /// The program and its arguments, as a submit file has them.
    command: &'a str,
    /// What it is given.
    files: &'a [(&'a str, Vec<u8>)],
    /// What it leaves that must be equal.
    outputs: &'a [&'a str],
    /// A line of standard output, or of the file that is named, at which it is vacated: one for each move.
    moments: &'a [(&'static str, &'a str)],
}

impl Program<'_> {
    /// HTCondor 23.9 gives a job neither HOME nor PATH. Open MPI does not start without them, whoever starts it; Python
    /// does.
    fn submit<'p>(&self, pool: &'p Pool) -> Job<'p> {
        let names: Vec<&str> = self.files.iter().map(|(name, _)| *name).collect();
        let text = format!(
            "{SUBMIT}arguments = run --criu /opt/criu --interval never -- {}\ntransfer_input_files = {}\n\
             output = work.out\nrequest_memory = 400\nrequest_cpus = 2\n\
             environment = \"HOME=/tmp PATH=/usr/bin:/bin\"\n",
            self.command,
            names.join(","),
        );
        let files: Vec<File> = self.files.iter().map(|(name, content)| File::program(name, content.clone())).collect();
        pool.submit(&text, &files)
    }

    /// Moved at its moments, it ends as the undisturbed one does. Returns what it wrote to standard error.
    fn moves(&self, pool: &Pool) -> String {
        let (job, peace) = (self.submit(pool), self.submit(pool));
        for (number, (file, text)) in self.moments.iter().enumerate() {
            job.wait_for(Condition::Scratch(file, (*text).to_owned()), PATIENCE);
            let host = job.host();
            job.vacate();
            job.wait_for(Condition::Starts(number + 2), PATIENCE);
            assert_eq!(job.host(), host.other());
        }
        for job in [&job, &peace] {
            job.wait_for(Condition::Done, PATIENCE);
            assert_eq!(job.history().exit_code, Some(0), "{}\n{}", job.read("job.err"), job.read("condor-criu.log"));
        }
        let log = job.read("condor-criu.log");
        assert_eq!(log.matches("the payload runs again").count(), self.moments.len(), "{log}");
        for name in ["work.out"].iter().chain(self.outputs) {
            assert!(job.read_bytes(name) == peace.read_bytes(name), "{name} differs\n{log}");
        }
        job.read("job.err")
    }
}

/// A tree with a child, a daemonised grandchild, a thread and pipes.
fn fork_without_root(pool: &Pool) {
    let files = [("tree.py", include_bytes!("payloads/tree.py").to_vec())];
    let program = Program {
        command: "python3 tree.py 300",
        files: &files,
        outputs: &[],
        moments: &[("_condor_stdout", "step 12 "), ("_condor_stdout", "step 60 ")],
    };
    program.moves(pool);
}

fn python_multiprocessing(pool: &Pool) {
    let files = [("pool.py", include_bytes!("payloads/compat/pool.py").to_vec())];
    let program = Program {
        command: "python3 pool.py fork 110",
        files: &files,
        outputs: &[],
        moments: &[("_condor_stdout", "step 6 "), ("_condor_stdout", "step 16 ")],
    };
    program.moves(pool);
}

/// The server is on the access point. A restore closes the connection; the client asks again, and its answers are the
/// same.
fn a_tcp_client_that_connects_again(pool: &Pool) {
    const SERVER: &str = include_str!("payloads/server.py");
    let port = format!("/tmp/port-{}", std::process::id());
    let start = "setsid python3 -c \"$1\" \"$2\" >/dev/null 2>&1 </dev/null & \
                 for n in $(seq 1000); do [ -s \"$2\" ] && exec cat \"$2\"; sleep 0.02; done; exit 1";
    let port = pool.ask(Host::Ap, "alice", &["sh", "-c", start, "sh", SERVER, &port]);
    let files = [("client.py", include_bytes!("payloads/client.py").to_vec())];
    let program = Program {
        command: &format!("python3 client.py 10.85.0.1 {} 200", port.trim()),
        files: &files,
        outputs: &[],
        moments: &[("_condor_stdout", "answer 12 "), ("_condor_stdout", "answer 40 ")],
    };
    let said = program.moves(pool);
    assert_eq!(said.matches("connected").count(), 3, "{said}");
}

/// A pool whose hosts have the numerical programs.
fn laboratory() -> Pool {
    Pool::shared(Series::Workloads)
}

/// The files that a shell script makes out of these on a host of that pool.
fn made(script: &str, files: &[(&str, &str)], names: &[&'static str]) -> Vec<(&'static str, Vec<u8>)> {
    let directory = tempfile::tempdir().unwrap();
    for (name, content) in files {
        fs::write(directory.path().join(name), content).unwrap();
    }
    let in_root = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/setup/in-root");
    let mut command = Command::new(in_root);
    command.arg(prepared("root", &["workloads"])).arg(directory.path()).args(["0", "sh", "-c", script]);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    names.iter().map(|name| (*name, fs::read(directory.path().join(name)).unwrap())).collect()
}

#[test]
#[ignore = "takes minutes: ./test --long"]
fn mpi_on_one_host() {
    let pool = laboratory();
    let source = ("work.c", include_str!("workloads/mpi.c"));
    let files = made("mpicc.openmpi -O2 -o work work.c", &[source], &["work"]);
    let program = Program {
        command: "mpirun.openmpi --oversubscribe -np 2 ./work",
        files: &files,
        outputs: &[],
        moments: &[("_condor_stdout", "step 12 "), ("_condor_stdout", "step 40 ")],
    };
    program.moves(&pool);
}

const MELT: (&str, &[u8]) = ("in.melt", include_bytes!("workloads/lammps/in.melt"));

/// Compared by the positions and velocities, with all their digits; log.lammps has the time that making the atoms took.
#[test]
#[ignore = "takes minutes: ./test --long"]
fn lammps() {
    let pool = laboratory();
    let files = [(MELT.0, MELT.1.to_vec())];
    let program = Program {
        command: "lmp -in in.melt -screen none -var steps 3000",
        files: &files,
        outputs: &["dump.melt", "final.data"],
        moments: &[("dump.melt", "ITEM: TIMESTEP\n500\n"), ("dump.melt", "ITEM: TIMESTEP\n1500\n")],
    };
    program.moves(&pool);
}

#[test]
#[ignore = "takes minutes: ./test --long"]
fn lammps_under_mpirun() {
    let pool = laboratory();
    let files = [(MELT.0, MELT.1.to_vec())];
    let program = Program {
        command: "mpirun.openmpi --oversubscribe -np 2 lmp -in in.melt -screen none -var steps 3000",
        files: &files,
        outputs: &["dump.melt", "final.data"],
        moments: &[("dump.melt", "ITEM: TIMESTEP\n500\n"), ("dump.melt", "ITEM: TIMESTEP\n1500\n")],
    };
    program.moves(&pool);
}

/// Compared by the trajectory and the final positions; md.log and md.cpt have times and host names, md.edr is compared
/// too.
#[test]
#[ignore = "takes minutes: ./test --long"]
fn gromacs() {
    let pool = laboratory();
    let files = made("sh make.sh 20000", &[("make.sh", include_str!("workloads/gromacs.sh"))], &["topol.tpr"]);
    let program = Program {
        command: "gmx -quiet mdrun -reprod -ntmpi 1 -pin off -s topol.tpr -deffnm md",
        files: &files,
        outputs: &["md.xtc", "md.gro", "md.edr"],
        moments: &[("md.log", "\n           2000 "), ("md.log", "\n          10000 ")],
    };
    program.moves(&pool);
}
