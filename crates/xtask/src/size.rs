//! How large the site is, as a visitor downloads it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::Result;

use crate::cmd;

/// Lengths in bytes of one file or of many: as it is, and as servers send it.
#[derive(Clone, Copy, Default)]
struct Sizes {
    plain: u64,
    gzip: u64,
    brotli: u64,
}

impl Sizes {
    fn of(file: &Path) -> Result<Self> {
        let plain = fs::metadata(file)?.len();
        let mut packed = file.as_os_str().to_owned();
        packed.push(".br");
        Ok(Self {
            plain,
            gzip: gzipped(file).unwrap_or(plain),
            brotli: fs::metadata(packed).map_or(plain, |packed| packed.len()),
        })
    }

    fn add(&mut self, other: Self) {
        self.plain += other.plain;
        self.gzip += other.gzip;
        self.brotli += other.brotli;
    }

    fn words(self, what: &str) -> String {
        let Self {
            plain,
            gzip,
            brotli,
        } = self;
        format!("{what}: {plain} bytes, {gzip} with gzip, {brotli} with brotli")
    }
}

/// Says how large each wasm file of the site is, and all files together, before and after
/// compression.
pub(crate) fn report(dist: &Path) -> Result<()> {
    figures(dist)?.iter().for_each(|figure| cmd::say(figure));
    Ok(())
}

/// The same as lines.
pub(crate) fn figures(dist: &Path) -> Result<Vec<String>> {
    let mut files = Vec::new();
    collect(dist, &mut files)?;
    files.retain(|file| !has_extension(file, "br"));
    files.sort();
    let mut lines = Vec::new();
    let (mut all, mut fonts) = (Sizes::default(), Sizes::default());
    for file in &files {
        let sizes = Sizes::of(file)?;
        all.add(sizes);
        if has_extension(file, "woff2") {
            fonts.add(sizes);
        }
        if has_extension(file, "wasm") {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            // Without the hash of its content, which says nothing here.
            let name = if name.starts_with("app-") {
                "app.wasm".into()
            } else {
                name
            };
            lines.push(sizes.words(&name));
        }
    }
    lines.push(fonts.words("fonts"));
    lines.push(all.words(&format!("the whole site, {} files", files.len())));
    Ok(lines)
}

fn has_extension(file: &Path, wanted: &str) -> bool {
    file.extension()
        .is_some_and(|extension| extension == wanted)
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
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
