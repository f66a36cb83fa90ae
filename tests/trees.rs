//! Trees of files that chance has made: every mode, name, kind of link and special file, holes, attributes, open in
//! every way by two processes, deleted, renamed, cut, mapped and locked. After three moves the tree, and what each
//! descriptor reads and writes, is that of a run that nobody disturbed. The payload (`tests/payloads/trees.py`)
//! compares what it sees with what it saw, and prints what it does at the end.
//!
//! CONDOR_CRIU_TREES_SEED=N begins with tree N, CONDOR_CRIU_TREES=N makes N trees.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on stops")]

mod common;

use std::path::Path;

use common::local::{Bench, FIRST_USER, Host, SECOND_USER, assert_code};
use common::random::number;
use nix::sys::signal::Signal;

/// Trees of an ordinary run, and of a long one.
const TREES: u64 = 12;
const MANY: u64 = 1000;
const MOVES: usize = 3;

const PAYLOAD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/payloads/trees.py");

fn new_host<'a>(bench: &'a Bench, name: &str, user: u32) -> Host<'a> {
    let host = bench.host(name, user);
    host.write("trees.py", std::fs::read(PAYLOAD).unwrap());
    host
}

/// One tree, moved; panics with its seed.
fn check(seed: u64, place: &Path) {
    let bench = Bench::at(place);
    let number = seed.to_string();
    let words = ["--", "python3", "trees.py", &number];
    let peace = new_host(&bench, "peace", FIRST_USER);
    peace.write("go", "");
    assert_code(&peace, peace.run(&words), 0);

    let mut host = new_host(&bench, "first", FIRST_USER);
    for turn in 1..=MOVES {
        {
            let mut job = host.start(&words);
            if turn == 1 {
                job.until_output("ready");
            } else {
                job.until("condor-criu.log", &format!("runs again generation={}", turn - 1));
            }
            job.signal(Signal::SIGTERM);
            assert_code(&host, job.end(), 85);
        }
        let next = new_host(&bench, &format!("next{turn}"), if turn % 2 == 1 { SECOND_USER } else { FIRST_USER });
        host.carry_to(&next, &[]);
        host = next;
    }
    let mut job = host.start(&words);
    job.until("condor-criu.log", &format!("runs again generation={MOVES}"));
    host.write("go", "");
    assert_code(&host, job.end(), 0);
    assert_eq!(host.stdout(), peace.stdout(), "seed {seed} in {}: {}", place.display(), host.log());
}

fn trees(place: &Path, part: u64) {
    let long = std::env::var_os("CONDOR_CRIU_LONG").is_some_and(|value| value == "1");
    let first = number("CONDOR_CRIU_TREES_SEED").unwrap_or(1 + part * 1_000_000);
    let count = number("CONDOR_CRIU_TREES").unwrap_or(if long { MANY } else { TREES });
    for seed in first..first + count {
        eprintln!("tree {seed} in {}", place.display());
        check(seed, place);
    }
}

#[test]
fn any_tree_of_files_is_after_three_moves_what_it_was() {
    trees(&std::env::temp_dir(), 0);
}

#[test]
fn any_tree_of_files_in_memory_is_after_three_moves_what_it_was() {
    trees(Path::new("/dev/shm"), 1);
}
