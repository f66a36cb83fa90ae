//! A shared object that is preloaded into criu for a dump. A file is there while criu has changed something in a
//! process and not put it back. System calls that criu interrupts go on. `mod.rs` beside this file says what for.
//!
//! It has no libc; `build.rs` compiles it with the same rustc.
#![no_std]
#![allow(unsafe_code)]

#[path = "../freestanding.rs"]
mod freestanding;
mod calls;
mod leave;
mod senders;
mod trace;
mod unread;

use core::ffi::CStr;
use core::sync::atomic::{AtomicBool, Ordering};

use freestanding::{answer, call};
use leave::leave;
use trace::{PTRACE_DETACH, trace};

const SYS_UNLINK: usize = 87;

/// What changes a task, <linux/ptrace.h>: PTRACE_POKETEXT to PTRACE_POKEUSER, and the two below.
const POKES: core::ops::RangeInclusive<u32> = 4..=6;
const PTRACE_SETREGS: u32 = 13;
const PTRACE_SETREGSET: u32 = 0x4205;
const PTRACE_GETREGSET: u32 = 0x4204;
const PTRACE_INTERRUPT: u32 = 0x4207;
const NT_PRSTATUS: usize = 1;

/// In a place that only criu and the init write to.
const MARK: &CStr = c"/.condor-criu/run/modifying";
/// Whether it is there.
static MODIFYING: AtomicBool = AtomicBool::new(false);

/// ptrace(2). criu lets the first process go when it has put everything back in all of them.
///
/// # Safety
/// As for ptrace(2).
// SAFETY: this is libc's symbol. C calls it with a list of any length; the first four arguments are where they are
// without one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ptrace(request: u32, pid: i32, address: usize, data: usize) -> isize {
    let mut data = data;
    match request {
        PTRACE_SETREGS | PTRACE_SETREGSET => {
            calls::changed(pid);
            touch();
        }
        _ if POKES.contains(&request) => touch(),
        PTRACE_DETACH => {
            put_back();
            data |= calls::let_go(pid, false, touch);
            put_back();
        }
        PTRACE_INTERRUPT => calls::before_interrupt(pid),
        _ => {}
    }
    // SAFETY: of the caller.
    let result = unsafe { trace(request, pid, address, data) };
    match request {
        PTRACE_INTERRUPT if result.is_ok() => calls::after_interrupt(pid),
        PTRACE_GETREGSET if result.is_ok() && address == NT_PRSTATUS => {
            // SAFETY: of the caller; the kernel has just filled it.
            if let Some(registers) = unsafe { calls::Registers::read_into(data) } {
                calls::seen(pid, registers);
            }
        }
        _ => {}
    }
    result.unwrap_or_else(answer)
}

fn touch() {
    if !MODIFYING.swap(true, Ordering::Relaxed) {
        leave(MARK);
    }
}

fn put_back() {
    if MODIFYING.swap(false, Ordering::Relaxed) {
        // SAFETY: a path that ends with a zero byte.
        unsafe { call(SYS_UNLINK, [MARK.as_ptr() as usize, 0, 0, 0, 0]) };
    }
}
