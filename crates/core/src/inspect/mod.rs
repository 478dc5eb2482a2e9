//! Looking into images: what a person wants to see of a chain, a file and its bytes.
//!
//! Everything here can be done a little at a time (`advance`), so that a worker stays
//! responsive, and nothing gives up on damage: what cannot be read is told, the rest is shown.

mod back;
mod differences;
mod fields;
mod find_owner;
mod host;
mod overview;
mod refcount;
mod search;
mod search_back;
mod stats;
mod walk;

pub use differences::Differences;
pub use fields::{Field, Structure, fields};
pub use find_owner::{Found, OwnerSearch, find_owner};
pub use host::{HostMap, Owner};
pub use overview::{Cell, Overview};
pub use refcount::refcount_of;
pub use search::Search;
pub use search_back::SearchBack;
pub use stats::{LayerStats, Stats};
