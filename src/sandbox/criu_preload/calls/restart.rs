//! Gives a task that is let go back to the kernel as the kernel's own stop would leave it: in its system call, which is
//! to go on.

use super::table::{self, Call, NEVER, Timeout};
use super::{ERESTART_RESTARTBLOCK, ERESTARTNOHAND, ERESTARTNOINTR, ERESTARTSYS, SECOND, now, waits_for_ever};
use crate::freestanding::call;
use crate::trace::trace;

const SYS_WAIT4: usize = 61;
const SYS_KILL: usize = 62;

const PTRACE_PEEKDATA: u32 = 2;
const PTRACE_POKEDATA: u32 = 5;
const PTRACE_CONT: u32 = 7;
const PTRACE_SYSCALL: u32 = 24;
const PTRACE_GETREGSET: u32 = 0x4204;
const PTRACE_SETREGSET: u32 = 0x4205;
const PTRACE_INTERRUPT: u32 = 0x4207;
const PTRACE_GETSIGMASK: u32 = 0x420a;
const PTRACE_SETSIGMASK: u32 = 0x420b;
const NT_PRSTATUS: usize = 1;
const WALL: usize = 0x4000_0000;
const SIGTRAP: i32 = 5;
/// A stop at a system call, which criu asks for with PTRACE_O_TRACESYSGOOD.
const AT_CALL: i32 = SIGTRAP | 0x80;
const PTRACE_EVENT_STOP: i32 = 128;

/// `syscall`, of which the bytes are 0f 05.
const INSTRUCTION: u64 = 0x050f;
const INSTRUCTION_BYTES: u64 = 2;
/// What lies below the stack pointer and is the program's, by the x86-64 ABI.
const RED_ZONE: u64 = 128;
/// Bytes below it; the kernel's own signal frames would be here.
const BELOW: u64 = 64;

/// struct user_regs_struct of x86-64.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Registers {
    pub saved: [u64; 7],
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub ax: u64,
    pub cx: u64,
    pub dx: u64,
    pub si: u64,
    pub di: u64,
    pub orig_ax: u64,
    pub ip: u64,
    pub cs: u64,
    pub flags: u64,
    pub sp: u64,
    pub rest: [u64; 7],
}

/// struct user_regs_struct32.
#[repr(C)]
struct Registers32 {
    first: [i32; 6],
    ax: i32,
    segments: [i32; 4],
    orig_ax: i32,
    rest: [i32; 5],
}

/// restart_syscall(2) of i386.
const RESTART_SYSCALL_32: i32 = 0;

/// struct iovec
#[repr(C)]
pub struct Vector {
    base: usize,
    length: usize,
}

impl Registers {
    /// What criu has read into this struct iovec, if it is registers of x86-64. In those of i386 a call that has a
    /// restart block is made again from its begin: its time is not looked at.
    ///
    /// # Safety
    /// criu's, and the kernel has filled it.
    pub unsafe fn read_into(vector: usize) -> Option<&'static mut Registers> {
        // SAFETY: of the caller.
        let vector = unsafe { &*(vector as *const Vector) };
        if vector.length == size_of::<Registers32>() && vector.base != 0 {
            // SAFETY: of the caller; criu keeps it aligned.
            let registers = unsafe { &mut *(vector.base as *mut Registers32) };
            if i64::from(registers.ax) == ERESTART_RESTARTBLOCK && registers.orig_ax > RESTART_SYSCALL_32 {
                registers.ax = ERESTARTNOINTR as i32;
            }
        }
        if vector.length != size_of::<Registers>() || vector.base == 0 {
            return None;
        }
        // SAFETY: of the caller; criu keeps it aligned.
        Some(unsafe { &mut *(vector.base as *mut Registers) })
    }
}

/// A task that criu holds.
struct Held(i32);

impl Held {
    fn ask(&self, request: u32, address: usize, data: usize) -> Result<isize, isize> {
        // SAFETY: what is read and written here lives until the call returns.
        unsafe { trace(request, self.0, address, data) }
    }

    fn registers(&self) -> Option<Registers> {
        let mut registers = Registers::default();
        let length = size_of::<Registers>();
        let vector = Vector { base: &raw mut registers as usize, length };
        self.ask(PTRACE_GETREGSET, NT_PRSTATUS, &raw const vector as usize).ok()?;
        (vector.length == length).then_some(registers)
    }

    fn set(&self, registers: &Registers) -> Option<()> {
        let vector = Vector { base: &raw const *registers as usize, length: size_of::<Registers>() };
        self.ask(PTRACE_SETREGSET, NT_PRSTATUS, &raw const vector as usize).ok().map(drop)
    }

    fn peek(&self, at: u64) -> Option<u64> {
        self.ask(PTRACE_PEEKDATA, at as usize, 0).ok().map(|word| word as u64)
    }

    fn poke(&self, at: u64, words: [u64; 2]) -> Option<()> {
        self.ask(PTRACE_POKEDATA, at as usize, words[0] as usize).ok()?;
        self.ask(PTRACE_POKEDATA, at as usize + 8, words[1] as usize).ok().map(drop)
    }

    /// Until its next stop.
    fn next_stop(&self, request: u32) -> Stop {
        if self.ask(request, 0, 0).is_err() {
            return Stop::Gone;
        }
        let mut status = 0_i32;
        loop {
            // SAFETY: the kernel writes an int.
            match unsafe { call(SYS_WAIT4, [self.0 as usize, &raw mut status as usize, WALL, 0, 0]) } {
                -4 => {}
                ..0 => return Stop::Gone,
                _ => break,
            }
        }
        let signal = status >> 8 & 0xff;
        match (status & 0xff, status >> 16, signal) {
            (0x7f, PTRACE_EVENT_STOP, _) => Stop::Trap,
            (0x7f, _, AT_CALL) => Stop::Call,
            (0x7f, _, _) => Stop::Signal(signal as usize),
            _ => Stop::Gone,
        }
    }
}

/// Why a task has stopped.
#[derive(PartialEq)]
enum Stop {
    /// By PTRACE_INTERRUPT, or in a group.
    Trap,
    /// Before or after a system call.
    Call,
    /// This signal comes.
    Signal(usize),
    /// It has ended.
    Gone,
}

/// A task is about to be detached: returns the signal to let it go with, 0 in most cases. `always` if the registers are
/// criu's own in any case. `work` is called before it is changed.
pub fn let_go(tid: i32, always: bool, work: impl FnOnce()) -> usize {
    let Some(slot) = table::find(tid) else { return 0 };
    let task = Held(tid);
    if !(slot.changed || always) {
        // It is where the kernel stopped it, which goes on with it but for these.
        if let Some(found) = task.registers().filter(waits_for_ever) {
            let _ = task.set(&Registers { ax: ERESTARTNOHAND as u64, ..found });
        }
        return 0;
    }
    if !slot.fresh {
        return 0;
    }
    slot.fresh = false;
    go_on(&task, &slot.call, work).unwrap_or(0)
}

fn go_on(task: &Held, call: &Call, work: impl FnOnce()) -> Option<usize> {
    let found = task.registers()?;
    let at = call.ip.wrapping_sub(INSTRUCTION_BYTES);
    let again = found.ip == at && found.ax as i64 == call.number;
    let code = [ERESTARTSYS, ERESTARTNOINTR, ERESTARTNOHAND, ERESTART_RESTARTBLOCK].contains(&(found.ax as i64));
    let inside = found.ip == call.ip && found.orig_ax as i64 == call.number && code;
    if !(again || inside) || found.sp != call.sp || task.peek(at)? & 0xffff != INSTRUCTION {
        return None;
    }
    // As after any stop of the kernel's, and as criu would leave it.
    let inside = Registers { ip: call.ip, ax: call.code as u64, orig_ax: call.number as u64, ..found };
    let again = Registers { ip: at, ax: call.number as u64, orig_ax: u64::MAX, ..found };
    let mut mask = 0_u64;
    task.ask(PTRACE_GETSIGMASK, 8, &raw mut mask as usize).ok()?;
    work();
    let all = u64::MAX;
    task.ask(PTRACE_SETSIGMASK, 8, &raw const all as usize).ok()?;
    let signal = if call.code != ERESTART_RESTARTBLOCK {
        stop_inside(task, &inside, &again)
    } else if call.has_block() {
        begin_again(task, call, &inside, &again)
    } else {
        None
    };
    let _ = task.ask(PTRACE_SETSIGMASK, 8, &raw const mask as usize);
    signal
}

/// The kernel looks at what a call has answered only after a stop for a signal.
fn stop_inside(task: &Held, inside: &Registers, again: &Registers) -> Option<usize> {
    task.set(again)?;
    task.ask(PTRACE_INTERRUPT, 0, 0).ok()?;
    match task.next_stop(PTRACE_CONT) {
        Stop::Trap => task.set(inside).map(|()| 0),
        Stop::Signal(signal) => Some(signal),
        Stop::Call | Stop::Gone => None,
    }
}

/// Has the call begun with the time that is left, and interrupted at once.
fn begin_again(task: &Held, record: &Call, inside: &Registers, again: &Registers) -> Option<usize> {
    let mut first = *again;
    let scratch = (record.sp - RED_ZONE - BELOW) & !15;
    let mut kept = None;
    if record.end != NEVER {
        let left = record.end.saturating_sub(now()).max(0);
        match record.timeout() {
            // poll(2) would rather be late than early.
            Timeout::Milliseconds(_) => first.dx = (left as u64).div_ceil(1_000_000),
            Timeout::Time { argument, .. } => {
                kept = Some([task.peek(scratch)?, task.peek(scratch + 8)?]);
                if task.poke(scratch, [(left / SECOND) as u64, (left % SECOND) as u64]).is_none() {
                    let _ = kept.map(|words| task.poke(scratch, words));
                    return None;
                }
                match argument {
                    0 => first.di = scratch,
                    2 => first.dx = scratch,
                    _ => first.r10 = scratch,
                }
            }
            _ => {}
        }
    }
    let mut stop = match task.set(&first) {
        Some(()) => task.next_stop(PTRACE_SYSCALL),
        None => Stop::Gone,
    };
    // No other signal than SIGSTOP comes to a task that blocks all. It is sent again at the end.
    let mut stopped = None;
    if let Stop::Signal(signal) = stop {
        stopped = Some(signal);
        stop = task.next_stop(PTRACE_SYSCALL);
    }
    let begun = stop == Stop::Call;
    if begun {
        let _ = task.ask(PTRACE_INTERRUPT, 0, 0);
        stop = task.next_stop(PTRACE_CONT);
    }
    let answer = task.registers().map(|registers| registers.ax);
    if let Some(words) = kept {
        let _ = task.poke(scratch, words);
    }
    if let Some(signal) = stopped {
        // SAFETY: touches no memory.
        unsafe { call(SYS_KILL, [task.0 as usize, signal, 0, 0, 0]) };
    }
    match (stop, answer) {
        // In most cases it is to go on; it may also be over.
        (Stop::Trap, Some(ax)) if begun => task.set(&Registers { ax, ..*inside }).map(|()| 0),
        (Stop::Signal(signal), _) => task.set(again).map(|()| signal),
        _ => task.set(again).map(|()| 0),
    }
}
