//! A shared object that is preloaded into criu for a restore: a task that has been killed before criu lets it go is let go all the same.
//! `mod.rs` beside this file says what for.
//!
//! It has no libc; `build.rs` compiles it with the same rustc.
#![no_std]
#![allow(unsafe_code)]

#[path = "../bare.rs"]
mod bare;

use bare::{answer, call, set_error};

const SYS_PTRACE: usize = 101;
/// PTRACE_PEEKTEXT to PTRACE_PEEKUSER, of which libc returns what the kernel writes.
const PEEKS: core::ops::RangeInclusive<u32> = 1..=3;
const PTRACE_DETACH: u32 = 17;
const ESRCH: isize = -3;

/// ptrace(2), for which a task that is gone is detached.
///
/// # Safety
/// As for ptrace(2).
// SAFETY: this is libc's symbol. C calls it with a list of any length; the first four arguments are where they are without one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ptrace(request: u32, pid: i32, address: usize, data: usize) -> isize {
    let mut word = 0_isize;
    let peek = PEEKS.contains(&request);
    let data = if peek { &raw mut word as usize } else { data };
    // SAFETY: of the caller; the kernel writes one word for those that peek.
    match unsafe { call(SYS_PTRACE, [request as usize, pid as usize, address, data, 0]) } {
        ESRCH if request == PTRACE_DETACH => 0,
        0 if peek => {
            // What is read may be -1 too: callers tell it by errno.
            set_error(0);
            word
        }
        raw => answer(raw),
    }
}
