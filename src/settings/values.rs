//! From the text of a setting to its value, or why it is none.

use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::{CarryFiles, Interval};
use crate::checkpoint::archive::Compression;
use crate::htcondor::job::parse_signal;

/// HTCondor restarts a job in place in well under a second, but the upload that precedes it is paid by the access
/// point; nobody should make it do so more often.
const SHORTEST_INTERVAL: Duration = Duration::from_secs(1);

pub fn duration(text: &str) -> Result<Duration, String> {
    // A bare number means seconds, as everywhere in HTCondor.
    if let Ok(seconds) = text.parse::<u64>() {
        return Ok(Duration::from_secs(seconds));
    }
    humantime::parse_duration(text).map_err(|error| format!("not a duration such as 90s, 15min or 1h: {error}"))
}

pub fn interval(text: &str) -> Result<Interval, String> {
    match text {
        "auto" => Ok(Interval::Auto),
        "never" => Ok(Interval::Never),
        _ => match duration(text)? {
            short if short < SHORTEST_INTERVAL => {
                Err(format!("shorter than {}", humantime::format_duration(SHORTEST_INTERVAL)))
            }
            long => Ok(Interval::Every(long)),
        },
    }
}

pub fn share(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|share| *share > 0.0 && *share < 1.0).ok_or_else(|| "not between 0 and 1".to_owned())
}

pub fn keep(text: &str) -> Result<u8, String> {
    match text {
        "1" => Ok(1),
        "2" => Ok(2),
        _ => Err("neither 1 nor 2".into()),
    }
}

pub fn carry_files(text: &str) -> Result<CarryFiles, String> {
    let mut words: Vec<&str> = text.split([',', ' ']).filter(|word| !word.is_empty()).collect();
    if words == ["none"] {
        return Ok(CarryFiles { auto: Some(false), patterns: Vec::new() });
    }
    let all = words.len();
    words.retain(|word| *word != "auto");
    let auto = words.len() < all;
    for word in &words {
        let valid = word.starts_with('/') && !word.split('/').any(|part| part == "..");
        if !valid || glob::Pattern::new(word).is_err() {
            return Err(format!("{word} is no pattern of absolute paths such as /opt/tool/**"));
        }
    }
    let patterns = words.into_iter().map(str::to_owned).collect();
    // Patterns alone add to nothing; "auto" keeps the decision by what the job runs in.
    Ok(CarryFiles { auto: if auto { None } else { Some(false) }, patterns })
}

/// Bytes per second: a number, or one with kB, MB, GB or TB, and with `/s` for who likes that.
pub fn rate(text: &str) -> Result<f64, String> {
    let amount = text.trim_end_matches("/s").trim();
    let number_end = amount.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(amount.len());
    let (number, unit) = amount.split_at(number_end);
    let factor = match unit.trim() {
        "" | "B" => 1.0,
        "kB" | "KB" => 1e3,
        "MB" => 1e6,
        "GB" => 1e9,
        "TB" => 1e12,
        _ => return Err("not bytes per second, such as 50MB".into()),
    };
    match number.parse::<f64>().map(|number| number * factor) {
        Ok(rate) if (1.0..=1e15).contains(&rate) => Ok(rate),
        _ => Err("not bytes per second, such as 50MB".into()),
    }
}

pub fn compression(text: &str) -> Result<Compression, String> {
    text.parse()
}

/// One name below the root: the sandbox's root is ours, what is below a bound directory is not.
pub fn job_dir(text: &str) -> Result<PathBuf, String> {
    let taken = ["bin", "dev", "etc", "lib", "lib64", "proc", "run", "sbin", "sys", "tmp", "usr", "var", ".", ".."];
    match text.strip_prefix('/') {
        Some(name) if !name.is_empty() && !name.contains('/') && !taken.contains(&name) => Ok(text.into()),
        _ => Err("not one name below the root, such as /job, or one that the system needs".into()),
    }
}

pub fn signals(text: &str) -> Result<Vec<Signal>, String> {
    let names = text.split(|c: char| c == ',' || c.is_whitespace()).filter(|name| !name.is_empty());
    names
        .map(|name| match parse_signal(name) {
            None => Err(format!("there is no signal {name}")),
            Some(Signal::SIGKILL | Signal::SIGSTOP) => Err(format!("{name} cannot be caught")),
            Some(signal) => Ok(signal),
        })
        .collect()
}
