//! The little of protobuf that is needed: fields are walked, those that matter are taken or replaced, all others are
//! kept byte for byte.
//!
//! Written by hand because a code generator would want the whole of CRIU's message definitions, and would lose the
//! fields of a newer criu when it writes a message again.

/// What is wrong with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// It ends in the middle of a field.
    #[error("a message ends in the middle of a field")]
    Short,
    /// A number has more than ten bytes.
    #[error("a number in a message is too long")]
    Number,
    /// A field number of zero, or a kind of field that does not exist.
    #[error("a field in a message is of no known kind")]
    Kind,
}

/// Kinds of fields on the wire.
const VARINT: u64 = 0;
const FIXED64: u64 = 1;
const BYTES: u64 = 2;
const FIXED32: u64 = 5;

/// The value of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// A number.
    Number(u64),
    /// A string, bytes, packed numbers, or a message.
    Bytes(&'a [u8]),
    /// A fixed-size number of 4 or 8 bytes.
    Fixed(&'a [u8]),
}

/// One field, with its bytes as they were.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field<'a> {
    /// Its number.
    pub number: u64,
    /// Its value.
    pub value: Value<'a>,
    /// Tag and value on the wire.
    pub raw: &'a [u8],
}

/// Walks the fields of a message.
pub struct Fields<'a>(&'a [u8]);

/// The fields of `message`, in their order.
pub fn fields(message: &[u8]) -> Fields<'_> {
    Fields(message)
}

impl<'a> Fields<'a> {
    fn step(&mut self) -> Result<Field<'a>, WireError> {
        let start = self.0;
        let mut rest = start;
        let tag = take_number(&mut rest)?;
        let number = tag >> 3;
        // The highest field number that protobuf knows.
        if number == 0 || number >= 1 << 29 {
            return Err(WireError::Kind);
        }
        let value = match tag & 7 {
            VARINT => Value::Number(take_number(&mut rest)?),
            FIXED64 => Value::Fixed(take(&mut rest, 8)?),
            BYTES => {
                let len = take_number(&mut rest)?;
                Value::Bytes(take(&mut rest, usize::try_from(len).map_err(|_| WireError::Short)?)?)
            }
            FIXED32 => Value::Fixed(take(&mut rest, 4)?),
            _ => return Err(WireError::Kind),
        };
        self.0 = rest;
        Ok(Field { number, value, raw: &start[..start.len() - rest.len()] })
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<Field<'a>, WireError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.step();
        if field.is_err() {
            self.0 = &[];
        }
        Some(field)
    }
}

fn take<'a>(rest: &mut &'a [u8], len: usize) -> Result<&'a [u8], WireError> {
    let (taken, left) = rest.split_at_checked(len).ok_or(WireError::Short)?;
    *rest = left;
    Ok(taken)
}

fn take_number(rest: &mut &[u8]) -> Result<u64, WireError> {
    let mut number = 0_u64;
    for place in 0..10 {
        let byte = take(rest, 1)?[0];
        // The tenth byte has room for one bit.
        if place == 9 && byte > 1 {
            return Err(WireError::Number);
        }
        number |= u64::from(byte & 0x7f) << (7 * place);
        if byte < 0x80 {
            return Ok(number);
        }
    }
    Err(WireError::Number)
}

fn put_raw_number(mut number: u64, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Appends a number as field `field`.
pub fn put_number(field: u64, number: u64, out: &mut Vec<u8>) {
    put_raw_number(field << 3 | VARINT, out);
    put_raw_number(number, out);
}

/// Appends a string, bytes or a message as field `field`.
pub fn put_bytes(field: u64, bytes: &[u8], out: &mut Vec<u8>) {
    put_raw_number(field << 3 | BYTES, out);
    put_raw_number(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_all_lengths_come_back() {
        for number in [0, 1, 127, 128, 300, u64::from(u32::MAX), u64::MAX >> 1, u64::MAX] {
            let mut bytes = Vec::new();
            put_number(15, number, &mut bytes);
            put_number(16, number, &mut bytes);
            let read: Vec<_> = fields(&bytes).map(|field| field.map(|f| (f.number, f.value))).collect();
            assert_eq!(read, [Ok((15, Value::Number(number))), Ok((16, Value::Number(number)))]);
        }
    }

    #[test]
    fn bad_messages_are_errors() {
        for (bad, error) in [
            (&[0x08][..], WireError::Short),
            (&[0x08, 0x80], WireError::Short),
            (&[0x0a, 5, 1, 2], WireError::Short),
            (&[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1], WireError::Short),
            (&[0x09, 1, 2, 3], WireError::Short),
            (&[0x0d, 1, 2, 3], WireError::Short),
            (&[0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2], WireError::Number),
            (&[0x0b], WireError::Kind),
            (&[0x0e], WireError::Kind),
            (&[0x00, 0x00], WireError::Kind),
        ] {
            let read: Vec<_> = fields(bad).collect();
            assert_eq!(read, [Err(error)], "{bad:x?}");
        }
    }
}
