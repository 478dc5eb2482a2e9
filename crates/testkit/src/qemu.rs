//! Asking the installed qemu-img.

use crate::case::Files;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;
use tempfile::TempDir;

/// Whether there is a qemu-img to ask.
pub fn installed() -> bool {
    static FOUND: OnceLock<bool> = OnceLock::new();
    *FOUND.get_or_init(|| Command::new("qemu-img").arg("--version").output().is_ok())
}

/// Writes files into a fresh directory.
///
/// # Panics
/// When the disk is full or read-only.
pub fn directory(files: &Files) -> TempDir {
    let dir = tempfile::tempdir().expect("a temporary directory");
    for (name, file) in files {
        fs::write(dir.path().join(name), file.bytes()).expect("room for a small image");
    }
    dir
}

/// The guest view of an image as qemu-img reads it.
pub fn view(dir: &Path, name: &str, format: &str) -> Result<Vec<u8>, String> {
    let out = dir.join("view.raw");
    let target = out.to_string_lossy().into_owned();
    run(dir, &["convert", "-f", format, "-O", "raw", name, &target])?;
    let bytes = fs::read(&out).map_err(|e| e.to_string())?;
    fs::remove_file(&out).map_err(|e| e.to_string())?;
    Ok(bytes)
}

/// `qemu-img check`: its report where it finds anything but leaks (or, with `leaks_too`,
/// anything at all).
pub fn check(dir: &Path, name: &str, leaks_too: bool) -> Result<(), String> {
    let output = Command::new("qemu-img")
        .current_dir(dir)
        .args(["check", "-f", "qcow2", name])
        .output()
        .map_err(|e| e.to_string())?;
    match output.status.code() {
        Some(0) => Ok(()),
        Some(3) if !leaks_too => Ok(()),
        _ => Err(format!(
            "qemu-img check {name}: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        )),
    }
}

/// Has qemu-io write to a few places of an image: QEMU allocates by what the image says.
pub fn write(dir: &Path, name: &str) -> Result<(), String> {
    let output = Command::new("qemu-io")
        .current_dir(dir)
        .args(["-f", "qcow2"])
        .args(["-c", "write -P 1 0 512", "-c", "write -P 2 8192 20000"])
        .args(["-c", "write -z 4096 8192", "-c", "discard 0 65536"])
        .arg(name)
        .output();
    match output {
        // What is behind the end of a small disk is refused, which is fine; a crash is not.
        Ok(output) if output.status.code().is_some() => Ok(()),
        Ok(output) => Err(format!("qemu-io {name}: {:?}", output.status)),
        // It comes in a package of its own.
        Err(_) => Ok(()),
    }
}

/// Runs qemu-img in `dir`.
pub fn run(dir: &Path, arguments: &[&str]) -> Result<(), String> {
    let output = Command::new("qemu-img")
        .current_dir(dir)
        .args(arguments)
        .output()
        .map_err(|e| e.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!(
        "qemu-img {}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr)
    ))
}
