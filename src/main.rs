//! parse → run → exit status; nothing else.

use std::io::Write;
use std::os::fd::AsFd;
use std::process::ExitCode;

use clap::Parser;
use condor_criu::cli::Cli;
use condor_criu::commands;
use condor_criu::exit::{Ended, Exit};
use condor_criu::sandbox;
use nix::poll::{PollFd, PollFlags, poll};

fn main() -> ExitCode {
    let exit = match Cli::try_parse_from(commands::words()) {
        Ok(cli) => commands::dispatch(cli).unwrap_or_else(|failure| {
            tell(&format!("error: {failure}\n"));
            failure.exit
        }),
        // --help and --version come this way too.
        Err(error) => {
            let _ = error.print();
            if error.use_stderr() { Exit::CannotStart } else { Exit::Success }
        }
    };
    leave(exit)
}

/// On stderr, if it takes that soon: who reads it may have stalled, and the end does not wait for a reader.
/// `crate::say_err!` panics where stderr is on a full disk, and the exit status would be another.
fn tell(words: &str) {
    /// Milliseconds.
    const SOON: u16 = 1000;
    let stderr = std::io::stderr();
    let mut room = [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)];
    if matches!(poll(&mut room, SOON), Ok(1..)) {
        let _ = stderr.lock().write_all(words.as_bytes());
    }
}

/// Ends this process in the way that the status says: by a code, or by the signal itself, so that HTCondor sees
/// `ExitBySignal`.
fn leave(exit: Exit) -> ExitCode {
    match exit.status() {
        Ended::Exited(code) => ExitCode::from(code),
        Ended::Signaled(number) => {
            sandbox::die_by_signal(number);
            // Reached only if the signal does not end a process; what a shell would say.
            ExitCode::from(128_u8.wrapping_add(number as u8))
        }
    }
}
