//! What is measured: one thing done by both programs.

use super::family::{FLAT, Fixture};

/// Where a conversion goes.
const OUT: &str = "out.img";

/// Something that both programs do.
pub(super) struct Operation {
    pub(super) name: &'static str,
    /// Command lines of backchain, run one after the other.
    pub(super) ours: Vec<Vec<String>>,
    /// Command lines of qemu-img that have the same result.
    pub(super) theirs: Vec<Vec<String>>,
    /// Files that they change.
    pub(super) changes: Vec<String>,
    /// The image that shows afterwards what the top layer showed before, unless nothing is
    /// written.
    pub(super) result: Option<String>,
}

/// Every operation on a family's files.
pub(super) fn all(fixture: &Fixture) -> Vec<Operation> {
    let (top, base) = (fixture.top(), fixture.base());
    let (second, third) = (fixture.below_top(1), fixture.below_top(2));
    let relink = ["rebase", "-u", "-F", "qcow2", "-b", base, top];
    let shallow_commit: Lines<'_> = &[&["commit", "-q", "-d", "-b", base, second], &relink];
    vec![
        reading("info", &[&["info", "--backing-chain", top]]),
        reading("map", &[&["map", "--output=json", top]]),
        reading("check top", &[&["check", top]]),
        reading("check base", &[&["check", base]]),
        writing(
            "commit",
            &[&["commit", "-q", top]],
            &[&["commit", "-q", top]],
            &[top, second],
            second,
        ),
        writing(
            "commit -d -b base",
            &[&["commit", "-q", "-d", "-b", base, top]],
            &[&["commit", "-q", "-d", "-b", base, top]],
            &[base, top],
            base,
        ),
        writing(
            "blockcommit",
            &[&["blockcommit", top, "--top", second, "--base", base]],
            shallow_commit,
            &[base, top],
            top,
        ),
        writing(
            "rebase -b base",
            &[&["rebase", "-F", "qcow2", "-b", base, top]],
            &[&["rebase", "-F", "qcow2", "-b", base, top]],
            &[top],
            top,
        ),
        writing(
            "rebase by one",
            &[&["rebase", "-F", "qcow2", "-b", third, top]],
            &[&["rebase", "-F", "qcow2", "-b", third, top]],
            &[top],
            top,
        ),
        writing(
            "pull",
            &[&["blockpull", top]],
            &[&["rebase", "-b", "", top]],
            &[top],
            top,
        ),
        writing(
            "convert raw",
            &[&["convert", "-O", "raw", top, OUT]],
            &[&["convert", "-W", "-m16", "-O", "raw", top, OUT]],
            &[],
            OUT,
        ),
        writing(
            "convert qcow2",
            &[&["convert", "-O", "qcow2", top, OUT]],
            &[&["convert", "-W", "-m16", "-O", "qcow2", top, OUT]],
            &[],
            OUT,
        ),
        reading("compare", &[&["compare", top, FLAT]]),
    ]
}

/// Command lines.
type Lines<'a> = &'a [&'a [&'a str]];

fn reading(name: &'static str, both: Lines<'_>) -> Operation {
    Operation {
        name,
        ours: owned(both),
        theirs: owned(both),
        changes: Vec::new(),
        result: None,
    }
}

fn writing(
    name: &'static str,
    ours: Lines<'_>,
    theirs: Lines<'_>,
    changes: &[&str],
    result: &str,
) -> Operation {
    Operation {
        name,
        ours: owned(ours),
        theirs: owned(theirs),
        changes: changes.iter().map(|&name| name.to_owned()).collect(),
        result: Some(result.to_owned()),
    }
}

fn owned(lines: Lines<'_>) -> Vec<Vec<String>> {
    let line = |words: &&[&str]| words.iter().map(|&word| word.to_owned()).collect();
    lines.iter().map(line).collect()
}
