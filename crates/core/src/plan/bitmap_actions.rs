//! What actions on a persistent bitmap come to, and which of them are refused.

use super::bitmap_directory::{Directory, bits, default_granularity, fits};
use super::operation::BitmapAction;
use crate::chain::{Node, NodeId, Tree};
use crate::error::{Error, ErrorKind, Result};
use crate::image::BitmapBits;
use backchain_format::qcow2::BitmapDirectoryEntry;
use std::sync::Arc;

/// A bitmap as the actions so far leave it.
pub(super) struct Wanted {
    /// Its entry in the directory as it is.
    pub(super) stored: Option<usize>,
    pub(super) granularity_bits: u8,
    pub(super) auto: bool,
    pub(super) in_use: bool,
    /// Its bits stay; else it was cleared or is new.
    pub(super) keeps_bits: bool,
    pub(super) merged: Vec<BitmapBits>,
}

/// The actions in words that do not go on to the next one.
pub(super) struct Actions<'a> {
    pub(super) tree: &'a Tree,
    pub(super) node: &'a Arc<Node>,
    pub(super) name: &'a str,
    pub(super) directory: Directory,
    /// Index of the bitmap in the directory.
    pub(super) index: Option<usize>,
    pub(super) state: Option<Wanted>,
}

impl Actions<'_> {
    pub(super) fn apply(&mut self, action: &BitmapAction) -> Result<()> {
        let result = match action {
            BitmapAction::Add { granularity } => self.add(*granularity),
            BitmapAction::Remove => self.known().map(|_| ()).map(|()| self.state = None),
            BitmapAction::Clear => self.usable().map(|bitmap| {
                bitmap.keeps_bits = false;
                bitmap.merged.clear();
            }),
            BitmapAction::Enable => self.usable().map(|bitmap| bitmap.auto = true),
            BitmapAction::Disable => self.usable().map(|bitmap| bitmap.auto = false),
            BitmapAction::Merge { source, bitmap } => self.merge(*source, bitmap),
        };
        result.map_err(|why| {
            let (what, name) = (action.name(), self.name);
            let kind = why.kind();
            let why = why.message();
            Error::new(
                kind,
                format!("Operation {what} on bitmap {name} failed: {why}"),
            )
        })
    }

    fn known(&mut self) -> Result<&mut Wanted> {
        let name = self.name;
        self.state.as_mut().ok_or_else(|| not_found(name))
    }

    fn usable(&mut self) -> Result<&mut Wanted> {
        let name = self.name;
        let bitmap = self.known()?;
        if bitmap.in_use {
            return Err(inconsistent(name));
        }
        Ok(bitmap)
    }

    fn add(&mut self, granularity: Option<u64>) -> Result<()> {
        let invalid = |message: String| Error::new(ErrorKind::Invalid, message);
        if self.name.is_empty() {
            return Err(invalid("Bitmap name cannot be empty".to_owned()));
        }
        let limits = 1 << BitmapDirectoryEntry::MIN_GRANULARITY_BITS
            ..=1 << BitmapDirectoryEntry::MAX_GRANULARITY_BITS;
        let given = match granularity.filter(|&bytes| bytes != 0) {
            Some(bytes) if !bytes.is_power_of_two() || !limits.contains(&bytes) => {
                let message = "Granularity must be power of 2 and at least 512";
                return Err(invalid(message.to_owned()));
            }
            other => other.and_then(|bytes| u8::try_from(bytes.trailing_zeros()).ok()),
        };
        let Some(image) = self.node.image()?.as_qcow2() else {
            return Err(invalid(format!(
                "Can't store persistent bitmaps to {NODE}: Operation not supported"
            )));
        };
        let header = &image.head.header;
        let granularity_bits = given.unwrap_or(default_granularity(header.cluster));
        let others = self.directory.list.iter().enumerate();
        let others = others.filter(|(index, _)| Some(*index) != self.index);
        let fits = fits(
            image,
            self.name,
            (granularity_bits, header.size),
            others.map(|(_, entry)| entry),
        );
        if let Err(why) = fits {
            return Err(invalid(format!(
                "Can't make bitmap '{}' persistent in '{NODE}': {why}",
                self.name
            )));
        }
        if self.state.is_some() {
            return Err(invalid(format!("Bitmap already exists: {}", self.name)));
        }
        self.state = Some(Wanted {
            stored: None,
            granularity_bits,
            auto: true,
            in_use: false,
            keeps_bits: false,
            merged: Vec::new(),
        });
        Ok(())
    }

    fn merge(&mut self, source: Option<NodeId>, name: &str) -> Result<()> {
        self.known()?;
        if source.is_none_or(|id| id == self.node.id) && name == self.name {
            return self.usable().map(|_| ());
        }
        let node = source.map_or(self.node, |id| self.tree.node(id));
        let other;
        let directory = if node.id == self.node.id {
            &self.directory
        } else {
            other = Directory::read(node)?;
            &other
        };
        let entry = directory.find(name).and_then(|n| directory.list.get(n));
        let entry = entry.cloned().ok_or_else(|| not_found(name))?;
        self.usable()?;
        if entry.in_use() {
            return Err(inconsistent(name));
        }
        let (size, other) = (self.node.virtual_size(), node.virtual_size());
        if size != other {
            let message = format!(
                "Bitmaps are of different sizes (destination size is {size}, source size is \
                 {other}) and can't be merged"
            );
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        let bits = bits(node, &entry)?;
        self.usable()?.merged.push(bits);
        Ok(())
    }
}

/// QEMU makes up a name for a node that has none.
const NODE: &str = "#block000";

fn not_found(name: &str) -> Error {
    let message = format!("Dirty bitmap '{name}' not found");
    Error::new(ErrorKind::Invalid, message)
}

fn inconsistent(name: &str) -> Error {
    let message = format!(
        "Bitmap '{name}' is inconsistent and cannot be used\n\
         Try block-dirty-bitmap-remove to delete this bitmap from disk"
    );
    Error::new(ErrorKind::Invalid, message)
}
