//! Running cases, and telling what came of them.

use super::case::{Aspect, Case, Setup, Step};
use super::deliberate::{Deliberate, Own};
use super::normal::{self, Strictness};
use super::{judge, setup, tool};
use crate::Said;
use std::fmt::Write;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// What came of many cases.
#[derive(Debug, Default)]
pub struct Report {
    /// Cases.
    pub cases: usize,
    /// Runs of each tool.
    pub runs: usize,
    /// Cases with a difference that is there on purpose.
    pub deliberate: usize,
    /// What is wrong, a text for each case, in the order of the cases.
    pub wrong: Vec<String>,
}

/// One thing that differs.
struct Difference {
    /// `run 1 stderr`, `base.qcow2 content`.
    what: String,
    theirs: String,
    ours: String,
}

/// What came of one case.
struct Result {
    runs: Vec<(Said, Said)>,
    differences: Vec<Difference>,
    dir: PathBuf,
}

/// Runs `cases` with `own`, on as many threads as the machine has, and compares them with
/// qemu-img.
///
/// # Panics
/// When a thread panics.
pub fn run(cases: &[Case], own: &Path, deliberate: &[Deliberate]) -> Report {
    let threads = thread::available_parallelism().map_or(2, usize::from);
    let next = AtomicUsize::new(0);
    let results = Mutex::new(Vec::new());
    let work = || {
        while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
            let result = one(case, own);
            let entry = deliberate.iter().find(|entry| entry.case == case.title);
            let wrong = match &result {
                Ok(result) => verdict(case, result, entry),
                Err(error) => Some(format!("it could not be run: {error}\n")),
            };
            let mut results = results.lock().expect("no thread panicked");
            results.push((case, wrong, entry.is_some()));
        }
    };
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    let mut results = results.into_inner().expect("no thread panicked");
    results.sort_by_key(|(case, ..)| (case.file.clone(), case.line));
    let mut report = Report {
        cases: cases.len(),
        runs: cases.iter().map(|case| case.runs().count()).sum(),
        ..Report::default()
    };
    for (case, wrong, listed) in results {
        match wrong {
            Some(text) => {
                let head = format!("{}.case:{}: {}", case.file, case.line, case.title);
                report.wrong.push(format!("=== {head}\n{text}"));
            }
            None if listed => report.deliberate += 1,
            None => {}
        }
    }
    report
}

/// Runs one case with both tools.
///
/// Both work in a directory of the same path, one after the other: what they say about it needs
/// no translation, and absolute names inside images mean the same.
fn one(case: &Case, own: &Path) -> std::result::Result<Result, String> {
    let failed = |error: io::Error| error.to_string();
    let root = tempfile::tempdir().map_err(failed)?;
    let (dir, saved, theirs) = (
        root.path().join("w"),
        root.path().join("saved"),
        root.path().join("theirs"),
    );
    let link = root.path().join("qemu-img");
    std::os::unix::fs::symlink(own, &link).map_err(failed)?;
    fs::create_dir(&dir).map_err(failed)?;
    let shared = case
        .steps
        .iter()
        .take_while(|step| matches!(step, Step::Setup(setup) if !matches!(setup, Setup::Hold(_))))
        .count();
    let (before, after) = case.steps.split_at(shared);
    perform(before, &dir, &link)?;
    // Both get a copy: a copy may have holes where the original has blocks that were allocated
    // and never written.
    fs::rename(&dir, &saved).map_err(failed)?;
    setup::copy(&saved, &dir).map_err(failed)?;
    let left = perform(after, &dir, Path::new("qemu-img"))?;
    fs::rename(&dir, &theirs).map_err(failed)?;
    setup::copy(&saved, &dir).map_err(failed)?;
    let right = perform(after, &dir, &link)?;
    let runs: Vec<_> = left.into_iter().zip(right).collect();
    let mut differences = Vec::new();
    compare_runs(case, &runs, &mut differences);
    for found in judge::directories(case, &theirs, &dir).map_err(failed)? {
        differences.push(Difference {
            what: format!("{} {}", found.name, found.aspect.name()),
            theirs: found.theirs,
            ours: found.ours,
        });
    }
    Ok(Result {
        runs,
        differences,
        dir,
    })
}

fn perform(steps: &[Step], dir: &Path, program: &Path) -> std::result::Result<Vec<Said>, String> {
    let mut held = Vec::new();
    let mut runs = Vec::new();
    for step in steps {
        match step {
            Step::Setup(setup) => held.extend(setup::perform(setup, dir)?),
            Step::Run(arguments) => {
                let arguments = setup::in_dir(arguments, dir);
                let said = tool::run(program, &arguments, dir);
                runs.push(said.map_err(|error| error.to_string())?);
            }
        }
    }
    Ok(runs)
}

fn compare_runs(case: &Case, runs: &[(Said, Said)], differences: &mut Vec<Difference>) {
    let mut strictness = Strictness::SameBytes;
    for (index, (arguments, (theirs, ours))) in case.runs().zip(runs).enumerate() {
        let mut differ = |aspect: Aspect, theirs: String, ours: String| {
            if theirs != ours && case.judges(aspect) {
                differences.push(Difference {
                    what: format!("run {} {}", index + 1, aspect.name()),
                    theirs,
                    ours,
                });
            }
        };
        differ(Aspect::Exit, exit(theirs), exit(ours));
        let form = |text: &str| normal::output(arguments, text, strictness);
        let is_json = normal::json(&theirs.out, false, strictness).is_some();
        if case.judges(Aspect::Stdout) || (is_json && case.judges(Aspect::Json)) {
            let aspect = if case.judges(Aspect::Stdout) {
                Aspect::Stdout
            } else {
                Aspect::Json
            };
            differ(aspect, form(&theirs.out), form(&ours.out));
        }
        differ(Aspect::Stderr, form(&theirs.err), form(&ours.err));
        if normal::writes(arguments) {
            strictness = Strictness::SameMeaning;
        }
    }
}

fn exit(said: &Said) -> String {
    said.code
        .map_or("ended by a signal".to_owned(), |code| code.to_string())
}

/// What is wrong with the result, given what is expected to differ.
fn verdict(case: &Case, result: &Result, entry: Option<&Deliberate>) -> Option<String> {
    let mut text = String::new();
    let mut expected: Vec<String> = Vec::new();
    if let Some(entry) = entry {
        expected.extend(entry.files.iter().cloned());
        for (number, own) in &entry.run {
            expected.extend(own_aspects(number, own));
            text += &check_own(number, own, result);
        }
    }
    for difference in &result.differences {
        if !expected.contains(&difference.what) {
            let (equal, theirs, ours) = what_differs(&difference.theirs, &difference.ours);
            let note = if equal > 0 {
                format!(" ({equal} equal lines not shown)")
            } else {
                String::new()
            };
            // Writing to a string cannot fail.
            let _ = write!(
                text,
                "  {} differs{note}\n{}{}",
                difference.what,
                block("qemu-img", &theirs),
                block("backchain", &ours)
            );
        }
    }
    for what in expected {
        if !result.differences.iter().any(|d| d.what == what) {
            let _ = writeln!(text, "  {what} does not differ, but is listed as if it did");
        }
    }
    if text.is_empty() {
        return None;
    }
    for (index, arguments) in case.runs().enumerate() {
        let _ = writeln!(text, "  run {} was: {}", index + 1, arguments.join(" "));
    }
    Some(text)
}

fn own_aspects(number: &str, own: &Own) -> Vec<String> {
    let given = [
        (own.exit.is_some(), Aspect::Exit),
        (own.stdout.is_some(), Aspect::Stdout),
        (own.stderr.is_some(), Aspect::Stderr),
    ];
    let given = given.iter().filter(|(given, _)| *given);
    given
        .map(|(_, aspect)| format!("run {number} {}", aspect.name()))
        .collect()
}

/// Compares what the program did with what the list says it does.
fn check_own(number: &str, own: &Own, result: &Result) -> String {
    let run = number
        .parse::<usize>()
        .ok()
        .and_then(|number| result.runs.get(number.checked_sub(1)?));
    let Some((_, said)) = run else {
        return format!("  there is no run {number}\n");
    };
    let mut text = String::new();
    if own.exit.is_some() && own.exit != said.code {
        let _ = writeln!(
            text,
            "  run {number} exit: {} is listed, it is {}",
            own.exit.unwrap_or(-1),
            exit(said)
        );
    }
    let dir = result.dir.to_string_lossy();
    for (name, listed, is) in [
        ("stdout", &own.stdout, &said.out),
        ("stderr", &own.stderr, &said.err),
    ] {
        let is = is.replace(dir.as_ref(), "$DIR");
        if let Some(listed) = listed
            && normal::output(&[], listed, Strictness::SameMeaning)
                != normal::output(&[], &is, Strictness::SameMeaning)
        {
            let _ = write!(
                text,
                "  run {number} {name} is not what is listed\n{}{}",
                block("listed", listed),
                block("backchain", &is)
            );
        }
    }
    text
}

/// Two texts without the lines that both begin and end with, and how many those are.
fn what_differs(theirs: &str, ours: &str) -> (usize, String, String) {
    let (mut a, mut b): (Vec<&str>, Vec<&str>) = (theirs.lines().collect(), ours.lines().collect());
    if a.len().max(b.len()) < 12 {
        return (0, theirs.to_owned(), ours.to_owned());
    }
    let head = a.iter().zip(&b).take_while(|(a, b)| a == b).count();
    a.drain(..head);
    b.drain(..head);
    let pairs = a.iter().rev().zip(b.iter().rev());
    let tail = pairs.take_while(|(a, b)| a == b).count();
    a.truncate(a.len() - tail);
    b.truncate(b.len() - tail);
    (head + tail, a.join("\n"), b.join("\n"))
}

/// A text behind a bar, with its title.
fn block(title: &str, text: &str) -> String {
    let mut block = format!("    {title}:\n");
    if text.is_empty() {
        block.push_str("    |(nothing)\n");
    }
    for line in text.lines() {
        let _ = writeln!(block, "    | {}", line.replace('\r', "\\r"));
    }
    block
}
