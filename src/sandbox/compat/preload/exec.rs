//! A program that is started with an environment of its own gets the helper too. Only the functions that take an
//! environment, or use one that the program may have emptied, stand here; execl and its like are not among them.

use core::mem::MaybeUninit;

use super::raw::{self, Function, call};

const NAME: &[u8] = b"LD_PRELOAD=";
/// `src/sandbox/compat/mod.rs` puts it there.
const LIBRARY: &[u8] = b"/.condor-criu/compat.so";
const WHOLE: &core::ffi::CStr = c"LD_PRELOAD=/.condor-criu/compat.so";
/// Variables that there is room for; an environment with more goes as it is.
const VARIABLES: usize = 1000;
/// Bytes of a value of LD_PRELOAD that there is room for.
const VALUE: usize = 1024;
const AT_EMPTY_PATH: usize = 0x1000;

type Strings = *const *const u8;

unsafe extern "C" {
    static environ: Strings;
}

/// Room for an environment on the stack: between vfork and exec nothing may be allocated.
struct Room {
    list: MaybeUninit<[*const u8; VARIABLES + 2]>,
    value: MaybeUninit<[u8; VALUE]>,
}

impl Room {
    fn new() -> Room {
        Room { list: MaybeUninit::uninit(), value: MaybeUninit::uninit() }
    }

    /// The environment with the helper in it: the given one if it has it.
    ///
    /// # Safety
    /// `given` is null or a list of C strings that ends with a null pointer.
    unsafe fn with_helper(&mut self, given: Strings) -> Strings {
        let list = self.list.as_mut_ptr().cast::<*const u8>();
        let mut count = 0;
        let mut place = None;
        // SAFETY: of the caller; what is written is within the room.
        unsafe {
            while !given.is_null() && !(*given.add(count)).is_null() {
                let variable = *given.add(count);
                if count >= VARIABLES {
                    return given;
                }
                if starts_with(variable, NAME) {
                    if raw::bytes(variable).windows(LIBRARY.len()).any(|part| part == LIBRARY) {
                        return given;
                    }
                    place = Some(count);
                }
                list.add(count).write(variable);
                count += 1;
            }
            match place {
                None => {
                    list.add(count).write(WHOLE.as_ptr().cast());
                    count += 1;
                }
                Some(at) => {
                    let theirs = &raw::bytes(*list.add(at))[NAME.len()..];
                    let Some(joined) = self.join(theirs) else { return given };
                    list.add(at).write(joined);
                }
            }
            list.add(count).write(core::ptr::null());
        }
        list
    }

    /// The helper before what is preloaded already.
    fn join(&mut self, theirs: &[u8]) -> Option<*const u8> {
        let start = self.value.as_mut_ptr().cast::<u8>();
        let parts = [NAME, LIBRARY, b":", theirs, b"\0"];
        if parts.iter().map(|part| part.len()).sum::<usize>() > VALUE {
            return None;
        }
        let mut at = 0;
        for byte in parts.into_iter().flatten() {
            // SAFETY: the sum of the parts fits.
            unsafe { start.add(at).write(*byte) };
            at += 1;
        }
        Some(start)
    }
}

/// # Safety
/// `text` is a C string.
unsafe fn starts_with(text: *const u8, start: &[u8]) -> bool {
    // SAFETY: a zero byte is in no `start`, so that the comparison ends there.
    start.iter().enumerate().all(|(at, byte)| unsafe { *text.add(at) == *byte })
}

/// execve(2)
///
/// # Safety
/// As for libc's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn execve(path: *const u8, arguments: Strings, environment: Strings) -> i32 {
    let mut room = Room::new();
    // SAFETY: of the caller.
    unsafe {
        let environment = room.with_helper(environment);
        raw::answer(call(
            raw::SYS_EXECVE,
            [path as usize, arguments as usize, environment as usize, 0, 0],
        )) as i32
    }
}

/// execv(3)
///
/// # Safety
/// As for libc's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn execv(path: *const u8, arguments: Strings) -> i32 {
    // SAFETY: of the caller.
    unsafe { execve(path, arguments, environ) }
}

/// fexecve(3)
///
/// # Safety
/// As for libc's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fexecve(file: i32, arguments: Strings, environment: Strings) -> i32 {
    let mut room = Room::new();
    // SAFETY: of the caller.
    unsafe {
        let environment = room.with_helper(environment) as usize;
        let empty = c"".as_ptr() as usize;
        raw::answer(call(
            raw::SYS_EXECVEAT,
            [file as usize, empty, arguments as usize, environment, AT_EMPTY_PATH],
        )) as i32
    }
}

type Execvpe = unsafe extern "C" fn(*const u8, Strings, Strings) -> i32;

/// execvpe(3)
///
/// # Safety
/// As for libc's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn execvpe(file: *const u8, arguments: Strings, environment: Strings) -> i32 {
    let mut room = Room::new();
    // SAFETY: of the caller; libc's function of this type.
    unsafe {
        match raw::real(Function::Execvpe) {
            0 => execve(file, arguments, environment),
            real => {
                let real: Execvpe = core::mem::transmute(real);
                real(file, arguments, room.with_helper(environment))
            }
        }
    }
}

/// execvp(3)
///
/// # Safety
/// As for libc's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn execvp(file: *const u8, arguments: Strings) -> i32 {
    // SAFETY: of the caller.
    unsafe {
        match (raw::real(Function::Execvpe), raw::real(Function::Execvp)) {
            (0, 0) => execve(file, arguments, environ),
            (0, real) => {
                let real: unsafe extern "C" fn(*const u8, Strings) -> i32 = core::mem::transmute(real);
                real(file, arguments)
            }
            _ => execvpe(file, arguments, environ),
        }
    }
}

type Spawn = unsafe extern "C" fn(*mut i32, *const u8, *const u8, *const u8, Strings, Strings) -> i32;

/// # Safety
/// As for posix_spawn(3).
unsafe fn spawn(
    function: Function,
    pid: *mut i32,
    path: *const u8,
    actions: *const u8,
    attributes: *const u8,
    lists: (Strings, Strings),
) -> i32 {
    let mut room = Room::new();
    let real = raw::real(function);
    if real == 0 {
        return 38; // ENOSYS; dlsym is missing, see raw.rs
    }
    // SAFETY: of the caller; libc's function of this type.
    unsafe {
        let real: Spawn = core::mem::transmute(real);
        real(pid, path, actions, attributes, lists.0, room.with_helper(lists.1))
    }
}

/// posix_spawn(3)
///
/// # Safety
/// As for libc's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn posix_spawn(
    pid: *mut i32,
    path: *const u8,
    actions: *const u8,
    attributes: *const u8,
    arguments: Strings,
    environment: Strings,
) -> i32 {
    // SAFETY: of the caller.
    unsafe { spawn(Function::PosixSpawn, pid, path, actions, attributes, (arguments, environment)) }
}

/// posix_spawnp(3)
///
/// # Safety
/// As for libc's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn posix_spawnp(
    pid: *mut i32,
    file: *const u8,
    actions: *const u8,
    attributes: *const u8,
    arguments: Strings,
    environment: Strings,
) -> i32 {
    // SAFETY: of the caller.
    unsafe { spawn(Function::PosixSpawnp, pid, file, actions, attributes, (arguments, environment)) }
}
