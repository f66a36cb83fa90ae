//! A shared object that is preloaded into criu: at the moment when every image has been written, or everything has been
//! restored, and the tasks are still held, criu waits for our word. `mod.rs` beside this file says what for.
//!
//! criu runs its action scripts in a child, with execvp(3). Where the script is our socket, that means here: connect to
//! it and wait. It has no libc; `build.rs` compiles it with the same rustc.
#![no_std]
#![allow(unsafe_code)]

#[path = "../freestanding.rs"]
mod freestanding;

use core::ffi::CStr;

use freestanding::call;

const SYS_READ: usize = 0;
const SYS_CLOSE: usize = 3;
const SYS_SOCKET: usize = 41;
const SYS_CONNECT: usize = 42;
const SYS_UNLINK: usize = 87;
const SYS_GETPPID: usize = 110;
const SYS_PRCTL: usize = 157;
const SYS_EXIT_GROUP: usize = 231;

const AF_UNIX: u16 = 1;
/// SOCK_STREAM | SOCK_CLOEXEC
const STREAM_CLOEXEC: usize = 0o2_000_001;
const PR_SET_PDEATHSIG: usize = 1;
const SIGKILL: usize = 9;
const EINTR: isize = -4;

/// What the script ends with after a dump: the tasks go on. criu then ends with it, too.
const GO_ON: usize = 77;
/// The end of the script's path, `criu::command::HELD`.
const NAME: &[u8] = b"/held.sock";
/// In a place that only criu and the init write to; see `mark_modified.rs`. While criu waits, everything has been put
/// back in the tasks.
const MARK: &CStr = c"/.condor-criu/run/modifying";

unsafe extern "C" {
    // glibc and musl both have these.
    fn getenv(name: *const u8) -> *const u8;
    fn execvpe(file: *const u8, arguments: *const *const u8, environment: *const *const u8) -> i32;
    static environ: *const *const u8;
}

/// struct sockaddr_un
#[repr(C)]
struct Address {
    family: u16,
    path: [u8; 108],
}

/// execvp(3), which criu calls in a child of its own. The action is in the environment.
///
/// # Safety
/// As for execvp(3).
// SAFETY: this is libc's symbol, with libc's arguments.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn execvp(file: *const u8, arguments: *const *const u8) -> i32 {
    // SAFETY: of the caller: a string of C.
    let path = unsafe { CStr::from_ptr(file.cast()) }.to_bytes();
    if !path.ends_with(NAME) {
        // SAFETY: of the caller; the environment is what execvp(3) takes.
        return unsafe { execvpe(file, arguments, environ) };
    }
    // SAFETY: a name that ends with a zero byte; this process has one thread.
    let action = unsafe { getenv(c"CRTOOLS_SCRIPT_ACTION".as_ptr().cast()) };
    // SAFETY: a string of C, which the environment owns.
    let action = if action.is_null() { c"" } else { unsafe { CStr::from_ptr(action.cast()) } };
    let end = match action.to_bytes() {
        b"post-dump" => GO_ON,
        // The tasks of a restore have not been let go yet.
        b"pre-resume" => 0,
        _ => exit(0),
    };
    // SAFETY: neither touches memory. If criu is killed, whoever waits at the socket is to see that.
    let parent = unsafe {
        call(SYS_PRCTL, [PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0]);
        call(SYS_GETPPID, [0; 5])
    };
    // SAFETY: a path that ends with a zero byte.
    unsafe { call(SYS_UNLINK, [MARK.as_ptr() as usize, 0, 0, 0, 0]) };
    // The sandbox's init is nobody's helper: it adopts what criu leaves.
    if parent != 1 {
        wait_at(path);
    }
    exit(end)
}

fn exit(code: usize) -> ! {
    loop {
        // SAFETY: ends the process.
        unsafe { call(SYS_EXIT_GROUP, [code, 0, 0, 0, 0]) };
    }
}

/// Returns when the other side has closed the connection, or there is none.
fn wait_at(path: &[u8]) {
    let mut address = Address { family: AF_UNIX, path: [0; 108] };
    // One byte stays zero.
    if path.len() >= address.path.len() {
        return;
    }
    for (to, from) in address.path.iter_mut().zip(path) {
        *to = *from;
    }
    // SAFETY: touches no memory.
    let socket = unsafe { call(SYS_SOCKET, [usize::from(AF_UNIX), STREAM_CLOEXEC, 0, 0, 0]) };
    if socket < 0 {
        return;
    }
    let size = size_of::<Address>();
    // SAFETY: the address lives until the call returns.
    if unsafe { call(SYS_CONNECT, [socket as usize, &raw const address as usize, size, 0, 0]) } == 0 {
        let mut byte = 0_u8;
        // SAFETY: the kernel writes one byte at most.
        while unsafe { call(SYS_READ, [socket as usize, &raw mut byte as usize, 1, 0, 0]) } == EINTR {}
    }
    // SAFETY: opened above.
    unsafe { call(SYS_CLOSE, [socket as usize, 0, 0, 0, 0]) };
}
