//! Member names: relative paths of any bytes, as Linux has them, kept readable in the JSON index.
//!
//! A name comes from an archive that may have been made by anyone, and ends as a path on a disk. So the one check of
//! what a name may be lives here, and both sides use it.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde::ser::{SerializeMap, Serializer};
use serde::{Deserialize, Serialize};

/// Longest name in bytes. A path may be longer than PATH_MAX: it is then opened in steps.
pub const MAX_NAME: usize = 256 << 10;

/// A path as stored in the index: a JSON string where it is UTF-8, and `{"hex": "…"}` where it is not.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(OsString);

impl Name {
    /// Takes any path; [`Name::check`] says whether a member may bear it.
    pub fn new(path: impl AsRef<OsStr>) -> Self {
        Self(path.as_ref().to_os_string())
    }

    /// The name as a path.
    pub fn as_path(&self) -> &Path {
        Path::new(&self.0)
    }

    /// The name's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// Says what forbids this as the name of a member: it must be relative, without empty, `.` or `..` components.
    pub fn check(&self) -> Result<(), &'static str> {
        let bytes = self.as_bytes();
        if bytes.is_empty() {
            return Err("the name is empty");
        }
        if bytes.len() > MAX_NAME {
            return Err("the name is longer than 256 KiB");
        }
        if bytes.contains(&0) {
            return Err("the name contains a zero byte");
        }
        for part in bytes.split(|b| *b == b'/') {
            match part {
                b"" => return Err("the name is absolute or has an empty component"),
                b"." | b".." => return Err("the name has a . or .. component"),
                _ => {}
            }
        }
        Ok(())
    }

    /// The rest of the name below `prefix` (a folder without a slash at its end; empty for everything).
    pub fn below(&self, prefix: &[u8]) -> Option<&[u8]> {
        if prefix.is_empty() {
            return Some(self.as_bytes());
        }
        let rest = self.as_bytes().strip_prefix(prefix)?;
        match rest {
            [b'/', rest @ ..] if !rest.is_empty() => Some(rest),
            _ => None,
        }
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.display().fmt(f)
    }
}

impl AsRef<OsStr> for Name {
    fn as_ref(&self) -> &OsStr {
        &self.0
    }
}

impl Serialize for Name {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.to_str() {
            Some(text) => serializer.serialize_str(text),
            None => {
                let mut map = serializer.serialize_map(Some(1))?;
                map.serialize_entry("hex", &to_hex(self.as_bytes()))?;
                map.end()
            }
        }
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameVisitor;
        impl<'de> Visitor<'de> for NameVisitor {
            type Value = Name;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or {\"hex\": string}")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Name, E> {
                Ok(Name(OsString::from(text)))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Name, A::Error> {
                let Some((key, value)) = map.next_entry::<String, String>()? else {
                    return Err(de::Error::missing_field("hex"));
                };
                if key != "hex" {
                    return Err(de::Error::unknown_field(&key, &["hex"]));
                }
                let bytes = from_hex(&value).ok_or_else(|| de::Error::custom("a name is not hexadecimal"))?;
                Ok(Name(OsString::from_vec(bytes)))
            }
        }
        deserializer.deserialize_any(NameVisitor)
    }
}

/// Lower-case hexadecimal.
pub(crate) fn to_hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes.iter().flat_map(|b| [DIGITS[usize::from(b >> 4)], DIGITS[usize::from(b & 15)]]).map(char::from).collect()
}

/// The bytes that [`to_hex`] wrote; `None` for anything else.
pub(crate) fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |c: u8| match c {
        b'0'..=b'9' => Some(c - b'0'),
        b'a'..=b'f' => Some(c - b'a' + 10),
        _ => None,
    };
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    pairs.iter().map(|[hi, lo]| Some(digit(*hi)? << 4 | digit(*lo)?)).collect()
}

/// A path in JSON, as [`Name`] writes it: text where it is UTF-8, and `{"hex": "…"}` where it is not.
pub mod bytes {
    use std::path::PathBuf;

    use super::Name;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    /// As a [`Name`].
    pub fn serialize<S: Serializer>(path: &PathBuf, serializer: S) -> Result<S::Ok, S::Error> {
        Name::new(path).serialize(serializer)
    }

    /// As a [`Name`].
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
        Ok(Name::deserialize(deserializer)?.as_path().to_path_buf())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_lead_out_are_refused() {
        for bad in ["", "/etc/passwd", "../x", "a/../b", "a//b", "a/", "./a", "a/.", "a\0b"] {
            assert!(Name::new(bad).check().is_err(), "{bad:?}");
        }
        for good in ["a", "work/a b", "work/...", "work/.hidden", "images/pages-1.img/00000000"] {
            assert_eq!(Name::new(good).check(), Ok(()), "{good:?}");
        }
        assert!(Name::new("x".repeat(MAX_NAME + 1)).check().is_err());
    }

    #[test]
    fn any_bytes_travel_through_json() {
        for bytes in [&b"plain"[..], "zwölf".as_bytes(), b"\xff\xfe", b"new\nline", b"quote\""] {
            let name = Name(OsString::from_vec(bytes.to_vec()));
            let json = serde_json::to_string(&name).unwrap();
            assert_eq!(serde_json::from_str::<Name>(&json).unwrap(), name, "{json}");
        }
        assert!(serde_json::from_str::<Name>("{\"hex\":\"0\"}").is_err());
        assert!(serde_json::from_str::<Name>("{\"hex\":\"0G\"}").is_err());
        assert!(serde_json::from_str::<Name>("{}").is_err());
        assert!(serde_json::from_str::<Name>("7").is_err());
    }

    #[test]
    fn below_is_by_whole_components() {
        let name = Name::new("work/a/b");
        assert_eq!(name.below(b"work"), Some(&b"a/b"[..]));
        assert_eq!(name.below(b"work/a"), Some(&b"b"[..]));
        assert_eq!(name.below(b"wor"), None);
        assert_eq!(name.below(b"work/a/b"), None);
        assert_eq!(name.below(b""), Some(&b"work/a/b"[..]));
    }
}
