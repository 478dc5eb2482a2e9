//! Images that are wrong in every way that was thought of, the same ones every time.
//!
//! `cargo run -p backchain-tests --bin malformed DIR` writes them; `tests/hostile.rs` shows
//! them to the command line and to the engine.

mod chains;
mod data;
mod header;
pub mod sound;
mod tables;
mod truncated;

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// The bytes of a file, holes left out.
#[derive(Debug, Clone, Default)]
pub struct Content {
    /// Bytes at the start.
    pub bytes: Vec<u8>,
    /// Bytes elsewhere.
    pub islands: Vec<(u64, Vec<u8>)>,
    /// Length, if it is more than the bytes take.
    pub len: Option<u64>,
}

impl From<Vec<u8>> for Content {
    fn from(bytes: Vec<u8>) -> Self {
        Self {
            bytes,
            ..Self::default()
        }
    }
}

impl Content {
    fn write(&self, path: &Path) -> io::Result<()> {
        let file = File::create(path)?;
        file.write_all_at(&self.bytes, 0)?;
        for (at, bytes) in &self.islands {
            file.write_all_at(bytes, *at)?;
        }
        match self.len {
            Some(len) => file.set_len(len),
            None => Ok(()),
        }
    }

    /// The length of the file.
    pub fn len(&self) -> u64 {
        let end = |at: u64, bytes: &[u8]| at + u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let ends = self.islands.iter().map(|(at, bytes)| end(*at, bytes));
        let written = ends.max().unwrap_or(0).max(end(0, &self.bytes));
        self.len.map_or(written, |len| len.max(written))
    }

    /// Whether the file has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// One case: the files of a directory, the first of which is the image to look at.
#[derive(Debug, Clone)]
pub struct Case {
    /// A name for the case, also the name of its directory.
    pub name: String,
    /// Names and contents of its files.
    pub files: Vec<(String, Content)>,
}

impl Case {
    fn new(name: &str, content: impl Into<Content>) -> Self {
        Self {
            name: name.to_owned(),
            files: vec![("image.qcow2".to_owned(), content.into())],
        }
    }

    fn with(mut self, file: &str, content: impl Into<Content>) -> Self {
        self.files.push((file.to_owned(), content.into()));
        self
    }

    /// Name of the file to look at.
    pub fn image(&self) -> &str {
        self.files.first().map_or("", |(name, _)| name)
    }

    /// Writes the case's files into `dir`.
    pub fn write(&self, dir: &Path) -> io::Result<()> {
        fs::create_dir_all(dir)?;
        for (name, content) in &self.files {
            content.write(&dir.join(name))?;
        }
        Ok(())
    }
}

/// All cases.
pub fn all() -> Vec<Case> {
    let mut list = Vec::new();
    list.extend(truncated::cases());
    list.extend(header::cases());
    list.extend(tables::cases());
    list.extend(data::cases());
    list.extend(chains::cases());
    list
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn there_are_enough_cases_and_their_names_are_unique() {
        let cases = all();
        let names: BTreeSet<_> = cases.iter().map(|c| c.name.as_str()).collect();
        assert_eq!(names.len(), cases.len());
        assert!(cases.len() >= 60, "only {}", cases.len());
    }
}
