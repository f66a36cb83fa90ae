//! Owners of what CRIU makes anew at a restore: deleted files that are open, and unix sockets with a name.
//!
//! The sandbox knows one user and one group. A file that is made in a directory with setgid of another group is of that
//! group, which the sandbox shows as 65534. CRIU would give the new file this group, which the kernel refuses, on every
//! host. So each gets the sandbox's.
//!
//! And owners of terminals: one that was opened as `/dev/tty` has the owner of that file, the host's root, which the
//! sandbox does not know either. The terminal itself is made anew and the sandbox's; so CRIU is not told of another
//! owner.

use super::images::{ImageError, entries, number_in};
use super::wire::{Field, Value, WireError, fields, put_bytes, put_number};

/// Two magic numbers and the length of the first message.
const HEAD: usize = 12;
/// Second number of the image of open files.
const FILES: u32 = 0x5630_3138;
/// file_entry → unix_sk_entry → file_perms_entry → user, group
const SOCKET: [u64; 2] = [16, 13];
const OF_SOCKET: [u64; 2] = [2, 3];
/// Second number of the image of terminals, and of each: user, group.
const TERMINALS: u32 = 0x5945_3036;
const OF_TERMINAL: [u64; 2] = [14, 15];
/// ghost_file_entry → user, group
const OF_GHOST: [u64; 2] = [1, 2];

/// The user and the group of the sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// uid
    pub user: u32,
    /// gid
    pub group: u32,
}

/// Whether this is the image of a deleted file.
pub fn is_ghost(name: &str) -> bool {
    name.starts_with("ghost-file-")
}

/// The image of terminals.
pub const TERMINAL_IMAGE: &str = "tty-info.img";

impl Owner {
    /// The image of terminals, in which no other owner is named.
    pub fn of_terminals(self, image: &[u8]) -> Result<Vec<u8>, ImageError> {
        let message = |source| ImageError::Message { name: TERMINAL_IMAGE.into(), source };
        let mut out = image.get(..8).unwrap_or_default().to_vec();
        for entry in entries(TERMINAL_IMAGE, TERMINALS, image)? {
            let entry = self.unless_other(entry).map_err(message)?;
            let length = u32::try_from(entry.len()).map_err(|_| ImageError::Short { name: TERMINAL_IMAGE.into() })?;
            out.extend(length.to_le_bytes());
            out.extend(entry);
        }
        Ok(out)
    }

    fn unless_other(self, terminal: &[u8]) -> Result<Vec<u8>, WireError> {
        let [user, group] = OF_TERMINAL.map(|number| number_in(terminal, number));
        if (user?, group?) == (self.user.into(), self.group.into()) {
            return Ok(terminal.to_vec());
        }
        let mut out = Vec::with_capacity(terminal.len());
        for field in fields(terminal) {
            let field = field?;
            if !OF_TERMINAL.contains(&field.number) {
                out.extend_from_slice(field.raw);
            }
        }
        Ok(out)
    }

    /// The begin of the image of a deleted file, with this owner. What has another form stays as it is: CRIU will judge
    /// it.
    pub fn of_ghost(self, begin: &[u8]) -> Vec<u8> {
        let changed = || {
            let (head, rest) = begin.split_at_checked(HEAD)?;
            let length = usize::try_from(u32::from_le_bytes(head.get(8..)?.try_into().ok()?)).ok()?;
            let (entry, content) = rest.split_at_checked(length)?;
            let entry = self.replace(entry, OF_GHOST).ok()?;
            Some([head.get(..8)?, &u32::try_from(entry.len()).ok()?.to_le_bytes(), &entry, content].concat())
        };
        changed().unwrap_or_else(|| begin.to_vec())
    }

    /// The image of open files, in which each socket with a name has this owner.
    pub fn of_sockets(self, name: &str, image: &[u8]) -> Result<Vec<u8>, ImageError> {
        let message = |source| ImageError::Message { name: name.into(), source };
        let mut out = image.get(..8).unwrap_or_default().to_vec();
        for entry in entries(name, FILES, image)? {
            let entry = inside(entry, &SOCKET, &|permissions| self.replace(permissions, OF_SOCKET)).map_err(message)?;
            let length = u32::try_from(entry.len()).map_err(|_| ImageError::Short { name: name.into() })?;
            out.extend(length.to_le_bytes());
            out.extend(entry);
        }
        Ok(out)
    }

    fn replace(self, message: &[u8], [user, group]: [u64; 2]) -> Result<Vec<u8>, WireError> {
        let mut out = Vec::with_capacity(message.len() + 8);
        for field in fields(message) {
            match field? {
                Field { number, value: Value::Number(_), .. } if number == user => {
                    put_number(user, self.user.into(), &mut out)
                }
                Field { number, value: Value::Number(_), .. } if number == group => {
                    put_number(group, self.group.into(), &mut out);
                }
                other => out.extend_from_slice(other.raw),
            }
        }
        Ok(out)
    }
}

/// What makes another message of a message.
type Change<'a> = dyn Fn(&[u8]) -> Result<Vec<u8>, WireError> + 'a;

/// The message with `change` applied to the message that this way of fields leads to.
fn inside(message: &[u8], way: &[u64], change: &Change<'_>) -> Result<Vec<u8>, WireError> {
    let Some((next, rest)) = way.split_first() else { return change(message) };
    let mut out = Vec::with_capacity(message.len() + 8);
    for field in fields(message) {
        let field = field?;
        match field.value {
            Value::Bytes(inner) if field.number == *next => put_bytes(*next, &inside(inner, rest, change)?, &mut out),
            _ => out.extend_from_slice(field.raw),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(numbers: &[(u64, u64)]) -> Vec<u8> {
        let mut out = Vec::new();
        for (field, number) in numbers {
            put_number(*field, *number, &mut out);
        }
        out
    }

    fn image(kind: u32, entry: &[u8]) -> Vec<u8> {
        let head = [0x5456_4319_u32, kind, entry.len() as u32].map(u32::to_le_bytes);
        [&head.concat(), entry].concat()
    }

    #[test]
    fn what_criu_makes_anew_belongs_to_the_sandbox() {
        let owner = Owner { user: 1000, group: 100 };
        let ghost = |group| {
            [image(0x5258_3605, &message(&[(1, 1000), (2, group), (3, 0o100_644)])), b"content".to_vec()].concat()
        };
        assert_eq!(owner.of_ghost(&ghost(65534)), ghost(100));
        let file = |group| {
            let (mut socket, mut entry) = (message(&[(1, 7)]), message(&[(1, 9), (2, 4)]));
            put_bytes(13, &message(&[(1, 0o755), (2, 1000), (3, group)]), &mut socket);
            put_bytes(16, &socket, &mut entry);
            image(FILES, &entry)
        };
        assert_eq!(owner.of_sockets("files.img", &file(65534)).unwrap(), file(100));
    }

    #[test]
    fn a_terminal_has_no_other_owner_than_the_sandbox_s() {
        let owner = Owner { user: 1000, group: 100 };
        let terminal = |owner: &[(u64, u64)]| image(TERMINALS, &message(&[&[(1, 7), (5, 2)], owner].concat()));
        let own = terminal(&[(14, 1000), (15, 100)]);
        assert_eq!(owner.of_terminals(&own).unwrap(), own);
        assert_eq!(owner.of_terminals(&terminal(&[(14, 65534), (15, 65534)])).unwrap(), terminal(&[]));
    }

    #[test]
    fn what_is_no_such_image_stays_as_it_is() {
        let owner = Owner { user: 1, group: 1 };
        for bad in [&b""[..], b"short", &[0xff; 40], &image(0x5258_3605, &[0x08])] {
            assert_eq!(owner.of_ghost(bad), bad);
        }
        assert!(owner.of_sockets("files.img", &[1; 20]).is_err());
    }
}
