//! Opening what the user names, and saying in qemu-img's words why it cannot be opened.

use crate::failure::{Failure, code};
use crate::keyval;
use crate::object::{self, Object};
use crate::output;
use backchain::chain::Node;
use backchain::format::qcow2::Extensions;
use backchain::image::Encryption;
use backchain::{Chain, Error, ErrorKind, Format, Link, NodeId, Tree};
use backchain_native::{Durability, FsGate, GateOptions};
use clap::Args;
use std::borrow::Cow;
use std::sync::Once;

/// Options of every command that opens one existing image.
#[derive(Args, Clone, Default)]
pub(crate) struct Input {
    /// Format of the image
    #[arg(short, long, value_name = "FMT")]
    pub(crate) format: Option<String>,
    #[command(flatten)]
    pub(crate) options: ImageOpts,
    #[command(flatten)]
    pub(crate) sharing: Sharing,
}

/// `--image-opts`: beside `-f`, however a command calls that.
#[derive(Args, Clone, Copy, Default)]
pub(crate) struct ImageOpts {
    /// Names of images are lists of options (driver=qcow2,file.filename=NAME)
    #[arg(long, visible_alias = "source-image-opts")]
    pub(crate) image_opts: bool,
}

/// Options of every command that opens files.
#[derive(Args, Clone, Default)]
pub(crate) struct Sharing {
    /// A passphrase: secret,id=ID,data=TEXT or secret,id=ID,file=FILE, with format=base64
    #[arg(long = "object", value_name = "OBJDEF")]
    pub(crate) objects: Vec<Object>,
    /// Open the images even while another program writes them; they may be changing
    #[arg(short = 'U', long)]
    pub(crate) force_share: bool,
    /// Follow files named inside an image whose own format nobody recorded
    #[arg(long)]
    pub(crate) trust_probed: bool,
}

impl Sharing {
    /// The gate for these options.
    pub(crate) fn gate(&self) -> Result<FsGate, Failure> {
        let gate = FsGate::new(GateOptions {
            force_share: self.force_share,
            trust_probed: self.trust_probed,
        });
        Ok(gate.with_secrets(object::secrets(&self.objects)?))
    }
}

impl Input {
    /// The gate for these options.
    pub(crate) fn gate(&self) -> Result<FsGate, Failure> {
        self.sharing.gate()
    }

    /// The image that the user calls `text`.
    pub(crate) fn given<'a>(&'a self, text: &'a str) -> Result<Given<'a>, Failure> {
        self.options.given(text, self.format.as_deref())
    }

    /// Opens an image and its backing files.
    pub(crate) fn chain(
        &self,
        tree: &mut Tree,
        gate: &FsGate,
        text: &str,
    ) -> Result<Chain, Failure> {
        chain(tree, gate, &self.given(text)?)
    }

    /// The same for a command that writes: a loop is a refusal then.
    pub(crate) fn chain_to_change(
        &self,
        tree: &mut Tree,
        gate: &FsGate,
        text: &str,
    ) -> Result<Chain, Failure> {
        chain_to_change(tree, gate, &self.given(text)?)
    }

    /// Opens one file without its backing files; fails when it is not a readable image.
    pub(crate) fn one(
        &self,
        tree: &mut Tree,
        gate: &FsGate,
        text: &str,
    ) -> Result<NodeId, Failure> {
        one(tree, gate, &self.given(text)?)
    }
}

impl ImageOpts {
    /// The image that the user calls `text`, in `format`.
    pub(crate) fn given<'a>(
        self,
        text: &'a str,
        format: Option<&'a str>,
    ) -> Result<Given<'a>, Failure> {
        if !self.image_opts {
            return Ok(Given::name(text, format));
        }
        if format.is_some() {
            let message = "--image-opts and --format are mutually exclusive";
            return Err(Failure::new(message));
        }
        let options = serde_json::Value::Object(keyval::image_options(text));
        Ok(Given {
            text,
            name: Cow::Owned(format!("json:{options}")),
            format,
        })
    }
}

/// An image as the user names it.
#[derive(Clone)]
pub(crate) struct Given<'a> {
    /// What the user wrote: for messages.
    pub(crate) text: &'a str,
    /// The name to open.
    pub(crate) name: Cow<'a, str>,
    /// The format that was given with it.
    pub(crate) format: Option<&'a str>,
}

impl<'a> Given<'a> {
    /// A plain name.
    pub(crate) fn name(text: &'a str, format: Option<&'a str>) -> Self {
        Self {
            text,
            name: Cow::Borrowed(text),
            format,
        }
    }
}

/// A cache mode (`-t`, `-T`) in qemu-img's words.
///
/// They differ in what the host keeps in memory meanwhile, which a plan does not depend on: it
/// says itself where something must be durable. At the end everything is, but with `unsafe`.
pub(crate) fn cache_mode(mode: &str) -> Option<Durability> {
    match mode {
        "unsafe" => Some(Durability::None),
        "none" | "off" | "writeback" | "writethrough" | "directsync" => Some(Durability::Full),
        _ => None,
    }
}

/// `-t`: the cache mode of what is written, by default that of durable changes.
#[derive(Args, Clone, Default)]
pub(crate) struct TargetCache {
    /// Cache mode: none, writeback, writethrough, directsync, or unsafe (do not wait for the disk)
    #[arg(short = 't', long, value_name = "CACHE")]
    pub(crate) cache: Option<String>,
}

impl TargetCache {
    /// How durable the change is to be.
    pub(crate) fn durability(&self) -> Result<Durability, Failure> {
        target_cache(self.cache.as_deref().unwrap_or("writeback"))
    }
}

/// `-T` of commands that read only.
#[derive(Args, Clone, Default)]
pub(crate) struct SourceCache {
    /// Cache mode of what is read; accepted, without effect
    #[arg(short = 'T', long, value_name = "CACHE")]
    pub(crate) cache: Option<String>,
}

impl SourceCache {
    /// Fails when there is no such mode.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        source_cache(self.cache.as_deref())
    }
}

/// How durable a change in this cache mode is to be.
pub(crate) fn target_cache(mode: &str) -> Result<Durability, Failure> {
    cache_mode(mode).ok_or_else(|| Failure::new(format_args!("Invalid cache option: {mode}")))
}

/// Fails when there is no such mode for reading; it makes no difference.
pub(crate) fn source_cache(mode: Option<&str>) -> Result<(), Failure> {
    match mode.filter(|mode| cache_mode(mode).is_none()) {
        Some(mode) => Err(Failure::new(format_args!(
            "Invalid source cache option: {mode}"
        ))),
        None => Ok(()),
    }
}

/// Says, before a file is written, that nobody said it is raw.
pub(crate) fn warn_guessed_raw(tree: &Tree, id: NodeId, text: &str) {
    let node = tree.node(id);
    let raw = node.image.as_ref().is_ok_and(|i| i.format() == Format::Raw);
    if raw && node.origin == backchain::chain::FormatOrigin::Probed {
        let text = text.escape_debug();
        eprintln!(
            "WARNING: Image format was not specified for '{text}' and probing guessed raw.\n         \
             Automatically detecting the format is dangerous for raw images, write operations on \
             block 0 will be restricted.\n         \
             Specify the 'raw' format explicitly to remove the restrictions."
        );
    }
}

/// Reads a format's name as given for the file `name`.
pub(crate) fn format(name: &str, format: Option<&str>) -> Result<Option<Format>, Failure> {
    let parsed = format.map(str::parse::<Format>).transpose();
    parsed.map_err(|error| Failure::open(name, error))
}

/// Opens one file without its backing files; fails when it is not a readable image, or is
/// encrypted and cannot be unlocked.
pub(crate) fn one(tree: &mut Tree, gate: &FsGate, given: &Given<'_>) -> Result<NodeId, Failure> {
    let id = metadata(tree, gate, given)?;
    match tree.node(id).cipher() {
        Ok(_) => {
            warn_of_old_method(tree.node(id));
            Ok(id)
        }
        Err(error) => Err(Failure::open(given.text, reason(&error, &given.name))),
    }
}

/// The same without a passphrase: for those who look at metadata alone.
pub(crate) fn metadata(
    tree: &mut Tree,
    gate: &FsGate,
    given: &Given<'_>,
) -> Result<NodeId, Failure> {
    let format = self::format(given.text, given.format)?;
    let id = tree.add_one(gate, &given.name, format);
    let id = id.map_err(|error| Failure::open(given.text, reason(&error, &given.name)))?;
    match why_not_image(tree.node(id)) {
        Some(why) => Err(Failure::open(given.text, why)),
        None => Ok(id),
    }
}

/// Opens a file and its backing files.
pub(crate) fn chain(tree: &mut Tree, gate: &FsGate, given: &Given<'_>) -> Result<Chain, Failure> {
    let format = self::format(given.text, given.format)?;
    let id = tree.add(gate, &given.name, format);
    let id = id.map_err(|error| Failure::open(given.text, reason(&error, &given.name)))?;
    let chain = tree
        .chain(id)
        .map_err(|error| broken_chain(tree, id, given.text, &error))?;
    unlocked(&chain, given.text)?;
    Ok(chain)
}

/// Fails when an image of the chain is encrypted and cannot be unlocked.
pub(crate) fn unlocked(chain: &Chain, name: &str) -> Result<(), Failure> {
    let mut path = String::new();
    for node in chain.layers() {
        if let Err(error) = node.cipher() {
            let why = reason(&error, &node.name);
            return Err(Failure::open(name, format_args!("{path}{why}")));
        }
        warn_of_old_method(node);
        path.push_str("Could not open backing file: ");
    }
    Ok(())
}

/// Says, once, that an image is encrypted with the old AES method. qemu-img reads it without a
/// word.
fn warn_of_old_method(node: &Node) {
    static SAID: Once = Once::new();
    let image = node.image.as_ref().ok();
    let old = image.and_then(|image| image.encryption()) == Some(Encryption::Aes);
    if old && output::program() != "qemu-img" {
        SAID.call_once(|| {
            output::warn(format_args!(
                "{} is encrypted with the old AES method, which is not safe and is only read; \
                 convert it with -o encrypt.format=luks",
                node.name.escape_debug()
            ));
        });
    }
}

/// The same for a command that writes: a loop is a refusal then.
pub(crate) fn chain_to_change(
    tree: &mut Tree,
    gate: &FsGate,
    given: &Given<'_>,
) -> Result<Chain, Failure> {
    chain(tree, gate, given).map_err(|failure| {
        let looping = tree
            .nodes()
            .first()
            .is_some_and(|n| tree.find_loop(n.id).is_some());
        if looping {
            failure.with_code(code::REFUSED)
        } else {
            failure.of_writer(given.text)
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
        if let Some(error) = &node.data_error {
            let reason = reason(error, &data_file_name(node));
            return Failure::open(name, format_args!("{path}{reason}"));
        }
        match tree.link(at) {
            Link::To(next) => at = *next,
            Link::Broken(error) => {
                let file = node.backing().map_or("", |b| b.name.as_str());
                let file = backchain::chain::Locator::resolve(file, Some(&node.name))
                    .unwrap_or_else(|_| file.to_owned());
                let reason = match error.as_qemu() {
                    Some(words) => words.to_owned(),
                    None if node.backing().is_some() => reason(error, &file),
                    None => error.message().to_owned(),
                };
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

/// The name of the data file that an image wants, for messages.
fn data_file_name(node: &Node) -> String {
    let given = node.opened.data_file.as_deref();
    let header = node.image.as_ref().ok().and_then(|image| image.as_qcow2());
    let header = header.and_then(|image| image.head.extensions.string(Extensions::DATA_FILE));
    given.map_or(header.unwrap_or_default(), str::to_owned)
}

/// Why a file that was opened is not an image of its format.
pub(crate) fn why_not_image(node: &Node) -> Option<String> {
    let error = node.image.as_ref().err()?;
    Some(words(error))
}

/// An error in qemu-img's words where it has any.
pub(crate) fn words(error: &Error) -> String {
    let words = error.as_qemu().map(str::to_owned);
    words.unwrap_or_else(|| error.to_string())
}

/// The last part of a message about the file `name`.
pub(crate) fn reason(error: &Error, name: &str) -> String {
    let opening = backchain::chain::Opening::parse(name).ok();
    let path = opening.and_then(|opening| opening.path());
    let name = path.as_deref().unwrap_or(name);
    if let Some(words) = error.as_qemu() {
        return words.to_owned();
    }
    if error.kind() == ErrorKind::NotFound {
        return format!("Could not open '{name}': No such file or directory");
    }
    if error
        .message()
        .contains(" could not be opened: Is a directory")
    {
        return format!("'file' driver requires '{name}' to be a regular file");
    }
    // The operating system's reason, in qemu-img's frame.
    if let Some((_, why)) = error.message().split_once(" could not be opened: ") {
        let why = why.split(" (os error ").next().unwrap_or(why);
        return format!("Could not open '{name}': {why}");
    }
    error.message().to_owned()
}
