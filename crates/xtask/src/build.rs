//! Making the things a user gets: the command, its manual pages and completions, and the site.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::cmd::{self, step};
use crate::size;
use crate::stamp::Stamp;
use crate::{cmd::run, setup};

/// Everything the site is made from. `dist/` is as good as new while none of it changed.
const WEB_INPUTS: [&str; 11] = [
    "web",
    "static",
    "crates/format",
    "crates/core",
    "Cargo.toml",
    "Cargo.lock",
    ".cargo/config.toml",
    "rust-toolchain.toml",
    "Trunk.toml",
    "package-lock.json",
    "dist/index.html",
];

/// The command, its documentation, and the site.
pub(crate) fn all() -> Result<()> {
    cli()?;
    docs()?;
    web()
}

/// `target/release/backchain`.
pub(crate) fn cli() -> Result<()> {
    setup::rust(&[])?;
    step("building the command, target/release/backchain", || {
        run(cmd::cargo().args(["build", "--release", "--locked", "-p", "backchain-cli"]))
    })
}

/// The manual pages, in `target/docs/man/`, and completions, in `target/docs/completions/`. The
/// command, which must be built, writes both itself.
pub(crate) fn docs() -> Result<()> {
    let root = cmd::root();
    let docs = root.join("target/docs");
    let completions = docs.join("completions");
    let backchain = root.join("target/release/backchain");
    step("writing manual pages and completions, target/docs/", || {
        fs::create_dir_all(&completions)?;
        run(cmd::command(&backchain).arg("man").arg(docs.join("man")))?;
        // Each under the name by which its shell finds it.
        for (shell, file) in [
            ("bash", "backchain"),
            ("zsh", "_backchain"),
            ("fish", "backchain.fish"),
        ] {
            let output = File::create(completions.join(file))?;
            run(cmd::command(&backchain)
                .args(["completions", shell])
                .stdout(output))?;
        }
        Ok(())
    })
}

/// The site, in `dist/`.
pub(crate) fn web() -> Result<()> {
    let root = cmd::root();
    let index = root.join("dist/index.html");
    if Stamp::of("site", &WEB_INPUTS)?.is_current() && index.is_file() {
        cmd::say("the site in dist/ is up to date");
        return Ok(());
    }
    setup::site()?;
    step("building the site, dist/", || {
        // index.html names the cargo profile.
        run(cmd::command("trunk").args(["build", "--release"]))
    })?;
    if !index.is_file() {
        bail!("trunk made no dist/index.html");
    }
    // Taken only now: dist/index.html is one of the inputs, so that a site built by hand with
    // other options is not taken for ours.
    Stamp::of("site", &WEB_INPUTS)?.store()?;
    size::report(&root.join("dist"))
}

/// The command as the tests use it: the debug build, which checks arithmetic.
pub(crate) fn cli_for_tests() -> Result<PathBuf> {
    step("building the command for the tests", || {
        run(cmd::cargo().args(["build", "--locked", "-p", "backchain-cli"]))
    })?;
    Ok(cmd::root().join(Path::new("target/debug/backchain")))
}
