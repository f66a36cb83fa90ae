//! Since when a task is asleep. The kernel tells when it last began to run, by a clock that each processor has of its
//! own: how far that one is from CLOCK_MONOTONIC is found by running on that processor.

use core::cell::UnsafeCell;

use super::table::{Call, NEVER, Timeout, by_place};
use super::text::{Path, field, number, read};
use super::{RESTART_SYSCALL, now};
use crate::freestanding::call;

const SYS_SCHED_YIELD: usize = 24;
const SYS_SCHED_SETAFFINITY: usize = 203;
const SYS_SCHED_GETAFFINITY: usize = 204;

/// Looks again if criu was kept from running meanwhile for longer than this, in nanoseconds.
const STEADY: i64 = 1_000_000;
const TRIES: usize = 4;
const PROCESSORS: usize = 1024;
/// A reading that there is not.
const NONE: i64 = 0;

/// How a task was before it was interrupted.
#[derive(Clone, Copy)]
pub struct Note {
    /// There is one.
    taken: bool,
    /// It was stopped by a signal already.
    stopped: bool,
    number: i64,
    sp: u64,
    ip: u64,
    /// When it fell asleep, or was stopped; [`NONE`] if that is not known.
    since: i64,
    /// How often it had given up its processor until then.
    switches: u64,
    /// Which call the kernel's function in which it slept is of, for each way to read its arguments; see [`by_place`].
    place: [u8; 32],
    /// When it was interrupted.
    pub interrupted: i64,
    tid: i32,
}

impl Note {
    pub const NONE: Note = Note {
        taken: false,
        stopped: false,
        number: 0,
        sp: 0,
        ip: 0,
        since: NONE,
        switches: 0,
        place: [0; 32],
        interrupted: NONE,
        tid: 0,
    };

    /// When this call fell asleep, which is when its time began; not known of one that has been interrupted before.
    pub fn since(&self, call: &Call, again: bool) -> Option<i64> {
        if !self.taken || again || self.stopped {
            return None;
        }
        // It began after the note was taken, which was just now.
        if (self.number, self.sp, self.ip) != (call.number, call.sp, call.ip) {
            return Some(self.interrupted);
        }
        let since = Some(self.since).filter(|since| *since != NONE)?;
        // It has woken once to be stopped. More often: it has begun another call at the same place.
        let switches = schedule(self.tid).map(|(_, switches)| switches);
        Some(if switches == Some(self.switches + 1) { since } else { self.interrupted })
    }

    /// When it was interrupted.
    pub fn interruption(&self) -> Option<i64> {
        let at = if self.stopped { self.since } else { self.interrupted };
        Some(at).filter(|at| self.taken && *at != NONE)
    }

    /// The call that the kernel went on with, by where it slept.
    pub fn number_by_place(&self, args: &[u64; 6]) -> Option<i64> {
        by_place(&self.place, args)
    }
}

/// Looks at a task that runs or sleeps.
pub fn note(tid: i32) -> Note {
    let mut note = Note { taken: true, number: -1, tid, ..Note::NONE };
    // proc_pid_syscall(5): the number, six arguments, the stack pointer, the instruction pointer; or "running".
    let mut buffer = [0_u8; 512];
    let text = read(&Path::of_task(tid, b"syscall"), &mut buffer);
    if !text.first().is_some_and(u8::is_ascii_digit) {
        return note;
    }
    let word = |index: usize| number(text.split(|byte| *byte == b' ').nth(index).unwrap_or_default());
    let mut args = [0; 6];
    for (index, arg) in args.iter_mut().enumerate() {
        *arg = word(index + 1);
    }
    (note.number, note.sp, note.ip) = (word(0) as i64, word(7), word(8));
    let (state, processor) = state(tid);
    note.stopped = state == b'T' || state == b't';
    if note.number == RESTART_SYSCALL {
        let mut name = [0_u8; 64];
        for (to, from) in note.place.iter_mut().zip(read(&Path::of_task(tid, b"wchan"), &mut name)) {
            *to = *from;
        }
    }
    let call = Call { number: note.number, code: 0, args, ip: note.ip, sp: note.sp, end: NEVER, whole: false };
    let wanted = match call.timeout() {
        Timeout::Milliseconds(_) => true,
        Timeout::Time { rest, .. } => rest == 0 || note.stopped,
        _ => note.stopped && note.number == RESTART_SYSCALL,
    };
    if wanted
        && let Some((began, switches)) = schedule(tid)
        && let Some(ahead) = ahead(processor)
    {
        (note.since, note.switches) = (began.saturating_add(ahead), switches);
    }
    note
}

/// proc_pid_stat(5): a task's state, and the processor that it was last on.
fn state(tid: i32) -> (u8, usize) {
    let mut buffer = [0_u8; 1024];
    let text = read(&Path::of_task(tid, b"stat"), &mut buffer);
    // The name, in parentheses, may have anything in it.
    let rest = text.iter().rposition(|byte| *byte == b')').and_then(|end| text.get(end + 2..)).unwrap_or_default();
    let mut fields = rest.split(|byte| *byte == b' ');
    let state = fields.next().and_then(|field| field.first()).copied().unwrap_or(b'?');
    // Field 3 is the state, 39 the processor.
    (state, number(fields.nth(35).unwrap_or_default()) as usize)
}

/// When a task last began to run by its processor's clock, in nanoseconds, and how often it has given the processor up
/// since it was made.
fn schedule(tid: i32) -> Option<(i64, u64)> {
    let mut buffer = [0_u8; 2048];
    let text = read(&Path::of_task(tid, b"sched"), &mut buffer);
    // Milliseconds with six places.
    let time = field(text, b"se.exec_start")?;
    let mut parts = time.split(|byte| *byte == b'.');
    let (whole, places) = (number(parts.next()?), number(parts.next()?));
    let time = (whole as i64).saturating_mul(1_000_000).saturating_add(places as i64);
    Some((time, number(field(text, b"nr_voluntary_switches")?)))
}

struct Known(UnsafeCell<[i64; PROCESSORS]>);

// SAFETY: criu has one thread.
unsafe impl Sync for Known {}

static KNOWN: Known = Known(UnsafeCell::new([NONE; PROCESSORS]));

/// By how much CLOCK_MONOTONIC is ahead of this processor's clock. It changes little while criu runs.
fn ahead(processor: usize) -> Option<i64> {
    // SAFETY: one thread.
    let known = unsafe { &mut *KNOWN.0.get() }.get_mut(processor)?;
    if *known == NONE {
        *known = measure(processor)?;
    }
    Some(*known)
}

fn measure(processor: usize) -> Option<i64> {
    let mut before = [0_u8; PROCESSORS / 8];
    let mut here = [0_u8; PROCESSORS / 8];
    *here.get_mut(processor / 8)? = 1 << (processor % 8);
    // SAFETY: the kernel fills the mask.
    let got = unsafe { call(SYS_SCHED_GETAFFINITY, [0, before.len(), before.as_mut_ptr() as usize, 0, 0]) };
    let set = |mask: &[u8]| {
        // SAFETY: the kernel reads the mask.
        unsafe { call(SYS_SCHED_SETAFFINITY, [0, mask.len(), mask.as_ptr() as usize, 0, 0]) }
    };
    // One that criu may not use is near the others in most cases.
    let moved = got > 0 && set(&here) == 0;
    let mut best: Option<(i64, i64)> = None;
    for _ in 0..TRIES {
        // SAFETY: touches no memory. The kernel brings its clock up to date.
        unsafe { call(SYS_SCHED_YIELD, [0; 5]) };
        let first = now();
        let began = schedule(0).map(|(began, _)| began);
        let took = now().saturating_sub(first);
        if let Some(began) = began
            && best.is_none_or(|(least, _)| took < least)
        {
            best = Some((took, first.saturating_sub(began)));
        }
        if took < STEADY {
            break;
        }
    }
    if moved {
        set(&before);
    }
    best.map(|(_, ahead)| ahead)
}
