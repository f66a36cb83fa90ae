//! Equal chunks are stored once.
//!
//! Forked workers and copies of tables make whole chunks equal. A cryptographic digest of every chunk before
//! compression would cost a quarter of a core for each GiB per second only to find out that most have no equal. So a
//! fast fingerprint is taken, and when one is met again the earlier chunk is read back, decoded and compared: certain,
//! and paid for only by those that gain.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Mutex;

use super::error::ArchiveError;
use super::frame::Decoder;
use super::index::{Extent, Frame};
use super::lock::lock;
use super::part::Part;
use super::tarhead::padding;

/// A chunk that is in the file. There is one for each MiB, so it has nothing that the table has too.
#[derive(Clone, Copy)]
struct Original {
    part: Part,
    frame: u32,
}

/// Chunks by fingerprint. Of several with one fingerprint the first is kept: they are equal, or a collision that costs
/// one comparison.
#[derive(Default)]
pub(super) struct Originals(Mutex<HashMap<u64, Original>>);

/// Chunks that are remembered at most: 64 GiB of them, some 3 MiB of memory.
const MOST: usize = 1 << 16;

impl Originals {
    /// Keeps a chunk that has a frame of its own.
    pub fn remember(&self, print: u64, part: Part, frame: u32) {
        let mut seen = lock(&self.0);
        if seen.len() < MOST {
            seen.entry(print).or_insert(Original { part, frame });
        }
    }

    /// An earlier chunk with the same content, and where it is in terms of the index; `look_up` tells a frame's place
    /// in the file and the frame. A file that cannot be read back has none.
    pub fn find(
        &self,
        print: u64,
        content: &[u8],
        file: &File,
        look_up: impl FnOnce(u32) -> Option<(u64, Frame)>,
        decoder: &mut Option<Decoder>,
    ) -> Result<Option<(Part, Extent)>, ArchiveError> {
        let Some(original) = lock(&self.0).get(&print).copied() else { return Ok(None) };
        let Some((offset, frame)) = look_up(original.frame) else { return Ok(None) };
        // Its content ends its frame, but for the padding.
        let len = content.len();
        let Some(from) = (frame.decoded as usize).checked_sub(len + padding(len)) else { return Ok(None) };
        let mut stored = vec![0; frame.stored as usize];
        if file.read_exact_at(&mut stored, offset).is_err() {
            return Ok(None);
        }
        let mut decoded = Vec::new();
        let decoder = match decoder {
            Some(decoder) => decoder,
            None => decoder.insert(Decoder::new()?),
        };
        decoder.decode(&frame, &stored, &mut decoded)?;
        let extent = Extent::Data { frame: original.frame, at: from as u32, len: len as u32 };
        Ok((decoded.get(from..from + len) == Some(content)).then_some((original.part, extent)))
    }
}

/// A fingerprint at the speed of memory: eight independent chains of multiplication. No protection against intent, and
/// none needed.
pub(super) fn print(bytes: &[u8]) -> u64 {
    const MULTIPLIER: u64 = 0xd6e8_feb8_6659_fd93;
    let mut chains: [u64; 8] = std::array::from_fn(|n| n as u64 ^ bytes.len() as u64);
    let (blocks, rest) = bytes.as_chunks::<64>();
    for block in blocks {
        for (chain, word) in chains.iter_mut().zip(block.as_chunks::<8>().0) {
            *chain = (*chain ^ u64::from_le_bytes(*word)).wrapping_mul(MULTIPLIER);
            *chain ^= *chain >> 32;
        }
    }
    let start = rest.iter().fold(0, |sum: u64, byte| (sum ^ u64::from(*byte)).wrapping_mul(MULTIPLIER));
    chains.iter().fold(start, |sum, chain| (sum.rotate_left(17) ^ chain).wrapping_mul(MULTIPLIER))
}
