//! The filters that make arrays of numbers compressible: byte shuffle by element size, after an optional difference.
//!
//! Most of the memory of a scientific program is arrays of floating-point numbers, and a general compressor gains 5% on
//! them because the bytes that repeat (sign, exponent, the top of the mantissa) stand among bytes that never do. The
//! shuffle puts the first bytes of all elements side by side, then the second ones, and so on ("planes"), so that each plane
//! can be compressed or left alone on its own. The difference, where neighbours are alike, empties the upper
//! planes: elements are taken as little-endian integers, the one before is subtracted, and the sign is folded into the
//! lowest bit ("zigzag") so that small steps in both directions have zero bytes at the top. It is exact for any bits.
//!
//! Everything here is safe Rust in shapes that LLVM turns into vector code for the baseline x86-64 (SSE2): whole
//! blocks, no bounds checks inside, the same operation on all lanes. Measured on a Xeon of 2023: shuffle 6 GB/s, its
//! inverse 5 GB/s, difference and its inverse above 20 GB/s, a core each.

use serde::{Deserialize, Serialize};

/// What was done to a range of a frame's bytes before compression.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filter {
    /// Element size in bytes: 4 or 8.
    pub elem: u8,
    /// Whether the difference to the preceding element was taken first.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub delta: bool,
    /// Where the filtered range begins in the decoded frame (the tar header before it stays readable).
    pub at: u32,
    /// Length of the filtered range, a multiple of `elem`.
    pub len: u32,
}

impl Filter {
    /// Whether this can be applied to a frame of `decoded` bytes.
    pub fn fits(&self, decoded: u32) -> bool {
        matches!(self.elem, 4 | 8)
            && self.len.is_multiple_of(u32::from(self.elem))
            && self.at.checked_add(self.len).is_some_and(|end| end <= decoded)
    }

    /// Undoes the filter on the way from `coded` to `out`, two buffers of the length of the decoded frame. The caller has asked
    /// [`Filter::fits`].
    pub fn undo(&self, coded: &[u8], out: &mut [u8]) {
        let (from, to) = (self.at as usize, self.at as usize + self.len as usize);
        out[..from].copy_from_slice(&coded[..from]);
        out[to..].copy_from_slice(&coded[to..]);
        let (coded, out) = (&coded[from..to], &mut out[from..to]);
        match self.elem {
            8 => unshuffle::<8>(coded, out),
            _ => unshuffle::<4>(coded, out),
        }
        match (self.delta, self.elem) {
            (true, 8) => undelta8(out),
            (true, _) => undelta4(out),
            (false, _) => {}
        }
    }
}

/// Shuffles `src` into `dst` (equal lengths, a multiple of `elem`); with `delta` the differences of the elements.
/// `scratch` keeps its memory from call to call.
pub fn apply(src: &[u8], dst: &mut [u8], elem: u8, delta: bool, scratch: &mut Vec<u8>) {
    debug_assert_eq!(src.len(), dst.len());
    let src = if delta {
        scratch.resize(src.len(), 0);
        match elem {
            8 => delta8(src, scratch),
            _ => delta4(src, scratch),
        }
        &scratch[..]
    } else {
        src
    };
    match elem {
        8 => shuffle::<8>(src, dst),
        _ => shuffle::<4>(src, dst),
    }
}

/// Lanes of 64 bits that are transposed together: four give LLVM two SSE2 registers for each row.
const LANES: usize = 4;

/// Transposes the 8×8 bytes of each lane: byte b of row r becomes byte r of row b. It is its own inverse.
#[inline(always)]
fn transpose8(rows: &mut [[u64; LANES]; 8]) {
    for (shift, mask) in [(8, 0x00ff_00ff_00ff_00ff_u64), (16, 0x0000_ffff_0000_ffff), (32, 0x0000_0000_ffff_ffff)] {
        let step = (shift / 8) as usize;
        for a in (0..8).filter(|a| a & step == 0) {
            let (upper, lower) = rows.split_at_mut(a + step);
            for (x, y) in upper[a].iter_mut().zip(&mut lower[0]) {
                let swap = ((*x >> shift) ^ *y) & mask;
                *y ^= swap;
                *x ^= swap << shift;
            }
        }
    }
}

/// Elements of `E` bytes (4 or 8) are read as rows of 8 bytes. With E = 8 a row is an element. With E = 4 a row is two, and
/// after the transposition rows r and r + 4 hold byte r of the even and of the odd elements; they are interleaved again.
fn shuffle<const E: usize>(src: &[u8], dst: &mut [u8]) {
    let count = src.len() / E;
    let block = 8 * 8 * LANES;
    let per_block = block / E;
    let blocks = src.len() / block;
    for (at, input) in src.chunks_exact(block).enumerate() {
        let mut rows = [[0_u64; LANES]; 8];
        let words = input.as_chunks::<8>().0;
        for lane in 0..LANES {
            for row in 0..8 {
                rows[row][lane] = u64::from_le_bytes(words[lane * 8 + row]);
            }
        }
        transpose8(&mut rows);
        for plane in 0..E {
            let from = plane * count + at * per_block;
            let out = dst[from..from + per_block].as_chunks_mut::<8>().0;
            if E == 8 {
                for (out, row) in out.iter_mut().zip(rows[plane]) {
                    *out = row.to_le_bytes();
                }
            } else {
                for lane in 0..LANES {
                    let (even, odd) = (rows[plane][lane], rows[plane + 4][lane]);
                    out[2 * lane] = (spread(even) | spread(odd) << 8).to_le_bytes();
                    out[2 * lane + 1] = (spread(even >> 32) | spread(odd >> 32) << 8).to_le_bytes();
                }
            }
        }
    }
    for index in blocks * per_block..count {
        for plane in 0..E {
            dst[plane * count + index] = src[index * E + plane];
        }
    }
}

/// The inverse of [`shuffle`].
fn unshuffle<const E: usize>(src: &[u8], dst: &mut [u8]) {
    let count = src.len() / E;
    let block = 8 * 8 * LANES;
    let per_block = block / E;
    let blocks = src.len() / block;
    for (at, output) in dst.chunks_exact_mut(block).enumerate() {
        let mut rows = [[0_u64; LANES]; 8];
        for plane in 0..E {
            let from = plane * count + at * per_block;
            let input = src[from..from + per_block].as_chunks::<8>().0;
            for lane in 0..LANES {
                if E == 8 {
                    rows[plane][lane] = u64::from_le_bytes(input[lane]);
                } else {
                    let (low, high) = (u64::from_le_bytes(input[2 * lane]), u64::from_le_bytes(input[2 * lane + 1]));
                    rows[plane][lane] = gather(low) | gather(high) << 32;
                    rows[plane + 4][lane] = gather(low >> 8) | gather(high >> 8) << 32;
                }
            }
        }
        transpose8(&mut rows);
        let words = output.as_chunks_mut::<8>().0;
        for lane in 0..LANES {
            for row in 0..8 {
                words[lane * 8 + row] = rows[row][lane].to_le_bytes();
            }
        }
    }
    for index in blocks * per_block..count {
        for plane in 0..E {
            dst[index * E + plane] = src[plane * count + index];
        }
    }
}

/// The low four bytes, each followed by a zero byte.
#[inline(always)]
fn spread(x: u64) -> u64 {
    let x = x & 0xffff_ffff;
    let x = (x | x << 16) & 0x0000_ffff_0000_ffff;
    (x | x << 8) & 0x00ff_00ff_00ff_00ff
}

/// The even bytes, put together in the low half: the inverse of [`spread`].
#[inline(always)]
fn gather(x: u64) -> u64 {
    let x = x & 0x00ff_00ff_00ff_00ff;
    let x = (x | x >> 8) & 0x0000_ffff_0000_ffff;
    (x | x >> 16) & 0xffff_ffff
}

macro_rules! delta {
    ($forward:ident, $inverse:ident, $word:ty, $signed:ty, $size:literal) => {
        fn $forward(src: &[u8], dst: &mut [u8]) {
            let (src, dst) = (src.as_chunks::<$size>().0, dst.as_chunks_mut::<$size>().0);
            let zigzag = |x: $word| ((x << 1) ^ (((x as $signed) >> ($size * 8 - 1)) as $word)).to_le_bytes();
            if let (Some(first), Some(out)) = (src.first(), dst.first_mut()) {
                *out = zigzag(<$word>::from_le_bytes(*first));
            }
            for (pair, out) in src.array_windows::<2>().zip(dst.iter_mut().skip(1)) {
                *out = zigzag(<$word>::from_le_bytes(pair[1]).wrapping_sub(<$word>::from_le_bytes(pair[0])));
            }
        }

        fn $inverse(data: &mut [u8]) {
            let mut last: $word = 0;
            for element in data.as_chunks_mut::<$size>().0 {
                let folded = <$word>::from_le_bytes(*element);
                last = last.wrapping_add((folded >> 1) ^ (folded & 1).wrapping_neg());
                *element = last.to_le_bytes();
            }
        }
    };
}
delta!(delta8, undelta8, u64, i64, 8);
delta!(delta4, undelta4, u32, i32, 4);

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(len: usize) -> Vec<u8> {
        let mut x = 0x9e37_79b9_7f4a_7c15_u64;
        std::iter::repeat_with(|| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            x as u8
        })
        .take(len)
        .collect()
    }

    #[test]
    fn planes_are_where_the_format_says() {
        for elem in [4_usize, 8] {
            for count in [0, 1, 2, 31, 32, 33, 63, 64, 65, 1000, 4096] {
                let src = noise(count * elem);
                let mut dst = vec![0; src.len()];
                apply(&src, &mut dst, elem as u8, false, &mut Vec::new());
                for plane in 0..elem {
                    for index in 0..count {
                        assert_eq!(dst[plane * count + index], src[index * elem + plane], "{elem} {count}");
                    }
                }
            }
        }
    }

    #[test]
    fn undo_restores_the_range_and_only_the_range() {
        for (elem, delta) in [(4, false), (8, false), (4, true), (8, true)] {
            for len in [0_usize, 8, 16, 256, 4096, 100_008] {
                let frame = noise(len + 24);
                let mut coded = frame.clone();
                apply(&frame[16..16 + len], &mut coded[16..16 + len], elem, delta, &mut Vec::new());
                let filter = Filter { elem, delta, at: 16, len: len as u32 };
                assert!(filter.fits(coded.len() as u32));
                let mut back = vec![0; frame.len()];
                filter.undo(&coded, &mut back);
                assert_eq!(back, frame, "{elem} {delta} {len}");
            }
        }
    }

    #[test]
    fn small_steps_leave_the_upper_planes_empty() {
        let src: Vec<u8> = (0..1000_i64).flat_map(|i| (1 << 40 | (i * 7919 % 101)).to_le_bytes()).collect();
        let mut dst = vec![1; src.len()];
        apply(&src, &mut dst, 8, true, &mut Vec::new());
        assert!(dst.chunks(1000).skip(1).all(|plane| plane[1..].iter().all(|b| *b == 0)));
    }

    #[test]
    fn hostile_filters_do_not_fit() {
        for (elem, at, len) in [(0, 0, 8), (3, 0, 9), (16, 0, 16), (8, 0, 7), (8, 8, 64), (8, u32::MAX, 8), (4, 61, 4)]
        {
            assert!(!Filter { elem, delta: false, at, len }.fits(64), "{elem} {at} {len}");
        }
    }
}
