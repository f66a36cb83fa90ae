//! A symbolic link that is itself watched (IN_DONT_FOLLOW). criu opens the path of a watch to set it again, and would
//! follow the link: the watch would be on another file, or nowhere.

use core::ffi::CStr;

use crate::freestanding::{answer, call};

const SYS_OPENAT: usize = 257;
const SYS_NEWFSTATAT: usize = 262;

const O_PATH: i32 = 0o10_000_000;
const O_NOFOLLOW: i32 = 0o400_000;
const AT_SYMLINK_NOFOLLOW: usize = 0x100;
const S_IFMT: u32 = 0o170_000;
const S_IFLNK: u32 = 0o120_000;

/// openat(2). criu opens a path below a directory with O_PATH alone for a watch, of which it knows the very inode, and
/// for processes in /proc, of which only `self` is a link.
///
/// # Safety
/// As for openat(2).
// SAFETY: this is libc's symbol. C calls it with a list of any length; the arguments are where they are without one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn openat64(directory: i32, path: *const u8, flags: i32, mode: u32) -> i32 {
    let mut flags = flags;
    // SAFETY: of the caller.
    if flags == O_PATH && directory >= 0 && unsafe { is_link(directory, path) } {
        flags |= O_NOFOLLOW;
    }
    let place = [directory as isize as usize, path as usize, flags as usize, mode as usize, 0];
    // SAFETY: of the caller.
    answer(unsafe { call(SYS_OPENAT, place) }) as i32
}

/// # Safety
/// The path is a string of C.
unsafe fn is_link(directory: i32, path: *const u8) -> bool {
    // SAFETY: of the caller.
    if unsafe { CStr::from_ptr(path.cast()) } == c"self" {
        return false;
    }
    // struct stat: st_dev, st_ino, st_nlink, and in the fourth word st_mode.
    let mut found = [0_u64; 18];
    let place = [directory as usize, path as usize, found.as_mut_ptr() as usize, AT_SYMLINK_NOFOLLOW, 0];
    // SAFETY: of the caller; the kernel writes a struct stat of 144 bytes.
    let result = unsafe { call(SYS_NEWFSTATAT, place) };
    result == 0 && found[3] as u32 & S_IFMT == S_IFLNK
}
