//! Text and JSON on standard output; complaints on standard error.

pub(crate) mod info;
pub(crate) mod json;
pub(crate) mod preview;
pub(crate) mod progress;
pub(crate) mod size;

use std::io::{self, BufWriter, Stdout, Write};

/// Buffered standard output. Flush it at the end: errors at drop would be lost.
pub(crate) fn stdout() -> BufWriter<Stdout> {
    BufWriter::with_capacity(64 << 10, io::stdout())
}

/// One message on standard error. A closed standard error is nobody's problem.
pub(crate) fn complain(message: &str) {
    complain_as("backchain", message);
}

/// The same in the name of `who`.
pub(crate) fn complain_as(who: &str, message: &str) {
    let _ = writeln!(io::stderr(), "{who}: {message}");
}

/// A warning on standard error.
pub(crate) fn warn(message: impl std::fmt::Display) {
    complain(&format!("warning: {message}"));
}

/// Something worth knowing afterwards, on standard error.
pub(crate) fn note(message: impl std::fmt::Display) {
    complain(&format!("note: {message}"));
}
