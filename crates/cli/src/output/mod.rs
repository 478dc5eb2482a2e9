//! Text and JSON on standard output; complaints on standard error.

pub(crate) mod check;
pub(crate) mod info;
pub(crate) mod json;
pub(crate) mod luks;
pub(crate) mod preview;
pub(crate) mod progress;
pub(crate) mod size;

use std::io::{self, BufWriter, Stdout, Write};
use std::path::Path;
use std::sync::OnceLock;

/// Buffered standard output. Flush it at the end: errors at drop would be lost.
pub(crate) fn stdout() -> BufWriter<Stdout> {
    BufWriter::with_capacity(64 << 10, io::stdout())
}

/// The name under which the program answers: as `qemu-img` when it was called by that name.
pub(crate) fn program() -> &'static str {
    static NAME: OnceLock<&str> = OnceLock::new();
    NAME.get_or_init(|| {
        let called = std::env::args_os().next().unwrap_or_default();
        match Path::new(&called).file_name() {
            Some(name) if name == "qemu-img" => "qemu-img",
            _ => "backchain",
        }
    })
}

/// One message on standard error. A closed standard error is nobody's problem.
pub(crate) fn complain(message: &str) {
    complain_as(program(), message);
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
///
/// qemu-img has nothing to say there, so nothing is said under its name.
pub(crate) fn note(message: impl std::fmt::Display) {
    if program() == "qemu-img" {
        return;
    }
    complain(&format!("note: {message}"));
}
