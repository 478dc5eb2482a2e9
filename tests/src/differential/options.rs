//! The table of commands and options: which cases use each option that qemu-img's own help
//! names, in its short and in its long form.
//!
//! A row without a case has to be in `options.toml` with a reason:
//!
//! ```toml
//! [[row]]
//! command = "bench"
//! option = "-n"
//! reason = "why no case can use it"
//! ```

use super::case::Case;
use super::tool;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;

/// One option of one command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// `commit`, or `create -f qcow2 -o`.
    pub command: String,
    /// `-f`, `--format`, `bs=`, `cluster_size`.
    pub option: String,
    /// Titles of the cases that use it.
    pub cases: Vec<String>,
}

/// A row that may stay empty.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Excuse {
    /// As in [`Row`].
    pub command: String,
    /// As in [`Row`].
    pub option: String,
    /// Why.
    pub reason: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    #[serde(default)]
    row: Vec<Excuse>,
}

/// Reads the list of rows that may stay empty.
///
/// # Errors
/// A message when it cannot be read.
pub fn read_excuses(path: &Path) -> Result<Vec<Excuse>, String> {
    let text = fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let list: List = toml::from_str(&text).map_err(|error| error.to_string())?;
    Ok(list.row)
}

/// Asks qemu-img for its commands and options, and looks for them in the cases.
///
/// # Errors
/// A message when qemu-img does not run.
pub fn table(cases: &[Case]) -> Result<Vec<Row>, String> {
    let mut rows = Vec::new();
    for command in commands(&help(&["--help"])?) {
        let known = options_of(&help(&[&command, "--help"])?);
        for option in known.keys() {
            let uses = |case: &&Case| {
                let mut runs = case.runs().filter(|run| run.first() == Some(&command));
                runs.any(|run| used(run, &known).contains(option))
            };
            rows.push(row(&command, option, cases.iter().filter(uses)));
        }
    }
    for format in ["qcow2", "raw", "luks"] {
        let text = help(&["create", "-f", format, "-o", "help", "x"])?;
        for key in keys(&text) {
            let uses = |case: &&Case| case.runs().any(|run| sets(run, "create", format, &key));
            let command = format!("create -f {format} -o");
            rows.push(row(&command, &key, cases.iter().filter(uses)));
        }
    }
    for format in ["qcow2", "luks"] {
        for key in keys(&help(&["amend", "-f", format, "-o", "help"])?) {
            let uses = |case: &&Case| case.runs().any(|run| sets(run, "amend", format, &key));
            let command = format!("amend -f {format} -o");
            rows.push(row(&command, &key, cases.iter().filter(uses)));
        }
    }
    Ok(rows)
}

/// What is wrong: empty rows without a reason, and reasons that are not needed.
pub fn wrong(rows: &[Row], excuses: &[Excuse]) -> Vec<String> {
    let mut wrong = Vec::new();
    let excused = |row: &Row| {
        excuses
            .iter()
            .any(|e| e.command == row.command && e.option == row.option)
    };
    for row in rows.iter().filter(|row| row.cases.is_empty()) {
        if !excused(row) {
            wrong.push(format!("no case uses '{} {}'", row.command, row.option));
        }
    }
    for excuse in excuses {
        let name = format!("'{} {}'", excuse.command, excuse.option);
        let row = rows
            .iter()
            .find(|row| row.command == excuse.command && row.option == excuse.option);
        match row {
            None => wrong.push(format!("options.toml lists {name}, which is no row")),
            Some(row) if !row.cases.is_empty() => wrong.push(format!(
                "options.toml lists {name}, but '{}' uses it",
                row.cases.first().map_or("", String::as_str)
            )),
            Some(_) if excuse.reason.trim().is_empty() => {
                wrong.push(format!("options.toml lists {name} without a reason"));
            }
            Some(_) => {}
        }
    }
    wrong
}

/// The table as text: a line for each row.
pub fn render(rows: &[Row], excuses: &[Excuse]) -> String {
    let mut text = String::from("| command | option | cases | first case, or why none |\n");
    text.push_str("|---|---|---|---|\n");
    for row in rows {
        let excuse = excuses
            .iter()
            .find(|e| e.command == row.command && e.option == row.option);
        let note = match (row.cases.first(), excuse) {
            (Some(first), _) => first.clone(),
            (None, Some(excuse)) => format!("none: {}", excuse.reason),
            (None, None) => "NONE".to_owned(),
        };
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "| {} | {} | {} | {note} |",
            row.command,
            row.option,
            row.cases.len()
        );
    }
    text
}

fn row<'a>(command: &str, option: &str, cases: impl Iterator<Item = &'a Case>) -> Row {
    Row {
        command: command.to_owned(),
        option: option.to_owned(),
        cases: cases.map(|case| case.title.clone()).collect(),
    }
}

fn help(arguments: &[&str]) -> Result<String, String> {
    let arguments: Vec<String> = arguments.iter().map(|&a| a.to_owned()).collect();
    let said = tool::run(Path::new("qemu-img"), &arguments, Path::new("."));
    said.map(|said| said.out)
        .map_err(|error| format!("qemu-img: {error}"))
}

/// The commands that `qemu-img --help` lists.
fn commands(help: &str) -> Vec<String> {
    let lines = help
        .lines()
        .skip_while(|line| !line.starts_with("Recognized commands"))
        .skip(1)
        .skip_while(|line| line.is_empty());
    lines
        .map_while(|line| Some(line.trim().split_once(" - ")?.0.to_owned()))
        .collect()
}

/// The options that the help of one command names, and whether they take a value.
fn options_of(help: &str) -> BTreeMap<String, bool> {
    let mut known = BTreeMap::new();
    let mut in_list = false;
    for line in help.lines() {
        in_list |= line.starts_with("Arguments:");
        let line = line.trim();
        if !in_list {
            // The synopsis names some that the list forgets.
            for group in line.split(['[', ']', '(', ')', '|']) {
                let mut words = group.split_whitespace().peekable();
                while let Some(word) = words.next() {
                    if is_option(word) {
                        let value = words.peek().is_some_and(|next| !is_option(next));
                        known.entry(word.to_owned()).or_insert(value);
                    }
                }
            }
            continue;
        }
        if let Some((operand, _)) = line.split_once('=')
            && !operand.is_empty()
            && operand.chars().all(|c| c.is_ascii_lowercase())
        {
            known.insert(format!("{operand}="), true);
        }
        if line.starts_with('-') {
            let words: Vec<&str> = line
                .split([',', ' '])
                .filter(|word| !word.is_empty())
                .collect();
            let takes = words.last().is_some_and(|last| !is_option(last));
            for word in words.iter().take_while(|word| is_option(word)) {
                known.insert((*word).to_owned(), takes);
            }
        }
    }
    known
}

fn is_option(word: &str) -> bool {
    let name = word.trim_start_matches('-');
    word.starts_with('-')
        && !name.is_empty()
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
        && (word.starts_with("--") || name.len() == 1)
}

/// The options that the arguments of one run use.
fn used(run: &[String], known: &BTreeMap<String, bool>) -> Vec<String> {
    let mut used = Vec::new();
    let mut words = run.iter().skip(1);
    while let Some(word) = words.next() {
        if word == "--" {
            break;
        }
        if let Some(long) = word.strip_prefix("--") {
            let (name, attached) = match long.split_once('=') {
                Some((name, _)) => (format!("--{name}"), true),
                None => (word.clone(), false),
            };
            if known.get(&name).is_some_and(|&takes| takes) && !attached {
                words.next();
            }
            used.push(name);
        } else if let Some(letters) = word.strip_prefix('-') {
            for (index, letter) in letters.char_indices() {
                let name = format!("-{letter}");
                let takes = known.get(&name).is_some_and(|&takes| takes);
                used.push(name);
                if takes {
                    if index + letter.len_utf8() == letters.len() {
                        words.next();
                    }
                    break;
                }
            }
        } else if let Some((operand, _)) = word.split_once('=') {
            used.push(format!("{operand}="));
        }
    }
    used
}

/// The keys that `-o help` names.
fn keys(help: &str) -> Vec<String> {
    let keys = help.lines().filter_map(|line| {
        let (key, rest) = line.trim().split_once("=<")?;
        rest.contains('>').then(|| key.to_owned())
    });
    keys.collect()
}

/// Whether a run of `command` for images of `format` sets the option `key` with `-o`.
fn sets(run: &[String], command: &str, format: &str, key: &str) -> bool {
    if run.first().is_none_or(|first| first != command) {
        return false;
    }
    let values = |names: &[&str]| {
        let mut values = Vec::new();
        for (index, word) in run.iter().enumerate() {
            let attached = names.iter().find_map(|name| {
                let rest = word.strip_prefix(name)?;
                let rest = rest.strip_prefix('=').unwrap_or(rest);
                (!rest.is_empty()).then_some(rest)
            });
            if names.contains(&word.as_str()) {
                values.extend(run.get(index + 1).map(String::as_str));
            } else {
                values.extend(attached);
            }
        }
        values
    };
    let formats = values(&["--format", "-f"]);
    let fits = match formats.last() {
        Some(given) => *given == format,
        None => command == "create" && format == "raw" || command == "amend" && format == "qcow2",
    };
    let lists = values(&["--options", "-o"]);
    fits && lists.iter().any(|list| {
        let mut items = list.split(',');
        items.any(|item| item.split('=').next() == Some(key))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::differential::case;

    const HELP: &str = "Usage:
Do a thing.  Usage:

  qemu-img thing [-f FMT | --image-opts] [-p] [-o OPTIONS]

Arguments:
  -h, --help
     print this help and exit, or -x
  -f, --format FMT
     specify
   -g, --granularity SIZE[KMGTPE]
     sets
  --enable, --disable
     starts
  bs=BLOCK_SIZE[kKMGTP]
     size
";

    #[test]
    fn what_the_help_names() {
        let known = options_of(HELP);
        let names: Vec<&str> = known.keys().map(String::as_str).collect();
        let expected = [
            "--disable",
            "--enable",
            "--format",
            "--granularity",
            "--help",
            "--image-opts",
            "-f",
            "-g",
            "-h",
            "-o",
            "-p",
            "bs=",
        ];
        assert_eq!(names, expected);
        assert!(known["-f"] && known["-o"] && !known["-p"] && !known["--enable"]);
        let text = "Recognized commands (x):\n\n  amend - Update\n  dd - Copy\n\nSupported\n";
        assert_eq!(commands(text), ["amend", "dd"]);
        assert_eq!(
            keys("Options:\n  size=<size>  - Size\n  a.b=<str> - x\n"),
            ["size", "a.b"]
        );
    }

    #[test]
    fn what_a_run_uses() {
        let known = options_of(HELP);
        let cases = case::parse(
            "x",
            "=== a\nrun thing -pf raw --enable bs=4k --format=-q -o -g a\n",
        );
        let cases = cases.unwrap();
        let run = cases[0].runs().next().unwrap();
        assert_eq!(
            used(run, &known),
            ["-p", "-f", "--enable", "bs=", "--format", "-o"]
        );
    }

    #[test]
    fn which_format_an_option_is_for() {
        let sets = |line: &str, format| {
            let run: Vec<String> = line.split(' ').map(str::to_owned).collect();
            super::sets(&run, "create", format, "size")
        };
        assert!(sets("create -f qcow2 -o compat=v3,size=1M a", "qcow2"));
        assert!(sets("create --format=qcow2 --options=size=1M a", "qcow2"));
        assert!(sets("create -o size=1M a", "raw"));
        assert!(!sets("create -fqcow2 -o size=1M a", "raw"));
        assert!(!sets("create -f qcow2 a 1M", "qcow2"));
    }

    #[test]
    fn empty_rows_need_a_reason() {
        let rows = [row("a", "-f", [].iter()), row("a", "-g", [].iter())];
        let excuse = |option: &str| Excuse {
            command: "a".to_owned(),
            option: option.to_owned(),
            reason: "none".to_owned(),
        };
        assert_eq!(wrong(&rows, &[excuse("-f"), excuse("-g")]).len(), 0);
        assert_eq!(wrong(&rows, &[excuse("-f")]).len(), 1);
        assert_eq!(
            wrong(&rows, &[excuse("-f"), excuse("-g"), excuse("-h")]).len(),
            1
        );
    }
}
