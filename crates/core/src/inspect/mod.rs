//! Looking into images: what a person wants to see of a chain, a file and its bytes.
//!
//! Everything here can be done a little at a time (`advance`), so that a worker stays
//! responsive, and nothing gives up on damage: what cannot be read is told, the rest is shown.

mod fields;
mod host;
mod overview;
mod refcount;
mod search;
mod stats;
mod walk;

pub use fields::{Field, Structure, fields};
pub use host::{Found, HostMap, Owner, find_owner};
pub use overview::{Cell, Overview};
pub use refcount::refcount_of;
pub use search::Search;
pub use stats::{LayerStats, Stats};
