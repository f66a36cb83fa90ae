//! One of CRIU's own test programs through condor-criu, and what became of it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::common::local::{Bench, FIRST_USER, Host, Running, SECOND_USER, criu_without_ghosts};

const DRIVER: &str = include_str!("../payloads/zdtm.py");
/// A program that needs longer than the driver's own patience hangs.
const PATIENCE: Duration = Duration::from_secs(45);
/// A save that is refused for what passes is tried again, each second, eight times.
const SAVE: Duration = Duration::from_secs(60);
/// What a program does after it stands, and what a dump may then find it at.
const A_LITTLE: Duration = Duration::from_millis(150);

/// What became of a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    Passed,
    /// Before the commit.
    Refused,
    /// Without any save, in the sandbox.
    Impossible,
    /// It came back, and says that something is not as it was.
    Wrong,
    /// A checkpoint was committed that cannot be restored.
    NotRestorable,
    Hung,
}

impl Class {
    pub fn words(self) -> &'static str {
        match self {
            Class::Passed => "passed",
            Class::Refused => "refused before the commit",
            Class::Impossible => "impossible without root even undisturbed",
            Class::Wrong => "restored but wrong",
            Class::NotRestorable => "committed and not restorable",
            Class::Hung => "hung",
        }
    }

    /// What must not be.
    pub fn is_bad(self) -> bool {
        matches!(self, Class::Wrong | Class::NotRestorable | Class::Hung)
    }
}

/// What is done to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    Undisturbed,
    Moved(usize),
    /// criu fails at the last process of the tree, and everything goes on.
    DumpFailed,
}

/// What became of it, and the word that explains it.
pub type Answer = (Class, String);

/// A program and what it wants to be started with.
pub struct Program {
    pub name: String,
    file: PathBuf,
    words: Vec<String>,
}

/// What a test's option is set to where CRIU's own suite does not say "a name of its own".
fn value_of(program: &str, option: &str) -> Option<String> {
    Some(match (program, option) {
        ("umask00", "mask") => "0345".into(),
        ("env00", "envname") => "ENV_00_TEST".into(),
        ("shm-unaligned", "shmem_size") => "5000".into(),
        ("shm-hugetlb", "shmem_size") => "4194304".into(),
        (_, "arg1" | "arg2" | "arg3") => option.to_owned(),
        (_, "dirname") => format!("{program}.dir.test"),
        (_, "filename") => format!("{program}.test"),
        (_, "name_master" | "name_slave") => format!("{program}.{option}.test"),
        _ => return None,
    })
}

impl Program {
    /// A program tells its options itself: `  --filename=string<tab>file name`, in brackets if it can do without.
    pub fn at(file: &Path) -> Option<Program> {
        let name = file.file_name()?.to_str()?.to_owned();
        let output = Command::new("timeout").args(["-s", "KILL", "5"]).arg(file).arg("--help").output().ok()?;
        let help = String::from_utf8_lossy(&output.stderr).into_owned();
        let options = help.lines().filter_map(|line| line.split('\t').next()?.split("--").nth(1)?.split_once('='));
        let options: BTreeMap<&str, bool> = options.map(|(name, kind)| (name, !kind.contains(']'))).collect();
        // What else is in the folder is none of them.
        if !options.contains_key("pidfile") || !options.contains_key("outfile") {
            return None;
        }
        let more = options.iter().filter_map(|(option, wanted)| {
            let value = value_of(&name, option).filter(|_| *wanted || name.starts_with("shm-"))?;
            Some(format!("--{option}={value}"))
        });
        let own = ["--pidfile=verdict.pid".to_owned(), "--outfile=verdict.out".to_owned()];
        let words = own.into_iter().chain(more).collect();
        Some(Program { name, file: file.to_owned(), words })
    }

    fn start<'h>(&self, host: &'h Host<'_>, way: Way) -> Running<'h> {
        host.write("driver.py", DRIVER);
        host.write(&self.name, fs::read(&self.file).unwrap());
        let path = format!("./{}", self.name);
        let mut words = vec!["--", "python3", "driver.py"];
        if way == Way::DumpFailed {
            words.push("--late");
        }
        words.push(&path);
        words.extend(self.words.iter().map(String::as_str));
        host.start(&words)
    }

    /// Drives it that way. Its directories are gone afterwards.
    pub fn through(&self, bench: &Bench, way: Way) -> Answer {
        let home = format!("{}-{way:?}", self.name).replace(['(', ')'], "");
        let answer = match way {
            Way::Undisturbed => self.undisturbed(&bench.host(&format!("{home}-0"), FIRST_USER)),
            Way::Moved(moves) => self.moved(bench, &home, moves),
            Way::DumpFailed => self.failed(bench, &home),
        };
        for number in 0..10 {
            let _ = fs::remove_dir_all(bench.path().join(format!("{home}-{number}")));
        }
        answer
    }

    fn undisturbed(&self, host: &Host<'_>) -> Answer {
        let mut job = self.start(host, Way::Undisturbed);
        if let Err(answer) = stands(&mut job, host) {
            return (Class::Impossible, answer.1);
        }
        match verdict(&mut job, host) {
            (Class::Passed, word) => (Class::Passed, word),
            (_, word) => (Class::Impossible, word),
        }
    }

    fn moved(&self, bench: &Bench, home: &str, moves: usize) -> Answer {
        let mut host = bench.host(&format!("{home}-0"), FIRST_USER);
        let way = Way::Moved(moves);
        for number in 1..=moves {
            let mut job = self.start(&host, way);
            let here = if number == 1 { stands(&mut job, &host) } else { restored(&mut job, &host, number - 1) };
            if let Err(answer) = here {
                return answer;
            }
            std::thread::sleep(A_LITTLE);
            job.signal(Signal::SIGTERM);
            if let Err(answer) = saved(&mut job, &host, number) {
                return answer;
            }
            drop(job);
            let user = if number % 2 == 0 { FIRST_USER } else { SECOND_USER };
            let next = bench.host(&format!("{home}-{number}"), user);
            host.carry_to(&next, &[]);
            host = next;
        }
        let mut job = self.start(&host, way);
        if let Err(answer) = restored(&mut job, &host, moves) {
            return answer;
        }
        std::thread::sleep(A_LITTLE);
        verdict(&mut job, &host)
    }

    fn failed(&self, bench: &Bench, home: &str) -> Answer {
        let mut host = bench.host(&format!("{home}-0"), FIRST_USER);
        host.criu = without_ghosts(bench);
        let mut job = self.start(&host, Way::DumpFailed);
        if let Err(answer) = stands(&mut job, &host) {
            return answer;
        }
        std::thread::sleep(A_LITTLE);
        job.signal(Signal::SIGUSR2);
        let failed = |host: &Host<'_>| host.log().contains("cannot save the payload");
        match wait(&mut job, &host, SAVE, failed) {
            Waited::True => {}
            Waited::Ended(status) => return (Class::Wrong, format!("ended by {status} when its dump failed")),
            Waited::Late => return (Class::Hung, "at the dump that fails".into()),
        }
        std::thread::sleep(A_LITTLE);
        verdict(&mut job, &host)
    }
}

/// A criu whose dumps fail at a deleted file that is open. One for all.
fn without_ghosts(bench: &Bench) -> PathBuf {
    static MADE: std::sync::OnceLock<PathBuf> = std::sync::OnceLock::new();
    MADE.get_or_init(|| criu_without_ghosts(&bench.path().join("criu-without-ghosts"))).clone()
}

enum Waited {
    True,
    Ended(ExitStatus),
    Late,
}

fn wait(job: &mut Running<'_>, host: &Host<'_>, limit: Duration, mut what: impl FnMut(&Host<'_>) -> bool) -> Waited {
    let deadline = Instant::now() + limit;
    loop {
        // The end first: what was written before it is looked at once more.
        let ended = job.ended();
        if what(host) {
            return Waited::True;
        }
        if let Some(status) = ended {
            return Waited::Ended(status);
        }
        if Instant::now() > deadline {
            return Waited::Late;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Until the program has said that it can be saved.
fn stands(job: &mut Running<'_>, host: &Host<'_>) -> Result<(), Answer> {
    match wait(job, host, PATIENCE, |host| host.stdout().contains("it stands\n")) {
        Waited::True => Ok(()),
        Waited::Ended(_) => Err((Class::Impossible, last_words(host))),
        Waited::Late => Err((Class::Hung, "before it stood".into())),
    }
}

fn saved(job: &mut Running<'_>, host: &Host<'_>, number: usize) -> Result<(), Answer> {
    let before = host.log().len();
    // What may pass is tried again some times; then the signal is the program's own.
    let refused = |log: &str| {
        let last = log.contains("cannot save the payload: ") || log.contains("passing the signal on");
        let line = log.lines().rev().find(|line| line.contains("cannot save the payload")).filter(|_| last)?;
        Some(line.split("cannot save the payload").nth(1)?.split_once(": ")?.1.to_owned())
    };
    match wait(job, host, SAVE, |host| refused(&host.log()).is_some()) {
        Waited::True => Err((Class::Refused, refused(&host.log()).unwrap_or_default())),
        Waited::Ended(status) if status.code() == Some(85) => Ok(()),
        Waited::Ended(status) => {
            let log = host.log();
            let news = log.get(before..).unwrap_or(&log).trim().replace('\n', "; ");
            Err((Class::Wrong, format!("ended by {status} at save {number}: {news}")))
        }
        Waited::Late => Err((Class::Hung, format!("at save {number}"))),
    }
}

fn restored(job: &mut Running<'_>, host: &Host<'_>, generation: usize) -> Result<(), Answer> {
    let again = format!("the payload runs again generation={generation} ");
    match wait(job, host, PATIENCE, |host| host.log().contains(&again)) {
        Waited::True => Ok(()),
        Waited::Ended(status) => {
            let log = host.log();
            let error = log.lines().rev().find(|line| line.contains("ERROR")).unwrap_or_default();
            let word = error.split("ERROR ").nth(1).unwrap_or(error);
            Err((Class::NotRestorable, format!("generation {generation}: {status}: {word} {}", host.stderr().trim())))
        }
        Waited::Late => Err((Class::Hung, format!("at restore {generation}"))),
    }
}

fn verdict(job: &mut Running<'_>, host: &Host<'_>) -> Answer {
    host.write("go", "");
    match wait(job, host, PATIENCE, |_| false) {
        Waited::Ended(status) if status.success() && host.stdout().contains("verdict: pass") => {
            (Class::Passed, String::new())
        }
        Waited::Ended(status) if status.code() == Some(4) => {
            let class = if host.stdout().contains("verdict: it hangs") { Class::Hung } else { Class::Wrong };
            (class, last_words(host))
        }
        Waited::Ended(status) => (Class::Wrong, format!("{status}: {}", last_words(host))),
        _ => (Class::Hung, "at its end".into()),
    }
}

/// What the program says of a failure.
fn last_words(host: &Host<'_>) -> String {
    let (stdout, stderr) = (host.stdout(), host.stderr());
    let lines: Vec<&str> = stdout.lines().chain(stderr.lines()).collect();
    let told = lines.iter().find(|line| line.contains("FAIL: ") || line.contains("ERR: "));
    let said = |line: &&&str| !line.trim().is_empty() && !line.starts_with("it stands");
    let last = lines.iter().rev().find(said);
    told.or(last).map_or(String::new(), |line| line.trim().to_owned())
}
