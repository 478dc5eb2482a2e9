//! The language of cases.
//!
//! ```text
//! # a comment
//! === commit: a long overlay grows its base
//! setup qemu-img create -q -f qcow2 base.qcow2 1M
//! setup qemu-io -c "write -P 0x11 0 64k" base.qcow2
//! run info base.qcow2
//! judge exit stdout
//! unlock PASSPHRASE
//! ```
//!
//! - `setup` prepares the files, see [`Setup`]. What stands before the first `run` is done once,
//!   and both tools start from a copy of it; what comes later is done after each tool's run.
//! - `run` has the arguments of both tools, quoted as for a shell (single and double quotes and
//!   backslashes; no variables but `$DIR`, the directory of the files, which is the same for
//!   both tools).
//! - `judge` restricts what is compared to the aspects it lists; say why in a comment.
//! - `unlock` is the passphrase with which encrypted images are opened for judging.

use std::fs;
use std::path::Path;

/// What is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Aspect {
    /// Exit codes of the runs.
    Exit,
    /// Standard output of the runs.
    Stdout,
    /// Standard error of the runs.
    Stderr,
    /// Standard output of the runs, where it is JSON.
    Json,
    /// Which files there are afterwards.
    Files,
    /// What `qemu-img info` says about each of them.
    Info,
    /// What `qemu-img map` says about each of them, host offsets aside.
    Map,
    /// What `qemu-img check` says about each of them.
    Check,
    /// What the guest reads from each of them.
    Content,
}

impl Aspect {
    const NAMES: [(&str, Self); 9] = [
        ("exit", Self::Exit),
        ("stdout", Self::Stdout),
        ("stderr", Self::Stderr),
        ("json", Self::Json),
        ("files", Self::Files),
        ("info", Self::Info),
        ("map", Self::Map),
        ("check", Self::Check),
        ("content", Self::Content),
    ];

    /// Its name in `judge` lines and reports.
    pub fn name(self) -> &'static str {
        let entry = Self::NAMES.iter().find(|(_, aspect)| *aspect == self);
        entry.map_or("", |(name, _)| name)
    }

    fn parse(name: &str) -> Option<Self> {
        let entry = Self::NAMES.iter().find(|(known, _)| *known == name);
        entry.map(|&(_, aspect)| aspect)
    }
}

/// One preparation of files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Setup {
    /// `qemu-img ARGUMENTS`, `qemu-io ARGUMENTS`: runs it; it has to succeed, unless the line
    /// says `try qemu-img ...`.
    Program {
        /// Its name.
        program: String,
        /// Its arguments.
        arguments: Vec<String>,
        /// A failure is no problem.
        may_fail: bool,
    },
    /// `hold ARGUMENTS`: starts `qemu-io ARGUMENTS`, which keeps its image open during the runs
    /// that follow.
    Hold(Vec<String>),
    /// `file NAME SIZE [BYTE]`: a file of that many bytes (none stored without BYTE).
    File(String, u64, Option<u8>),
    /// `poke NAME OFFSET HEXBYTES`: overwrites bytes.
    Poke(String, u64, Vec<u8>),
    /// `truncate NAME SIZE`: cuts or extends a file.
    Truncate(String, u64),
    /// `copy FROM TO`: copies a file with its holes.
    Copy(String, String),
    /// `link TARGET NAME`: a symbolic link.
    Link(String, String),
    /// `mkdir NAME`: a directory.
    Directory(String),
    /// `remove NAME`: removes a file.
    Remove(String),
    /// `text NAME "contents"`: a text file; `\n` in it is a new line.
    Text(String, String),
}

/// One line of a case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Prepares files.
    Setup(Setup),
    /// Runs the tool with these arguments.
    Run(Vec<String>),
}

/// One case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Case {
    /// Its title, unique in the suite.
    pub title: String,
    /// The file it stands in, without its extension.
    pub file: String,
    /// The line of its title.
    pub line: usize,
    /// What is done, in order.
    pub steps: Vec<Step>,
    /// What is compared; everything when empty.
    pub judged: Vec<Aspect>,
    /// The passphrase of its encrypted images.
    pub unlock: Option<String>,
}

impl Case {
    /// Whether `aspect` is compared.
    pub fn judges(&self, aspect: Aspect) -> bool {
        self.judged.is_empty() || self.judged.contains(&aspect)
    }

    /// The arguments of its runs.
    pub fn runs(&self) -> impl Iterator<Item = &[String]> {
        self.steps.iter().filter_map(|step| match step {
            Step::Run(arguments) => Some(arguments.as_slice()),
            Step::Setup(_) => None,
        })
    }
}

/// Reads all cases of a directory, in the order of files and lines.
///
/// # Errors
/// A message with file and line for the first line that is not understood, or a title that is
/// there twice.
pub fn read_all(directory: &Path) -> Result<Vec<Case>, String> {
    let entries = fs::read_dir(directory).map_err(|e| format!("{}: {e}", directory.display()))?;
    let mut paths: Vec<_> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "case")
        })
        .collect();
    paths.sort();
    let mut cases: Vec<Case> = Vec::new();
    for path in paths {
        let text = fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        for case in parse(&stem, &text)? {
            if let Some(other) = cases.iter().find(|known| known.title == case.title) {
                return Err(format!(
                    "{}.case:{}: the title '{}' is also at {}.case:{}",
                    case.file, case.line, case.title, other.file, other.line
                ));
            }
            cases.push(case);
        }
    }
    Ok(cases)
}

/// Reads the cases of one file.
///
/// # Errors
/// A message with the line that is not understood.
pub fn parse(file: &str, text: &str) -> Result<Vec<Case>, String> {
    let mut cases: Vec<Case> = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let number = index + 1;
        let at = |message: String| format!("{file}.case:{number}: {message}");
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(title) = line.strip_prefix("===") {
            cases.push(Case {
                title: title.trim().to_owned(),
                file: file.to_owned(),
                line: number,
                steps: Vec::new(),
                judged: Vec::new(),
                unlock: None,
            });
            continue;
        }
        let Some(case) = cases.last_mut() else {
            return Err(at("a line before the first title".to_owned()));
        };
        let mut words = words(line).map_err(at)?;
        let verb = words.remove(0);
        match verb.as_str() {
            "setup" => case.steps.push(Step::Setup(setup(words).map_err(at)?)),
            "run" => case.steps.push(Step::Run(words)),
            "judge" => {
                for name in &words {
                    let aspect = Aspect::parse(name);
                    case.judged
                        .push(aspect.ok_or_else(|| at(format!("nothing is called '{name}'")))?);
                }
            }
            "unlock" => case.unlock = words.pop(),
            other => return Err(at(format!("'{other}' is not setup, run, judge or unlock"))),
        }
    }
    match cases.iter().find(|case| case.runs().next().is_none()) {
        Some(case) => Err(format!("{file}.case:{}: the case runs nothing", case.line)),
        None => Ok(cases),
    }
}

fn setup(mut words: Vec<String>) -> Result<Setup, String> {
    let may_fail = words.first().is_some_and(|word| word == "try");
    if may_fail {
        words.remove(0);
    }
    if words.is_empty() {
        return Err("nothing to set up".to_owned());
    }
    let verb = words.remove(0);
    if verb == "hold" {
        return Ok(Setup::Hold(words));
    }
    if verb == "qemu-img" || verb == "qemu-io" {
        return Ok(Setup::Program {
            program: verb,
            arguments: words,
            may_fail,
        });
    }
    let mut words = words.into_iter();
    let mut next = || words.next().ok_or(format!("'{verb}' lacks an argument"));
    let setup = match verb.as_str() {
        "file" => {
            let (name, size) = (next()?, number(&next()?)?);
            let byte = match words.next() {
                Some(byte) => {
                    let byte = u8::try_from(number(&byte)?);
                    Some(byte.map_err(|_| "a byte is at most 255".to_owned())?)
                }
                None => None,
            };
            Setup::File(name, size, byte)
        }
        "poke" => Setup::Poke(next()?, number(&next()?)?, hex(&next()?)?),
        "truncate" => Setup::Truncate(next()?, number(&next()?)?),
        "copy" => Setup::Copy(next()?, next()?),
        "link" => Setup::Link(next()?, next()?),
        "mkdir" => Setup::Directory(next()?),
        "remove" => Setup::Remove(next()?),
        "text" => Setup::Text(next()?, next()?.replace("\\n", "\n")),
        other => return Err(format!("'{other}' is no set-up")),
    };
    match words.next() {
        Some(word) => Err(format!("'{word}' is too much")),
        None => Ok(setup),
    }
}

/// A decimal or hexadecimal number with an optional k, M, G or T.
fn number(text: &str) -> Result<u64, String> {
    let wrong = || format!("'{text}' is no number");
    if let Some(digits) = text.strip_prefix("0x") {
        return u64::from_str_radix(digits, 16).map_err(|_| wrong());
    }
    let (digits, shift) = match text.chars().last() {
        Some('k' | 'K') => (text.get(..text.len() - 1), 10),
        Some('M') => (text.get(..text.len() - 1), 20),
        Some('G') => (text.get(..text.len() - 1), 30),
        Some('T') => (text.get(..text.len() - 1), 40),
        _ => (Some(text), 0),
    };
    let number: u64 = digits.unwrap_or_default().parse().map_err(|_| wrong())?;
    number.checked_mul(1 << shift).ok_or_else(wrong)
}

fn hex(text: &str) -> Result<Vec<u8>, String> {
    let wrong = || format!("'{text}' are no bytes in hexadecimal");
    if !text.is_ascii() || !text.len().is_multiple_of(2) {
        return Err(wrong());
    }
    let pair = |at: usize| u8::from_str_radix(text.get(at..at + 2).unwrap_or_default(), 16);
    (0..text.len())
        .step_by(2)
        .map(|at| pair(at).map_err(|_| wrong()))
        .collect()
}

/// Splits a line as a shell does, without expanding anything.
fn words(line: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            c if c.is_whitespace() => words.extend(word.take()),
            '\'' => {
                let word = word.get_or_insert_with(String::new);
                loop {
                    match chars.next() {
                        Some('\'') => break,
                        Some(c) => word.push(c),
                        None => return Err("a single quote is not closed".to_owned()),
                    }
                }
            }
            '"' => {
                let word = word.get_or_insert_with(String::new);
                loop {
                    match chars.next() {
                        Some('"') => break,
                        Some('\\') => match chars.next() {
                            Some(c @ ('"' | '\\')) => word.push(c),
                            Some(c) => word.extend(['\\', c]),
                            None => return Err("nothing behind a backslash".to_owned()),
                        },
                        Some(c) => word.push(c),
                        None => return Err("a double quote is not closed".to_owned()),
                    }
                }
            }
            '\\' => match chars.next() {
                Some(c) => word.get_or_insert_with(String::new).push(c),
                None => return Err("nothing behind a backslash".to_owned()),
            },
            c => word.get_or_insert_with(String::new).push(c),
        }
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_as_for_a_shell() {
        let split = words(r#"run -c "write -P 1 0 64k" 'a "b"' "" c\ d "e\"f" "g\n""#).unwrap();
        let expected = [
            "run",
            "-c",
            "write -P 1 0 64k",
            "a \"b\"",
            "",
            "c d",
            "e\"f",
            "g\\n",
        ];
        assert_eq!(split, expected);
        for line in ["'a", "\"a", "a\\"] {
            assert!(words(line).is_err(), "{line}");
        }
    }

    #[test]
    fn every_kind_of_line() {
        let text = "# all of them\n=== one: a title\nsetup file a 1k 0xff\nsetup poke a 0x10 00fF\n\
                    setup try qemu-img check a\nsetup text b \"x\\ny\"\nrun info a\n\n\
                    judge exit stdout\nunlock abc\n=== two\nrun\n";
        let cases = parse("x", text).unwrap();
        let [one, two] = cases.as_slice() else {
            panic!("{cases:?}")
        };
        assert_eq!((one.title.as_str(), one.line), ("one: a title", 2));
        assert_eq!(
            one.steps,
            [
                Step::Setup(Setup::File("a".to_owned(), 1024, Some(255))),
                Step::Setup(Setup::Poke("a".to_owned(), 16, vec![0, 255])),
                Step::Setup(Setup::Program {
                    program: "qemu-img".to_owned(),
                    arguments: vec!["check".to_owned(), "a".to_owned()],
                    may_fail: true
                }),
                Step::Setup(Setup::Text("b".to_owned(), "x\ny".to_owned())),
                Step::Run(vec!["info".to_owned(), "a".to_owned()]),
            ]
        );
        assert!(one.judges(Aspect::Exit) && !one.judges(Aspect::Stderr));
        assert_eq!(one.unlock.as_deref(), Some("abc"));
        assert!(two.judges(Aspect::Stderr));
        assert_eq!(two.steps, [Step::Run(Vec::new())]);
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        for (text, line) in [
            ("run info", 1),
            ("=== a\nrun x\nwalk", 3),
            ("=== a\nsetup poke a 0 0", 2),
            ("=== a\nsetup poke a zero 00", 2),
            ("=== a\nsetup file a", 2),
            ("=== a\nsetup remove a b", 2),
            ("=== a\njudge taste", 2),
            ("=== a\nsetup mkdir a", 1),
        ] {
            let error = parse("x", text).unwrap_err();
            assert!(error.starts_with(&format!("x.case:{line}: ")), "{error}");
        }
    }
}
