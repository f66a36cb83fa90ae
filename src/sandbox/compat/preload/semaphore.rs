//! Named semaphores. libc makes a file under a name that it removes after it has linked the file to the real one: its
//! mapping then is one of a deleted file for ever. Here the file is made whole first and renamed, and libc opens what
//! exists.

use super::hide;
use super::raw::{self, Function, Path, call};

/// SEM_FAILED
const FAILED: *mut u8 = core::ptr::null_mut();
/// SEM_VALUE_MAX
const VALUE_MAX: u32 = i32::MAX as u32;
/// Bytes of a sem_t.
const SIZE: usize = 32;
/// libc opens what it has made again, here and in every process that uses it.
const OWN_ACCESS: u32 = 0o600;

type SemOpen = unsafe extern "C" fn(*const u8, i32, ...) -> *mut u8;

/// sem_open(3). The last two arguments are there only with O_CREAT.
///
/// # Safety
/// As for libc's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sem_open(name: *const u8, flags: i32, mode: u32, value: u32) -> *mut u8 {
    let real = raw::real(Function::SemOpen);
    if real == 0 {
        raw::answer(-38); // ENOSYS; only with a libc older than 2.34 and no libdl
        return FAILED;
    }
    // SAFETY: libc's function of this type.
    let real: SemOpen = unsafe { core::mem::transmute(real) };
    let create = raw::O_CREAT as i32;
    let exclusive = flags & raw::O_EXCL as i32 != 0;
    let ours = flags & create != 0 && value <= VALUE_MAX && mode & OWN_ACCESS == OWN_ACCESS;
    // SAFETY: of the caller, here and below.
    let path = if ours { unsafe { hide::path_of(b"sem.", name) } } else { None };
    let Some(path) = path else { return unsafe { real(name, flags, mode, value) } };
    loop {
        if !exclusive {
            // SAFETY: as above.
            let opened = unsafe { real(name, flags & !create) };
            if opened != FAILED || raw::last_error() != raw::ENOENT {
                return opened;
            }
        }
        match make(&path, mode, value) {
            0 => {}
            raw::EEXIST if !exclusive => continue,
            raw::EEXIST => {
                raw::answer(raw::EEXIST);
                return FAILED;
            }
            // Whatever it is, libc says it in its own way.
            // SAFETY: as above.
            _ => return unsafe { real(name, flags, mode, value) },
        }
        // SAFETY: as above.
        let opened = unsafe { real(name, flags & !(create | raw::O_EXCL as i32)) };
        // Somebody may have removed it in between: then it is made again.
        if opened != FAILED || raw::last_error() != raw::ENOENT {
            return opened;
        }
    }
}

/// Makes the file of a semaphore; the raw answer.
fn make(path: &Path, mode: u32, value: u32) -> isize {
    let Some(content) = raw::new_semaphore(value) else { return raw::ENOENT };
    let draft = hide::fresh(b"new.");
    let from = draft.as_ptr() as usize;
    let how = raw::O_RDWR | raw::O_CREAT | raw::O_EXCL | raw::O_NOFOLLOW | raw::O_CLOEXEC;
    // SAFETY: C strings and a buffer of ours, and a descriptor of our own.
    unsafe {
        let file = call(raw::SYS_OPEN, [from, how, mode as usize & 0o777, 0, 0]);
        if file < 0 {
            // Not EEXIST: that would be taken for the semaphore itself.
            return raw::ENOENT;
        }
        let written = call(raw::SYS_WRITE, [file as usize, content.as_ptr() as usize, SIZE, 0, 0]);
        let to = path.as_ptr() as usize;
        let made = match written == SIZE as isize {
            true => call(raw::SYS_RENAMEAT2, [raw::AT_FDCWD, from, raw::AT_FDCWD, to, raw::RENAME_NOREPLACE]),
            false => raw::ENOENT,
        };
        if made != 0 {
            call(raw::SYS_UNLINK, [from, 0, 0, 0, 0]);
        }
        // Open until now, so that nobody takes the draft for one that is not used any more.
        call(raw::SYS_CLOSE, [file as usize, 0, 0, 0, 0]);
        made
    }
}
