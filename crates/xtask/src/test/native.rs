//! `cargo test` on this machine, over the default members of the workspace.

use anyhow::Result;

use super::Session;
use crate::{build, cmd, setup};

pub(super) fn run(session: &mut Session) -> Result<()> {
    setup::oracle()?;
    // Cargo builds a package's programs for the tests of that package only; the tests in
    // tests/ run the command too.
    let command = build::cli_for_tests()?;
    session.runner(
        "native tests",
        cmd::cargo()
            .args(["test", "--locked", "--no-fail-fast"])
            .env("BACKCHAIN_BIN", command),
    )
}
