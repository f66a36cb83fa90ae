//! Numbers as a reader wants them, and text that is safe in HTML.

use std::time::{Duration, UNIX_EPOCH};

/// Safe as text and in an attribute.
pub fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            c if c.is_control() => safe.push(' '),
            c => safe.push(c),
        }
    }
    safe
}

/// Seconds as `40 ms`, `0.4 s`, `12 s`, `5 min 3 s`, `2 h 5 min`, `3 d 4 h`.
pub fn duration(seconds: f64) -> String {
    let whole = seconds.max(0.0).round() as u64;
    match whole {
        0 if seconds <= 0.0 => "0 s".into(),
        0 if seconds < 0.1 => format!("{:.0} ms", seconds * 1000.0),
        0..10 => format!("{seconds:.1} s"),
        10..60 => format!("{whole} s"),
        60..3600 => format!("{} min {} s", whole / 60, whole % 60),
        3600..86_400 => format!("{} h {} min", whole / 3600, whole % 3600 / 60),
        _ => format!("{} d {} h", whole / 86_400, whole % 86_400 / 3600),
    }
}

/// Cpu-seconds in a unit that fits `most`, the largest of those that are to be compared with each other: cpu-hours, or
/// seconds.
pub fn cpu_time(seconds: f64, most: f64) -> String {
    match most {
        ..360.0 => format!("{seconds:.0} cpu s"),
        360.0..36_000.0 => format!("{:.2} cpu h", seconds / 3600.0),
        _ => format!("{:.1} cpu h", seconds / 3600.0),
    }
}

/// Bytes with a unit.
pub fn bytes(bytes: u64) -> String {
    let units = ["B", "kB", "MB", "GB", "TB", "PB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", units[unit]) }
}

/// A part of a whole.
pub fn percent(part: f64, whole: f64) -> String {
    if whole > 0.0 { format!("{:.1}%", 100.0 * part / whole) } else { "0%".into() }
}

/// Seconds since the epoch.
pub struct Time(pub f64);

impl Time {
    /// `2026-11-24 10:00:00`, UTC.
    pub fn full(&self) -> String {
        // Beyond the year 9999 nothing can be said.
        let since = Duration::try_from_secs_f64(self.0).unwrap_or_default().min(Duration::from_secs(250_000_000_000));
        humantime::format_rfc3339_seconds(UNIX_EPOCH + since).to_string().replace('T', " ").replace('Z', "")
    }

    /// As much of it as a span of so many seconds needs.
    pub fn short(&self, span: f64) -> String {
        let full = self.full();
        match span {
            ..600.0 => full.get(11..19).unwrap_or_default().to_owned(),
            600.0..172_800.0 => full.get(11..16).unwrap_or_default().to_owned(),
            _ => full.get(5..13).map(|text| format!("{text} h")).unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_told_in_fitting_units() {
        assert_eq!(
            [0.0, 0.041, 0.44, 12.0, 303.0, 7500.0, 273_600.0].map(duration),
            ["0 s", "41 ms", "0.4 s", "12 s", "5 min 3 s", "2 h 5 min", "3 d 4 h"]
        );
        assert_eq!([90.0, 5400.0, 72_000.0].map(|most| cpu_time(90.0, most)), ["90 cpu s", "0.03 cpu h", "0.0 cpu h"]);
        assert_eq!((bytes(999), bytes(1_234_567)), ("999 B".into(), "1.2 MB".into()));
        assert_eq!(Time(1_795_514_400.0).full(), "2026-11-24 10:00:00");
        assert_eq!(Time(f64::NAN).full(), "1970-01-01 00:00:00");
    }

    #[test]
    fn nothing_of_a_log_becomes_markup() {
        assert_eq!(escaped("<b a='\"'>&\u{1}"), "&lt;b a=&#39;&quot;&#39;&gt;&amp; ");
    }
}
