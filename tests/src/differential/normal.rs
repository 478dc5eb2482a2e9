//! What two tools may say differently although they did the same: times, sizes on disk, random
//! identifiers; and, once a run has written, where in the file they put things.

use serde_json::Value;

/// How strictly output is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Strictness {
    /// Both tools looked at the same bytes.
    SameBytes,
    /// A run has written: where it put things in the file is its own affair.
    SameMeaning,
}

/// Whether a command may write to the images it is given.
pub(super) fn writes(arguments: &[String]) -> bool {
    let has = |options: &[&str]| {
        arguments.iter().any(|argument| {
            options
                .iter()
                .any(|option| argument == option || argument.starts_with(&format!("{option}=")))
        })
    };
    match arguments.first().map(String::as_str) {
        Some("info" | "map" | "compare" | "measure") | None => false,
        Some("check") => has(&["-r", "--repair", "-rall", "-rleaks"]),
        Some("snapshot") => has(&["-a", "-c", "-d", "--apply", "--create", "--delete"]),
        Some(_) => true,
    }
}

/// One output in its comparable form.
pub(super) fn output(arguments: &[String], text: &str, strictness: Strictness) -> String {
    let map = arguments.first().is_some_and(|command| command == "map");
    if let Some(json) = json(text, map, strictness) {
        return serde_json::to_string_pretty(&json).unwrap_or_default();
    }
    let text = progress(text);
    let mut lines: Vec<String> = text.split('\n').map(|l| line(l, strictness)).collect();
    if map && strictness == Strictness::SameMeaning {
        lines = merge_rows(lines);
    }
    // One of qemu-img's warnings lacks the end of its last line.
    let text = lines.join("\n");
    text.trim_end_matches('\n').to_owned()
}

/// JSON output in its comparable form: keys sorted, without what may differ.
pub(super) fn json(text: &str, map: bool, strictness: Strictness) -> Option<Value> {
    if !text.trim_start().starts_with(['{', '[']) {
        return None;
    }
    let mut value: Value = serde_json::from_str(text).ok()?;
    clean(&mut value, strictness);
    if map && strictness == Strictness::SameMeaning {
        value = merge_entries(value);
    }
    value.sort_all_objects();
    Some(value)
}

fn clean(value: &mut Value, strictness: Strictness) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| clean(item, strictness)),
        Value::Object(map) => {
            let protocol = map.get("format").is_some_and(|format| format == "file");
            for (key, value) in map.iter_mut() {
                let varies = match key.as_str() {
                    "actual-size" | "date-sec" | "date-nsec" | "uuid" | "iters"
                    | "master-key-iters" => true,
                    "image-end-offset" | "fragmented-clusters" => {
                        strictness == Strictness::SameMeaning
                    }
                    "virtual-size" => protocol && strictness == Strictness::SameMeaning,
                    _ => false,
                };
                if varies {
                    *value = Value::from("-");
                } else {
                    clean(value, strictness);
                }
            }
        }
        _ => {}
    }
}

/// Joins entries of `map --output=json` that differ only in where their bytes are, and in
/// whether the file has holes there.
fn merge_entries(value: Value) -> Value {
    let Value::Array(items) = value else {
        return value;
    };
    let mut merged: Vec<Value> = Vec::new();
    for mut item in items {
        if let Some(map) = item.as_object_mut() {
            if let Some(offset) = map.get_mut("offset") {
                *offset = Value::from("-");
                // Zeros in a cluster of data are where the file has a hole.
                if map.get("data") == Some(&Value::Bool(true)) {
                    map.insert("zero".to_owned(), Value::Bool(false));
                }
            }
            let number = |value: &Value, key: &str| value.get(key).and_then(Value::as_u64);
            let bare = |value: &Value| {
                let mut value = value.clone();
                if let Some(map) = value.as_object_mut() {
                    map.remove("start");
                    map.remove("length");
                }
                value
            };
            let item = Value::Object(map.clone());
            if let (Some(last), Some(length)) = (merged.last_mut(), number(&item, "length"))
                && bare(last) == bare(&item)
                && let Some(before) = number(last, "length")
            {
                if let Some(last) = last.as_object_mut() {
                    last.insert("length".to_owned(), Value::from(before + length));
                }
                continue;
            }
        }
        merged.push(item);
    }
    Value::Array(merged)
}

/// Joins rows of `map` that differ only in where their bytes are.
fn merge_rows(lines: Vec<String>) -> Vec<String> {
    let number = |text: &str| {
        let digits = text.strip_prefix("0x").unwrap_or(text);
        u64::from_str_radix(digits, 16).ok()
    };
    let mut merged: Vec<String> = Vec::new();
    let mut last: Option<(u64, u64, String)> = None;
    for line in lines {
        let mut cells = line.split_whitespace();
        let row = (|| {
            let (start, length) = (number(cells.next()?)?, number(cells.next()?)?);
            number(cells.next()?)?;
            Some((start, length, cells.collect::<Vec<_>>().join(" ")))
        })();
        let Some((mut start, mut length, file)) = row else {
            merged.push(line);
            last = None;
            continue;
        };
        if let Some((before, size, name)) = &last
            && before + size == start
            && *name == file
        {
            merged.pop();
            (start, length) = (*before, size + length);
        }
        merged.push(format!("{start:#x} {length:#x} - {file}"));
        last = Some((start, length, file));
    }
    merged
}

/// Replaces a series of percentages by its last one.
fn progress(text: &str) -> String {
    let parts: Vec<&str> = text.split('\r').collect();
    let is_percentage = |part: &str| part.starts_with("    (") && part.ends_with("/100%)");
    let mut kept = String::new();
    for (index, part) in parts.iter().enumerate() {
        let next = parts.get(index + 1);
        if is_percentage(part) && next.is_some_and(|next| is_percentage(next)) {
            continue;
        }
        kept.push_str(part);
        if next.is_some() {
            kept.push('\r');
        }
    }
    kept
}

/// Replaces what varies in one line.
fn line(line: &str, strictness: Strictness) -> String {
    let bare = line.trim_start();
    let indent = line.get(..line.len() - bare.len()).unwrap_or_default();
    let mut varying = vec!["disk size: ", "uuid: ", "iters: ", "master key iters: "];
    if strictness == Strictness::SameMeaning {
        varying.extend(["file length: ", "Image end offset: "]);
    }
    if let Some(label) = varying.into_iter().find(|label| bare.starts_with(label)) {
        return format!("{indent}{label}-");
    }
    if bare.starts_with("Run completed in ") {
        return "Run completed in - seconds.".to_owned();
    }
    if strictness == Strictness::SameMeaning
        && let Some((before, _)) = bare.split_once("% allocated, ")
    {
        return format!("{before}% allocated, -");
    }
    dates(&node_names(line))
}

/// Replaces every `#block123`, the name that QEMU makes up for a node.
fn node_names(line: &str) -> String {
    let mut parts = line.split("#block");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let rest = part.trim_start_matches(|c: char| c.is_ascii_digit());
        out.push_str("#block");
        out.push_str(rest);
    }
    out
}

/// Replaces every `2026-01-31 12:34:56`.
fn dates(line: &str) -> String {
    const SHAPE: &[u8] = b"0000-00-00 00:00:00";
    let bytes = line.as_bytes();
    let is_date = |at: usize| {
        bytes.get(at..at + SHAPE.len()).is_some_and(|part| {
            let fits = |(&byte, &shape): (&u8, &u8)| match shape {
                b'0' => byte.is_ascii_digit(),
                shape => byte == shape,
            };
            part.iter().zip(SHAPE).all(fits)
        })
    };
    match (0..bytes.len()).find(|&at| is_date(at)) {
        Some(at) => {
            let (before, rest) = line.split_at(at);
            format!("{before}DATE{}", dates(&rest[SHAPE.len()..]))
        }
        None => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(line: &str) -> Vec<String> {
        line.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn text_without_what_varies() {
        let text = "image: a\ndisk size: 196 KiB\n    file length: 1 KiB (1024 bytes)\n\
                    1  one  0 B 2026-11-23 06:07:38 0000:00:00.000\n";
        let strict = output(&args("info a"), text, Strictness::SameBytes);
        assert_eq!(
            strict,
            "image: a\ndisk size: -\n    file length: 1 KiB (1024 bytes)\n\
             1  one  0 B DATE 0000:00:00.000"
        );
        let loose = output(&args("info a"), text, Strictness::SameMeaning);
        assert!(loose.contains("    file length: -\n"), "{loose}");
    }

    #[test]
    fn names_of_nodes_are_made_up() {
        let form = |text| output(&args("bitmap a b"), text, Strictness::SameBytes);
        assert_eq!(form("in '#block104': no"), form("in '#block000': no"));
        assert_ne!(form("in '#block104': no"), form("in '#block104': yes"));
    }

    #[test]
    fn only_the_last_percentage_stays() {
        let text = "    (0.00/100%)\r    (50.00/100%)\r    (100.00/100%)\r\nImage committed.\n";
        assert_eq!(
            output(&args("commit a"), text, Strictness::SameBytes),
            "    (100.00/100%)\r\nImage committed."
        );
    }

    #[test]
    fn json_is_compared_by_keys() {
        let (a, b) = (
            r#"{"b": 1, "actual-size": 5, "children": [{"info": {"format": "file", "virtual-size": 9}}]}"#,
            r#"{"actual-size": 7, "children": [{"info": {"virtual-size": 9, "format": "file"}}], "b": 1}"#,
        );
        let form = |text| output(&args("info a"), text, Strictness::SameBytes);
        assert_eq!(form(a), form(b));
        assert_ne!(form(a), form(&b.replace('9', "8")));
    }

    #[test]
    fn maps_after_a_write_do_not_depend_on_places() {
        let split = r#"[{"start": 0, "length": 10, "depth": 0, "offset": 5},
                        {"start": 10, "length": 10, "depth": 0, "offset": 50}]"#;
        let whole = r#"[{"start": 0, "length": 20, "depth": 0, "offset": 7}]"#;
        let form = |text, how| output(&args("map a"), text, how);
        assert_eq!(
            form(split, Strictness::SameMeaning),
            form(whole, Strictness::SameMeaning)
        );
        assert_ne!(
            form(split, Strictness::SameBytes),
            form(whole, Strictness::SameBytes)
        );
        let split = "Offset Length Mapped to File\n0 0x10 0x50 a\n0x10 0x10 0x90 a\n";
        let whole = "Offset Length Mapped to File\n0 0x20 0x70 a\n";
        assert_eq!(
            form(split, Strictness::SameMeaning),
            form(whole, Strictness::SameMeaning)
        );
    }

    #[test]
    fn which_commands_write() {
        for line in ["info a", "check a", "snapshot -l a", "compare a b"] {
            assert!(!writes(&args(line)), "{line}");
        }
        for line in ["check -r all a", "snapshot -c x a", "commit a", "create a"] {
            assert!(writes(&args(line)), "{line}");
        }
    }
}
