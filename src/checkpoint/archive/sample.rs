//! What to do with a frame, decided by a look at a part of it.
//!
//! The time of a save is the time of the processor that compresses, so the look must cost little and must find the two cases in
//! which zstd would spend much for nothing: noise, and arrays of numbers. It counts bytes in slices spread over the
//! frame, for each plane of elements of 4 and 8 bytes, as they are and as differences, and takes the entropy of the counts
//! for the size that a plane would have. zstd's own try at the slices stands for everything that repeats in longer pieces (text,
//! code, tables), which counting bytes cannot see.

use zstd::bulk::Compressor;

use super::error::ArchiveError;

/// What to do with the content of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// Store it as it is.
    Raw,
    /// zstd.
    Zstd,
    /// Shuffle, then zstd for some of the planes.
    Shuffle {
        /// Element size in bytes, 4 or 8.
        elem: u8,
        /// Differences of neighbours first.
        delta: bool,
        /// Bit n: plane n is worth compressing.
        packed: u8,
    },
}

/// Slices that are looked at, and bytes of each: 16 KiB of a frame of 1 MiB.
const SLICES: usize = 8;
const SLICE: usize = 2048;
/// Below this many bytes of content zstd alone decides: the planes would be too short to be worth a frame each.
const LEAST: usize = 32 << 10;
/// Bits per byte above which a plane counts as noise. zstd -1 gains next to nothing there and takes its full time.
const NOISE: f32 = 7.6;
/// Shuffling must promise at least this much less than zstd's try at the plain slices, which sees only a short past and would
/// do better on the whole frame.
const MARGIN: f32 = 0.88;

/// Counts for one way to split elements into planes.
type Counts = [[u16; 256]; 8];

/// The counters, kept from frame to frame.
pub struct Sampler {
    counts: Box<Counts>,
    slices: Vec<u8>,
    packed: Vec<u8>,
}

impl Default for Sampler {
    fn default() -> Self {
        Self { counts: Box::new([[0; 256]; 8]), slices: Vec::new(), packed: Vec::new() }
    }
}

impl Sampler {
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

        let mut best = (f32::MAX, Plan::Raw);
        for (elem, delta) in [(4_u8, false), (4, true), (8, false), (8, true)] {
            self.count(elem, delta);
            let (mut bits, mut packed) = (0.0, 0_u8);
            for plane in 0..elem {
                let entropy = entropy(&self.counts[usize::from(plane)]);
                let noise = entropy > NOISE;
                bits += if noise { 8.0 } else { entropy };
                packed |= u8::from(!noise) << plane;
            }
            let part = bits / (8.0 * f32::from(elem));
            // Two ways of equal promise: the earlier, simpler one.
            if part < best.0 * 0.98 {
                best = (part, Plan::Shuffle { elem, delta, packed });
            }
        }

        self.packed.resize(zstd::zstd_safe::compress_bound(self.slices.len()), 0);
        let tried = zstd
            .compress_to_buffer(&self.slices, &mut self.packed[..])
            .map_err(|e| ArchiveError::io("compressing a sample", e))?;
        let plain = tried as f32 / self.slices.len() as f32;
        Ok(match best {
            (part, plan) if part < plain * MARGIN && part < 0.97 => plan,
            _ if plain < 0.97 => Plan::Zstd,
            _ => Plan::Raw,
        })
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

/// Bits per byte that an ideal coder of single bytes needs.
fn entropy(counts: &[u16; 256]) -> f32 {
    let total: u32 = counts.iter().map(|n| u32::from(*n)).sum();
    if total == 0 {
        return 0.0;
    }
    let sum: f32 = counts.iter().filter(|n| **n > 1).map(|n| f32::from(*n) * f32::from(*n).log2()).sum();
    (total as f32).log2() - sum / total as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(content: &[u8]) -> Plan {
        Sampler::default().plan(content, &mut Compressor::new(1).unwrap()).unwrap()
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
        assert!(
            matches!(plan(&walk), Plan::Shuffle { elem: 8, delta: true, packed } if packed >> 6 == 3 && packed & 7 == 0)
        );

        let field: Vec<u8> = (0..1 << 18)
            .flat_map(|i| (((i as f32) / 500.0).sin() + (next() >> 60) as f32 / 1e5).to_le_bytes())
            .collect();
        assert!(matches!(plan(&field), Plan::Shuffle { elem: 4, .. }));

        let text: Vec<u8> = (0..100_000).flat_map(|i| format!("line {i} says {}\n", next() % 7).into_bytes()).collect();
        assert_eq!(plan(&text[..1 << 20]), Plan::Zstd);
    }
}
