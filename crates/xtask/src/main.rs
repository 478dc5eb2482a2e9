//! The project's own chores, run as `cargo xtask COMMAND`.
//!
//! Each command first installs what it needs and does not find (see [`setup`]), says what it
//! is doing in one line a step, and skips what is already there.

mod bench;
mod build;
mod cmd;
mod serve;
mod setup;
mod size;
mod soak;
mod stamp;
mod test;

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail};
use lexopt::prelude::*;

const USAGE: &str = "\
The project's chores.

Usage: cargo xtask COMMAND

  run [--port N] [--for SECONDS]   build everything and serve the app on this machine only
  serve [--port N] [--for SECONDS] serve dist/ as it is
  build [cli|web|docs]             target/release/backchain, its manual pages, and dist/
  test [lint|native|wasm|browser]  every test, or one kind of them
  bench [ARGUMENTS]                measure against qemu-img
  soak [--sequences N] [--seed N] [--threads N]
                                   random operations by both programs, against a model
  setup                            install the tools of all commands, and do nothing else

What is missing is installed first: Rust components with rustup, trunk and wasm-bindgen into
.tools/, npm packages into node_modules/, Debian packages with apt-get.";

fn main() -> ExitCode {
    match dispatch() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch() -> Result<ExitCode> {
    let mut args = lexopt::Parser::from_env();
    let command = match args.next()? {
        Some(Value(command)) => command.string()?,
        Some(Short('h') | Long("help")) => {
            println!("{USAGE}");
            return Ok(ExitCode::SUCCESS);
        }
        Some(other) => return Err(other.unexpected().into()),
        None => bail!("no command given\n\n{USAGE}"),
    };
    match command.as_str() {
        "run" => {
            let options = serve_options(&mut args)?;
            build::all()?;
            serve::serve(&cmd::root().join("dist"), &options)?;
        }
        "serve" => {
            let options = serve_options(&mut args)?;
            serve::serve(&cmd::root().join("dist"), &options)?;
        }
        "build" => match one_word(&mut args)?.as_deref() {
            None => build::all()?,
            Some("cli") => build::cli()?,
            Some("web") => build::web()?,
            Some("docs") => {
                build::cli()?;
                build::docs()?;
            }
            Some(other) => bail!("nothing called {other} to build; see cargo xtask --help"),
        },
        "test" => {
            let kinds = match one_word(&mut args)? {
                None => test::Kind::ALL.to_vec(),
                Some(word) => vec![word.parse()?],
            };
            return test::run(&kinds);
        }
        "bench" => bench::run(args.raw_args()?.collect::<Vec<OsString>>())?,
        "soak" => soak::run_with(&args.raw_args()?.collect::<Vec<OsString>>())?,
        "setup" => {
            no_more(&mut args)?;
            setup::everything()?;
        }
        other => bail!("unknown command {other}\n\n{USAGE}"),
    }
    Ok(ExitCode::SUCCESS)
}

/// Reads `--port` and `--for`.
fn serve_options(args: &mut lexopt::Parser) -> Result<serve::Options> {
    let mut options = serve::Options::default();
    while let Some(arg) = args.next()? {
        match arg {
            Long("port") => options.port = Some(args.value()?.parse()?),
            Long("for") => options.time = Some(Duration::from_secs(args.value()?.parse()?)),
            other => return Err(other.unexpected().into()),
        }
    }
    Ok(options)
}

/// Reads at most one plain word.
fn one_word(args: &mut lexopt::Parser) -> Result<Option<String>> {
    let word = match args.next()? {
        None => return Ok(None),
        Some(Value(word)) => word.string()?,
        Some(other) => return Err(other.unexpected().into()),
    };
    no_more(args)?;
    Ok(Some(word))
}

fn no_more(args: &mut lexopt::Parser) -> Result<()> {
    match args.next()? {
        None => Ok(()),
        Some(other) => Err(other.unexpected().into()),
    }
}
