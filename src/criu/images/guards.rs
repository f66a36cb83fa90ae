//! Guard pages (MADV_GUARD_INSTALL, Linux 6.13) for kernels that do not have them.
//!
//! glibc 2.42 puts them below the stack of each thread. CRIU writes each range of them as an entry of its own behind
//! the mappings, inside whose memory they are, and an older kernel refuses to make them. So the mapping is cut in three
//! there, and the middle one may not be touched, as glibc itself does on such kernels. Who touches it gets SIGSEGV as
//! before, and there is nothing in it to be lost. What is not private anonymous memory, or grows, is not cut; the gate
//! refuses it.

use super::{number, number_in, with_numbers};
use crate::criu::wire::{Value, WireError, fields, put_bytes};

/// CRIU's VMA_AREA_GUARD: the entry stands for guard pages inside another mapping.
const GUARD: u64 = 1 << 16;
/// CRIU's VMA_ANON_PRIVATE.
const ANON_PRIVATE: u64 = 1 << 9;
/// MAP_GROWSDOWN, <asm-generic/mman.h>
const GROWS_DOWN: u64 = 0x100;

/// A mapping, as much of it as matters here.
struct Vma<'a> {
    start: u64,
    end: u64,
    guard: bool,
    can_be_cut: bool,
    message: &'a [u8],
}

impl<'a> Vma<'a> {
    fn read(message: &'a [u8]) -> Result<Self, WireError> {
        let status = number_in(message, number::STATUS)?;
        let grows = number_in(message, number::FLAGS)? & GROWS_DOWN != 0;
        Ok(Vma {
            start: number_in(message, number::START)?,
            end: number_in(message, number::END)?,
            guard: status & GUARD != 0,
            can_be_cut: status & ANON_PRIVATE != 0 && !grows,
            message,
        })
    }

    fn overlaps(&self, other: &Vma<'_>) -> bool {
        self.start < other.end && other.start < self.end
    }

    /// This part of it; without any access, if there is a guard.
    fn part(&self, start: u64, end: u64, guarded: bool) -> Result<Vec<u8>, WireError> {
        let mut numbers = vec![(number::START, start), (number::END, end)];
        if guarded {
            numbers.push((number::PROTECTION, 0));
        }
        with_numbers(self.message, &numbers)
    }
}

fn vmas(mm: &[u8]) -> Result<Vec<Vma<'_>>, WireError> {
    let mut found = Vec::new();
    for field in fields(mm) {
        let field = field?;
        if let (number::VMAS, Value::Bytes(message)) = (field.number, field.value) {
            found.push(Vma::read(message)?);
        }
    }
    Ok(found)
}

/// Whether a task (the message of its `mm` image) has guard pages, and if so, whether [`replace`] can replace all of
/// them.
pub(in crate::criu) fn of(mm: &[u8]) -> Result<Option<bool>, WireError> {
    let all = vmas(mm)?;
    let (guards, mappings): (Vec<_>, Vec<_>) = all.iter().partition(|vma| vma.guard);
    let replaceable =
        |guard: &&Vma<'_>| mappings.iter().filter(|mapping| mapping.overlaps(guard)).all(|mapping| mapping.can_be_cut);
    Ok((!guards.is_empty()).then(|| guards.iter().all(replaceable)))
}

/// The task without guard pages, with memory that may not be touched in their places.
pub(super) fn replace(mm: &[u8]) -> Result<Vec<u8>, WireError> {
    let all = vmas(mm)?;
    let mut guards: Vec<&Vma<'_>> = all.iter().filter(|vma| vma.guard).collect();
    guards.sort_by_key(|guard| guard.start);
    let mut out = Vec::with_capacity(mm.len() + 64 * guards.len());
    for field in fields(mm) {
        let field = field?;
        let (number::VMAS, Value::Bytes(message)) = (field.number, field.value) else {
            out.extend_from_slice(field.raw);
            continue;
        };
        let vma = Vma::read(message)?;
        if vma.guard {
            continue;
        }
        let inside: Vec<_> = guards.iter().filter(|guard| guard.overlaps(&vma)).collect();
        if inside.is_empty() {
            out.extend_from_slice(field.raw);
            continue;
        }
        let mut from = vma.start;
        for guard in inside {
            let (start, end) = (guard.start.max(from), guard.end.min(vma.end));
            if from < start {
                put_bytes(number::VMAS, &vma.part(from, start, false)?, &mut out);
            }
            if start < end {
                put_bytes(number::VMAS, &vma.part(start, end, true)?, &mut out);
            }
            from = from.max(end);
        }
        if from < vma.end {
            put_bytes(number::VMAS, &vma.part(from, vma.end, false)?, &mut out);
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::criu::wire::put_number;

    const PRIVATE: u64 = 0x201;

    /// Start, end, protection, flags, status of each.
    fn mm(vmas: &[(u64, u64, u64, u64, u64)]) -> Vec<u8> {
        let mut out = Vec::new();
        put_number(1, 77, &mut out);
        for (start, end, protection, flags, status) in vmas {
            let mut vma = Vec::new();
            for (field, value) in [(1, *start), (2, *end), (3, 0), (5, *protection), (6, *flags), (7, *status), (8, 1)]
            {
                put_number(field, value, &mut vma);
            }
            put_bytes(number::VMAS, &vma, &mut out);
        }
        put_number(20, 5, &mut out);
        out
    }

    #[test]
    fn a_mapping_is_cut_where_its_guards_are() {
        let before = mm(&[
            (100, 200, 3, 0x22, PRIVATE),
            (200, 300, 3, 0x22, PRIVATE),
            (400, 500, 1, 0x2, 0x41),
            (280, 300, 0, 0, GUARD),
            (100, 110, 0, 0, GUARD),
            (150, 160, 0, 0, GUARD),
        ]);
        let after = mm(&[
            (100, 110, 0, 0x22, PRIVATE),
            (110, 150, 3, 0x22, PRIVATE),
            (150, 160, 0, 0x22, PRIVATE),
            (160, 200, 3, 0x22, PRIVATE),
            (200, 280, 3, 0x22, PRIVATE),
            (280, 300, 0, 0x22, PRIVATE),
            (400, 500, 1, 0x2, 0x41),
        ]);
        assert_eq!((of(&before), of(&after)), (Ok(Some(true)), Ok(None)));
        assert_eq!(replace(&before), Ok(after.clone()));
        assert_eq!(replace(&after), Ok(after));
    }

    #[test]
    fn guards_over_two_mappings_and_over_nothing() {
        let before = mm(&[
            (100, 200, 3, 0x22, PRIVATE),
            (200, 300, 1, 0x22, PRIVATE),
            (190, 210, 0, 0, GUARD),
            (900, 910, 0, 0, GUARD),
        ]);
        let after = mm(&[
            (100, 190, 3, 0x22, PRIVATE),
            (190, 200, 0, 0x22, PRIVATE),
            (200, 210, 0, 0x22, PRIVATE),
            (210, 300, 1, 0x22, PRIVATE),
        ]);
        assert_eq!(replace(&before), Ok(after));
    }

    #[test]
    fn what_is_a_file_s_or_shared_or_grows_is_not_cut() {
        for (flags, status) in [(0x2, 0x41), (0x1, 0x81), (0x21, 0x101), (0x122, PRIVATE)] {
            assert_eq!(of(&mm(&[(100, 200, 3, flags, status), (150, 160, 0, 0, GUARD)])), Ok(Some(false)));
        }
    }
}
