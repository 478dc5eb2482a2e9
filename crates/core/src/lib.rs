//! backchain: the engine.
//!
//! **Reading is synchronous; a change is data.** [`Tree`] opens image files through the
//! caller's [`Gate`] and knows how they back each other. [`Chain`] is one path through it, top
//! to base, and says where the bytes of every guest range live. An [`Operation`] on a tree
//! becomes a [`Plan`]: a stream of [`Step`]s that somebody else carries out.
//!
//! The engine runs natively and in a browser worker. It never opens a file, starts a thread or
//! writes a byte by itself.
#![forbid(unsafe_code)]

pub mod chain;
pub mod check;
pub mod compare;
pub mod crypto;
mod error;
pub mod extent;
pub mod image;
mod inflate;
pub mod inspect;
mod map;
pub mod measure;
pub mod plan;
pub mod source;
pub mod stage;
pub mod view_hash;
pub mod ways;

pub use backchain_format as format;
pub use backchain_format::{Format, GuestOffset, HostOffset};
pub use chain::{Chain, Gate, Link, Node, NodeId, Tree};
pub use error::{Error, ErrorKind, Result};
pub use extent::{Extent, Place};
pub use inflate::{CodecState, PackState, deflate, inflate};
pub use map::{Map, MapEntry};
pub use plan::{Operation, Plan, Preview, Step};
pub use source::{CachedSource, ReadAt, Source};
