//! `condor-criu.log`, in the scratch directory: what we did and why. stdout and stderr belong to the payload alone.
//! docs/log.md describes its two forms.

mod json;
mod record;

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Mutex, OnceLock};

use clap::ValueEnum;

pub use json::object;
pub use record::{Line, Record};

/// The log's name.
pub const NAME: &str = "condor-criu.log";

/// How a line is written; every form is always read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// TIME LEVEL message key=value …
    #[default]
    Text,
    /// One JSON object per line
    Json,
}

/// Of the log that is open: there is one in a process.
static FORMAT: OnceLock<LogFormat> = OnceLock::new();

/// Appends to the log from now on. Times are UTC.
pub fn open(scratch: &Path, level: tracing::Level, format: LogFormat) -> io::Result<()> {
    // Not through a link that a payload has put there, which would lead out of what the sandbox lets it write to; nor
    // does a pipe keep us waiting.
    let mut options = OpenOptions::new();
    options.append(true).create(true).mode(0o600).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    let file = options.open(scratch.join(NAME))?;
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_ansi(false)
        .with_target(false)
        // What cannot be written (a full disk) would be told on stderr, which is the payload's.
        .log_internal_errors(false)
        .with_writer(Mutex::new(file));
    // A second call in one process (unit tests) keeps the first log.
    let opened = match format {
        LogFormat::Text => tracing::subscriber::set_global_default(subscriber.finish()),
        LogFormat::Json => tracing::subscriber::set_global_default(subscriber.event_format(json::Objects).finish()),
    };
    if opened.is_ok() {
        let _ = FORMAT.set(format);
    }
    Ok(())
}

/// The form of the log that is open.
pub fn format() -> LogFormat {
    FORMAT.get().copied().unwrap_or_default()
}

/// What the log in this scratch directory says; nothing if there is none. What a program or CRIU is called may be any
/// bytes.
pub fn read(scratch: &Path) -> String {
    String::from_utf8_lossy(&fs::read(scratch.join(NAME)).unwrap_or_default()).into_owned()
}

/// Its records, in order.
pub fn records(scratch: &Path) -> Vec<Record> {
    read(scratch).lines().filter_map(Record::parse).collect()
}
