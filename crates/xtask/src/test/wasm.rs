//! The web app's own Rust tests, in headless Chromium.

use std::fs;
use std::path::Path;

use anyhow::Result;

use super::Session;
use crate::cmd::{self, which};
use crate::setup::{self, WASM};

pub(super) fn run(session: &mut Session) -> Result<()> {
    let root = cmd::root();
    if !mentions_tests(&root.join("web"))? {
        cmd::say("web/ has no tests that run in wasm");
        return Ok(());
    }
    setup::wasm_test_runner()?;
    setup::browser()?;
    let mut command = cmd::cargo();
    command
        .args([
            "test",
            "--locked",
            "--no-fail-fast",
            "--target",
            WASM,
            "-p",
            "backchain-web",
        ])
        .env(
            "CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUNNER",
            root.join(".tools/bin/wasm-bindgen-test-runner"),
        );
    if let Some(driver) = which("chromedriver") {
        command.env("CHROMEDRIVER", driver);
    }
    session.runner("wasm tests", &mut command)
}

/// Whether some Rust file below `directory` uses wasm-bindgen's tests.
fn mentions_tests(directory: &Path) -> Result<bool> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            if mentions_tests(&path)? {
                return Ok(true);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs")
            && fs::read_to_string(&path)?.contains("wasm_bindgen_test")
        {
            return Ok(true);
        }
    }
    Ok(false)
}
