//! `condor-criu advertise`: what a startd tells the pool, from `STARTD_CRON`. It is quick and never hangs, or the
//! startd would wait.

use std::time::{Duration, Instant};

use super::facts::Facts;
use super::probe::{self, Place};
use super::{Tried, flags};
use crate::criu::find;
use crate::exit::{Exit, Failure};
use crate::host::privilege::Mode;
use crate::htcondor::classad;
use crate::settings::Settings;

/// For both probes: with what comes before and after, the whole command stays below two seconds.
const PATIENCE: Duration = Duration::from_millis(1700);

/// Prints the attributes, and the line `-` that tells the startd that they are all.
pub fn advertise(settings: &Settings) -> Result<Exit, Failure> {
    let deadline = Instant::now() + PATIENCE;
    let facts = Facts::gather();
    let mut lines = vec![
        format!("CriuShimVersion = {}", quoted(env!("CARGO_PKG_VERSION"))),
        format!("CriuKernel = {}", quoted(&facts.kernel)),
        format!("CriuMicroarch = {}", quoted(&facts.microarch)),
    ];
    // Whether it can is known, and why not.
    let no = |why: String| (true, why);
    let possible = Place::new().map_err(|error| no(format!("no directory for the probe: {error}"))).and_then(|place| {
        let criu = find::find(settings.criu.as_deref(), place.path(), &place.path().join("criu"))
            .map_err(|error| no(error.to_string()))?;
        lines.push(format!("CriuVersion = {}", quoted(&criu.version.to_string())));
        let host = probe::probe(place.path(), "host", &flags(&criu, settings, "host"), deadline);
        let host = host.map_err(|failed| (!failed.late, failed.why))?;
        let private = probe::probe(place.path(), "private", &flags(&criu, settings, "private"), deadline);
        Ok(Tried { host: Ok(host), private })
    });
    match possible {
        Ok(tried) => {
            lines.push("HasCriu = true".to_owned());
            lines.push(format!("CriuMode = {}", quoted(&Mode::Rootless.to_string())));
            lines.push(format!("CriuFeatures = {}", quoted(&tried.features(&facts).join(","))));
        }
        Err((known, why)) => {
            // A host that is too busy to answer is none that cannot: jobs are kept away by false alone.
            if known {
                lines.push("HasCriu = false".to_owned());
            }
            lines.push(format!("CriuReason = {}", quoted(&why)));
        }
    }
    crate::say!("{}\n-", lines.join("\n"));
    Ok(Exit::Success)
}

fn quoted(text: &str) -> String {
    classad::quoted(text, usize::MAX)
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_reason_is_one_line_of_a_classad() {
        assert_eq!(super::quoted("no \"criu\"\nat \\x"), "\"no \\\"criu\\\" at \\\\x\"");
    }
}
