//! `map`: where the bytes of every guest range are.

use crate::args::Output;
use crate::failure::{Failure, Outcome, code};
use crate::open::Input;
use crate::output;
use crate::output::size;
use backchain::{Chain, Map, MapEntry, Tree};
use clap::Args;
use std::io::Write;

/// Show where the bytes of each part of the disk are
#[derive(Args)]
pub(crate) struct Options {
    /// How to print it
    #[arg(long, value_enum, default_value = "human")]
    output: Output,
    /// First byte of the disk to show
    #[arg(short, long, value_name = "OFFSET")]
    start_offset: Option<String>,
    /// Bytes to show
    #[arg(short = 'l', long, value_name = "LENGTH")]
    max_length: Option<String>,
    #[command(flatten)]
    input: Input,
    /// The image
    filename: String,
}

pub(crate) fn run(options: &Options) -> Outcome {
    let number = |what, text: Option<&str>| {
        let parsed = text.map(size::parse).transpose();
        parsed.map_err(|error| {
            let text = text.unwrap_or_default();
            Failure::size(what, text, &error)
        })
    };
    let start = number("start offset", options.start_offset.as_deref())?.unwrap_or(0);
    let length = number("max length", options.max_length.as_deref())?.unwrap_or(u64::MAX);
    let mut tree = Tree::new();
    let gate = options.input.gate()?;
    let chain = options.input.chain(&mut tree, &gate, &options.filename)?;
    let map = Map::new(&chain, start, length);
    match options.output {
        Output::Human => human(&chain, map),
        Output::Json => json(map, start),
    }
}

fn json(map: backchain::Result<Map>, start: u64) -> Outcome {
    let mut out = output::stdout();
    write!(out, "[")?;
    // QEMU shows nothing as one empty entry.
    let mut pending = Some(MapEntry {
        start,
        length: 0,
        depth: 0,
        present: false,
        zero: false,
        data: false,
        compressed: false,
        offset: None,
    });
    for (index, entry) in shown(&mut out, map)?.enumerate() {
        let entry = shown(&mut out, entry)?;
        pending = None;
        if index > 0 {
            writeln!(out, ",")?;
        }
        line(&mut out, &entry)?;
    }
    if let Some(entry) = pending {
        line(&mut out, &entry)?;
    }
    writeln!(out, "]")?;
    out.flush()?;
    Ok(code::OK)
}

/// The value; before an error, what was found so far is shown.
fn shown<T>(out: &mut impl Write, value: backchain::Result<T>) -> Result<T, Failure> {
    if value.is_err() {
        out.flush()?;
    }
    Ok(value?)
}

fn line(out: &mut impl Write, entry: &MapEntry) -> std::io::Result<()> {
    write!(
        out,
        "{{ \"start\": {}, \"length\": {}, \"depth\": {}, \"present\": {}, \"zero\": {}, \
         \"data\": {}, \"compressed\": {}",
        entry.start,
        entry.length,
        entry.depth,
        entry.present,
        entry.zero,
        entry.data,
        entry.compressed
    )?;
    if let Some(offset) = entry.offset {
        write!(out, ", \"offset\": {offset}")?;
    }
    write!(out, "}}")
}

fn human(chain: &Chain, map: backchain::Result<Map>) -> Outcome {
    let mut out = output::stdout();
    writeln!(
        out,
        "{:<16}{:<16}{:<16}File",
        "Offset", "Length", "Mapped to"
    )?;
    for entry in shown(&mut out, map)? {
        let entry = shown(&mut out, entry)?;
        if !entry.data || entry.zero {
            continue;
        }
        let Some(offset) = entry.offset else {
            out.flush()?;
            let message = "File contains external, encrypted or compressed clusters.";
            return Err(Failure::new(message));
        };
        let file = chain
            .layers()
            .get(entry.depth)
            .map_or("", |node| node.data_node().name.as_str());
        // C's `%#x` has no prefix for zero.
        let hex = |n: u64| {
            if n == 0 {
                "0".to_owned()
            } else {
                format!("{n:#x}")
            }
        };
        let (start, length) = (hex(entry.start), hex(entry.length));
        writeln!(out, "{start:<16}{length:<16}{:<16}{file}", hex(offset))?;
    }
    out.flush()?;
    Ok(code::OK)
}
