//! A shared object that is preloaded into criu: stat(2) of a file on an overlay answers with the overlay's device,
//! which is what `/proc/PID/maps` and `/proc/self/mountinfo` name. `mod.rs` beside this file says what for.
//!
//! The file's mount is asked of statx(2), the mount's device is read from `/proc/self/mountinfo`. Everything that is
//! not on an overlay answers as always, and so does everything when either of the two cannot be asked. Nothing is kept
//! from one call to the next: criu makes mounts, and the kernel gives their numbers again. It has no libc; `build.rs`
//! compiles it with the same rustc.
#![no_std]
#![allow(unsafe_code)]

#[path = "../freestanding.rs"]
mod freestanding;

use freestanding::{answer, call};

const SYS_READ: usize = 0;
const SYS_CLOSE: usize = 3;
const SYS_FSTAT: usize = 5;
const SYS_OPEN: usize = 2;
const SYS_NEWFSTATAT: usize = 262;
const SYS_STATX: usize = 332;

const AT_FDCWD: i32 = -100;
const AT_EMPTY_PATH: i32 = 0x1000;
const O_CLOEXEC: usize = 0o2_000_000;
const EINTR: isize = -4;
/// statx(2), from Linux 5.8 on: which mount the file is on.
const STATX_MNT_ID: u32 = 0x1000;

/// struct stat of x86-64; only the device is touched.
#[repr(C)]
pub struct Stat {
    device: u64,
    rest: [u64; 17],
}

/// struct statx, of which two fields are wanted: the mask at its begin and the mount's number at byte 144.
#[repr(C, align(8))]
struct Statx {
    bytes: [u8; 256],
}

impl Statx {
    fn mount(&self) -> Option<u64> {
        let (mask, _) = self.bytes.split_first_chunk::<4>()?;
        let (id, _) = self.bytes.get(144..)?.split_first_chunk::<8>()?;
        (u32::from_le_bytes(*mask) & STATX_MNT_ID != 0).then_some(u64::from_le_bytes(*id))
    }
}

/// fstatat(2) with the overlay's device. criu is built for large files, which gives these functions their names.
///
/// # Safety
/// As for fstatat(2).
// SAFETY: this is libc's symbol, with libc's arguments.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fstatat64(directory: i32, path: *const u8, stat: *mut Stat, flags: i32) -> i32 {
    // SAFETY: of the caller; what the kernel has filled may be read and written.
    unsafe {
        let raw = call(SYS_NEWFSTATAT, [directory as usize, path as usize, stat as usize, flags as usize, 0]);
        if raw == 0 {
            correct(directory, path, flags, &mut *stat);
        }
        answer(raw) as i32
    }
}

/// stat(2) with the overlay's device.
///
/// # Safety
/// As for stat(2).
// SAFETY: as above.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn stat64(path: *const u8, stat: *mut Stat) -> i32 {
    // SAFETY: of the caller.
    unsafe { fstatat64(AT_FDCWD, path, stat, 0) }
}

/// fstat(2) with the overlay's device.
///
/// # Safety
/// As for fstat(2).
// SAFETY: as above.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fstat64(file: i32, stat: *mut Stat) -> i32 {
    // SAFETY: of the caller; what the kernel has filled may be read and written.
    unsafe {
        let raw = call(SYS_FSTAT, [file as usize, stat as usize, 0, 0, 0]);
        if raw == 0 {
            correct(file, c"".as_ptr().cast(), AT_EMPTY_PATH, &mut *stat);
        }
        answer(raw) as i32
    }
}

/// Gives `stat` the device of the overlay that the file is on, if it is on one.
///
/// # Safety
/// The first three are what fstatat(2) has just taken.
unsafe fn correct(directory: i32, path: *const u8, flags: i32, stat: &mut Stat) {
    // An overlay and its layers have devices without a driver, whose major number is 0; all others are right already.
    if stat.device >> 8 & 0xfff != 0 {
        return;
    }
    let mut statx = Statx { bytes: [0; 256] };
    let at = [directory as usize, path as usize, flags as usize, STATX_MNT_ID as usize, &raw mut statx as usize];
    // SAFETY: of the caller; the kernel fills 256 bytes.
    if unsafe { call(SYS_STATX, at) } != 0 {
        return;
    }
    if let Some(device) = statx.mount().and_then(overlay_device) {
        stat.device = device;
    }
}

/// The device of this mount if it is an overlay.
fn overlay_device(mount: u64) -> Option<u64> {
    // SAFETY: a path that ends with a zero byte.
    let file = unsafe { call(SYS_OPEN, [c"/proc/self/mountinfo".as_ptr() as usize, O_CLOEXEC, 0, 0, 0]) };
    if file < 0 {
        return None;
    }
    let mut table = Table::new(mount);
    let mut buffer = [0_u8; 4096];
    let found = loop {
        // SAFETY: the kernel fills no more than the buffer.
        let got = unsafe { call(SYS_READ, [file as usize, buffer.as_mut_ptr() as usize, buffer.len(), 0, 0]) };
        match got {
            EINTR => {}
            1.. => {
                if let Some(device) = buffer.iter().take(got as usize).find_map(|byte| table.next(*byte)) {
                    break Some(device);
                }
            }
            _ => break None,
        }
    };
    // SAFETY: opened above.
    unsafe { call(SYS_CLOSE, [file as usize, 0, 0, 0, 0]) };
    found
}

/// Reads `/proc/self/mountinfo` byte by byte, since a line may be longer than any buffer:
/// `112 62 0:49 / / rw,nodev unbindable - overlay overlay ro,…`.
struct Table {
    wanted: u64,
    field: usize,
    /// Bytes of the field so far.
    length: usize,
    id: u64,
    major: u64,
    minor: u64,
    in_minor: bool,
    /// The field after the hyphen.
    kind: usize,
    is_overlay: bool,
}

const OVERLAY: &[u8] = b"overlay";

impl Table {
    const fn new(wanted: u64) -> Table {
        Table {
            wanted,
            field: 0,
            length: 0,
            id: 0,
            major: 0,
            minor: 0,
            in_minor: false,
            kind: usize::MAX,
            is_overlay: true,
        }
    }

    /// The device as stat(2) has it, when the line of the wanted mount has been read as far as its type.
    fn next(&mut self, byte: u8) -> Option<u64> {
        match byte {
            b'\n' => *self = Table::new(self.wanted),
            b' ' => {
                let whole = self.field == self.kind && self.is_overlay && self.length == OVERLAY.len();
                if whole && self.id == self.wanted {
                    let low = self.minor & 0xff | (self.major & 0xfff) << 8;
                    return Some(low | (self.minor & !0xff) << 12 | (self.major & !0xfff) << 32);
                }
                (self.field, self.length) = (self.field + 1, 0);
            }
            _ => {
                self.read(byte);
                self.length += 1;
            }
        }
        None
    }

    fn read(&mut self, byte: u8) {
        let add = |number: u64| number.wrapping_mul(10).wrapping_add(u64::from(byte.wrapping_sub(b'0')));
        match self.field {
            0 => self.id = add(self.id),
            2 if byte == b':' => self.in_minor = true,
            2 if self.in_minor => self.minor = add(self.minor),
            2 => self.major = add(self.major),
            // Six fields, then optional ones, then a hyphen.
            6.. if self.kind == usize::MAX && self.length == 0 && byte == b'-' => self.kind = self.field + 1,
            kind if kind == self.kind && OVERLAY.get(self.length) != Some(&byte) => self.is_overlay = false,
            _ => {}
        }
    }
}
