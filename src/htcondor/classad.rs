//! The ads that a starter writes into the scratch directory: "old" ClassAd text, one `Name = expression` a line.
//!
//! Only literals are read (strings, integers, reals, booleans). An expression is kept as text and answers to none of
//! the typed questions: whoever needs its value has HTCondor evaluate it.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

/// Bytes; job ads are a few KiB. More than this is not an ad, and reading it would only cost memory.
const AD_MAX: u64 = 16 * 1024 * 1024;

/// An ad: attribute names (in lower case, as HTCondor does not tell cases apart) and their expressions as text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClassAd {
    attributes: BTreeMap<String, (String, String)>,
}

impl ClassAd {
    /// Reads the file at `path`.
    pub fn read(path: &Path) -> io::Result<ClassAd> {
        let mut bytes = Vec::new();
        io::Read::read_to_end(&mut io::Read::take(std::fs::File::open(path)?, AD_MAX), &mut bytes)?;
        Ok(ClassAd::parse(&String::from_utf8_lossy(&bytes)))
    }

    /// Takes every line of the form `Name = expression`; others are comments or noise and are passed over.
    pub fn parse(text: &str) -> ClassAd {
        let mut attributes = BTreeMap::new();
        for line in text.lines() {
            let Some((name, expression)) = line.split_once('=') else { continue };
            let name = name.trim();
            let is_name = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
                && name.chars().next().is_some_and(|c| !c.is_ascii_digit());
            if is_name {
                attributes.insert(name.to_ascii_lowercase(), (name.to_owned(), expression.trim().to_owned()));
            }
        }
        ClassAd { attributes }
    }

    /// The expression as text.
    pub fn expression(&self, name: &str) -> Option<&str> {
        self.attributes.get(&name.to_ascii_lowercase()).map(|(_, expression)| expression.as_str())
    }

    /// A string literal.
    pub fn string(&self, name: &str) -> Option<String> {
        let inner = self.expression(name)?.strip_prefix('"')?.strip_suffix('"')?;
        let mut text = String::with_capacity(inner.len());
        let mut characters = inner.chars();
        while let Some(c) = characters.next() {
            match c {
                // A quote inside would mean that this is an expression of several strings.
                '"' => return None,
                '\\' => match characters.next() {
                    Some('n') => text.push('\n'),
                    Some('t') => text.push('\t'),
                    Some(other) => text.push(other),
                    None => return None,
                },
                other => text.push(other),
            }
        }
        Some(text)
    }

    /// An integer literal.
    pub fn integer(&self, name: &str) -> Option<i64> {
        self.expression(name)?.parse().ok()
    }

    /// An integer or real literal.
    pub fn number(&self, name: &str) -> Option<f64> {
        self.expression(name)?.parse().ok().filter(|number: &f64| number.is_finite())
    }

    /// `true` or `false`.
    pub fn boolean(&self, name: &str) -> Option<bool> {
        match self.expression(name)?.to_ascii_lowercase().as_str() {
            "true" => Some(true),
            "false" => Some(false),
            _ => None,
        }
    }

    /// A literal of any type as plain text: what a setting is made of.
    pub fn literal(&self, name: &str) -> Option<String> {
        self.string(name)
            .or_else(|| self.number(name).and_then(|_| self.expression(name).map(str::to_owned)))
            .or_else(|| self.boolean(name).map(|value| value.to_string()))
    }

    /// Attribute names as they were written.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.attributes.values().map(|(name, _)| name.as_str())
    }
}

/// A string literal of one line, cut off before it has `limit` bytes.
pub fn quoted(text: &str, limit: usize) -> String {
    let mut literal = String::from("\"");
    for c in text.chars() {
        let next = match c {
            '"' | '\\' => format!("\\{c}"),
            c if c.is_control() => " ".to_owned(),
            c => c.to_string(),
        };
        if literal.len() + next.len() >= limit {
            break;
        }
        literal.push_str(&next);
    }
    literal + "\""
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_are_read_and_expressions_are_not_taken_for_them() {
        let ad = ClassAd::parse(concat!(
            "SuccessCheckpointExitCode = 85\n",
            "Arguments = \"-n \\\"a b\\\" c\\\\d\"\n",
            "WantFTOnCheckpoint = TRUE\n",
            "Requirements = (TARGET.Machine =!= \"x\") && true\n",
            "CriuInterval = \"1h\"\n",
            "Load = 0.25\n",
            "Two = \"a\" + \"b\"\n",
            "# comment = 1\nno equals sign\n",
        ));
        assert_eq!(ad.integer("successcheckpointexitcode"), Some(85));
        assert_eq!(ad.string("Arguments").as_deref(), Some("-n \"a b\" c\\d"));
        assert_eq!(ad.boolean("WantFTOnCheckpoint"), Some(true));
        assert_eq!(ad.integer("Requirements"), None);
        assert_eq!(ad.string("Two"), None);
        assert_eq!(ad.number("Load"), Some(0.25));
        assert_eq!(ad.literal("CriuInterval").as_deref(), Some("1h"));
        assert_eq!(ad.literal("Load").as_deref(), Some("0.25"));
        assert_eq!(ad.names().count(), 7);
    }

    #[test]
    fn hostile_text_is_no_reason_to_panic() {
        for text in ["=", "= = =", "a=\"", "a=\"\\", "\0=\u{fffd}", "é = 1", "9a = 1"] {
            let ad = ClassAd::parse(text);
            for name in ["a", "", "é"] {
                let _ = (ad.string(name), ad.integer(name), ad.literal(name));
            }
        }
    }
}
