//! The filters that make arrays of numbers compressible: byte shuffle by element size, after an optional difference.
//!
//! Most of the memory of a scientific program is arrays of floating-point numbers. A general compressor gains 5% on
//! them: the bytes that repeat (sign, exponent, the top of the mantissa) stand among bytes that never do. The shuffle
//! puts the first bytes of all elements side by side, then the second ones, and so on ("planes"), so that each plane
//! can be compressed or left alone on its own. Where neighbours are alike, their difference empties the upper planes.
//! Elements are taken as little-endian integers, and the one before is subtracted. The sign is folded into the lowest
//! bit ("zigzag"), so that small steps in both directions have zero bytes at the top. It is exact for any bits.
//!
//! Everything is done in one pass over blocks of sixteen elements that stay in registers. The transposition is made of
//! one step, the interleaving of two registers byte by byte, which is one instruction of the baseline x86-64 (SSE2).
//! Measured on an AMD EPYC of 2024: 8 to 13 GB/s a core, both ways.

use bytemuck::Pod;
use serde::{Deserialize, Serialize};
use wide::{u8x16, u32x4, u64x2};

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

    /// Undoes the filter on the way from `coded` to `out`, two buffers of the length of the decoded frame. The caller
    /// has asked [`Filter::fits`].
    pub fn undo(&self, coded: &[u8], out: &mut [u8]) {
        let (from, to) = (self.at as usize, self.at as usize + self.len as usize);
        out[..from].copy_from_slice(&coded[..from]);
        out[to..].copy_from_slice(&coded[to..]);
        let (coded, out) = (&coded[from..to], &mut out[from..to]);
        match (self.elem, self.delta) {
            (8, false) => unshuffle::<u64, 8, false>(coded, out),
            (8, true) => unshuffle::<u64, 8, true>(coded, out),
            (_, false) => unshuffle::<u32, 4, false>(coded, out),
            (_, true) => unshuffle::<u32, 4, true>(coded, out),
        }
    }
}

/// Shuffles `src`, whole elements, into its planes, `elem` of them, each as long as there are elements. With `delta`
/// the differences of the elements.
pub fn apply(src: &[u8], elem: u8, delta: bool, planes: &mut [&mut [u8]]) {
    match (elem, delta) {
        (8, false) => shuffle::<u64, 8, false>(src, planes),
        (8, true) => shuffle::<u64, 8, true>(src, planes),
        (_, false) => shuffle::<u32, 4, false>(src, planes),
        (_, true) => shuffle::<u32, 4, true>(src, planes),
    }
}

/// An element, an integer of `E` bytes.
trait Element<const E: usize>: Copy + Default {
    fn read(bytes: [u8; E]) -> Self;
    fn write(self) -> [u8; E];
    /// The sum, modulo 2^(8·E).
    fn plus(self, other: Self) -> Self;
    /// The difference to the element before, folded.
    fn fold(self, before: Self) -> Self;
    /// The inverse of `fold`, but for the sum.
    fn unfold(self) -> Self;
    /// `fold` of a block.
    fn fold_block(now: &[[u8; E]; BLOCK], before: &[[u8; E]; BLOCK]) -> [Register; E];
    /// `unfold` of a block.
    fn unfold_block(registers: [Register; E]) -> [Self; BLOCK];
}

// Blocks are taken for integers where they lie in memory, and in the file those are little-endian.
const _: () = assert!(cfg!(target_endian = "little"));

macro_rules! element {
    ($word:ty, $signed:ty, $size:literal, $vector:ty) => {
        impl Element<$size> for $word {
            #[inline(always)]
            fn read(bytes: [u8; $size]) -> Self {
                Self::from_le_bytes(bytes)
            }

            #[inline(always)]
            fn write(self) -> [u8; $size] {
                self.to_le_bytes()
            }

            #[inline(always)]
            fn plus(self, other: Self) -> Self {
                self.wrapping_add(other)
            }

            #[inline(always)]
            fn fold(self, before: Self) -> Self {
                let step = self.wrapping_sub(before);
                (step << 1) ^ ((step as $signed >> ($size * 8 - 1)) as $word)
            }

            #[inline(always)]
            fn unfold(self) -> Self {
                (self >> 1) ^ (self & 1).wrapping_neg()
            }

            #[inline(always)]
            fn fold_block(now: &[[u8; $size]; BLOCK], before: &[[u8; $size]; BLOCK]) -> [Register; $size] {
                let now: [$vector; $size] = bytemuck::pod_read_unaligned(bytemuck::bytes_of(now));
                let before: [$vector; $size] = bytemuck::pod_read_unaligned(bytemuck::bytes_of(before));
                let fold = |at: usize| {
                    let step = now[at] - before[at];
                    // The sign in all bits: 0 less the highest bit.
                    (step << 1) ^ (<$vector>::ZERO - (step >> ($size * 8 - 1)))
                };
                bytemuck::cast(std::array::from_fn::<$vector, $size, _>(fold))
            }

            #[inline(always)]
            fn unfold_block(registers: [Register; $size]) -> [Self; BLOCK] {
                let folded: [$vector; $size] = bytemuck::cast(registers);
                let one = <$vector>::splat(1);
                bytemuck::cast(folded.map(|x| (x >> 1) ^ (<$vector>::ZERO - (x & one))))
            }
        }
    };
}
element!(u64, i64, 8, u64x2);
element!(u32, i32, 4, u32x4);

/// A vector register.
type Register = u8x16;
/// Elements of a block, and bytes of a register: after the transposition each register has one plane of a block.
const BLOCK: usize = 16;

/// Interleaves every two registers whose numbers differ in `bit` only, byte by byte.
///
/// Seen as bits of addresses: a byte lies at position p3 p2 p1 p0 of a register whose number has the bit x. Afterwards
/// it lies at p2 p1 p0 x, and the number has p3 where x was. So each of these steps moves one bit of the number into
/// the position, and the transpositions below are the few steps that exchange the bits of the element's number for
/// those of the byte's.
#[inline(always)]
fn step<const E: usize>(registers: &mut [Register; E], bit: usize) {
    for low in (0..E).filter(|number| number & bit == 0) {
        let (a, b) = (registers[low], registers[low | bit]);
        (registers[low], registers[low | bit]) = (u8x16::unpack_low(a, b), u8x16::unpack_high(a, b));
    }
}

/// From sixteen elements to their planes.
#[inline(always)]
fn transpose<const E: usize>(mut registers: [Register; E]) -> [Register; E] {
    if E == 8 {
        // Number e3 e2 e1, position e0 b2 b1 b0; at the end number b0 b2 b1, position e3 e2 e1 e0.
        for bit in [4, 2, 1, 4] {
            step(&mut registers, bit);
        }
        return std::array::from_fn(|plane| registers[(plane & 1) << 2 | plane >> 1]);
    }
    // Number e3 e2, position e1 e0 b1 b0; at the end number b1 b0, position e3 e2 e1 e0.
    for bit in [2, 1, 2, 1] {
        step(&mut registers, bit);
    }
    registers
}

/// From planes to sixteen elements: the bits of the byte's number go back into the position, and then all stand where
/// they stood.
#[inline(always)]
fn untranspose<const E: usize>(mut registers: [Register; E]) -> [Register; E] {
    for bit in [4, 2, 1].into_iter().filter(|bit| *bit < E) {
        step(&mut registers, bit);
    }
    registers
}

fn shuffle<T: Element<E>, const E: usize, const DELTA: bool>(src: &[u8], planes: &mut [&mut [u8]])
where
    [[u8; E]; BLOCK]: Pod,
    [Register; E]: Pod,
{
    let elements = src.as_chunks::<E>().0;
    let (blocks, rest) = elements.as_chunks::<BLOCK>();
    for (number, block) in blocks.iter().enumerate() {
        let from = number * BLOCK;
        let registers: [Register; E] = if !DELTA {
            bytemuck::pod_read_unaligned(bytemuck::bytes_of(block))
        } else if let Some(before) = from.checked_sub(1).and_then(|before| elements[before..].first_chunk()) {
            T::fold_block(block, before)
        } else {
            let before: [[u8; E]; BLOCK] = std::array::from_fn(|at| if at == 0 { [0; E] } else { block[at - 1] });
            T::fold_block(block, &before)
        };
        for (plane, register) in planes.iter_mut().zip(transpose(registers)) {
            plane[from..from + BLOCK].copy_from_slice(bytemuck::bytes_of(&register));
        }
    }
    let from = elements.len() - rest.len();
    for (at, element) in elements.iter().enumerate().skip(from) {
        let mut word = T::read(*element);
        if DELTA {
            word = word.fold(at.checked_sub(1).map_or(T::default(), |before| T::read(elements[before])));
        }
        for (plane, byte) in planes.iter_mut().zip(word.write()) {
            plane[at] = byte;
        }
    }
}

/// The inverse of [`shuffle`]; the planes stand one after another in `src`.
fn unshuffle<T: Element<E>, const E: usize, const DELTA: bool>(src: &[u8], dst: &mut [u8])
where
    [[u8; E]; BLOCK]: Pod,
    [Register; E]: Pod,
{
    let count = src.len() / E;
    let mut last = T::default();
    let (blocks, rest) = dst.as_chunks_mut::<E>().0.as_chunks_mut::<BLOCK>();
    let whole = blocks.len() * BLOCK;
    let planes: [&[u8]; E] = std::array::from_fn(|plane| &src[plane * count..(plane + 1) * count]);
    for (number, block) in blocks.iter_mut().enumerate() {
        let from = number * BLOCK;
        let mut registers = [Register::default(); E];
        for (register, plane) in registers.iter_mut().zip(planes) {
            bytemuck::bytes_of_mut(register).copy_from_slice(&plane[from..from + BLOCK]);
        }
        let registers = untranspose(registers);
        if DELTA {
            for (out, step) in block.iter_mut().zip(T::unfold_block(registers)) {
                last = last.plus(step);
                *out = last.write();
            }
        } else {
            bytemuck::bytes_of_mut(block).copy_from_slice(bytemuck::bytes_of(&registers));
        }
    }
    for (at, out) in rest.iter_mut().enumerate() {
        let mut word = T::read(std::array::from_fn(|plane| planes[plane][whole + at]));
        if DELTA {
            last = last.plus(word.unfold());
            word = last;
        }
        *out = word.write();
    }
}

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

    /// All planes one after another, as they are in a frame.
    fn apply_to(src: &[u8], dst: &mut [u8], elem: u8, delta: bool) {
        if src.is_empty() {
            return;
        }
        let mut planes: Vec<&mut [u8]> = dst.chunks_exact_mut(src.len() / usize::from(elem)).collect();
        apply(src, elem, delta, &mut planes);
    }

    #[test]
    fn planes_are_where_the_format_says() {
        for elem in [4_usize, 8] {
            for count in [0, 1, 2, 15, 16, 17, 31, 32, 33, 1000, 4096] {
                let src = noise(count * elem);
                let mut dst = vec![0; src.len()];
                apply_to(&src, &mut dst, elem as u8, false);
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
                apply_to(&frame[16..16 + len], &mut coded[16..16 + len], elem, delta);
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
        apply_to(&src, &mut dst, 8, true);
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
