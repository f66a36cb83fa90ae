//! Whether a checkpoint fits into what a vacate leaves, and how it has to be packed for that.
//!
//! Nothing is lost by trying: a checkpoint that is cut off leaves the one before as it is. So it is given up only if
//! even the quickest way of packing would take the whole window for itself.

use std::time::Duration;

use crate::checkpoint::archive::Compression;

/// Bytes a second that a dump without compression is taken to manage before one has been measured here: a busy disk. An
/// assumption, and a low one: 1 GB/s were measured (docs/measurements.md, "Speed of packing").
const UNMEASURED: f64 = 100e6;

/// The last checkpoint, as far as it tells what the next one will take.
#[derive(Debug, Clone, Copy)]
pub struct Last {
    /// Resident memory of the payload and its files, in bytes.
    pub bytes: u64,
    /// Seconds from the dump's begin until everything was packed.
    pub seconds: f64,
    /// How much work the packing was, see [`effort`]; `None` if as much as that of the set compression.
    pub effort: Option<f64>,
    /// Seconds from then until the payload ran again in place: the upload and a restore. `None` if not seen.
    pub upload: Option<f64>,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fit {
    /// Save, packed in this way.
    Save(Compression),
    /// Nothing will do; this much is missing.
    Not(Duration),
}

/// The time that a checkpoint takes, relative to one without compression. zstd:1 is from docs/measurements.md, "Speed
/// of packing" (1 GiB of doubles, two threads: 2.38 s, 1.04 s without). The others were measured with zstd 1.5.4 and
/// gzip 1.12 on 147 MB of libraries and a float64 walk, one thread. zstd: 0.26 s for 1, 0.38 for 3, 1.8 for 9, 51 for
/// 19. gzip: 1.8 s for 1, 4.2 for 6, 11 for 9.
pub fn effort(compression: Compression) -> f64 {
    match compression {
        Compression::None | Compression::Gzip { level: 0 } => 1.0,
        Compression::Auto | Compression::Zstd { level: ..=1 } => 2.3,
        Compression::Zstd { level: ..=3 } => 2.9,
        Compression::Zstd { level: ..=9 } => 10.0,
        Compression::Zstd { .. } => 260.0,
        Compression::Gzip { level: 1 } => 10.0,
        Compression::Gzip { level: ..=6 } => 22.0,
        Compression::Gzip { .. } => 57.0,
    }
}

/// The next quicker way that makes a file of the same name.
fn lower(compression: Compression) -> Option<Compression> {
    match compression {
        Compression::None | Compression::Gzip { level: 0 } => None,
        Compression::Zstd { level: 2.. } => Some(Compression::Zstd { level: 1 }),
        Compression::Zstd { .. } | Compression::Auto => Some(Compression::None),
        Compression::Gzip { level: 1 } => Some(Compression::Gzip { level: 0 }),
        Compression::Gzip { .. } => Some(Compression::Gzip { level: 1 }),
    }
}

/// The quickest way that makes a file of the same name.
pub fn quickest(set: Compression) -> Compression {
    std::iter::successors(Some(set), |&compression| lower(compression)).last().unwrap_or(set)
}

/// How so many bytes of memory and files are to be packed. It is the set compression or a lower one that lets the
/// checkpoint and its upload end within `window`. If none does, it is the quickest, as long as that leaves any time for
/// the upload.
pub fn fit(bytes: u64, set: Compression, last: Option<Last>, window: Duration) -> Fit {
    let last = last.filter(|last| last.bytes > 0 && last.seconds > 0.0);
    let bytes = bytes as f64;
    let window = window.as_secs_f64();
    let mut compression = set;
    loop {
        let save = match last {
            Some(last) => {
                let effort_then = last.effort.unwrap_or_else(|| effort(set));
                bytes * last.seconds / last.bytes as f64 * effort(compression) / effort_then
            }
            None => bytes / UNMEASURED * effort(compression),
        };
        // What is not known is taken to be as much again.
        let upload = last.and_then(|last| Some(last.upload? * bytes / last.bytes as f64)).unwrap_or(save);
        if save + upload <= window {
            return Fit::Save(compression);
        }
        match lower(compression) {
            Some(lower) => compression = lower,
            None if save <= window => return Fit::Save(compression),
            None => return Fit::Not(Duration::from_secs_f64((save - window).min(1e9))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_secs(60);
    const HARD: Compression = Compression::Zstd { level: 19 };

    fn last(seconds: f64, upload: Option<f64>) -> Option<Last> {
        Some(Last { bytes: 1_000, seconds, effort: None, upload })
    }

    #[test]
    fn what_fits_by_the_last_one_is_packed_as_set() {
        assert_eq!(fit(1_000, Compression::Auto, last(20.0, None), WINDOW), Fit::Save(Compression::Auto));
        assert_eq!(fit(1_000, HARD, last(20.0, Some(30.0)), WINDOW), Fit::Save(HARD));
    }

    #[test]
    fn compression_is_lowered_and_then_left_out() {
        assert_eq!(fit(2_000, HARD, last(20.0, None), WINDOW), Fit::Save(Compression::Zstd { level: 1 }));
        assert_eq!(fit(2_000, Compression::Auto, last(40.0, None), WINDOW), Fit::Save(Compression::None));
        let gzip = |level| Compression::Gzip { level };
        assert_eq!(fit(2_000, gzip(6), last(20.0, None), WINDOW), Fit::Save(gzip(1)));
        assert_eq!(fit(2_000, gzip(1), last(40.0, None), WINDOW), Fit::Save(gzip(0)));
        // The upload alone leaves no time for compression.
        assert_eq!(fit(1_000, Compression::Auto, last(20.0, Some(45.0)), WINDOW), Fit::Save(Compression::None));
    }

    #[test]
    fn what_cannot_fit_is_told_by_how_much() {
        let Fit::Not(missing) = fit(4_000, Compression::Auto, last(40.0, None), WINDOW) else { panic!("it fits") };
        assert!((missing.as_secs_f64() - (160.0 / 2.3 - 60.0)).abs() < 1e-6, "{missing:?}");
        // The last one was packed without compression already.
        let quick = Some(Last { bytes: 1_000, seconds: 40.0, effort: Some(1.0), upload: None });
        assert_eq!(fit(2_000, Compression::Auto, quick, WINDOW), Fit::Not(Duration::from_secs(20)));
    }

    #[test]
    fn before_the_first_one_a_low_speed_is_assumed() {
        assert_eq!(fit(1 << 30, Compression::Auto, None, WINDOW), Fit::Save(Compression::Auto));
        assert_eq!(fit(4 << 30, Compression::Auto, None, WINDOW), Fit::Save(Compression::None));
        assert!(matches!(fit(1 << 40, Compression::Auto, None, WINDOW), Fit::Not(_)));
    }
}
