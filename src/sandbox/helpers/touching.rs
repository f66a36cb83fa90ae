//! A shared object that is preloaded into criu for a dump: a file is there while criu has changed something in a process that it has not put
//! back. `mod.rs` beside this file says what for.
//!
//! It has no libc; `build.rs` compiles it with the same rustc.
#![no_std]
#![allow(unsafe_code)]

#[path = "../bare.rs"]
mod bare;

use core::ffi::CStr;
use core::sync::atomic::{AtomicBool, Ordering};

use bare::{answer, call, set_error};

const SYS_OPEN: usize = 2;
const SYS_CLOSE: usize = 3;
const SYS_UNLINK: usize = 87;
const SYS_PTRACE: usize = 101;
const O_WRONLY_CREAT_CLOEXEC: usize = 0o2_000_101;

/// Requests of ptrace(2), <linux/ptrace.h>: PTRACE_PEEKTEXT to PTRACE_PEEKUSER, of which libc returns what the kernel writes.
const PEEKS: core::ops::RangeInclusive<u32> = 1..=3;
/// PTRACE_POKETEXT to PTRACE_POKEUSER.
const POKES: core::ops::RangeInclusive<u32> = 4..=6;
const PTRACE_SETREGS: u32 = 13;
const PTRACE_DETACH: u32 = 17;
const PTRACE_SETREGSET: u32 = 0x4205;

/// In a place that only criu and the init write to.
const FILE: &CStr = c"/.condor-criu/run/touching";
/// Whether it is there.
static TOUCHED: AtomicBool = AtomicBool::new(false);

/// ptrace(2). criu lets the first process go when it has put everything back in all of them.
///
/// # Safety
/// As for ptrace(2).
// SAFETY: this is libc's symbol. C calls it with a list of any length; the first four arguments are where they are without one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ptrace(request: u32, pid: i32, address: usize, data: usize) -> isize {
    if POKES.contains(&request) || request == PTRACE_SETREGS || request == PTRACE_SETREGSET {
        if !TOUCHED.swap(true, Ordering::Relaxed) {
            make();
        }
    } else if request == PTRACE_DETACH && TOUCHED.swap(false, Ordering::Relaxed) {
        // SAFETY: a path that ends with a zero byte.
        unsafe { call(SYS_UNLINK, [FILE.as_ptr() as usize, 0, 0, 0, 0]) };
    }
    let mut word = 0_isize;
    let peek = PEEKS.contains(&request);
    let data = if peek { &raw mut word as usize } else { data };
    // SAFETY: of the caller; the kernel writes one word for those that peek.
    match unsafe { call(SYS_PTRACE, [request as usize, pid as usize, address, data, 0]) } {
        0 if peek => {
            // What is read may be -1 too: callers tell it by errno.
            set_error(0);
            word
        }
        raw => answer(raw),
    }
}

/// Leaves the empty file.
fn make() {
    // SAFETY: a path that ends with a zero byte.
    let file = unsafe { call(SYS_OPEN, [FILE.as_ptr() as usize, O_WRONLY_CREAT_CLOEXEC, 0o600, 0, 0]) };
    if file >= 0 {
        // SAFETY: opened above.
        unsafe { call(SYS_CLOSE, [file as usize, 0, 0, 0, 0]) };
    }
}
