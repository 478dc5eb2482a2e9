//! Options of new images (`-o`), read as qemu-img reads them.
//!
//! As there, they are looked at twice: numbers and switches when they are read, everything
//! else when the image is made.

pub(crate) mod encrypt;
mod keys;

use crate::failure::Failure;
use crate::keyval;
use crate::output::size::{self, SizeError};
use backchain::Format;
use backchain::format::qcow2::Codec;
use backchain::plan::{CreateOptions, Preallocation};
pub(crate) use keys::help;
use keys::{Key, Kind};
use std::fmt::Write;

/// What `-o` and the options beside it ask for.
pub(crate) struct NewImage {
    pub(crate) format: Format,
    /// In the order of [`keys::keys`].
    values: Vec<(&'static Key, Option<Value>)>,
}

/// A value: what was given, and as a number where it is one.
#[derive(Debug, Clone)]
struct Value {
    text: String,
    number: u64,
}

/// Fails when a list of `-o` is not one at all.
pub(crate) fn check_lists(given: &[String]) -> Result<(), Failure> {
    let broken = |list: &&String| list.is_empty() || list.starts_with(',') || ends_open(list);
    match given.iter().find(broken) {
        Some(list) => Err(Failure::new(format_args!("Invalid option list: {list}"))),
        None => Ok(()),
    }
}

/// Whether a list ends with a comma that is not one of two.
fn ends_open(list: &str) -> bool {
    let commas = list.len() - list.trim_end_matches(',').len();
    commas % 2 == 1
}

impl NewImage {
    /// Reads all `-o` options for a new image of format `format`.
    ///
    /// # Errors
    /// The message alone; the caller puts the file's name before it.
    pub(crate) fn parse(format: &str, given: &[String]) -> Result<Self, String> {
        let format: Format = format
            .parse()
            .map_err(|_| format!("Unknown file format '{format}'"))?;
        let values = keys::keys(format).iter().map(|key| (key, None)).collect();
        let mut new = Self { format, values };
        for list in given {
            for (key, value) in pairs(list) {
                new.set(&key, &value)?;
            }
        }
        Ok(new)
    }

    /// Sets one key; a later value takes the place of an earlier one.
    pub(crate) fn set(&mut self, key: &str, text: &str) -> Result<(), String> {
        let unknown = || format!("Invalid parameter '{key}'");
        let (known, value) = self
            .values
            .iter_mut()
            .find(|(known, _)| known.name == key)
            .ok_or_else(unknown)?;
        let number = match known.kind {
            Kind::Text => 0,
            Kind::Switch => match text {
                "on" | "yes" | "true" | "y" => 1,
                "off" | "no" | "false" | "n" => 0,
                _ => return Err(format!("Parameter '{key}' expects 'on' or 'off'")),
            },
            Kind::Size => bytes(key, text)?,
            Kind::Number => {
                number(text).ok_or_else(|| format!("Parameter '{key}' expects a number"))?
            }
        };
        *value = Some(Value {
            text: text.to_owned(),
            number,
        });
        Ok(())
    }

    /// The keys that were given.
    fn given(&self) -> impl Iterator<Item = &str> {
        let given = self.values.iter().filter(|(_, value)| value.is_some());
        given.map(|(key, _)| key.name)
    }

    fn value(&self, key: &str) -> Option<&Value> {
        let found = self.values.iter().find(|(known, _)| known.name == key);
        found.and_then(|(_, value)| value.as_ref())
    }

    /// A key's text as given.
    pub(crate) fn text(&self, key: &str) -> Option<&str> {
        self.value(key).map(|value| value.text.as_str())
    }

    /// A key's number: bytes, or 1 for a switch that is on.
    pub(crate) fn number(&self, key: &str) -> Option<u64> {
        self.value(key).map(|value| value.number)
    }

    fn is_on(&self, key: &str) -> bool {
        self.number(key) == Some(1)
    }

    /// What was asked for, once everything is known to make sense.
    ///
    /// # Errors
    /// The message alone; the caller puts the file's name before it.
    pub(crate) fn options(&self) -> Result<CreateOptions, String> {
        let mut options = CreateOptions {
            format: self.format,
            ..CreateOptions::default()
        };
        let preallocation = self.text("preallocation");
        let mode = preallocation.map(Preallocation::from_name);
        if self.format == Format::Raw {
            let invalid = || format!("invalid parameter value: {}", preallocation.unwrap_or(""));
            options.preallocation = mode.unwrap_or_default_of(invalid)?;
            return Ok(options);
        }
        if self.format == Format::Luks {
            // QEMU takes a mode it does not have for none.
            options.preallocation = mode.flatten().unwrap_or_default();
            self.check_encryption()?;
            return Ok(options);
        }
        let not_accepted = |name: &str, value: Option<&str>| {
            let value = value.unwrap_or("");
            format!("Parameter '{name}' does not accept value '{value}'")
        };
        let compat = self.text("compat");
        options.v3 = match compat {
            Some("0.10" | "v2") => false,
            None | Some("1.1" | "v3") => true,
            Some(_) => return Err(not_accepted("version", compat)),
        };
        let backing_fmt = self.text("backing_fmt");
        options.backing_format = match backing_fmt.map(str::parse) {
            Some(Err(_)) => return Err(not_accepted("backing-fmt", backing_fmt)),
            Some(Ok(format)) => Some(format),
            None => None,
        };
        options.backing_name = self.text("backing_file").map(str::to_owned);
        options.preallocation =
            mode.unwrap_or_default_of(|| not_accepted("preallocation", preallocation))?;
        let codec = self.text("compression_type");
        options.codec = match codec {
            None | Some("zlib") => Codec::Zlib,
            Some("zstd") => Codec::Zstd,
            Some(_) => return Err(not_accepted("compression-type", codec)),
        };
        options.extended_l2 = self.is_on("extended_l2");
        options.lazy_refcounts = self.is_on("lazy_refcounts");
        if let Some(size) = self.number("cluster_size") {
            options.cluster_size = size;
        }
        if let Some(bits) = self.number("refcount_bits") {
            options.refcount_bits = bits;
        }
        options.data_file = self.text("data_file").map(str::to_owned);
        options.data_file_raw = self.is_on("data_file_raw");
        self.check_encryption()?;
        if options.backing_format.is_some() && options.backing_name.is_none() {
            return Err("Backing format cannot be used without backing file".to_owned());
        }
        Ok(options)
    }

    /// The line that `create` prints; `size` in bytes as it was given.
    pub(crate) fn formatting(&self, name: &str, size: u64) -> String {
        let mut line = format!("Formatting '{name}', fmt={}", self.format);
        for (key, value) in &self.values {
            let text = match (value, key.kind) {
                _ if key.name == "size" => size.to_string(),
                (None, _) => key.default.to_owned(),
                (Some(value), Kind::Text | Kind::Switch) => value.text.replace(',', ",,"),
                (Some(value), Kind::Size | Kind::Number) => value.number.cast_signed().to_string(),
            };
            if value.is_some() || !text.is_empty() {
                // Writing to a string cannot fail.
                let _ = write!(line, " {}={text}", key.name);
            }
        }
        line
    }
}

/// `Some(None)`, a name nobody knows, is an error.
trait UnwrapOrDefaultOf<T> {
    fn unwrap_or_default_of(self, error: impl FnOnce() -> String) -> Result<T, String>;
}

impl<T: Default> UnwrapOrDefaultOf<T> for Option<Option<T>> {
    fn unwrap_or_default_of(self, error: impl FnOnce() -> String) -> Result<T, String> {
        self.unwrap_or_else(|| Some(T::default())).ok_or_else(error)
    }
}

fn bytes(key: &str, text: &str) -> Result<u64, String> {
    // With a suffix, a negative number is none.
    let negative = text.trim_start().starts_with('-') && text.ends_with(char::is_alphabetic);
    let plus = text.trim_start().strip_prefix('+');
    let number = plus.filter(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    size::parse(number.unwrap_or(text)).map_err(|error| match error {
        SizeError::TooLarge if !negative => {
            format!("Value '{text}' is out of range for parameter '{key}'")
        }
        _ => format!(
            "Parameter '{key}' expects a non-negative number below 2^64\nOptional suffix k, M, \
             G, T, P or E means kilo-, mega-, giga-, tera-, peta-\nand exabytes, respectively."
        ),
    })
}

/// A number as C's `strtoull` has it with base 0: hexadecimal, octal or decimal; a negative one
/// counts down from 2^64.
pub(crate) fn number(text: &str) -> Option<u64> {
    let text = text.trim_start();
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let lower = digits.to_ascii_lowercase();
    let (digits, radix) = match lower.strip_prefix("0x") {
        Some(hex) => (hex, 16),
        None if lower.len() > 1 && lower.starts_with('0') => (lower.as_str(), 8),
        None => (lower.as_str(), 10),
    };
    // `from_str_radix` would take a sign of its own.
    let plain = digits.bytes().all(|b| b.is_ascii_alphanumeric());
    let value = u64::from_str_radix(digits, radix).ok().filter(|_| plain)?;
    Some(if negative {
        value.wrapping_neg()
    } else {
        value
    })
}

/// Whether the user asks which options there are.
pub(crate) fn wants_help(given: &[String]) -> bool {
    let asks = |item: &str| matches!(item, "help" | "?");
    given.iter().any(|list| list.split(',').any(asks))
}

/// `key=value,key=value`, where `,,` stands for a comma and a key alone means `on`.
pub(crate) fn pairs(list: &str) -> Vec<(String, String)> {
    let pair = |(key, value): (String, Option<String>)| match value {
        Some(value) => (key, value),
        None => match key.strip_prefix("no") {
            Some(key) if !key.is_empty() => (key.to_owned(), "off".to_owned()),
            _ => (key, "on".to_owned()),
        },
    };
    keyval::items(list).into_iter().map(pair).collect()
}

/// Fails when writing `name` would destroy one of the files that are read.
pub(crate) fn not_an_input(tree: &mut backchain::Tree, name: &str) -> Result<(), Failure> {
    let gate = backchain_native::FsGate::new(backchain_native::GateOptions {
        force_share: true,
        trust_probed: false,
    });
    let known = tree.nodes().len();
    if tree.add_one(&gate, name, Some(Format::Raw)).is_ok() && tree.nodes().len() == known {
        return Err(Failure::new(format_args!(
            "{name}: it is one of the images that are read, so it cannot be made anew"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_commas_are_one() {
        let (a, b) = (pairs("size=1M,backing_file=a,,b"), pairs("lazy_refcounts"));
        let text = |k: &str, v: &str| (k.to_owned(), v.to_owned());
        assert_eq!(a, [text("size", "1M"), text("backing_file", "a,b")]);
        assert_eq!(b, [text("lazy_refcounts", "on")]);
        assert!(ends_open("a,") && !ends_open("a,,") && ends_open("a,,,"));
    }

    /// What QEMU refuses before it says what it is going to make, and what only afterwards.
    #[test]
    fn values_are_read_in_two_steps() {
        let parse = |format, list: &str| NewImage::parse(format, &[list.to_owned()]);
        for list in [
            "foo=1",
            "lazy_refcounts=maybe",
            "cluster_size=x",
            "refcount_bits=",
        ] {
            assert!(parse("qcow2", list).is_err(), "{list}");
        }
        for list in ["compat=2", "preallocation=some", "compression_type=lzma"] {
            assert!(parse("qcow2", list).unwrap().options().is_err(), "{list}");
        }
        assert!(parse("raw", "cluster_size=4k").is_err());
        let options = parse("qcow2", "cluster_size=4k,compat=v2,cluster_size=8k").unwrap();
        let options = options.options().unwrap();
        assert_eq!((options.cluster_size, options.v3), (8192, false));
    }

    #[test]
    fn numbers_are_those_of_c() {
        for (text, value) in [
            ("16", 16),
            ("0x10", 16),
            ("010", 8),
            ("-1", u64::MAX),
            ("0", 0),
        ] {
            assert_eq!(number(text), Some(value), "{text}");
        }
        for text in ["", "x", "1x", "09", "--1", "0x-1", "99999999999999999999"] {
            assert_eq!(number(text), None, "{text}");
        }
    }
}
