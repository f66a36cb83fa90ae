//! Writes the manual pages and the shell completions, from the same declarations that the program reads its command
//! line by: so they cannot name a flag that is not there. Nothing of it is kept in the repository; `packaging/build`
//! puts it into the packages.
//!
//!     cargo run --example manual -- DIR      DIR/man/*.1, DIR/completions/condor-criu.{bash,fish}, DIR/completions/_condor-criu

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::CommandFactory;
use clap_complete::Shell;
use condor_criu::cli::Cli;

#[allow(dead_code, reason = "a test has this file as a module")]
fn main() -> ExitCode {
    let Some(folder) = std::env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("error: no folder is named: cargo run --example manual -- DIR");
        return ExitCode::from(2);
    };
    match write(&folder) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: the manual cannot be written below {}: {error}", folder.display());
            ExitCode::FAILURE
        }
    }
}

/// Writes all below `folder`, which is made.
pub fn write(folder: &Path) -> io::Result<()> {
    let pages = folder.join("man");
    let completions = folder.join("completions");
    fs::create_dir_all(&pages)?;
    fs::create_dir_all(&completions)?;
    let command = visible(&Cli::command());
    clap_mangen::generate_to(command.clone(), &pages)?;
    for shell in [Shell::Bash, Shell::Fish, Shell::Zsh] {
        clap_complete::generate_to(shell, &mut command.clone(), "condor-criu", &completions)?;
    }
    // clap_complete 4.6 names a command with a hyphen in two ways, so that bash would find no flags.
    let bash = completions.join("condor-criu.bash");
    let text = fs::read_to_string(&bash)?.replace("condor__subcmd__criu", "condor__criu");
    fs::write(bash, text)
}

/// Without the hidden commands, which are for condor-criu itself: completions would offer them.
fn visible(whole: &clap::Command) -> clap::Command {
    let shown = whole.get_subcommands().filter(|one| !one.is_hide_set()).cloned();
    let mut command = clap::Command::new("condor-criu")
        .version(env!("CARGO_PKG_VERSION"))
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommands(shown);
    if let Some(about) = whole.get_about() {
        command = command.about(about.clone());
    }
    command
}
