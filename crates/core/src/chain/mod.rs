//! Many layers: opening them through a gate, the tree they form, one path through it.

mod chain;
mod gate;
mod locator;
mod node;
mod read;
mod sweep;
mod tree;

pub use chain::Chain;
pub use gate::{Denied, Gate, Granted, MapGate, Request};
pub use locator::{Locator, file_name};
pub use node::{Fingerprint, FormatOrigin, Link, Node, NodeId};
pub use read::Reader;
pub use sweep::{ChainExtent, ChainExtents};
pub use tree::Tree;
