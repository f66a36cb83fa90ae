//! Scenarios that take minutes are ignored, and say so; `./test --long` runs them too. Others only do more there.

#![allow(dead_code, reason = "see common")]

/// `./test --long` sets this.
const VARIABLE: &str = "CONDOR_CRIU_LONG";

/// Whether to do more than an ordinary run has time for.
pub fn wanted() -> bool {
    std::env::var_os(VARIABLE).is_some_and(|value| value == "1")
}
