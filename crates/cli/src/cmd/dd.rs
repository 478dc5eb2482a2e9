//! `dd`: a part of what the guest sees, in blocks.

use crate::failure::{Failure, Outcome, code};
use crate::new_image;
use crate::open::{self, Input};
use crate::output;
use crate::output::progress::When;
use crate::output::size::{self, SizeError};
use crate::work::{DryRun, Run};
use backchain::plan::{ConvertOptions, CreateOptions, Target, Zeros};
use backchain::{Operation, Tree};
use backchain_native::Durability;
use clap::Args;

/// Copy blocks of what the guest sees into a new image
///
/// Operands: if=INPUT of=OUTPUT [bs=BLOCK_SIZE] [count=BLOCKS] [skip=BLOCKS]
#[derive(Args)]
pub(crate) struct Options {
    /// Format of OUTPUT
    #[arg(short = 'O', long, value_name = "OUTPUT_FMT", default_value = "raw")]
    output_format: String,
    #[command(flatten)]
    input: Input,
    #[command(flatten)]
    dry_run: DryRun,
    /// if=, of=, bs=, count=, skip=
    #[arg(value_name = "OPERAND", num_args = 0.., allow_hyphen_values = true)]
    operands: Vec<String>,
}

/// The operands.
#[derive(Default)]
struct Operands<'a> {
    input: Option<&'a str>,
    output: Option<&'a str>,
    /// Bytes of a block.
    block: Option<u64>,
    count: Option<u64>,
    skip: u64,
}

/// Bytes of a block unless told otherwise.
const BLOCK: u64 = 512;
/// The largest block in bytes.
const MAX_BLOCK: u64 = 0x7fff_ffff;

impl<'a> Operands<'a> {
    fn read(operands: &'a [String]) -> Result<Self, Failure> {
        let mut read = Self::default();
        for operand in operands {
            let (key, value) = operand.split_once('=').unwrap_or((operand, ""));
            let known = operand.contains('=');
            match key {
                "if" if known => read.input = Some(value),
                "of" if known => read.output = Some(value),
                "bs" if known => read.block = Some(number(key, value, 1, MAX_BLOCK)?),
                "count" if known => read.count = Some(number(key, value, 0, u64::MAX >> 1)?),
                "skip" if known => read.skip = number(key, value, 0, u64::MAX >> 1)?,
                _ => return Err(Failure::new(format_args!("unrecognized operand {key}"))),
            }
        }
        Ok(read)
    }
}

fn number(what: &str, text: &str, least: u64, most: u64) -> Result<u64, Failure> {
    match size::parse(text) {
        Ok(number) if (least..=most).contains(&number) => Ok(number),
        Ok(_) | Err(SizeError::TooLarge) => Err(Failure::new(format_args!(
            "Invalid {what} specified. Must be between {least} and {most}."
        ))),
        Err(SizeError::Invalid) => Err(Failure::new(format_args!(
            "Invalid {what} specified: '{text}'."
        ))),
    }
}

pub(crate) fn run(options: &Options) -> Outcome {
    let operands = Operands::read(&options.operands)?;
    let (Some(source), Some(target)) = (operands.input, operands.output) else {
        return Err(Failure::new("Must specify both input and output files"));
    };
    let mut tree = Tree::new();
    let gate = options.input.gate()?;
    let given = options.input.given(source)?;
    let chain = open::chain(&mut tree, &gate, &given)?;
    let format = options.output_format.parse();
    let format = format.map_err(|_| Failure::new("Unknown file format"))?;

    // As qemu-img has it, the blocks that are skipped count too.
    let block = operands.block.unwrap_or(BLOCK);
    let all = chain.virtual_size();
    let end = operands
        .count
        .and_then(|count| count.checked_mul(block))
        .map_or(all, |bytes| bytes.min(all));
    let start = operands
        .skip
        .checked_mul(block)
        .filter(|start| *start <= end);
    if start.is_none() {
        output::complain(&format!("{source}: cannot skip to specified offset"));
    }
    let start = start.unwrap_or(end);

    let making = |message: &str| {
        Failure::new(format_args!(
            "{target}: error while creating output image: {message}"
        ))
    };
    new_image::not_an_input(&mut tree, target).map_err(|_| {
        making(&format!(
            "Failed to get \"write\" lock\nIs another process using the image [{target}]?"
        ))
    })?;
    let operation = Operation::Convert {
        sources: vec![chain.top().id],
        target: Target::New {
            name: target.to_owned(),
            options: CreateOptions {
                format,
                ..CreateOptions::default()
            },
            backing: None,
        },
        options: ConvertOptions {
            window: Some((start, end - start)),
            zeros: Zeros::Written,
            ..ConvertOptions::default()
        },
    };
    let run = Run {
        title: "dd",
        dry_run: &options.dry_run,
        progress: When::Never,
        quiet: false,
        durability: Durability::Full,
        rate: None,
        force_share: options.input.sharing.force_share,
    };
    run.go_or(&tree, &gate, &operation, &|error| {
        let failure = Failure::making(error, target);
        if error.file() == Some(target) {
            return making(failure.message());
        }
        if failure.code() == code::REFUSED {
            return failure.with_code(code::FAILED);
        }
        failure
    })?;
    Ok(code::OK)
}
