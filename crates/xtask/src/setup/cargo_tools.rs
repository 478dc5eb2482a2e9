//! Tools written in Rust, built from their sources into `.tools/`.

use std::fs;

use anyhow::{Result, bail};

use super::cache;
use crate::cmd::{self, output_of, run, step};

/// A tool at the version the project pins.
pub(crate) struct Tool {
    pub(super) package: &'static str,
    pub(super) version: &'static str,
    /// The programs that are used of it. The first one is asked for its version.
    pub(super) programs: &'static [&'static str],
    arguments: &'static [&'static str],
}

/// Must be the version of the crate wasm-bindgen in `Cargo.lock`, and of `Trunk.toml`.
pub(crate) const WASM_BINDGEN: Tool = Tool {
    package: "wasm-bindgen-cli",
    version: "0.2.129",
    programs: &["wasm-bindgen", "wasm-bindgen-test-runner"],
    arguments: &[],
};

/// The newest one that the pinned Rust can build.
pub(crate) const TRUNK: Tool = Tool {
    package: "trunk",
    version: "0.21.14",
    programs: &["trunk"],
    // Without the parts that fetch tools and updates: Trunk finds its tools in our PATH.
    arguments: &["--no-default-features", "--features", "rustls"],
};

/// Reads `deny.toml`.
pub(crate) const CARGO_DENY: Tool = Tool {
    package: "cargo-deny",
    version: "0.20.2",
    programs: &["cargo-deny"],
    arguments: &[],
};

/// The tools run for seconds, so building them fast matters more than their speed: this takes
/// less than half of the time of their own release profile.
const CHEAP_PROFILE: [(&str, &str); 4] = [
    ("CARGO_PROFILE_RELEASE_LTO", "off"),
    ("CARGO_PROFILE_RELEASE_OPT_LEVEL", "0"),
    ("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16"),
    ("CARGO_PROFILE_RELEASE_DEBUG", "0"),
];

/// Sees to it that `.tools/bin` has the tool in its pinned version: as it is, from the cache of
/// this user, or built from its sources.
pub(crate) fn install(tool: &Tool) -> Result<()> {
    let tools = cmd::root().join(".tools");
    if is_there(tool) {
        cache::keep(tool, &tools);
        return Ok(());
    }
    if cache::fetch(tool, &tools) && is_there(tool) {
        cmd::say(&format!(
            "{} {} comes from the tools cache",
            tool.package, tool.version
        ));
        return Ok(());
    }
    let what = format!(
        "building {} {} into .tools/ (minutes, once)",
        tool.package, tool.version
    );
    let build = cmd::root().join("target/tools");
    step(&what, || {
        let mut install = cmd::cargo();
        install
            .args(["install", "--locked", "--force", "--version", tool.version])
            .args(tool.arguments)
            .arg("--root")
            .arg(&tools)
            .env("CARGO_TARGET_DIR", &build)
            .envs(CHEAP_PROFILE)
            .arg(tool.package);
        run(&mut install)
    })?;
    if !is_there(tool) {
        bail!(
            "{} was installed but does not say version {}",
            tool.package,
            tool.version
        );
    }
    cache::keep(tool, &tools);
    // Kept until here so that an interrupted build goes on where it was.
    let _ = fs::remove_dir_all(build);
    Ok(())
}

fn is_there(tool: &Tool) -> bool {
    let bin = cmd::root().join(".tools/bin");
    let Some((first, others)) = tool.programs.split_first() else {
        return true;
    };
    let said = output_of(cmd::command(bin.join(first)).arg("--version"));
    // The program's name, its version, and perhaps a commit.
    said.is_some_and(|said| said.split_whitespace().nth(1) == Some(tool.version))
        && others.iter().all(|other| bin.join(other).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(file: &str) -> String {
        fs::read_to_string(cmd::root().join(file)).unwrap()
    }

    /// wasm-bindgen refuses modules of another version than its own, and Trunk fetches tools of
    /// other versions than it is told: a pin moved in one place only would show as either.
    #[test]
    fn pinned_versions_agree() {
        let version = WASM_BINDGEN.version;
        let locked = format!("name = \"wasm-bindgen\"\nversion = \"{version}\"\n");
        assert!(text("Cargo.lock").contains(&locked), "Cargo.lock");
        let trunk = text("Trunk.toml");
        assert!(
            trunk.contains(&format!("wasm_bindgen = \"{version}\"")),
            "Trunk.toml"
        );

        let (_, after) = trunk.split_once("wasm_opt = \"version_").unwrap();
        let (wasm_opt, _) = after.split_once('"').unwrap();
        let package = format!("\"binaryen\": \"{wasm_opt}.");
        assert!(text("package.json").contains(&package), "package.json");
    }
}
