//! The compatibility helper: a shared object that is preloaded into the payload's dynamically linked programs, so that
//! they do what CRIU can save. docs/compat.md says what it changes.
//!
//! * [`hide`]: what is removed below `/dev/shm` while somebody uses it gets another name instead, because a file that
//!   is mapped must have one.
//! * [`semaphore`]: a named semaphore is made in a way that leaves its mapping with a name.
//! * [`exec`]: a child that is started with an environment of its own gets the helper too.
//! * [`syscall()`]: io_uring does not exist, so that libuv and others use what they used before.
//!
//! It needs no library but the program's own libc, whichever that is. It allocates nothing, and keeps no lock and no
//! thread-local storage. So every function may be called in a signal handler and between vfork(2) and execve(2), where
//! the one that it stands for may be. `build.rs` compiles it with the same rustc; it is embedded, put into the
//! sandbox's root, and carried in every checkpoint, because CRIU wants to find the same file again.
#![no_std]
#![allow(unsafe_code)]

#[path = "../../freestanding.rs"]
mod freestanding;
mod exec;
mod hide;
mod raw;
mod semaphore;

use core::arch::naked_asm;

/// syscall(2) as libc has it, but io_uring_setup, io_uring_enter and io_uring_register are not implemented.
///
/// # Safety
/// As for the system call.
// SAFETY: this is the C symbol `syscall`; the seventh argument is on the stack behind the return address. Nothing is
// pushed before the system call, which may return twice (vfork) or on another stack (clone).
#[unsafe(no_mangle)]
#[unsafe(naked)]
pub unsafe extern "C" fn syscall() -> isize {
    naked_asm!(
        "lea eax, [rdi - 425]",
        "cmp eax, 2",
        "jbe 2f",
        "mov rax, rdi",
        "mov rdi, rsi",
        "mov rsi, rdx",
        "mov rdx, rcx",
        "mov r10, r8",
        "mov r8, r9",
        "mov r9, [rsp + 8]",
        "syscall",
        "cmp rax, -4095",
        "jae 3f",
        "ret",
        "2: mov rax, -38", // ENOSYS
        "3: mov rdi, rax",
        "jmp {failed}",
        failed = sym failed,
    )
}

extern "C" fn failed(error: isize) -> isize {
    raw::answer(error)
}

/// Found once, before the program can be between vfork and exec, where looking for symbols is not allowed.
extern "C" fn start() {
    raw::find_all();
}

// SAFETY: the dynamic linker calls what is in this section once, with argc, argv and envp, which C lets a function
// ignore.
#[used]
#[unsafe(link_section = ".init_array")]
static START: extern "C" fn() = start;
