//! The table of a rehearsal.

use super::Eviction;

/// One line an eviction.
pub(super) fn evictions(evictions: &[Eviction]) -> String {
    let mut rows = vec![["", "why", "frozen", "committed", "bytes", "running again"].map(str::to_owned)];
    for (number, eviction) in evictions.iter().enumerate() {
        let seconds = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |seconds| format!("{seconds:.2} s"));
        rows.push([
            (number + 1).to_string(),
            eviction.why.clone(),
            seconds(eviction.frozen_seconds),
            seconds(eviction.commit_seconds),
            eviction.bytes.map_or_else(|| "-".to_owned(), bytes),
            seconds(eviction.running_again_seconds),
        ]);
    }
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..6).map(width).collect();
    let line = |row: &[String; 6]| {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:>width$}")).collect();
        cells.join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// Bytes with a unit.
fn bytes(bytes: u64) -> String {
    let units = ["B", "kB", "MB", "GB", "TB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", units[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_aligned_and_unknown_is_a_dash() {
        let text = evictions(&[Eviction { why: "vacate".into(), bytes: Some(1_234_567), ..Eviction::default() }]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 2);
        assert!(lines[1].contains("1.2 MB") && lines[1].ends_with('-'), "{text}");
    }
}
