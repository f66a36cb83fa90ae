//! A shared object that is preloaded into criu: an image that memory was spliced into is closed only when everything
//! has been read from its pipe. `mod.rs` beside this file says what for.
//!
//! It has no libc; `build.rs` compiles it with the same rustc.
#![no_std]
#![allow(unsafe_code)]

#[path = "../freestanding.rs"]
mod freestanding;

use core::sync::atomic::{AtomicU64, Ordering};

use freestanding::{answer, call, call6};

const SYS_CLOSE: usize = 3;
const SYS_IOCTL: usize = 16;
const SYS_FCNTL: usize = 72;
const SYS_PPOLL: usize = 271;
const SYS_SPLICE: usize = 275;

const FIONREAD: usize = 0x541b;
const F_GETPIPE_SZ: usize = 1032;

/// How long to wait before looking again, in nanoseconds: it doubles from the first to the second. The pipe holds a
/// megabyte, which its reader takes within a millisecond if nothing holds it up.
const WAIT: (u64, u64) = (50_000, 1_000_000);

/// Descriptors, one bit for each, that something was spliced into and that have not been closed since.
static SPLICED: [AtomicU64; 1024] = [const { AtomicU64::new(0) }; 1024];

/// The word and the bit of a descriptor; none for numbers that have no place.
fn place(file: i32) -> Option<(&'static AtomicU64, u64)> {
    let number = usize::try_from(file).ok()?;
    Some((SPLICED.get(number / 64)?, 1 << (number % 64)))
}

/// splice(2), which keeps in mind where to.
///
/// # Safety
/// As for splice(2).
// SAFETY: this is libc's symbol, with libc's arguments.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn splice(from: i32, at: *mut i64, to: i32, to_at: *mut i64, len: usize, flags: u32) -> isize {
    // SAFETY: of the caller.
    let raw = unsafe {
        call6(SYS_SPLICE, [from as usize, at as usize, to as usize, to_at as usize, len, flags as usize])
    };
    if raw > 0 {
        match place(to) {
            Some((word, bit)) => {
                word.fetch_or(bit, Ordering::Relaxed);
            }
            None => wait_until_read(to),
        }
    }
    answer(raw)
}

/// close(2) of what has been read.
#[unsafe(no_mangle)]
pub extern "C" fn close(file: i32) -> i32 {
    if let Some((word, bit)) = place(file)
        && word.fetch_and(!bit, Ordering::Relaxed) & bit != 0
    {
        wait_until_read(file);
    }
    // SAFETY: touches no memory.
    answer(unsafe { call(SYS_CLOSE, [file as usize, 0, 0, 0, 0]) }) as i32
}

/// struct pollfd
#[repr(C)]
struct Poll {
    file: i32,
    events: i16,
    happened: i16,
}

/// Returns when nothing is left in this pipe, or nobody reads it any more; at once if it is no pipe.
fn wait_until_read(file: i32) {
    // SAFETY: touches no memory.
    if unsafe { call(SYS_FCNTL, [file as usize, F_GETPIPE_SZ, 0, 0, 0]) } < 0 {
        return;
    }
    let mut wait = WAIT.0;
    loop {
        let mut left = 0_i32;
        // SAFETY: FIONREAD writes an int.
        if unsafe { call(SYS_IOCTL, [file as usize, FIONREAD, &raw mut left as usize, 0, 0]) } < 0 || left == 0 {
            return;
        }
        // Without an event that is waited for, only the end of the reader ends it early.
        let mut poll = Poll { file, events: 0, happened: 0 };
        let time = [0, wait];
        // SAFETY: one struct pollfd, a struct timespec, no signal mask.
        if unsafe { call(SYS_PPOLL, [&raw mut poll as usize, 1, time.as_ptr() as usize, 0, 0]) } > 0 {
            return;
        }
        wait = (wait * 2).min(WAIT.1);
    }
}
