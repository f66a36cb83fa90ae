//! ptrace(2) for the helpers that stand before libc's.

use crate::freestanding::{call, set_error};

const SYS_PTRACE: usize = 101;
/// PTRACE_PEEKTEXT to PTRACE_PEEKUSER, of which libc returns what the kernel writes.
const PEEKS: core::ops::RangeInclusive<u32> = 1..=3;
/// Lets a task go.
pub const PTRACE_DETACH: u32 = 17;

/// What ptrace(2) of libc answers, but an error as the kernel has it: negative.
///
/// # Safety
/// As for ptrace(2).
pub unsafe fn trace(request: u32, pid: i32, address: usize, data: usize) -> Result<isize, isize> {
    let mut word = 0_isize;
    let peek = PEEKS.contains(&request);
    let data = if peek { &raw mut word as usize } else { data };
    // SAFETY: of the caller; the kernel writes one word for those that peek.
    match unsafe { call(SYS_PTRACE, [request as usize, pid as usize, address, data, 0]) } {
        error @ ..0 => Err(error),
        _ if peek => {
            // What is read may be -1 too: callers tell it by errno.
            set_error(0);
            Ok(word)
        }
        done => Ok(done),
    }
}
