//! The differential suite: every case runs qemu-img and the program under test on the same
//! files, and compares what they say and what they leave behind.
//!
//! Cases stand in `tests/differential/cases/*.case`, see [`case`] for their language. What is
//! different on purpose stands in `tests/differential/differences.toml`, see [`deliberate`].

pub mod case;
pub mod deliberate;
mod judge;
mod normal;
pub mod options;
pub mod runner;
mod setup;
mod tool;

use std::path::{Path, PathBuf};

/// The directory of cases and lists.
pub fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("differential")
}

/// Whether the oracle is there.
pub fn oracle_version() -> Option<String> {
    let said = tool::run(
        Path::new("qemu-img"),
        &["--version".to_owned()],
        Path::new("."),
    )
    .ok()?;
    let first = said.out.lines().next()?;
    first
        .starts_with("qemu-img version")
        .then(|| first.to_owned())
}
