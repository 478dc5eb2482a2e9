//! Lists of options: `key=value,key=value`, where `,,` stands for a comma.

use serde_json::{Map, Value};

/// The items of a list, each split at its first `=`.
pub(crate) fn items(list: &str) -> Vec<(String, Option<String>)> {
    let mut items = vec![String::new()];
    let mut chars = list.chars().peekable();
    while let Some(c) = chars.next() {
        let last = items.len() - 1;
        match c {
            ',' if chars.peek() == Some(&',') => {
                chars.next();
                items[last].push(',');
            }
            ',' => items.push(String::new()),
            c => items[last].push(c),
        }
    }
    let pair = |item: String| match item.split_once('=') {
        Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
        None => (item, None),
    };
    items
        .into_iter()
        .filter(|item| !item.is_empty())
        .map(pair)
        .collect()
}

/// `list` as the options of an image (`--image-opts`): a first item without `=` names a node,
/// others switch something on, or off after `no`.
pub(crate) fn image_options(list: &str) -> Map<String, Value> {
    let mut map = Map::new();
    for (index, (key, value)) in items(list).into_iter().enumerate() {
        let (key, value) = match value {
            Some(value) => (key, value),
            None if index == 0 => ("file".to_owned(), key),
            None => {
                let (name, value) = match key.strip_prefix("no") {
                    Some(rest) if !rest.is_empty() => (rest.to_owned(), "off"),
                    _ => (key.clone(), "on"),
                };
                crate::output::complain(&format!(
                    "warning: short-form boolean option '{key}' deprecated\n\
                     Please use {name}={value} instead"
                ));
                (name, value.to_owned())
            }
        };
        map.insert(key, Value::String(value));
    }
    map
}

/// `list` as an object (`--object`): keys with dots are nested, the last of several values wins,
/// a first item without `=` is the value of `implied`.
pub(crate) fn parse(list: &str, implied: &str) -> Result<Map<String, Value>, String> {
    let mut map = Map::new();
    for (index, (key, value)) in items(list).into_iter().enumerate() {
        let (key, value) = match value {
            Some(value) => (key, value),
            None if index == 0 => (implied.to_owned(), key),
            None => return Err(format!("Expected '=' after parameter '{key}'")),
        };
        let is_name = |part: &str| {
            part.starts_with(|c: char| c.is_ascii_alphabetic())
                && part
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
        };
        if !key.split('.').all(is_name) {
            return Err(format!("Invalid parameter '{key}'"));
        }
        // Nothing that is read here has nested parts: one level says that there are some.
        match key.split_once('.') {
            Some((outer, inner)) => {
                let nested = Map::from_iter([(inner.to_owned(), Value::String(value))]);
                map.insert(outer.to_owned(), Value::Object(nested));
            }
            None => {
                map.insert(key, Value::String(value));
            }
        }
    }
    // `data.x` in place of `data` is unknown, not a value of the wrong type.
    for key in ["data", "id", "file", "format", "keyid", "iv"] {
        if matches!(map.get(key), Some(Value::Object(_))) {
            return Err(format!("Parameters '{key}.*' are unexpected"));
        }
    }
    Ok(map)
}

/// A JSON object.
pub(crate) fn json_object(text: &str) -> Result<Map<String, Value>, String> {
    match serde_json::from_str(text) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Err("JSON parse error, expecting an object".to_owned()),
        Err(error) if error.is_eof() => Err("JSON parse error, premature EOI".to_owned()),
        Err(error) => Err(format!("JSON parse error, {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_commas_are_one() {
        let map = image_options("driver=qcow2,file.filename=a,,b,read-only");
        assert_eq!(map["file.filename"], "a,b");
        assert_eq!(map["read-only"], "on");
        assert_eq!(image_options("x.img")["file"], "x.img");
    }
}
