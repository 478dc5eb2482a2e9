//! Programs from Debian's packages.

use std::fs;
use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::cmd::{self, output_of, run_quietly, step, which};

/// Installs the packages of those programs that are not in `PATH`: pairs of program, package.
pub(super) fn programs(wanted: &[(&str, &str)]) -> Result<()> {
    let mut packages: Vec<&str> = wanted
        .iter()
        .filter(|(program, _)| which(program).is_none())
        .map(|&(_, package)| package)
        .collect();
    packages.dedup();
    if packages.is_empty() {
        return Ok(());
    }
    install(&packages, None)
}

/// Installs or upgrades packages, from the backports of a release where one is given.
///
/// The machine's own list of package sources stays as it is: backports are named in a copy.
pub(super) fn install(packages: &[&str], backports_of: Option<&str>) -> Result<()> {
    let names = packages.join(" ");
    let by_hand = format!("apt-get install --no-install-recommends {names}");
    if which("apt-get").is_none() {
        bail!("{names} missing, and this is not Debian: install by your system's means");
    }
    let root = output_of(cmd::command("id").arg("-u")).as_deref() == Some("0");
    if !root && output_of(cmd::command("sudo").args(["-n", "true"])).is_none() {
        bail!("{names} missing; as root, run: {by_hand}");
    }
    let mut options = Vec::new();
    let mut from = "Debian".to_owned();
    if let Some(release) = backports_of {
        let suite = format!("{release}-backports");
        options.push(format!(
            "Dir::Etc::SourceList={}",
            sources_with(&suite)?.display()
        ));
        from = suite;
    }
    let apt = |arguments: &[&str]| {
        let mut command = if root {
            cmd::command("env")
        } else {
            cmd::command("sudo")
        };
        if !root {
            command.args(["-n", "env"]);
        }
        command
            .args(["DEBIAN_FRONTEND=noninteractive", "apt-get"])
            .args(arguments);
        for option in &options {
            command.args(["-o", option]);
        }
        command
    };
    step(&format!("installing {names} from {from}"), || {
        // Old package lists name versions that are gone. Some source of the machine may be out
        // of reach without harm, so only the installation must succeed.
        if let Err(error) = run_quietly(&mut apt(&["update"])) {
            cmd::say(&format!(
                "{error:#}; going on with the package lists there are"
            ));
        }
        let mut install = apt(&["install", "-y", "--no-install-recommends"]);
        if backports_of.is_some() {
            install.args(["-t", &from]);
        }
        run_quietly(install.args(packages))
    })
}

/// A copy of the machine's main list of package sources with one more suite.
fn sources_with(suite: &str) -> Result<PathBuf> {
    let own = fs::read_to_string("/etc/apt/sources.list").unwrap_or_default();
    let directory = cmd::root().join("target/xtask");
    fs::create_dir_all(&directory)?;
    let file = directory.join("apt-sources.list");
    fs::write(
        &file,
        format!("{own}\ndeb http://deb.debian.org/debian {suite} main\n"),
    )?;
    Ok(file)
}
