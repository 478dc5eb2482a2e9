//! Programs from Debian's packages.

use std::process::Command;

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
    let names = packages.join(" ");
    let by_hand = format!("apt-get install --no-install-recommends {names}");
    if which("apt-get").is_none() {
        bail!("{names} missing, and this is not Debian: install by your system's means");
    }
    let root = output_of(cmd::command("id").arg("-u")).as_deref() == Some("0");
    if !root && output_of(cmd::command("sudo").args(["-n", "true"])).is_none() {
        bail!("{names} missing; as root, run: {by_hand}");
    }
    step(&format!("installing {names} from Debian"), || {
        // Old package lists name versions that are gone. Some source of the machine may be out
        // of reach without harm, so only the installation must succeed.
        if let Err(error) = run_quietly(apt(root).arg("update").arg("-qq")) {
            cmd::say(&format!(
                "{error:#}; going on with the package lists there are"
            ));
        }
        run_quietly(
            apt(root)
                .args(["install", "-y", "-qq", "--no-install-recommends"])
                .args(&packages),
        )
    })
}

fn apt(root: bool) -> Command {
    let mut command;
    if root {
        command = cmd::command("env");
    } else {
        command = cmd::command("sudo");
        command.args(["-n", "env"]);
    }
    command.args(["DEBIAN_FRONTEND=noninteractive", "apt-get"]);
    command
}
