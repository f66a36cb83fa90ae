//! What the file looks like from outside its frames: the opening, the locator, and the rule of versions.
//!
//! The first bytes say that the file is ours and the last ones say where the index is, so that "not ours", "cut off"
//! and "damaged" can be told apart. Every byte of the file is under a digest. The opening and the locator are compared
//! or carry their own. The locator has the digest of the index frame, and the index has those of all frames. The frames
//! lie end to end from the opening to the index, without a gap.

use serde::{Deserialize, Serialize};

use super::codec::Container;
use super::error::ArchiveError;
use crate::name::{from_hex, to_hex};

/// Version that is written. The rule: a reader takes any minor version of a major one that it knows (a newer minor only
/// adds fields that may be ignored) and refuses a newer major.
pub const MAJOR: u16 = 1;
/// See [`MAJOR`].
pub const MINOR: u16 = 0;

/// Largest decoded frame in bytes. The writer makes frames of about 1 MiB; the rest is room for another choice by a
/// later version, and the bound on what a hostile frame can make us allocate.
pub const MAX_FRAME: u32 = 16 << 20;
/// Largest decoded index in bytes, some 1.5 million members: the bound on what a hostile locator can make us allocate.
pub const MAX_INDEX: u64 = 256 << 20;
/// Largest `manifest.json` in bytes; it is held in memory while an archive is open.
pub const MAX_MANIFEST: u64 = 16 << 20;

/// Name of the member that says what the checkpoint is.
pub const MANIFEST: &str = "manifest.json";
/// Name of the tar member in the last frame that holds the index. It is not a member of the index itself.
pub const INDEX: &str = "index.json";

/// First bytes of the opening's payload.
const OPENING_MAGIC: &[u8; 20] = b"condor-criu archive\n";
/// First bytes of the locator's payload.
const LOCATOR_MAGIC: &[u8; 8] = b"CCRIULOC";

/// The blake3 digest of some bytes of the file, as hexadecimal in the index.
///
/// It is taken of the *stored* bytes and not of the decoded ones. So a flipped bit that no decoder would notice is
/// still found, no decoder ever sees bytes that nobody vouched for, and `verify` runs at the speed of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// Digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }
}

impl Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&to_hex(&self.0))
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        let bytes = from_hex(&text).and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
        bytes.map(Self).ok_or_else(|| serde::de::Error::custom("a digest is not 64 hexadecimal digits"))
    }
}

/// Payload of the opening.
fn opening_payload(major: u16, minor: u16) -> [u8; 24] {
    let mut payload = [0; 24];
    payload[..20].copy_from_slice(OPENING_MAGIC);
    payload[20..22].copy_from_slice(&major.to_le_bytes());
    payload[22..].copy_from_slice(&minor.to_le_bytes());
    payload
}

/// The first bytes of the file. They begin with an empty frame, because programs tell the type of a file from its first
/// four bytes.
pub fn opening(container: Container) -> Vec<u8> {
    opening_of(container, (MAJOR, MINOR))
}

/// The opening of a file of another version.
pub fn opening_of(container: Container, (major, minor): (u16, u16)) -> Vec<u8> {
    let mut bytes = container.empty_frame();
    bytes.extend(container.note(&opening_payload(major, minor)));
    bytes
}

/// Which container the first bytes of a file open, and whether the version is one that we read. `None`: not ours.
/// `head` may be shorter than an opening if the file is.
pub fn parse_opening(head: &[u8]) -> Result<Option<Container>, ArchiveError> {
    for container in [Container::Zstd, Container::Gzip] {
        let ours = opening(container);
        // The version is 4 bytes before what closes the note (nothing in zstd).
        let version_at = ours.len() - container.note_tail() - 4;
        if head.len() < ours.len() {
            // Cut off inside the opening: ours if it agrees as far as the name of the program.
            if head.len() >= version_at && head[..version_at] == ours[..version_at] {
                return Err(ArchiveError::Truncated);
            }
            continue;
        }
        if head[..version_at] == ours[..version_at] {
            let major = u16::from_le_bytes([head[version_at], head[version_at + 1]]);
            if major > MAJOR {
                return Err(ArchiveError::NewerFormat { found: major, known: MAJOR });
            }
            if head[version_at + 4..ours.len()] != ours[version_at + 4..] || major == 0 {
                return Err(ArchiveError::damaged("its opening"));
            }
            return Ok(Some(container));
        }
    }
    Ok(None)
}

/// Where the index is; the last bytes of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Locator {
    /// Major and minor version of the format.
    pub version: (u16, u16),
    /// Offset of the index frame in the file.
    pub at: u64,
    /// Stored length of the index frame.
    pub stored: u64,
    /// Its decoded length: tar header, JSON, padding and the end of the tar.
    pub decoded: u64,
    /// Where the JSON begins in the decoded frame.
    pub json_at: u64,
    /// Length of the JSON.
    pub json_len: u64,
    /// blake3 of the stored index frame.
    pub blake3: Digest,
}

/// Length of the locator's payload: magic, versions, reserved, five numbers, two digests.
const LOCATOR_PAYLOAD: usize = 8 + 4 + 4 + 5 * 8 + 32 + 32;

impl Locator {
    /// Length of the whole locator in the file.
    pub fn len(container: Container) -> usize {
        container.note(&[0; LOCATOR_PAYLOAD]).len()
    }

    /// The last bytes of the file.
    pub fn write(&self, container: Container) -> Vec<u8> {
        let mut payload = Vec::with_capacity(LOCATOR_PAYLOAD);
        payload.extend_from_slice(LOCATOR_MAGIC);
        payload.extend_from_slice(&self.version.0.to_le_bytes());
        payload.extend_from_slice(&self.version.1.to_le_bytes());
        payload.extend_from_slice(&[0; 4]);
        for number in [self.at, self.stored, self.decoded, self.json_at, self.json_len] {
            payload.extend_from_slice(&number.to_le_bytes());
        }
        payload.extend_from_slice(&self.blake3.0);
        let own = Digest::of(&payload);
        payload.extend_from_slice(&own.0);
        container.note(&payload)
    }

    /// Reads the last [`Locator::len`] bytes of a file whose opening is in order. A file without a locator at its end
    /// is cut off; one that has it with a wrong digest is damaged.
    pub fn parse(tail: &[u8], container: Container) -> Result<Self, ArchiveError> {
        let damaged = || ArchiveError::damaged("its locator");
        let from = tail.len().checked_sub(LOCATOR_PAYLOAD + container.note_tail()).ok_or(ArchiveError::Truncated)?;
        let payload = &tail[from..from + LOCATOR_PAYLOAD];
        let (body, own) = payload.split_at(LOCATOR_PAYLOAD - 32);
        if container.note(payload) != tail || Digest::of(body).0 != *own || !body.starts_with(LOCATOR_MAGIC) {
            // One flipped bit leaves at least one of the two marks intact; a file that is cut off has neither.
            let marked = body.starts_with(LOCATOR_MAGIC) || Digest::of(body).0 == *own;
            return Err(if marked { damaged() } else { ArchiveError::Truncated });
        }
        let number = |index: usize| {
            let at = 16 + 8 * index;
            body.get(at..at + 8).and_then(|b| b.try_into().ok()).map(u64::from_le_bytes).ok_or_else(damaged)
        };
        let version = (u16::from_le_bytes([body[8], body[9]]), u16::from_le_bytes([body[10], body[11]]));
        if version.0 > MAJOR {
            return Err(ArchiveError::NewerFormat { found: version.0, known: MAJOR });
        }
        Ok(Self {
            version,
            at: number(0)?,
            stored: number(1)?,
            decoded: number(2)?,
            json_at: number(3)?,
            json_len: number(4)?,
            blake3: Digest(body[56..88].try_into().map_err(|_| damaged())?),
        })
    }

    /// Compares the locator with the length of the file and with the bounds of memory.
    pub fn check(&self, container: Container, file_len: u64) -> Result<(), ArchiveError> {
        let end = self.at.checked_add(self.stored).and_then(|end| end.checked_add(Self::len(container) as u64));
        if end != Some(file_len) {
            return Err(ArchiveError::damaged("its locator points outside the file"));
        }
        let json_end = self.json_at.checked_add(self.json_len);
        if self.decoded > MAX_INDEX || json_end.is_none_or(|end| end > self.decoded) {
            return Err(ArchiveError::damaged("its index is impossibly large"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn locator() -> Locator {
        let blake3 = Digest::of(b"index");
        Locator { version: (MAJOR, MINOR), at: 1000, stored: 50, decoded: 2048, json_at: 512, json_len: 300, blake3 }
    }

    #[test]
    fn the_locator_survives_and_every_flipped_bit_is_seen() {
        for container in [Container::Zstd, Container::Gzip] {
            let bytes = locator().write(container);
            assert_eq!(bytes.len(), Locator::len(container));
            assert_eq!(Locator::parse(&bytes, container).unwrap(), locator());
            for bit in 0..bytes.len() * 8 {
                let mut bad = bytes.clone();
                bad[bit / 8] ^= 1 << (bit % 8);
                assert!(Locator::parse(&bad, container).is_err(), "bit {bit}");
            }
        }
    }

    #[test]
    fn the_opening_tells_ours_from_others_and_from_newer() {
        for container in [Container::Zstd, Container::Gzip] {
            let bytes = opening(container);
            assert_eq!(parse_opening(&bytes).unwrap(), Some(container));
            let version_at = bytes.len() - container.note_tail() - 4;
            for bit in 0..bytes.len() * 8 {
                // A changed minor version is no damage: the rule says that it is readable.
                if (version_at + 2..version_at + 4).contains(&(bit / 8)) {
                    continue;
                }
                let mut bad = bytes.clone();
                bad[bit / 8] ^= 1 << (bit % 8);
                assert!(!matches!(parse_opening(&bad), Ok(Some(_))), "bit {bit}");
            }
            let mut newer = bytes.clone();
            newer[version_at] = 9;
            let err = parse_opening(&newer).unwrap_err();
            assert!(matches!(err, ArchiveError::NewerFormat { found: 9, known: MAJOR }));
            assert!(matches!(parse_opening(&bytes[..version_at + 1]), Err(ArchiveError::Truncated)));
        }
        assert!(parse_opening(b"").unwrap().is_none());
        assert!(parse_opening(b"\x28\xb5\x2f\xfdsomething else entirely, and long enough").unwrap().is_none());
    }

    #[test]
    fn hostile_locators_are_refused() {
        let len = Locator::len(Container::Zstd) as u64;
        let good = locator();
        assert!(good.check(Container::Zstd, 1050 + len).is_ok());
        for bad in [
            Locator { at: u64::MAX, ..good },
            Locator { stored: u64::MAX, ..good },
            Locator { decoded: u64::MAX, ..good },
            Locator { json_at: u64::MAX, ..good },
            Locator { json_len: 1537, ..good },
            Locator { at: 999, ..good },
        ] {
            assert!(bad.check(Container::Zstd, 1050 + len).is_err(), "{bad:?}");
        }
    }
}
