//! What inotify has told a program that has not read it yet. CRIU 4.2.1 brings the watches back and drops the events,
//! with a warning in its log: whoever waits for one of them would wait for ever. A dump that meets some fails, and may
//! be tried again: they are read soon.

use core::sync::atomic::{AtomicBool, Ordering};

use crate::freestanding::{answer, call};

const SYS_READ: usize = 0;
const SYS_OPEN: usize = 2;
const SYS_CLOSE: usize = 3;
const SYS_POLL: usize = 7;
const SYS_READLINK: usize = 89;

const POLLIN: i16 = 1;
/// What criu's log says of the failure: `criu::log` knows it.
const EBUSY: isize = -16;
const O_CLOEXEC: usize = 0o2_000_000;
/// IN_ACCESS, IN_CLOSE_NOWRITE, IN_OPEN: what criu makes itself when it looks for the paths of watches.
const READS: u32 = 0x1 | 0x10 | 0x20;

/// Whether criu has come to a descriptor of inotify before: then it may have looked for paths.
static SEEN: AtomicBool = AtomicBool::new(false);

/// struct pollfd
#[repr(C)]
pub struct Poll {
    file: i32,
    events: i16,
    happened: i16,
}

/// poll(2), by which criu asks whether there is something to read.
///
/// # Safety
/// As for poll(2).
// SAFETY: this is libc's symbol, with libc's arguments.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn poll(files: *mut Poll, count: usize, timeout: i32) -> i32 {
    // SAFETY: of the caller.
    let result = unsafe { call(SYS_POLL, [files as usize, count, timeout as isize as usize, 0, 0]) };
    if count == 1 && timeout == 0 {
        // SAFETY: of the caller: there is one.
        let asked = unsafe { &*files };
        if asked.events == POLLIN && is_inotify(asked.file) {
            let first = !SEEN.swap(true, Ordering::Relaxed);
            if result > 0 && (first || !watches_for_reads(asked.file)) {
                return answer(EBUSY) as i32;
            }
        }
    }
    answer(result) as i32
}

/// `/proc/self/PLACE/FILE`, which ends with a zero byte.
fn path(place: &[u8], file: i32) -> [u8; 40] {
    let mut path = [0; 40];
    let mut digits = [0; 10];
    let mut rest = file.unsigned_abs();
    let mut count = 0;
    for digit in &mut digits {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
        count += 1;
        if rest == 0 {
            break;
        }
    }
    let words = b"/proc/self/".iter().chain(place).chain(b"/").chain(digits.iter().take(count).rev());
    for (to, from) in path.iter_mut().take(39).zip(words) {
        *to = *from;
    }
    path
}

fn is_inotify(file: i32) -> bool {
    const NAME: &[u8] = b"anon_inode:inotify";
    let mut link = [0_u8; 32];
    let path = path(b"fd", file);
    // SAFETY: a path that ends with a zero byte, and a place for as much as is said.
    let length = unsafe { call(SYS_READLINK, [path.as_ptr() as usize, link.as_mut_ptr() as usize, link.len(), 0, 0]) };
    length == NAME.len() as isize && link.starts_with(NAME)
}

/// proc_pid_fdinfo(5): `inotify wd:1 ino:2 sdev:3 mask:fff …`, one line for each watch.
fn watches_for_reads(file: i32) -> bool {
    let path = path(b"fdinfo", file);
    // SAFETY: a path that ends with a zero byte.
    let info = unsafe { call(SYS_OPEN, [path.as_ptr() as usize, O_CLOEXEC, 0, 0, 0]) };
    if info < 0 {
        return false;
    }
    const NAME: &[u8] = b" mask:";
    // How much of the name has been seen, and what of the number behind it.
    let (mut seen, mut mask, mut found) = (0, 0_u32, false);
    let mut text = [0_u8; 512];
    loop {
        // SAFETY: a place for as much as is said.
        let length = unsafe { call(SYS_READ, [info as usize, text.as_mut_ptr() as usize, text.len(), 0, 0]) };
        if length <= 0 {
            break;
        }
        for byte in text.iter().take(length as usize) {
            match NAME.get(seen) {
                Some(next) if next == byte => seen += 1,
                Some(_) => seen = usize::from(*byte == b' '),
                None => match (*byte as char).to_digit(16) {
                    Some(digit) => mask = mask << 4 | digit,
                    None => {
                        found |= mask & READS != 0;
                        (seen, mask) = (usize::from(*byte == b' '), 0);
                    }
                },
            }
        }
    }
    // SAFETY: opened above.
    unsafe { call(SYS_CLOSE, [info as usize, 0, 0, 0, 0]) };
    found
}
