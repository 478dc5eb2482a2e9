//! The soak: random sequences of operations by backchain and QEMU's programs, against a model.

use std::ffi::OsString;

use anyhow::{Result, bail};

use crate::cmd::{self, run, step};
use crate::setup;

/// Builds both programs and runs the soak with the arguments that follow `cargo xtask soak`.
pub(crate) fn run_with(arguments: &[OsString]) -> Result<()> {
    for program in ["qemu-img", "qemu-io"] {
        if cmd::which(program).is_none() {
            bail!("{program} is not installed (Debian package qemu-utils)");
        }
    }
    setup::rust(&[])?;
    step("building the command and the soak", || {
        let packages = ["-p", "backchain-cli", "-p", "backchain-tests"];
        let bins = ["--bin", "backchain", "--bin", "soak"];
        run(cmd::cargo()
            .args(["build", "--release", "--locked"])
            .args(packages)
            .args(bins))
    })?;
    let program = cmd::root().join("target/release/soak");
    run(cmd::command(program).args(arguments))
}
