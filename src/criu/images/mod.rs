//! Rewrites what must differ on another host in CRIU's images, on their way from the archive to `criu restore`.
//!
//! No image is edited for paths: the sandbox makes them equal. Four things it cannot make equal:
//!
//! * The supplementary groups. Inside a user namespace those of the host that are not mapped all read as 65534, so
//!   their number depends on the account; criu's restorer calls setgroups with the old list, is refused, and may hang
//!   for ever. So the list in each `core-*.img` is replaced by what getgroups says inside the new sandbox.
//! * Mappings made with MAP_DROPPABLE (Linux 6.11), as glibc and the vDSO's getrandom have them. A kernel that does not
//!   know the flag refuses to map. As private anonymous memory they are kept where they might have been dropped, which
//!   nobody notices.
//! * Guard pages: see [`super::guards`].
//! * Hard limits that are lower on this host. CRIU would give the process all limits of the host instead, soft ones
//!   too. So each is lowered to what the host allows, and no more.
//!
//! And one that CRIU 4.2.1 brings back otherwise than it was, without an error (tests/workloads.rs found it): a
//! periodic timerfd that has expired and not been read yet has no time to its next expiry, and comes back disarmed. Its
//! reader would wait for ever. It gets its interval as that time.
//!
//! An image is two magic numbers, then messages, each with its length in front. Field numbers are those of CRIU's
//! public `images/*.proto`. Everything that is not replaced stays as it is, byte for byte.

pub(super) mod guards;

use super::wire::{Field, Value, WireError, fields, put_bytes, put_number};

/// What to rewrite.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rewrite {
    /// Supplementary groups for every thread, if they must change.
    pub groups: Option<Vec<u32>>,
    /// Whether droppable mappings become ordinary ones.
    pub undrop: bool,
    /// Whether guard pages become memory that may not be touched.
    pub unguard: bool,
    /// This host's hard limits in the kernel's order, `None` being unlimited, if one is lower than the payload's.
    pub limits: Option<Vec<Option<u64>>>,
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
pub(super) const MM: u32 = 0x5749_2820;

/// Second number of the image of open files.
const FILES: u32 = 0x5630_3138;

/// Field numbers, from the message outside to the one inside.
pub(super) mod number {
    /// core_entry → task_core_entry
    pub const TASK_CORE: u64 = 3;
    /// task_core_entry → task_rlimits_entry
    pub const LIMITS: u64 = 8;
    /// task_rlimits_entry → rlimit_entry, in the kernel's order
    pub const LIMIT: u64 = 1;
    /// rlimit_entry → uint64, soft and hard
    pub const SOFT_AND_HARD: [u64; 2] = [1, 2];
    /// core_entry → thread_core_entry
    pub const THREAD_CORE: u64 = 5;
    /// thread_core_entry → creds_entry
    pub const CREDS: u64 = 10;
    /// creds_entry → repeated uint32
    pub const GROUPS: u64 = 14;
    /// mm_entry → repeated vma_entry
    pub const VMAS: u64 = 14;
    /// vma_entry → uint64
    pub const START: u64 = 1;
    /// See [`START`].
    pub const END: u64 = 2;
    /// vma_entry → uint32, of PROT_*
    pub const PROTECTION: u64 = 5;
    /// vma_entry → uint32
    pub const FLAGS: u64 = 6;
    /// vma_entry → uint32, of CRIU's own bits
    pub const STATUS: u64 = 7;
    /// file_entry → timerfd_entry
    pub const TIMERFD: u64 = 12;
    /// timerfd_entry → seconds and nanoseconds to the next expiry, and of the interval
    pub const TIMER: [u64; 4] = [7, 8, 9, 10];
}

/// MAP_DROPPABLE | MAP_ANONYMOUS | MAP_NORESERVE, as the vDSO's memory has it.
pub(super) const DROPPABLE: u64 = 0x4028;
/// The same as MAP_PRIVATE.
const PRIVATE: u64 = 0x4022;

impl Rewrite {
    /// Whether the image of this name has to pass through [`Rewrite::apply`]. Others, above all the large ones, need
    /// not be held in memory.
    pub fn concerns(&self, name: &str) -> bool {
        let is = |start: &str| name.starts_with(start) && name.ends_with(".img");
        name == "files.img"
            || ((self.groups.is_some() || self.limits.is_some()) && is("core-"))
            || ((self.undrop || self.unguard) && is("mm-"))
    }

    /// The image as it has to be.
    pub fn apply(&self, name: &str, image: &[u8]) -> Result<Vec<u8>, ImageError> {
        if !self.concerns(name) {
            return Ok(image.to_vec());
        }
        let kind = match name {
            "files.img" => FILES,
            _ if name.starts_with("core-") => CORE,
            _ => MM,
        };
        let message = |source| ImageError::Message { name: name.into(), source };
        let entries = entries(name, kind, image)?;
        let mut out = Vec::with_capacity(image.len() + 64);
        out.extend([COMMON.to_le_bytes(), kind.to_le_bytes()].concat());
        for entry in entries {
            let entry = match kind {
                CORE => self.core(entry),
                FILES => edit(entry, number::TIMERFD, &rearm),
                _ => self.mm(entry),
            };
            let entry = entry.map_err(message)?;
            let length = u32::try_from(entry.len()).map_err(|_| ImageError::Short { name: name.into() })?;
            out.extend_from_slice(&length.to_le_bytes());
            out.extend_from_slice(&entry);
        }
        Ok(out)
    }

    fn core(&self, entry: &[u8]) -> Result<Vec<u8>, WireError> {
        let mut entry = entry.to_vec();
        if let Some(groups) = &self.groups {
            entry = edit(&entry, number::THREAD_CORE, &|thread| {
                edit(thread, number::CREDS, &|creds| replace_groups(creds, groups))
            })?;
        }
        if let Some(here) = &self.limits {
            entry = edit(&entry, number::TASK_CORE, &|task| edit(task, number::LIMITS, &|all| lower(all, here)))?;
        }
        Ok(entry)
    }

    fn mm(&self, entry: &[u8]) -> Result<Vec<u8>, WireError> {
        let entry = if self.unguard { guards::replace(entry)? } else { entry.to_vec() };
        if !self.undrop {
            return Ok(entry);
        }
        edit(&entry, number::VMAS, &|vma| {
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

/// The messages of an image.
pub(super) fn entries<'a>(name: &str, kind: u32, image: &'a [u8]) -> Result<Vec<&'a [u8]>, ImageError> {
    let short = || ImageError::Short { name: name.into() };
    let magic = [COMMON.to_le_bytes(), kind.to_le_bytes()].concat();
    let mut rest = image.strip_prefix(&magic[..]).ok_or_else(|| ImageError::Magic { name: name.into() })?;
    let mut entries = Vec::new();
    while !rest.is_empty() {
        let (length, behind) = rest.split_first_chunk::<4>().ok_or_else(short)?;
        let length = usize::try_from(u32::from_le_bytes(*length)).map_err(|_| short())?;
        let (entry, behind) = behind.split_at_checked(length).ok_or_else(short)?;
        entries.push(entry);
        rest = behind;
    }
    Ok(entries)
}

/// The number in a field of `message`; 0 if it is not there.
pub(super) fn number_in(message: &[u8], number: u64) -> Result<u64, WireError> {
    let mut found = 0;
    for field in fields(message) {
        match field? {
            Field { number: this, value: Value::Number(value), .. } if this == number => found = value,
            _ => {}
        }
    }
    Ok(found)
}

/// `message` with these numbers in these fields, which it has.
pub(super) fn with_numbers(message: &[u8], numbers: &[(u64, u64)]) -> Result<Vec<u8>, WireError> {
    let mut out = Vec::with_capacity(message.len() + 10 * numbers.len());
    for field in fields(message) {
        let field = field?;
        match numbers.iter().find(|(number, _)| *number == field.number) {
            Some((number, value)) => put_number(*number, *value, &mut out),
            None => out.extend_from_slice(field.raw),
        }
    }
    Ok(out)
}

/// A timerfd with an interval and no next expiry: the interval is when that comes.
fn rearm(timer: &[u8]) -> Result<Vec<u8>, WireError> {
    let [seconds, nanoseconds, every_s, every_ns] = number::TIMER.map(|number| number_in(timer, number));
    let every = (every_s?, every_ns?);
    if (seconds?, nanoseconds?) != (0, 0) || every == (0, 0) {
        return Ok(timer.to_vec());
    }
    with_numbers(timer, &[(number::TIMER[0], every.0), (number::TIMER[1], every.1)])
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

/// A list of limits, none of them above that of `here` with the same place in the list.
fn lower(list: &[u8], here: &[Option<u64>]) -> Result<Vec<u8>, WireError> {
    let mut out = Vec::with_capacity(list.len());
    let mut hard = here.iter();
    for field in fields(list) {
        let field = field?;
        let (number::LIMIT, Value::Bytes(limit)) = (field.number, field.value) else {
            out.extend_from_slice(field.raw);
            continue;
        };
        let hard = hard.next().copied().flatten().unwrap_or(u64::MAX);
        let [soft, most] = number::SOFT_AND_HARD;
        let numbers = [(soft, number_in(limit, soft)?.min(hard)), (most, number_in(limit, most)?.min(hard))];
        put_bytes(number::LIMIT, &with_numbers(limit, &numbers)?, &mut out);
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
mod tests;
