//! Flags, environment, job ad and TOML files → one `Settings` value, resolved once.
//!
//! Every source is first a [`Layer`] of texts by key, with the words that name it. The strongest layer that has a key
//! wins. Then each text is read into its type, and an error names the source that the text came from.

mod values;
pub mod words;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::ValueEnum;
use nix::sys::signal::Signal;

use crate::checkpoint::archive::Compression;
use crate::exit::Failure;
use crate::host::baseline::{self, Baseline};
use crate::host::privilege::Mode;
use crate::htcondor::{ClassAd, Job};
use crate::journal::LogFormat;
use crate::sandbox::Network;
use crate::sandbox::compat::Compat;
use values::*;
use words::{word, word_in_any_case};

/// The OSPool's measured lower bound: at least 9 cpu hours lie between two lost attempts (docs/measurements.md, "Time
/// between evictions").
pub const MEAN_TIME_BETWEEN_EVICTIONS: Duration = Duration::from_secs(9 * 3600);
/// The part of the time that checkpoints may cost.
pub const SHARE_MAX: f64 = 0.05;
/// A program that cannot be checkpointed is to be known after minutes, not hours.
pub const FIRST_CHECKPOINT: Duration = Duration::from_secs(10 * 60);

/// Every setting: its key in TOML, and what it means. As an environment variable it is `CONDOR_CRIU_` and the key in
/// capitals, in a job ad `Criu` and the key in camel case (`+CriuInterval = "1h"`).
pub const KEYS: &[(&str, &str)] = &[
    ("criu", "the criu executable, or a folder with criu and its libraries"),
    ("mode", "\"auto\", \"rootless\" or \"capabilities\""),
    ("interval", "how often to checkpoint while running: a duration, \"auto\" or \"never\""),
    ("mean_time_between_evictions", "for interval = \"auto\": a duration"),
    ("checkpoint_share", "for interval = \"auto\": the part of the time that checkpoints may cost, 0 to 1"),
    ("first_checkpoint", "when the first checkpoint comes at the latest: a duration or \"never\""),
    ("compression", "\"auto\", \"none\", \"zstd\", \"zstd:LEVEL\" or \"gzip\""),
    ("upload_rate", "bytes per second that a checkpoint's upload takes, for compression = \"auto\": 50MB, 1GB"),
    ("threads", "threads for packing; 0 means as many as the slot has cpus"),
    ("job_dir", "where the scratch directory is inside the sandbox"),
    ("network", "\"auto\", \"host\" or \"private\""),
    ("compat", "\"auto\", \"on\" or \"off\""),
    ("cpu_baseline", "\"x86-64-v1\", \"x86-64-v2\", \"x86-64-v3\", \"x86-64-v4\" or \"host\""),
    ("carry_files", "\"auto\", \"none\", or patterns of absolute paths; \"auto\" may be one of them"),
    ("keep", "1, or 2: the generation before the newest is kept too"),
    ("on_unrestorable", "\"previous\", \"requeue\", \"restart\" or \"hold\""),
    ("foreign", "\"refuse\" or \"restore\": a checkpoint of another user"),
    ("vacate_signals", "signals that mean: save and leave"),
    ("checkpoint_signals", "signals that mean: save and go on"),
    ("dump_timeout", "how long criu may take to save: a duration"),
    ("restore_timeout", "how long criu may take to restore: a duration"),
    ("log_format", "\"text\" or \"json\": how condor-criu.log is written"),
    ("log_level", "\"error\", \"warn\", \"info\", \"debug\" or \"trace\""),
];

/// The settings file in the scratch directory.
pub const JOB_FILE: &str = "condor-criu.toml";
/// The settings file of the host.
pub const HOST_FILE: &str = "/etc/condor-criu/config.toml";

/// The texts of one source.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Layer {
    /// Names the source in an error.
    pub origin: String,
    /// key → text
    pub values: BTreeMap<String, String>,
}

/// When to checkpoint while running.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interval {
    /// Only at a vacate or when asked.
    Never,
    /// Again and again after this much running.
    Every(Duration),
    /// Daly's optimum from what a checkpoint costs and how often jobs are evicted.
    Auto,
}

/// Which of the host's files travel with a checkpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CarryFiles {
    /// Whether those that are mapped or open do; `None` means unless the job runs in a container image, which the next
    /// host has too.
    pub auto: Option<bool>,
    /// Patterns of more.
    pub patterns: Vec<String>,
}

/// What follows when the newest generation proves unreadable, or when two hosts in a row could not restore it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum OnUnrestorable {
    /// Go on from the generation before it, if there is one
    // With `keep = 2`. At most an interval is lost, and nobody has to be asked.
    #[default]
    Previous,
    /// Exit 75 again and again: another host may get a copy that is whole
    Requeue,
    /// Go on from the generation before it, if there is one; else from the beginning
    Restart,
    /// Exit 125, for a person to look at
    Hold,
}

/// The resolved settings.
#[derive(Debug, Clone)]
pub struct Settings {
    /// See [`KEYS`].
    pub criu: Option<PathBuf>,
    /// See [`KEYS`].
    pub mode: Mode,
    /// See [`KEYS`].
    pub interval: Interval,
    /// See [`KEYS`].
    pub mean_time_between_evictions: Duration,
    /// See [`KEYS`].
    pub checkpoint_share: f64,
    /// See [`KEYS`].
    pub first_checkpoint: Option<Duration>,
    /// See [`KEYS`].
    pub compression: Compression,
    /// See [`KEYS`]; bytes per second, `None` means as seen, or as usual.
    pub upload_rate: Option<f64>,
    /// See [`KEYS`]; 0 is resolved where threads are made.
    pub threads: usize,
    /// See [`KEYS`].
    pub job_dir: PathBuf,
    /// See [`KEYS`]; `None` means as the program needs it.
    pub network: Option<Network>,
    /// See [`KEYS`].
    pub compat: Compat,
    /// See [`KEYS`].
    pub cpu_baseline: Baseline,
    /// See [`KEYS`].
    pub carry_files: CarryFiles,
    /// Generations that are kept: 1 or 2.
    pub keep: u8,
    /// See [`KEYS`].
    pub on_unrestorable: OnUnrestorable,
    /// Whether another user's checkpoint is restored too.
    pub foreign: bool,
    /// See [`KEYS`].
    pub vacate_signals: Vec<Signal>,
    /// See [`KEYS`].
    pub checkpoint_signals: Vec<Signal>,
    /// See [`KEYS`]; `None` means by the size of the payload.
    pub dump_timeout: Option<Duration>,
    /// See [`KEYS`]; `None` means by the size of the checkpoint.
    pub restore_timeout: Option<Duration>,
    /// See [`KEYS`].
    pub log_format: LogFormat,
    /// See [`KEYS`].
    pub log_level: tracing::Level,
}

impl Settings {
    /// Resolves the settings of a job. `flags` are what the command line says, `config` the file that `--config` names.
    pub fn resolve(flags: Layer, config: Option<&Path>, job: &Job) -> Result<Settings, Failure> {
        // Ours are text; the others may be anything.
        let variables =
            std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        let mut layers = vec![flags, environment(variables)];
        if let Some(ad) = &job.ad {
            layers.push(job_ad(ad));
        }
        match config {
            Some(path) => layers.push(file(path)?),
            None => layers.extend(file_if_there(&job.scratch.join(JOB_FILE))?),
        }
        layers.extend(file_if_there(Path::new(HOST_FILE))?);
        from_layers(&layers, job)
    }
}

/// `CONDOR_CRIU_INTERVAL=1h` → interval. Other variables with that prefix are not ours to judge.
fn environment(variables: impl Iterator<Item = (String, String)>) -> Layer {
    let values = variables.filter_map(|(name, value)| {
        let key = name.strip_prefix("CONDOR_CRIU_")?.to_ascii_lowercase();
        KEYS.iter().any(|(known, _)| *known == key).then_some((key, value))
    });
    Layer { origin: "the environment".into(), values: values.collect() }
}

/// `CriuInterval = "1h"` → interval.
fn job_ad(ad: &ClassAd) -> Layer {
    let values = KEYS.iter().filter_map(|(key, _)| {
        let camel: String = key.split('_').map(capitalised).collect();
        Some(((*key).to_owned(), ad.literal(&format!("Criu{camel}"))?))
    });
    Layer { origin: "the job ad".into(), values: values.collect() }
}

fn capitalised(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(letters).collect()
}

fn file_if_there(path: &Path) -> Result<Option<Layer>, Failure> {
    if path.exists() { file(path).map(Some) } else { Ok(None) }
}

fn file(path: &Path) -> Result<Layer, Failure> {
    let what = format!("cannot read the settings in {}", path.display());
    let text = std::fs::read_to_string(path).map_err(|error| Failure::start(&*what, error))?;
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| Failure::start(&*what, error.message()))?;
    let mut values = BTreeMap::new();
    for (key, value) in table {
        if !KEYS.iter().any(|(known, _)| *known == key) {
            let known: Vec<&str> = KEYS.iter().map(|(known, _)| *known).collect();
            return Err(Failure::start(&*what, format!("there is no setting `{key}`"))
                .with_remedy(format!("the settings are {}", known.join(", "))));
        }
        let text = match value {
            toml::Value::String(text) => text,
            toml::Value::Integer(number) => number.to_string(),
            toml::Value::Float(number) => number.to_string(),
            toml::Value::Boolean(flag) => flag.to_string(),
            toml::Value::Array(items) => items
                .iter()
                .map(|item| item.as_str().map_or_else(|| item.to_string(), str::to_owned))
                .collect::<Vec<_>>()
                .join(","),
            other => return Err(Failure::start(&*what, format!("`{key}` cannot be a {}", other.type_str()))),
        };
        values.insert(key, text);
    }
    Ok(Layer { origin: path.display().to_string(), values })
}

fn from_layers(layers: &[Layer], job: &Job) -> Result<Settings, Failure> {
    let read = Reading { layers };
    let mut vacate_signals = vec![Signal::SIGTERM, Signal::SIGTSTP];
    vacate_signals.extend(job.kill_signal());
    let mut checkpoint_signals = vec![Signal::SIGUSR2];
    checkpoint_signals.extend(job.checkpoint_signal());
    Ok(Settings {
        criu: read.get("criu", |text| Ok(PathBuf::from(text)))?,
        mode: read.get("mode", word)?.unwrap_or_default(),
        interval: read.get("interval", interval)?.unwrap_or(Interval::Auto),
        mean_time_between_evictions: read
            .get("mean_time_between_evictions", duration)?
            .unwrap_or(MEAN_TIME_BETWEEN_EVICTIONS),
        checkpoint_share: read.get("checkpoint_share", share)?.unwrap_or(SHARE_MAX),
        first_checkpoint: read
            .get("first_checkpoint", |text| Ok(if text == "never" { None } else { Some(duration(text)?) }))?
            .unwrap_or(Some(FIRST_CHECKPOINT)),
        compression: read.get("compression", compression)?.unwrap_or(Compression::Auto),
        upload_rate: read.get("upload_rate", rate)?,
        threads: read.get("threads", |text| text.parse().map_err(|_| "not a number of threads".into()))?.unwrap_or(0),
        job_dir: read.get("job_dir", job_dir)?.unwrap_or_else(|| "/job".into()),
        network: read.get("network", word)?.and_then(words::Network::chosen),
        compat: read.get("compat", word)?.unwrap_or_default(),
        cpu_baseline: read.get("cpu_baseline", word)?.unwrap_or(baseline::DEFAULT),
        carry_files: read.get("carry_files", carry_files)?.unwrap_or_default(),
        keep: read.get("keep", keep)?.unwrap_or(1),
        on_unrestorable: read.get("on_unrestorable", word)?.unwrap_or_default(),
        foreign: read.get("foreign", word::<words::Foreign>)?.is_some_and(|word| word == words::Foreign::Restore),
        vacate_signals: read.get("vacate_signals", signals)?.unwrap_or(vacate_signals),
        checkpoint_signals: read.get("checkpoint_signals", signals)?.unwrap_or(checkpoint_signals),
        dump_timeout: read.get("dump_timeout", duration)?,
        restore_timeout: read.get("restore_timeout", duration)?,
        log_format: read.get("log_format", word)?.unwrap_or_default(),
        log_level: read
            .get("log_level", word_in_any_case::<words::LogLevel>)?
            .map_or(tracing::Level::INFO, tracing::Level::from),
    })
}

struct Reading<'a> {
    layers: &'a [Layer],
}

impl Reading<'_> {
    fn get<T>(&self, key: &str, parse: impl Fn(&str) -> Result<T, String>) -> Result<Option<T>, Failure> {
        let Some((layer, text)) = self.layers.iter().find_map(|layer| Some((layer, layer.values.get(key)?))) else {
            return Ok(None);
        };
        match parse(text.trim()) {
            Ok(value) => Ok(Some(value)),
            Err(why) => {
                let meaning = KEYS.iter().find(|(known, _)| *known == key).map_or("", |(_, meaning)| meaning);
                Err(Failure::start(format!("cannot use {key} = \"{text}\" from {}", layer.origin), why)
                    .with_remedy(format!("{key} is {meaning}")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(origin: &str, values: &[(&str, &str)]) -> Layer {
        let values = values.iter().map(|(key, text)| ((*key).to_owned(), (*text).to_owned())).collect();
        Layer { origin: origin.into(), values }
    }

    fn job() -> Job {
        Job { scratch: "/".into(), ad: None, machine: None }
    }

    #[test]
    fn the_strongest_layer_wins_and_an_error_names_its_source() {
        let layers =
            [layer("a flag", &[("interval", "90s")]), layer("the job ad", &[("interval", "x"), ("network", "y")])];
        let failure = from_layers(&layers, &job()).unwrap_err().to_string();
        assert!(failure.contains("network = \"y\" from the job ad"), "{failure}");
        let settings = from_layers(&layers[..1], &job()).unwrap();
        assert_eq!(settings.interval, Interval::Every(Duration::from_secs(90)));
    }

    #[test]
    fn every_source_spells_the_same_setting() {
        let from_env = environment([("CONDOR_CRIU_RESTORE_TIMEOUT".to_owned(), "2min".to_owned())].into_iter());
        assert_eq!(from_env.values["restore_timeout"], "2min");
        let from_ad = job_ad(&ClassAd::parse("CriuRestoreTimeout = 120\nCriuUnknown = 1"));
        assert_eq!(from_ad.values["restore_timeout"], "120");
        assert_eq!(from_ad.values.len(), 1);
    }

    #[test]
    fn an_upload_rate_has_units() {
        for (text, bytes) in [("5000000", 5e6), ("50MB", 5e7), ("1.5 GB/s", 1.5e9), ("100 kB/s", 1e5)] {
            let settings = from_layers(&[layer("a flag", &[("upload_rate", text)])], &job()).unwrap();
            assert_eq!(settings.upload_rate, Some(bytes), "{text}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for (key, text) in [
            ("interval", "0s"),
            ("job_dir", "/etc"),
            ("job_dir", "job"),
            ("job_dir", "/a/b"),
            ("vacate_signals", "SIGKILL"),
            ("checkpoint_share", "1.5"),
            ("carry_files", "usr/lib/*"),
            ("carry_files", "/usr/../etc/*"),
            ("compression", "lzma"),
            ("keep", "3"),
            ("on_unrestorable", "retry"),
            ("log_format", "xml"),
            ("upload_rate", "0"),
            ("upload_rate", "fast"),
            ("upload_rate", "10 Mbit"),
        ] {
            assert!(from_layers(&[layer("a flag", &[(key, text)])], &job()).is_err(), "{key} = {text}");
        }
    }

    #[test]
    fn the_job_ad_s_kill_signal_is_a_vacate_signal() {
        let job = Job { ad: Some(ClassAd::parse("KillSig = \"SIGUSR1\"")), ..job() };
        assert!(from_layers(&[], &job).unwrap().vacate_signals.contains(&Signal::SIGUSR1));
    }
}
