//! What the shared objects without libc have in common: system calls, errno, and their end. `build.rs` compiles them,
//! and each includes this file as a module of its own; the library does not.

use core::arch::{asm, global_asm};

/// Ends the process with all its threads.
const SYS_EXIT_GROUP: usize = 231;

/// A system call; the kernel's raw answer, negative for an error.
///
/// # Safety
/// The arguments are what the call `n` asks for.
#[inline]
pub unsafe fn call(n: usize, a: [usize; 5]) -> isize {
    // SAFETY: of the caller; the kernel ignores arguments that the call does not have.
    unsafe { call6(n, [a[0], a[1], a[2], a[3], a[4], 0]) }
}

/// The same, for those with six arguments.
///
/// # Safety
/// As for [`call`].
#[inline]
pub unsafe fn call6(n: usize, a: [usize; 6]) -> isize {
    let answer: isize;
    // SAFETY: the x86-64 Linux convention; the caller answers for the arguments.
    unsafe {
        asm!("syscall", inlateout("rax") n as isize => answer, in("rdi") a[0], in("rsi") a[1], in("rdx") a[2],
             in("r10") a[3], in("r8") a[4], in("r9") a[5], lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    answer
}

unsafe extern "C" {
    // glibc and musl both have it.
    safe fn __errno_location() -> *mut i32;
}

/// The raw answer as libc gives it: -1 and errno for an error.
pub fn answer(raw: isize) -> isize {
    if raw >= 0 {
        return raw;
    }
    set_error(-raw as i32);
    -1
}

/// Sets errno of this thread.
pub fn set_error(number: i32) {
    // SAFETY: where libc says that it is.
    unsafe { *__errno_location() = number };
}

/// errno of this thread, as a raw answer.
#[allow(dead_code, reason = "not every one of them asks")]
pub fn last_error() -> isize {
    // SAFETY: as above.
    unsafe { -(*__errno_location() as isize) }
}

// Parts of core name it for the case that something unwinds, which nothing here does. Hidden: a Rust program has its
// own.
global_asm!(
    ".globl rust_eh_personality",
    ".hidden rust_eh_personality",
    ".type rust_eh_personality, @function",
    "rust_eh_personality: ud2",
);

/// Nothing here panics; the compiler cannot know.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {
        // SAFETY: ends the process.
        unsafe { call(SYS_EXIT_GROUP, [134, 0, 0, 0, 0]) };
    }
}
