//! The compatibility helper with the real criu: what it is for can be saved, and nothing else is changed by it.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on stops")]

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use common::local::{Bench, FIRST_USER, Host, SECOND_USER, assert_code};
use nix::sys::signal::Signal;

const POOL: &str = include_str!("payloads/compat/pool.py");

/// Through two vacates, at these lines of its output, to other hosts; the output is that of an uninterrupted run
/// without the helper.
fn moved_twice(bench: &Bench, inputs: &[(&str, &[u8])], words: &[&str], lines: [&str; 2], code: i32) -> String {
    let on = |host: &Host<'_>| {
        host.job_ad(85);
        for (name, content) in inputs {
            host.write(name, content);
        }
    };
    let mut host = bench.host("host0", FIRST_USER);
    for (number, line) in lines.into_iter().enumerate() {
        on(&host);
        let mut job = host.start(words);
        job.until_output(line).signal(Signal::SIGTERM);
        assert_code(&host, job.end(), 85);
        drop(job);
        let next = bench.host(&format!("host{}", number + 1), if number == 0 { SECOND_USER } else { FIRST_USER });
        host.carry_to(&next, &[]);
        host = next;
    }
    on(&host);
    assert_code(&host, host.run(words), code);
    assert_eq!(host.stderr(), "", "{}", host.log());
    host.stdout()
}

fn compiled(bench: &Bench, source: &str, more: &[&str]) -> Vec<u8> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/payloads").join(source);
    let program = bench.path().join("program");
    let status = Command::new("gcc").args(["-O1", "-w", "-o"]).arg(&program).arg(source).args(more).status().unwrap();
    assert!(status.success());
    fs::read(program).unwrap()
}

fn python(method: &str) {
    let bench = Bench::new();
    let words = ["--", "python3", "pool.py", method];
    let moved = moved_twice(&bench, &[("pool.py", POOL.as_bytes())], &words, ["step 4 ", "step 17 "], 0);
    let steps: String = (0..30).map(|n| format!("step {n} {} {}\n", n * n, (n + 1) * (n + 1))).collect();
    let buffer: String = (0..30).map(|n| format!("{n:02x}")).collect();
    assert_eq!(moved, format!("{steps}total 435 {buffer} 0\n[]\nbare True\n"));
}

#[test]
fn python_s_process_pools_move_when_forked() {
    python("fork");
}

#[test]
fn python_s_process_pools_move_when_spawned() {
    python("spawn");
}

#[test]
fn python_s_process_pools_move_with_a_fork_server() {
    python("forkserver");
}

#[test]
fn posix_s_named_things_answer_as_without_the_helper_and_move() {
    let bench = Bench::new();
    let program = compiled(&bench, "compat/named.c", &["-lpthread"]);
    let plain = bench.host("plain", FIRST_USER);
    plain.write("named", &program);
    assert_code(&plain, plain.run(&["--compat", "off", "--", "./named", "30"]), 42);
    let moved = moved_twice(&bench, &[("named", &program)], &["--", "./named", "30"], ["step 5 ", "step 15 "], 42);
    // Three answers are meant to differ: io_uring_setup's, and that of a child which looks for the helper.
    let same = |text: &str| {
        let all = text.lines().filter(|line| !line.starts_with("syscall(425, 0, 0)") && *line != "without");
        all.map(|line| line.to_owned() + "\n").collect::<String>()
    };
    assert_eq!(same(&moved), same(&plain.stdout()));
    assert!(moved.contains("syscall(425, 0, 0) -1 ENOSYS") && !moved.contains("without"), "{moved}");
    assert_eq!(plain.stdout().matches("without").count(), 8, "{}", plain.stdout());
}

#[test]
fn without_the_helper_a_named_semaphore_cannot_be_saved_and_the_words_name_the_setting() {
    let bench = Bench::new();
    let host = bench.host("host", FIRST_USER);
    host.write("named", compiled(&bench, "compat/named.c", &["-lpthread"]));
    let mut job = host.start(&["--compat", "off", "--", "./named", "30"]);
    job.until_output("step 2 ").signal(Signal::SIGUSR2);
    job.until("condor-criu.log", "cannot save the payload");
    assert!(host.log().contains("compat"), "{}", host.log());
    assert_code(&host, job.end(), 42);
}

#[test]
fn what_is_removed_and_not_used_any_more_takes_no_room() {
    let bench = Bench::new();
    let host = bench.host("host", FIRST_USER);
    let script = "import os\nfrom multiprocessing import Lock, shared_memory\n\
        for n in range(300):\n\
        \x20   memory = shared_memory.SharedMemory(create=True, size=1 << 20)\n\
        \x20   memory.buf[:1 << 20] = bytes(1 << 20)\n\
        \x20   memory.unlink() if n % 2 else memory.close()\n\
        \x20   memory.close() if n % 2 else memory.unlink()\n\
        \x20   del memory\n\
        for n in range(300):\n    lock = Lock()\n    del lock\n\
        usage = os.statvfs('/dev/shm')\n\
        print(len(os.listdir('/dev/shm')), (usage.f_blocks - usage.f_bfree) * usage.f_frsize)\n";
    assert_code(&host, host.run(&["--", "python3", "-c", script]), 0);
    let numbers: Vec<u64> = host.stdout().split_whitespace().map(|word| word.parse().unwrap()).collect();
    // Every 64th is a look at all: at most that many are left, of a megabyte each if they were the large ones.
    assert!(numbers[0] <= 70 && numbers[1] < 70 << 20, "{numbers:?}\n{}", host.stderr());
}

#[test]
fn node_moves() {
    let bench = Bench::new();
    if Command::new("node").arg("--version").output().is_err() {
        panic!("node is missing: tests/setup/packages installs it");
    }
    let script = "const fs = require('fs'), crypto = require('crypto');\nlet n = 0, digest = '';\n\
        function step() {\n  fs.promises.appendFile('log', n + '\\n').then(() => {\n\
        digest = crypto.createHash('sha256').update(digest + n).digest('hex');\n\
        console.log('step ' + n + ' ' + digest);\n    if (++n < 30) setTimeout(step, 100); else process.exit(9);\n  });\n}\nstep();\n";
    let words = ["--", "node", "work.js"];
    let plain = bench.host("plain", FIRST_USER);
    plain.write("work.js", script);
    assert_code(&plain, plain.run(&words), 9);
    assert_eq!(
        moved_twice(&bench, &[("work.js", script.as_bytes())], &words, ["step 5 ", "step 15 "], 9),
        plain.stdout()
    );
}

#[test]
fn a_removal_elsewhere_costs_nothing_that_can_be_measured() {
    let bench = Bench::new();
    let script = "import os, time\n\
        def once():\n    began = time.perf_counter()\n\
        \x20   for n in range(20000):\n        try: os.unlink('nothing')\n        except OSError: pass\n\
        \x20   return time.perf_counter() - began\nprint(min(once() for n in range(5)))\n";
    let measure = |name: &str, compat: &str| {
        let host = bench.host(name, FIRST_USER);
        assert_code(&host, host.run(&["--compat", compat, "--", "python3", "-c", script]), 0);
        Duration::from_secs_f64(host.stdout().trim().parse().unwrap())
    };
    let began = Instant::now();
    let (without, with) = (measure("off", "off"), measure("on", "on"));
    // A system call is a thousand times the comparison of a first byte; a busy machine is no reason to fail.
    assert!(with < without * 2, "{with:?} instead of {without:?} after {:?}", began.elapsed());
}
