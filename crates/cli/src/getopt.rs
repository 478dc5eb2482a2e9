//! Arguments as qemu-img takes them, which is as `getopt_long` does: options and names in any
//! order, values attached or not, several short options in one word, long names cut short.
//!
//! The result is one plain form, `--name=value` for every option and all names behind `--`, for
//! the parser that knows what the options mean.

use clap::{Arg, ArgAction, Command};

/// Our own options: they never make an option of qemu-img ambiguous.
const OWN: [&str; 4] = ["dry-run", "force-dependents", "trust-probed", "delete"];

/// What the arguments ask for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Parsed {
    /// To run, with these arguments in their plain form.
    Arguments(Vec<String>),
    /// Help.
    Help,
    /// The version.
    Version,
}

/// The options in front of the command.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Front {
    /// What is to be done, without the command's arguments.
    pub(crate) parsed: Parsed,
    /// The values of `-T`.
    pub(crate) traces: Vec<String>,
    /// How many arguments were options.
    pub(crate) used: usize,
}

/// Reads the options in front of the command.
///
/// # Errors
/// What is wrong, in getopt's words.
pub(crate) fn front(arguments: &[String]) -> Result<Front, String> {
    let known = Command::new("")
        .arg(Arg::new("trace").short('T').long("trace"))
        .disable_version_flag(true)
        .arg(
            Arg::new("version")
                .short('V')
                .long("version")
                .action(ArgAction::SetTrue),
        );
    let mut walk = Walk::new(&known, arguments);
    let mut traces = Vec::new();
    let mut parsed = Parsed::Arguments(Vec::new());
    while walk.word().is_some_and(|w| w.starts_with('-') && w != "-") {
        if walk.word() == Some("--") {
            walk.at += 1;
            break;
        }
        for option in walk.options()? {
            match option.name.as_str() {
                "trace" => traces.extend(option.value),
                "version" => parsed = Parsed::Version,
                _ => parsed = Parsed::Help,
            }
        }
        if !matches!(parsed, Parsed::Arguments(_)) {
            break;
        }
    }
    Ok(Front {
        parsed,
        traces,
        used: walk.at,
    })
}

/// Reads the arguments of `command`.
///
/// # Errors
/// What is wrong, in getopt's words.
pub(crate) fn command(command: &Command, arguments: &[String]) -> Result<Parsed, String> {
    let mut walk = Walk::new(command, arguments);
    let (mut options, mut names) = (Vec::new(), Vec::new());
    while let Some(word) = walk.word() {
        // The one place where a name looks like an option: `resize a -1M`.
        let shrinks = command.get_name() == "resize"
            && word
                .strip_prefix('-')
                .is_some_and(|w| w.starts_with(|c: char| c.is_ascii_digit()));
        if word == "--" {
            names.extend(arguments.iter().skip(walk.at + 1).cloned());
            break;
        }
        if !word.starts_with('-') || word == "-" || shrinks {
            names.push(word.to_owned());
            walk.at += 1;
            continue;
        }
        for option in walk.options()? {
            if option.name == "help" {
                return Ok(Parsed::Help);
            }
            let dashes = if option.long { "--" } else { "-" };
            options.push(match option.value {
                Some(value) => format!("{dashes}{}={value}", option.name),
                None => format!("{dashes}{}", option.name),
            });
        }
    }
    options.push("--".to_owned());
    options.extend(names);
    Ok(Parsed::Arguments(options))
}

/// One option that was given.
struct Given {
    /// Its long name where it has one.
    name: String,
    long: bool,
    value: Option<String>,
}

/// A walk over the arguments.
struct Walk<'a> {
    command: &'a Command,
    arguments: &'a [String],
    at: usize,
}

impl<'a> Walk<'a> {
    fn new(command: &'a Command, arguments: &'a [String]) -> Self {
        Self {
            command,
            arguments,
            at: 0,
        }
    }

    fn word(&self) -> Option<&'a str> {
        self.arguments.get(self.at).map(String::as_str)
    }

    /// The options of the word at hand, which starts with a dash.
    fn options(&mut self) -> Result<Vec<Given>, String> {
        let word = self.word().unwrap_or_default();
        self.at += 1;
        match word.strip_prefix("--") {
            Some(long) => Ok(vec![self.long(long)?]),
            None => self.cluster(word.get(1..).unwrap_or_default()),
        }
    }

    fn long(&mut self, text: &str) -> Result<Given, String> {
        let (start, value) = match text.split_once('=') {
            Some((start, value)) => (start, Some(value.to_owned())),
            None => (text, None),
        };
        let name = self.complete(start, text)?;
        let takes = takes_value(self.command, |arg| {
            let aliases = arg.get_all_aliases().unwrap_or_default();
            arg.get_long() == Some(name.as_str()) || aliases.contains(&name.as_str())
        });
        let value = match (takes, value) {
            (false, Some(_)) => {
                return Err(format!("option '--{name}' doesn't allow an argument"));
            }
            (true, None) => match self.next_value() {
                Some(value) => Some(value),
                None => return Err(format!("option '--{name}' requires an argument")),
            },
            (_, value) => value,
        };
        Ok(Given {
            name,
            long: true,
            value,
        })
    }

    /// The one long name that begins with `start`.
    fn complete(&self, start: &str, text: &str) -> Result<String, String> {
        let mut names: Vec<&str> = long_names(self.command);
        names.push("help");
        names.retain(|name| name.starts_with(start));
        if let Some(exact) = names.iter().find(|name| **name == start) {
            return Ok((*exact).to_owned());
        }
        if names.iter().any(|name| !OWN.contains(name)) {
            names.retain(|name| !OWN.contains(name));
        }
        match names.as_slice() {
            [] => Err(format!("unrecognized option '--{text}'")),
            [one] => Ok((*one).to_owned()),
            several => {
                let list: Vec<_> = several.iter().map(|name| format!("'--{name}'")).collect();
                Err(format!(
                    "option '--{text}' is ambiguous; possibilities: {}",
                    list.join(" ")
                ))
            }
        }
    }

    /// Short options in one word; the last one may have its value behind it.
    fn cluster(&mut self, letters: &str) -> Result<Vec<Given>, String> {
        let mut given = Vec::new();
        for (index, letter) in letters.char_indices() {
            let arg = self.command.get_arguments().find(|arg| {
                arg.get_short() == Some(letter)
                    || arg
                        .get_all_short_aliases()
                        .is_some_and(|aliases| aliases.contains(&letter))
            });
            let (name, long) = match arg {
                Some(arg) => match arg.get_long() {
                    Some(long) => (long.to_owned(), true),
                    None => (letter.to_string(), false),
                },
                None if letter == 'h' => ("help".to_owned(), true),
                None => return Err(format!("invalid option -- '{letter}'")),
            };
            let takes = arg.is_some_and(has_value);
            if !takes {
                given.push(Given {
                    name,
                    long,
                    value: None,
                });
                continue;
            }
            let attached = letters.get(index + letter.len_utf8()..).unwrap_or_default();
            let value = if attached.is_empty() {
                self.next_value()
            } else {
                Some(attached.to_owned())
            };
            let Some(value) = value else {
                return Err(format!("option requires an argument -- '{letter}'"));
            };
            given.push(Given {
                name,
                long,
                value: Some(value),
            });
            break;
        }
        Ok(given)
    }

    fn next_value(&mut self) -> Option<String> {
        let value = self.arguments.get(self.at)?;
        self.at += 1;
        Some(value.clone())
    }
}

fn long_names(command: &Command) -> Vec<&str> {
    let names = command.get_arguments().flat_map(|arg| {
        let aliases = arg.get_all_aliases().unwrap_or_default();
        arg.get_long().into_iter().chain(aliases)
    });
    names.collect()
}

fn takes_value(command: &Command, is: impl Fn(&Arg) -> bool) -> bool {
    let arg = command.get_arguments().find(|arg| is(arg));
    arg.is_some_and(has_value)
}

fn has_value(arg: &Arg) -> bool {
    let values = arg.get_num_args();
    arg.get_action().takes_values() && values.is_none_or(|range| range.takes_values())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Command {
        let value = |name: &'static str| Arg::new(name).long(name);
        let flag = |name: &'static str| value(name).action(ArgAction::SetTrue);
        Command::new("sample")
            .arg(value("format").short('f').alias("kind"))
            .arg(value("output"))
            .arg(value("object"))
            .arg(Arg::new("size").short('S'))
            .arg(flag("quiet").short('q'))
            .arg(flag("force-share").short('U'))
            .arg(flag("force-dependents"))
            .arg(Arg::new("name"))
    }

    fn parse(line: &str) -> Result<Parsed, String> {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        command(&sample(), &words)
    }

    #[test]
    fn one_plain_form() {
        for (line, plain) in [
            ("a -f raw", "--format=raw -- a"),
            ("-fraw a b", "--format=raw -- a b"),
            ("-qUf raw", "--quiet --force-share --format=raw --"),
            ("--form raw a", "--format=raw -- a"),
            ("--kind raw a", "--kind=raw -- a"),
            ("--output=json -", "--output=json -- -"),
            ("-S -1 a", "-S=-1 -- a"),
            ("--force-s a -- -q", "--force-share -- a -q"),
            ("--force a", "--force-share -- a"),
        ] {
            let plain = plain.split(' ').map(str::to_owned).collect();
            assert_eq!(parse(line), Ok(Parsed::Arguments(plain)), "{line}");
        }
        assert_eq!(parse("a -qh --nonsense"), Ok(Parsed::Help));
    }

    #[test]
    fn mistakes_in_getopts_words() {
        for (line, message) in [
            ("--foo=1", "unrecognized option '--foo=1'"),
            ("-qZ", "invalid option -- 'Z'"),
            ("a -f", "option requires an argument -- 'f'"),
            ("--format", "option '--format' requires an argument"),
            ("--qui=1", "option '--quiet' doesn't allow an argument"),
            (
                "--o=json",
                "option '--o=json' is ambiguous; possibilities: '--output' '--object'",
            ),
        ] {
            assert_eq!(parse(line), Err(message.to_owned()), "{line}");
        }
    }

    #[test]
    fn options_in_front_of_the_command() {
        let words = ["-T", "x", "--trace=y", "info", "-V"].map(str::to_owned);
        let front = front(&words).unwrap();
        assert_eq!(
            (front.used, front.traces),
            (3, vec!["x".to_owned(), "y".to_owned()])
        );
        assert!(matches!(super::front(&["-V".to_owned()]), Ok(f) if f.parsed == Parsed::Version));
        assert!(super::front(&["-x".to_owned()]).is_err());
    }
}
