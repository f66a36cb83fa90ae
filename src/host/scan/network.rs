//! Established TCP connections of the payload, from /proc/PID/net/tcp and tcp6 (proc_pid_net(5)).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;

use super::Kind;

/// States of connections that have another end, in the kernel's numbers (include/net/tcp_states.h): established, both
/// SYN states, both FIN_WAITs, CLOSE_WAIT, LAST_ACK, CLOSING.
const CONNECTED: [&str; 8] = ["01", "02", "03", "04", "05", "08", "09", "0B"];

/// An address and a port, as the kernel spells them; of an IPv4 address in IPv6 only the former.
type End = String;

/// Tells which processes hold connections, by the sockets (pid, inode) of the payload. `process` is one of it, in whose
/// network they are.
pub(super) fn look(process: &Path, sockets: &[(u32, u64)], mut tell: impl FnMut(u32, Kind)) {
    let mut connections: BTreeMap<u64, (End, End)> = BTreeMap::new();
    for table in ["net/tcp", "net/tcp6"] {
        connections.extend(connected(&fs::read_to_string(process.join(table)).unwrap_or_default()));
    }
    let held: Vec<(u32, &(End, End))> =
        sockets.iter().filter_map(|(pid, inode)| Some((*pid, connections.get(inode)?))).collect();
    let ends: BTreeSet<(&End, &End)> = held.iter().map(|(_, (local, remote))| (local, remote)).collect();
    for (pid, (local, remote)) in &held {
        match ends.contains(&(remote, local)) {
            true => tell(*pid, Kind::TcpInside),
            false => tell(*pid, Kind::TcpOutside(readable(remote))),
        }
    }
}

/// The connections of a table by the inode of their socket: local and remote end.
fn connected(table: &str) -> impl Iterator<Item = (u64, (End, End))> + '_ {
    table.lines().skip(1).filter_map(|line| {
        // sl, local, remote, state, queues, timer, retransmits, uid, timeout, inode
        let fields: Vec<&str> = line.split_ascii_whitespace().take(10).collect();
        let [_, local, remote, state, .., inode] = fields.as_slice() else { return None };
        let inode = inode.parse().ok().filter(|inode| *inode != 0)?;
        CONNECTED.contains(state).then(|| (inode, (end(local), end(remote))))
    })
}

fn end(text: &str) -> End {
    /// How an IPv4 address in IPv6 begins, in words of four bytes of the host's order.
    const MAPPED: &str = "0000000000000000FFFF0000";
    text.strip_prefix(MAPPED).unwrap_or(text).to_owned()
}

fn readable(end: &End) -> String {
    let parsed = || {
        let (address, port) = end.split_once(':')?;
        let port = u16::from_str_radix(port, 16).ok()?;
        let word = |at: usize| u32::from_str_radix(address.get(at * 8..at * 8 + 8)?, 16).ok().map(u32::to_le_bytes);
        if address.len() == 8 {
            return Some(format!("{}:{port}", Ipv4Addr::from(word(0)?)));
        }
        let mut bytes = [0; 16];
        for (at, part) in bytes.chunks_exact_mut(4).enumerate() {
            part.copy_from_slice(&word(at)?);
        }
        Some(format!("[{}]:{port}", Ipv6Addr::from(bytes)))
    };
    parsed().unwrap_or_else(|| end.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("net")).unwrap();
        let line = |local: &str, remote: &str, state: &str, inode: u64| {
            format!(
                "  0: {local} {remote} {state} 00000000:00000000 00:00000000 00000000  1000        0 {inode} 1 0000 20 4 30\n"
            )
        };
        let (a, b, out) = ("0100007F:1F90", "0100007F:A000", "0A00000A:0050");
        let listening = line(a, "00000000:0000", "0A", 4);
        let table = format!("head\n{}{}{}{listening}", line(a, b, "01", 1), line(b, a, "01", 2), line(b, out, "01", 3));
        fs::write(dir.path().join("net/tcp"), table).unwrap();
        let mapped = line("0000000000000000FFFF00000100007F:0001", &format!("0000000000000000FFFF0000{out}"), "08", 5);
        fs::write(dir.path().join("net/tcp6"), format!("head\n{mapped}")).unwrap();
        let mut told = Vec::new();
        look(dir.path(), &[(300, 1), (301, 2), (301, 3), (301, 4), (302, 5)], |pid, kind| told.push((pid, kind)));
        let outside = || Kind::TcpOutside("10.0.0.10:80".into());
        assert_eq!(told, [(300, Kind::TcpInside), (301, Kind::TcpInside), (301, outside()), (302, outside())]);
        told.clear();
        look(dir.path(), &[(300, 1)], |pid, kind| told.push((pid, kind)));
        assert_eq!(told, [(300, Kind::TcpOutside("127.0.0.1:40960".into()))]);
        assert_eq!(readable(&"00000000000000000000000001000000:0016".into()), "[::1]:22");
    }
}
