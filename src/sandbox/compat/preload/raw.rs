//! Numbers of system calls, strings, and the functions of libc that ours stand before.

use core::arch::global_asm;
use core::sync::atomic::{AtomicUsize, Ordering};

pub use crate::freestanding::{answer, call, last_error};

pub const SYS_OPEN: usize = 2;
pub const SYS_CLOSE: usize = 3;
pub const SYS_WRITE: usize = 1;
pub const SYS_GETPID: usize = 39;
pub const SYS_EXECVE: usize = 59;
pub const SYS_FCNTL: usize = 72;
pub const SYS_RMDIR: usize = 84;
pub const SYS_UNLINK: usize = 87;
pub const SYS_GETDENTS64: usize = 217;
pub const SYS_NEWFSTATAT: usize = 262;
pub const SYS_UNLINKAT: usize = 263;
pub const SYS_RENAMEAT2: usize = 316;
pub const SYS_EXECVEAT: usize = 322;

pub const ENOENT: isize = -2;
pub const EACCES: isize = -13;
pub const EPERM: isize = -1;
pub const EEXIST: isize = -17;
pub const EISDIR: isize = -21;

pub const AT_FDCWD: usize = -100_isize as usize;
pub const O_RDWR: usize = 2;
pub const O_CREAT: usize = 0o100;
pub const O_EXCL: usize = 0o200;
pub const O_NONBLOCK: usize = 0o4000;
pub const O_DIRECTORY: usize = 0o200_000;
pub const O_NOFOLLOW: usize = 0o400_000;
pub const O_CLOEXEC: usize = 0o2_000_000;
pub const RENAME_NOREPLACE: usize = 1;

/// The length of a C string.
///
/// # Safety
/// `text` ends with a zero byte.
pub unsafe fn length(text: *const u8) -> usize {
    let mut length = 0;
    // SAFETY: stops at the zero byte.
    while unsafe { *text.add(length) } != 0 {
        length += 1;
    }
    length
}

/// A C string without its zero byte.
///
/// # Safety
/// `text` ends with a zero byte and lives as long as the slice is used.
pub unsafe fn bytes<'a>(text: *const u8) -> &'a [u8] {
    // SAFETY: as promised.
    unsafe { core::slice::from_raw_parts(text, length(text)) }
}

/// A path that is put together; room for the longest name of a file below a short directory.
pub struct Path {
    bytes: [u8; 512],
    used: usize,
}

impl Path {
    pub fn new(start: &[u8]) -> Path {
        let mut path = Path { bytes: [0; 512], used: 0 };
        path.push(start);
        path
    }

    /// What does not fit is left out: every caller knows that it fits.
    pub fn push(&mut self, more: &[u8]) {
        for byte in more {
            if self.used + 1 < self.bytes.len() {
                self.bytes[self.used] = *byte;
                self.used += 1;
            }
        }
    }

    pub fn push_number(&mut self, mut number: usize) {
        let mut digits = [0; 20];
        let mut at = digits.len();
        loop {
            at -= 1;
            digits[at] = b'0' + (number % 10) as u8;
            number /= 10;
            if number == 0 {
                break;
            }
        }
        self.push(&digits[at..]);
    }

    pub fn as_ptr(&self) -> *const u8 {
        self.bytes.as_ptr()
    }
}

// Weak: with a glibc older than 2.34 these are in libraries that a program need not have loaded.
global_asm!(
    ".weak dlsym",
    ".weak sem_init",
    ".type condor_criu_dlsym, @function",
    "condor_criu_dlsym: mov rax, [rip + dlsym@GOTPCREL]",
    "ret",
    ".type condor_criu_sem_init, @function",
    "condor_criu_sem_init: mov rax, [rip + sem_init@GOTPCREL]",
    "ret",
);

unsafe extern "C" {
    // The address of the function, or 0.
    safe fn condor_criu_dlsym() -> usize;
    safe fn condor_criu_sem_init() -> usize;
}

/// A function of libc that ours stands before.
#[derive(Clone, Copy)]
pub enum Function {
    SemOpen,
    SemUnlink,
    ShmUnlink,
    Execvp,
    Execvpe,
    PosixSpawn,
    PosixSpawnp,
}

const NAMES: [&core::ffi::CStr; 7] =
    [c"sem_open", c"sem_unlink", c"shm_unlink", c"execvp", c"execvpe", c"posix_spawn", c"posix_spawnp"];
static FOUND: [AtomicUsize; 7] = [const { AtomicUsize::new(0) }; 7];

/// Looks for all of them.
pub fn find_all() {
    for at in 0..NAMES.len() {
        look(at);
    }
}

fn look(at: usize) -> usize {
    let dlsym = condor_criu_dlsym();
    if dlsym == 0 {
        return 0;
    }
    // SAFETY: dlsym(3) of this process's libc; RTLD_NEXT is -1 in glibc and musl.
    let found = unsafe {
        let dlsym: unsafe extern "C" fn(usize, *const u8) -> usize = core::mem::transmute(dlsym);
        dlsym(usize::MAX, NAMES[at].as_ptr().cast())
    };
    FOUND[at].store(found, Ordering::Relaxed);
    found
}

/// Where it is; 0 if it cannot be found.
pub fn real(function: Function) -> usize {
    let at = function as usize;
    match FOUND[at].load(Ordering::Relaxed) {
        0 => look(at),
        found => found,
    }
}

/// A semaphore's content as libc makes one that processes share; its first 32 bytes are the semaphore. None if libc has
/// no sem_init.
pub fn new_semaphore(value: u32) -> Option<[u64; 4]> {
    let mut content = [0; 4];
    let sem_init = condor_criu_sem_init();
    if sem_init == 0 {
        return None;
    }
    // SAFETY: sem_init(3) writes a sem_t, which has 32 bytes on x86-64 in glibc and musl.
    let result = unsafe {
        let sem_init: unsafe extern "C" fn(*mut u64, i32, u32) -> i32 = core::mem::transmute(sem_init);
        sem_init(content.as_mut_ptr(), 1, value)
    };
    (result == 0).then_some(content)
}
