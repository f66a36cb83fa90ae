//! The early word against the real criu: what is said a few seconds after the start is what a dump then does.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on stops")]

mod common;

use std::fs;
use std::process::Command;

use common::local::{Bench, FIRST_USER, Host, Running, assert_code};
use nix::sys::signal::Signal;

const PAYLOAD: &str = include_str!("payloads/early.py");

/// Starts a case and waits until it stands; `None` if this kernel does not give what it asks for.
fn start<'a>(host: &'a Host<'a>, flags: &[&str], case: &[&str]) -> Option<Running<'a>> {
    host.write("early.py", PAYLOAD);
    if case == ["fuse"] {
        // The system's own may be root's alone.
        let made =
            Command::new("mknod").args(["-m", "666"]).arg(host.scratch.join("fuse")).args(["c", "10", "229"]).status();
        assert!(made.unwrap().success());
    }
    let words: Vec<&str> =
        flags.iter().copied().chain(["--", "python3", "early.py"]).chain(case.iter().copied()).collect();
    let mut job = host.start(&words);
    job.until("_condor_stdout", "re");
    while !host.stdout().contains('\n') {
        std::thread::yield_now();
    }
    if host.stdout().starts_with("refused") {
        eprintln!("this kernel does not give what {} asks for: {}", case[0], host.stdout());
        job.end();
        return None;
    }
    Some(job)
}

/// What is said early, and then what a dump does.
fn refused(case: &str, flags: &[&str], early: &str, remedy: &str, criu: &str) {
    let bench = Bench::new();
    let host = bench.host("host", FIRST_USER);
    let Some(mut job) = start(&host, flags, &[case]) else { return };
    job.until("condor-criu.log", "early word: the payload cannot be saved: process 30");
    for words in [early, remedy] {
        assert!(host.log().contains(words), "{words:?} is not in {}", host.log());
    }
    job.signal(Signal::SIGUSR2);
    job.until("condor-criu.log", "cannot save the payload: ");
    assert!(host.log().contains(criu), "{criu:?} is not in {}", host.log());
    assert_eq!(host.log().matches("early word: the").count(), 1, "{}", host.log());
    assert_eq!(fs::metadata(host.checkpoint()).unwrap().len(), 0);
}

macro_rules! refused {
    ($($name:ident: $case:literal $flags:expr, $early:literal, $remedy:literal, $criu:literal;)*) => {
        $(#[test]
        fn $name() {
            refused($case, &$flags, $early, $remedy, $criu);
        })*
    };
}

refused! {
    a_deleted_mapping: "deleted" [], "has /job/mapped mapped, a file that is deleted", "keep the file while it is mapped", "was deleted since";
    a_deleted_mapping_in_shm: "deleted-shm" ["--compat", "off"], "has /dev/shm/mapped mapped", "compat = \"on\"", "was deleted since";
    sysv_shared_memory: "sysv" [], "uses SysV shared memory", "POSIX shared memory", "save the payload: a process uses SysV semaphores, message queues or shared memory";
    aio_rings: "aio" [], "uses kernel asynchronous I/O", "instead of libaio", "save the payload: a process uses kernel asynchronous";
    an_io_uring: "uring" ["--compat", "off"], "uses io_uring", "compat = \"on\"", "save the payload: a process uses io_uring";
    secret_memory: "secret" [], "secret memory", "no way without privilege", "";
    a_userfaultfd: "userfaultfd" [], "cannot save: userfaultfd", "no way without privilege", "";
    a_landlock_ruleset: "landlock" [], "cannot save: landlock-ruleset", "no way without privilege", "";
    an_eventfd_that_is_a_semaphore: "eventfd" [], "an eventfd with EFD_SEMAPHORE", "use a pipe", "payload: process 301 (python3) has an eventfd with EFD_SEMAPHORE";
    a_posix_message_queue: "queue" [], "has a POSIX message queue open", "use a pipe", "opened outside the sandbox";
    a_seccomp_filter: "seccomp" [], "has a seccomp filter", "without its own sandbox", "save the payload: a process has a seccomp filter";
    a_seccomp_filter_of_a_process_whose_name_is_no_text: "nameless" [], "has a seccomp filter", "without its own sandbox", "save the payload: a process has a seccomp filter";
    a_memfd_that_is_mapped_and_open: "memfd" [], "maps a memfd whose descriptor is still open", "close the descriptor", "payload: process 301 (python3) maps a memfd";
    a_traced_process: "traced" [], "is traced by process 301", "without the debugger", "";
    a_namespace_of_its_own: "namespace" [], "has a user namespace of its own", "without a container", "";
    an_unreadable_program: "unreadable" [], "runs /job/sleeper, which it may execute but not read", "make the program readable", "";
    a_socket_to_a_virtual_machine_s_host: "vsock" [], "without privilege: AF_VSOCK", "no way without privilege", "";
    a_fuse_server: "fuse" [], "has /job/fuse open", "no way without privilege", "";
}

#[test]
fn sysv_semaphores_are_refused_at_the_dump() {
    let bench = Bench::new();
    let host = bench.host("host", FIRST_USER);
    let mut job = start(&host, &[], &["semaphores"]).unwrap();
    job.signal(Signal::SIGUSR2);
    job.until("condor-criu.log", "cannot save the payload: a process uses SysV semaphores");
    assert_eq!(fs::metadata(host.checkpoint()).unwrap().len(), 0);
}

/// What is said early, and then a dump that succeeds all the same.
fn saved(host: &Host<'_>, mut job: Running<'_>, early: Option<(&str, &str)>) {
    if let Some((why, remedy)) = early {
        job.until("condor-criu.log", "early word: process 301");
        assert!(host.log().contains(why) && host.log().contains(remedy), "{}", host.log());
    } else {
        // The look comes before anything that is said of it; a checkpoint after that time is after the look.
        std::thread::sleep(condor_criu::supervise::EARLY_WORD + std::time::Duration::from_secs(1));
        assert!(!host.log().contains("early word"), "{}", host.log());
    }
    job.signal(Signal::SIGUSR2);
    job.until("condor-criu.log", "committed generation=1");
}

#[test]
fn what_can_be_saved_is_not_warned_of() {
    let bench = Bench::new();
    let host = bench.host("host", FIRST_USER);
    let job = start(&host, &[], &["fine"]).unwrap();
    saved(&host, job, None);
}

#[test]
fn netlink_is_saved() {
    let bench = Bench::new();
    let host = bench.host("host", FIRST_USER);
    let job = start(&host, &[], &["netlink"]).unwrap();
    saved(&host, job, None);
}

#[test]
fn fanotify_is_saved() {
    let bench = Bench::new();
    let host = bench.host("host", FIRST_USER);
    if let Some(job) = start(&host, &[], &["fanotify"]) {
        saved(&host, job, None);
    }
}

#[test]
fn connections_inside_the_job_are_lost_in_the_host_s_network_and_carried_in_a_private_one() {
    let bench = Bench::new();
    let host = bench.host("host", FIRST_USER);
    let job = start(&host, &[], &["inside"]).unwrap();
    saved(&host, job, Some(("has a TCP connection to another process of the job", "network = \"private\"")));
    let host = bench.host("private", FIRST_USER);
    let job = start(&host, &["--network", "private"], &["inside"]).unwrap();
    saved(&host, job, None);
}

#[test]
fn connections_to_the_outside_are_lost() {
    let bench = Bench::new();
    let host = bench.host("host", FIRST_USER);
    let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = server.local_addr().unwrap().port().to_string();
    let job = start(&host, &[], &["outside", &port]).unwrap();
    saved(
        &host,
        job,
        Some((&format!("has a TCP connection to 127.0.0.1:{port}, which a restore closes"), "connect again")),
    );
}

#[test]
fn what_is_no_longer_true_is_taken_back() {
    let bench = Bench::new();
    let host = bench.host("host", FIRST_USER);
    let mut job = start(&host, &[], &["deleted"]).unwrap();
    job.until("condor-criu.log", "early word: the payload cannot be saved");
    // The payload lets go of all that it has.
    job.signal(Signal::SIGUSR1);
    job.until("condor-criu.log", "early word: nothing is in the way of a checkpoint any more").signal(Signal::SIGUSR2);
    job.until("condor-criu.log", "committed generation=1");
}

/// It was committed, and died by SIGSEGV at every restore.
#[test]
fn address_sanitizer_runs_and_is_refused_with_that_word() {
    const SOURCE: &str = "#include <stdio.h>\n#include <unistd.h>\nint main(void) { puts(\"up\"); fflush(stdout); sleep(2); return 3; }\n";
    let bench = Bench::new();
    for (name, more) in [("dynamic", &[][..]), ("static", &["-static-libasan"][..])] {
        let host = bench.host(name, FIRST_USER);
        let source = host.write("asan.c", SOURCE);
        let program = host.scratch.join("asan");
        let mut gcc = std::process::Command::new("gcc");
        gcc.arg("-fsanitize=address").args(more).arg("-o").arg(&program).arg(source);
        assert!(gcc.status().unwrap().success());
        let mut job = host.start(&["--", "./asan"]);
        job.until_output("up").signal(nix::sys::signal::Signal::SIGUSR2);
        job.until("condor-criu.log", "is built with AddressSanitizer");
        assert_code(&host, job.end(), 3);
    }
}
