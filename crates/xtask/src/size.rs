//! How large the site is, as a visitor downloads it.

use std::fs::{self, File};
use std::path::Path;
use std::process::Stdio;

use anyhow::Result;

use crate::cmd;

/// Says how large each wasm file of the site is, and all files together, before and after
/// compression.
pub(crate) fn report(dist: &Path) -> Result<()> {
    let mut files = Vec::new();
    collect(dist, &mut files)?;
    files.sort();
    let (mut plain, mut packed) = (0, 0);
    for file in &files {
        let length = fs::metadata(file)?.len();
        let gzip = gzipped(file).unwrap_or(length);
        plain += length;
        packed += gzip;
        if file
            .extension()
            .is_some_and(|extension| extension == "wasm")
        {
            let name = file.strip_prefix(dist).unwrap_or(file);
            cmd::say(&format!(
                "{}: {length} bytes, {gzip} with gzip",
                name.display()
            ));
        }
    }
    cmd::say(&format!(
        "the site: {} files, {plain} bytes, {packed} with gzip",
        files.len()
    ));
    Ok(())
}

fn collect(directory: &Path, files: &mut Vec<std::path::PathBuf>) -> Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            collect(&entry.path(), files)?;
        } else {
            files.push(entry.path());
        }
    }
    Ok(())
}

/// The length in bytes of a file after `gzip -9`, or `None` without gzip.
fn gzipped(file: &Path) -> Option<u64> {
    let mut gzip = cmd::command("gzip");
    gzip.args(["-9", "-c"])
        .stdin(File::open(file).ok()?)
        .stderr(Stdio::null());
    let output = gzip.output().ok()?;
    u64::try_from(output.stdout.len()).ok()
}
