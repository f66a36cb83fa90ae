//! What is known of each task. criu has one thread, and so has each of its helpers a table of its own.

use core::cell::UnsafeCell;

use super::asleep::Note;

/// Without a timeout, or with one that needs no help.
pub const NEVER: i64 = 0;

const POLL: i64 = 7;
const NANOSLEEP: i64 = 35;
const FUTEX: i64 = 202;
const CLOCK_NANOSLEEP: i64 = 230;
/// FUTEX_PRIVATE_FLAG | FUTEX_CLOCK_REALTIME
const FUTEX_FLAGS: u64 = 128 | 256;
const FUTEX_WAIT: u64 = 0;
const TIMER_ABSTIME: u64 = 1;
/// CLOCK_REALTIME, _MONOTONIC, _BOOTTIME, the two with an alarm, and _TAI: a relative sleep is as long by each.
const CLOCKS: [u64; 6] = [0, 1, 7, 8, 9, 11];

/// A system call that was interrupted.
#[derive(Clone, Copy)]
pub struct Call {
    pub number: i64,
    /// What it answered inside the kernel.
    pub code: i64,
    pub args: [u64; 6],
    /// Behind the instruction.
    pub ip: u64,
    pub sp: u64,
    /// When its time is over by CLOCK_MONOTONIC, in nanoseconds; or [`NEVER`].
    pub end: i64,
    /// Nothing told how much of its time was left: it began again with the whole.
    pub whole: bool,
}

/// Where a call's relative timeout is.
pub enum Timeout {
    /// It has none.
    None,
    /// By a clock that stands still in between.
    Unknown,
    /// In its third argument.
    Milliseconds(i64),
    /// In a struct timespec that this argument points to; what was left of it is written to `rest`, if that is not 0.
    Time { argument: usize, pointer: u64, rest: u64 },
}

impl Call {
    pub fn timeout(&self) -> Timeout {
        let [first, second, third, fourth, ..] = self.args;
        match self.number {
            POLL if third as i32 > 0 => Timeout::Milliseconds(i64::from(third as i32)),
            NANOSLEEP => Timeout::Time { argument: 0, pointer: first, rest: second },
            CLOCK_NANOSLEEP if second & TIMER_ABSTIME != 0 => Timeout::None,
            CLOCK_NANOSLEEP if !CLOCKS.contains(&u64::from(first as u32)) => Timeout::Unknown,
            CLOCK_NANOSLEEP => Timeout::Time { argument: 2, pointer: third, rest: fourth },
            FUTEX if second & !FUTEX_FLAGS == FUTEX_WAIT && fourth != 0 => {
                Timeout::Time { argument: 3, pointer: fourth, rest: 0 }
            }
            _ => Timeout::None,
        }
    }

    /// Whether it is one of those that have a restart block.
    pub fn has_block(&self) -> bool {
        [POLL, NANOSLEEP, FUTEX, CLOCK_NANOSLEEP].contains(&self.number)
    }
}

/// The call that sleeps in this function of the kernel's, by its arguments.
pub fn by_place(name: &[u8], args: &[u64; 6]) -> Option<i64> {
    let within = |part: &[u8]| name.windows(part.len()).any(|window| window == part);
    match () {
        () if within(b"poll") => Some(POLL),
        () if within(b"futex") => Some(FUTEX),
        // The first argument is a clock, or a pointer.
        () if within(b"nanosleep") || within(b"nsleep") => {
            Some(if args[0] < 4096 { CLOCK_NANOSLEEP } else { NANOSLEEP })
        }
        () => None,
    }
}

/// A task.
pub struct Slot {
    /// 0 if the slot is free.
    tid: i32,
    /// The call was recorded by this dump, or by the one that is being restored.
    pub fresh: bool,
    /// criu has written registers.
    pub changed: bool,
    pub note: Note,
    pub call: Call,
}

const SLOTS: usize = 1 << 14;
/// Slots that are looked at.
const TRIES: usize = 64;

struct Table(UnsafeCell<[Slot; SLOTS]>);

// SAFETY: criu has one thread.
unsafe impl Sync for Table {}

// All zero: it takes no room in the file, and none in memory before it is used.
static TABLE: Table = Table(UnsafeCell::new([const { EMPTY }; SLOTS]));
const NO_CALL: Call = Call { number: 0, code: 0, args: [0; 6], ip: 0, sp: 0, end: 0, whole: false };
const EMPTY: Slot = Slot { tid: 0, fresh: false, changed: false, note: Note::NONE, call: NO_CALL };

/// What is known of this task.
pub fn find(tid: i32) -> Option<&'static mut Slot> {
    place(tid).filter(|slot| slot.tid == tid)
}

/// The same, with a new place if nothing is known.
pub fn slot(tid: i32) -> Option<&'static mut Slot> {
    let slot = place(tid)?;
    slot.tid = tid;
    Some(slot)
}

/// The task's slot, or the free one that it would have.
fn place(tid: i32) -> Option<&'static mut Slot> {
    let first = usize::try_from(tid).ok().filter(|tid| *tid > 0)?;
    // SAFETY: one thread, and no caller keeps two.
    let slots = unsafe { &mut *TABLE.0.get() };
    let number = (first..first + TRIES)
        .map(|number| number % SLOTS)
        .find(|number| slots.get(*number).is_some_and(|slot| slot.tid == tid || slot.tid == 0))?;
    slots.get_mut(number)
}

/// Calls `with` for every task.
pub fn each(mut with: impl FnMut(i32, &mut Slot)) {
    // SAFETY: as above.
    let slots = unsafe { &mut *TABLE.0.get() };
    for slot in slots.iter_mut().filter(|slot| slot.tid != 0) {
        with(slot.tid, slot);
    }
}
