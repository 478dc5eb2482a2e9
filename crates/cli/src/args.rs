//! The command line as a whole.

use crate::cmd;
use crate::failure::code;
use crate::getopt::{self, Parsed};
use crate::output::{self, program};
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory, Parser, Subcommand, ValueEnum};
use std::ffi::OsString;
use std::io::Write;
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
  2    check: the image is corrupt; compare: an image could not be opened
  3    check: clusters are leaked; compare: the tables of an image could not be read
  4    refused before anything was written, where qemu-img would go on: other images depend on
       the file, a backing file is not of the format recorded for it, backing files form a loop,
       internal snapshots would change, the image is marked corrupt, or it uses a feature that
       this version does not write; compare: the data of an image could not be read
  63   check: the format has no checks
  130  stopped by Ctrl-C; every image is valid, and running the command again completes it";

#[derive(Subcommand)]
pub(crate) enum Command {
    Amend(cmd::amend::Options),
    Bitmap(cmd::bitmap::Options),
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
    Resize(cmd::resize::Options),
    Snapshot(cmd::snapshot::Options),
    Convert(cmd::convert::Options),
    Dd(cmd::dd::Options),
    Measure(cmd::measure::Options),
    Bench(cmd::bench::Options),
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

/// Reads the arguments of the program; or says what is wrong with them, or what was asked for
/// instead of a command, and returns the exit code. Usage errors exit with 1, as qemu-img's do.
pub(crate) fn parse() -> Result<Command, ExitCode> {
    let program = program();
    let arguments: Result<Vec<String>, OsString> = std::env::args_os()
        .skip(1)
        .map(OsString::into_string)
        .collect();
    // A name that is only nearly right would be another file.
    let arguments = arguments.map_err(|argument| {
        let argument = argument.to_string_lossy();
        mistake(program, "", &format!("'{argument}' is not UTF-8"))
    })?;
    let front = getopt::front(&arguments).map_err(|message| mistake(program, "", &message))?;
    front.traces.iter().for_each(|trace| no_such_event(trace));
    match front.parsed {
        Parsed::Arguments(_) => {}
        Parsed::Help => return Err(show_help(&mut named(), true)),
        Parsed::Version => return Err(show(&named().render_version())),
    }
    let Some(given) = arguments.get(front.used) else {
        return Err(mistake(program, "", "Not enough arguments"));
    };
    let rest = arguments.get(front.used + 1..).unwrap_or_default();
    let mut all = named();
    let Some(command) = all.find_subcommand_mut(given) else {
        let message = format!("Command not found: {given}");
        return Err(mistake(program, "", &message));
    };
    let name = command.get_name().to_owned();
    let plain = match getopt::command(command, rest) {
        Ok(Parsed::Arguments(plain)) => plain,
        Ok(_) => {
            let long = rest.iter().any(|word| word.starts_with("--"));
            return Err(show_help(command, long));
        }
        // qemu-img names the command when it is an option that is wrong.
        Err(message) => return Err(mistake(&format!("{program} {name}"), &name, &message)),
    };
    let words = [program.to_owned(), name.clone()].into_iter().chain(plain);
    match Cli::try_parse_from(words) {
        Ok(cli) => Ok(cli.command),
        Err(error) if !error.use_stderr() => Err(show(&error)),
        Err(error) => Err(match in_words(&error, &name) {
            Words::Usage(message) => mistake(program, &name, &message),
            Words::Failure(message) => {
                output::complain(&message);
                ExitCode::from(if name == "compare" {
                    code::NOT_COMPARED
                } else {
                    code::FAILED
                })
            }
        }),
    }
}

/// The parser under the name by which the program was called.
fn named() -> clap::Command {
    let name = program();
    let mut all = Cli::command().bin_name(name);
    all.build();
    all
}

fn show_help(command: &mut clap::Command, long: bool) -> ExitCode {
    let help = if long {
        command.render_long_help()
    } else {
        command.render_help()
    };
    show(&help)
}

/// A reader that has gone is nobody's problem.
fn show(text: &impl std::fmt::Display) -> ExitCode {
    let _ = write!(std::io::stdout(), "{text}");
    ExitCode::SUCCESS
}

/// Says what is wrong with the arguments of `command`, in the name of `who`.
fn mistake(who: &str, command: &str, message: &str) -> ExitCode {
    let program = format!("{} {command}", program());
    let program = program.trim_end();
    output::complain_as(
        who,
        &format!("{message}\nTry '{program} --help' for more info"),
    );
    ExitCode::from(code::FAILED)
}

/// `-T`: there are no trace events here, so whoever names one is told.
fn no_such_event(trace: &str) {
    for part in trace.split(',') {
        let name = match part.split_once('=') {
            None => part,
            Some(("enable", name)) => name,
            Some(_) => continue,
        };
        let name = name.strip_prefix('-').unwrap_or(name);
        if !name.is_empty() && name != "help" && !name.contains('*') {
            output::warn(format_args!("trace event '{name}' does not exist"));
        }
    }
}

/// A mistake in the arguments in words.
enum Words {
    /// One that is followed by where to find help.
    Usage(String),
    /// One that is not.
    Failure(String),
}

/// What is wrong with the arguments, in qemu-img's words where it has any.
fn in_words(error: &clap::Error, command: &str) -> Words {
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => text.clone(),
        _ => String::new(),
    };
    let usage = |text: &str| Words::Usage(text.to_owned());
    let failure = |text: &str| Words::Failure(text.to_owned());
    let argument = context(ContextKind::InvalidArg);
    let missing = error.kind() == ErrorKind::MissingRequiredArgument && lacks_name(error);
    match error.kind() {
        ErrorKind::ValueValidation if argument.starts_with("--object") => {
            if let Some(why) = std::error::Error::source(error) {
                return Words::Failure(why.to_string());
            }
        }
        ErrorKind::MissingRequiredArgument | ErrorKind::UnknownArgument
            if missing || error.kind() == ErrorKind::UnknownArgument =>
        {
            match command {
                "info" | "map" | "check" | "commit" | "rebase" | "snapshot" | "amend" | "bench" => {
                    return usage("Expecting one image file name");
                }
                "compare" => return usage("Expecting two image file names"),
                "create" if missing => return usage("Expecting image file name"),
                "resize" if missing => return usage("Expecting image file name and size"),
                "resize" => return usage("Extra argument(s) in command line"),
                "create" => return Words::Usage(format!("Unexpected argument: {argument}")),
                "convert" => return failure("Must specify image file name"),
                "bitmap" => return failure("Expecting filename and bitmap name"),
                "dd" => return failure("Must specify both input and output files"),
                "measure" => {
                    return failure("Either --size N or one filename must be specified.");
                }
                _ => {}
            }
        }
        ErrorKind::InvalidValue if argument.starts_with("--output") => {
            let value = context(ContextKind::InvalidValue);
            return Words::Usage(format!("--output expects 'human' or 'json' not '{value}'"));
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
    let text = format!("{message} {}", missing.join(" "));
    usage(text.trim_end())
}

/// Whether what is missing is a name rather than an option.
fn lacks_name(error: &clap::Error) -> bool {
    match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::Strings(missing)) => missing.iter().any(|arg| !arg.starts_with('-')),
        _ => false,
    }
}
