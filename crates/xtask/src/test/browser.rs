//! The finished site in Chromium and Firefox: Node's test runner over `tests/browser/*.test.mjs`.
//!
//! The tests get `BACKCHAIN_URL`, the address of the site; `BACKCHAIN_BIN`, the command; and
//! `BACKCHAIN_CHROMIUM` and `BACKCHAIN_FIREFOX`, the browsers.

use std::fs;
use std::path::PathBuf;

use anyhow::Result;

use super::Session;
use crate::cmd::{self, which};
use crate::serve::Site;
use crate::{build, setup, size};

/// Milliseconds after which a test, or a whole file of them, counts as hanging.
const TEST_TIMEOUT: &str = "--test-timeout=1200000";

pub(super) fn run(session: &mut Session) -> Result<()> {
    let files = files()?;
    if files.is_empty() {
        cmd::say("there are no tests in tests/browser/");
        return Ok(());
    }
    setup::oracle()?;
    setup::browser()?;
    build::web()?;
    let dist = cmd::root().join("dist");
    session.figures.extend(size::figures(&dist)?);
    let backchain = build::cli_for_tests()?;
    let site = Site::start(&dist, 0)?;

    let mut node = cmd::command("node");
    node.args(["--test", "--test-reporter=spec"]);
    if setup::node_version().is_some_and(|version| version >= (20, 11)) {
        node.arg(TEST_TIMEOUT);
    }
    node.args(files)
        .env("BACKCHAIN_URL", site.address())
        .env("BACKCHAIN_BIN", backchain);
    if let Some(chromium) = which("chromium") {
        node.env("BACKCHAIN_CHROMIUM", chromium);
    }
    if let Some(firefox) = which("firefox-esr") {
        node.env("BACKCHAIN_FIREFOX", firefox);
    }
    session.runner("browser tests", &mut node)
}

/// The test files, by name: what `node --test` makes of a directory depends on its version.
fn files() -> Result<Vec<PathBuf>> {
    let directory = cmd::root().join("tests/browser");
    let mut files = Vec::new();
    if directory.is_dir() {
        for entry in fs::read_dir(directory)? {
            let path = entry?.path();
            if path.to_string_lossy().ends_with(".test.mjs") {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}
