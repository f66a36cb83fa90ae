//! The table of a rehearsal.

use super::life::Eviction;
use crate::report::text::bytes;

/// One line an eviction.
pub(super) fn evictions(evictions: &[Eviction]) -> String {
    let mut rows = vec![["", "why", "frozen", "committed", "bytes", "running again"].map(str::to_owned)];
    for (number, eviction) in evictions.iter().enumerate() {
        let seconds = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |seconds| format!("{seconds:.2} s"));
        rows.push([
            (number + 1).to_string(),
            eviction.kind.to_string(),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rehearse::life::EvictionKind;

    #[test]
    fn the_table_is_aligned_and_unknown_is_a_dash() {
        let text = evictions(&[Eviction { bytes: Some(1_234_567), ..Eviction::new(EvictionKind::Vacate) }]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 2);
        assert!(lines[1].contains("1.2 MB") && lines[1].ends_with('-'), "{text}");
    }
}
