//! What only shows after many rounds: a tree that is saved and restored again and again must not grow, and programs
//! that nobody has thought of must write what they write undisturbed.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on stops")]

mod common;

use std::fmt::Write as _;
use std::fs;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use common::local::{Bench, Host, PATIENCE, assert_code, real_criu};
use common::long;
use common::random::{Random, number};
use nix::sys::signal::Signal;

/// Users of their own, by whom the payload's processes are found.
const SOAKED: u32 = 5200;
const REHEARSED: u32 = 5201;

/// What a cycle leaves, to be compared with later ones.
#[derive(Clone, Copy, Debug)]
struct Seen {
    resident: u64,
    descriptors: usize,
    checkpoint: u64,
    files: usize,
}

/// Open descriptors of all processes of the host's user that are the payload's.
fn descriptors(host: &Host<'_>) -> usize {
    let processes = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    let payload = |path: &std::path::PathBuf| {
        let words = fs::read(path.join("cmdline")).unwrap_or_default();
        let status = fs::read_to_string(path.join("status")).unwrap_or_default();
        words.starts_with(b"python3\0") && status.contains(&format!("Uid:\t{}\t", host.user))
    };
    processes.filter(payload).map(|path| fs::read_dir(path.join("fd")).map_or(0, Iterator::count)).sum()
}

/// Everything in the scratch directory but our own directory.
fn files(directory: &Path) -> usize {
    let entries = fs::read_dir(directory).unwrap().flatten();
    let count = |entry: fs::DirEntry| match entry.file_type() {
        Ok(kind) if kind.is_dir() && entry.file_name() != ".condor-criu" => 1 + files(&entry.path()),
        _ => 1,
    };
    entries.map(count).sum()
}

#[test]
fn a_tree_does_not_grow_by_being_saved_and_restored() {
    let cycles = number("CONDOR_CRIU_CYCLES").unwrap_or(if long::wanted() { 500 } else { 15 }) as usize;
    assert!(cycles > 4, "too few to compare");
    let bench = Bench::new();
    let host = bench.host("host", SOAKED);
    host.job_ad(85).write("tree.py", include_str!("payloads/tree.py"));
    // A step takes 50 ms and a cycle waits for one more; a busy machine makes several meanwhile.
    let steps = (cycles * 20).to_string();
    let words = ["--interval=never", "--", "python3", "tree.py", &steps];
    let mut seen = Vec::new();
    let began = Instant::now();
    for cycle in 0..cycles {
        let lines = host.stdout().lines().count();
        let mut job = host.start(&words);
        job.until_output(&format!("step {lines} "));
        // Before that a vacate is answered with the checkpoint that there is.
        let runs =
            if cycle == 0 { "the payload runs program".into() } else { format!("runs again generation={cycle} ") };
        job.until("condor-criu.log", &runs);
        let descriptors = descriptors(&host);
        job.signal(Signal::SIGTERM);
        assert_code(&host, job.end(), 85);
        let log = host.log();
        let resident = log.rsplit("resident_bytes=").next().unwrap().split_whitespace().next().unwrap();
        let checkpoint = host.checkpoint().metadata().unwrap().len();
        seen.push(Seen { resident: resident.parse().unwrap(), descriptors, checkpoint, files: files(&host.scratch) });
        assert_eq!(log.matches(" committed generation=").count(), cycle + 1, "{log}");
    }
    // The first ones warm up: a restored process has touched less.
    let early = &seen[1..4];
    let late = &seen[seen.len() - 3..];
    let most = |part: &[Seen], of: fn(&Seen) -> u64| part.iter().map(of).max().unwrap();
    let _ = writeln!(
        std::io::stderr(),
        "{cycles} cycles in {:.0} s; at first {:?}, at last {:?}",
        began.elapsed().as_secs_f64(),
        early[0],
        late[2]
    );
    type Limit = (&'static str, fn(&Seen) -> u64, u64);
    let limits: [Limit; 4] = [
        ("resident memory", |seen| seen.resident, 2 << 20),
        // The orphan has a file open at times.
        ("descriptors", |seen| seen.descriptors as u64, 2),
        // The program's own files grow by a few bytes a step.
        ("the checkpoint", |seen| seen.checkpoint, (64 << 10) + 100 * cycles as u64),
        ("files", |seen| seen.files as u64, 0),
    ];
    for (what, of, more) in limits {
        let (first, last) = (most(early, of), most(late, of));
        assert!(last <= first + more, "{what} grew from {first} to {last} in {cycles} cycles: {seen:?}");
    }
    // What it wrote is what it would have written: no step is missing or twice.
    let output = host.stdout();
    for (step, line) in output.lines().enumerate() {
        assert_eq!(line, format!("step {step} {}", (step + 1) % 256));
    }
}

/// What every program begins with.
const HEAD: &str = "\
import hashlib, mmap, os, sys, tempfile, threading, time
x = 1
def compute(rounds):
    global x
    for _ in range(rounds):
        x = (x * 6364136223846793005 + 1442695040888963407) % 2**64
shared = mmap.mmap(-1, 1 << 16)
kept = tempfile.TemporaryFile('w+')
memory = {}
";

/// A program whose output depends on nothing but its text.
fn program(random: &mut Random) -> String {
    let mut text = HEAD.to_owned();
    for step in 0..12 + random.below(8) {
        let (a, b) = (random.below(1000), 1 + random.below(9));
        let _ = match random.below(9) {
            0 => writeln!(text, "compute({})", a * 200),
            1 => writeln!(text, "with open('file{b}', 'a') as f: f.write(f'{step} {{x}}\\n' * {a})"),
            2 => writeln!(
                text,
                "child = os.fork()\nif child == 0:\n    compute({a}); time.sleep(0.0{b})\n    shared[{a}:{a}+8] = x.to_bytes(8, 'big')\n    os._exit({b})\n\
                 print('child', os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), shared[{a}:{a}+8].hex(), flush=True)"
            ),
            3 => writeln!(text, "memory[{step}] = bytearray(x.to_bytes(8, 'big') * {})", a * 20),
            4 => writeln!(text, "time.sleep(0.{b})"),
            5 => writeln!(text, "kept.write(f'{{x}}\\n' * {a}); kept.flush()"),
            6 => writeln!(
                text,
                "ends = os.pipe()\nchild = os.fork()\nif child == 0:\n    for n in range({b}):\n        time.sleep(0.02); os.write(ends[1], b'%d ' % (x % {a_or_1} + n))\n    os._exit(0)\n\
                 os.close(ends[1])\nwith os.fdopen(ends[0], 'rb') as f: print('pipe', f.read().decode(), flush=True)\nos.waitpid(child, 0)",
                a_or_1 = a + 1
            ),
            7 => writeln!(
                text,
                "def work():\n    time.sleep(0.0{b}); memory['thread'] = hashlib.sha256(b'{a}').digest()\nthread = threading.Thread(target=work)\nthread.start(); compute({a}); thread.join()"
            ),
            _ => writeln!(
                text,
                "os.makedirs('deep/{b}', exist_ok=True); open('deep/{b}/{step}', 'w').write(str(x)); os.rename('deep/{b}/{step}', 'deep/{b}/last')"
            ),
        };
        let _ = writeln!(text, "print({step}, x, len(memory), flush=True); time.sleep(0.06)");
    }
    text += "kept.seek(0)\nprint(hashlib.sha256(kept.read().encode()).hexdigest(), hashlib.sha256(shared[:]).hexdigest())\n\
             print(hashlib.sha256(repr(sorted(memory.items(), key=str)).encode()).hexdigest())\n";
    let _ = writeln!(text, "sys.exit({})", random.below(80));
    text
}

#[test]
fn random_programs_write_what_they_write_undisturbed() {
    let seed =
        number("CONDOR_CRIU_SEED").unwrap_or_else(|| SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs());
    let programs = number("CONDOR_CRIU_PROGRAMS").unwrap_or(if long::wanted() { 200 } else { 6 });
    let _ = writeln!(std::io::stderr(), "{programs} random programs; CONDOR_CRIU_SEED={seed}");
    let bench = Bench::new();
    let (mut evictions, mut too_short, began) = (0, 0, Instant::now());
    for which in 0..programs {
        let mut random = Random::of(seed, which);
        let host = bench.host(&format!("program{which}"), REHEARSED);
        let text = program(&mut random);
        host.write("program.py", &text);
        let every = format!("{}ms", 100 + random.below(500));
        let how = ["--signal=SIGTERM", "--signal=SIGTSTP", "--signal=SIGTERM", "--hard"][random.below(4) as usize];
        let mut command = Command::new(bench.binary());
        command.args(["rehearse", "--evict-every", &every, "--evictions", "3", how, "--criu"]).arg(real_criu());
        command.args(["--", "python3", "program.py"]).current_dir(&host.scratch).stdin(Stdio::null());
        if nix::unistd::geteuid().is_root() {
            command.uid(REHEARSED).gid(REHEARSED);
        }
        let out = fs::File::create(host.scratch.join("said")).unwrap();
        command.stdout(out.try_clone().unwrap()).stderr(out);
        let mut child = command.spawn().unwrap();
        let deadline = Instant::now() + PATIENCE * 2;
        while child.try_wait().unwrap().is_none() {
            if Instant::now() > deadline {
                let _ = child.kill();
                panic!(
                    "CONDOR_CRIU_SEED={seed}, program {which}, hangs, {how} every {every}\n{}\n{text}",
                    host.read("said")
                );
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let said = host.read("said");
        let equal = child.wait().unwrap().success();
        // The shortest lasts less than a second, and its evictor may be late.
        if said.contains("ended before it could be evicted") {
            too_short += 1;
            continue;
        }
        assert!(equal, "CONDOR_CRIU_SEED={seed}, program {which}, {how} every {every}\n{said}\n{text}");
        evictions += said.lines().filter(|line| line.contains(" vacate ") || line.contains(" hard ")).count();
        fs::remove_dir_all(&host.scratch).unwrap();
    }
    let _ = writeln!(
        std::io::stderr(),
        "{programs} programs, {too_short} of them too short, {evictions} evictions, all as undisturbed, {:.0} s",
        began.elapsed().as_secs_f64()
    );
    assert!(too_short * 5 <= programs, "{too_short} of {programs} programs were too short to show anything");
}
