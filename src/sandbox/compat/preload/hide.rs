//! Names below `/dev/shm`: what is removed while a process has it open or mapped is renamed, and removed for good when
//! nobody uses it any more.
//!
//! Whether somebody does is asked of the kernel: a write lease (fcntl(2), F_SETLEASE) is given only if there is no
//! other open file of it, and a mapping holds one.

use core::sync::atomic::{AtomicUsize, Ordering};

use super::raw::{self, Function, Path, call};

const SHM: &[u8] = b"/dev/shm/";
/// `src/sandbox/compat/mod.rs` knows this name too.
const HIDDEN: &[u8] = b"/dev/shm/.condor-criu.";
/// Names that this process hides between two looks at what is not used any more.
const SWEEP: usize = 64;

const S_IFMT: u32 = 0o170_000;
const S_IFREG: u32 = 0o100_000;
const AT_SYMLINK_NOFOLLOW: usize = 0x100;
const AT_REMOVEDIR: i32 = 0x200;
const F_SETSIG: usize = 10;
const F_SETLEASE: usize = 1024;
const F_WRLCK: usize = 1;
/// Ignored by whoever has no handler: should somebody open the file in this very moment.
const SIGURG: usize = 23;

static NAMES_SO_FAR: AtomicUsize = AtomicUsize::new(0);
static HIDDEN_SO_FAR: AtomicUsize = AtomicUsize::new(0);

/// A path that can be taken for one below `/dev/shm` without looking. One that is relative is not.
fn is_below_shm(path: &[u8]) -> bool {
    path.starts_with(SHM) && !path.starts_with(HIDDEN) && !path.windows(4).any(|part| part == b"/../")
}

/// unlink(2), but a file below `/dev/shm` that is in use gets a hidden name; the raw answer.
///
/// # Safety
/// `path` is a C string or what the kernel refuses with EFAULT.
unsafe fn unlink_raw(path: *const u8) -> isize {
    // SAFETY: of the caller.
    unsafe {
        // The first byte is looked at by the kernel in any case; a null pointer is for it to refuse.
        if path.is_null() || *path != b'/' || !is_below_shm(raw::bytes(path)) {
            return call(raw::SYS_UNLINK, [path as usize, 0, 0, 0, 0]);
        }
        let mut stat = [0_u32; 36];
        let at = [raw::AT_FDCWD, path as usize, stat.as_mut_ptr() as usize, AT_SYMLINK_NOFOLLOW, 0];
        // struct stat of x86-64: st_mode is the 32-bit number at byte 24.
        if call(raw::SYS_NEWFSTATAT, at) < 0 || stat[6] & S_IFMT != S_IFREG {
            return call(raw::SYS_UNLINK, [path as usize, 0, 0, 0, 0]);
        }
        match hide(path) {
            true => {
                if HIDDEN_SO_FAR.fetch_add(1, Ordering::Relaxed) % SWEEP == 0 {
                    sweep();
                }
                0
            }
            false => call(raw::SYS_UNLINK, [path as usize, 0, 0, 0, 0]),
        }
    }
}

/// A name below `/dev/shm` that nobody has, of this process.
pub fn fresh(kind: &[u8]) -> Path {
    let mut name = Path::new(HIDDEN);
    name.push(kind);
    // SAFETY: getpid has no arguments.
    name.push_number(unsafe { call(raw::SYS_GETPID, [0; 5]) } as usize);
    name.push(b".");
    name.push_number(NAMES_SO_FAR.fetch_add(1, Ordering::Relaxed));
    name
}

/// Renames `path`; false if that cannot be.
///
/// # Safety
/// `path` is a C string.
unsafe fn hide(path: *const u8) -> bool {
    loop {
        let name = fresh(b"");
        let to = name.as_ptr() as usize;
        // SAFETY: two C strings.
        match unsafe {
            call(raw::SYS_RENAMEAT2, [raw::AT_FDCWD, path as usize, raw::AT_FDCWD, to, raw::RENAME_NOREPLACE])
        } {
            0 => {
                // SAFETY: a C string of ours.
                unsafe { remove_if_unused(name.as_ptr()) };
                return true;
            }
            // Of a process that had this pid before.
            raw::EEXIST => {}
            _ => return false,
        }
    }
}

/// # Safety
/// `path` is a C string.
unsafe fn remove_if_unused(path: *const u8) {
    let how = raw::O_NOFOLLOW | raw::O_CLOEXEC | raw::O_NONBLOCK;
    // SAFETY: a C string, and a descriptor of our own.
    unsafe {
        let file = call(raw::SYS_OPEN, [path as usize, how, 0, 0, 0]);
        if file < 0 {
            return;
        }
        let file = file as usize;
        call(raw::SYS_FCNTL, [file, F_SETSIG, SIGURG, 0, 0]);
        if call(raw::SYS_FCNTL, [file, F_SETLEASE, F_WRLCK, 0, 0]) == 0 {
            call(raw::SYS_UNLINK, [path as usize, 0, 0, 0, 0]);
        }
        call(raw::SYS_CLOSE, [file, 0, 0, 0, 0]);
    }
}

/// Removes what is hidden and not used any more, by this process or another.
fn sweep() {
    let mut buffer = [0_u64; 512];
    let how = raw::O_DIRECTORY | raw::O_CLOEXEC;
    // SAFETY: a C string, a descriptor of our own, and a buffer whose size is told.
    unsafe {
        let directory = call(raw::SYS_OPEN, [c"/dev/shm".as_ptr() as usize, how, 0, 0, 0]);
        if directory < 0 {
            return;
        }
        let start = buffer.as_mut_ptr().cast::<u8>();
        loop {
            let got = call(
                raw::SYS_GETDENTS64,
                [directory as usize, start as usize, core::mem::size_of_val(&buffer), 0, 0],
            );
            if got <= 0 {
                break;
            }
            let mut at = 0;
            while at < got as usize {
                // struct linux_dirent64: u64 inode, u64 offset, u16 length of this entry, u8 type, the name.
                let entry = start.add(at);
                at += usize::from(entry.add(16).cast::<u16>().read_unaligned()).max(1);
                let name = raw::bytes(entry.add(19));
                if name.starts_with(&HIDDEN[SHM.len()..]) {
                    let mut path = Path::new(SHM);
                    path.push(name);
                    remove_if_unused(path.as_ptr());
                }
            }
        }
        call(raw::SYS_CLOSE, [directory as usize, 0, 0, 0, 0]);
    }
}

/// unlink(2)
///
/// # Safety
/// As for libc's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn unlink(path: *const u8) -> i32 {
    // SAFETY: of the caller.
    raw::answer(unsafe { unlink_raw(path) }) as i32
}

/// unlinkat(2); an absolute path makes the directory not matter.
///
/// # Safety
/// As for libc's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn unlinkat(directory: i32, path: *const u8, flags: i32) -> i32 {
    // SAFETY: of the caller.
    let raw = unsafe {
        if flags & AT_REMOVEDIR == 0 && !path.is_null() && *path == b'/' {
            unlink_raw(path)
        } else {
            call(raw::SYS_UNLINKAT, [directory as usize, path as usize, flags as usize, 0, 0])
        }
    };
    raw::answer(raw) as i32
}

/// remove(3)
///
/// # Safety
/// As for libc's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn remove(path: *const u8) -> i32 {
    // SAFETY: of the caller.
    let raw = unsafe {
        match unlink_raw(path) {
            // unlink(2): Linux says EISDIR for a directory.
            raw::EISDIR => call(raw::SYS_RMDIR, [path as usize, 0, 0, 0, 0]),
            raw => raw,
        }
    };
    raw::answer(raw) as i32
}

/// The file below `/dev/shm` of a shared memory or semaphore's name; None for a name that libc is to judge.
///
/// # Safety
/// `name` is a C string.
pub unsafe fn path_of(prefix: &[u8], name: *const u8) -> Option<Path> {
    if name.is_null() {
        return None;
    }
    // SAFETY: of the caller.
    let mut name = unsafe { raw::bytes(name) };
    while let [b'/', rest @ ..] = name {
        name = rest;
    }
    // NAME_MAX is 255.
    if name.is_empty() || name.contains(&b'/') || name == b"." || name == b".." || name.len() + prefix.len() > 255 {
        return None;
    }
    let mut path = Path::new(SHM);
    path.push(prefix);
    path.push(name);
    Some(path)
}

/// # Safety
/// `name` is a C string.
unsafe fn unlink_named(prefix: &[u8], name: *const u8, libcs: Function) -> i32 {
    // SAFETY: of the caller; libc's function of the same type.
    unsafe {
        match (path_of(prefix, name), raw::real(libcs)) {
            (Some(path), _) => raw::answer(match unlink_raw(path.as_ptr()) {
                // shm_unlink(3), sem_unlink(3)
                raw::EPERM => raw::EACCES,
                raw => raw,
            }) as i32,
            (None, 0) => raw::answer(raw::ENOENT) as i32,
            (None, real) => {
                let real: unsafe extern "C" fn(*const u8) -> i32 = core::mem::transmute(real);
                real(name)
            }
        }
    }
}

/// shm_unlink(3)
///
/// # Safety
/// As for libc's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn shm_unlink(name: *const u8) -> i32 {
    // SAFETY: of the caller.
    unsafe { unlink_named(b"", name, Function::ShmUnlink) }
}

/// sem_unlink(3)
///
/// # Safety
/// As for libc's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sem_unlink(name: *const u8) -> i32 {
    // SAFETY: of the caller.
    unsafe { unlink_named(b"sem.", name, Function::SemUnlink) }
}
