//! From a parsed command line to the room that does it.

use crate::cli::{Cli, Command, Run};
use crate::exit::{Exit, Failure};
use crate::supervise::{self, RunOptions};

/// Does what the command line says.
pub fn dispatch(cli: Cli) -> Result<Exit, Failure> {
    match cli.command {
        Command::Run(Run { settings, config, scratch, command }) => {
            supervise::run(&RunOptions { flags: settings.layer(), config, scratch, command })
        }
    }
}
