//! Equal chunks are stored once.
//!
//! Forked workers and copies of tables make whole chunks equal. A cryptographic digest of every chunk before compression would cost a quarter
//! of a core for each GiB per second only to find out that most have no equal. So a fast fingerprint is taken, and when one is met
//! again the earlier chunk is read back, decoded and compared: certain, and paid for only by those that gain.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Mutex;

use super::error::ArchiveError;
use super::frame::Decoder;
use super::index::{Extent, Frame};
use super::name::Name;
use super::shared::lock;

/// A chunk that is in the file.
#[derive(Clone)]
pub(super) struct Twin {
    /// Name of its tar member.
    pub name: Name,
    /// Where it is, in terms of the index.
    pub extent: Extent,
    offset: u64,
    frame: Frame,
}

/// Chunks by fingerprint. Of several with one fingerprint the first is kept: they are equal, or a collision that costs one comparison.
#[derive(Default)]
pub(super) struct Twins(Mutex<HashMap<u64, Twin>>);

/// Chunks that are remembered at most: 64 GiB of them, some 12 MiB of memory.
const MOST: usize = 1 << 16;

impl Twins {
    pub fn remember(&self, print: u64, name: &Name, extent: Extent, offset: u64, frame: Frame) {
        let mut seen = lock(&self.0);
        if seen.len() < MOST {
            seen.entry(print).or_insert_with(|| Twin { name: name.clone(), extent, offset, frame });
        }
    }

    /// An earlier chunk with the same content. A file that cannot be read back has none.
    pub fn find(
        &self,
        print: u64,
        content: &[u8],
        file: &File,
        decoder: &mut Option<Decoder>,
    ) -> Result<Option<Twin>, ArchiveError> {
        let Some(twin) = lock(&self.0).get(&print).cloned() else { return Ok(None) };
        let Extent::Data { at, len, .. } = twin.extent else { return Ok(None) };
        let mut stored = vec![0; twin.frame.stored as usize];
        if len as usize != content.len() || file.read_exact_at(&mut stored, twin.offset).is_err() {
            return Ok(None);
        }
        let mut decoded = Vec::new();
        let decoder = match decoder {
            Some(decoder) => decoder,
            None => decoder.insert(Decoder::new()?),
        };
        decoder.decode(&twin.frame, &stored, &mut decoded)?;
        let from = at as usize;
        Ok((decoded.get(from..from + content.len()) == Some(content)).then_some(twin))
    }
}

/// A fingerprint at the speed of memory: eight independent chains of multiplication. No protection against intent, and none
/// needed.
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
