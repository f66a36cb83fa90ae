//! The reaper: root of the process tree that CRIU dumps.
//!
//! CRIU dumps a process and its descendants. A grandchild that daemonises would be adopted by pid 1 of the sandbox,
//! which is not dumped, and would be missing from the checkpoint. This program stands between: a child subreaper that
//! adopts them. It waits for the payload's first process, whose pid is its only argument, and ends as that one ended,
//! with the same exit code or by the same signal. No signal of the payload's ends it: `kill -TERM -1` is no reason.
//!
//! The payload's stdout and stderr may be named pipes. Their ends to read from are the reaper's own descriptors 1 and
//! 2: CRIU saves what is in a pipe only if a process of the tree can read it. When the real reader has gone, the init
//! says so by a signal, and that end is closed: the payload gets EPIPE, as it would without us.
//!
//! It has no libc and no thread-local storage: 1 page of code, and nothing that depends on the processor (xsave, IFUNC)
//! or on the kernel's rseq. So it never is the reason why a checkpoint cannot move. `build.rs` compiles it with the
//! same rustc; the executable is embedded, put into the sandbox's root, and carried in every checkpoint, because CRIU
//! wants to find the same file again.
#![no_std]
#![no_main]
#![allow(unsafe_code)]

use core::arch::{asm, naked_asm};

const SYS_CLOSE: usize = 3;
const SYS_RT_SIGACTION: usize = 13;
const SYS_RT_SIGPROCMASK: usize = 14;
const SYS_GETPID: usize = 39;
const SYS_WAIT4: usize = 61;
const SYS_KILL: usize = 62;
const SYS_RT_SIGTIMEDWAIT: usize = 128;
const SYS_SETRLIMIT: usize = 160;
const SYS_EXIT_GROUP: usize = 231;

const SIGKILL: usize = 9;
const SIGCHLD: usize = 17;
const SIGSTOP: usize = 19;
const SIGNALS: usize = 64;
const SIG_IGN: usize = 1;
/// Descriptor 1 is closed at the signal after this one, 2 at the one after that. The same numbers are in
/// `sandbox/spawn.rs`.
const CLOSE: usize = 40;
/// The only process whose word counts.
const INIT: i32 = 1;
const RLIMIT_CORE: usize = 4;
const SIG_SETMASK: usize = 2;
/// Bytes of the kernel's signal set, not of libc's.
const SIGSET_BYTES: usize = 8;
/// wait for clone children of any kind, but not until one ends
const WALL_NOHANG: usize = 0x4000_0001;
/// What a shell would say of a missing child; reached only if the payload was never ours.
const EXIT_NO_CHILD: usize = 125;

/// The system call `n` with up to four arguments; the kernel's raw answer.
fn syscall(n: usize, a: usize, b: usize, c: usize, d: usize) -> isize {
    let answer: isize;
    // SAFETY: the x86-64 Linux convention; rcx and r11 are clobbered by the instruction. The callers pass pointers
    // to live locals only.
    unsafe {
        asm!("syscall", inlateout("rax") n as isize => answer, in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d,
             lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    answer
}

/// Hands the initial stack pointer to `reap`.
// SAFETY: the symbol is the ELF entry point of this freestanding program and nothing else defines it.
#[unsafe(no_mangle)]
#[unsafe(naked)]
pub extern "C" fn _start() -> ! {
    naked_asm!("mov rdi, rsp", "and rsp, -16", "call {reap}", "ud2", reap = sym reap)
}

extern "C" fn reap(stack: *const usize) -> ! {
    // SAFETY: at the entry the stack holds argc, then argc pointers to strings that end with a zero byte.
    let main = unsafe { if *stack < 2 { 0 } else { decimal(*stack.add(2) as *const u8) } };
    listen_to(&[SIGCHLD, CLOSE + 1, CLOSE + 2]);
    loop {
        reap_all(main);
        wait_for_signal();
    }
}

/// Blocks these, to wait for them, and ignores all others. A child that ends is told by SIGCHLD although that is
/// ignored by default: what is blocked is kept.
fn listen_to(wanted: &[usize]) {
    let mask = wanted.iter().fold(0_usize, |mask, signal| mask | 1 << (signal - 1));
    syscall(SYS_RT_SIGPROCMASK, SIG_SETMASK, &raw const mask as usize, 0, SIGSET_BYTES);
    // struct kernel_sigaction: handler, flags, restorer, mask
    let ignore: [usize; 4] = [SIG_IGN, 0, 0, 0];
    let mut signal = 1;
    while signal <= SIGNALS {
        if mask & 1 << (signal - 1) == 0 && signal != SIGKILL && signal != SIGSTOP {
            syscall(SYS_RT_SIGACTION, signal, ignore.as_ptr() as usize, 0, SIGSET_BYTES);
        }
        signal += 1;
    }
}

/// Waits for every child that has ended; does not return if the payload's first process is one of them.
fn reap_all(main: isize) {
    loop {
        let mut status: u32 = 0;
        let pid = syscall(SYS_WAIT4, -1_isize as usize, &raw mut status as usize, WALL_NOHANG, 0);
        if pid == main && pid > 0 {
            end_as(status)
        }
        if pid == 0 {
            return;
        }
        // ECHILD: the payload was never ours.
        if pid < 0 {
            exit(EXIT_NO_CHILD)
        }
    }
}

/// Waits for one of the signals that are blocked, and closes a descriptor if the init asks for that. Every other
/// answer, a save that interrupts it too, is a reason to look again.
fn wait_for_signal() {
    let mask = 1_usize << (SIGCHLD - 1) | 1 << CLOSE | 1 << (CLOSE + 1);
    // siginfo_t: si_pid is at byte 16.
    let mut info = [0_i32; 32];
    let got = syscall(SYS_RT_SIGTIMEDWAIT, &raw const mask as usize, info.as_mut_ptr() as usize, 0, SIGSET_BYTES);
    if got > CLOSE as isize && info[4] == INIT {
        syscall(SYS_CLOSE, got as usize - CLOSE, 0, 0, 0);
    }
}

/// The number at `text`, up to the first byte that is no digit.
///
/// # Safety
/// `text` points to a string that ends with a zero byte.
unsafe fn decimal(mut text: *const u8) -> isize {
    let mut number: isize = 0;
    // SAFETY: stops at the zero byte at the latest.
    unsafe {
        while (*text).is_ascii_digit() {
            number = number.wrapping_mul(10).wrapping_add((*text - b'0') as isize);
            text = text.add(1);
        }
    }
    number
}

/// Ends this process as the payload ended: `status` is what wait4(2) said.
fn end_as(status: u32) -> ! {
    let signal = (status & 0x7f) as usize;
    if signal == 0 {
        exit(((status >> 8) & 0xff) as usize)
    }
    // One core dump is enough, and it is the payload's.
    let no_core: [usize; 2] = [0, 0];
    syscall(SYS_SETRLIMIT, RLIMIT_CORE, no_core.as_ptr() as usize, 0, 0);
    // struct kernel_sigaction with SIG_DFL: handler, flags, restorer, mask
    let default: [usize; 4] = [0; 4];
    syscall(SYS_RT_SIGACTION, signal, default.as_ptr() as usize, 0, SIGSET_BYTES);
    let none: usize = 0;
    syscall(SYS_RT_SIGPROCMASK, SIG_SETMASK, &raw const none as usize, 0, SIGSET_BYTES);
    let me = syscall(SYS_GETPID, 0, 0, 0, 0) as usize;
    syscall(SYS_KILL, me, signal, 0, 0);
    exit(128 + signal)
}

fn exit(code: usize) -> ! {
    loop {
        syscall(SYS_EXIT_GROUP, code, 0, 0, 0);
    }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    exit(EXIT_NO_CHILD)
}
