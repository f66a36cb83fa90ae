//! CRIU's own test programs (`test/zdtm/static` of its source) through condor-criu. Each of them makes something of the kernel's, waits, and
//! says whether it is still as it was. Whoever runs this has built them; nothing of them is here.
//!
//!     CONDOR_CRIU_ZDTM=FOLDER cargo test --locked --profile fast-test --test zdtm -- --include-ignored --nocapture
//!
//! `CONDOR_CRIU_ZDTM_ONLY=NAME,NAME` takes some of them.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on stops")]

mod common;
#[path = "zdtm/course.rs"]
mod course;

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use common::local::Bench;
use course::{Answer, Class, Program, Way};

const FOLDER: &str = "CONDOR_CRIU_ZDTM";
const ALLOWED: &str = "CONDOR_CRIU_ALLOW_NO_ZDTM";
const ONLY: &str = "CONDOR_CRIU_ZDTM_ONLY";
const WAYS: [Way; 4] = [Way::Undisturbed, Way::Moved(1), Way::Moved(3), Way::DumpFailed];
/// They take fixed ports of this host's network: one after the other.
const NETWORK: [&str; 6] = ["sock", "sk-", "tcp", "udp", "netns", "net_lock"];
const AT_ONCE: usize = 3;

type Answers = BTreeMap<String, BTreeMap<Way, Answer>>;

/// `None` where it is allowed that there are none.
fn programs() -> Option<Vec<Program>> {
    let Some(folder) = std::env::var_os(FOLDER).map(PathBuf::from) else {
        let allowed = std::env::var_os(ALLOWED).is_some();
        assert!(allowed, "{FOLDER} is not set, a folder of CRIU's built test programs: allow that with {ALLOWED}=1");
        eprintln!("{FOLDER} is not set: none of CRIU's test programs was run");
        return None;
    };
    let only = std::env::var(ONLY).ok();
    let wanted = |file: &Path| {
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        only.as_ref().is_none_or(|only| only.split(',').any(|word| word == name))
    };
    let is_program = |file: &Path| {
        let runs = fs::metadata(file).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0);
        runs && file.extension().is_none()
    };
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{FOLDER}={}: {error}", folder.display()));
    let files = entries.flatten().map(|entry| entry.path()).filter(|file| is_program(file) && wanted(file));
    let mut found: Vec<Program> = files.filter_map(|file| Program::at(&file)).collect();
    assert!(!found.is_empty(), "{FOLDER}={} has no built test program of CRIU's", folder.display());
    found.sort_by(|one, other| one.name.cmp(&other.name));
    Some(found)
}

/// Every way; what fails undisturbed goes no further.
fn drive(bench: &Bench, program: &Program) -> BTreeMap<Way, Answer> {
    let mut answers = BTreeMap::new();
    for way in WAYS {
        let answer = program.through(bench, way);
        let over = answer.0 == Class::Impossible;
        answers.insert(way, answer);
        if over {
            break;
        }
    }
    answers
}

/// The worst of all ways, and its word.
fn worst(answers: &BTreeMap<Way, Answer>) -> (Way, &Answer) {
    let (way, answer) = answers.iter().max_by_key(|(_, answer)| answer.0).unwrap();
    (*way, answer)
}

fn table(answers: &Answers) -> String {
    let mut text = String::from(
        "| program | undisturbed | one move | three moves | failed dump | word |\n|---|---|---|---|---|---|\n",
    );
    for (name, ways) in answers {
        write!(text, "| {name} |").unwrap();
        for way in WAYS {
            write!(text, " {} |", ways.get(&way).map_or("", |answer| answer.0.words())).unwrap();
        }
        writeln!(text, " {} |", worst(ways).1.1.replace('|', "/").replace('\n', " ")).unwrap();
    }
    text
}

fn totals(answers: &Answers) -> String {
    let mut text = String::from("| | one move | three moves | failed dump |\n|---|---|---|---|\n");
    for class in [Class::Passed, Class::Refused, Class::Impossible, Class::Wrong, Class::NotRestorable, Class::Hung] {
        write!(text, "| {} |", class.words()).unwrap();
        for way in &WAYS[1..] {
            let became = |ways: &&BTreeMap<Way, Answer>| {
                ways.get(way).or_else(|| ways.get(&Way::Undisturbed)).is_some_and(|answer| answer.0 == class)
            };
            write!(text, " {} |", answers.values().filter(became).count()).unwrap();
        }
        text.push('\n');
    }
    writeln!(text, "{} programs", answers.len()).unwrap();
    text
}

#[test]
#[ignore = "needs a folder of CRIU's built test programs: CONDOR_CRIU_ZDTM"]
fn criu_s_own_programs_pass_or_are_refused_before_the_commit() {
    let Some(programs) = programs() else { return };
    let (network, others): (Vec<Program>, Vec<Program>) =
        programs.into_iter().partition(|program| NETWORK.iter().any(|word| program.name.contains(word)));
    let queues = [Mutex::new(VecDeque::from(network)), Mutex::new(VecDeque::from(others))];
    let answers = Mutex::new(Answers::new());
    let bench = Bench::new();
    let next = |queue: usize| queues[queue].lock().unwrap().pop_front();
    std::thread::scope(|scope| {
        for worker in 0..AT_ONCE {
            let (answers, bench, next) = (&answers, &bench, &next);
            scope.spawn(move || {
                // One alone takes those of the network; it helps the others when it is done.
                let mut queue = usize::from(worker > 0);
                loop {
                    let Some(program) = next(queue) else {
                        if std::mem::replace(&mut queue, 1) == 1 {
                            return;
                        }
                        continue;
                    };
                    let ways = drive(bench, &program);
                    let (way, (class, word)) = worst(&ways);
                    println!("{}: {} ({way:?}) {word}", program.name, class.words());
                    answers.lock().unwrap().insert(program.name.clone(), ways);
                }
            });
        }
    });
    let answers = answers.into_inner().unwrap();
    let (table, totals) = (table(&answers), totals(&answers));
    fs::write(Path::new(env!("CARGO_TARGET_TMPDIR")).join("zdtm.md"), format!("{table}\n{totals}")).unwrap();
    println!("{table}\n{totals}");
    let bad = |ways: &&BTreeMap<Way, Answer>| ways.values().any(|answer| answer.0.is_bad());
    let count = answers.values().filter(bad).count();
    assert_eq!(count, 0, "{count} programs were wrong, lost or hung");
}
