//! How frames are stored, and what the file is to programs that know nothing of us: of both there are notes and empty
//! frames that such programs skip.

use serde::{Deserialize, Serialize};

/// What the file is to programs that know nothing of us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Container {
    /// `.tar.zst`
    Zstd,
    /// `.tar.gz`
    Gzip,
}

/// The skippable frame of zstd that we use, one of sixteen that anybody may use.
const SKIPPABLE: u32 = 0x184d_2a5c;
/// Header of a gzip member with an extra field: magic, deflate, FEXTRA, no time, no hint, unknown system.
const GZIP_HEAD: [u8; 10] = [0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 0xff];
/// The rest of an empty gzip member: an empty deflate block, checksum 0, length 0.
const GZIP_EMPTY: [u8; 10] = [3, 0, 0, 0, 0, 0, 0, 0, 0, 0];

impl Container {
    /// A frame without content, or nothing where a note already begins as the container's files do.
    pub(super) fn empty_frame(self) -> Vec<u8> {
        match self {
            // Magic; single segment, size in one byte; size 0; the last block, raw, empty.
            Self::Zstd => vec![0x28, 0xb5, 0x2f, 0xfd, 0x20, 0, 1, 0, 0],
            Self::Gzip => Vec::new(),
        }
    }

    /// Bytes that decoders of the container skip.
    pub(super) fn note(self, payload: &[u8]) -> Vec<u8> {
        let len = payload.len() as u32;
        let mut bytes = Vec::with_capacity(payload.len() + 26);
        match self {
            Self::Zstd => {
                bytes.extend_from_slice(&SKIPPABLE.to_le_bytes());
                bytes.extend_from_slice(&len.to_le_bytes());
                bytes.extend_from_slice(payload);
            }
            Self::Gzip => {
                bytes.extend_from_slice(&GZIP_HEAD);
                bytes.extend_from_slice(&(len as u16 + 4).to_le_bytes());
                bytes.extend_from_slice(b"Cr");
                bytes.extend_from_slice(&(len as u16).to_le_bytes());
                bytes.extend_from_slice(payload);
                bytes.extend_from_slice(&GZIP_EMPTY);
            }
        }
        bytes
    }

    /// How many bytes of a note come after its payload.
    pub(super) fn note_tail(self) -> usize {
        match self {
            Self::Zstd => 0,
            Self::Gzip => GZIP_EMPTY.len(),
        }
    }
}

/// How a frame is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Codec {
    /// zstd frames, compressed.
    Zstd,
    /// zstd frames of raw blocks; a decoder need not care.
    Raw,
    /// gzip members.
    Gzip,
}
