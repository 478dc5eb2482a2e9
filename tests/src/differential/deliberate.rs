//! The differences that are there on purpose.
//!
//! ```toml
//! [[difference]]
//! case = "commit: a corrupt base is refused"
//! reason = "a corrupt image is never written to"
//! files = ["base.qcow2 content"]   # what differs in the files afterwards
//! [difference.run.1]               # the first run of the case; only what differs
//! exit = 4
//! stderr = "qemu-img: ...\n"       # exactly what the program says, $DIR for the directory
//! ```
//!
//! An entry that does not differ any more is a mistake, as is one without a case.

use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// One entry of the list.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deliberate {
    /// Title of the case.
    pub case: String,
    /// Why it is right to differ.
    pub reason: String,
    /// What differs in the files: `NAME ASPECT`.
    #[serde(default)]
    pub files: Vec<String>,
    /// What differs in the runs, by their number from 1.
    #[serde(default)]
    pub run: BTreeMap<String, Own>,
}

/// What the program under test does instead; what is not given does not differ.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Own {
    /// Its exit code.
    pub exit: Option<i32>,
    /// Its standard output.
    pub stdout: Option<String>,
    /// Its standard error.
    pub stderr: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    #[serde(default)]
    difference: Vec<Deliberate>,
}

/// Reads the list.
///
/// # Errors
/// A message when it is not readable, or has a case twice or without a reason.
pub fn read(path: &Path) -> Result<Vec<Deliberate>, String> {
    let text = fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    parse(&text)
}

fn parse(text: &str) -> Result<Vec<Deliberate>, String> {
    let list: List = toml::from_str(text).map_err(|error| error.to_string())?;
    let list = list.difference;
    for (index, entry) in list.iter().enumerate() {
        if entry.reason.trim().is_empty() {
            return Err(format!("'{}' has no reason", entry.case));
        }
        if list.iter().skip(index + 1).any(|e| e.case == entry.case) {
            return Err(format!("'{}' is listed twice", entry.case));
        }
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENTRY: &str = "[[difference]]\ncase = \"a\"\nreason = \"b\"\nfiles = [\"x content\"]\n\
                         [difference.run.2]\nexit = 4\nstderr = \"no\\n\"\n";

    #[test]
    fn entries() {
        let list = parse(ENTRY).unwrap();
        let entry = list.first().unwrap();
        assert_eq!((entry.case.as_str(), entry.files.len()), ("a", 1));
        let own = &entry.run["2"];
        assert_eq!((own.exit, own.stderr.as_deref()), (Some(4), Some("no\n")));
        assert!(own.stdout.is_none());
    }

    #[test]
    fn mistakes_are_told() {
        assert!(
            parse(&format!("{ENTRY}{ENTRY}"))
                .unwrap_err()
                .contains("twice")
        );
        assert!(parse("[[difference]]\ncase = \"a\"\nreason = \" \"\n").is_err());
        assert!(parse("[[difference]]\ncase = \"a\"\nreason = \"b\"\nruns = 1\n").is_err());
    }
}
