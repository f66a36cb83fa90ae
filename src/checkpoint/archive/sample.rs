//! What to do with a frame, decided by a look at a part of it.
//!
//! What is to be short is the time until the checkpoint is safe on the access point. It has two parts: the processor's,
//! which every step of compression makes longer, and that of each stored byte (its digest, the page cache, and above
//! all the upload), which compression makes shorter. So each way to store a frame has a price in nanoseconds for each
//! byte of content, and the cheapest is taken. With a slow upload zstd pays even where it gains 2%; with a fast one,
//! only what gains much for little pays.
//!
//! The look itself must cost little. It counts bytes in slices spread over the frame: for each plane of elements of 4
//! and 8 bytes, as they are and as differences. The entropy of the counts is taken for the size that a plane would
//! have. zstd's own try at the slices stands for everything that repeats in longer pieces (text, code, tables), which
//! counting bytes cannot see.

use zstd::bulk::Compressor;

use super::error::ArchiveError;

/// How one plane of a shuffled frame is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    /// As it is.
    Raw,
    /// zstd without its search for repetitions: the bytes are not equally frequent, but in no order that repeats.
    Entropy,
    /// zstd.
    Zstd,
}

/// What to do with the content of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// Store it as it is.
    Raw,
    /// zstd.
    Zstd,
    /// Shuffle, then store each plane in its way.
    Shuffle {
        /// Element size in bytes, 4 or 8.
        elem: u8,
        /// Differences of neighbours first.
        delta: bool,
        /// How each of the planes is stored, as many as an element has bytes.
        planes: [Coding; 8],
    },
}

/// Bytes per second that an upload takes where nobody has set or measured it: 1 Gbit/s. Pools were seen to upload 1 GB
/// at about 180 MB/s and 100 MB at 40 MB/s (docs/measurements.md, "The price of a restart in place"), and the access
/// point's disk and network have all jobs' uploads to bear.
pub const UPLOAD_RATE: f64 = 125e6;

/// Nanoseconds of one processor for each byte that goes in. Measured with `cargo bench --bench archive` on an AMD EPYC
/// of 2024; on a slower one all are larger together, and the choice shifts as if the upload were faster.
mod price {
    /// zstd -1 of anything.
    pub const ZSTD: f32 = 1.1;
    /// zstd -1 of a plane in which most bytes are equal.
    pub const ZSTD_PLANE: f32 = 0.4;
    /// zstd's Huffman coder alone.
    pub const ENTROPY: f32 = 0.7;
    /// Shuffling, with differences or without.
    pub const SHUFFLE: f32 = 0.1;
    /// For each byte that is stored: its digest and its way into the page cache.
    pub const STORED: f32 = 0.5;
}

/// What the time of the processor and of the upload are worth.
#[derive(Clone, Copy, Debug)]
pub struct Prices {
    /// Nanoseconds for each stored byte.
    stored: f32,
    /// Threads that share the processor's work.
    threads: f32,
}

impl Prices {
    /// For `threads` that compress and an upload of `upload_rate` bytes per second, if that is known.
    pub fn new(upload_rate: Option<f64>, threads: usize) -> Self {
        let rate = upload_rate.filter(|rate| *rate > 0.0).unwrap_or(UPLOAD_RATE);
        let threads = threads.clamp(1, 1024) as f32;
        Self { stored: price::STORED / threads + (1e9 / rate) as f32, threads }
    }

    /// Of a byte that costs so much of the processor's time and becomes `part` bytes.
    fn of(&self, work: f32, part: f32) -> f32 {
        work / self.threads + part * self.stored
    }
}

impl Default for Prices {
    fn default() -> Self {
        Self::new(None, 1)
    }
}

/// Slices that are looked at, and bytes of each: 16 KiB of a frame of 1 MiB.
const SLICES: usize = 8;
const SLICE: usize = 2048;
/// Below this many bytes of content zstd alone decides: the planes would be too short to be worth a frame each.
const LEAST: usize = 32 << 10;
/// Bits per byte below which most bytes of a plane are equal, and zstd's search finds more than its Huffman coder,
/// which needs at least one bit for each.
const MOSTLY_EQUAL: f32 = 1.0;
/// zstd's try at the slices sees only a short past; on the whole frame it does better by up to this.
const WHOLE: f32 = 0.88;

/// Counts for one way to split elements into planes.
type Counts = [[u16; 256]; 8];

/// The counters, kept from frame to frame.
pub struct Sampler {
    prices: Prices,
    counts: Box<Counts>,
    slices: Vec<u8>,
    packed: Vec<u8>,
    /// n · log₂ n for all counts that there can be.
    weights: Vec<f32>,
}

impl Sampler {
    /// A sampler that decides by these prices.
    pub fn new(prices: Prices) -> Self {
        let weights = (0..=SLICES * SLICE / 4).map(|n| n as f32 * (n.max(1) as f32).log2()).collect();
        Self { prices, counts: Box::new([[0; 256]; 8]), slices: Vec::new(), packed: Vec::new(), weights }
    }

    /// Looks at `content` and decides.
    pub fn plan(&mut self, content: &[u8], zstd: &mut Compressor<'static>) -> Result<Plan, ArchiveError> {
        if content.len() < LEAST {
            return Ok(Plan::Zstd);
        }
        self.slices.clear();
        // Slices begin at multiples of 8 bytes, where elements begin.
        let stride = ((content.len() - SLICE) / (SLICES - 1)) & !7;
        for slice in 0..SLICES {
            self.slices.extend_from_slice(&content[slice * stride..slice * stride + SLICE]);
        }

        self.packed.resize(zstd::zstd_safe::compress_bound(self.slices.len()), 0);
        let tried = zstd
            .compress_to_buffer(&self.slices, &mut self.packed[..])
            .map_err(|e| ArchiveError::io("compressing a sample", e))?;
        let plain = tried as f32 / self.slices.len() as f32;
        let noise = plain > 0.99;
        let prices = self.prices;
        let mut best = (prices.of(0.0, 1.0), Plan::Raw);
        if !noise {
            let price = prices.of(price::ZSTD, plain * WHOLE);
            if price < best.0 {
                best = (price, Plan::Zstd);
            }
        }
        for (elem, delta) in [(4_u8, false), (4, true), (8, false), (8, true)] {
            self.count(elem, delta);
            let mut planes = [Coding::Raw; 8];
            let mut sum = 0.0;
            for (counts, coding) in self.counts.iter().zip(&mut planes).take(usize::from(elem)) {
                let (price, found) = self.plane(self.entropy(counts));
                (sum, *coding) = (sum + price, found);
            }
            let price = price::SHUFFLE / prices.threads + sum / f32::from(elem);
            // Two ways of equal promise: the earlier, simpler one.
            if price < best.0 * 0.98 {
                best = (price, Plan::Shuffle { elem, delta, planes });
            }
        }
        Ok(best.1)
    }

    /// The cheapest way to store a plane of so many bits per byte, and its price.
    fn plane(&self, entropy: f32) -> (f32, Coding) {
        let raw = self.prices.of(0.0, 1.0);
        let (work, coding) = match entropy < MOSTLY_EQUAL {
            true => (price::ZSTD_PLANE, Coding::Zstd),
            false => (price::ENTROPY, Coding::Entropy),
        };
        let packed = self.prices.of(work, entropy / 8.0);
        if packed < raw { (packed, coding) } else { (raw, Coding::Raw) }
    }

    /// Bits per byte that an ideal coder of single bytes needs.
    fn entropy(&self, counts: &[u16; 256]) -> f32 {
        let total: u32 = counts.iter().map(|n| u32::from(*n)).sum();
        if total == 0 {
            return 0.0;
        }
        let sum: f32 = counts.iter().filter_map(|n| self.weights.get(usize::from(*n))).sum();
        (total as f32).log2() - sum / total as f32
    }

    fn count(&mut self, elem: u8, delta: bool) {
        for plane in self.counts.iter_mut() {
            plane.fill(0);
        }
        for slice in self.slices.chunks_exact(SLICE) {
            match elem {
                8 => {
                    let words = slice.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word));
                    let mut last = 0;
                    for word in words {
                        let step = word.wrapping_sub(last) as i64;
                        let value = if delta { ((step << 1) ^ (step >> 63)) as u64 } else { word };
                        last = word;
                        for (plane, byte) in value.to_le_bytes().into_iter().enumerate() {
                            self.counts[plane][usize::from(byte)] += 1;
                        }
                    }
                }
                _ => {
                    let words = slice.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word));
                    let mut last = 0;
                    for word in words {
                        let step = word.wrapping_sub(last) as i32;
                        let value = if delta { ((step << 1) ^ (step >> 31)) as u32 } else { word };
                        last = word;
                        for (plane, byte) in value.to_le_bytes().into_iter().enumerate() {
                            self.counts[plane][usize::from(byte)] += 1;
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(content: &[u8]) -> Plan {
        Sampler::new(Prices::default()).plan(content, &mut Compressor::new(1).unwrap()).unwrap()
    }

    fn random() -> impl FnMut() -> u64 {
        let mut x = 0x9e37_79b9_7f4a_7c15_u64;
        move || {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            x
        }
    }

    #[test]
    fn a_slow_upload_is_worth_more_work_than_a_fast_one() {
        let mut next = random();
        // Six of eight bits are noise.
        let content: Vec<u8> = (0..1 << 20).map(|_| (next() >> 58) as u8).collect();
        let plan = |rate, threads| {
            let mut zstd = Compressor::new(1).unwrap();
            Sampler::new(Prices::new(Some(rate), threads)).plan(&content, &mut zstd).unwrap()
        };
        assert_ne!(plan(10e6, 2), Plan::Raw);
        assert_ne!(plan(125e6, 2), Plan::Raw);
        assert_eq!(plan(1e11, 1), Plan::Raw);
        // With many threads to share it, the same work pays again.
        assert_ne!(plan(1e10, 64), Plan::Raw);
    }

    #[test]
    fn each_kind_of_content_gets_its_plan() {
        let mut next = random();
        let noise: Vec<u8> = (0..1 << 17).flat_map(|_| next().to_le_bytes()).collect();
        assert_eq!(plan(&noise), Plan::Raw);
        assert_eq!(plan(&noise[..1000]), Plan::Zstd);

        let mut at = 0.0;
        let walk: Vec<u8> = (0..1 << 17)
            .flat_map(|_| {
                at += (next() >> 11) as f64 / (1_u64 << 53) as f64 - 0.5;
                f64::to_le_bytes(at)
            })
            .collect();
        let Plan::Shuffle { elem: 8, delta: true, planes } = plan(&walk) else { panic!("{:?}", plan(&walk)) };
        assert_eq!((&planes[..3], planes[7]), (&[Coding::Raw; 3][..], Coding::Zstd), "{planes:?}");
        assert_ne!(planes[6], Coding::Raw, "{planes:?}");

        let field: Vec<u8> = (0..1 << 18)
            .flat_map(|i| (((i as f32) / 500.0).sin() + (next() >> 60) as f32 / 1e5).to_le_bytes())
            .collect();
        assert!(matches!(plan(&field), Plan::Shuffle { elem: 4, .. }));

        let text: Vec<u8> = (0..100_000).flat_map(|i| format!("line {i} says {}\n", next() % 7).into_bytes()).collect();
        assert_eq!(plan(&text[..1 << 20]), Plan::Zstd);
    }
}
