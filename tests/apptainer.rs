//! condor-criu inside Apptainer, as OSPool starts jobs: an ordinary user of a host with Apptainer, whose scratch
//! directory is bound into the container, runs the bundle there. The program is moved to another such container on
//! another host, under another uid and another path, and its output is that of the program in the container alone.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on stops")]

mod common;

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use common::local::{Bench, FIRST_USER, Host, SECOND_USER, real_criu};
use common::place::prepared;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A life in a container takes seconds.
const PATIENCE: Duration = Duration::from_secs(120);
const PROGRAM: &str = include_str!("workloads/work.py");
/// Its own exit code.
const CODE: i32 = 5;

/// What the container is made of.
#[derive(Clone, Copy, Debug)]
enum Image {
    /// One file, mounted through FUSE.
    Sif,
    /// A directory.
    Sandbox,
}

impl Image {
    /// As the hosts of `tests/setup/in-root` see what is prepared.
    fn path(self) -> String {
        let path = match self {
            Image::Sif => prepared("image", &[]),
            Image::Sandbox => prepared("root", &["old"]),
        };
        format!("/opt/{}", path.file_name().unwrap().display())
    }
}

/// A way to start containers.
struct Container<'a> {
    bench: &'a Bench,
    image: String,
    options: &'a str,
}

impl Container<'_> {
    /// A shell command in a container on this host; the scratch directory is `inside` there.
    fn command(&self, host: &Host<'_>, inside: &str, script: &str) -> Command {
        let scratch = format!("/mnt/{}", host.scratch.strip_prefix(self.bench.path()).unwrap().display());
        let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/setup/in-root"));
        command.arg(prepared("root", &["apptainer"])).arg(self.bench.path()).arg(host.user.to_string());
        command.args(["apptainer", "--silent", "exec"]).args(self.options.split_whitespace());
        command.args(["--bind", &format!("{scratch}:{inside}"), "--pwd", inside, &self.image, "sh", "-c", script]);
        let name = |name: &str| File::options().append(true).create(true).open(host.scratch.join(name)).unwrap();
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("HOME", "/tmp");
        command.stdin(Stdio::null()).stdout(name("container.out")).stderr(name("container.err"));
        command
    }

    /// condor-criu with the program; standard streams as HTCondor opens them, files of the scratch directory.
    fn start(&self, host: &Host<'_>, inside: &str) -> Child {
        let run = "exec ./condor-criu run --interval never -- python3 work.py >>_condor_stdout 2>>_condor_stderr";
        self.command(host, inside, run).spawn().unwrap()
    }
}

/// A bundle, as a job brings it: the image has no criu.
fn bundle(bench: &Bench) -> PathBuf {
    let path = bench.path().join("bundle");
    let made = Command::new(bench.binary()).arg("bundle").arg("--criu").arg(real_criu()).arg("-o").arg(&path).output();
    assert!(made.unwrap().status.success());
    path
}

/// A scratch directory with what HTCondor brings.
fn host<'a>(bench: &'a Bench, name: &str, user: u32) -> Host<'a> {
    let host = bench.host(name, user);
    host.job_ad(85);
    host.write("work.py", PROGRAM);
    let (from, to) = (bench.path().join("bundle"), host.scratch.join("condor-criu"));
    assert!(Command::new("install").args(["-m", "755"]).args([from, to]).status().unwrap().success());
    host
}

#[track_caller]
fn end(mut job: Child, host: &Host<'_>, code: i32) {
    let deadline = Instant::now() + PATIENCE;
    let status = loop {
        match job.try_wait().unwrap() {
            Some(status) => break status,
            None if Instant::now() > deadline => {
                let _ = job.kill();
                panic!("did not end\n{}", everything(host));
            }
            None => std::thread::sleep(Duration::from_millis(10)),
        }
    };
    assert_eq!(status.code(), Some(code), "{}", everything(host));
}

fn everything(host: &Host<'_>) -> String {
    let names = ["container.out", "container.err", "_condor_stdout", "_condor_stderr", "condor-criu.log"];
    names.iter().map(|name| format!("--- {name}\n{}\n", host.read(name))).collect()
}

#[track_caller]
fn until(job: &mut Child, host: &Host<'_>, line: &str) {
    let deadline = Instant::now() + PATIENCE;
    while !host.stdout().contains(line) {
        assert!(job.try_wait().unwrap().is_none() && Instant::now() < deadline, "no {line:?}\n{}", everything(host));
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The signal goes to Apptainer's process, the only one that HTCondor knows.
fn vacate(job: &Child) {
    let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", job.id())).unwrap();
    kill(Pid::from_raw(children.trim().parse().unwrap()), Signal::SIGTERM).unwrap();
}

fn moves(image: Image, options: &str) {
    let bench = Bench::new();
    bundle(&bench);
    let container = Container { bench: &bench, image: image.path(), options };
    let peace = host(&bench, "peace", FIRST_USER);
    let alone = container.command(&peace, "/srv", "exec python3 work.py >>_condor_stdout").spawn().unwrap();

    let mut here = host(&bench, "host0", FIRST_USER);
    for (number, line) in ["step 8 ", "step 30 "].into_iter().enumerate() {
        let inside = if number == 0 { "/srv" } else { "/var/lib/execute/dir_1/scratch" };
        let mut job = container.start(&here, inside);
        until(&mut job, &here, line);
        vacate(&job);
        end(job, &here, 85);
        let user = if number == 0 { SECOND_USER } else { FIRST_USER };
        let next = host(&bench, &format!("another/path/{number}"), user);
        here.carry_to(&next, &[]);
        here = next;
    }
    let job = container.start(&here, "/srv");
    end(job, &here, CODE);
    end(alone, &peace, CODE);
    assert_eq!(here.stdout(), peace.stdout(), "{}", everything(&here));
    assert_eq!(here.stderr(), "", "{}", everything(&here));
    for name in ["log", "state"] {
        assert_eq!(fs::read(here.scratch.join(name)).unwrap(), fs::read(peace.scratch.join(name)).unwrap(), "{name}");
    }
    assert_eq!(here.log().matches("the payload runs again").count(), 2, "{}", here.log());
}

#[test]
fn an_image_file_with_its_own_tmp_and_pids() {
    moves(Image::Sif, "-C");
}

#[test]
fn a_sandbox_directory() {
    moves(Image::Sandbox, "");
}

#[test]
#[ignore = "takes minutes: ./test --long"]
fn every_other_way() {
    {
        for image in [Image::Sif, Image::Sandbox] {
            for options in
                ["", "--contain", "--pid", "-C", "--writable-tmpfs", "--no-mount tmp", "--containall --no-home --ipc"]
            {
                println!("{image:?} {options}");
                moves(image, options);
            }
        }
    }
}

/// `doctor` in a container, and its exit code.
fn doctor(options: &str, before: &str, code: i32) -> String {
    let bench = Bench::new();
    bundle(&bench);
    let container = Container { bench: &bench, image: Image::Sandbox.path(), options };
    let host = host(&bench, "host", FIRST_USER);
    let mut command = container.command(&host, "/srv", &format!("{before} exec ./condor-criu doctor"));
    let Output { status, stdout, stderr } = command.stdout(Stdio::piped()).stderr(Stdio::piped()).output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert_eq!(status.code(), Some(code), "{text}");
    text
}

#[test]
fn doctor_says_that_it_works_and_what_is_missing() {
    let text = doctor("", "", 0);
    assert!(text.contains("this is a container of Apptainer"), "{text}");
    assert!(text.contains("Jobs can be checkpointed and restored on this host."), "{text}");
    // /tmp of such a container has 64 MB.
    doctor("--contain", "", 0);
}
