//! Scenarios that take minutes run only when asked for, and it is said when they do not.

use std::io::Write;

/// Whether scenarios that take minutes are to run: `./test --long` sets this.
const VARIABLE: &str = "CONDOR_CRIU_LONG";

/// Whether to run the scenario that takes minutes. If not, that is said on stderr itself: what a test prints in the usual
/// way is shown only when it fails.
pub fn wanted() -> bool {
    if std::env::var_os(VARIABLE).is_some_and(|value| value == "1") {
        return true;
    }
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    let _ = writeln!(std::io::stderr(), "LEFT OUT: {test} takes minutes; set {VARIABLE}=1 to run it");
    false
}
