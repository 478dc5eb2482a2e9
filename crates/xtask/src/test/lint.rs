//! Formatting, and clippy's warnings as errors: natively and for wasm32.

use anyhow::Result;

use super::Session;
use crate::cmd::cargo;
use crate::setup::{self, Part, WASM};

pub(super) fn run(session: &mut Session) -> Result<()> {
    setup::rust(&[Part::Rustfmt, Part::Clippy, Part::Wasm])?;
    session.check(
        "checking the format",
        cargo().args(["fmt", "--all", "--check"]),
    )?;
    session.check(
        "clippy, natively",
        cargo().args([
            "clippy",
            "--locked",
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ]),
    )?;
    // Without --all-targets: the tests of the engine use crates that only build natively.
    session.check(
        "clippy, for wasm32",
        cargo()
            .args(["clippy", "--locked", "--target", WASM])
            .args([
                "-p",
                "backchain-format",
                "-p",
                "backchain",
                "-p",
                "backchain-web",
            ])
            .args(["--", "-D", "warnings"]),
    )?;
    session.check(
        "clippy, for wasm32, the web app's tests",
        cargo()
            .args([
                "clippy",
                "--locked",
                "--target",
                WASM,
                "-p",
                "backchain-web",
                "--all-targets",
            ])
            .args(["--", "-D", "warnings"]),
    )
}
