//! qemu-img and qemu-io, which the tests compare with.

use std::fs;

use anyhow::{Result, bail};

use super::debian;
use crate::cmd::{self, output_of, which};

/// The first version whose output is the one the command reproduces.
const OLDEST: (u32, u32) = (10, 0);

/// Installs qemu-utils where it is missing or too old to compare with.
pub(crate) fn install() -> Result<()> {
    if is_recent() {
        return Ok(());
    }
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    // Debian 12 itself has version 7.
    let backports = release
        .lines()
        .any(|line| line == "VERSION_CODENAME=bookworm");
    debian::install(&["qemu-utils"], backports.then_some("bookworm"))?;
    if !is_recent() {
        let (major, minor) = OLDEST;
        bail!("qemu-img {major}.{minor} or later is needed to compare with, and was not found");
    }
    Ok(())
}

fn is_recent() -> bool {
    which("qemu-io").is_some() && version().is_some_and(|version| version >= OLDEST)
}

/// The version of qemu-img: major and minor.
fn version() -> Option<(u32, u32)> {
    let said = output_of(cmd::command("qemu-img").arg("--version"))?;
    let mut parts = said.strip_prefix("qemu-img version ")?.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}
