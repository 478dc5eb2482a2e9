//! Who refers to a host cluster: what a count of two means.

use super::geometry::{Geometry, bits};
use crate::chain::Node;
use crate::error::{Error, ErrorKind, Result};
use crate::image::Qcow2;
use crate::source::read_padded;
use backchain_format::bytes::{be64, to_usize};
use backchain_format::qcow2::{CompressedCluster, Extensions, RefcountTableEntry};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;

/// Users of one cluster that are listed at most.
const MAX_USERS: usize = 16;
/// L2 tables that are read at most, those of snapshots included.
const MAX_TABLES: u64 = 1 << 20;

/// Something that refers to a host cluster. Its text completes "is used by".
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "user", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum User {
    /// The header.
    Header,
    /// An L1 table: the active one, or the one of the snapshot with this name.
    L1 {
        /// The snapshot.
        snapshot: Option<String>,
    },
    /// The L2 table for the guest data from byte `guest` on.
    L2 {
        /// Guest offset.
        guest: u64,
        /// The snapshot, when it is one's.
        snapshot: Option<String>,
    },
    /// Guest data.
    Data {
        /// Guest offset of the cluster.
        guest: u64,
        /// Its bytes are packed.
        compressed: bool,
        /// The snapshot, when it is one's.
        snapshot: Option<String>,
    },
    /// The refcount table.
    RefcountTable,
    /// A refcount block.
    RefcountBlock {
        /// Index in the refcount table.
        index: u64,
    },
    /// The table of snapshots.
    SnapshotTable,
    /// The list of bitmaps.
    BitmapDirectory,
    /// The table of a bitmap, or its bits.
    Bitmap {
        /// The bitmap.
        name: String,
    },
    /// The header of the encryption.
    Encryption,
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = |snapshot: &Option<String>| match snapshot {
            Some(name) => format!(" of snapshot '{}'", name.escape_default()),
            None => String::new(),
        };
        match self {
            User::Header => f.write_str("the header"),
            User::L1 { snapshot } => write!(f, "the L1 table{}", of(snapshot)),
            User::L2 { guest, snapshot } => {
                write!(
                    f,
                    "the L2 table for guest offset {guest:#x}{}",
                    of(snapshot)
                )
            }
            User::Data {
                guest,
                compressed,
                snapshot,
            } => {
                let packed = if *compressed { "compressed " } else { "" };
                write!(f, "{packed}guest offset {guest:#x}{}", of(snapshot))
            }
            User::RefcountTable => f.write_str("the refcount table"),
            User::RefcountBlock { index } => write!(f, "refcount block {index}"),
            User::SnapshotTable => f.write_str("the snapshot table"),
            User::BitmapDirectory => f.write_str("the bitmap directory"),
            User::Bitmap { name } => write!(f, "bitmap '{}'", name.escape_default()),
            User::Encryption => f.write_str("the encryption header"),
        }
    }
}

/// Who refers to each of some host clusters of a qcow2 node's file, up to 16 for each. What
/// cannot be read refers to nothing.
///
/// # Errors
/// When the node is no qcow2 image.
pub fn users(node: &Node, clusters: &[u64]) -> Result<BTreeMap<u64, Vec<User>>> {
    let Some(image) = node.image()?.as_qcow2() else {
        return Err(Error::new(
            ErrorKind::Unsupported,
            "only qcow2 images have clusters",
        ));
    };
    let mut search = Search {
        node,
        image,
        geometry: Geometry::of(image, node.source.len()),
        found: clusters.iter().map(|&c| (c, Vec::new())).collect(),
        tables: 0,
    };
    search.metadata();
    search.disks();
    search.bitmaps();
    Ok(search.found)
}

struct Search<'a> {
    node: &'a Node,
    image: &'a Qcow2,
    geometry: Geometry,
    found: BTreeMap<u64, Vec<User>>,
    tables: u64,
}

impl Search<'_> {
    /// Notes `user` with all the wanted clusters in a range of bytes.
    fn note(&mut self, offset: u64, len: u64, user: &dyn Fn() -> User) {
        if len == 0 {
            return;
        }
        let bits = self.geometry.cluster_bits;
        let last = offset.saturating_add(len - 1) >> bits;
        for (_, users) in self.found.range_mut(offset >> bits..=last) {
            if users.len() < MAX_USERS {
                users.push(user());
            }
        }
    }

    /// The bytes of a table; what cannot be read is empty.
    fn read(&self, offset: u64, len: u64) -> Vec<u8> {
        let inside = self.geometry.file_len.saturating_sub(offset).min(len);
        let mut bytes = vec![0; to_usize(inside)];
        match read_padded(self.node.source.as_ref(), offset, &mut bytes) {
            Ok(()) => bytes,
            Err(_) => Vec::new(),
        }
    }

    fn metadata(&mut self) {
        let header = self.image.head.header.clone();
        let g = self.geometry;
        self.note(0, g.cluster, &|| User::Header);
        let (table, len) = (
            header.refcount_table.0,
            header.refcount_table_entries() * RefcountTableEntry::LEN,
        );
        self.note(table, len, &|| User::RefcountTable);
        for (index, entry) in (0..).zip(self.read(table, len).chunks_exact(8)) {
            let block = be64(entry, 0).unwrap_or(0);
            if block != 0 && g.is_aligned(block) {
                self.note(block, g.cluster, &|| User::RefcountBlock { index });
            }
        }
        if let Some(crypto) = self.image.head.extensions.get(Extensions::CRYPTO)
            && let (Some(offset), Some(len)) = (be64(crypto, 0), be64(crypto, 8))
        {
            self.note(offset, len, &|| User::Encryption);
        }
    }

    fn disks(&mut self) {
        let header = &self.image.head.header;
        let (l1, entries) = (header.l1_table.0, u64::from(header.l1_entries));
        let at = header.snapshot_table.0;
        self.disk(l1, entries, None);
        let snapshots = self.image.snapshots(self.node.source.as_ref());
        let snapshots = snapshots.unwrap_or_default();
        if !snapshots.is_empty() {
            self.note(at, 1, &|| User::SnapshotTable);
        }
        for snapshot in snapshots {
            let entries = u64::from(snapshot.l1_entries);
            self.disk(snapshot.l1_table.0, entries, Some(snapshot.name));
        }
    }

    fn disk(&mut self, l1: u64, entries: u64, snapshot: Option<String>) {
        let g = self.geometry;
        self.note(l1, entries.saturating_mul(8), &|| User::L1 {
            snapshot: snapshot.clone(),
        });
        let per_table = g.cluster / g.layout.entry_len();
        let table = self.read(l1, entries.saturating_mul(8));
        for (index, entry) in (0u64..).zip(table.chunks_exact(8)) {
            let offset = be64(entry, 0).unwrap_or(0) & bits::OFFSET;
            if offset == 0 || offset >= g.file_len {
                continue;
            }
            self.tables += 1;
            if self.tables > MAX_TABLES {
                return;
            }
            let guest = index.saturating_mul(per_table << g.cluster_bits);
            self.note(offset, g.cluster, &|| User::L2 {
                guest,
                snapshot: snapshot.clone(),
            });
            if !g.data_file {
                self.table(offset, guest, &snapshot);
            }
        }
    }

    fn table(&mut self, offset: u64, start: u64, snapshot: &Option<String>) {
        let g = self.geometry;
        let bytes = self.read(offset, g.cluster);
        for (index, entry) in (0u64..).zip(bytes.chunks_exact(to_usize(g.layout.entry_len()))) {
            let word = be64(entry, 0).unwrap_or(0);
            let compressed = word & bits::COMPRESSED != 0;
            let (host, len) = if compressed {
                let descriptor = word & (bits::COMPRESSED - 1);
                let packed = CompressedCluster::from_bits(descriptor, g.layout.cluster);
                (packed.host.0, packed.len)
            } else {
                (word & bits::OFFSET, g.cluster)
            };
            if compressed || host != 0 {
                let guest = start.saturating_add(index << g.cluster_bits);
                self.note(host, len, &|| User::Data {
                    guest,
                    compressed,
                    snapshot: snapshot.clone(),
                });
            }
        }
    }

    fn bitmaps(&mut self) {
        let Some(Ok(extension)) = self.image.head.extensions.bitmaps(0) else {
            return;
        };
        if !self.image.bitmaps_consistent() {
            return;
        }
        let (at, len) = (extension.directory.0, extension.directory_len);
        self.note(at, len, &|| User::BitmapDirectory);
        let list = self.image.bitmaps(self.node.source.as_ref());
        for bitmap in list.unwrap_or_default() {
            let len = u64::from(bitmap.table_entries) * 8;
            let name = || User::Bitmap {
                name: bitmap.name.clone(),
            };
            self.note(bitmap.table.0, len, &name);
            for word in self.read(bitmap.table.0, len).chunks_exact(8) {
                let host = be64(word, 0).unwrap_or(0) & bits::OFFSET;
                if host != 0 {
                    self.note(host, self.geometry.cluster, &name);
                }
            }
        }
    }
}
