//! What of a submit description cannot be wrapped: each with its line, the reason, and what to do instead.

use super::statement::{Kind, Statement, canonical, parse};

/// Why a description cannot be wrapped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {why}")]
pub struct Refused {
    /// From 1.
    pub line: usize,
    /// In plain words.
    pub why: String,
    /// What to do instead.
    pub remedy: &'static str,
}

/// An assignment that forbids it.
pub(super) fn refuse(key: &str, one: &Statement) -> Result<(), Refused> {
    let value = one.value();
    let refused = |why: String, remedy| Err(Refused { line: one.line, why, remedy });
    match key {
        "universe" => match value.to_ascii_lowercase().as_str() {
            "vanilla" | "container" | "5" => Ok(()),
            "docker" => refused(
                "jobs of the docker universe cannot be checkpointed: Docker masks /proc".into(),
                "use `container_image = docker://…` and universe = container, which runs under Apptainer",
            ),
            other => refused(
                format!("jobs of the {other} universe cannot be checkpointed by condor-criu"),
                "use the vanilla or the container universe",
            ),
        },
        "should_transfer_files" if value.eq_ignore_ascii_case("no") => refused(
            "without file transfer there is nothing that carries a checkpoint".into(),
            "set should_transfer_files = YES and list the files that the program needs",
        ),
        "checkpoint_exit_code" | "transfer_checkpoint_files" => {
            refused("this job makes its own checkpoints already".into(), "submit it as it is")
        }
        _ => Ok(()),
    }
}

/// `include : file`: what it sets is out of reach, and may be all that has to change.
pub(super) fn refuse_include(one: &Statement, read: &dyn Fn(&str) -> Option<String>) -> Result<(), Refused> {
    let words = one.text.trim();
    let lower = words.to_ascii_lowercase();
    let Some(rest) = lower.strip_prefix("include") else { return Ok(()) };
    let file = words[words.len() - rest.len()..].trim_start_matches([' ', '\t', ':']).trim();
    let refused = |why: String| {
        Err(Refused {
            line: one.line,
            why,
            remedy: "put the lines of that file into this one in the place of `include`",
        })
    };
    let Some(text) = read(file).filter(|_| !rest.trim_start().starts_with("command") && !file.contains('$')) else {
        return refused(format!("what {file} sets cannot be seen"));
    };
    let concerned = |inner: &Statement| {
        let concerns = match inner.kind {
            Kind::Assignment => !matches!(canonical(&inner.key), "" | "universe"),
            Kind::Queue => true,
            Kind::Other => inner.text.trim_start().to_ascii_lowercase().starts_with("include"),
            Kind::Nothing => false,
        };
        concerns || canonical(&inner.key) == "universe" && refuse("universe", inner).is_err()
    };
    match parse(&text).iter().find(|inner| concerned(inner)) {
        Some(inner) => refused(format!(
            "{file} has `{}`, which has to change",
            inner.text.lines().next().unwrap_or_default().trim()
        )),
        None => Ok(()),
    }
}

/// A loop over what has to be changed.
pub(super) fn refuse_queue(one: &Statement) -> Result<(), Refused> {
    let head = one.text.lines().next().unwrap_or_default().to_ascii_lowercase();
    let end = ["from", "in", "matching"].iter().filter_map(|word| head.find(&format!(" {word} "))).min();
    let variables = &head[..end.unwrap_or(0)];
    let listed = ["arguments", "args", "transfer_input_files", "transfer_output_files", "requirements"];
    let taken = variables.split([' ', ',', '\t']).find(|word| listed.contains(word));
    match taken {
        Some(word) => Err(Refused {
            line: one.line,
            why: format!("the loop sets {word} itself, so that nothing can be added to it"),
            remedy: "give the loop's variable another name, and write `arguments = $(name)` in a line of its own",
        }),
        None => Ok(()),
    }
}
