//! The manual pages and completions name every command and every flag, and no hidden one.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on stops")]

#[path = "../packaging/manual.rs"]
mod manual;

use std::fs;
use std::path::Path;
use std::process::Command;

use clap::CommandFactory;
use condor_criu::cli::Cli;

/// A page as plain text: roff writes a hyphen as `\-`, and changes fonts by `\fB`.
fn plain(page: &Path) -> String {
    let text = fs::read_to_string(page).unwrap_or_else(|error| panic!("{}: {error}", page.display()));
    text.replace("\\-", "-").replace("\\fB", "").replace("\\fI", "").replace("\\fR", "")
}

/// The long flags of a command, those that are its own and those of its settings.
fn flags(command: &clap::Command) -> Vec<String> {
    let flags = command.get_arguments().filter(|one| !one.is_hide_set()).filter_map(clap::Arg::get_long);
    flags.map(|flag| format!("--{flag}")).collect()
}

#[test]
fn pages_and_completions_name_every_command_and_flag() {
    let folder = tempfile::tempdir().unwrap();
    manual::write(folder.path()).unwrap();
    let cli = Cli::command();
    let shells = ["condor-criu.bash", "condor-criu.fish", "_condor-criu"].map(|name| {
        let path = folder.path().join("completions").join(name);
        (name, fs::read_to_string(path).unwrap())
    });
    let main = plain(&folder.path().join("man/condor-criu.1"));
    let mut pages = 1;
    let mut wrong = Vec::new();
    for command in cli.get_subcommands() {
        let name = command.get_name();
        let page = folder.path().join(format!("man/condor-criu-{name}.1"));
        if command.is_hide_set() {
            assert!(!page.exists() && !main.contains(&format!("condor-criu-{name}(1)")), "{name} is hidden");
            // In bash's each command is a case of its own.
            assert!(!shells[0].1.contains(&format!("condor__criu,{name})")), "{name} is hidden");
            continue;
        }
        pages += 1;
        if !main.contains(&format!("condor-criu-{name}(1)")) {
            wrong.push(format!("condor-criu.1 does not name {name}"));
        }
        let text = plain(&page);
        let words = flags(command);
        for flag in words.iter().filter(|flag| !text.contains(flag.as_str())) {
            wrong.push(format!("{}: no {flag}", page.display()));
        }
        for (shell, text) in &shells {
            // fish has a flag without its hyphens: `-l interval`.
            let has = |word: &str| match *shell {
                "condor-criu.fish" => text.lines().any(|line| {
                    line.contains(&format!("subcommand {name}\"")) && line.contains(&format!(" -l {}", &word[2..]))
                }),
                _ => text.contains(word),
            };
            for flag in words.iter().filter(|flag| !has(flag)) {
                wrong.push(format!("{shell}: no {flag} of {name}"));
            }
            if !text.contains(name) {
                wrong.push(format!("{shell}: no {name}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(fs::read_dir(folder.path().join("man")).unwrap().count(), pages);
}

/// Two flags of one name are found by clap's own check, for each command.
#[test]
fn no_command_has_a_flag_twice() {
    Cli::command().debug_assert();
}

/// What a shell offers, and not only what the file contains.
#[test]
fn bash_completes_commands_and_flags() {
    let folder = tempfile::tempdir().unwrap();
    manual::write(folder.path()).unwrap();
    let offered = |words: &str, at: usize| {
        let script = format!(
            "set -e; . {}; declare -F _condor__criu >&2; set +e; COMP_WORDS=({words}); COMP_CWORD={at}; _condor__criu condor-criu \"${{COMP_WORDS[{at}]}}\" \"${{COMP_WORDS[{}]}}\"; \
             printf '%s\\n' \"${{COMPREPLY[@]}}\"",
            folder.path().join("completions/condor-criu.bash").display(),
            at - 1
        );
        let output = Command::new("bash").args(["--norc", "-c", &script]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(offered("condor-criu reh", 1), "rehearse\n");
    assert_eq!(offered("condor-criu run --int", 2), "--interval\n");
    assert_eq!(offered("condor-criu pro", 1), "\n");
}
