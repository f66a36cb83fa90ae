//! A shared object that is preloaded into criu for a dump: a file is there while criu has changed something in a process that it has not put
//! back. `mod.rs` beside this file says what for.
//!
//! It has no libc; `build.rs` compiles it with the same rustc.
#![no_std]
#![allow(unsafe_code)]

#[path = "../bare.rs"]
mod bare;
mod leave;
mod trace;

use core::ffi::CStr;
use core::sync::atomic::{AtomicBool, Ordering};

use bare::{answer, call};
use leave::leave;
use trace::{PTRACE_DETACH, trace};

const SYS_UNLINK: usize = 87;

/// What changes a task, <linux/ptrace.h>: PTRACE_POKETEXT to PTRACE_POKEUSER, and the two below.
const POKES: core::ops::RangeInclusive<u32> = 4..=6;
const PTRACE_SETREGS: u32 = 13;
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
            leave(FILE);
        }
    } else if request == PTRACE_DETACH && TOUCHED.swap(false, Ordering::Relaxed) {
        // SAFETY: a path that ends with a zero byte.
        unsafe { call(SYS_UNLINK, [FILE.as_ptr() as usize, 0, 0, 0, 0]) };
    }
    // SAFETY: of the caller.
    unsafe { trace(request, pid, address, data) }.unwrap_or_else(|error| answer(error))
}
