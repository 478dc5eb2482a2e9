//! The command line as a whole.

use crate::cmd;
use crate::failure::code;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory, Parser, Subcommand, ValueEnum};
use std::process::ExitCode;

/// Short chains of virtual disk images: commit, pull, rebase; see first what will happen.
///
/// Names, options, exit codes and output are those of qemu-img wherever qemu-img has the
/// command.
#[derive(Parser)]
#[command(
    name = "backchain",
    version,
    max_term_width = 100,
    disable_help_subcommand = true,
    // As getopt has it: the last of several wins, and long names may be cut short.
    args_override_self = true,
    infer_long_args = true
)]
#[command(after_long_help = EXIT_CODES)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXIT_CODES: &str = "Exit codes:
  0    done; for compare: the images are identical
  1    failed; for compare: the images differ; for check: it could not be completed
  2    check: the image is corrupt; compare: it failed
  3    check: clusters are leaked
  4    refused before anything was written, where qemu-img would go on: other images depend on
       the file, a backing file is not of the format recorded for it, backing files form a loop,
       internal snapshots would change, the image is marked corrupt, or it uses a feature that
       this version does not write
  63   check: the format has no checks
  130  stopped by Ctrl-C; every image is valid, and running the command again completes it";

#[derive(Subcommand)]
pub(crate) enum Command {
    Info(cmd::info::Options),
    Map(cmd::map::Options),
    Chain(cmd::chain::Options),
    Check(cmd::check::Options),
    Compare(cmd::compare::Options),
    Create(cmd::create::Options),
    Commit(cmd::commit::Options),
    Blockcommit(cmd::blockcommit::Options),
    #[command(visible_alias = "pull")]
    Blockpull(cmd::blockpull::Options),
    Rebase(cmd::rebase::Options),
    Remove(cmd::remove::Options),
    Convert(cmd::convert::Options),
    Completions(cmd::generate::Completions),
    Man(cmd::generate::Man),
}

/// How results are printed.
#[derive(Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Output {
    /// Text for people.
    #[default]
    Human,
    /// JSON for programs.
    Json,
}

/// Prints help, the version, or what is wrong with the arguments. Usage errors exit with 1, as
/// qemu-img's do.
pub(crate) fn usage(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        crate::output::complain("Not enough arguments\nTry 'backchain --help' for more info");
        return ExitCode::from(code::FAILED);
    }
    if error.kind() == ErrorKind::ValueValidation
        && let Some(why) = std::error::Error::source(error)
        && matches!(error.get(ContextKind::InvalidArg), Some(ContextValue::String(arg)) if arg.starts_with("--object"))
    {
        crate::output::complain(&why.to_string());
        return ExitCode::from(code::FAILED);
    }
    let given = std::env::args().nth(1).unwrap_or_default();
    let known = Cli::command();
    let command = known
        .find_subcommand(&given)
        .map_or("", clap::Command::get_name);
    let program = format!("backchain {command}");
    let message = in_words(error, command);
    // qemu-img names the command when it is an option that is wrong.
    let who = if error.kind() == ErrorKind::UnknownArgument && message.starts_with("unrec") {
        program.trim_end()
    } else {
        "backchain"
    };
    crate::output::complain_as(
        who,
        &format!(
            "{message}\nTry '{} --help' for more info",
            program.trim_end()
        ),
    );
    ExitCode::from(code::FAILED)
}

/// What is wrong with the arguments, in qemu-img's words where it has any.
fn in_words(error: &clap::Error, command: &str) -> String {
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => text.clone(),
        _ => String::new(),
    };
    let argument = context(ContextKind::InvalidArg);
    match error.kind() {
        ErrorKind::InvalidSubcommand => {
            return format!(
                "Command not found: {}",
                context(ContextKind::InvalidSubcommand)
            );
        }
        ErrorKind::UnknownArgument if argument.starts_with('-') => {
            return format!("unrecognized option '{argument}'");
        }
        ErrorKind::MissingRequiredArgument | ErrorKind::UnknownArgument
            if error.kind() == ErrorKind::UnknownArgument || lacks_file(error) =>
        {
            match command {
                "info" | "map" | "check" | "commit" | "rebase" => {
                    return "Expecting one image file name".to_owned();
                }
                "compare" => return "Expecting two image file names".to_owned(),
                "create" if error.kind() == ErrorKind::UnknownArgument => {
                    return format!("Unexpected argument: {argument}");
                }
                "create" => return "Expecting image file name".to_owned(),
                _ => {}
            }
        }
        ErrorKind::InvalidValue if argument.starts_with("--output") => {
            let value = context(ContextKind::InvalidValue);
            return format!("--output expects 'human' or 'json' not '{value}'");
        }
        _ => {}
    }
    let text = error.render().to_string();
    let mut lines = text.lines();
    let message = lines.next().unwrap_or_default();
    let message = message.strip_prefix("error: ").unwrap_or(message);
    // The required arguments are listed on lines of their own.
    let missing: Vec<_> = if error.kind() == ErrorKind::MissingRequiredArgument {
        lines.map(str::trim).take_while(|l| !l.is_empty()).collect()
    } else {
        Vec::new()
    };
    format!("{message} {}", missing.join(" "))
        .trim_end()
        .to_owned()
}

/// Whether what is missing is the name of an image.
fn lacks_file(error: &clap::Error) -> bool {
    match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::Strings(missing)) => missing.iter().any(|arg| arg.contains("FILENAME")),
        _ => false,
    }
}
