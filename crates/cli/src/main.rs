//! The command `backchain`: arguments in, text and JSON out. The work is the engine's.

mod args;
mod cmd;
mod failure;
mod getopt;
mod keyval;
mod metered;
mod new_image;
mod object;
mod open;
mod output;
mod problems;
mod throttle;
mod work;

use std::process::ExitCode;

fn main() -> ExitCode {
    let command = match args::parse() {
        Ok(command) => command,
        Err(code) => return code,
    };
    let code = match cmd::run(command) {
        Ok(code) => code,
        Err(failure) => {
            failure.print();
            failure.code()
        }
    };
    ExitCode::from(code)
}
