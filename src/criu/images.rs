//! Rewrites what must differ on another host in CRIU's images, on their way from the archive to `criu restore`.
//!
//! No image is edited for paths: the sandbox makes them equal. Two things it cannot make equal:
//!
//! * The supplementary groups. Inside a user namespace those of the host that are not mapped all read as 65534, so their number
//!   depends on the account; criu's restorer calls setgroups with the old list, is refused, and may hang for ever. So the list in
//!   each `core-*.img` is replaced by what getgroups says inside the new sandbox.
//! * Mappings made with MAP_DROPPABLE (Linux 6.11), as glibc and the vDSO's getrandom have them. A kernel that does not know the
//!   flag refuses to map. As private anonymous memory they are kept where they might have been dropped, which nobody notices.
//!
//! An image is two magic numbers, then messages, each with its length in front. Field numbers are those of CRIU's public
//! `images/*.proto`. Everything that is not replaced stays as it is, byte for byte.

use super::wire::{Field, Value, WireError, fields, put_bytes, put_number};

/// What to rewrite.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rewrite {
    /// Supplementary groups for every thread, if they must change.
    pub groups: Option<Vec<u32>>,
    /// Whether droppable mappings become ordinary ones.
    pub undrop: bool,
}

/// What is wrong with an image.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// It does not begin as an image of its name does.
    #[error("{name} is no image of the kind that its name says")]
    Magic {
        /// The image.
        name: String,
    },
    /// It ends in the middle of a message.
    #[error("{name} is cut off")]
    Short {
        /// The image.
        name: String,
    },
    /// A message in it cannot be read.
    #[error("{name} cannot be read: {source}")]
    Message {
        /// The image.
        name: String,
        /// Why not.
        source: WireError,
    },
}

/// First number of every image since CRIU 2.0.
const COMMON: u32 = 0x5456_4319;
/// Second number of core images.
const CORE: u32 = 0x5505_3847;
/// Second number of memory map images.
const MM: u32 = 0x5749_2820;

/// Field numbers, from the message outside to the one inside.
mod number {
    /// core_entry → thread_core_entry
    pub const THREAD_CORE: u64 = 5;
    /// thread_core_entry → creds_entry
    pub const CREDS: u64 = 10;
    /// creds_entry → repeated uint32
    pub const GROUPS: u64 = 14;
    /// mm_entry → repeated vma_entry
    pub const VMAS: u64 = 14;
    /// vma_entry → uint32
    pub const FLAGS: u64 = 6;
}

/// MAP_DROPPABLE | MAP_ANONYMOUS | MAP_NORESERVE, as the vDSO's memory has it.
const DROPPABLE: u64 = 0x4028;
/// The same as MAP_PRIVATE.
const PRIVATE: u64 = 0x4022;

impl Rewrite {
    /// Whether the image of this name has to pass through [`Rewrite::apply`]. Others, above all the large ones, need not be held in
    /// memory.
    pub fn concerns(&self, name: &str) -> bool {
        let is = |start: &str| name.starts_with(start) && name.ends_with(".img");
        (self.groups.is_some() && is("core-")) || (self.undrop && is("mm-"))
    }

    /// The image as it has to be.
    pub fn apply(&self, name: &str, image: &[u8]) -> Result<Vec<u8>, ImageError> {
        if !self.concerns(name) {
            return Ok(image.to_vec());
        }
        let core = name.starts_with("core-");
        let message = |source| ImageError::Message { name: name.into(), source };
        let short = || ImageError::Short { name: name.into() };
        let magic = [COMMON.to_le_bytes(), if core { CORE } else { MM }.to_le_bytes()].concat();
        let mut rest = image.strip_prefix(&magic[..]).ok_or_else(|| ImageError::Magic { name: name.into() })?;
        let mut out = magic;
        out.reserve(image.len());
        while !rest.is_empty() {
            let (length, behind) = rest.split_first_chunk::<4>().ok_or_else(short)?;
            let length = usize::try_from(u32::from_le_bytes(*length)).map_err(|_| short())?;
            let (entry, behind) = behind.split_at_checked(length).ok_or_else(short)?;
            let entry = if core { self.core(entry) } else { self.mm(entry) }.map_err(message)?;
            out.extend_from_slice(&u32::try_from(entry.len()).map_err(|_| short())?.to_le_bytes());
            out.extend_from_slice(&entry);
            rest = behind;
        }
        Ok(out)
    }

    fn core(&self, entry: &[u8]) -> Result<Vec<u8>, WireError> {
        let Some(groups) = &self.groups else { return Ok(entry.to_vec()) };
        edit(entry, number::THREAD_CORE, &|thread| edit(thread, number::CREDS, &|creds| replace_groups(creds, groups)))
    }

    fn mm(&self, entry: &[u8]) -> Result<Vec<u8>, WireError> {
        edit(entry, number::VMAS, &|vma| {
            let mut out = Vec::with_capacity(vma.len());
            for field in fields(vma) {
                match field? {
                    Field { number: number::FLAGS, value: Value::Number(DROPPABLE), .. } => {
                        put_number(number::FLAGS, PRIVATE, &mut out);
                    }
                    other => out.extend_from_slice(other.raw),
                }
            }
            Ok(out)
        })
    }
}

/// What makes another message of a message.
type Change<'a> = dyn Fn(&[u8]) -> Result<Vec<u8>, WireError> + 'a;

/// The message with `change` applied to each message in field `number`.
fn edit(message: &[u8], number: u64, change: &Change<'_>) -> Result<Vec<u8>, WireError> {
    let mut out = Vec::with_capacity(message.len() + 16);
    for field in fields(message) {
        let field = field?;
        match field.value {
            Value::Bytes(inner) if field.number == number => put_bytes(number, &change(inner)?, &mut out),
            _ => out.extend_from_slice(field.raw),
        }
    }
    Ok(out)
}

/// Credentials with other groups, where the old ones stood; at the end if there were none.
fn replace_groups(creds: &[u8], groups: &[u32]) -> Result<Vec<u8>, WireError> {
    let mut out = Vec::with_capacity(creds.len() + 6 * groups.len());
    let mut written = false;
    let write = |out: &mut Vec<u8>| groups.iter().for_each(|gid| put_number(number::GROUPS, u64::from(*gid), out));
    for field in fields(creds) {
        let field = field?;
        if field.number != number::GROUPS {
            out.extend_from_slice(field.raw);
        } else if !std::mem::replace(&mut written, true) {
            write(&mut out);
        }
    }
    if !written {
        write(&mut out);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn creds(groups: &[u32]) -> Vec<u8> {
        let mut out = Vec::new();
        for field in 1..=8 {
            put_number(field, 1000, &mut out);
        }
        put_number(13, 0, &mut out);
        for gid in groups {
            put_number(14, u64::from(*gid), &mut out);
        }
        put_number(18, 1, &mut out);
        out
    }

    fn image(second: u32, entries: &[Vec<u8>]) -> Vec<u8> {
        let mut out = [COMMON.to_le_bytes(), second.to_le_bytes()].concat();
        for entry in entries {
            out.extend_from_slice(&(entry.len() as u32).to_le_bytes());
            out.extend_from_slice(entry);
        }
        out
    }

    fn core(groups: &[u32]) -> Vec<u8> {
        let mut thread = Vec::new();
        put_number(1, 0xdead_beef, &mut thread);
        put_bytes(10, &creds(groups), &mut thread);
        put_bytes(13, b"comm", &mut thread);
        let mut entry = Vec::new();
        put_number(1, 1, &mut entry);
        // A field of a future criu, of a kind that we never write.
        entry.extend_from_slice(&[0xf9, 0x07, 1, 2, 3, 4, 5, 6, 7, 8]);
        put_bytes(5, &thread, &mut entry);
        put_bytes(900, b"unknown", &mut entry);
        image(CORE, &[entry])
    }

    fn mm(flags: &[u64]) -> Vec<u8> {
        let mut entry = Vec::new();
        put_number(1, 0x40_0000, &mut entry);
        for flags in flags {
            let mut vma = Vec::new();
            put_number(1, 0x7fff_0000_0000, &mut vma);
            put_number(6, *flags, &mut vma);
            put_number(8, u64::MAX, &mut vma);
            put_bytes(14, &vma, &mut entry);
        }
        image(MM, &[entry.clone(), entry])
    }

    fn groups(groups: &[u32]) -> Rewrite {
        Rewrite { groups: Some(groups.to_vec()), undrop: false }
    }

    #[test]
    fn groups_are_replaced_and_nothing_else_is() {
        for (old, new) in [(&[1000, 65534][..], &[1000][..]), (&[], &[1, 2, 70_000]), (&[5], &[]), (&[7], &[7])] {
            // Where there were none, they go to the end of the credentials instead of in front of field 18.
            if old.is_empty() {
                let once = groups(new).apply("core-1.img", &core(old)).unwrap();
                assert_eq!(groups(new).apply("core-1.img", &once).unwrap(), once);
                assert_eq!(groups(&[]).apply("core-1.img", &once).unwrap(), core(&[]));
            } else {
                assert_eq!(groups(new).apply("core-1.img", &core(old)).unwrap(), core(new));
            }
        }
    }

    #[test]
    fn packed_groups_are_replaced_too() {
        let mut packed = Vec::new();
        put_number(13, 0, &mut packed);
        put_bytes(14, &[1, 2, 3], &mut packed);
        let mut plain = Vec::new();
        put_number(13, 0, &mut plain);
        put_number(14, 9, &mut plain);
        assert_eq!(replace_groups(&packed, &[9]).unwrap(), plain);
    }

    #[test]
    fn droppable_mappings_become_private_ones() {
        let undrop = Rewrite { groups: None, undrop: true };
        assert_eq!(undrop.apply("mm-7.img", &mm(&[0x22, 0x4028, 0x28])).unwrap(), mm(&[0x22, 0x4022, 0x28]));
        assert_eq!(groups(&[1]).apply("mm-7.img", &mm(&[0x4028])).unwrap(), mm(&[0x4028]));
    }

    #[test]
    fn other_images_pass() {
        assert!(!groups(&[1]).concerns("pages-1.img"));
        assert!(!groups(&[1]).concerns("mm-1.img"));
        assert_eq!(groups(&[1]).apply("pages-1.img", b"anything").unwrap(), b"anything");
    }

    #[test]
    fn bad_images_are_errors_and_never_panics() {
        let good = core(&[1, 2]);
        for len in 0..good.len() {
            // Cut between magic and first message it is an image without messages.
            assert_eq!(groups(&[3]).apply("core-1.img", &good[..len]).is_ok(), len == 8, "{len}");
        }
        for at in 0..good.len() {
            for bit in 0..8 {
                let mut bad = good.clone();
                bad[at] ^= 1 << bit;
                let _ = groups(&[3]).apply("core-1.img", &bad);
            }
        }
        assert!(matches!(groups(&[3]).apply("core-1.img", &mm(&[1])), Err(ImageError::Magic { .. })));
    }
}
