//! The early word: what a dump of the payload would refuse, or save so that it comes back otherwise, seen in /proc
//! while the payload runs and long before a dump is needed. Each kind is what was seen of the real CRIU
//! (docs/measurements.md, "What CRIU saves without privilege"): `tests/early.rs` compares.

mod descriptors;
mod mappings;
mod network;
mod restorable;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use crate::procfs;
use crate::sandbox::Network;

/// Threads of one process that are looked at; a filter that some threads have and others not is found among them.
const THREADS_MAX: usize = 64;
/// Namespaces of a process, as /proc/PID/ns names them. The time namespace of the payload is not the init's.
const NAMESPACES: [&str; 7] = ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup"];

/// What becomes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effect {
    /// CRIU refuses the dump, or we do because CRIU would not.
    NotSaved,
    /// It is saved, and after a restore something is missing.
    Lost,
}

/// What a process has that CRIU cannot carry.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A file that is mapped and deleted.
    DeletedMapping(PathBuf),
    /// SysV shared memory.
    SysvShm,
    /// Rings of io_setup(2).
    Aio,
    /// io_uring
    IoUring,
    /// memfd_secret(2)
    SecretMemory,
    /// A memfd that is mapped shared while its descriptor is open.
    Memfd,
    /// The shadow memory of AddressSanitizer.
    AddressSanitizer,
    /// An eventfd with EFD_SEMAPHORE, which CRIU brings back without it.
    SemaphoreEventfd,
    /// A POSIX message queue that is open.
    MessageQueue,
    /// A descriptor that CRIU does not know, as /proc names it: userfaultfd, perf events, …
    Descriptor(String),
    /// A device that is none of the harmless ones.
    Device(PathBuf),
    /// A socket of this protocol.
    Socket(String),
    /// A seccomp filter of its own.
    Seccomp,
    /// It is traced by this process.
    Traced(u32),
    /// It has a namespace of its own, of this kind.
    Namespace(&'static str),
    /// A program that may be executed but not read.
    Unreadable(PathBuf),
    /// A file below /proc that tells of a thread. CRIU makes threads when all files are open again.
    ThreadFile(PathBuf),
    /// More mappings that CRIU needs a descriptor for, all at the same time, than this limit of open files.
    Mappings(u64),
    /// More pipes with an end for reading than this, which CRIU can save.
    Pipes(usize),
    /// A TCP connection whose other end is in the payload too, in the host's network.
    TcpInside,
    /// A TCP connection to the outside, in the host's network.
    TcpOutside(String),
}

impl Kind {
    /// What becomes of it.
    pub fn effect(&self) -> Effect {
        match self {
            Kind::TcpInside | Kind::TcpOutside(_) => Effect::Lost,
            _ => Effect::NotSaved,
        }
    }

    /// What the process does, to follow its name, and why that matters.
    fn why(&self) -> String {
        let map_files = "which the kernel shows only to a privileged CRIU";
        match self {
            Kind::DeletedMapping(path) => format!("has {} mapped, a file that is deleted, {map_files}", path.display()),
            Kind::SysvShm => format!("uses SysV shared memory, {map_files}"),
            Kind::Aio => format!("uses kernel asynchronous I/O (io_setup), {map_files}"),
            Kind::IoUring => "uses io_uring, which CRIU cannot save".into(),
            Kind::SecretMemory => "has secret memory (memfd_secret), which nobody can read".into(),
            Kind::Memfd => "maps a memfd whose descriptor is still open; CRIU would restore two memories that are no longer the same".into(),
            Kind::AddressSanitizer => "is built with AddressSanitizer, whose shadow memory CRIU cannot restore".into(),
            Kind::SemaphoreEventfd => "has an eventfd with EFD_SEMAPHORE, which CRIU would restore without that flag".into(),
            Kind::MessageQueue => "has a POSIX message queue open, which CRIU cannot save".into(),
            Kind::Descriptor(name) => format!("has a descriptor of a kind that CRIU cannot save: {name}"),
            Kind::Device(path) => format!("has {} open, a device whose state CRIU cannot save", path.display()),
            Kind::Socket(protocol) => format!("has a socket of a kind that CRIU cannot save without privilege: {protocol}"),
            Kind::Seccomp => "has a seccomp filter, which only privilege can suspend".into(),
            Kind::Traced(by) => format!("is traced by process {by}, and a process has one tracer at most"),
            Kind::Namespace(kind) => format!("has a {kind} namespace of its own, which CRIU cannot save without privilege"),
            Kind::Unreadable(path) => format!("runs {}, which it may execute but not read", path.display()),
            Kind::ThreadFile(path) => {
                format!("has {} open, which tells of a thread; CRIU opens files again before it makes threads", path.display())
            }
            Kind::Mappings(limit) => format!(
                "has so many shared mappings that a restore needs more than the {limit} open files that the hard limit allows"
            ),
            Kind::Pipes(most) => format!("and the job's other processes have more than {most} pipes open, which is all that CRIU saves"),
            Kind::TcpInside => "has a TCP connection to another process of the job, which a restore closes".into(),
            Kind::TcpOutside(to) => format!("has a TCP connection to {to}, which a restore closes"),
        }
    }

    /// What to do.
    fn remedy(&self) -> &'static str {
        match self {
            Kind::DeletedMapping(path) if path.starts_with("/dev/shm") => {
                "set compat = \"on\", or keep the file while it is mapped"
            }
            Kind::DeletedMapping(_) => "keep the file while it is mapped",
            Kind::SysvShm => "use the program's setting for POSIX shared memory or mmap",
            Kind::Aio => "use the program's setting for threads or plain I/O instead of libaio",
            Kind::IoUring => {
                "turn io_uring off in the program; where it comes from libuv or libc's syscall(), set compat = \"on\""
            }
            Kind::AddressSanitizer => "build it without -fsanitize=address",
            Kind::Memfd => "close the descriptor when it is mapped, or use a named file",
            Kind::Seccomp => "start the program without its own sandbox",
            Kind::Traced(_) => "run it without the debugger or tracer",
            Kind::Namespace(_) => "start the program without a container or sandbox of its own",
            Kind::Unreadable(_) => "make the program readable",
            Kind::ThreadFile(_) => "let the program, or its monitoring, close the file after each reading",
            Kind::Mappings(_) => {
                "start the job with a higher hard limit of open files (ulimit -n), or share fewer, larger mappings"
            }
            Kind::Pipes(_) => "let the program use fewer pipes, or socket pairs instead",
            Kind::Device(path) if is_gpu(path) => "run this job without checkpoints: GPUs are not supported here",
            Kind::TcpInside => "set network = \"private\"",
            Kind::TcpOutside(_) => {
                "let the program connect again when the connection ends, or close it before a checkpoint"
            }
            Kind::SemaphoreEventfd | Kind::MessageQueue => {
                "use a pipe, a socket or a semaphore in shared memory instead"
            }
            Kind::SecretMemory | Kind::Descriptor(_) | Kind::Device(_) | Kind::Socket(_) => {
                "there is no way without privilege: turn the feature off in the program"
            }
        }
    }
}

fn is_gpu(path: &Path) -> bool {
    ["/dev/nvidia", "/dev/kfd", "/dev/dri"].iter().any(|gpu| path.as_os_str().to_string_lossy().starts_with(gpu))
}

/// One kind of thing in the payload, and the first process that has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Inside the sandbox.
    pub pid: u32,
    /// The process's name.
    pub name: String,
    /// What it has.
    pub kind: Kind,
    /// How many processes more.
    pub others: usize,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; what to do: {}", self.why(), self.kind.remedy())
    }
}

impl Finding {
    /// Who has what, and why that matters.
    pub fn why(&self) -> String {
        let others = match self.others {
            0 => String::new(),
            1 => " and one more".to_owned(),
            others => format!(" and {others} more"),
        };
        format!("process {} ({}){others} {}", self.pid, self.name, self.kind.why())
    }
}

/// A process of the payload, as /proc shows it.
struct Process {
    pid: u32,
    path: PathBuf,
}

/// All that the processes of `proc` (the sandbox's mounted procfs) have that a dump would refuse or a restore would
/// lose. pid 1, our init, and criu's own are left out.
pub fn scan(proc: &Path, network: Network) -> Vec<Finding> {
    let mut seen: BTreeMap<Kind, Vec<u32>> = BTreeMap::new();
    let mut sockets: Vec<(u32, u64)> = Vec::new();
    let processes = processes(proc);
    if let Some((pid, kind)) = restorable::pipes(&processes) {
        seen.insert(kind, vec![pid]);
    }
    for process in &processes {
        let mut kinds = BTreeSet::new();
        mappings::look(&process.path, &mut kinds);
        descriptors::look(&process.path, &mut kinds, |inode| sockets.push((process.pid, inode)));
        restorable::look(proc, &process.path, &mut kinds);
        look_at_status(&process.path, &mut kinds);
        look_at_namespaces(proc, &process.path, &mut kinds);
        for kind in kinds {
            seen.entry(kind).or_default().push(process.pid);
        }
    }
    if network == Network::Host
        && let Some(first) = processes.first()
    {
        network::look(&first.path, &sockets, |pid, kind| {
            let pids = seen.entry(kind).or_default();
            if !pids.contains(&pid) {
                pids.push(pid);
            }
        });
    }
    let finding = |(kind, pids): (Kind, Vec<u32>)| {
        let pid = *pids.first()?;
        let name = procfs::name(&proc.join(pid.to_string()));
        Some(Finding { pid, name, kind, others: pids.len() - 1 })
    };
    seen.into_iter().filter_map(finding).collect()
}

/// Why the processes that `proc` shows must not be dumped, if so: what CRIU would save without an error and restore
/// wrongly, or nowhere.
pub fn wrong_if_restored(proc: &Path) -> Option<String> {
    let told =
        |pid: u32, kind| Finding { pid, name: procfs::name(&proc.join(pid.to_string())), kind, others: 0 }.to_string();
    let mut kinds = BTreeSet::new();
    let processes = processes(proc);
    for process in &processes {
        mappings::look_for_wrong(&process.path, &mut kinds);
        descriptors::look_for_semaphores(&process.path, &mut kinds);
        restorable::look(proc, &process.path, &mut kinds);
        if let Some(kind) = kinds.pop_first() {
            return Some(told(process.pid, kind));
        }
    }
    restorable::pipes(&processes).map(|(pid, kind)| told(pid, kind))
}

fn processes(proc: &Path) -> Vec<Process> {
    // Below the reaper's pid there are only our init and criu.
    let payload = procfs::processes(proc).filter(|(pid, _)| *pid >= crate::sandbox::FIRST_PID);
    let mut found: Vec<Process> = payload.map(|(pid, path)| Process { pid, path }).collect();
    found.sort_by_key(|process| process.pid);
    found
}

/// proc_pid_status(5): `Seccomp` is 0 without, 1 strict, 2 with a filter; `TracerPid` is 0 without a tracer.
fn look_at_status(process: &Path, kinds: &mut BTreeSet<Kind>) {
    let tasks = fs::read_dir(process.join("task")).into_iter().flatten().flatten().take(THREADS_MAX);
    for task in tasks {
        let status = procfs::text(&task.path().join("status"));
        let field = |name: &str| procfs::value(&status, name).and_then(|value| value.parse().ok()).unwrap_or(0);
        if field("Seccomp") != 0 {
            kinds.insert(Kind::Seccomp);
        }
        match field("TracerPid") {
            0 => {}
            tracer => drop(kinds.insert(Kind::Traced(tracer))),
        }
    }
}

/// The init has the sandbox's namespaces; who has others has made them.
fn look_at_namespaces(proc: &Path, process: &Path, kinds: &mut BTreeSet<Kind>) {
    for kind in NAMESPACES {
        let of = |process: &Path| fs::read_link(process.join("ns").join(kind)).ok();
        if let (Some(own), Some(sandbox)) = (of(process), of(&proc.join("1")))
            && own != sandbox
        {
            kinds.insert(Kind::Namespace(kind));
            // The others come with it.
            return;
        }
    }
}
