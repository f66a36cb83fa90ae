//! Settings that are one of a few words. The help lists the words, an error names them, and a reader takes no other:
//! all from one declaration, that of clap's [`ValueEnum`].

use std::marker::PhantomData;

use clap::builder::{PossibleValue, StringValueParser, TypedValueParser};
use clap::{Arg, Command, ValueEnum};

use crate::sandbox;

/// Which network the program has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Network {
    /// Private for MPI, else the host's
    Auto,
    /// The host's: the outside is reachable
    Host,
    /// Loopback only: connections inside the job are carried
    Private,
}

impl Network {
    /// `None` means as the program needs it.
    pub(super) fn chosen(self) -> Option<sandbox::Network> {
        match self {
            Network::Auto => None,
            Network::Host => Some(sandbox::Network::Host),
            Network::Private => Some(sandbox::Network::Private),
        }
    }
}

/// What is done with a checkpoint of another user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Foreign {
    /// End with 125
    Refuse,
    /// Run it as you
    Restore,
}

/// What is written to the log, by the names and numbers that `tracing` has for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogLevel {
    /// What went wrong
    #[value(alias = "1")]
    Error,
    /// Also what is in the way, or would be lost
    #[value(alias = "2")]
    Warn,
    /// Also what was done
    #[value(alias = "3")]
    Info,
    /// Also why
    #[value(alias = "4")]
    Debug,
    /// Everything
    #[value(alias = "5")]
    Trace,
}

impl From<LogLevel> for tracing::Level {
    fn from(level: LogLevel) -> tracing::Level {
        match level {
            LogLevel::Error => tracing::Level::ERROR,
            LogLevel::Warn => tracing::Level::WARN,
            LogLevel::Info => tracing::Level::INFO,
            LogLevel::Debug => tracing::Level::DEBUG,
            LogLevel::Trace => tracing::Level::TRACE,
        }
    }
}

/// The value that this word names.
pub(super) fn word<T: ValueEnum>(text: &str) -> Result<T, String> {
    T::from_str(text, false).map_err(|_| none_of::<T>())
}

/// The same for a word in small letters or capitals.
pub(super) fn word_in_any_case<T: ValueEnum>(text: &str) -> Result<T, String> {
    T::from_str(text, true).map_err(|_| none_of::<T>())
}

fn none_of<T: ValueEnum>() -> String {
    let quoted =
        T::value_variants().iter().filter_map(T::to_possible_value).map(|word| format!("{:?}", word.get_name()));
    let quoted: Vec<String> = quoted.collect();
    match quoted.as_slice() {
        [one, other] => format!("neither {one} nor {other}"),
        [all @ .., last] => format!("none of {} and {last}", all.join(", ")),
        [] => String::new(),
    }
}

/// A flag whose value is one of the words. It takes any other one too, which is refused with the settings of other
/// sources: by then condor-criu knows the job, and can keep HTCondor from holding it for a missing file.
#[derive(Clone)]
pub struct OneOf<T>(PhantomData<T>);

impl<T> OneOf<T> {
    /// For a flag of the command line.
    pub const FLAG: OneOf<T> = OneOf(PhantomData);
}

impl<T: ValueEnum + Send + Sync + 'static> TypedValueParser for OneOf<T> {
    type Value = String;

    fn parse_ref(&self, command: &Command, flag: Option<&Arg>, text: &std::ffi::OsStr) -> Result<String, clap::Error> {
        StringValueParser::new().parse_ref(command, flag, text)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(T::value_variants().iter().filter_map(T::to_possible_value)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::baseline::Baseline;
    use crate::host::privilege::Mode;
    use crate::journal::LogFormat;
    use crate::sandbox::compat::Compat;
    use crate::settings::{KEYS, OnUnrestorable};

    /// The meaning of a setting, which an error shows, names every word that it takes, and no other.
    fn same<T: ValueEnum>(key: &str) {
        let (_, meaning) = KEYS.iter().find(|(known, _)| *known == key).unwrap();
        let named: Vec<&str> = meaning.split('"').skip(1).step_by(2).collect();
        let words: Vec<PossibleValue> = T::value_variants().iter().filter_map(T::to_possible_value).collect();
        assert_eq!(named, words.iter().map(PossibleValue::get_name).collect::<Vec<_>>(), "{key}");
        assert!(words.iter().all(|word| word.get_help().is_some()), "{key}");
        for word in &words {
            assert!(self::word::<T>(word.get_name()).is_ok(), "{key}");
        }
    }

    #[test]
    fn what_a_setting_is_said_to_take_is_what_it_takes() {
        same::<Mode>("mode");
        same::<Network>("network");
        same::<Compat>("compat");
        same::<Baseline>("cpu_baseline");
        same::<OnUnrestorable>("on_unrestorable");
        same::<Foreign>("foreign");
        same::<LogFormat>("log_format");
        same::<LogLevel>("log_level");
    }

    #[test]
    fn another_word_is_refused_with_all_that_there_are() {
        assert_eq!(word::<Foreign>("x").unwrap_err(), "neither \"refuse\" nor \"restore\"");
        assert_eq!(word::<Network>("Host").unwrap_err(), "none of \"auto\", \"host\" and \"private\"");
        for (text, level) in [("INFO", LogLevel::Info), ("5", LogLevel::Trace), ("warn", LogLevel::Warn)] {
            assert_eq!(word_in_any_case::<LogLevel>(text), Ok(level));
        }
    }
}
