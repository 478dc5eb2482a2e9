//! The command `backchain`: arguments in, text and JSON out. The work is the engine's.

mod args;
mod cmd;
mod failure;
mod keyval;
mod new_image;
mod object;
mod open;
mod output;
mod throttle;
mod work;

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args = match args::Cli::try_parse() {
        Ok(args) => args,
        Err(error) => return args::usage(&error),
    };
    let code = match cmd::run(args.command) {
        Ok(code) => code,
        Err(failure) => {
            failure.print();
            failure.code()
        }
    };
    ExitCode::from(code)
}
