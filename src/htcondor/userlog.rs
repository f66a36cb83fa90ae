//! HTCondor's user log: what `log = job.log` in a submit file writes. Events are blocks of lines that end with `...`;
//! the first line has the number, the job and the time, in the old form without a year or in the newer one.

use std::path::Path;

use jiff::civil::{Date, DateTime, Time};
use jiff::tz::TimeZone;

/// Bytes of one log that are read; a log of a hundred thousand jobs is some hundred MB.
const LOG_MAX: u64 = 2 * 1024 * 1024 * 1024;

/// A job's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId {
    /// `ClusterId`
    pub cluster: u64,
    /// `ProcId`
    pub proc: u64,
}

impl std::fmt::Display for JobId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.cluster, self.proc)
    }
}

impl std::str::FromStr for JobId {
    type Err = ();

    /// `12.0`; leading zeros as in user logs are allowed.
    fn from_str(text: &str) -> Result<JobId, ()> {
        let mut parts = text.split('.').map(|part| part.parse().map_err(drop));
        match (parts.next(), parts.next()) {
            (Some(cluster), Some(proc)) => Ok(JobId { cluster: cluster?, proc: proc? }),
            _ => Err(()),
        }
    }
}

/// One event.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Its number: 0 submitted, 1 executing, 4 evicted, 5 terminated, …
    pub code: u16,
    /// Whose.
    pub job: JobId,
    /// Seconds since the epoch.
    pub at: f64,
    /// The rest of the first line, and the lines behind it.
    pub text: String,
}

impl Event {
    /// The value of a line `name<separator>value` of the text, if there is one.
    pub fn value(&self, name: &str, separator: char) -> Option<&str> {
        self.text.lines().find_map(|line| {
            let (found, value) = line.trim().split_once(separator)?;
            (found.trim() == name).then_some(value.trim())
        })
    }
}

/// Reads the events of the log at `path`, in its order. Times are read in `zone`; those without a year are taken for
/// the years up to that of `modified`, the file's last change.
pub fn read(path: &Path, zone: &TimeZone) -> std::io::Result<Vec<Event>> {
    let file = std::fs::File::open(path)?;
    let modified = file.metadata()?.modified().ok().and_then(|time| jiff::Timestamp::try_from(time).ok());
    let year = modified.unwrap_or(jiff::Timestamp::UNIX_EPOCH).to_zoned_datetime(zone.clone()).year();
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut std::io::Read::take(file, LOG_MAX), &mut bytes)?;
    Ok(parse(&String::from_utf8_lossy(&bytes), zone, year))
}

/// The events in `text`. What is no event, or is cut off in its first line, is passed over.
pub fn parse(text: &str, zone: &TimeZone, last_year: i16) -> Vec<Event> {
    let mut heads = Vec::new();
    let mut open: Option<(Head, String)> = None;
    for line in text.lines() {
        if line == "..." {
            heads.extend(open.take());
        } else if let Some((_, words)) = &mut open {
            words.push('\n');
            words.push_str(line);
        } else if let Some((head, rest)) = Head::parse(line) {
            open = Some((head, rest.to_owned()));
        }
    }
    heads.extend(open);
    // From the end: a log without years ends in the last one, and each time that the date jumps forward, a year earlier
    // began.
    let mut year = last_year;
    let mut later: Option<(i8, i8)> = None;
    let mut events: Vec<Event> = Vec::with_capacity(heads.len());
    for (head, text) in heads.into_iter().rev() {
        if head.year.is_none() {
            let day = (head.month, head.day);
            // Events of several jobs are not in order to the second; a day is far beyond that.
            if later.is_some_and(|later| day.0 > later.0) {
                year -= 1;
            }
            later = Some(day);
        }
        let date = Date::new(head.year.unwrap_or(year), head.month, head.day);
        let at = date.ok().and_then(|date| DateTime::from_parts(date, head.time).to_zoned_datetime(zone.clone()).ok());
        let Some(at) = at else { continue };
        events.push(Event { code: head.code, job: head.job, at: at.timestamp().as_duration().as_secs_f64(), text });
    }
    events.reverse();
    events
}

/// `000 (001.000.000) 2026-11-24 19:18:30 Job submitted …` or `000 (001.000.000) 11/24 19:18:30 Job submitted …`
struct Head {
    code: u16,
    job: JobId,
    year: Option<i16>,
    month: i8,
    day: i8,
    time: Time,
}

impl Head {
    fn parse(line: &str) -> Option<(Head, &str)> {
        let (code, rest) = line.split_once(" (")?;
        let (job, rest) = rest.split_once(") ")?;
        let (date, rest) = rest.split_once([' ', 'T'])?;
        let (time, rest) = rest.split_once(' ').unwrap_or((rest, ""));
        let code = (code.len() == 3).then(|| code.parse().ok())??;
        let (year, month, day) = match date.split_once('/') {
            Some((month, day)) => (None, month.parse().ok()?, day.parse().ok()?),
            None => {
                let mut parts = date.splitn(3, '-');
                let year = parts.next()?.parse().ok()?;
                (Some(year), parts.next()?.parse().ok()?, parts.next()?.parse().ok()?)
            }
        };
        // Seconds may have a fraction (EVENT_LOG_FORMAT_OPTIONS SUB_SECOND).
        let (whole, fraction) = time.trim_end_matches('Z').split_once('.').unwrap_or((time.trim_end_matches('Z'), "0"));
        let mut parts = whole.splitn(3, ':').map(|part| part.parse::<i8>().ok());
        let digits: String = fraction.chars().take(9).collect();
        let nanoseconds = format!("{digits:0<9}").parse().ok()?;
        let time = Time::new(parts.next()??, parts.next()??, parts.next()??, nanoseconds).ok()?;
        Some((Head { code, job: job.parse().ok()?, year, month, day, time }, rest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEW: &str = "000 (012.003.000) 2026-11-24 19:18:30 Job submitted from host: <10.85.0.1:9618>\n...\n\
                       001 (012.003.000) 2026-11-24 19:18:31.250 Job executing on host: <10.85.0.2:9618>\n\
                       \tSlotName: slot1_1@ep1.pool\n\tCpus = 2\n...\n";

    #[test]
    fn both_forms_of_a_time_are_read() {
        let events = parse(NEW, &TimeZone::UTC, 2026);
        assert_eq!(events.len(), 2);
        assert_eq!((events[0].code, events[0].job.to_string()), (0, "12.3".into()));
        assert_eq!(events[1].at - events[0].at, 1.25);
        assert_eq!(events[1].value("SlotName", ':'), Some("slot1_1@ep1.pool"));
        assert_eq!(events[1].value("Cpus", '='), Some("2"));
        let old = parse(&NEW.replace("2026-11-24", "11/24"), &TimeZone::UTC, 2026);
        assert_eq!(old, events);
    }

    #[test]
    fn a_log_without_years_may_cross_one() {
        let text = "000 (1.0.0) 12/31 23:59:59 a\n...\n005 (1.0.0) 01/01 00:00:01 b\n...\n";
        let events = parse(text, &TimeZone::UTC, 2026);
        assert_eq!(events[1].at - events[0].at, 2.0);
    }

    #[test]
    fn what_is_no_event_is_passed_over() {
        for text in [
            "",
            "...",
            "000",
            "000 (1.0.0) 2026-13-41 99:99:99 x\n...",
            "nonsense\n000 (x) y\n...\n",
            "\u{0}\n...\n...\n",
        ] {
            assert!(parse(text, &TimeZone::UTC, 2026).is_empty(), "{text:?}");
        }
        // Cut off in the middle of its text: its head is known.
        assert_eq!(parse("001 (1.0.0) 2026-11-24 19:18:31 Job exec", &TimeZone::UTC, 2026).len(), 1);
    }
}
