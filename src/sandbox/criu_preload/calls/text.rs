//! The records as text, and what is read in `/proc`.
//!
//! One line for each task, all in hexadecimal: its id, the call's number, what it answered, where it was made, the
//! stack pointer, when its time is over, and its six arguments. `unknown` at the end means that the call begins again,
//! because nothing tells what was left of its time. A line that begins with `-` is of an earlier dump in the same life.
//! A later line for the same task stands.

use core::ffi::CStr;

use super::table::{self, Call};
use crate::freestanding::call;

const SYS_READ: usize = 0;
const SYS_WRITE: usize = 1;
const SYS_OPEN: usize = 2;
const SYS_CLOSE: usize = 3;
const SYS_UNLINK: usize = 87;
const O_CLOEXEC: usize = 0o2_000_000;
const O_WRONLY_CREAT_APPEND: usize = 0o2101;
const EINTR: isize = -4;

/// In a place that only criu and the init write to; `helpers/mod.rs` names it too.
const FILE: &CStr = c"/.condor-criu/run/calls";
/// Bytes; twelve numbers and what is between them.
const LINE: usize = 256;

/// A path that ends with a zero byte.
pub struct Path {
    bytes: [u8; 64],
    length: usize,
}

impl Path {
    /// `/proc/TID/task/TID/NAME`; of this very process for 0.
    pub fn of_task(tid: i32, name: &[u8]) -> Path {
        let mut path = Path { bytes: [0; 64], length: 0 };
        if tid == 0 {
            path.add(b"/proc/thread-self/");
        } else {
            path.add(b"/proc/");
            path.add_number(tid);
            path.add(b"/task/");
            path.add_number(tid);
            path.add(b"/");
        }
        path.add(name);
        path
    }

    fn add(&mut self, text: &[u8]) {
        // The last byte stays zero.
        for byte in text {
            if self.length + 1 < self.bytes.len()
                && let Some(to) = self.bytes.get_mut(self.length)
            {
                *to = *byte;
                self.length += 1;
            }
        }
    }

    fn add_number(&mut self, number: i32) {
        let (mut rest, mut digits, mut first) = (number.unsigned_abs(), [0_u8; 10], 10);
        loop {
            first -= 1;
            if let Some(to) = digits.get_mut(first) {
                *to = b'0' + (rest % 10) as u8;
            }
            rest /= 10;
            if rest == 0 || first == 0 {
                break;
            }
        }
        self.add(digits.get(first..).unwrap_or_default());
    }
}

/// What of a file fits into the buffer; nothing if it cannot be read.
pub fn read<'a>(path: &Path, buffer: &'a mut [u8]) -> &'a [u8] {
    // SAFETY: a path that ends with a zero byte.
    let file = unsafe { call(SYS_OPEN, [path.bytes.as_ptr() as usize, O_CLOEXEC, 0, 0, 0]) };
    if file < 0 {
        return &[];
    }
    let got = read_more(file, buffer);
    close(file);
    buffer.get(..got).unwrap_or_default()
}

fn read_more(file: isize, buffer: &mut [u8]) -> usize {
    loop {
        // SAFETY: the kernel fills no more than the buffer.
        match unsafe { call(SYS_READ, [file as usize, buffer.as_mut_ptr() as usize, buffer.len(), 0, 0]) } {
            EINTR => {}
            got => return got.max(0) as usize,
        }
    }
}

fn close(file: isize) {
    // SAFETY: opened by the caller.
    unsafe { call(SYS_CLOSE, [file as usize, 0, 0, 0, 0]) };
}

/// What follows the colon in the line of this name, without blanks before it: `se.exec_start    :   8417713.089651`.
pub fn field<'a>(text: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let line = text.split(|byte| *byte == b'\n').find(|line| {
        line.strip_prefix(name).is_some_and(|rest| rest.first().is_some_and(|byte| *byte == b' ' || *byte == b':'))
    })?;
    let colon = line.iter().position(|byte| *byte == b':')?;
    Some(line.get(colon + 1..)?.trim_ascii())
}

/// A number, decimal or with 0x; ends at the first byte that is no digit.
pub fn number(text: &[u8]) -> u64 {
    match text.strip_prefix(b"0x") {
        Some(text) => hexadecimal(text),
        None => {
            let digits = text.iter().take_while(|byte| byte.is_ascii_digit());
            digits.fold(0, |sum: u64, byte| sum.wrapping_mul(10).wrapping_add(u64::from(byte - b'0')))
        }
    }
}

fn hexadecimal(text: &[u8]) -> u64 {
    let digits = text.iter().map_while(|byte| (*byte as char).to_digit(16));
    digits.fold(0, |sum, digit| sum << 4 | u64::from(digit))
}

/// Reads the file into the table.
pub fn load() {
    // SAFETY: a path that ends with a zero byte.
    let file = unsafe { call(SYS_OPEN, [FILE.as_ptr() as usize, O_CLOEXEC, 0, 0, 0]) };
    if file < 0 {
        return;
    }
    let (mut line, mut length) = ([0_u8; LINE], 0_usize);
    let mut buffer = [0_u8; 4096];
    loop {
        let got = read_more(file, &mut buffer);
        for byte in buffer.iter().take(got) {
            if *byte == b'\n' {
                take(line.get(..length).unwrap_or_default());
                length = 0;
            } else if let Some(to) = line.get_mut(length) {
                *to = *byte;
                length += 1;
            }
        }
        if got == 0 {
            break;
        }
    }
    close(file);
}

fn take(line: &[u8]) {
    let (fresh, line) = match line.strip_prefix(b"-") {
        Some(line) => (false, line),
        None => (true, line),
    };
    let mut words = line.split(|byte| *byte == b' ');
    let mut next = || words.next().map(hexadecimal);
    let (Some(tid), Some(number), Some(code), Some(ip), Some(sp), Some(end)) =
        (next(), next(), next(), next(), next(), next())
    else {
        return;
    };
    let mut args = [0; 6];
    for arg in &mut args {
        let Some(value) = next() else { return };
        *arg = value;
    }
    if let Some(slot) = table::slot(tid as i32) {
        slot.call = Call { number: number as i64, code: code as i64, args, ip, sp, end: end as i64, whole: false };
        slot.fresh = fresh;
    }
}

/// Begins the file of a dump with what it may still need of those before it.
pub fn begin(now: i64) {
    // SAFETY: a path that ends with a zero byte.
    unsafe { call(SYS_UNLINK, [FILE.as_ptr() as usize, 0, 0, 0, 0]) };
    table::each(|tid, slot| {
        slot.fresh = false;
        if slot.call.end > now {
            write(b"-", tid, &slot.call);
        }
    });
}

/// Adds a line.
pub fn append(tid: i32, call: &Call) {
    write(b"", tid, call);
}

fn write(mark: &[u8], tid: i32, record: &Call) {
    let (mut line, mut length) = ([0_u8; LINE], 0_usize);
    let mut add = |text: &[u8]| {
        for byte in text {
            if let Some(to) = line.get_mut(length) {
                *to = *byte;
                length += 1;
            }
        }
    };
    add(mark);
    let head = [tid as u64, record.number as u64, record.code as u64, record.ip, record.sp, record.end as u64];
    for (index, number) in head.into_iter().chain(record.args).enumerate() {
        if index > 0 {
            add(b" ");
        }
        let digits = 16 - (number.leading_zeros() as usize / 4).min(15);
        for place in (0..digits).rev() {
            let digit = (number >> (place * 4) & 0xf) as u8;
            add(&[if digit < 10 { b'0' + digit } else { b'a' + digit - 10 }]);
        }
    }
    if record.whole {
        add(b" unknown");
    }
    add(b"\n");
    let how = O_WRONLY_CREAT_APPEND | O_CLOEXEC;
    // SAFETY: a path that ends with a zero byte; the kernel reads the line.
    unsafe {
        let file = call(SYS_OPEN, [FILE.as_ptr() as usize, how, 0o600, 0, 0]);
        if file >= 0 {
            call(SYS_WRITE, [file as usize, line.as_ptr() as usize, length, 0, 0]);
            close(file);
        }
    }
}
