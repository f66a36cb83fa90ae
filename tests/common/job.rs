//! One job in a test's pool: submitting it, waiting for what becomes of it, and pushing it around.
//!
//! What a job does is read from its user log, as a user would: HTCondor has written an event there before
//! anybody can know of it otherwise.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::pool::{Host, Pool};

const USER: &str = "alice";
const LOG: &str = "job.log";

/// Set before the test's own lines, which win.
const DEFAULTS: &str = "\
should_transfer_files = YES
request_memory = 64
request_disk = 64M
log = job.log
output = job.out
error = job.err
";

/// A file in the folder that a job is submitted from.
pub struct File {
    name: String,
    contents: Vec<u8>,
    mode: u32,
}

impl File {
    /// A file of data.
    pub fn data(name: &str, contents: impl Into<Vec<u8>>) -> File {
        File { name: name.into(), contents: contents.into(), mode: 0o644 }
    }

    /// A token: HTCondor takes none that others can read.
    pub fn secret(name: &str, contents: impl Into<Vec<u8>>) -> File {
        File { name: name.into(), contents: contents.into(), mode: 0o600 }
    }

    /// A script or a program.
    pub fn program(name: &str, contents: impl Into<Vec<u8>>) -> File {
        File { name: name.into(), contents: contents.into(), mode: 0o755 }
    }
}

/// What a test waits for.
#[derive(Clone, Debug)]
pub enum Condition {
    /// It is running there.
    RunningOn(Host),
    /// It has been started at least so many times; a restart in place after a checkpoint is none.
    Starts(usize),
    /// Its files have been carried to the access point so many times: by a checkpoint, an eviction, the end.
    Uploads(usize),
    /// An upload is under way.
    Uploading,
    /// A file in its scratch directory contains this text.
    Scratch(&'static str, String),
    /// It is held.
    Held,
    /// It has ended by itself.
    Done,
    /// It has been removed.
    Removed,
}

/// Where a job is, by its user log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// It waits for a host.
    Idle,
    /// It runs there.
    Running(Host),
    /// Its host does not answer.
    Disconnected,
    /// It is held, for this reason.
    Held(String),
    /// It has ended.
    Done,
    /// It has been removed.
    Removed,
}

/// An event of a user log.
#[derive(Clone, Debug)]
pub struct Event {
    /// Its number, such as 5 for "Job terminated".
    pub code: u16,
    /// All lines of it.
    pub text: String,
}

/// What HTCondor says of a job that has ended.
#[derive(Debug)]
pub struct History {
    /// `ExitCode`, if it ended with one.
    pub exit_code: Option<i64>,
    /// `ExitBySignal`.
    pub exit_by_signal: bool,
    /// `ExitSignal`, if it died of one.
    pub exit_signal: Option<i64>,
    /// `NumJobStarts`.
    pub starts: i64,
    /// Where it ran at last.
    pub last_host: Option<Host>,
    /// The whole job ad.
    pub ad: Value,
}

/// A submitted job. It is removed when this value goes, so that no test leaves load behind for the others.
pub struct Job<'p> {
    pool: &'p Pool,
    cluster: String,
    folder: PathBuf,
}

impl<'p> Job<'p> {
    #[track_caller]
    pub(super) fn submit(pool: &'p Pool, text: &str, files: &[File]) -> Job<'p> {
        let folder = tempfile::Builder::new()
            .prefix("job-")
            .permissions(fs::Permissions::from_mode(0o755))
            .tempdir_in(pool.shared_folder())
            .unwrap_or_else(|error| panic!("no folder for the job: {error}"))
            .keep();
        let queue = if text.lines().any(|line| line.trim_start().starts_with("queue")) { "" } else { "\nqueue\n" };
        let submit = File::data("job.sub", format!("{DEFAULTS}{text}{queue}"));
        for file in files.iter().chain([&submit]) {
            let path = folder.join(&file.name);
            fs::create_dir_all(path.parent().unwrap_or(&folder))
                .and_then(|()| fs::write(&path, &file.contents))
                .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(file.mode)))
                .unwrap_or_else(|error| panic!("{} cannot be written: {error}", path.display()));
        }
        let inside = format!("/shared/{}", folder.file_name().unwrap_or_default().to_string_lossy());
        pool.ask(Host::Ap, "root", &["chown", "-R", "alice:alice", &inside]);
        let answer = pool.ask(Host::Ap, USER, &["env", "-C", &inside, "condor_submit", "-terse", "job.sub"]);
        let cluster = answer.split('.').next().unwrap_or_default().to_owned();
        assert!(!cluster.is_empty(), "condor_submit -terse said {answer:?}");
        Job { pool, cluster, folder }
    }

    /// Its number, as HTCondor's commands take it.
    pub fn id(&self) -> &str {
        &self.cluster
    }

    /// A file of the folder it was submitted from, where its output arrives.
    #[track_caller]
    pub fn read(&self, name: &str) -> String {
        let bytes = self.read_bytes(name);
        String::from_utf8(bytes).unwrap_or_else(|_| panic!("{name} is not text"))
    }

    /// The same for files that are no text.
    #[track_caller]
    pub fn read_bytes(&self, name: &str) -> Vec<u8> {
        let path = self.path(name);
        fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}\n{}", path.display(), self.log_text()))
    }

    /// Where such a file is on this machine.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// All events so far.
    pub fn events(&self) -> Vec<Event> {
        // An event ends with a line of three dots; what follows the last one is still being written.
        let text = self.log_text();
        let whole = text.rfind("\n...\n").map_or("", |end| &text[..end]);
        whole
            .split("\n...\n")
            .filter_map(|text| Some(Event { code: text.trim_start().get(..3)?.parse().ok()?, text: text.to_owned() }))
            .collect()
    }

    fn log_text(&self) -> String {
        fs::read_to_string(self.path(LOG)).unwrap_or_default()
    }

    /// Where it is now.
    pub fn state(&self) -> State {
        self.events().iter().fold(State::Idle, |state, event| match event.code {
            1 | 23 => event.host().map_or(state, State::Running),
            4 | 7 | 13 | 24 => State::Idle,
            5 => State::Done,
            9 => State::Removed,
            12 => State::Held(event.text.lines().nth(1).unwrap_or_default().trim().to_owned()),
            22 => State::Disconnected,
            _ => state,
        })
    }

    /// Waits for something to become true, and panics with the user log when it does not, or cannot any more.
    #[track_caller]
    pub fn wait_for(&self, condition: Condition, timeout: Duration) {
        let deadline = Instant::now() + timeout;
        loop {
            // First the state: a job that has ended after this look is looked at once more.
            let state = self.state();
            if self.is(&condition, &state) {
                return;
            }
            let over = match state {
                State::Done | State::Removed => true,
                State::Held(_) => !matches!(condition, Condition::Removed),
                _ => false,
            };
            if over || Instant::now() > deadline {
                let why = if over { "it never will" } else { "the time is over" };
                panic!(
                    "job {}: {condition:?} is not true and {why}; it is {state:?}\n{}",
                    self.cluster,
                    self.log_text()
                );
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn is(&self, condition: &Condition, state: &State) -> bool {
        match condition {
            Condition::RunningOn(host) => *state == State::Running(*host),
            Condition::Starts(count) => self.count(|event| event.code == 1) >= *count,
            Condition::Uploads(count) => self.uploads("Finished") >= *count,
            Condition::Uploading => self.is_uploading(),
            Condition::Scratch(file, text) => match state {
                State::Running(host) => self.scratch(*host, file).is_some_and(|found| found.contains(text.as_str())),
                _ => false,
            },
            Condition::Held => matches!(state, State::Held(_)),
            Condition::Done => *state == State::Done,
            Condition::Removed => *state == State::Removed,
        }
    }

    /// Whether an upload is under way; one that was cut off is none.
    pub fn is_uploading(&self) -> bool {
        let events = self.events();
        let last = events.iter().rev().find(|event| matches!(event.code, 1 | 4 | 22 | 24 | 40));
        last.is_some_and(|event| event.code == 40 && event.text.contains("Started transferring output files"))
    }

    fn uploads(&self, what: &str) -> usize {
        self.count(|event| event.code == 40 && event.text.contains(&format!("{what} transferring output files")))
    }

    fn count(&self, which: impl Fn(&Event) -> bool) -> usize {
        self.events().iter().filter(|event| which(event)).count()
    }

    /// The host where it runs; panics if it does not.
    #[track_caller]
    pub fn host(&self) -> Host {
        match self.state() {
            State::Running(host) => host,
            state => panic!("job {} is not running, it is {state:?}\n{}", self.cluster, self.log_text()),
        }
    }

    /// A file of its scratch directory on a host as it is now, such as `_condor_stdout`. After a cut cable an earlier
    /// run of it may still be alive there; the last one counts.
    pub fn scratch(&self, host: Host, file: &str) -> Option<String> {
        const FIND: &str = r#"last=-1; for ad in "$1"/dir_*/.job.ad "$1"/dir_*/scratch/.job.ad; do
            grep -qs "^ClusterId = $2\$" "$ad" || continue
            run=$(sed -n 's/^NumShadowStarts = //p' "$ad")
            [ "${run:-0}" -le "$last" ] || { last=${run:-0}; dir=${ad%/*}; }
        done; [ "$last" -ge 0 ] && cat "$dir/$3""#;
        let found = self.pool.exec(host, "root", &["sh", "-c", FIND, "sh", host.execute(), &self.cluster, file]);
        found.status.success().then(|| String::from_utf8_lossy(&found.stdout).into_owned())
    }

    /// Evicts it with a grace period.
    #[track_caller]
    pub fn vacate(&self) {
        self.pool.ask(Host::Ap, USER, &["condor_vacate_job", &self.cluster]);
    }

    /// Evicts it by SIGKILL.
    #[track_caller]
    pub fn vacate_fast(&self) {
        self.pool.ask(Host::Ap, USER, &["condor_vacate_job", "-fast", &self.cluster]);
    }

    /// Holds it.
    #[track_caller]
    pub fn hold(&self) {
        self.pool.ask(Host::Ap, USER, &["condor_hold", &self.cluster]);
    }

    /// Releases it. The user log tells of it a little later than `condor_release` ends: until then the job looks held.
    #[track_caller]
    pub fn release(&self) {
        let released = |job: &Self| job.count(|event| event.code == 13);
        let before = released(self);
        self.pool.ask(Host::Ap, USER, &["condor_release", &self.cluster]);
        let deadline = Instant::now() + Duration::from_secs(20);
        while released(self) == before {
            assert!(Instant::now() < deadline, "job {} is not released\n{}", self.cluster, self.log_text());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Removes it.
    #[track_caller]
    pub fn remove(&self) {
        self.pool.ask(Host::Ap, USER, &["condor_rm", &self.cluster]);
    }

    /// Its ad in the queue, such as it is now; none when it has left the queue.
    #[track_caller]
    pub fn queued(&self) -> Option<Value> {
        self.ads("condor_q", &[])
    }

    /// What HTCondor says of it after its end.
    #[track_caller]
    pub fn history(&self) -> History {
        // The schedd writes the user log first and the history a moment later.
        let deadline = Instant::now() + Duration::from_secs(20);
        let ad = loop {
            if let Some(ad) = self.ads("condor_history", &["-limit", "1"]) {
                break ad;
            }
            assert!(Instant::now() < deadline, "job {} is not in the history\n{}", self.cluster, self.log_text());
            std::thread::sleep(Duration::from_millis(100));
        };
        History {
            exit_code: ad["ExitCode"].as_i64(),
            exit_by_signal: ad["ExitBySignal"].as_bool().unwrap_or(false),
            exit_signal: ad["ExitSignal"].as_i64(),
            starts: ad["NumJobStarts"].as_i64().unwrap_or(0),
            last_host: ad["LastRemoteHost"].as_str().and_then(Host::in_name),
            ad,
        }
    }

    #[track_caller]
    fn ads(&self, program: &str, options: &[&str]) -> Option<Value> {
        let argv = [&[program, &self.cluster, "-json"], options].concat();
        let text = self.pool.ask(Host::Ap, USER, &argv);
        if text.trim().is_empty() {
            return None;
        }
        let ads: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{program} -json: {error}: {text}"));
        ads.get(0).cloned()
    }
}

impl Drop for Job<'_> {
    fn drop(&mut self) {
        // Before the job and its scratch directory with its log are gone.
        self.pool.keep_logs_of_a_panic();
        if !matches!(self.state(), State::Done | State::Removed) {
            self.pool.exec(Host::Ap, USER, &["condor_rm", &self.cluster]);
        }
    }
}

impl Event {
    /// The host in "Job executing on host: <…&alias=ep1.pool&…>" and the lines below it.
    fn host(&self) -> Option<Host> {
        [Host::Ep1, Host::Ep2].into_iter().find(|host| self.text.contains(&format!("{host}.pool")))
    }
}
