//! Other kernels and other processors: what this machine has saved goes on in virtual machines under software
//! emulation, or is refused. Only with `./test --long`: each life in a machine takes up to a minute.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on stops")]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use common::local::{Bench, FIRST_USER, Host, real_criu};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// numpy with OpenBLAS: as many numbers as a machine under emulation makes in a minute.
const PROGRAM: &[u8] = include_bytes!("payloads/matrix.py");

fn setup(script: &str, argument: &str) -> PathBuf {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/setup").join(script);
    let output = Command::new(script).arg(argument).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    PathBuf::from(String::from_utf8(output.stdout).unwrap().trim())
}

/// A folder with condor-criu and criu, and scratch directories below it.
fn bench() -> Bench {
    let bench = Bench::new();
    assert!(
        Command::new("cp").arg("-r").arg(real_criu()).arg(bench.path().join("criu-folder")).status().unwrap().success()
    );
    bench
}

fn job(host: &Host<'_>, bench: &Bench, baseline: &str) -> String {
    let name = host.scratch.strip_prefix(bench.path()).unwrap().display();
    format!(
        "cd {name}; exec /mnt/condor-criu run --criu /mnt/criu-folder --cpu-baseline {baseline} -- python3 matrix.py \
         >>_condor_stdout 2>>_condor_stderr"
    )
}

/// A life on this machine's kernel and processor, in the root that the machines have too; vacated after this line.
fn here(bench: &Bench, host: &Host<'_>, baseline: &str, until: Option<&str>) -> i32 {
    here_in("numeric", bench, host, baseline, until)
}

fn here_in(root: &str, bench: &Bench, host: &Host<'_>, baseline: &str, until: Option<&str>) -> i32 {
    let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/setup/in-root"));
    command.arg(setup("root", root)).arg(bench.path()).arg(FIRST_USER.to_string());
    command.args(["sh", "-c", &job(host, bench, baseline)]).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    let mut child = command.spawn().unwrap();
    if let Some(line) = until {
        let deadline = Instant::now() + Duration::from_secs(120);
        while !host.stdout().contains(line) {
            assert!(child.try_wait().unwrap().is_none() && Instant::now() < deadline, "{}", host.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", child.id())).unwrap();
        kill(Pid::from_raw(children.trim().parse().unwrap()), Signal::SIGTERM).unwrap();
    }
    child.wait().unwrap().code().unwrap()
}

/// A life in a machine with this kernel and this processor, in a copy of the scratch directory on its own disk; what is
/// left comes back.
fn there(bench: &Bench, host: &Host<'_>, baseline: &str, machine: (&str, &str), vacate_after: Option<&str>) -> i32 {
    there_in("numeric", bench, host, baseline, machine, vacate_after)
}

fn there_in(
    root: &str,
    bench: &Bench,
    host: &Host<'_>,
    baseline: &str,
    machine: (&str, &str),
    vacate_after: Option<&str>,
) -> i32 {
    let name = host.scratch.strip_prefix(bench.path()).unwrap().display().to_string();
    let job = job(host, bench, baseline).replace(&format!("cd {name}"), "cd /tmp/scratch");
    let wait = vacate_after.map_or(String::new(), |line| {
        format!("while ! grep -q '{line}' /tmp/scratch/_condor_stdout; do sleep 0.2; done; kill -TERM $job; ")
    });
    let script = format!(
        "cp -r /mnt/{name} /tmp/scratch; chown -R {FIRST_USER}:{FIRST_USER} /tmp/scratch\n\
         setpriv --reuid {FIRST_USER} --regid {FIRST_USER} --clear-groups sh -c '{job}' &\njob=$!\n{wait}\nwait $job\ncode=$?\n\
         cp -r /tmp/scratch/. /mnt/{name}/\nexit $code\n"
    );
    fs::write(bench.path().join("script"), script).unwrap();
    let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/setup/in-vm"));
    let output = command.arg(machine.0).arg(setup("root", root)).arg(bench.path()).arg(machine.1).output().unwrap();
    let words = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{words}");
    fs::read_to_string(bench.path().join("status")).unwrap().trim().parse().unwrap()
}

fn scratch<'b>(bench: &'b Bench, name: &str) -> Host<'b> {
    let host = bench.host(name, FIRST_USER);
    host.write("matrix.py", PROGRAM);
    fs::set_permissions(bench.path(), fs::Permissions::from_mode(0o755)).unwrap();
    host
}

/// What a run that nothing disturbs prints here, with this baseline: OpenBLAS rounds by the code that it chose.
fn peace(bench: &Bench, baseline: &str) -> String {
    let host = scratch(bench, &format!("peace-{baseline}"));
    assert_eq!(here(bench, &host, baseline, None), 42, "{}", host.log());
    host.stdout()
}

fn moves(baseline: &str, machine: (&str, &str)) {
    let bench = bench();
    let expected = peace(&bench, baseline);
    let host = scratch(&bench, "job");
    assert_eq!(here(&bench, &host, baseline, Some("step 20 ")), 85, "{}", host.log());
    assert_eq!(there(&bench, &host, baseline, machine, Some("step 35 ")), 85, "{}", host.log());
    // And back, where the processor has more.
    assert_eq!(here(&bench, &host, baseline, None), 42, "{}", host.log());
    assert_eq!(host.stdout(), expected, "{}", host.log());
}

#[test]
#[ignore = "takes minutes: ./test --long"]
fn level_3_moves_to_an_intel_without_avx512_and_an_older_kernel() {
    moves("x86-64-v3", ("bookworm", "Haswell-noTSX"));
}

#[test]
#[ignore = "takes minutes: ./test --long"]
fn level_3_moves_to_an_amd_and_linux_6_12() {
    moves("x86-64-v3", ("trixie", "EPYC"));
}

#[test]
#[ignore = "takes minutes: ./test --long"]
fn level_2_moves_to_a_processor_without_avx() {
    moves("x86-64-v2", ("bookworm", "Nehalem"));
}

#[test]
#[ignore = "takes minutes: ./test --long"]
fn what_does_not_fit_is_refused_in_words_and_stays_whole() {
    let bench = bench();
    for (baseline, machine, words) in [
        ("x86-64-v3", ("bookworm", "Nehalem"), "(x86-64-v3), this processor is x86-64-v2"),
        ("host", ("bookworm", "Haswell-noTSX"), "this processor is x86-64-v3"),
    ] {
        let host = scratch(&bench, &format!("refused-{baseline}"));
        assert_eq!(here(&bench, &host, baseline, Some("step 5 ")), 85, "{}", host.log());
        let before = fs::read(host.checkpoint()).unwrap();
        if baseline == "host"
            && !host.log().is_empty()
            && !fs::read_to_string("/proc/cpuinfo").unwrap().contains("avx512f")
        {
            // This machine has no more than the other: nothing is there to be refused.
            continue;
        }
        assert_eq!(there(&bench, &host, baseline, machine, None), 75, "{}", host.log());
        assert!(
            host.log().contains("cannot restore on this host: the checkpoint needs ") && host.log().contains(words),
            "{}",
            host.log()
        );
        assert!(fs::read(host.checkpoint()).unwrap() == before);
    }
}

#[test]
#[ignore = "takes minutes: ./test --long"]
fn guard_pages_become_ordinary_memory_on_linux_6_12() {
    let bench = bench();
    let host = scratch(&bench, "job");
    host.write("gate.py", include_bytes!("payloads/gate.py"));
    host.write("matrix.py", "import sys\nsys.argv.append('guard')\nexec(open('gate.py').read())\n");
    assert_eq!(here(&bench, &host, "x86-64-v3", Some("step 3 ")), 85, "{}", host.log());
    if host.stdout().contains("no guard pages") {
        // This machine has none either: nothing is there to be replaced.
        return;
    }
    assert_eq!(there(&bench, &host, "x86-64-v3", ("trixie", "EPYC"), Some("step 8 ")), 85, "{}", host.log());
    assert_eq!(here(&bench, &host, "x86-64-v3", None), 42, "{}", host.log());
    assert!(host.stdout().ends_with("guarded True\nwhole True\n"), "{}", host.stdout());
}

#[test]
#[ignore = "takes minutes: ./test --long"]
fn threads_of_a_newer_glibc_go_on_on_linux_6_12() {
    let bench = bench();
    let host = scratch(&bench, "job");
    host.write("matrix.py", include_bytes!("payloads/threads.py"));
    // Debian forky has glibc 2.42, which guards each stack by MADV_GUARD_INSTALL.
    assert_eq!(here_in("25", &bench, &host, "x86-64-v3", Some("step 3 ")), 85, "{}", host.log());
    let inspected = Command::new(bench.binary()).arg("inspect").arg(host.checkpoint()).output().unwrap();
    let needs = String::from_utf8(inspected.stdout).unwrap();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = kernel.split(|c: char| !c.is_ascii_digit()).map_while(|number| number.parse::<u32>().ok());
    // CRIU sees them from Linux 6.15 on.
    if (numbers.next(), numbers.next()) >= (Some(6), Some(15)) {
        assert!(needs.contains("guard pages below stacks, made ordinary on older kernels"), "{needs}");
    }
    let machine = ("trixie", "EPYC");
    assert_eq!(there_in("25", &bench, &host, "x86-64-v3", machine, Some("step 8 ")), 85, "{}", host.log());
    assert_eq!(here_in("25", &bench, &host, "x86-64-v3", None), 42, "{}", host.log());
    let expected: String = (1..=20).map(|number| format!("step {number} [200]\n")).collect();
    assert_eq!(host.stdout(), expected, "{}", host.log());
}

/// A payload of a few seconds that needs nothing.
const STEPS: &str =
    "#!/bin/sh\nstep=0\nwhile [ $step -lt 100 ]; do step=$((step+1)); echo step $step; sleep 0.1; done\nexit 42\n";

/// As a starter does: again and again in the same place while it ends with 85. Nobody else's clock is the machine's.
const CLOCKS: &str = "\
cp -r /mnt/job /tmp/scratch; cd /tmp/scratch
fresh() { rm -rf condor-criu.log criu-checkpoint*; : >_condor_stdout; : >_condor_stderr; chown -R 5000:5000 .; }
jump() { date -s @$(($(date +%s) + $1)) >/dev/null; echo $1 >>/mnt/jumps; }
start() { exec setpriv --reuid 5000 --regid 5000 --clear-groups env _CONDOR_SCRATCH_DIR=/tmp/scratch \\
    /mnt/condor-criu run --criu /mnt/criu-folder -- ./steps >>_condor_stdout 2>>_condor_stderr; }
echo 'interval = \"4s\"' >condor-criu.toml; fresh
while :; do jump 18000; sleep 0.2; jump -40000; sleep 0.2; jump 22000; sleep 0.2; done & chaos=$!
(start); echo ended $?; cat _condor_stderr
(start) & job=$!
while ! grep -q 'the payload runs again generation=1' condor-criu.log; do sleep 0.05; done
kill -TERM $job; wait $job; echo ended $?
code=85
while [ $code = 85 ]; do (start); code=$?; echo ended $code; done
kill $chaos
cp _condor_stdout /mnt/job/; cp condor-criu.log /mnt/job/chaos.log
echo 'interval = \"3h\"' >condor-criu.toml; fresh
echo GLIDEIN_ToDie = $(($(date +%s) + 7200)) >.machine.ad
(start) & job=$!
while ! grep -q 'step 5' _condor_stdout; do sleep 0.05; done
jump 7125; wait $job; echo ended $?
cp condor-criu.log /mnt/job/
exit 0
";

#[test]
#[ignore = "takes minutes: ./test --long"]
fn the_clock_of_a_machine_is_set_by_hours_all_the_time() {
    let bench = bench();
    fs::set_permissions(bench.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let host = bench.host("job", FIRST_USER);
    host.job_ad(85).write("steps", STEPS);
    fs::write(bench.path().join("script"), CLOCKS).unwrap();
    let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/setup/in-vm"));
    let output = command.arg("trixie").arg(setup("root", "numeric")).arg(bench.path()).arg("EPYC").output().unwrap();
    let words = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    let log = host.read("chaos.log");
    assert!(output.status.success(), "{words}");
    let ends: Vec<&str> = words.lines().filter_map(|line| line.strip_prefix("ended ")).collect();
    let jumps = fs::read_to_string(bench.path().join("jumps")).unwrap().lines().count();
    println!("the clock was set {jumps} times; the lives ended with {ends:?}");
    // A periodic one, the vacate, perhaps more periodic ones, the end; and the one before the slot's end, of which it
    // was not told in hours.
    let (last, before) = ends.split_last().unwrap();
    assert_eq!((before.last(), *last), (Some(&"42"), "85"), "{words}\n{log}");
    assert!(before.len() >= 3 && before[..before.len() - 1].iter().all(|code| *code == "85"), "{words}\n{log}");
    let expected: String = (1..=100).map(|step| format!("step {step}\n")).collect();
    assert_eq!(host.stdout(), expected, "{log}");
    assert!(log.contains("reason=interval") && log.contains("reason=vacate") && !log.contains(" ERROR "), "{log}");
    assert!(host.log().contains("the clock of this host has been set"), "{}", host.log());
    assert!(host.log().contains("committed generation=1 reason=deadline"), "{}", host.log());
}
