//! `bitmap`: changes a persistent bitmap of an image.

use crate::failure::{Failure, Outcome, code};
use crate::open::{Given, Input, one, warn_guessed_raw};
use crate::output::progress::When;
use crate::output::size::{self, SizeError};
use crate::work::{DryRun, Run};
use backchain::plan::BitmapAction;
use backchain::{NodeId, Operation, Tree};
use backchain_native::{Durability, FsGate};
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};

/// Change a persistent bitmap of an image
///
/// A bitmap records which parts of the disk were written, for incremental backups. Several
/// actions are done in the order in which they are given.
#[derive(Args)]
pub(crate) struct Options {
    #[command(flatten)]
    actions: Actions,
    /// With --add: bytes that one bit stands for (512 to 2G, a power of two)
    #[arg(short, long, value_name = "SIZE")]
    granularity: Option<String>,
    /// With --merge: the image with the other bitmap, instead of FILENAME
    #[arg(short = 'b', long, value_name = "SRC_FILENAME")]
    source_file: Option<String>,
    /// Format of SRC_FILENAME
    #[arg(short = 'F', long, value_name = "SRC_FMT")]
    source_format: Option<String>,
    #[command(flatten)]
    input: Input,
    #[command(flatten)]
    dry_run: DryRun,
    /// The image and the bitmap's name
    #[arg(value_names = ["FILENAME", "BITMAP"])]
    names: Vec<String>,
}

/// What is to be done, in the order of the command line.
#[derive(Default)]
struct Actions(Vec<Action>);

#[derive(Clone)]
enum Action {
    Add,
    Remove,
    Clear,
    Enable,
    Disable,
    Merge(String),
}

const FLAGS: [(&str, &str, Action); 5] = [
    (
        "add",
        "Make the bitmap; it records writes from now on",
        Action::Add,
    ),
    ("remove", "Take the bitmap away", Action::Remove),
    ("clear", "Clear all bits", Action::Clear),
    ("enable", "Record writes from now on", Action::Enable),
    ("disable", "Record writes no more", Action::Disable),
];

impl Args for Actions {
    fn augment_args(mut command: Command) -> Command {
        for (name, help, _) in FLAGS {
            command = command.arg(
                Arg::new(name)
                    .long(name)
                    .help(help)
                    // Not a plain flag: these remember where each of several was given.
                    .action(ArgAction::Append)
                    .num_args(0)
                    .default_missing_value(""),
            );
        }
        command.arg(
            Arg::new("merge")
                .long("merge")
                .value_name("SOURCE")
                .help("Add the bits of another bitmap")
                .action(ArgAction::Append),
        )
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Actions {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut actions = Self::default();
        actions.update_from_arg_matches(matches)?;
        Ok(actions)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        let mut found: Vec<(usize, Action)> = Vec::new();
        for (name, _, action) in FLAGS {
            let places = matches.indices_of(name).into_iter().flatten();
            found.extend(places.map(|place| (place, action.clone())));
        }
        let places = matches.indices_of("merge").into_iter().flatten();
        let sources = matches.get_many::<String>("merge").into_iter().flatten();
        found.extend(
            places
                .zip(sources)
                .map(|(p, s)| (p, Action::Merge(s.clone()))),
        );
        found.sort_by_key(|(place, _)| *place);
        self.0 = found.into_iter().map(|(_, action)| action).collect();
        Ok(())
    }
}

pub(crate) fn run(options: &Options) -> Outcome {
    let granularity = granularity(options.granularity.as_deref())?;
    let (filename, bitmap) = check(options)?;
    let mut tree = Tree::new();
    let gate = options.input.gate()?;
    let node = options.input.one(&mut tree, &gate, filename)?;
    super::amend::refuse_corrupt(&tree, node, filename)?;
    warn_guessed_raw(&tree, node, filename);
    super::amend::warn_of_bitmaps(&tree, node)?;
    let source = source(options, &mut tree, &gate, node)?;
    let actions: Vec<BitmapAction> = options
        .actions
        .0
        .iter()
        .map(|action| match action {
            Action::Add => BitmapAction::Add { granularity },
            Action::Remove => BitmapAction::Remove,
            Action::Clear => BitmapAction::Clear,
            Action::Enable => BitmapAction::Enable,
            Action::Disable => BitmapAction::Disable,
            Action::Merge(bitmap) => BitmapAction::Merge {
                source,
                bitmap: bitmap.clone(),
            },
        })
        .collect();
    let operation = |count: usize| Operation::Bitmap {
        node,
        name: bitmap.to_owned(),
        actions: actions.get(..count).unwrap_or_default().to_vec(),
    };
    // As with qemu-img, what comes before an action that fails is done.
    let mut count = actions.len();
    let mut failure = None;
    while let Err(error) = tree.plan(&operation(count)) {
        failure.get_or_insert(error);
        if count == 0 {
            break;
        }
        count -= 1;
    }
    if count > 0 {
        let run = Run {
            title: "bitmap",
            dry_run: &options.dry_run,
            progress: When::Never,
            quiet: false,
            durability: Durability::Full,
            rate: None,
            force_share: options.input.sharing.force_share,
        };
        run.go(&tree, &gate, &operation(count))?;
    }
    match failure {
        Some(error) => Err(Failure::change(&error)),
        None => Ok(code::OK),
    }
}

/// Mistakes in the arguments, in qemu-img's order; else the file's and the bitmap's name.
fn check(options: &Options) -> Result<(&str, &str), Failure> {
    let actions = &options.actions.0;
    let failure = |message: &str| Err(Failure::new(message));
    if options.input.options.image_opts && options.input.format.is_some() {
        return failure("--image-opts and --format are mutually exclusive");
    }
    if actions.is_empty() {
        return failure(
            "Need at least one of --add, --remove, --clear, --enable, --disable, or --merge",
        );
    }
    let adds = actions.iter().any(|a| matches!(a, Action::Add));
    let merges = actions.iter().any(|a| matches!(a, Action::Merge(_)));
    if options.granularity.is_some() && !adds {
        return failure("granularity only supported with --add");
    }
    if options.source_format.is_some() && options.source_file.is_none() {
        return failure("-F only supported with -b");
    }
    if options.source_file.is_some() && !merges {
        return failure("Merge bitmap source file only supported with --merge");
    }
    match options.names.as_slice() {
        [file, bitmap] => Ok((file, bitmap)),
        _ => failure("Expecting filename and bitmap name"),
    }
}

/// Reads `-g`; 0 is as good as none.
fn granularity(text: Option<&str>) -> Result<Option<u64>, Failure> {
    let parse = |text: &str| match size::parse(text) {
        Ok(bytes) => Ok(Some(bytes).filter(|&bytes| bytes != 0)),
        Err(SizeError::TooLarge) => Err(out_of_range()),
        Err(SizeError::Invalid) if text.trim_start().starts_with('-') => Err(out_of_range()),
        Err(SizeError::Invalid) => Err(Failure::new(format_args!(
            "Invalid granularity specified: '{text}'."
        ))),
    };
    text.map_or(Ok(None), parse)
}

fn out_of_range() -> Failure {
    Failure::new(format_args!(
        "Invalid granularity specified. Must be between 0 and {}.",
        i64::MAX
    ))
}

/// The image of `-b`. qemu-img opens it beside the one it writes, so they cannot be the same.
fn source(
    options: &Options,
    tree: &mut Tree,
    gate: &FsGate,
    node: NodeId,
) -> Result<Option<NodeId>, Failure> {
    let Some(name) = options.source_file.as_deref() else {
        return Ok(None);
    };
    let source = one(
        tree,
        gate,
        &Given::name(name, options.source_format.as_deref()),
    )?;
    if source == node {
        let why = format!(
            "Failed to get shared \"write\" lock\nIs another process using the image [{name}]?"
        );
        return Err(Failure::open(name, why));
    }
    Ok(Some(source))
}
