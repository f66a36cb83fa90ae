//! The log as JSON: one object per line, with `time`, `level`, `message`, and `record` where the line is one of the
//! [`Record`]s. What else a line tells is beside them, by its name.

use std::fmt;
use std::time::SystemTime;

use serde::Serialize;
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use super::record::Record;

/// Writes each event so.
pub(super) struct Objects;

impl<S, N> FormatEvent<S, N> for Objects
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let line = object(event.metadata().level().as_str(), &fields.message, fields.others).map_err(|_| fmt::Error)?;
        writeln!(writer, "{line}")
    }
}

/// A line, without its end, that is written now.
pub fn object(level: &str, message: &str, mut fields: Map<String, Value>) -> serde_json::Result<String> {
    #[derive(Serialize)]
    struct Object<'a> {
        time: String,
        level: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        record: Option<&'static str>,
        message: &'a str,
        #[serde(flatten)]
        fields: Map<String, Value>,
    }
    // No key twice.
    for ours in ["time", "level", "record", "message"] {
        fields.remove(ours);
    }
    let record = Record::of(level, message, None, &fields);
    // The name of the record says it already.
    let message = if let Some(Record::EarlyWord(words)) = &record { words } else { message };
    let time = humantime::format_rfc3339_micros(SystemTime::now()).to_string();
    serde_json::to_string(&Object { time, level, record: record.as_ref().map(Record::name), message, fields })
}

/// What an event tells.
#[derive(Default)]
struct Fields {
    message: String,
    others: Map<String, Value>,
}

impl Fields {
    fn add(&mut self, field: &Field, value: impl Into<Value>) {
        self.others.insert(field.name().to_owned(), value.into());
    }
}

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.message = format!("{value:?}");
        } else {
            self.add(field, format!("{value:?}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write};
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::journal::Line;

    /// What is written, for a look at it.
    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn written(tell: impl FnOnce()) -> Vec<Map<String, Value>> {
        let written = Written::default();
        let to = written.clone();
        let subscriber = tracing_subscriber::fmt().event_format(Objects).with_writer(move || to.clone()).finish();
        tracing::subscriber::with_default(subscriber, tell);
        let text = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"))).collect()
    }

    #[test]
    fn every_record_is_read_back_and_named() {
        let committed = Record::Committed {
            generation: 5,
            reason: "interval".into(),
            frozen_seconds: 0.019,
            commit_seconds: 2.0,
            bytes: 707_061,
        };
        let records = [
            Record::Started { version: "0.1.0".into(), scratch: "/a b".into(), job: "7.0".into() },
            committed,
            Record::Restored { generation: 5, seconds: 0.026 },
            Record::EarlyWord("process 301 (\"x\") waits".into()),
            Record::Error("criu: two\nlines".into()),
        ];
        let lines = written(|| records.iter().for_each(Record::tell));
        let names: Vec<&str> = lines.iter().map(|line| line["record"].as_str().unwrap()).collect();
        assert_eq!(names, ["started", "committed", "restored", "early_word", "error"]);
        assert_eq!(lines[1]["bytes"], 707_061);
        assert_eq!(lines[3]["message"], "process 301 (\"x\") waits");
        for (line, record) in lines.iter().zip(&records) {
            let read = Line::parse(&serde_json::to_string(line).unwrap()).unwrap();
            assert_eq!(read.record.as_ref(), Some(record));
            assert!(read.time.unwrap().elapsed().unwrap().as_secs() < 60);
        }
    }

    #[test]
    fn another_line_has_its_fields_and_no_record() {
        let lines = written(|| tracing::warn!(level = 3, path = %"/x", exit = ?Some(1), "committed {}", "or not"));
        let line = &lines[0];
        assert_eq!((&line["level"], &line["message"]), (&"WARN".into(), &"committed or not".into()));
        assert_eq!((&line["path"], &line["exit"], line.get("record")), (&"/x".into(), &"Some(1)".into(), None));
    }
}
