//! Formatting, clippy's warnings as errors (natively and for wasm32), and what may be depended on.

use anyhow::Result;

use super::Session;
use crate::cmd::cargo;
use crate::setup::{self, WASM};

pub(super) fn run(session: &mut Session) -> Result<()> {
    setup::lint()?;
    session.check(
        "checking the format",
        cargo().args(["fmt", "--all", "--check"]),
    )?;
    // The advisories are left out: they are fetched from a place that may be out of reach, and
    // a new one must not fail a change that has nothing to do with it.
    session.check(
        "checking licences and sources of the dependencies",
        cargo().args(["deny", "--locked", "check", "bans", "licenses", "sources"]),
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
    // Clippy also reads the crates of the workspace that the web app depends on, without their
    // own tests, some of which need crates that only build natively.
    session.check(
        "clippy, for wasm32",
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
