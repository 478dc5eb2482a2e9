//! What went wrong, as one line for people and one exit code for scripts.

use crate::output::size::{self, SizeError};
use backchain::{Error, ErrorKind};
use std::fmt::Display;
use std::io;

/// Exit codes. 0 to 3 and 63 are qemu-img's; 4 and 130 are our own.
pub(crate) mod code {
    /// Done.
    pub(crate) const OK: u8 = 0;
    /// It failed; for `check`: it could not be checked; for `compare`: the images differ.
    pub(crate) const FAILED: u8 = 1;
    /// `check`: the image is corrupt.
    pub(crate) const CORRUPT: u8 = 2;
    /// `compare`: an image could not be opened.
    pub(crate) const NOT_COMPARED: u8 = 2;
    /// `compare`: the tables of an image could not be read.
    pub(crate) const NOT_MAPPED: u8 = 3;
    /// `compare`: the data of an image could not be read.
    pub(crate) const NOT_READ: u8 = 4;
    /// `check`: clusters are leaked.
    pub(crate) const LEAKS: u8 = 3;
    /// Refused before anything was written, where qemu-img would go on.
    pub(crate) const REFUSED: u8 = 4;
    /// `check`: the format has no checks.
    pub(crate) const NO_CHECKS: u8 = 63;
    /// Stopped by Ctrl-C.
    pub(crate) const INTERRUPTED: u8 = 130;
}

/// Why a command ends early.
#[derive(Debug)]
pub(crate) struct Failure {
    /// The whole message; empty when there is nothing to say.
    message: String,
    code: u8,
}

/// What commands return: their exit code.
pub(crate) type Outcome = Result<u8, Failure>;

impl Failure {
    /// A failure with exit code 1.
    pub(crate) fn new(message: impl Display) -> Self {
        Self {
            message: one_line(&message.to_string()),
            code: code::FAILED,
        }
    }

    /// An end without a message.
    pub(crate) fn silent(code: u8) -> Self {
        Self {
            message: String::new(),
            code,
        }
    }

    /// The file the user named could not be opened, in qemu-img's words.
    pub(crate) fn open(name: &str, why: impl Display) -> Self {
        Self::new(format_args!("Could not open '{name}': {why}"))
    }

    /// A change that could not be planned or carried out.
    pub(crate) fn change(error: &Error) -> Self {
        let mut message = error.to_string();
        if error.kind() == ErrorKind::Dependents {
            message = format!("{} with --force-dependents", error.message());
        }
        if error.kind() == ErrorKind::Plaintext {
            message = format!("{} (--allow-plaintext)", error.message());
        }
        Self {
            message: one_line(&message),
            code: code_of_change(error.kind()),
        }
    }

    /// The new file `name` could not be made.
    pub(crate) fn making(error: &Error, name: &str) -> Self {
        let cause = std::error::Error::source(error);
        let cause = cause.and_then(|cause| cause.downcast_ref::<io::Error>());
        // It may be its data file.
        let name = error.file().unwrap_or(name);
        match cause {
            Some(cause) if error.message().contains("created") => {
                Self::new(format_args!("Could not create '{name}': {}", plain(cause)))
            }
            _ => Self::change(error),
        }
    }

    /// The number of bytes `text`, given as `what`, is none.
    pub(crate) fn size(what: &str, text: &str, error: &SizeError) -> Self {
        let below = text.trim_start().strip_prefix('-');
        let below = below.is_some_and(|size| size::parse(size).is_ok());
        if *error == SizeError::TooLarge || below {
            let limit = i64::MAX;
            return Self::new(format_args!(
                "Invalid {what} specified. Must be between 0 and {limit}."
            ));
        }
        Self::new(format_args!("Invalid {what} specified: '{text}'."))
    }

    /// A mistake in the arguments of `command`.
    pub(crate) fn usage(command: &str, message: impl Display) -> Self {
        let mut usage = Self::new(message);
        usage.message.push_str(&format!(
            "\nTry '{} {command} --help' for more info",
            crate::output::program()
        ));
        usage
    }

    /// The same with another exit code.
    pub(crate) fn with_code(mut self, code: u8) -> Self {
        self.code = code;
        self
    }

    /// The same for a file that was to be opened for writing: what cannot be had then is the
    /// right to write it, not that others do not.
    pub(crate) fn of_writer(mut self, name: &str) -> Self {
        let reader = format!("Could not open '{name}': Failed to get shared \"write\" lock");
        if let Some(rest) = self.message.strip_prefix(&reader) {
            self.message = format!("Could not open '{name}': Failed to get \"write\" lock{rest}");
        }
        self
    }

    /// Puts the name of a file before the message.
    pub(crate) fn about(mut self, name: &str) -> Self {
        self.message = format!("{name}: {}", self.message);
        self
    }

    /// The message.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// The exit code.
    pub(crate) fn code(&self) -> u8 {
        self.code
    }

    /// Says it on standard error.
    pub(crate) fn print(&self) {
        if !self.message.is_empty() {
            crate::output::complain(&self.message);
        }
    }
}

/// Names come out of images: they must not move the cursor or start a line of their own. The
/// messages of several lines that qemu-img has stay as they are.
fn one_line(message: &str) -> String {
    let lines = [
        "\nIs another process using the image",
        "\nIdentifiers consist of",
        "\nOptional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-",
        "\nand exabytes, respectively.",
        "\nCould not open backing image.",
        "\nDetected format of ",
        "\nTry --skip-broken-bitmaps, or use ",
        "\nTry block-dirty-bitmap-remove to delete this bitmap from disk",
        "\nThis option is only supported for image creation",
        "\nYou can use 'qemu-img rebase' instead.",
    ];
    let breaks = lines.map(|line| message.rfind(line));
    let mut line = String::with_capacity(message.len());
    for (at, c) in message.char_indices() {
        if c.is_control() && !breaks.contains(&Some(at)) {
            line.extend(c.escape_default());
        } else {
            line.push(c);
        }
    }
    line
}

/// The one place where kinds of errors of a change become exit codes.
fn code_of_change(kind: ErrorKind) -> u8 {
    match kind {
        ErrorKind::Dependents
        | ErrorKind::Plaintext
        | ErrorKind::WrongLabel
        | ErrorKind::Loop
        | ErrorKind::Refused
        | ErrorKind::Unsupported => code::REFUSED,
        ErrorKind::Cancelled => code::INTERRUPTED,
        _ => code::FAILED,
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::new(error)
    }
}

impl From<io::Error> for Failure {
    /// Standard output is gone: nobody is left to tell when it was a pipe.
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self {
                message: String::new(),
                code: code::FAILED,
            };
        }
        Self::new(format_args!("Could not write the output: {error}"))
    }
}

/// The text of an error of the operating system, without its number.
pub(crate) fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    match text.find(" (os error ") {
        Some(at) => text.get(..at).unwrap_or_default().to_owned(),
        None => text,
    }
}
