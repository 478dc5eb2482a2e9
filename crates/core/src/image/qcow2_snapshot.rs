//! Finding an internal snapshot, and the image as it was then.

use super::Qcow2;
use crate::error::{Error, ErrorKind, Result};
use backchain_format::bytes::to_u64;
use backchain_format::qcow2::{L1Entry, MAX_L1_BYTES, SnapshotEntry};
use serde::{Deserialize, Serialize};

/// Which internal snapshot is meant. Several may have the same name; the first one counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SnapshotQuery {
    /// The one with this ID, or else the one with this name: `snapshot -a X`, `convert -l X`.
    IdOrName(String),
    /// The one with this name, whatever the IDs are: `snapshot -d X`.
    Name(String),
    /// The one with this ID: `convert -l snapshot.id=X`.
    Id(String),
    /// The one with this ID, which must have this name.
    Both {
        /// Its ID.
        id: String,
        /// Its name.
        name: String,
    },
}

impl SnapshotQuery {
    /// Where in the list it is.
    pub fn position(&self, list: &[SnapshotEntry]) -> Option<usize> {
        let id = |wanted: &str| list.iter().position(|s| s.id == wanted);
        let name = |wanted: &str| list.iter().position(|s| s.name == wanted);
        match self {
            Self::IdOrName(text) => id(text).or_else(|| name(text)),
            Self::Name(text) => name(text),
            Self::Id(text) => id(text),
            Self::Both { id, name } => list.iter().position(|s| s.id == *id && s.name == *name),
        }
    }

    /// The snapshot of the list; fails with [`ErrorKind::NotFound`].
    pub fn find<'a>(&self, list: &'a [SnapshotEntry]) -> Result<&'a SnapshotEntry> {
        let found = self.position(list).and_then(|index| list.get(index));
        found.ok_or_else(|| Error::new(ErrorKind::NotFound, format!("there is no snapshot {self}")))
    }
}

impl std::fmt::Display for SnapshotQuery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::IdOrName(text) => write!(f, "'{text}'"),
            Self::Name(name) => write!(f, "with the name '{name}'"),
            Self::Id(id) => write!(f, "with the ID '{id}'"),
            Self::Both { id, name } => write!(f, "with the ID '{id}' and the name '{name}'"),
        }
    }
}

impl Qcow2 {
    /// The image as `snapshot`, one of its own, has it: same file, with the snapshot's L1 table
    /// and disk size. Old snapshots do not say their size; then it is the disk's.
    ///
    /// Bitmaps belong to the active disk: the view has none to be trusted.
    pub fn at_snapshot(&self, snapshot: &SnapshotEntry) -> Result<Self> {
        let what = format!("L1 table of snapshot '{}'", snapshot.name);
        let corrupt = |message: String| Err(Error::new(ErrorKind::Corrupt, message));
        let bytes = u64::from(snapshot.l1_entries) * L1Entry::LEN;
        if bytes > MAX_L1_BYTES {
            return corrupt(format!(
                "{what} has {bytes} bytes, at most {MAX_L1_BYTES} are allowed"
            ));
        }
        let at = snapshot.l1_table.0;
        if !self.head.header.cluster.is_aligned(at) || at == 0 && bytes > 0 {
            return corrupt(format!("{what} at {at:#x} is misplaced"));
        }
        self.check_inside(&what, at, bytes)?;
        let mut view = self.clone();
        let header = &mut view.head.header;
        header.size = snapshot.disk_size.unwrap_or(header.size);
        let needed = header.l1_entries_for(header.size);
        if u64::from(snapshot.l1_entries) < needed {
            return corrupt(format!(
                "{what} has {} entries, but its disk of {} bytes needs {needed}",
                snapshot.l1_entries, header.size
            ));
        }
        (header.l1_table, header.l1_entries) = (snapshot.l1_table, snapshot.l1_entries);
        header.autoclear &= !backchain_format::qcow2::autoclear::BITMAPS;
        Ok(view)
    }

    /// Bytes of the snapshot table with these entries; `None` when one cannot be stored.
    pub fn snapshot_table(list: &[SnapshotEntry]) -> Option<Vec<u8>> {
        let mut table = Vec::new();
        for entry in list {
            table.extend(entry.to_bytes()?);
        }
        (to_u64(table.len()) <= super::qcow2::MAX_SNAPSHOT_TABLE).then_some(table)
    }
}
