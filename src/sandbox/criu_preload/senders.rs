//! Datagrams of unix sockets that wait to be read. CRIU saves what is in them, and not the name of the socket that sent
//! them. A program that reads them after a restore, and answers the sender, would have nobody to answer. A dump that
//! meets one fails, and may be tried again: they do not wait for long.

use crate::freestanding::{answer, call};

const SYS_RECVMSG: usize = 47;
const SYS_GETSOCKOPT: usize = 55;

const MSG_PEEK: i32 = 2;
const SOL_SOCKET: usize = 1;
const SO_TYPE: usize = 3;
const SO_DOMAIN: usize = 39;
const AF_UNIX: i32 = 1;
const SOCK_DGRAM: i32 = 2;
/// What criu's log says of the failure: `criu::log` knows it.
const EADDRNOTAVAIL: isize = -99;
/// struct sockaddr_un, the family of which every sender has.
const ADDRESS: usize = 110;
const FAMILY: u32 = 2;

/// struct msghdr
#[repr(C)]
pub struct Message {
    name: usize,
    name_length: u32,
    parts: usize,
    part_count: usize,
    control: usize,
    control_length: usize,
    flags: i32,
}

/// recvmsg(2), by which criu looks at what waits in a socket.
///
/// # Safety
/// As for recvmsg(2).
// SAFETY: this is libc's symbol, with libc's arguments.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn recvmsg(socket: i32, message: *mut Message, flags: i32) -> isize {
    let receive = |message: *mut Message| {
        // SAFETY: of the caller.
        answer(unsafe { call(SYS_RECVMSG, [socket as usize, message as usize, flags as usize, 0, 0]) })
    };
    // SAFETY: of the caller, who has it for itself alone.
    let Some(asked) = (unsafe { message.as_mut() }) else { return receive(message) };
    if flags & MSG_PEEK == 0 || asked.name != 0 || !is_datagram(socket) {
        return receive(asked);
    }
    // The address lives until the call returns.
    let mut address = [0_u8; ADDRESS];
    (asked.name, asked.name_length) = (address.as_mut_ptr() as usize, ADDRESS as u32);
    let result = receive(asked);
    let has_a_name = result >= 0 && asked.name_length > FAMILY;
    (asked.name, asked.name_length) = (0, 0);
    if has_a_name { answer(EADDRNOTAVAIL) } else { result }
}

fn is_datagram(socket: i32) -> bool {
    let is = |option: usize, expected: i32| {
        let (mut value, mut length) = (0_i32, 4_u32);
        let place = [socket as usize, SOL_SOCKET, option, &raw mut value as usize, &raw mut length as usize];
        // SAFETY: the kernel writes an int and its length.
        unsafe { call(SYS_GETSOCKOPT, place) == 0 && value == expected }
    };
    is(SO_DOMAIN, AF_UNIX) && is(SO_TYPE, SOCK_DGRAM)
}
