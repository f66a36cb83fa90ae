//! A submit description as its statements: comments, assignments with continued lines, `queue` in every form, and the
//! rest.

/// What a statement is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Empty or a comment.
    Nothing,
    /// `key = value`, also `+Attr = value` and `MY.Attr = value`.
    Assignment,
    /// `queue …`, with the lines of an item list in it.
    Queue,
    /// `if`, `else`, `include`, `use template`, and what condor_submit will judge.
    Other,
}

/// A statement with its text, line ends included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    /// What it is.
    pub kind: Kind,
    /// Number of its first line, from 1.
    pub line: usize,
    /// As it was written: several lines if it is continued.
    pub text: String,
    /// For an assignment: the key as written, without blanks around it.
    pub key: String,
    /// For an assignment: where its value begins in `text`.
    at: usize,
}

impl Statement {
    /// The value of an assignment: continued lines joined, without blanks around it.
    pub fn value(&self) -> String {
        let mut value = String::new();
        for line in self.text[self.at..].lines() {
            let line = line.trim_end();
            match line.strip_suffix('\\') {
                Some(continued) => value.push_str(continued),
                None => value.push_str(line),
            }
        }
        value.trim().to_owned()
    }

    /// The same assignment with another key.
    pub fn with_key(&self, key: &str) -> String {
        self.text.replacen(&self.key, key, 1)
    }

    /// The same assignment with `before` in front of its value and `behind` after it.
    pub fn with_value_in(&self, before: &str, behind: &str) -> String {
        let (head, value) = self.text.split_at(self.at);
        let blanks = value.len() - value.trim_start_matches([' ', '\t']).len();
        let end = value.trim_end().len().max(blanks);
        let blank = if blanks == 0 && !before.is_empty() { " " } else { "" };
        format!("{head}{}{blank}{before}{}{behind}{}", &value[..blanks], &value[blanks..end], &value[end..])
    }

    /// Where the value begins, after blanks: for what goes inside a quote.
    pub fn with_value_in_quotes(&self, before: &str) -> String {
        let (head, value) = self.text.split_at(self.at);
        match value.split_once('"') {
            Some((blanks, rest)) => format!("{head}{blanks}\"{before}{rest}"),
            None => self.text.clone(),
        }
    }
}

/// The statements of a description.
pub fn parse(text: &str) -> Vec<Statement> {
    let mut lines = text.split_inclusive('\n').enumerate().peekable();
    let mut statements = Vec::new();
    while let Some((number, line)) = lines.next() {
        let mut whole = line.to_owned();
        let mut more = |whole: &mut String| lines.next().map(|(_, line)| whole.push_str(line)).is_some();
        let start = line.trim_start();
        // A comment may be continued too.
        while whole.trim_end_matches(['\r', '\n']).ends_with('\\') && more(&mut whole) {}
        let (kind, key, at) = if start.trim_end().is_empty() || start.starts_with('#') {
            (Kind::Nothing, String::new(), 0)
        } else if is_queue(start) {
            // `queue x from (` and `queue in (` go on to a line that begins with a bracket.
            if opens_list(&whole) {
                while more(&mut whole) {
                    if whole.lines().next_back().is_some_and(|last| last.trim_start().starts_with(')')) {
                        break;
                    }
                }
            }
            (Kind::Queue, String::new(), 0)
        } else if let Some((key, at)) = assignment(&whole) {
            // `key @=tag` goes on to a line `@tag`.
            if let Some(tag) = heredoc(&whole) {
                let end = format!("@{tag}");
                while more(&mut whole) && whole.lines().next_back().is_none_or(|last| last.trim() != end) {}
            }
            (Kind::Assignment, key, at)
        } else {
            (Kind::Other, String::new(), 0)
        };
        statements.push(Statement { kind, line: number + 1, text: whole, key, at });
    }
    statements
}

/// `queue`, `queue 5`, `queue in (…)`; not `queue = x` or `queued`.
fn is_queue(start: &str) -> bool {
    let Some((word, rest)) = start.split_at_checked(5) else { return false };
    if !word.eq_ignore_ascii_case("queue") {
        return false;
    }
    let blank = rest.starts_with(|c: char| c.is_ascii_whitespace()) || rest.is_empty() || rest.starts_with('(');
    blank && !rest.trim_start().starts_with('=')
}

fn opens_list(queue: &str) -> bool {
    let Some((_, list)) = queue.split_once('(') else { return false };
    // A script, `from prog args |`, is no list.
    !list.contains(')')
}

/// Key, and where the value begins.
fn assignment(text: &str) -> Option<(String, usize)> {
    let equals = text.find('=')?;
    let key = text[..equals].trim_end_matches('@').trim();
    let name = key.strip_prefix(['+', '-']).unwrap_or(key);
    let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '$' | '(' | ')');
    let words = ["if", "elif", "else", "endif", "include", "use"];
    let first = key.split([' ', '\t', ':']).next().unwrap_or_default().to_ascii_lowercase();
    (!name.is_empty() && name.chars().all(valid) && !words.contains(&first.as_str()))
        .then(|| (key.to_owned(), equals + 1))
}

fn heredoc(text: &str) -> Option<String> {
    let (_, tag) = text.lines().next()?.split_once("@=")?;
    let tag = tag.trim();
    (!tag.is_empty()).then(|| tag.to_owned())
}

/// condor_submit's name of a key: it takes either spelling in any case.
pub fn canonical(key: &str) -> &'static str {
    const NAMES: [(&str, &str); 20] = [
        ("executable", "executable"),
        ("cmd", "executable"),
        ("arguments", "arguments"),
        ("args", "arguments"),
        ("arguments2", "arguments2"),
        ("universe", "universe"),
        ("jobuniverse", "universe"),
        ("transfer_executable", "transfer_executable"),
        ("transferexecutable", "transfer_executable"),
        ("transfer_input_files", "transfer_input_files"),
        ("transferinput", "transfer_input_files"),
        ("transfer_output_files", "transfer_output_files"),
        ("transferoutput", "transfer_output_files"),
        ("should_transfer_files", "should_transfer_files"),
        ("when_to_transfer_output", "when_to_transfer_output"),
        ("requirements", "requirements"),
        ("on_exit_remove", "on_exit_remove"),
        ("max_retries", "max_retries"),
        ("checkpoint_exit_code", "checkpoint_exit_code"),
        ("success_exit_code", "success_exit_code"),
    ];
    let lower = key.trim_start_matches('+').trim_start_matches("MY.").to_ascii_lowercase();
    let lower = lower.strip_prefix("my.").unwrap_or(&lower);
    match lower {
        "retry_until" => "retry_until",
        "transfer_checkpoint_files" | "transfercheckpoint" => "transfer_checkpoint_files",
        "shouldtransferfiles" => "should_transfer_files",
        "whentotransferoutput" => "when_to_transfer_output",
        "onexitremove" => "on_exit_remove",
        "successcheckpointexitcode" | "wantftoncheckpoint" => "checkpoint_exit_code",
        _ => NAMES.iter().find(|(name, _)| *name == lower).map_or("", |(_, canonical)| canonical),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# a comment\nexecutable = sim\nArguments=\"a 'b c'\"\n+Mine = 1\nMY.Other = \"x\"\n\
        transfer_input_files = a, \\\n   b, \\\n   c\n\nif defined X\n  request_memory = 2G\nendif\nuse template : T\n\
        queue name, n from (\n  a 1\n  b 2\n)\nlist @=end\none\ntwo\n@end\nqueue_name = 3\nQUEUE 5 in (a b)\nqueue";

    #[test]
    fn every_byte_is_kept_and_every_statement_known() {
        let statements = parse(TEXT);
        assert_eq!(statements.iter().map(|statement| statement.text.as_str()).collect::<String>(), TEXT);
        let keys: Vec<&str> =
            statements.iter().filter(|one| one.kind == Kind::Assignment).map(|one| one.key.as_str()).collect();
        assert_eq!(
            keys,
            [
                "executable",
                "Arguments",
                "+Mine",
                "MY.Other",
                "transfer_input_files",
                "request_memory",
                "list",
                "queue_name"
            ]
        );
        let queues: Vec<usize> = statements.iter().filter(|one| one.kind == Kind::Queue).map(|one| one.line).collect();
        assert_eq!(queues, [14, 23, 24]);
        assert_eq!(statements[5].value(), "a,    b,    c");
        assert_eq!(statements[2].value(), "\"a 'b c'\"");
    }

    #[test]
    fn a_value_is_changed_in_its_place() {
        let statement = |text: &str| parse(text).remove(0);
        let files = statement("transfer_input_files = a, \\\n  b\n");
        assert_eq!(files.with_value_in("prog, ", ""), "transfer_input_files = prog, a, \\\n  b\n");
        assert_eq!(statement("x=y\n").with_value_in("(", ")"), "x= (y)\n");
        assert_eq!(statement("x = y").with_value_in("(", ") && z"), "x = (y) && z");
        assert_eq!(statement("arguments = \"a b\"\n").with_value_in_quotes("run "), "arguments = \"run a b\"\n");
        assert_eq!(statement("Executable = sim\n").with_key("mine"), "mine = sim\n");
        assert_eq!(statement("x =\n").with_value_in("a", ""), "x = a\n");
    }

    #[test]
    fn nonsense_is_no_reason_to_panic() {
        for text in ["", "=", "= =\n", "queue (", "queue in (\n", "a @=", "a @=x\n", "\\", "é = 1\n", "que", "a = \\"]
        {
            let statements = parse(text);
            assert_eq!(statements.iter().map(|one| one.text.as_str()).collect::<String>(), text);
            for one in &statements {
                let _ = (one.value(), one.with_value_in("a", "b"), one.with_value_in_quotes("c"));
            }
        }
    }
}
