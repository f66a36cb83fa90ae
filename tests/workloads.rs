//! The workload suite: real programs, and one program for each thing of the kernel, through three evictions each. The
//! engine is `common/workload.rs`; `tests/workloads/table` writes docs/workloads.md from a run.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on stops")]

mod common;

use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use common::place::Place;
use common::workload::{PLAIN, Workload};

/// `tests/workloads/features.c`, compiled here.
fn features() -> &'static [u8] {
    static PROGRAM: OnceLock<Vec<u8>> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/workloads/features.c");
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("features");
        let mut gcc = Command::new("gcc");
        gcc.args(["-O2", "-w", "-o"]).arg(&program).arg(source).args(["-lpthread", "-lutil", "-lrt"]);
        assert!(gcc.status().unwrap().success());
        std::fs::read(program).unwrap()
    })
}

const FEATURE: Workload =
    Workload { version: "uname -r | sed 's/^/Linux /'", program: Some(features), code: 42, ..PLAIN };

/// Real programs of the Debian 13 root.
const REAL: Workload = Workload { place: Place::Root, every: 3.0, ..PLAIN };

/// It has the time that making the atoms took. Positions and velocities are compared, with all their digits.
const LAMMPS_LOG: &[&str] = &["log.lammps"];

macro_rules! workloads {
    ($list:ident; $($name:ident: $row:expr;)*) => {
        const $list: &[(&str, Workload)] = &[$((stringify!($name), $row)),*];
        $(#[test]
        fn $name() {
            const ROW: Workload = $row;
            ROW.run();
        })*
    };
}

/// The same, only with `./test --long`.
macro_rules! long_workloads {
    ($($name:ident: $row:expr;)*) => {
        $(#[test]
        #[ignore = "takes minutes: ./test --long"]
        fn $name() {
            const ROW: Workload = $row;
            ROW.run();
        })*
    };
}

workloads! {
    FEATURES;
    f01_threads: Workload { title: "8 threads with thread-local storage", command: "./program threads", ..FEATURE };
    f02_unix_stream: Workload { title: "a unix socket with a name in the job's directory", command: "./program unix-stream", ..FEATURE };
    f03_unix_datagram: Workload { title: "unix datagrams, some on their way", command: "./program unix-datagram", ..FEATURE };
    f04_tcp: Workload { title: "TCP between two processes of the job", command: "./program tcp", settings: "--network private", ..FEATURE };
    f05_udp: Workload { title: "UDP between two processes of the job", command: "./program udp", ..FEATURE };
    f06_listener: Workload { title: "a TCP listener to which the job connects anew", command: "./program listener", ..FEATURE };
    f07_pty: Workload { title: "a pseudo-terminal", command: "./program pty", ..FEATURE };
    f08_inotify: Workload { title: "inotify on the job's directory", command: "./program inotify", ..FEATURE };
    f10_posix_semaphores: Workload { title: "anonymous POSIX semaphores in shared memory", command: "./program posix-semaphores", ..FEATURE };
    f11_signalfd: Workload { title: "signalfd", command: "./program signalfd", ..FEATURE };
    f12_timers: Workload { title: "timerfd and a POSIX timer", command: "./program timers", ..FEATURE };
    f13_eventfd: Workload { title: "eventfd", command: "./program eventfd", ..FEATURE };
    f14_epoll: Workload { title: "epoll", command: "./program epoll", ..FEATURE };
    f15_pidfd: Workload { title: "pidfd", command: "./program pidfd", ..FEATURE };
    f16_locks: Workload { title: "flock and fcntl locks", command: "./program locks", ..FEATURE };
    f17_deleted: Workload { title: "a deleted file and O_TMPFILE, open", command: "./program deleted", ..FEATURE };
    f18_memfd: Workload { title: "a memfd as a descriptor", command: "./program memfd", ..FEATURE };
    f19_memfd_mapped: Workload { title: "a memfd that two processes have mapped", command: "./program memfd-mapped", ..FEATURE };
    f20_fifo: Workload { title: "named pipes", command: "./program fifo", ..FEATURE };
    f21_append: Workload { title: "an O_APPEND log with two descriptors", command: "./program append", ..FEATURE };
    f22_sparse: Workload { title: "a sparse file of 10 GB", command: "./program sparse", ..FEATURE };
    f23_files: Workload { title: "5,000 files, open for a moment", command: "./program files", ..FEATURE };
    f24_descriptors: Workload { title: "1,500 descriptors", command: "./program descriptors", ..FEATURE };
    f25_zombie: Workload { title: "a zombie", command: "./program zombie", ..FEATURE };
    f26_stopped: Workload { title: "a stopped child", command: "./program stopped", ..FEATURE };
    f27_daemon: Workload { title: "a daemonised grandchild", command: "./program daemon", ..FEATURE };
    f28_limits: Workload { title: "changed limits, nice value and umask", command: "./program limits", ..FEATURE };
    f29_sigaltstack: Workload { title: "an alternate signal stack", command: "./program sigaltstack", ..FEATURE };
    f30_pending: Workload { title: "60 pending real-time signals", command: "./program pending", ..FEATURE };
    f31_mapped_file: Workload { title: "a shared mapping of a file", command: "./program mapped-file", ..FEATURE };
    f32_clocks: Workload { title: "CLOCK_MONOTONIC", command: "./program clocks", ..FEATURE };
}

workloads! {
    PROGRAMS;
    p01_bash: Workload {
        title: "a bash pipeline with traps and background jobs",
        version: "bash --version",
        files: &[("work.sh", include_str!("workloads/work.sh"))],
        command: "bash work.sh",
        code: 6,
        ..PLAIN
    };
    p02_python: Workload {
        title: "Python: threads, generators, a subprocess",
        version: "python3 --version",
        files: &[("work.py", include_str!("workloads/work.py"))],
        command: "python3 work.py",
        code: 5,
        ..PLAIN
    };
    p03_python_multiprocessing: Workload {
        title: "Python multiprocessing and concurrent.futures: Pool, Queue, Lock, shared_memory",
        version: "python3 --version",
        files: &[("pool.py", include_str!("payloads/compat/pool.py"))],
        command: "python3 pool.py fork 60",
        ..PLAIN
    };
    p04_sqlite: Workload {
        title: "SQLite in WAL mode (from Python)",
        version: "python3 -c 'import sqlite3; print(\"SQLite\", sqlite3.sqlite_version)'",
        files: &[("work.py", include_str!("workloads/sqlite.py"))],
        command: "python3 work.py",
        // After a move the database is another inode, and SQLite does not remove the log of a file that was replaced.
        ignore: &["data.db-shm", "data.db-wal"],
        ..PLAIN
    };
    p05_make: Workload {
        title: "make -j2",
        version: "make --version",
        files: &[("Makefile", include_str!("workloads/Makefile"))],
        command: "make -j2 -s",
        ..PLAIN
    };
    p06_perl: Workload {
        title: "Perl",
        version: "perl -e 'print \"Perl $^V\\n\"'",
        files: &[("work.pl", include_str!("workloads/work.pl"))],
        command: "perl work.pl",
        ..PLAIN
    };
    p07_node: Workload {
        title: "Node.js",
        version: "node --version | sed 's/^/Node.js /'",
        files: &[("work.js", include_str!("workloads/work.js"))],
        command: "node work.js",
        code: 9,
        ..PLAIN
    };
}

long_workloads! {
    r01_cxx: Workload {
        title: "C++ with exceptions and thread-local storage",
        version: "g++ --version",
        files: &[("work.cc", include_str!("workloads/work.cc"))],
        setup: "g++ -O2 -pthread -o work work.cc",
        command: "./work",
        every: 1.5,
        ..REAL
    };
    r02_fortran: Workload {
        title: "Fortran with OpenMP",
        version: "gfortran --version",
        files: &[("work.f90", include_str!("workloads/work.f90"))],
        setup: "gfortran -O2 -fopenmp -o work work.f90",
        command: "env OMP_NUM_THREADS=2 ./work",
        every: 1.5,
        ..REAL
    };
    r03_scipy: Workload {
        title: "numpy and scipy, OpenBLAS with 2 threads",
        version: "python3 -c 'import scipy, numpy; print(\"scipy\", scipy.__version__, \"numpy\", numpy.__version__)'",
        files: &[("work.py", include_str!("workloads/numeric.py"))],
        command: "env OPENBLAS_NUM_THREADS=2 python3 work.py",
        ..REAL
    };
    r04_r: Workload {
        title: "R",
        version: "R --version",
        files: &[("work.R", include_str!("workloads/work.R"))],
        command: "Rscript work.R",
        ..REAL
    };
    r05_octave: Workload {
        title: "Octave",
        version: "octave-cli --version",
        files: &[("work.m", include_str!("workloads/work.m"))],
        command: "octave-cli --no-gui --quiet work.m",
        ..REAL
    };
    r06_java: Workload {
        title: "Java",
        version: "java --version",
        files: &[("Work.java", include_str!("workloads/Work.java"))],
        setup: "true",
        command: "java -Xmx128m -cp . Work.java",
        ..REAL
    };
    r07_go: Workload {
        title: "Go, goroutines",
        version: "go version",
        files: &[("work.go", include_str!("workloads/work.go"))],
        setup: "GOCACHE=/tmp/go GOFLAGS=-mod=mod go build -o work work.go",
        command: "./work",
        every: 1.5,
        ..REAL
    };
    r08_lammps: Workload {
        title: "LAMMPS, serial",
        version: "lmp -h | grep -m1 Simulator",
        files: &[("in.melt", include_str!("workloads/lammps/in.melt"))],
        command: "lmp -in in.melt -screen none -var steps 3000",
        ignore: LAMMPS_LOG,
        settings: "--network private",
        ..REAL
    };
    r09_lammps_mpi: Workload {
        title: "LAMMPS, mpirun -np 2",
        version: "lmp -h | grep -m1 Simulator",
        files: &[("in.melt", include_str!("workloads/lammps/in.melt"))],
        command: "mpirun --oversubscribe -np 2 lmp -in in.melt -screen none -var steps 1500",
        ignore: LAMMPS_LOG,
        ..REAL
    };
    r10_openmpi: Workload {
        title: "Open MPI -np 2: rings and reductions",
        version: "mpirun.openmpi --version",
        files: &[("work.c", include_str!("workloads/mpi.c"))],
        setup: "mpicc.openmpi -O2 -o work work.c",
        command: "mpirun.openmpi --oversubscribe -np 2 ./work",
        every: 2.0,
        ..REAL
    };
    r12_node: Workload {
        title: "Node.js",
        version: "node --version | sed 's/^/Node.js /'",
        files: &[("work.js", include_str!("workloads/work.js"))],
        command: "node work.js",
        code: 9,
        every: 1.2,
        ..REAL
    };
}

long_workloads! {
    r13_pandas: Workload {
        title: "pandas",
        version: "python3 -c 'import pandas; print(\"pandas\", pandas.__version__)'",
        files: &[("work.py", include_str!("workloads/pandas.py"))],
        command: "python3 work.py",
        ..REAL
    };
    r14_scikit_learn: Workload {
        title: "scikit-learn, with worker processes",
        version: "python3 -c 'import sklearn; print(\"scikit-learn\", sklearn.__version__)'",
        files: &[("work.py", include_str!("workloads/learn.py"))],
        command: "python3 work.py",
        ..REAL
    };
    r15_torch: Workload {
        title: "PyTorch, a training loop on the processor with 2 threads",
        version: "python3 -c 'import torch; print(\"PyTorch\", torch.__version__)'",
        files: &[("train.py", include_str!("workloads/torch.py"))],
        command: "env OMP_WAIT_POLICY=passive python3 train.py",
        ..REAL
    };
    r16_hdf5_netcdf: Workload {
        title: "HDF5 and NetCDF-4 files that grow",
        version: "python3 -c 'import h5py, netCDF4; print(\"HDF5\", h5py.version.hdf5_version, \"NetCDF\", netCDF4.getlibversion().split()[0])'",
        files: &[("work.py", include_str!("workloads/arrays.py"))],
        command: "python3 work.py",
        every: 1.5,
        ..REAL
    };
    r17_cvmfs: Workload {
        title: "input and a module from a FUSE mount (squashfuse in the place of CVMFS)",
        version: "squashfuse --help 2>&1 | head -n 1",
        files: &[("work.py", include_str!("workloads/cvmfs.py"))],
        setup: CVMFS,
        cvmfs: "cvmfs.squashfs",
        command: "python3 work.py",
        every: 1.5,
        ..REAL
    };
    r18_gromacs: Workload {
        title: "GROMACS with 2 threads",
        version: "gmx --version | sed -n 's/^GROMACS version: */GROMACS /p'",
        files: &[("make.sh", include_str!("workloads/gromacs.sh"))],
        setup: "sh make.sh 12000",
        command: "sh -c 'exec gmx -quiet mdrun -reprod -ntmpi 1 -ntomp 2 -pin off -s topol.tpr -deffnm md 2>md.err'",
        ignore: GROMACS_LOGS,
        ..REAL
    };
}

/// What the FUSE mount shows, made once.
const CVMFS: &str = "mkdir tree && cd tree && seq 1000000 1000999 >lines && seq 1000000 >large && echo FACTOR = 7 >constants.py && \
                     for n in 0 1 2 3 4 5 6 7 8 9; do seq $n 3000 >part$n; done && cd .. && \
                     mksquashfs tree cvmfs.squashfs -quiet -no-progress && rm -r tree";

/// They have times, host names and the speed; trajectory, energies and final positions are compared.
const GROMACS_LOGS: &[&str] = &["md.log", "md.cpt", "md_prev.cpt", "md.err"];

/// The suite again and again, evicted at random moments. The seed is printed; CONDOR_CRIU_SEED takes it again,
/// CONDOR_CRIU_REHEARSALS asks for another number of rounds.
#[test]
#[ignore = "takes minutes: ./test --long"]
fn rehearsals_at_random_moments() {
    let rows: Vec<&(&str, Workload)> = FEATURES.iter().chain(PROGRAMS).collect();
    common::rehearsals::rehearse(&rows);
}

/// Debian's MPICH shares memory by SysV, whatever its transports are set to.
#[test]
#[ignore = "takes minutes: ./test --long"]
fn r11_mpich_is_refused_early() {
    const ROW: Workload = Workload {
        title: "MPICH -np 2",
        files: &[("work.c", include_str!("workloads/mpi.c"))],
        setup: "mpicc.mpich -O2 -o work work.c",
        command: "mpirun.mpich -np 2 ./work",
        ..REAL
    };
    ROW.run_refused(&["early word: the payload cannot be saved: process 30", "SysV shared memory"]);
}
