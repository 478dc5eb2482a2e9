//! Shell completions and manual pages.

use crate::args::Cli;
use crate::failure::{Failure, Outcome, code};
use crate::output;
use clap::{Args, CommandFactory};
use clap_complete::Shell;
use std::io::Write;

/// Print completions for a shell
#[derive(Args)]
pub(crate) struct Completions {
    shell: Shell,
}

/// Print the manual page, or write one for each command
#[derive(Args)]
pub(crate) struct Man {
    /// Where to write the pages of all the commands
    dir: Option<String>,
}

pub(crate) fn completions(options: &Completions) -> Outcome {
    let mut text = Vec::new();
    clap_complete::generate(options.shell, &mut Cli::command(), "backchain", &mut text);
    let mut out = output::stdout();
    out.write_all(&text)?;
    out.flush()?;
    Ok(code::OK)
}

pub(crate) fn man(options: &Man) -> Outcome {
    let Some(dir) = &options.dir else {
        let mut out = output::stdout();
        clap_mangen::Man::new(Cli::command()).render(&mut out)?;
        out.flush()?;
        return Ok(code::OK);
    };
    let write = || -> std::io::Result<()> {
        std::fs::create_dir_all(dir)?;
        clap_mangen::generate_to(Cli::command(), dir)
    };
    write().map_err(|error| {
        Failure::new(format_args!(
            "Could not write manual pages to '{dir}': {error}"
        ))
    })?;
    Ok(code::OK)
}
