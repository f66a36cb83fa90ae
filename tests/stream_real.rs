//! The streaming protocol and the archive against the real criu, rootless: a process is dumped through the pipes into
//! an archive and goes on from there.
//!
//! Needs user namespaces, util-linux, gcc, and a criu with its libraries in the folder `CONDOR_CRIU_TEST_CRIU`
//! (`criu`, `lib/ld-linux-x86-64.so.2`, `lib/*.so`).
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

use condor_criu::checkpoint::archive::{Compression, Reader, WriteOptions, Writer};
use condor_criu::checkpoint::streaming::{ArchiveSink, ArchiveSource};
use condor_criu::criu::images::Rewrite;
use condor_criu::criu::owners::Owner;
use condor_criu::criu::stream::{Cancel, Capture, ImageSink, ImageWriter, Serve, StreamError};
use condor_criu::sandbox::criu_preload;

/// Lines that the payload writes, one every 50 ms.
const LINES: usize = 40;

/// The sum, bit for bit, of the numbers that a payload of this many MiB holds (`payloads/random_walk.c`).
fn sum(mib: usize) -> u64 {
    let (mut x, mut at, mut sum) = (0x9e37_79b9_7f4a_7c15_u64, 0.0, 0.0);
    for _ in 0..mib << 17 {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        at += (x >> 11) as f64 / (1_u64 << 53) as f64 - 0.5;
        sum += at;
    }
    f64::to_bits(sum)
}

/// What both scripts begin with: descriptors from outside are closed, and criu has no capability but these.
const PROLOGUE: &str = r#"
set -u
for f in /proc/self/fd/*; do n=${f##*/}; [ "$n" -gt 2 ] && eval "exec $n>&-"; done
exec </dev/null
caps=-all,+dac_read_search,+sys_ptrace,+checkpoint_restore
criu() {
    setpriv --inh-caps=$caps --ambient-caps=$caps --bounding-set=$caps -- env LD_PRELOAD="${HELPER-}" \
        "$CRIU/lib/ld-linux-x86-64.so.2" --library-path "$CRIU/lib" "$CRIU/criu" "$@" \
        --no-default-config --unprivileged ${STREAM---stream} -D img -W work -v4 --file-locks --link-remap
}
cd "$DIR"
"#;

const DUMP: &str = r#"
echo 299 > /proc/sys/kernel/ns_last_pid
grep Groups: /proc/self/status > groups
setsid setpriv --no-new-privs --inh-caps=-all --ambient-caps=-all --bounding-set=-all \
    ./walk "$DIR/out" "$MIB" </dev/null >stdout 2>&1 &
root=$!
until [ "$(cat out 2>/dev/null | wc -l)" -ge 5 ]; do sleep 0.02; done
date +%s%N > before
criu dump -t $root -o dump.log --ghost-limit 100M
status=$?
date +%s%N > after
wc -l < out > lines-at-dump
exit $status
"#;

const RESTORE: &str = r#"
criu restore -d -o restore.log --pidfile "$DIR/pid" || exit
date +%s%N > restored
while kill -0 "$(cat pid)" 2>/dev/null && ! grep -q '^State:.Z' /proc/$(cat pid)/status; do sleep 0.02; done
"#;

struct Scene {
    dir: tempfile::TempDir,
    criu: PathBuf,
    mib: usize,
}

impl Scene {
    fn new(mib: usize) -> Self {
        let criu = std::env::var_os("CONDOR_CRIU_TEST_CRIU");
        let criu = PathBuf::from(criu.expect("CONDOR_CRIU_TEST_CRIU must name a folder with criu and its lib/"));
        let dir = tempfile::Builder::new().prefix("stream-real.").tempdir_in("/tmp").unwrap();
        for name in ["img", "work"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/payloads/random_walk.c");
        let mut gcc = Command::new("gcc");
        gcc.args(["-O2", "-pthread", "-o"]).arg(dir.path().join("walk")).arg(source);
        assert!(gcc.status().unwrap().success());
        Self { dir, criu, mib }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// Runs a script as pid 1 of fresh namespaces; wakes up who waits for criu when it has failed.
    fn run(&self, script: &str, cancel: Cancel) -> ExitStatus {
        let status = self.command(script).status().unwrap();
        if !status.success() {
            cancel.cancel();
        }
        status
    }

    fn command(&self, script: &str) -> Command {
        let mut command = Command::new("unshare");
        command
            .args(["-U", "--map-user=1000", "--map-group=1000", "--keep-caps", "-p", "-f", "-m", "-i", "--mount-proc"])
            .args(["bash", "-c", &format!("{PROLOGUE}{script}")])
            .env("DIR", self.dir.path())
            .env("CRIU", &self.criu)
            .env("MIB", self.mib.to_string());
        command
    }

    fn nanos(&self, name: &str) -> f64 {
        self.read(name).trim().parse::<f64>().unwrap()
    }

    fn dump(&self, compression: Compression) -> PathBuf {
        let path = self.path("c.tar.zst");
        let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
        let started = Instant::now();
        let writer = Writer::create(file, WriteOptions { compression, threads: 2, ..WriteOptions::default() }).unwrap();
        let capture = Capture::listen(&self.path("img")).unwrap();
        let cancel = capture.cancel_handle();
        let captured = std::thread::scope(|scope| {
            let thread = scope.spawn(|| capture.run(&ArchiveSink::new(&writer)));
            let status = self.run(DUMP, cancel);
            assert!(status.success(), "{status}\n{}\n{}", self.read("stdout"), errors(&self.read("work/dump.log")));
            thread.join().unwrap().unwrap()
        });
        let summary = writer.finish(b"{}").unwrap();
        println!(
            "{compression}: dump {:.2} s, {captured:?}, archive {} bytes, {:.2} s with the payload's start",
            (self.nanos("after") - self.nanos("before")) / 1e9,
            summary.bytes_written,
            started.elapsed().as_secs_f64()
        );
        assert_eq!(summary.members as u64, captured.images + 1);
        assert_eq!(images(&self.path("img")), Vec::<String>::new());
        assert!(!self.path("img/streamer-capture.sock").exists());
        path
    }

    fn restore(&self, archive: &Path, rewrite: Rewrite) -> Result<(), StreamError> {
        let archive = Reader::open(archive).unwrap();
        let serve = Serve::listen(&self.path("img")).unwrap();
        let cancel = serve.cancel_handle();
        std::thread::scope(|scope| {
            let source = ArchiveSource {
                archive: &archive,
                rewrite,
                locks: &[],
                owner: Owner { user: 1000, group: 1000 },
                threads: 2,
            };
            let started = now();
            let thread = scope.spawn(move || serve.run(&source));
            let status = self.run(RESTORE, cancel);
            assert!(status.success(), "{status}\n{}", errors(&self.read("work/restore.log")));
            let served = thread.join().unwrap()?;
            println!("restore {:.2} s, {served:?}", (self.nanos("restored") - started) / 1e9);
            assert_eq!(served.unread, 0);
            Ok(())
        })
    }

    /// What has to be rewritten of it to be restored here.
    fn rewrite(&self) -> Rewrite {
        let groups = self.read("groups");
        let groups = groups.trim_start_matches("Groups:").split_whitespace().map(|gid| gid.parse().unwrap()).collect();
        Rewrite { groups: Some(groups), undrop: true, ..Rewrite::default() }
    }

    /// Every line once, in order, each with the sum of the numbers before the dump.
    fn check(&self) {
        let sum = sum(self.mib);
        let expected: String = (1..=LINES).map(|line| format!("{line} {sum}\n")).collect();
        assert_eq!(self.read("out"), expected);
        let at_dump: usize = self.read("lines-at-dump").trim().parse().unwrap();
        assert!((5..LINES).contains(&at_dump), "{at_dump}");
    }
}

fn now() -> f64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as f64
}

fn errors(log: &str) -> String {
    log.lines().filter(|line| line.contains("Error")).collect::<Vec<_>>().join("\n")
}

fn images(dir: &Path) -> Vec<String> {
    std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn a_process_goes_on_from_the_archive() {
    for compression in [Compression::Auto, Compression::None, Compression::Gzip { level: 1 }] {
        let scene = Scene::new(64);
        let archive = scene.dump(compression);
        scene.restore(&archive, scene.rewrite()).unwrap();
        scene.check();
    }
}

/// Takes all images, but memory only when criu has gone on to what comes after it, or has not for a while.
#[derive(Default)]
struct Late {
    gone_on: Mutex<bool>,
    word: Condvar,
    waited_in_vain: AtomicBool,
}

struct LateImage<'a> {
    sink: &'a Late,
    name: String,
    waited: bool,
}

impl ImageSink for Late {
    fn image<'a>(&'a self, name: &str) -> io::Result<Box<dyn ImageWriter + 'a>> {
        Ok(Box::new(LateImage { sink: self, name: name.to_owned(), waited: false }))
    }
}

impl ImageWriter for LateImage<'_> {
    fn fill(&mut self, source: &mut dyn Read) -> io::Result<usize> {
        if self.name.starts_with("pages-") && !std::mem::replace(&mut self.waited, true) {
            let gone_on = self.sink.gone_on.lock().unwrap();
            let wait = self.sink.word.wait_timeout_while(gone_on, Duration::from_secs(3), |gone_on| !*gone_on);
            self.sink.waited_in_vain.store(wait.unwrap().1.timed_out(), Ordering::Relaxed);
        }
        let length = source.read(&mut [0; 1 << 16])?;
        // Mappings are what criu writes when it has cleaned up in the process.
        if self.name.starts_with("mm-") && length > 0 && !self.waited {
            self.waited = true;
            *self.sink.gone_on.lock().unwrap() = true;
            self.sink.word.notify_all();
        }
        Ok(length)
    }

    fn finish(self: Box<Self>) -> io::Result<()> {
        Ok(())
    }
}

/// Whether criu goes on while memory that it has sent waits in the pipe.
fn criu_goes_on(helper: &str) -> bool {
    let scene = Scene::new(0);
    let capture = Capture::listen(&scene.path("img")).unwrap();
    let cancel = capture.cancel_handle();
    let sink = Late::default();
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| capture.run(&sink));
        let status = scene.command(DUMP).env("HELPER", helper).status().unwrap();
        if !status.success() {
            cancel.cancel();
        }
        assert!(status.success(), "{status}\n{}", errors(&scene.read("work/dump.log")));
        thread.join().unwrap().unwrap();
    });
    assert!(*sink.gone_on.lock().unwrap(), "no mappings were saved");
    !sink.waited_in_vain.into_inner()
}

/// The pipe holds the process's own pages until they are read. criu cleans up in the process and changes one of them
/// for a moment.
#[test]
fn criu_waits_until_memory_is_read() {
    let helper = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(helper.path(), criu_preload::drain_pipes()).unwrap();
    assert!(!criu_goes_on(helper.path().to_str().unwrap()));
    // Without the helper it does not wait, or the test would show nothing.
    assert!(criu_goes_on(""));
}

/// Prints how long it takes, and beside it what criu takes by itself, with files instead of pipes.
#[test]
#[ignore = "takes minutes: ./test --long"]
fn a_gibibyte_goes_on_from_the_archive() {
    const MIB: usize = 1024;
    for compression in [Compression::Auto, Compression::None, Compression::Zstd { level: 1 }] {
        let scene = Scene::new(MIB);
        let archive = scene.dump(compression);
        scene.restore(&archive, scene.rewrite()).unwrap();
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        println!("our peak until now: {}", status.lines().find(|line| line.starts_with("VmHWM")).unwrap());
        scene.check();
    }
    let scene = Scene::new(MIB);
    assert!(scene.command(DUMP).env("STREAM", "").status().unwrap().success());
    println!("plain: dump {:.2} s", (scene.nanos("after") - scene.nanos("before")) / 1e9);
    let started = now();
    assert!(scene.command(RESTORE).env("STREAM", "").status().unwrap().success());
    println!("restore {:.2} s", (scene.nanos("restored") - started) / 1e9);
    scene.check();
}
