//! QEMU's name of an image that was opened with options: what `info` and messages show.
//!
//! It is the path alone when nothing but the driver was said; else `json:` and the options that
//! matter, in the order in which QEMU happens to keep them.

use super::json::Options;
use serde_json::Value;
use std::fmt::Write;

/// The options that make a difference, in QEMU's order.
const ORDER: [&str; 8] = [
    "read-zeroes",
    "offset",
    "encrypt.key-secret",
    "driver",
    "filename",
    "size",
    "file",
    "key-secret",
];

/// The name, where it is not the path.
pub(super) fn name(options: &Options) -> Option<String> {
    let driver = options.string("driver");
    if driver == Some("null-co") && !options.has("size") && !options.has("read-zeroes") {
        return Some("null-co://".to_owned());
    }
    matters(options, "").then(|| {
        let mut text = "json:".to_owned();
        object(options, "", &mut text);
        text
    })
}

/// Whether the options below `prefix` say more than drivers and a path.
fn matters(options: &Options, prefix: &str) -> bool {
    let has = |key: &str| options.has(&format!("{prefix}{key}"));
    let strong = ["read-zeroes", "offset", "encrypt.key-secret", "key-secret"];
    let inner = options.string(&format!("{prefix}file.driver"));
    strong.iter().any(|key| has(key))
        || has("size")
        || options.string(&format!("{prefix}driver")) == Some("null-co")
        || matches!(inner, Some("raw" | "null-co"))
}

fn object(options: &Options, prefix: &str, out: &mut String) {
    let key = |name: &str| format!("{prefix}{name}");
    let is_file = !options.has_child(&key("file"));
    let mut first = true;
    out.push('{');
    let mut item = |name: &str, out: &mut String| {
        if !std::mem::take(&mut first) {
            out.push_str(", ");
        }
        // Writing to a string cannot fail.
        let _ = write!(out, "\"{name}\": ");
    };
    for name in ORDER {
        match name {
            "driver" => {
                item(name, out);
                let driver = options.string(&key(name));
                let driver = driver.unwrap_or(if is_file { "file" } else { "raw" });
                value(&Value::String(driver.to_owned()), out);
            }
            "file" if !is_file => {
                item(name, out);
                object(options, &key("file."), out);
            }
            "file" => {}
            name => {
                if let Some(found) = options.get(&key(name)) {
                    item(name, out);
                    value(found, out);
                }
            }
        }
    }
    out.push('}');
}

fn value(value: &Value, out: &mut String) {
    out.push_str(&value.to_string());
}
