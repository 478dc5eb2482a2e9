//! One module for each command.

pub(crate) mod info;
pub(crate) mod map;

use crate::args::Command;
use crate::failure::Outcome;

/// Runs one command and returns its exit code.
pub(crate) fn run(command: Command) -> Outcome {
    match command {
        Command::Info(options) => info::run(&options),
        Command::Map(options) => map::run(&options),
    }
}
