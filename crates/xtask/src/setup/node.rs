//! Node.js, and the packages of `package-lock.json`: wasm-opt for the site, a driver of
//! browsers for the tests. Nothing of them is shipped.

use std::fs;

use anyhow::{Result, bail};

use super::debian;
use crate::cmd::{self, output_of, run, step};

/// What Debian 12 has, and the packages need.
const OLDEST: u32 = 18;

/// The lock file as it was when the packages were installed.
const INSTALLED: &str = "node_modules/.installed-package-lock.json";

/// Installs the packages unless they are those of the lock file.
pub(super) fn packages() -> Result<()> {
    program()?;
    let root = cmd::root();
    let lock = fs::read(root.join("package-lock.json"))?;
    if fs::read(root.join(INSTALLED)).is_ok_and(|installed| installed == lock) {
        return Ok(());
    }
    step("installing the npm packages of package-lock.json", || {
        // No scripts: none of the packages needs one, and a browser must not be downloaded.
        run(cmd::command("npm").args([
            "ci",
            "--ignore-scripts",
            "--no-audit",
            "--no-fund",
            "--loglevel=error",
        ]))
    })?;
    fs::write(root.join(INSTALLED), lock)?;
    Ok(())
}

fn program() -> Result<()> {
    debian::programs(&[("node", "nodejs"), ("npm", "npm")])?;
    match version() {
        Some((major, _)) if major >= OLDEST => Ok(()),
        Some((major, minor)) => bail!("Node.js {major}.{minor} is too old, {OLDEST} is needed"),
        None => bail!("node --version says nothing that looks like a version"),
    }
}

/// The version of Node.js: major and minor.
pub(crate) fn version() -> Option<(u32, u32)> {
    let said = output_of(cmd::command("node").arg("--version"))?;
    let mut parts = said.strip_prefix('v')?.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}
