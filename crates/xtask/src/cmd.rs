//! Running other programs, and saying so.

use std::env;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

/// The root directory of the project.
pub(crate) fn root() -> PathBuf {
    // Cargo sets the variable for what it runs. The value of compile time is for a binary
    // started by hand.
    let manifest =
        env::var("CARGO_MANIFEST_DIR").unwrap_or_else(|_| env!("CARGO_MANIFEST_DIR").to_owned());
    let manifest = Path::new(&manifest);
    match manifest.ancestors().nth(2) {
        Some(root) => root.to_owned(),
        None => manifest.to_owned(),
    }
}

/// Does one step of work: says what it is, and when it is done, how long it took.
pub(crate) fn step<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    say(&format!("{what} ..."));
    let start = Instant::now();
    let value = work().with_context(|| format!("{what} failed"))?;
    say(&format!(
        "{what}: done in {:.1} s",
        start.elapsed().as_secs_f64()
    ));
    Ok(value)
}

/// Prints one line about what is being done.
///
/// Lines go to standard output, so that they keep their place among the totals of test runners.
pub(crate) fn say(line: &str) {
    println!("xtask: {line}");
}

/// A command run in the project's root, with the project's own tools first in `PATH` and
/// nothing on its standard input.
pub(crate) fn command(program: impl AsRef<OsStr>) -> Command {
    let root = root();
    let mut path = vec![root.join(".tools/bin"), root.join("node_modules/.bin")];
    if let Some(outer) = env::var_os("PATH") {
        path.extend(env::split_paths(&outer));
    }
    let mut command = Command::new(program);
    command.current_dir(root).stdin(Stdio::null());
    if let Ok(path) = env::join_paths(path) {
        command.env("PATH", path);
    }
    // Set by the cargo that started us, for this crate: not for others.
    for (name, _) in env::vars_os() {
        let Some(text) = name.to_str() else { continue };
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            command.env_remove(name);
        }
    }
    command
}

/// The cargo that started us.
pub(crate) fn cargo() -> Command {
    command(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Runs a command to its end. Its failure is an error that names it.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("cannot run {}", shown(command)))?;
    if !status.success() {
        bail!("{} ended with {status}", shown(command));
    }
    Ok(())
}

/// Like [`run`], but shows what the command prints only when it fails.
pub(crate) fn run_quietly(command: &mut Command) -> Result<()> {
    let output = command
        .output()
        .with_context(|| format!("cannot run {}", shown(command)))?;
    if !output.status.success() {
        std::io::stdout().write_all(&output.stdout)?;
        std::io::stderr().write_all(&output.stderr)?;
        bail!("{} ended with {}", shown(command), output.status);
    }
    Ok(())
}

/// What a command prints on its standard output, without the white space around it, or `None`
/// when it cannot be run or fails.
pub(crate) fn output_of(command: &mut Command) -> Option<String> {
    let output = command.stderr(Stdio::null()).output().ok()?;
    if !output.status.success() {
        return None;
    }
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Runs a command, passing its standard output on line by line as it comes and showing every
/// line to `look`. Returns whether the command succeeded.
pub(crate) fn stream(command: &mut Command, mut look: impl FnMut(&str)) -> Result<bool> {
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {}", shown(command)))?;
    if let Some(pipe) = child.stdout.take() {
        let mut reader = BufReader::new(pipe);
        let mut line = Vec::new();
        let mut out = std::io::stdout().lock();
        while reader.read_until(b'\n', &mut line)? > 0 {
            out.write_all(&line)?;
            out.flush()?;
            look(String::from_utf8_lossy(&line).trim_end());
            line.clear();
        }
    }
    Ok(child.wait()?.success())
}

/// The full path of a program in `PATH`, the project's own tools included.
pub(crate) fn which(program: &str) -> Option<PathBuf> {
    let root = root();
    let own = [root.join(".tools/bin"), root.join("node_modules/.bin")];
    let outer = env::var_os("PATH").unwrap_or_default();
    own.into_iter()
        .chain(env::split_paths(&outer))
        // Debian keeps some administration programs here, outside of a user's PATH.
        .chain([PathBuf::from("/usr/sbin")])
        .map(|directory| directory.join(program))
        .find(|file| file.is_file())
}

/// A command as a person would type it.
pub(crate) fn shown(command: &Command) -> String {
    let mut text = Path::new(command.get_program())
        .file_name()
        .unwrap_or(command.get_program())
        .to_string_lossy()
        .into_owned();
    for arg in command.get_args() {
        text.push(' ');
        text.push_str(&arg.to_string_lossy());
    }
    text
}
