//! What the kernel would do when a stop ends, done in its place: a system call that was interrupted goes on, with the
//! time that is left.
//!
//! A stop interrupts most blocking calls, and the kernel starts them again without the program's knowledge. Those with
//! a relative timeout need its restart block, which no image has and which criu's own calls inside a task destroy; so
//! criu lets nanosleep(2), poll(2) and others return EINTR. Here:
//!
//! * before a task is interrupted, it is noted since when it sleeps (`asleep.rs`);
//! * when criu reads its registers, the call is recorded, with the instant at which its timeout is over. criu is told
//!   that the call is to be made again (`seen` below). The records are a file that travels with the checkpoint
//!   (`text.rs`);
//! * when criu lets the task go, after a dump or after a restore, the task makes the call with the time that is left
//!   and is interrupted again at once. So the kernel has its restart block, and goes on with the call as after any stop
//!   (`restart.rs`).
//!
//! No memory of the task keeps a change, and its registers end as the kernel itself leaves them.

mod asleep;
mod restart;
mod table;
mod text;

use core::sync::atomic::{AtomicBool, Ordering};

use crate::freestanding::call;
use asleep::Note;
pub use restart::{Registers, let_go};
use table::{Call, NEVER, Slot, Timeout};

const SYS_CLOCK_GETTIME: usize = 228;
const SYS_PROCESS_VM_READV: usize = 310;

/// What a call answers inside the kernel if it is to be started again, <linux/errno.h>. The last three are for those
/// that no handler saw, that always go on, and that go on by their restart block.
pub const ERESTARTSYS: i64 = -512;
const ERESTARTNOINTR: i64 = -513;
pub const ERESTARTNOHAND: i64 = -514;
pub const ERESTART_RESTARTBLOCK: i64 = -516;
/// The call by which the kernel goes on with a restart block.
const RESTART_SYSCALL: i64 = 219;
const EINTR: i64 = -4;
const RT_SIGTIMEDWAIT: u64 = 128;
const EPOLL_WAIT: u64 = 232;
const EPOLL_PWAIT: u64 = 281;
const EPOLL_PWAIT2: u64 = 441;
const SECOND: i64 = 1_000_000_000;

static LOADED: AtomicBool = AtomicBool::new(false);

/// Reads the records of this life, once.
pub fn load() {
    if !LOADED.swap(true, Ordering::Relaxed) {
        text::load();
    }
}

/// The same for a dump: from now on they are those of earlier dumps.
fn load_as_earlier() {
    if !LOADED.swap(true, Ordering::Relaxed) {
        text::load();
        text::begin(now());
    }
}

/// CLOCK_MONOTONIC in nanoseconds, as the payload reads it: criu is in its time namespace.
pub fn now() -> i64 {
    let mut time = [0_i64; 2];
    // SAFETY: the kernel fills a struct timespec. CLOCK_MONOTONIC is 1.
    unsafe { call(SYS_CLOCK_GETTIME, [1, time.as_mut_ptr() as usize, 0, 0, 0]) };
    nanoseconds(time)
}

fn nanoseconds(time: [i64; 2]) -> i64 {
    time[0].saturating_mul(SECOND).saturating_add(time[1])
}

/// Before a task is interrupted.
pub fn before_interrupt(tid: i32) {
    load_as_earlier();
    if let Some(slot) = table::slot(tid) {
        slot.note = asleep::note(tid);
    }
}

/// The task has been interrupted just now.
pub fn after_interrupt(tid: i32) {
    if let Some(slot) = table::find(tid) {
        slot.note.interrupted = now();
    }
}

/// criu has written registers of its own into this task.
pub fn changed(tid: i32) {
    if let Some(slot) = table::find(tid) {
        slot.changed = true;
    }
}

/// criu has read these registers of a task.
pub fn seen(tid: i32, registers: &mut Registers) {
    let number = registers.orig_ax as i64;
    if number < 0 {
        return;
    }
    if waits_for_ever(registers) {
        registers.ax = ERESTARTNOHAND as u64;
    }
    let code = registers.ax as i64;
    if ![ERESTARTSYS, ERESTARTNOHAND, ERESTART_RESTARTBLOCK].contains(&code) {
        return;
    }
    let Some(slot) = table::slot(tid) else {
        tell(registers, code, number);
        return;
    };
    if slot.changed {
        return;
    }
    if !slot.fresh {
        let call = recorded(tid, slot, registers);
        if call.number == RESTART_SYSCALL {
            return;
        }
        (slot.call, slot.fresh) = (call, true);
        text::append(tid, &slot.call);
    }
    tell(registers, code, slot.call.number);
}

/// The kernel lets these return EINTR even if no handler has run, since it would have to know what is left of their
/// time. Without a timeout there is nothing to know, and no program need see it.
pub fn waits_for_ever(registers: &Registers) -> bool {
    if registers.ax as i64 != EINTR {
        return false;
    }
    match registers.orig_ax {
        EPOLL_WAIT | EPOLL_PWAIT => (registers.r10 as i32) < 0,
        EPOLL_PWAIT2 => registers.r10 == 0,
        RT_SIGTIMEDWAIT => registers.dx == 0,
        _ => false,
    }
}

/// Has criu make the call again, as it does with the other codes.
fn tell(registers: &mut Registers, code: i64, number: i64) {
    if code == ERESTART_RESTARTBLOCK && number != RESTART_SYSCALL {
        registers.ax = ERESTARTNOINTR as u64;
        registers.orig_ax = number as u64;
    }
}

/// The call that these registers stand in.
fn recorded(tid: i32, slot: &Slot, registers: &Registers) -> Call {
    let args = [registers.di, registers.si, registers.dx, registers.r10, registers.r8, registers.r9];
    let (number, code) = (registers.orig_ax as i64, registers.ax as i64);
    let mut call = Call { number, code, args, ip: registers.ip, sp: registers.sp, end: NEVER, whole: false };
    if code != ERESTART_RESTARTBLOCK {
        return call;
    }
    if number == RESTART_SYSCALL {
        let earlier = &slot.call;
        let same = (earlier.ip, earlier.sp, earlier.args) == (call.ip, call.sp, call.args);
        // One that is over is of an earlier call at the same place.
        if same && earlier.code == code && (earlier.end == NEVER || earlier.end >= slot.note.interrupted) {
            return Call { whole: false, ..*earlier };
        }
        match slot.note.number_by_place(&args) {
            Some(number) => call.number = number,
            None => return call,
        }
    }
    (call.end, call.whole) = end(tid, &slot.note, &call, number == RESTART_SYSCALL);
    call
}

/// When the call's time is over; and whether that is only because it begins again with the whole.
fn end(tid: i32, note: &Note, call: &Call, again: bool) -> (i64, bool) {
    let (time, since) = match call.timeout() {
        Timeout::None => return (NEVER, false),
        Timeout::Unknown => return (NEVER, true),
        Timeout::Milliseconds(time) => (Some(time.saturating_mul(SECOND / 1000)), note.since(call, again)),
        // The kernel has just written there what was left.
        Timeout::Time { rest, .. } if rest != 0 => (time_at(tid, rest), note.interruption()),
        Timeout::Time { pointer, .. } => (time_at(tid, pointer), note.since(call, again)),
    };
    let at = |begin: i64| time.map(|time| begin.saturating_add(time).max(NEVER + 1));
    match since.and_then(at) {
        Some(end) => (end, false),
        None => (at(now()).unwrap_or(NEVER), true),
    }
}

/// struct iovec
#[repr(C)]
struct Vector {
    base: usize,
    length: usize,
}

/// A struct timespec in the memory of a task.
fn time_at(tid: i32, pointer: u64) -> Option<i64> {
    let mut time = [0_i64; 2];
    let length = size_of_val(&time);
    let here = Vector { base: time.as_mut_ptr() as usize, length };
    let there = Vector { base: pointer as usize, length };
    let vectors = [tid as usize, &raw const here as usize, 1, &raw const there as usize, 1];
    // SAFETY: the kernel fills what `here` names, and only reads in the task.
    let got = unsafe { call(SYS_PROCESS_VM_READV, vectors) };
    (got == length as isize).then(|| nanoseconds(time))
}
