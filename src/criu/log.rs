//! From criu's log to a cause that a scientist understands. criu's exit status decides whether something failed; this
//! only explains it. Line numbers change with the version, so the text is matched.

use std::fs;
use std::path::Path;

/// Bytes from the end of a log that are read: errors are its last lines.
const TAIL: u64 = 64 * 1024;
/// Lines of criu's own words that are shown.
const SHOWN: usize = 4;

/// Why criu failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// In plain words; criu's own if the cause is not a known one.
    pub why: String,
    /// What to do, if anything.
    pub remedy: Option<String>,
    /// criu's last error lines.
    pub lines: Vec<String>,
    /// Whether it may be gone in a moment, without anybody's doing.
    pub passes: bool,
}

/// The user's pipes on this host, those of other jobs included, have all the memory that pipes may have; seen with a
/// dozen jobs of one user that were saved at the same time.
const NO_PIPE_MEMORY: &str = "Unable to set a pipe size";

/// Our own helper's words for what waits to be read (`sandbox/criu_preload`, `unread.rs` and `senders.rs`).
const UNREAD_EVENTS: &str = "poll() failed: Device or resource busy";
const NAMED_SENDER: &str = "recvmsg fail: error: Cannot assign requested address";

/// What may be gone in a moment.
const PASSING: [&str; 3] = [NO_PIPE_MEMORY, UNREAD_EVENTS, NAMED_SENDER];

/// Text in the log, what it means, what to do. The first that matches wins: the special before the general.
/// Source: docs/measurements.md, "CRIU's words".
const KNOWN: &[(&str, &str, &str)] = &[
    (
        "send_fds failed (-22)",
        "a process uses io_uring, which CRIU cannot save",
        "turn io_uring off in the program (for libuv and node it needs more than UV_USE_IO_URING=0)",
    ),
    (
        "[aio] (deleted)",
        "a process uses kernel asynchronous I/O (io_setup), which CRIU cannot save without privilege",
        "use the program's setting for threads or plain I/O instead of libaio",
    ),
    (
        "doesn't live in IPC ns",
        "a process uses SysV shared memory, which CRIU cannot save without privilege",
        "use the program's setting for POSIX shared memory or mmap",
    ),
    (
        "Can't stat map_files",
        "a process uses SysV shared memory, which CRIU cannot save without privilege",
        "use the program's setting for POSIX shared memory or mmap",
    ),
    (
        "(deleted)]",
        "a process has a file mapped into memory that was deleted since (named semaphores do this)",
        "keep the file while it is mapped; for files in /dev/shm compat = \"on\" does that",
    ),
    (
        "suspending seccomp failed",
        "a process has a seccomp filter, which only privilege can suspend",
        "start the program without its own sandbox",
    ),
    (
        "Connected TCP socket",
        "a process holds a TCP connection",
        "close it before the checkpoint, or use network = \"private\" if both ends belong to the job",
    ),
    (
        "Can't turn TCP repair mode ON",
        "a process holds a TCP connection in the host's network",
        "use network = \"private\" if both ends belong to the job",
    ),
    (
        "held.sock",
        "criu is linked statically, and would change memory while it is read",
        "use a criu that is linked dynamically, as distributions have it",
    ),
    (
        "OOM storing pipe",
        "the payload has more than 1024 pipes open, which is all that CRIU saves",
        "let the program use fewer pipes, or socket pairs instead",
    ),
    (
        "map_files on procfs: Permission denied",
        "a process forbids to look into it (PR_SET_DUMPABLE), or runs a program that it may execute but not read",
        "make the program readable, or turn that protection off in it",
    ),
    (
        "\\012",
        "a file that is mapped into memory has a line end in its name, which CRIU cannot read",
        "give the file another name",
    ),
    (
        "Can't stat path: File name too long",
        "a deleted file that is still open has a name of more than 245 bytes",
        "keep the file until it is closed, or give it a shorter name",
    ),
    (
        NO_PIPE_MEMORY,
        "the user's jobs on this host have used up the memory for pipes",
        "ask the administrator to raise fs.pipe-user-pages-soft",
    ),
    (
        UNREAD_EVENTS,
        "a process has not read yet what inotify has told it, which CRIU would lose",
        "let the program read events before long",
    ),
    (
        NAMED_SENDER,
        "a datagram of a unix socket waits to be read, and CRIU would bring it back without its sender's name",
        "let the program read what is sent to it before long",
    ),
    ("Can't get 1:16 opt", "this CRIU is too old for this kernel: every socket fails", "use CRIU 4.2"),
    (
        "are not collected",
        "the kernel's socket diagnosis modules are not loaded",
        "ask the administrator to load tcp_diag, udp_diag and unix_diag",
    ),
    (
        "Can't dump that handle",
        "a process watches a file with inotify that is not below the job's directory",
        "let it watch files in the job's directory only",
    ),
    (
        "Unable to connect a socket: Network is unreachable",
        "the loopback interface is down, over which CRIU tries what the kernel can do",
        "the administrator brings it up: ip link set lo up",
    ),
    (
        "Failed to resolve mapping",
        "the root file system is an overlay of which this kernel names the devices in two ways",
        "start the container with --writable-tmpfs (Apptainer), or mount the overlay with xino=on",
    ),
    (
        "Can't find rt vDSO",
        "/proc belongs to another pid namespace",
        "see condor-criu.log for how the sandbox was made",
    ),
    ("Unexpected rt vDSO area bounds", "this CRIU is too old for this kernel", "use CRIU 4.2"),
    ("Can't splice all pages to pipe", "memory with guard pages, which needs CRIU 4.2", "use CRIU 4.2"),
    (
        "MADV_GUARD_INSTALL",
        "the checkpoint has guard pages, which need Linux 6.13 or newer",
        "restore on a host with a newer kernel",
    ),
    (
        "Can't lookup mount=",
        "a process holds a file that was opened outside the sandbox",
        "open it by its path inside the job",
    ),
    (
        "Can't fork for",
        "a process id that the checkpoint needs is taken",
        "restart the job; if it happens again, report it",
    ),
    (
        "Unable to restore capabilities",
        "a process of the checkpoint had capabilities that this host does not grant",
        "report it: the payload should have none",
    ),
    (
        "Can't setgroups",
        "the supplementary groups of the job's user differ from those at the checkpoint",
        "restore on a host where the user has the same groups",
    ),
    ("Can't bind inet socket", "a port that the program listens on is taken on this host", "use network = \"private\""),
    ("Can't chose service_fd_base", "the hard limit of open descriptors is too low", "raise RLIMIT_NOFILE"),
    (
        "Can't dump ghost file",
        "a deleted file that is still open is larger than 2000 MB",
        "keep the file in the job's directory until it is closed",
    ),
    ("No space left on device", "the disk is full", "ask for more with request_disk"),
    ("Unable to connect to image streamer socket", "the stream of the images broke", "see condor-criu.log"),
];

/// Reads the cause from a log file and from what criu wrote to its standard output and error.
pub fn cause(log: &Path, output: &Path) -> Cause {
    explain(&(tail(output) + &tail(log)))
}

/// Reads the cause from the text of a log.
pub fn explain(text: &str) -> Cause {
    let errors: Vec<&str> =
        text.lines().filter(|line| line.contains("Error ") || line.starts_with("cannot ")).collect();
    let lines: Vec<String> = errors.iter().rev().take(SHOWN).rev().map(|line| (*line).to_owned()).collect();
    let passes = errors.iter().any(|line| PASSING.iter().any(|word| line.contains(word)));
    if let Some((why, remedy)) = errors.iter().find_map(|line| looked_up(line)) {
        return Cause { why, remedy: remedy.map(str::to_owned), lines, passes };
    }
    for (pattern, why, remedy) in KNOWN {
        if errors.iter().any(|line| line.contains(pattern)) {
            return Cause { why: (*why).to_owned(), remedy: Some((*remedy).to_owned()), lines, passes };
        }
    }
    let why = match errors.first() {
        Some(line) => format!("CRIU says: {}", words(line)),
        None => "CRIU gave no reason".to_owned(),
    };
    Cause { why, remedy: None, lines, passes }
}

/// A cause that can be looked at on this host is looked at before it is told: what the error is, and what can be done.
fn looked_up(line: &str) -> Option<(String, Option<&'static str>)> {
    looked_up_on(Path::new("/"), line)
}

fn looked_up_on(root: &Path, line: &str) -> Option<(String, Option<&'static str>)> {
    let says = || format!("CRIU says: {}", words(line));
    if line.contains("Unable to detach from") {
        let scope = fs::read_to_string(root.join("proc/sys/kernel/yama/ptrace_scope")).unwrap_or_default();
        return Some(match scope.trim() {
            "" | "0" => (says(), None),
            scope => (
                format!("the kernel's yama restricts ptrace (kernel.yama.ptrace_scope = {scope})"),
                Some(
                    "the administrator sets kernel.yama.ptrace_scope to 0, or to 1 or 2 where criu may have CAP_SYS_PTRACE",
                ),
            ),
        });
    }
    for (before, what) in [(" has bad size", "size"), (" has bad build-ID", "build"), (" has bad build-id", "build")] {
        if let Some((path, _)) = words(line).strip_prefix("File ").and_then(|rest| rest.split_once(before)) {
            let remedy = is_the_hosts(path).then_some(SAME_SOFTWARE);
            return Some((
                format!("/{}, which the program uses, has another {what} here", path.trim_start_matches('/')),
                remedy,
            ));
        }
    }
    let rest = words(line).strip_prefix("Can't open file ")?;
    let (path, errno) = rest.rsplit_once(": ")?;
    let path = path.strip_suffix(" on restore").unwrap_or(path).trim_start_matches('/');
    let missing = errno.starts_with("No such file");
    if missing && is_the_hosts(path) && root.join(path).symlink_metadata().is_err() {
        return Some((format!("/{path}, which the program uses, is missing on this host"), Some(SAME_SOFTWARE)));
    }
    if errno.starts_with("Permission denied") {
        return Some((
            format!("/{path}, which the program has open, may not be opened here in that way: {errno}"),
            None,
        ));
    }
    Some((says(), None))
}

const SAME_SOFTWARE: &str = "restore on a host with the same software, or run in a container image";

/// Whether a path inside the sandbox, without its first slash, is one of the host's own files. The job's directory is
/// `/job` unless the setting says otherwise.
fn is_the_hosts(path: &str) -> bool {
    !["proc", "sys", "dev", "tmp", "var/tmp", "job", ".condor-criu"]
        .iter()
        .any(|place| Path::new(path).starts_with(place))
}

/// A line without its time, pid and place: `(00.01) 300: Error (criu/files.c:1): Can't` → `Can't`.
fn words(line: &str) -> &str {
    line.split_once("): ").filter(|_| line.contains("Error (")).map_or(line, |(_, rest)| rest).trim()
}

fn tail(path: &Path) -> String {
    use std::io::{Read, Seek, SeekFrom};
    let Ok(mut file) = fs::File::open(path) else { return String::new() };
    let length = file.metadata().map_or(0, |metadata| metadata.len());
    let _ = file.seek(SeekFrom::Start(length.saturating_sub(TAIL)));
    let mut bytes = Vec::new();
    let _ = file.take(TAIL).read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_errors_become_plain_words() {
        let cause = explain(
            "(00.005) Warn  (criu/x.c:1): hm\n(00.006) Error (compel/src/lib/ptrace.c:27): suspending seccomp failed: Operation not permitted\n(00.007) Error (criu/cr-dump.c:2128): Dumping FAILED.\n",
        );
        assert!(cause.why.contains("seccomp filter"));
        assert_eq!(cause.lines.len(), 2);
    }

    #[test]
    fn a_cause_is_told_of_this_host_only_if_it_is_true() {
        let dir = tempfile::tempdir().unwrap();
        let of = |line: &str| looked_up_on(dir.path(), line).unwrap();
        let detach = "(00.1) Error (compel/src/lib/infect.c:417): Unable to detach from 300: No such process";
        assert_eq!(of(detach), ("CRIU says: Unable to detach from 300: No such process".into(), None));
        fs::create_dir_all(dir.path().join("proc/sys/kernel/yama")).unwrap();
        for (scope, yama) in [("0\n", false), ("1\n", true)] {
            fs::write(dir.path().join("proc/sys/kernel/yama/ptrace_scope"), scope).unwrap();
            assert_eq!(of(detach).0.contains("yama"), yama);
        }
        let open = |path: &str, errno: &str| {
            of(&format!("(00.1)    301: Error (criu/files-reg.c:2267): Can't open file {path}: {errno}"))
        };
        let (why, remedy) = open("usr/lib/x", "No such file or directory");
        assert!(why.contains("/usr/lib/x") && why.contains("missing on this host") && remedy == Some(SAME_SOFTWARE));
        fs::create_dir_all(dir.path().join("usr/lib")).unwrap();
        fs::write(dir.path().join("usr/lib/x"), "").unwrap();
        for (path, errno) in [
            ("usr/lib/x", "No such file or directory"),
            ("proc/301/task/302/stat", "No such file or directory"),
            ("job/out on restore", "No such file or directory"),
            ("job/out", "Permission denied"),
            ("usr/lib/y", "Too many open files"),
        ] {
            let (why, remedy) = open(path, errno);
            assert!(!why.contains("missing on this host") && remedy.is_none(), "{why}");
            assert!(why.contains(path.trim_end_matches(" on restore")) && why.contains(errno), "{why}");
        }
        let size =
            |path: &str| of(&format!("(00.1) Error (criu/files-reg.c:2175): File {path} has bad size 5 (expect 6)"));
        assert_eq!(size("usr/lib/libc.so.6").1, Some(SAME_SOFTWARE));
        assert_eq!(size("job/data"), ("/job/data, which the program uses, has another size here".into(), None));
    }

    #[test]
    fn unknown_errors_are_criu_s_own_words() {
        let cause = explain("(00.1)    300: Error (criu/files.c:12): Something new\n");
        assert_eq!(cause.why, "CRIU says: Something new");
        assert_eq!(explain("").why, "CRIU gave no reason");
    }
}
