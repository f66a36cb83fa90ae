//! A shared object that is preloaded into criu for a restore. The root of the tree adopts orphans from its first moment
//! on. A task that has been killed before criu lets it go is let go all the same. A symbolic link that is watched is
//! watched again. System calls that the dump interrupted go on. `mod.rs` beside this file says what for.
//!
//! It has no libc; `build.rs` compiles it with the same rustc.
#![no_std]
#![allow(unsafe_code)]

#[path = "../freestanding.rs"]
mod freestanding;
mod calls;
mod trace;
mod watched;

use freestanding::{answer, call};
use trace::{PTRACE_DETACH, trace};

const SYS_GETPPID: usize = 110;
const SYS_SETSID: usize = 112;
const SYS_PRCTL: usize = 157;
const SYS_SETRLIMIT: usize = 160;
const PR_SET_DUMPABLE: i32 = 4;
const PR_SET_CHILD_SUBREAPER: usize = 36;
const RLIMIT_CORE: usize = 4;

const ESRCH: isize = -3;

/// ptrace(2), for which a task that is gone is detached.
///
/// # Safety
/// As for ptrace(2).
// SAFETY: this is libc's symbol. C calls it with a list of any length; the first four arguments are where they are
// without one.
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

/// setsid(2), by which the root of the tree begins its session before it makes any other process. It alone is a child
/// of the sandbox's init.
#[unsafe(no_mangle)]
pub extern "C" fn setsid() -> i32 {
    // SAFETY: none of these touches memory.
    unsafe {
        if call(SYS_GETPPID, [0; 5]) == 1 {
            call(SYS_PRCTL, [PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0]);
        }
        answer(call(SYS_SETSID, [0; 5])) as i32
    }
}

/// prctl(2). Before a process dies of the signal that it had died of, criu makes it undumpable, lest it leaves a core
/// file. The kernel then hides how it ended, and the next dump would read 0: a parent that waits late would take a
/// death for success. A limit does the same.
///
/// # Safety
/// As for prctl(2).
// SAFETY: this is libc's symbol. C calls it with a list of any length; the arguments are where they are without one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prctl(option: i32, a: usize, b: usize, c: usize, d: usize) -> i32 {
    let none = [0_usize; 2];
    let raw = match (option, a) {
        // SAFETY: a struct rlimit.
        (PR_SET_DUMPABLE, 0) => unsafe { call(SYS_SETRLIMIT, [RLIMIT_CORE, none.as_ptr() as usize, 0, 0, 0]) },
        // SAFETY: of the caller.
        _ => unsafe { call(SYS_PRCTL, [option as usize, a, b, c, d]) },
    };
    answer(raw) as i32
}
