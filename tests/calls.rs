//! No program can tell by its system calls that it was saved: every kind of blocking call goes on as it does when the
//! kernel stops a program and lets it go on, with the time that was left.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on stops")]

mod common;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::local::{Bench, FIRST_USER, Host, PATIENCE, SECOND_USER, assert_code, criu_without_ghosts};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

/// These write what is left of their time themselves when they are interrupted: while they are stopped, it stands
/// still, as it does when the kernel stops them. And so it does for criu's timerfd.
const REST_STANDS_STILL: [&str; 4] = ["ppoll(timeout)", "select(timeout)", "pselect(timeout)", "read(timerfd)"];
/// The kernel lets these return EINTR after a stop. Here they go on.
const BETTER: [&str; 3] = ["epoll_wait", "epoll_pwait2", "sigwaitinfo"];
/// These wait for an instant of the wall clock, which goes on while a program is on its way.
const BY_THE_WALL_CLOCK: [&str; 4] =
    ["pthread_mutex_timedlock", "pthread_cond_timedwait", "pthread_timedjoin_np", "sem_timedwait"];

/// What a call answered, and how many milliseconds too late if it had a time.
type Answer = (String, Option<f64>);
/// By the call's name, and `main` or `thread`.
type Answers = BTreeMap<(String, String), Answer>;

fn answers(stdout: &str) -> Answers {
    assert!(stdout.ends_with("end\n"), "{stdout}");
    let lines = stdout.lines().filter(|line| *line != "waiting" && *line != "end");
    let line = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        let said = match words.get(3).copied() {
            Some("-") => words[2].to_owned(),
            Some(error) => error.to_owned(),
            None => words[2].to_owned(),
        };
        let late = words.get(4).and_then(|late| late.parse().ok());
        ((words[0].to_owned(), words[1].to_owned()), (said, late))
    };
    lines.map(line).collect()
}

fn compiled(bench: &Bench) -> Vec<u8> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/payloads/calls.c");
    let program = bench.path().join("program");
    let words = ["-O1", "-w", "-pthread", "-o"];
    let status = Command::new("gcc").args(words).arg(&program).arg(source).arg("-lutil").status().unwrap();
    assert!(status.success());
    fs::read(program).unwrap()
}

/// Without condor-criu: stopped for a second by signals.
fn stopped_by_the_kernel(host: &Host<'_>) -> Answers {
    let stdout = host.scratch.join("_condor_stdout");
    let mut command = Command::new(host.scratch.join("calls"));
    command.arg("2.5").current_dir(&host.scratch).stdin(Stdio::null()).stdout(fs::File::create(&stdout).unwrap());
    let mut child = command.process_group(0).spawn().unwrap();
    let group = Pid::from_raw(child.id() as i32);
    let deadline = Instant::now() + PATIENCE;
    while !host.stdout().contains("waiting") {
        assert!(Instant::now() < deadline, "{}", host.stdout());
        std::thread::sleep(Duration::from_millis(5));
    }
    killpg(group, Signal::SIGSTOP).unwrap();
    std::thread::sleep(Duration::from_secs(1));
    killpg(group, Signal::SIGCONT).unwrap();
    std::thread::sleep(A_LITTLE);
    host.write("go", "");
    assert!(child.wait().unwrap().success());
    answers(&host.stdout())
}

fn goes_on(host: &Host<'_>, ghost: &str, told: &str) -> Answers {
    let mut job = host.start(&["--", "./calls", "4", ghost]);
    job.until_output("waiting").signal(Signal::SIGUSR2);
    job.until("condor-criu.log", told);
    std::thread::sleep(A_LITTLE);
    host.write("go", "");
    assert_code(host, job.end(), 0);
    answers(&host.stdout())
}

fn moved(bench: &Bench, program: &[u8], moves: usize, seconds: &str) -> Answers {
    let words = ["--", "./calls", seconds];
    let mut host = bench.host(&format!("moved{moves}-0"), FIRST_USER);
    host.write("calls", program);
    for number in 1..=moves {
        let mut job = host.start(&words);
        job.until_output("waiting");
        if number > 1 {
            job.until("condor-criu.log", &format!("the payload runs again generation={}", number - 1));
        }
        job.signal(Signal::SIGTERM);
        assert_code(&host, job.end(), 85);
        drop(job);
        let next =
            bench.host(&format!("moved{moves}-{number}"), if number % 2 == 1 { SECOND_USER } else { FIRST_USER });
        host.carry_to(&next, &["calls"]);
        host = next;
    }
    let mut job = host.start(&words);
    job.until("condor-criu.log", &format!("the payload runs again generation={moves}"));
    std::thread::sleep(A_LITTLE);
    host.write("go", "");
    assert_code(&host, job.end(), 0);
    answers(&host.stdout())
}

/// What became of a call, in both places.
fn outcome(answers: &Answers, name: &str) -> String {
    let told: Vec<&Answer> = ["main", "thread"].map(|place| &answers[&(name.to_owned(), place.to_owned())]).into();
    let ended_by_a_handler = name.ends_with("(handler)") || name == "pause" || name == "sigsuspend";
    match told.iter().map(|(said, _)| said.as_str()).find(|said| ["EINTR", "EAGAIN", "never"].contains(said)) {
        Some(said) if said != "EINTR" || !ended_by_a_handler => return said.to_owned(),
        _ => {}
    }
    let lates = told.iter().filter_map(|(_, late)| *late);
    match lates.max_by(|one, other| one.abs().total_cmp(&other.abs())) {
        Some(late) if late >= 10.0 => format!("goes on, {late:.0} ms late"),
        Some(late) if late <= -10.0 => format!("goes on, {:.0} ms early", -late),
        _ => "goes on".to_owned(),
    }
}

/// The table of docs/limits.md; calls of which the same is seen are in one line.
fn table(seen: &[(&str, Answers)]) -> String {
    let mut text = String::from("| call |");
    for (title, _) in seen {
        write!(text, " {title} |").unwrap();
    }
    text.push_str("\n|---|");
    text.push_str(&"---|".repeat(seen.len()));
    text.push('\n');
    let mut lines: Vec<(String, Vec<String>)> = Vec::new();
    for (name, _) in seen[0].1.keys().filter(|(_, place)| place == "main") {
        let cells: Vec<String> = seen.iter().map(|(_, answers)| outcome(answers, name)).collect();
        match lines.iter_mut().find(|(_, same)| *same == cells) {
            Some((names, _)) => write!(names, ", `{name}`").unwrap(),
            None => lines.push((format!("`{name}`"), cells)),
        }
    }
    for (names, cells) in lines {
        writeln!(text, "| {names} | {} |", cells.join(" | ")).unwrap();
    }
    text
}

#[test]
fn every_blocking_call_goes_on_as_after_a_stop() {
    let bench = Bench::new();
    let program = compiled(&bench);
    let host = |name: &str| {
        let host = bench.host(name, FIRST_USER);
        host.write("calls", &program);
        host
    };
    let by_the_kernel = stopped_by_the_kernel(&host("stopped"));
    let (mut refused, mut late) = (host("refused"), host("late"));
    refused.criu = criu_without_ghosts(&refused.scratch.parent().unwrap().join("fake"));
    late.criu.clone_from(&refused.criu);
    let seen = [
        ("SIGSTOP, SIGCONT", by_the_kernel.clone()),
        ("saved, goes on", goes_on(&host("saved"), "first", "committed")),
        ("dump failed early", goes_on(&refused, "first", "cannot save the payload")),
        ("dump failed late", goes_on(&late, "last", "cannot save the payload")),
        ("restored", moved(&bench, &program, 1, "4")),
        ("moved three times", moved(&bench, &program, 3, "8")),
    ];
    let table = table(&seen);
    fs::write(Path::new(env!("CARGO_TARGET_TMPDIR")).join("calls.md"), &table).unwrap();
    let mut wrong = Vec::new();
    for (title, answers) in &seen {
        for (of @ (name, _), (said, late)) in answers {
            let better = BETTER.contains(&name.as_str()) && said == "1";
            if *said != by_the_kernel[of].0 && !better {
                wrong.push(format!("{title}: {of:?} answered {said}, the kernel {}", by_the_kernel[of].0));
            }
            let (Some(late), true) = (late, said != "EINTR" || name.ends_with("(handler)")) else { continue };
            let restored = title.contains("restored") || title.contains("moved");
            let early = restored && BY_THE_WALL_CLOCK.contains(&name.as_str());
            let most = if REST_STANDS_STILL.contains(&name.as_str()) { 15_000.0 } else { MOST_LATE };
            if (*late < -MOST_EARLY && !early) || *late > most {
                wrong.push(format!("{title}: {of:?} came {late} ms too late"));
            }
        }
    }
    assert!(wrong.is_empty(), "{table}\n{}", wrong.join("\n"));
}

/// Nothing tells how long this one has slept: it begins again with the whole of its time, once, and that is said.
#[test]
fn a_sleep_that_was_stopped_before_a_save_is_slept_again_from_its_begin() {
    let bench = Bench::new();
    let host = bench.host("host", FIRST_USER);
    let script = "python3 -c 'import select; select.poll().poll(3000)' & p=$!; sleep 3 & q=$!; sleep 0.5; kill -STOP $p $q; \
                  kill -CONT $p $q; sleep 0.3; echo up; wait $q; echo slept $?; wait $p; echo polled $?";
    let began = Instant::now();
    let mut job = host.start(&["--", "sh", "-c", script]);
    job.until_output("up");
    let up = began.elapsed().as_secs_f64();
    for generation in 1..=3 {
        job.signal(Signal::SIGUSR2);
        job.until("condor-criu.log", &format!("committed generation={generation}"));
        std::thread::sleep(Duration::from_millis(500));
    }
    assert_code(&host, job.end(), 0);
    let took = began.elapsed().as_secs_f64();
    // The sleep's rest is known: the kernel wrote it down.
    assert!((3.0..3.8).contains(&(took - up)), "{took} {up}");
    assert_eq!(host.stdout(), "up\nslept 0\npolled 0\n");
    assert_eq!(host.log().matches("begins again with the whole").count(), 1, "{}", host.log());
}

/// Between the end of a stop and what ends the calls.
const A_LITTLE: Duration = Duration::from_millis(100);
/// Milliseconds.
const MOST_EARLY: f64 = 10.0;
/// On a machine that does other things too.
const MOST_LATE: f64 = 150.0;
