//! The two messages of the protocol, in bytes.

use super::StreamError;
use crate::criu::wire::{Value, fields, put_bytes, put_number};

/// Longest message that is accepted, in bytes: a file name of 255 bytes with its tag, and room for fields that a newer
/// criu may add.
pub const MAX_MESSAGE: u32 = 1024;
/// Longest name of an image: NAME_MAX of Linux.
const MAX_NAME: usize = 255;

/// The name that a request asks for. Fields that we do not know are passed over.
pub fn parse_request(message: &[u8]) -> Result<String, StreamError> {
    let mut name = None;
    for field in fields(message) {
        let field = field.map_err(|e| StreamError::protocol(e.to_string()))?;
        match (field.number, field.value) {
            (1, Value::Bytes(bytes)) => name = Some(bytes),
            (1, _) => return Err(StreamError::protocol("the name in a request is no string")),
            _ => {}
        }
    }
    let name = name.ok_or_else(|| StreamError::protocol("a request without a name"))?;
    let good = |b: &u8| b.is_ascii_graphic() && *b != b'/';
    if name.is_empty() || name.len() > MAX_NAME || name == b"." || name == b".." || !name.iter().all(good) {
        return Err(StreamError::protocol(format!("{:?} is no name of an image", String::from_utf8_lossy(name))));
    }
    Ok(String::from_utf8_lossy(name).into_owned())
}

/// A reply with its length.
pub fn reply(exists: bool) -> Vec<u8> {
    let mut message = Vec::with_capacity(2);
    put_number(1, u64::from(exists), &mut message);
    with_length(&message)
}

/// A request with its length; what criu sends, for tests.
pub fn request(name: &str) -> Vec<u8> {
    let mut message = Vec::with_capacity(name.len() + 2);
    put_bytes(1, name.as_bytes(), &mut message);
    with_length(&message)
}

fn with_length(message: &[u8]) -> Vec<u8> {
    let mut out = (message.len() as u32).to_le_bytes().to_vec();
    out.extend_from_slice(message);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_byte_for_byte_those_of_criu() {
        assert_eq!(request("core-300.img"), b"\x0e\0\0\0\x0a\x0ccore-300.img");
        assert_eq!(reply(true), [2, 0, 0, 0, 8, 1]);
        assert_eq!(reply(false), [2, 0, 0, 0, 8, 0]);
    }

    #[test]
    fn requests_are_checked() {
        let parse = |name: &str| parse_request(&request(name)[4..]);
        assert_eq!(parse("core-300.img").unwrap(), "core-300.img");
        for bad in ["", ".", "..", "../x", "a/b", "a\nb", "a b", "ä", &"x".repeat(256)] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
        assert!(parse_request(b"").is_err());
        assert!(parse_request(b"\x08\x01").is_err());
        assert!(parse_request(b"\x0a\x7f").is_err());
        // A field that we do not know.
        assert_eq!(parse_request(b"\x0a\x01a\x10\x05").unwrap(), "a");
    }
}
