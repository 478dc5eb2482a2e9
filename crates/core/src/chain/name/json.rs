//! JSON text to options: one level, with dots in the keys of what was nested.

use super::text;
use crate::error::{Error, ErrorKind, Result};
use serde_json::Value;
use std::collections::BTreeMap;

/// Longer names are not read: names in headers have 1023 bytes at most, and nobody types more.
const MAX_NAME: usize = 64 << 10;
/// Objects may be nested so deep; QEMU's drivers need five levels.
const MAX_DEPTH: usize = 32;

/// Options by their names: `file.filename` for the `filename` in `file`. Values are scalars.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options(BTreeMap<String, Value>);

/// Reads the text behind `json:`.
pub(super) fn parse(json: &str) -> Result<Options> {
    let invalid = |why: String| {
        Error::new(
            ErrorKind::Invalid,
            format!("Could not parse the JSON options: {why}"),
        )
    };
    if json.len() > MAX_NAME {
        return Err(invalid(format!(
            "they are {} bytes long, at most {MAX_NAME} are read",
            json.len()
        )));
    }
    if json.trim().is_empty() {
        return Err(invalid("Expecting a JSON value".to_owned()));
    }
    let value: Value = serde_json::from_str(&double_quoted(json)).map_err(|error| {
        invalid(if error.is_eof() {
            "JSON parse error, premature EOI".to_owned()
        } else {
            format!("JSON parse error, {error}")
        })
    })?;
    let Value::Object(map) = value else {
        return Err(Error::new(ErrorKind::Invalid, "Invalid JSON object given"));
    };
    let mut options = Options::default();
    let nested = |value: &Value| matches!(value, Value::Object(_) | Value::Array(_));
    // What is nested counts when both are there.
    let (first, last): (Vec<_>, Vec<_>) = map.into_iter().partition(|(_, v)| !nested(v));
    for (key, value) in first.into_iter().chain(last) {
        options.put(key, value, 0)?;
    }
    Ok(options)
}

/// QEMU takes strings in single quotes too.
fn double_quoted(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    let mut quote = None;
    let mut chars = json.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (None, '"' | '\'') => {
                quote = Some(c);
                out.push('"');
            }
            (Some(open), c) if c == open => {
                quote = None;
                out.push('"');
            }
            (Some(_), '\\') => match chars.next() {
                Some('\'') => out.push('\''),
                Some(c) => out.extend(['\\', c]),
                None => out.push('\\'),
            },
            (Some(_), '"') => out.push_str("\\\""),
            (_, c) => out.push(c),
        }
    }
    out
}

impl Options {
    /// Options that were given one by one, with dots in their names.
    pub fn of(list: impl IntoIterator<Item = (String, Value)>) -> Self {
        Self(list.into_iter().collect())
    }

    fn put(&mut self, key: String, value: Value, depth: usize) -> Result<()> {
        if depth > MAX_DEPTH {
            let message = format!("the options are nested deeper than {MAX_DEPTH} levels");
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        match value {
            Value::Object(map) => {
                for (inner, value) in map {
                    self.put(format!("{key}.{inner}"), value, depth + 1)?;
                }
            }
            Value::Array(items) => {
                for (index, value) in items.into_iter().enumerate() {
                    self.put(format!("{key}.{index}"), value, depth + 1)?;
                }
            }
            scalar => {
                self.0.insert(key, scalar);
            }
        }
        Ok(())
    }

    /// Whether there is this option.
    pub(super) fn has(&self, key: &str) -> bool {
        self.0.contains_key(key)
    }

    /// Whether there is this option or parts of it.
    pub(super) fn has_child(&self, key: &str) -> bool {
        self.0.keys().any(|k| is_part(k, key) || k == key)
    }

    /// The first option that is left.
    pub(super) fn first(&self) -> Option<&str> {
        self.0.keys().next().map(String::as_str)
    }

    pub(super) fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key)
    }

    /// A value that is a string.
    pub(super) fn string(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.as_str()
    }

    /// Sets an option, whatever it was.
    pub(super) fn set(&mut self, key: &str, value: &str) {
        self.0
            .insert(key.to_owned(), Value::String(value.to_owned()));
    }

    /// Takes the value of an option out; `None` also for `null`.
    pub(super) fn take(&mut self, key: &str) -> Option<Value> {
        self.0.remove(key).filter(|value| !value.is_null())
    }

    /// Takes a value out that counts only as a string.
    pub(super) fn take_string(&mut self, key: &str) -> Option<String> {
        match self.take(key)? {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    /// Takes `key` itself (under the name `""`) and all its parts out; `None` when there is
    /// nothing, or only `null`.
    pub(super) fn take_child(&mut self, key: &str) -> Option<Options> {
        let mut child = BTreeMap::new();
        if let Some(value) = self.take(key) {
            child.insert(String::new(), value);
        }
        let parts: Vec<String> = self.0.keys().filter(|k| is_part(k, key)).cloned().collect();
        for part in parts {
            if let Some(value) = self.0.remove(&part) {
                child.insert(
                    part.get(key.len() + 1..).unwrap_or_default().to_owned(),
                    value,
                );
            }
        }
        (!child.is_empty()).then_some(Options(child))
    }

    /// Takes an option out that is on or off.
    pub(super) fn take_switch(&mut self, key: &str) -> Result<Option<bool>> {
        let Some(value) = self.take(key) else {
            return Ok(None);
        };
        match text(&value).as_str() {
            "true" | "on" | "yes" | "y" => Ok(Some(true)),
            "false" | "off" | "no" | "n" => Ok(Some(false)),
            _ => Err(Error::new(
                ErrorKind::Invalid,
                format!("Parameter '{key}' expects 'on' or 'off'"),
            )),
        }
    }

    /// Takes a number of bytes out, with an optional suffix.
    pub(super) fn take_size(&mut self, key: &str) -> Result<Option<u64>> {
        let Some(value) = self.take(key) else {
            return Ok(None);
        };
        let text = text(&value);
        let invalid = |message: String| Error::new(ErrorKind::Invalid, message);
        let out_of_range = format!("Value '{text}' is out of range for parameter '{key}'");
        if text.starts_with('-') {
            return Err(invalid(out_of_range));
        }
        let (digits, shift) = match text.as_bytes().last().map(u8::to_ascii_lowercase) {
            Some(suffix) if suffix.is_ascii_alphabetic() && !text.starts_with("0x") => {
                let shift = match suffix {
                    b'b' => Some(0),
                    b'k' => Some(10),
                    b'm' => Some(20),
                    b'g' => Some(30),
                    b't' => Some(40),
                    b'p' => Some(50),
                    b'e' => Some(60),
                    _ => None,
                };
                (text.get(..text.len() - 1).unwrap_or_default(), shift)
            }
            _ => (text.as_str(), Some(0)),
        };
        let number = match digits.strip_prefix("0x") {
            Some(hex) => u64::from_str_radix(hex, 16).ok(),
            None => digits.parse::<u64>().ok(),
        };
        let (Some(number), Some(shift)) = (number, shift) else {
            return Err(invalid(format!(
                "Parameter '{key}' expects a non-negative number below 2^64\nOptional suffix k, M, \
                 G, T, P or E means kilo-, mega-, giga-, tera-, peta-\nand exabytes, respectively."
            )));
        };
        let bytes = number.checked_mul(1 << shift);
        bytes.map(Some).ok_or_else(|| invalid(out_of_range))
    }

    /// Drops options that every driver has and that change nothing about what is read.
    pub(super) fn drop_general(&mut self) {
        self.0.retain(|key, _| {
            let general = matches!(
                key.as_str(),
                "node-name"
                    | "discard"
                    | "read-only"
                    | "auto-read-only"
                    | "detect-zeroes"
                    | "force-share"
                    | "active"
            );
            !general && !is_part(key, "cache")
        });
    }

    /// Fails when something is left.
    pub(super) fn none_left(&self, error: impl Fn(&str) -> Error) -> Result<()> {
        self.first().map_or(Ok(()), |key| Err(error(key)))
    }
}

/// Whether `key` is `outer.something`.
fn is_part(key: &str, outer: &str) -> bool {
    key.strip_prefix(outer)
        .is_some_and(|rest| rest.starts_with('.'))
}
