//! Installing what is missing.
//!
//! A fresh machine has rustup, a C compiler and Debian's base; everything else is found or
//! installed here, at the version the project pins, before the step that needs it.

mod cache;
mod cargo_tools;
mod debian;
mod node;
mod oracle;

use anyhow::{Result, bail};

use crate::cmd::{self, output_of, run, step};

pub(crate) use node::version as node_version;
pub(crate) use oracle::install as oracle;

/// The target of the web app.
pub(crate) const WASM: &str = "wasm32-unknown-unknown";

/// A part of the Rust toolchain that is not always installed with it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// The standard library for [`WASM`].
    Wasm,
    Rustfmt,
    Clippy,
}

/// All tools of all commands.
pub(crate) fn everything() -> Result<()> {
    lint()?;
    site()?;
    oracle()?;
    browser()?;
    cmd::say("everything is installed");
    Ok(())
}

/// What checking the sources needs.
pub(crate) fn lint() -> Result<()> {
    rust(&[Part::Wasm, Part::Rustfmt, Part::Clippy])?;
    cargo_tools::install(&cargo_tools::CARGO_DENY)
}

/// What building the site needs.
pub(crate) fn site() -> Result<()> {
    rust(&[Part::Wasm])?;
    cargo_tools::install(&cargo_tools::WASM_BINDGEN)?;
    cargo_tools::install(&cargo_tools::TRUNK)?;
    node::packages()
}

/// What tests in wasm need beside a browser: wasm-bindgen's test runner.
pub(crate) fn wasm_test_runner() -> Result<()> {
    rust(&[Part::Wasm])?;
    cargo_tools::install(&cargo_tools::WASM_BINDGEN)
}

/// The browsers, and the driver of one.
pub(crate) fn browser() -> Result<()> {
    debian::programs(&[
        ("chromium", "chromium"),
        ("chromedriver", "chromium-driver"),
        ("firefox-esr", "firefox-esr"),
    ])
}

/// Parts of the Rust toolchain, which `rust-toolchain.toml` names but rustup installs by itself
/// only where `RUSTUP_AUTO_INSTALL` is not 0.
pub(crate) fn rust(parts: &[Part]) -> Result<()> {
    let sysroot = output_of(cmd::command("rustc").args(["--print", "sysroot"]));
    let Some(sysroot) = sysroot.map(std::path::PathBuf::from) else {
        bail!("rustc does not run; install rustup from https://rustup.rs");
    };
    for part in parts {
        let (place, kind, name) = match part {
            Part::Wasm => (sysroot.join("lib/rustlib").join(WASM), "target", WASM),
            Part::Rustfmt => (sysroot.join("bin/rustfmt"), "component", "rustfmt"),
            Part::Clippy => (sysroot.join("bin/cargo-clippy"), "component", "clippy"),
        };
        if place.exists() {
            continue;
        }
        step(&format!("installing the Rust {kind} {name}"), || {
            run(cmd::command("rustup").args([kind, "add", name]))
        })?;
    }
    Ok(())
}
