//! `condor-criu wrap`: a user's submit description with the smallest change that makes its jobs checkpointing.
//!
//! What is missing is added at the top, where every later line of the user's wins; what has to differ is changed in its
//! own line. The user's program becomes the macro `criu_payload`: condor_submit expands macros when it queues, so that
//! this holds for loops, conditions and several `queue` statements alike.

use super::refuse::{Refused, refuse, refuse_include, refuse_queue};
use super::statement::{Kind, Statement, canonical, parse};

/// The checkpoint code that is promised.
const CODE: u8 = crate::exit::DEFAULT_CHECKPOINT_CODE;
/// What HTCondor carries for us.
const OURS: &str = "criu-checkpoint.tar.zst, condor-criu.log";
/// Tells a description that was wrapped.
const MARK: &str = "# condor-criu wrap:";

/// The wrapped description; `executable` is the path of condor-criu on the access point. A wrapped one comes back as it
/// is. `read` returns the text of a file that the description includes.
pub fn wrap(text: &str, executable: &str, read: &dyn Fn(&str) -> Option<String>) -> Result<String, Refused> {
    let statements = parse(text);
    for one in statements.iter().filter(|one| one.kind == Kind::Other) {
        refuse_include(one, read)?;
    }
    if statements.iter().any(|one| one.kind == Kind::Nothing && one.text.trim_start().starts_with(MARK)) {
        return Ok(text.to_owned());
    }
    let plan = Plan::of(&statements)?;
    let mut body = String::with_capacity(text.len() + 1024);
    for one in &statements {
        body.push_str(&plan.changed(one)?);
    }
    Ok(plan.added(executable) + &body)
}

/// What the description as a whole says.
struct Plan {
    /// Whether the program is one of the execution point's own, which is not transferred.
    on_the_host: bool,
    /// Keys that it sets.
    keys: Vec<&'static str>,
    /// When the job leaves the queue, without our own condition; empty for always.
    leaves: String,
}

impl Plan {
    fn of(statements: &[Statement]) -> Result<Plan, Refused> {
        let assignments: Vec<(&'static str, &Statement)> = statements
            .iter()
            .filter(|one| one.kind == Kind::Assignment)
            .map(|one| (canonical(&one.key), one))
            .filter(|(key, _)| !key.is_empty())
            .collect();
        for (key, one) in &assignments {
            refuse(key, one)?;
        }
        for one in statements.iter().filter(|one| one.kind == Kind::Queue) {
            refuse_queue(one)?;
        }
        let last = |wanted: &str| assignments.iter().rev().find(|(key, _)| *key == wanted).map(|(_, one)| *one);
        let program = last("executable");
        let looped = statements.iter().any(|one| one.kind == Kind::Queue && queue(one) != one.text);
        if program.is_none() && !looped {
            let line = statements.len().max(1);
            return Err(Refused {
                line,
                why: "no executable is set".into(),
                remedy: "name the program in `executable`; what a container image starts by itself cannot be wrapped",
            });
        }
        let on_the_host = last("transfer_executable").is_some_and(|one| one.value().eq_ignore_ascii_case("false"));
        let blank = |one: &&Statement| one.value().contains(char::is_whitespace) && !one.value().contains('$');
        if let Some(program) = program.filter(blank).filter(|_| !on_the_host) {
            return Err(Refused {
                line: program.line,
                why: "the program's name has a blank".into(),
                remedy: "rename it: a list of files to transfer cannot have such names",
            });
        }
        let leaves = leaves(&last)?;
        Ok(Plan { on_the_host, keys: assignments.iter().map(|(key, _)| *key).collect(), leaves })
    }

    fn has(&self, key: &str) -> bool {
        self.keys.contains(&key)
    }

    /// The program as the job's command line names it.
    fn program(&self) -> &'static str {
        if self.on_the_host { "$(criu_payload)" } else { "./$Fnx(criu_payload)" }
    }

    fn run(&self) -> String {
        format!("run -- {}", self.program())
    }

    /// What stands at the top: lines that the description lacks, each with its reason.
    fn added(&self, executable: &str) -> String {
        let mut top = format!("{MARK} the lines up to the next empty one were added; changed lines say so\n");
        let mut add = |reason: &str, line: String| top.push_str(&format!("# {reason}\n{line}\n"));
        add("condor-criu is the job, and starts the program", format!("executable = {executable}"));
        if !self.has("arguments") && !self.has("arguments2") {
            add("the program, and its arguments if there are any", format!("arguments = {}", self.run()));
        }
        if !self.on_the_host && !self.has("transfer_input_files") {
            add("the program is an input file now", "transfer_input_files = $(criu_payload)".into());
        }
        if !self.has("should_transfer_files") {
            add("checkpoints are carried as files", "should_transfer_files = YES".into());
        }
        add(
            "this exit code means: a checkpoint is made, carry it and start me again",
            format!("checkpoint_exit_code = {CODE}"),
        );
        add("what is carried then", format!("transfer_checkpoint_files = {OURS}"));
        if !self.has("when_to_transfer_output") {
            add(
                "carry the checkpoint also when the job is evicted",
                "when_to_transfer_output = ON_EXIT_OR_EVICT".into(),
            );
        }
        if !self.has("on_exit_remove") {
            add(
                "75 means: this machine cannot restore the checkpoint, try another",
                format!("on_exit_remove = {}", self.removal()),
            );
        }
        if !self.has("requirements") {
            add("not on the machine that could not", format!("requirements = {STEER}"));
        }
        top + "\n"
    }

    /// When the job leaves the queue.
    fn removal(&self) -> String {
        if self.leaves.is_empty() { DONE.to_owned() } else { format!("({DONE}) && ({})", self.leaves) }
    }

    /// A statement as it has to be.
    fn changed(&self, one: &Statement) -> Result<String, Refused> {
        if one.kind == Kind::Queue {
            return Ok(queue(one));
        }
        if one.kind != Kind::Assignment {
            return Ok(one.text.clone());
        }
        let key = canonical(&one.key);
        let value = one.value();
        // `$(arguments) more` expands to what an earlier line has made of it.
        let refers_to_itself = value.to_ascii_lowercase().contains(&format!("$({})", one.key.to_ascii_lowercase()));
        let new = match key {
            "executable" => one.with_key("criu_payload"),
            "arguments" if refers_to_itself => return Ok(one.text.clone()),
            "arguments" if value.starts_with('"') => one.with_value_in_quotes(&format!("{} ", self.run())),
            "arguments" | "arguments2" => {
                let blank = if value.is_empty() { "" } else { " " };
                one.with_value_in(&format!("{}{blank}", self.run()), "")
            }
            "transfer_input_files" if self.on_the_host || refers_to_itself => return Ok(one.text.clone()),
            "transfer_input_files" => before_list(one, &value, "$(criu_payload)"),
            "transfer_output_files" if refers_to_itself => return Ok(one.text.clone()),
            "transfer_output_files" => before_list(one, value.trim_matches('"'), OURS),
            "transfer_executable" => format!("{} = True\n", one.key),
            "should_transfer_files" if !value.eq_ignore_ascii_case("yes") => format!("{} = YES\n", one.key),
            "when_to_transfer_output" if !value.eq_ignore_ascii_case("on_exit_or_evict") => {
                format!("{} = ON_EXIT_OR_EVICT\n", one.key)
            }
            "on_exit_remove" => format!("{} = {}\n", one.key, self.removal()),
            // Their meaning is in on_exit_remove.
            "max_retries" | "retry_until" | "success_exit_code"
                if self.has("max_retries") || self.has("retry_until") =>
            {
                String::new()
            }
            "requirements" if refers_to_itself => return Ok(one.text.clone()),
            "requirements" if value.is_empty() => one.with_value_in(STEER, ""),
            "requirements" => one.with_value_in(&format!("{STEER} && ("), ")"),
            _ => return Ok(one.text.clone()),
        };
        Ok(format!("{}{new}", was(one)))
    }
}

/// Not a refusal to restore, which is a 75 of ours; one of the program's own comes with its end (docs/htcondor.md).
const DONE: &str = "ExitCode =!= 75 || ChirpCriuEndedAttempt =?= NumJobCompletions - 1";
/// The job stays away from the machine that could not restore its checkpoint.
const STEER: &str = "TARGET.Machine =!= MY.ChirpCriuRefusedBy";

/// The comment that says how a changed line was.
fn was(one: &Statement) -> String {
    one.text.lines().map(comment).collect()
}

/// A comment that ended in a backslash would go on in the next line.
fn comment(line: &str) -> String {
    format!("# was: {}\n", line.trim_end_matches(|c: char| c == '\\' || c.is_whitespace()))
}

fn before_list(one: &Statement, value: &str, ours: &str) -> String {
    if value.is_empty() {
        return format!("{} = {ours}\n", one.key);
    }
    one.with_value_in(&format!("{ours}, "), "")
}

/// `queue executable in (a b)`: the loop's variable is the program, which has another name now.
fn queue(one: &Statement) -> String {
    let (head, rest) = one.text.split_once('\n').unwrap_or((&one.text, ""));
    let words: Vec<&str> = head.split_inclusive([' ', ',', '\t']).collect();
    let mut changed = false;
    let renamed: String = words
        .iter()
        .map(|word| {
            let name = word.trim_end_matches([' ', ',', '\t']);
            if changed || !["executable", "cmd"].contains(&name.to_ascii_lowercase().as_str()) {
                return (*word).to_owned();
            }
            changed = true;
            word.replacen(name, "criu_payload", 1)
        })
        .collect();
    if !changed {
        return one.text.clone();
    }
    let end = if one.text.contains('\n') { "\n" } else { "" };
    format!("{}{renamed}{end}{rest}", comment(head))
}

/// When the job leaves the queue by the user's own lines: HTCondor joins max_retries and on_exit_remove with "or", and
/// a job that is to come back after a 75 never would.
fn leaves<'a>(last: &impl Fn(&str) -> Option<&'a Statement>) -> Result<String, Refused> {
    let own = last("on_exit_remove").map(Statement::value).filter(|value| !value.is_empty());
    let retries = last("max_retries").map(Statement::value);
    let until = last("retry_until").map(Statement::value);
    if retries.is_none() && until.is_none() {
        return Ok(own.unwrap_or_default());
    }
    let success = last("success_exit_code").map_or_else(|| "0".to_owned(), |one| one.value());
    // DEFAULT_JOB_MAX_RETRIES of HTCondor
    let retries = retries.unwrap_or_else(|| "2".to_owned());
    let mut parts = vec![format!("ExitCode =?= {success}"), format!("NumJobCompletions > {retries}")];
    if let Some(until) = until {
        parts.push(if until.parse::<i64>().is_ok() { format!("ExitCode =?= {until}") } else { format!("({until})") });
    }
    parts.extend(own.map(|own| format!("({own})")));
    Ok(parts.join(" || "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrapped(text: &str) -> String {
        wrap(text, "/opt/condor-criu", &|_| None).unwrap()
    }

    #[test]
    fn the_smallest_description_gets_what_it_lacks() {
        let text = wrapped("executable = sim\nqueue\n");
        for line in [
            "executable = /opt/condor-criu",
            "arguments = run -- ./$Fnx(criu_payload)",
            "transfer_input_files = $(criu_payload)",
            "checkpoint_exit_code = 85",
            "when_to_transfer_output = ON_EXIT_OR_EVICT",
            "on_exit_remove = ExitCode =!= 75 || ChirpCriuEndedAttempt =?= NumJobCompletions - 1",
            "# was: executable = sim",
            "criu_payload = sim",
            "queue",
        ] {
            assert!(text.lines().any(|found| found == line), "{line:?} is not in\n{text}");
        }
        assert_eq!(wrapped(&text), text, "it is wrapped already");
    }

    #[test]
    fn lines_are_changed_where_they_stand() {
        let has = |text: &str, line: &str| {
            let text = wrapped(&format!("executable = bin/sim\n{text}\nqueue\n"));
            assert!(text.contains(&format!("\n{line}\n")), "{line:?} is not in\n{text}");
        };
        has("arguments = a b", "arguments = run -- ./$Fnx(criu_payload) a b");
        has("Arguments = \"a 'b c'\"", "Arguments = \"run -- ./$Fnx(criu_payload) a 'b c'\"");
        has("arguments =", "arguments = run -- ./$Fnx(criu_payload)");
        has("transfer_input_files = x, y", "transfer_input_files = $(criu_payload), x, y");
        has("transfer_output_files = out", "transfer_output_files = criu-checkpoint.tar.zst, condor-criu.log, out");
        has("transfer_output_files = \"\"", "transfer_output_files = criu-checkpoint.tar.zst, condor-criu.log");
        has("requirements = (A)", "requirements = TARGET.Machine =!= MY.ChirpCriuRefusedBy && ((A))");
        has("when_to_transfer_output = ON_EXIT", "when_to_transfer_output = ON_EXIT_OR_EVICT");
        has("on_exit_remove = X", &format!("on_exit_remove = ({DONE}) && (X)"));
        has("max_retries = 3", &format!("on_exit_remove = ({DONE}) && (ExitCode =?= 0 || NumJobCompletions > 3)"));
        has("transfer_executable = false", "arguments = run -- $(criu_payload)");
        has("transfer_executable = false", "transfer_executable = True");
        let looped = wrapped("executable = x\nqueue executable in (a b)\n");
        assert!(looped.contains("\nqueue criu_payload in (a b)\n"), "{looped}");
    }

    #[test]
    fn what_cannot_be_checkpointed_is_refused_with_its_line() {
        for (text, line, why) in [
            ("executable = x\nuniverse = parallel\nqueue", 2, "parallel"),
            ("universe = docker\nexecutable = x\nqueue", 1, "Docker"),
            ("executable = x\n\nshould_transfer_files = NO\n", 3, "file transfer"),
            ("executable = x\ncheckpoint_exit_code = 85\n", 2, "its own checkpoints"),
            ("container_image = i\nqueue\n", 2, "no executable"),
            ("executable = x\nqueue arguments from list\n", 2, "the loop sets arguments"),
            ("executable = a b\nqueue\n", 1, "blank"),
            ("include : memory\ninclude : args\nexecutable = x\nqueue\n", 2, "args has `Arguments = 1`"),
            ("include command : ./x |\nexecutable = x\nqueue\n", 1, "cannot be seen"),
        ] {
            let read =
                |file: &str| Some(if file == "args" { "Arguments = 1\n" } else { "request_memory = 1\n" }.to_owned());
            let refused = wrap(text, "c", &read).unwrap_err();
            assert!(refused.line == line && refused.why.contains(why), "{text:?}: {refused}");
        }
    }

    #[test]
    fn a_line_that_refers_to_its_earlier_value_is_left_alone() {
        let text = wrapped("executable = x\narguments = a\narguments = $(arguments) b\nqueue\n");
        assert!(text.contains("\narguments = $(arguments) b\n") && text.matches("run -- ").count() == 1, "{text}");
    }
}
