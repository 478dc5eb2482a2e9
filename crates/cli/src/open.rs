//! Opening what the user names, and saying in qemu-img's words why it cannot be opened.

use crate::failure::{Failure, code};
use backchain::chain::{FormatOrigin, Node};
use backchain::{Chain, Error, ErrorKind, Format, Link, NodeId, Tree};
use backchain_native::{FsGate, GateOptions};
use clap::Args;

/// Options that every command on existing images takes.
#[derive(Args, Clone, Default)]
pub(crate) struct Sharing {
    /// Open the images even while another program writes them; they may be changing
    #[arg(short = 'U', long)]
    pub(crate) force_share: bool,
    /// Follow backing files named inside an image whose own format nobody recorded
    #[arg(long)]
    pub(crate) trust_probed: bool,
}

impl Sharing {
    /// The gate for these options.
    pub(crate) fn gate(&self) -> FsGate {
        FsGate::new(GateOptions {
            force_share: self.force_share,
            trust_probed: self.trust_probed,
        })
    }
}

/// Reads a format's name as given for the file `name`.
pub(crate) fn format(name: &str, format: Option<&str>) -> Result<Option<Format>, Failure> {
    let parsed = format.map(str::parse::<Format>).transpose();
    parsed.map_err(|error| Failure::open(name, error))
}

/// Opens one file without its backing files; fails when it is not a readable image.
pub(crate) fn one(
    tree: &mut Tree,
    gate: &FsGate,
    name: &str,
    format: Option<&str>,
) -> Result<NodeId, Failure> {
    let format = self::format(name, format)?;
    let id = tree.add_one(gate, name, format);
    let id = id.map_err(|error| Failure::open(name, reason(&error, name)))?;
    match why_not_image(tree.node(id)) {
        Some(why) => Err(Failure::open(name, why)),
        None => Ok(id),
    }
}

/// Opens a file and its backing files.
pub(crate) fn chain(
    tree: &mut Tree,
    gate: &FsGate,
    name: &str,
    format: Option<&str>,
) -> Result<Chain, Failure> {
    let format = self::format(name, format)?;
    let id = tree.add(gate, name, format);
    let id = id.map_err(|error| Failure::open(name, reason(&error, name)))?;
    tree.chain(id)
        .map_err(|error| broken_chain(tree, id, name, &error))
}

/// The same for a command that writes: a loop is a refusal then.
pub(crate) fn chain_to_change(
    tree: &mut Tree,
    gate: &FsGate,
    name: &str,
    format: Option<&str>,
) -> Result<Chain, Failure> {
    chain(tree, gate, name, format).map_err(|failure| {
        let looping = tree
            .nodes()
            .first()
            .is_some_and(|n| tree.find_loop(n.id).is_some());
        if looping {
            failure.with_code(code::REFUSED)
        } else {
            failure
        }
    })
}

/// Why the chain of `id`, which the user calls `name`, cannot be read.
pub(crate) fn broken_chain(tree: &Tree, id: NodeId, name: &str, error: &Error) -> Failure {
    if error.kind() == ErrorKind::Loop {
        return Failure::open(name, error);
    }
    let mut path = String::new();
    let mut at = id;
    loop {
        let node = tree.node(at);
        if let Some(why) = why_not_image(node) {
            if at == id {
                return Failure::open(name, why);
            }
            return Failure::open(name, format_args!("{path}{why}"));
        }
        match tree.link(at) {
            Link::To(next) => at = *next,
            Link::Broken(error) => {
                let file = node.backing().map_or("", |b| b.name.as_str());
                let file = backchain::chain::Locator::resolve(file, Some(&node.name))
                    .unwrap_or_else(|_| file.to_owned());
                let reason = reason(error, &file);
                return Failure::open(
                    name,
                    format_args!("{path}Could not open backing file: {reason}"),
                );
            }
            Link::None => return Failure::open(name, error),
        }
        path.push_str("Could not open backing file: ");
    }
}

/// Why a file that was opened is not an image of its format.
pub(crate) fn why_not_image(node: &Node) -> Option<String> {
    let error = node.image.as_ref().err()?;
    if node.probed == Format::Raw && node.origin != FormatOrigin::Probed {
        return Some("Image is not in qcow2 format".to_owned());
    }
    Some(error.to_string())
}

/// The last part of a message about the file `name`.
pub(crate) fn reason(error: &Error, name: &str) -> String {
    if error.kind() == ErrorKind::NotFound {
        return format!("Could not open '{name}': No such file or directory");
    }
    // The operating system's reason, in qemu-img's frame.
    if let Some((_, why)) = error.message().split_once(" could not be opened: ") {
        let why = why.split(" (os error ").next().unwrap_or(why);
        return format!("Could not open '{name}': {why}");
    }
    error.message().to_owned()
}
