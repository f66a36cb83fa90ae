//! Files as users have them: any mode, name and kind. What was committed comes back, on this host and on another; what
//! cannot come back is refused before there is a checkpoint, with the cause. `tests/trees.rs` asks the same of trees
//! that chance makes.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on stops")]

mod common;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;

use common::local::{Bench, FIRST_USER, Host, SECOND_USER, assert_code};
use nix::sys::signal::Signal;

/// Before the payload of a test: `wait()` says that it is ready, and waits for a file `go`, which nobody carries.
const WAIT: &str = "import os, time\n\
    def wait():\n\
    \x20   print('ready', flush=True)\n\
    \x20   while not os.path.exists('/job/go'): time.sleep(0.02)\n";

fn program(host: &Host<'_>, text: &str) {
    host.write("p.py", format!("{WAIT}{text}"));
}

const WORDS: [&str; 3] = ["--", "python3", "p.py"];

/// Starts, saves at SIGTERM, restores on another host, and lets it end there; its output after "ready".
fn moved(bench: &Bench, text: &str) -> String {
    let (here, there) = (bench.host("here", FIRST_USER), bench.host("there", SECOND_USER));
    program(&here, text);
    program(&there, text);
    save(&here);
    here.carry_to(&there, &[]);
    finish(&there)
}

fn save(host: &Host<'_>) {
    let mut job = host.start(&WORDS);
    job.until_output("ready").signal(Signal::SIGTERM);
    assert_code(host, job.end(), 85);
}

fn finish(host: &Host<'_>) -> String {
    let mut job = host.start(&WORDS);
    job.until("condor-criu.log", "runs again");
    host.write("go", "");
    assert_code(host, job.end(), 0);
    host.stdout().replace("ready\n", "")
}

/// Why a vacate did not save it; the payload has got the signal instead.
fn refused(bench: &Bench, text: &str) -> String {
    let host = bench.host("here", FIRST_USER);
    program(&host, text);
    let mut job = host.start(&WORDS);
    job.until_output("ready").signal(Signal::SIGTERM);
    let end = job.end();
    assert_ne!(end.code(), Some(85), "{}", host.log());
    assert_eq!(fs::metadata(host.checkpoint()).unwrap().len(), 0);
    let log = host.log();
    log.lines().find(|line| line.contains("cannot save the payload")).unwrap_or_default().to_owned()
}

#[test]
fn files_that_may_not_be_opened_again_are_open_and_mapped_after_a_move() {
    let bench = Bench::new();
    let output = moved(
        &bench,
        "import mmap\n\
        a = os.open('a', os.O_CREAT | os.O_RDWR, 0o444); os.write(a, b'one')\n\
        b = open('b', 'w+b'); b.write(b'x' * 8192); b.flush(); m = mmap.mmap(b.fileno(), 8192); b.close(); os.chmod('b', 0o444)\n\
        c = open('c', 'w'); os.chmod('c', 0)\n\
        wait()\n\
        os.write(a, b'two'); m[0:1] = b'y'; c.write('three'); c.flush()\n\
        print(open('a').read(), m[0:2], oct(os.stat('c').st_mode), os.stat('c').st_size)\n",
    );
    assert_eq!(output, "onetwo b'yx' 0o100000 5\n");
}

#[test]
fn deleted_files_and_sockets_in_closed_directories_come_back() {
    let bench = Bench::new();
    let output = moved(
        &bench,
        "import socket\n\
        os.mkdir('d'); f = open('d/gone', 'w+'); f.write('kept'); f.flush(); os.remove('d/gone')\n\
        g = open('d/two', 'w+'); os.link('d/two', 'd/other'); os.remove('d/two'); g.write('linked'); g.flush()\n\
        s = socket.socket(socket.AF_UNIX); s.bind('d/s'); s.listen()\n\
        old = socket.socket(socket.AF_UNIX); old.bind('d/old'); old.close()\n\
        os.chmod('d', 0o555)\n\
        wait()\n\
        f.seek(0); g.seek(0); c = socket.socket(socket.AF_UNIX); c.connect('d/s')\n\
        print(f.read(), g.read(), sorted(os.listdir('d')), oct(os.stat('d').st_mode))\n",
    );
    assert_eq!(output, "kept linked ['old', 'other', 's'] 0o40555\n");
}

#[test]
fn closed_directories_are_no_obstacle_to_a_restart_in_place() {
    for place in ["/job/d", "/tmp/d", "/var/tmp/d"] {
        for mode in ["0o555", "0o300", "0o000"] {
            let bench = Bench::new();
            let host = bench.host("here", FIRST_USER);
            host.job_ad(85);
            program(
                &host,
                &format!(
                    "os.makedirs('{place}/e'); open('{place}/e/f', 'w').write('x'); open('{place}/g', 'w').write('y')\n\
                    os.chmod('{place}/g', 0); os.chmod('{place}/e', {mode}); os.chmod('{place}', {mode})\n\
                    wait()\n\
                    print(oct(os.stat('{place}').st_mode)); os.chmod('{place}', 0o700); os.chmod('{place}/e', 0o700)\n\
                    print(open('{place}/e/f').read(), oct(os.stat('{place}/g').st_mode))\n"
                ),
            );
            let mut job = host.start(&WORDS);
            job.until_output("ready").signal(Signal::SIGUSR2);
            assert_code(&host, job.end(), 85);
            let octal = mode.trim_start_matches("0o");
            assert_eq!(finish(&host), format!("0o40{octal}\nx 0o100000\n"), "{place} {mode}");
        }
    }
}

#[test]
fn a_scratch_directory_without_write_permission_takes_a_checkpoint_and_is_restored_in_place() {
    let bench = Bench::new();
    let host = bench.host("here", FIRST_USER);
    host.job_ad(85);
    host.write("go.not", "");
    program(
        &host,
        "open('f', 'w').write('x'); os.chmod('/job', 0o555)\n\
        print('ready', flush=True)\n\
        n = 0\n\
        while n < 40: n += 1; time.sleep(0.05)\n\
        print(open('f').read(), oct(os.stat('/job').st_mode))\n",
    );
    let mut job = host.start(&WORDS);
    job.until_output("ready").signal(Signal::SIGUSR2);
    assert_code(&host, job.end(), 85);
    assert_code(&host, host.start(&WORDS).end(), 0);
    assert_eq!(host.stdout(), "ready\nx 0o40555\n");
}

#[test]
fn attributes_bits_times_and_further_names_are_carried() {
    let bench = Bench::new();
    let output = moved(
        &bench,
        "open('f', 'w').write('x'); os.setxattr('f', 'user.k', b'\\xffv'); os.utime('f', (100.5, 200.5))\n\
        open('s', 'w').close(); os.chmod('s', 0o6755); os.mkdir('d'); os.chmod('d', 0o3755); os.utime('d', (1, 2))\n\
        os.link('f', 'g'); os.link('_condor_stdout', 'copy of the output'); os.mkdir('e'); os.link('_condor_stdout', 'e/o')\n\
        os.chmod('e', 0o555)\n\
        wait()\n\
        f = os.stat('f')\n\
        print(os.getxattr('f', 'user.k'), f.st_atime, f.st_mtime, oct(os.stat('s').st_mode), oct(os.stat('d').st_mode), os.stat('d').st_mtime)\n\
        print(os.path.samefile('f', 'g'), os.path.samefile('_condor_stdout', 'copy of the output'), os.path.samefile('e/o', '/proc/self/fd/1'))\n",
    );
    assert_eq!(output, "b'\\xffv' 100.5 200.5 0o106755 0o43755 2.0\nTrue True True\n");
}

#[test]
fn holes_of_any_size_are_carried_and_stay_holes() {
    let bench = Bench::new();
    let output = moved(
        &bench,
        "f = open('/dev/shm/s', 'w+b'); f.truncate(1 << 38); f.seek(1 << 37); f.write(b'q'); f.flush()\n\
        g = open('g', 'w+b'); g.truncate(1 << 30); g.seek(500 << 20); g.write(b'r'); g.flush()\n\
        wait()\n\
        f.seek(1 << 37); g.seek(500 << 20)\n\
        print(f.read(1), g.read(1), os.stat('g').st_size, os.stat('g').st_blocks < 64, os.stat('/dev/shm/s').st_blocks < 64)\n",
    );
    assert_eq!(output, "b'q' b'r' 1073741824 True True\n");
}

#[test]
fn names_are_bytes_and_paths_have_no_end() {
    let bench = Bench::new();
    let (here, there) = (bench.host("here", FIRST_USER), bench.host("there", SECOND_USER));
    // What is in the host's /tmp is not in the sandbox's.
    let hosts = tempfile::tempdir_in("/opt").unwrap();
    fs::set_permissions(hosts.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let data = hosts.path().join(OsStr::from_bytes(b"table\xff"));
    fs::write(&data, "of the host").unwrap();
    fs::set_permissions(&data, fs::Permissions::from_mode(0o644)).unwrap();
    let text = format!(
        "t = open(b'{}/table\\xff')\n\
        open(b'out\\xfe\\n', 'w').write('out')\n\
        for n in range(60): os.mkdir('x' * 100); os.chdir('x' * 100)\n\
        open('leaf', 'w').write('leaf'); os.chdir('/job')\n\
        wait()\n\
        for n in range(60): os.chdir('x' * 100)\n\
        leaf = open('leaf').read(); os.chdir('/job')\n\
        print(t.read(), open(b'in\\xff').read(), open(b'out\\xfe\\n').read(), leaf)\n",
        hosts.path().display()
    );
    for host in [&here, &there] {
        let input = host.scratch.join(OsStr::from_bytes(b"in\xff"));
        fs::write(&input, "in").unwrap();
        host.own(&input);
        program(host, &text);
    }
    save(&here);
    here.carry_to(&there, &[]);
    assert_eq!(finish(&there), "of the host in out leaf\n");
}

#[test]
fn a_hidden_input_that_was_removed_stays_removed() {
    let bench = Bench::new();
    let (here, there) = (bench.host("here", FIRST_USER), bench.host("there", SECOND_USER));
    for host in [&here, &there] {
        host.write(".todo", "x");
        host.write("todo", "x");
        program(
            host,
            "os.remove('.todo'); os.remove('todo')\nwait()\nprint(os.path.exists('.todo'), os.path.exists('todo'))\n",
        );
    }
    save(&here);
    here.carry_to(&there, &[]);
    assert_eq!(finish(&there), "False False\n");
}

#[test]
fn an_input_that_was_changed_through_memory_is_carried_where_no_time_tells() {
    let bench = Bench::at(Path::new("/dev/shm"));
    let (here, there) = (bench.host("here", FIRST_USER), bench.host("there", SECOND_USER));
    for host in [&here, &there] {
        host.write("in", "A".repeat(8192));
        program(
            host,
            "import mmap\n\
            f = open('in', 'r+b'); m = mmap.mmap(f.fileno(), 8192); m[0:8192]; time.sleep(0.1); m[0:4] = b'BBBB'; m.close(); f.close()\n\
            wait()\n\
            print(open('in').read(6))\n",
        );
    }
    save(&here);
    here.carry_to(&there, &[]);
    assert_eq!(finish(&there), "BBBBAA\n");
}

#[test]
fn a_file_of_the_host_that_has_another_content_elsewhere_is_carried_or_refused() {
    for goes_on in [true, false] {
        let bench = Bench::new();
        let (here, there) = (bench.host("here", FIRST_USER), bench.host("there", SECOND_USER));
        let hosts = tempfile::tempdir_in("/opt").unwrap();
        fs::set_permissions(hosts.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let data = hosts.path().join("table");
        fs::write(&data, "A".repeat(100_000)).unwrap();
        fs::set_permissions(&data, fs::Permissions::from_mode(0o644)).unwrap();
        let carry = if goes_on { data.display().to_string() } else { "none".to_owned() };
        let words = ["--carry-files", &carry, "--", "python3", "p.py"];
        for host in [&here, &there] {
            program(host, &format!("f = open('{}')\nwait()\nf.seek(90000); print(f.read(5))\n", data.display()));
        }
        let mut job = here.start(&words);
        job.until_output("ready").signal(Signal::SIGTERM);
        assert_code(&here, job.end(), 85);
        here.carry_to(&there, &[]);
        File::options().write(true).open(&data).unwrap().write_all_at(b"B", 90_002).unwrap();
        let mut job = there.start(&words);
        if goes_on {
            job.until("condor-criu.log", "runs again");
            there.write("go", "");
            assert_code(&there, job.end(), 0);
            assert_eq!(there.stdout(), "ready\nAAAAA\n");
        } else {
            assert_code(&there, job.end(), 75);
            assert!(there.stderr().contains("table, which has another content here"), "{}", there.stderr());
        }
    }
}

#[test]
fn what_no_host_could_restore_is_refused_with_its_cause() {
    let thread = "import threading\n\
        e = threading.Event(); t = threading.Thread(target=e.wait, daemon=True); t.start()\n\
        f = open('/proc/self/task/%d/stat' % t.native_id)\n\
        wait()\n";
    let why = refused(&Bench::new(), thread);
    assert!(why.contains("/task/") && why.contains("tells of a thread") && why.contains("what to do"), "{why}");

    let pipes = "import resource\n\
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]; resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 9000), hard))\n\
        p = [os.pipe() for n in range(1100)]\n\
        wait()\n";
    let why = refused(&Bench::new(), pipes);
    assert!(why.contains("more than 1024 pipes"), "{why}");

    let why = refused(&Bench::new(), "f = open('condor-criu.log')\nwait()\n");
    assert!(why.contains("/job/condor-criu.log open") && why.contains("what to do"), "{why}");
}

#[test]
fn a_restart_in_place_keeps_what_is_the_same_and_needs_no_room_twice() {
    let bench = Bench::new();
    let host = bench.host("here", FIRST_USER);
    host.job_ad(85);
    program(
        &host,
        "open('big', 'wb').write(os.urandom(3 << 20)); open('small', 'w').write('s')\nwait()\nprint('end')\n",
    );
    let mut job = host.start(&WORDS);
    job.until_output("ready").signal(Signal::SIGUSR2);
    assert_code(&host, job.end(), 85);
    let of = |name: &str| fs::metadata(host.scratch.join(name)).unwrap();
    let before = [of("big").ino(), of("small").ino()];
    let content = fs::read(host.scratch.join("big")).unwrap();
    // As if the payload had gone on before it was killed.
    File::options()
        .append(true)
        .open(host.scratch.join("big"))
        .unwrap()
        .write_all_at(b"later", 3 << 20)
        .unwrap_or_default();
    assert_eq!(finish(&host), "end\n");
    assert_eq!([of("big").ino(), of("small").ino()], before);
    assert_eq!(fs::read(host.scratch.join("big")).unwrap(), content);
}

#[test]
fn files_of_a_group_that_is_not_the_job_s_come_back() {
    let bench = Bench::new();
    let (here, there) = (bench.host("here", FIRST_USER), bench.host("there", SECOND_USER));
    for host in [&here, &there] {
        // As a directory for a project often is: what is made in it is of the project's group.
        std::os::unix::fs::chown(&host.scratch, None, Some(6000)).unwrap();
        fs::set_permissions(&host.scratch, fs::Permissions::from_mode(0o2775)).unwrap();
        program(
            host,
            "import socket\n\
            os.mkdir('d'); f = open('d/f', 'w'); f.write('one'); f.flush(); os.chmod('d/f', 0o444)\n\
            g = open('d/gone', 'w+'); g.write('ghost'); g.flush(); os.remove('d/gone')\n\
            s = socket.socket(socket.AF_UNIX); s.bind('d/s'); s.listen(); os.chmod('d', 0o555)\n\
            wait()\n\
            f.write('two'); f.flush(); g.seek(0); socket.socket(socket.AF_UNIX).connect('d/s')\n\
            print(open('d/f').read(), g.read(), oct(os.stat('d').st_mode), oct(os.stat('d/f').st_mode))\n",
        );
    }
    save(&here);
    here.carry_to(&there, &[]);
    assert_eq!(finish(&there), "onetwo ghost 0o40555 0o100444\n");
}

#[test]
fn record_locks_of_a_child_are_kept() {
    let bench = Bench::new();
    let output = moved(
        &bench,
        "import fcntl\n\
        f = os.open('lock', os.O_CREAT | os.O_RDWR, 0o644); a, b = os.pipe(); c, d = os.pipe()\n\
        if os.fork() == 0:\n\
        \x20   fcntl.lockf(f, fcntl.LOCK_EX); os.write(b, b'x'); os.read(c, 1); os._exit(0)\n\
        os.read(a, 1)\n\
        wait()\n\
        try:\n\
        \x20   fcntl.lockf(f, fcntl.LOCK_EX | fcntl.LOCK_NB); print('lost')\n\
        except OSError:\n\
        \x20   print('kept')\n\
        os.write(d, b'x'); os.wait()\n",
    );
    assert_eq!(output, "kept\n");
}
