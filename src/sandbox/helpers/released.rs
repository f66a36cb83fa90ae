//! A shared object that is preloaded into criu for a restore: a task that has been killed before criu lets it go is let go all the same,
//! and system calls that the dump interrupted go on. `mod.rs` beside this file says what for.
//!
//! It has no libc; `build.rs` compiles it with the same rustc.
#![no_std]
#![allow(unsafe_code)]

#[path = "../bare.rs"]
mod bare;
mod calls;
mod trace;

use bare::answer;
use trace::{PTRACE_DETACH, trace};

const ESRCH: isize = -3;

/// ptrace(2), for which a task that is gone is detached.
///
/// # Safety
/// As for ptrace(2).
// SAFETY: this is libc's symbol. C calls it with a list of any length; the first four arguments are where they are without one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ptrace(request: u32, pid: i32, address: usize, data: usize) -> isize {
    let mut data = data;
    if request == PTRACE_DETACH {
        calls::load();
        data |= calls::let_go(pid, true, || ());
    }
    // SAFETY: of the caller.
    match unsafe { trace(request, pid, address, data) } {
        Err(ESRCH) if request == PTRACE_DETACH => 0,
        Err(error) => answer(error),
        Ok(result) => result,
    }
}
