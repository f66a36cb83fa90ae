//! parse → run → exit status; nothing else.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use condor_criu::cli::Cli;
use condor_criu::commands;
use condor_criu::exit::Exit;

fn main() -> ExitCode {
    let exit = match Cli::try_parse_from(commands::words()) {
        Ok(cli) => commands::dispatch(cli).unwrap_or_else(|failure| {
            // eprintln! panics where stderr is on a full disk, and the exit status would be another.
            let _ = writeln!(std::io::stderr(), "error: {failure}");
            failure.exit
        }),
        // --help and --version come this way too.
        Err(error) => {
            let _ = error.print();
            if error.use_stderr() { Exit::CannotStart } else { Exit::Success }
        }
    };
    exit.leave()
}
