//! A recipe in words: who stands on whom, and what each guest wrote.
//!
//! ```text
//! RootBase 64M: 0+8M=11 9M"Welcome"
//! Snap-1 < RootBase: 4M+2M=21
//! snapshot Snap-1 monday
//! write Snap-1: 5M+1M=22
//! link Snap-1 RootBase-2
//! forget RootBase
//! ```
//!
//! Each line is one thing to do, in order. `START+LENGTH=BYTE` fills a range (in hex; 00 is a
//! deletion), `START"text"` writes text, with zeros up to [`FIELD`] bytes behind it. `K` and `M` are binary. A layer has its backing file's
//! size unless it says one, and is qcow2 unless it says `raw`.

/// Bytes that a text takes at least: a shorter one leaves nothing of a longer one.
pub const FIELD: u64 = 64;

/// What a guest wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// Guest offset.
    pub start: u64,
    pub what: What,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// So many bytes of one value.
    Fill(u64, u8),
    Text(String),
}

impl Written {
    /// The byte behind it.
    #[must_use]
    pub fn end(&self) -> u64 {
        let len = match &self.what {
            What::Fill(len, _) => *len,
            What::Text(text) => FIELD.max(text.len() as u64),
        };
        self.start.saturating_add(len)
    }
}

/// One line of a recipe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    /// A new layer.
    Layer {
        name: String,
        backing: Option<String>,
        size: Option<u64>,
        raw: bool,
        writes: Vec<Written>,
    },
    /// An internal snapshot of a layer, by name.
    Snapshot { layer: String, name: String },
    /// A guest writes to a layer that is there.
    Write { layer: String, writes: Vec<Written> },
    /// Only the link of a layer changes.
    Link { layer: String, backing: String },
    /// The file of a layer is deleted.
    Forget { layer: String },
}

/// Takes a recipe apart.
///
/// # Errors
/// With the line that is no line of a recipe.
pub fn lines(recipe: &str) -> Result<Vec<Line>, String> {
    recipe
        .lines()
        .map(str::trim)
        .filter(|text| !text.is_empty())
        .map(|text| line(text).ok_or_else(|| format!("\"{text}\" is no line of a recipe.")))
        .collect()
}

/// What a guest is to write: `0+8M=11 9M"Welcome"`.
///
/// # Errors
/// When it cannot be read.
pub fn writes(text: &str) -> Result<Vec<Written>, String> {
    written(text).ok_or_else(|| format!("\"{text}\" does not say what to write."))
}

fn line(text: &str) -> Option<Line> {
    let (head, rest) = text.split_once(':').unwrap_or((text, ""));
    let words: Vec<&str> = head.split_whitespace().collect();
    let own = |word: &str| word.to_owned();
    Some(match words.as_slice() {
        ["snapshot", layer, name] => Line::Snapshot {
            layer: own(layer),
            name: own(name),
        },
        ["write", layer] => Line::Write {
            layer: own(layer),
            writes: written(rest)?,
        },
        ["link", layer, backing] => Line::Link {
            layer: own(layer),
            backing: own(backing),
        },
        ["forget", layer] => Line::Forget { layer: own(layer) },
        [name, more @ ..] => {
            let (backing, more) = match more {
                ["<", backing, more @ ..] => (Some(own(backing)), more),
                more => (None, more),
            };
            let (mut size, mut raw) = (None, false);
            for word in more {
                if *word == "raw" {
                    raw = true;
                } else {
                    size = Some(number(word)?);
                }
            }
            Line::Layer {
                name: own(name),
                backing,
                size,
                raw,
                writes: written(rest)?,
            }
        }
        [] => return None,
    })
}

fn written(text: &str) -> Option<Vec<Written>> {
    let mut found = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let end = rest.find(['+', '"'])?;
        let (start, mark) = rest.split_at(end);
        let start = number(start)?;
        let what = if let Some(quoted) = mark.strip_prefix('"') {
            let (text, behind) = quoted.split_once('"')?;
            rest = behind;
            What::Text(text.to_owned())
        } else {
            let (fill, behind) = mark.split_at(mark.find(' ').unwrap_or(mark.len()));
            let (len, byte) = fill.strip_prefix('+')?.split_once('=')?;
            rest = behind;
            What::Fill(number(len)?, u8::from_str_radix(byte, 16).ok()?)
        };
        found.push(Written { start, what });
        rest = rest.trim_start();
    }
    Some(found)
}

/// `512`, `64K`, `8M`.
fn number(text: &str) -> Option<u64> {
    let (digits, unit) = match text.strip_suffix('K') {
        Some(digits) => (digits, 1 << 10),
        None => text
            .strip_suffix('M')
            .map_or((text, 1), |digits| (digits, 1 << 20)),
    };
    digits.parse::<u64>().ok()?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::{Line, What, Written, lines};
    use wasm_bindgen_test::wasm_bindgen_test;

    #[wasm_bindgen_test]
    fn each_line_is_one_thing_to_do() {
        let read = lines(
            "Base 64M raw: 0+8M=11 9M\"a: b\"\n\n A < Base: 512+64K=0f\nsnapshot A monday\nforget Base",
        );
        let fill = |start, len, byte| Written {
            start,
            what: What::Fill(len, byte),
        };
        let text = Written {
            start: 9 << 20,
            what: What::Text("a: b".to_owned()),
        };
        let expected = vec![
            Line::Layer {
                name: "Base".to_owned(),
                backing: None,
                size: Some(64 << 20),
                raw: true,
                writes: vec![fill(0, 8 << 20, 0x11), text],
            },
            Line::Layer {
                name: "A".to_owned(),
                backing: Some("Base".to_owned()),
                size: None,
                raw: false,
                writes: vec![fill(512, 64 << 10, 0x0f)],
            },
            Line::Snapshot {
                layer: "A".to_owned(),
                name: "monday".to_owned(),
            },
            Line::Forget {
                layer: "Base".to_owned(),
            },
        ];
        assert_eq!(read, Ok(expected));
    }

    #[wasm_bindgen_test]
    fn what_is_no_recipe_is_named() {
        for wrong in ["A: 1+2", "A: x+1=11", "A: 0\"open", "A 5X"] {
            assert_eq!(
                lines(wrong),
                Err(format!("\"{wrong}\" is no line of a recipe."))
            );
        }
    }
}
