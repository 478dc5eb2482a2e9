//! Many layers: opening them through a gate, the tree they form, one path through it.

mod gate;
mod grow;
mod layers;
mod locator;
mod name;
mod node;
mod read;
mod snapshot;
mod sweep;
mod tree;

pub use gate::{Denied, Gate, Granted, MapGate, Request, Secret};
pub use layers::Chain;
pub use locator::{Locator, file_name};
pub use name::{Backing as BackingChoice, File as OpeningFile, Opening, Options, Window};
pub use node::{CipherCell, Fingerprint, FormatOrigin, Link, Node, NodeId};
pub use read::Reader;
pub(crate) use read::Unpacked;
pub use sweep::{ChainExtent, ChainExtents};
pub use tree::Tree;
