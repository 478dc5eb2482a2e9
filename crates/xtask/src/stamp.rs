//! Was this made from what lies here now?
//!
//! A stamp is a small file in `target/xtask/` that holds a fingerprint of the inputs something
//! was made from: names, lengths and modification times.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use anyhow::Result;

use crate::cmd;

/// The inputs of one product.
pub(crate) struct Stamp {
    file: PathBuf,
    fingerprint: String,
}

impl Stamp {
    /// Takes the fingerprint of `inputs`: files, or directories with all they contain, relative
    /// to the project's root. An input that does not exist counts as such.
    pub(crate) fn of(name: &str, inputs: &[&str]) -> Result<Self> {
        let root = cmd::root();
        let mut hasher = DefaultHasher::new();
        for input in inputs {
            add(&root.join(input), &mut hasher)?;
        }
        Ok(Self {
            file: root.join("target/xtask").join(name),
            fingerprint: format!("{:016x}\n", hasher.finish()),
        })
    }

    /// Whether the product was last made from these inputs.
    pub(crate) fn is_current(&self) -> bool {
        fs::read_to_string(&self.file).is_ok_and(|stored| stored == self.fingerprint)
    }

    /// Remembers that the product is now made from these inputs.
    pub(crate) fn store(&self) -> Result<()> {
        if let Some(directory) = self.file.parent() {
            fs::create_dir_all(directory)?;
        }
        fs::write(&self.file, &self.fingerprint)?;
        Ok(())
    }
}

fn add(path: &Path, hasher: &mut DefaultHasher) -> Result<()> {
    path.hash(hasher);
    let Ok(metadata) = fs::metadata(path) else {
        return Ok(());
    };
    if metadata.is_dir() {
        let mut names = fs::read_dir(path)?
            .map(|entry| Ok(entry?.path()))
            .collect::<Result<Vec<_>>>()?;
        names.sort();
        for name in names {
            add(&name, hasher)?;
        }
    } else {
        metadata.len().hash(hasher);
        let modified = metadata
            .modified()?
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        modified.hash(hasher);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fingerprint(path: &Path) -> u64 {
        let mut hasher = DefaultHasher::new();
        add(path, &mut hasher).unwrap();
        hasher.finish()
    }

    /// A build may be skipped only if no input changed: new, longer and removed files must all
    /// give another fingerprint, and nothing but them.
    #[test]
    fn every_change_of_a_tree_shows() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        fs::create_dir(root.join("src")).unwrap();
        fs::write(root.join("src/a"), "1").unwrap();
        let first = fingerprint(root);
        assert_eq!(first, fingerprint(root));

        fs::write(root.join("src/a"), "12").unwrap();
        let longer = fingerprint(root);
        assert_ne!(first, longer);

        fs::write(root.join("src/b"), "").unwrap();
        let more = fingerprint(root);
        assert_ne!(longer, more);

        fs::remove_file(root.join("src/b")).unwrap();
        assert_eq!(longer, fingerprint(root));
    }
}
