//! Bringing one guest cluster of a target up to what it is to hold.

use super::Qcow2Target;
use crate::error::{Error, ErrorKind, Result};
use crate::plan::flow::Piece;
use crate::plan::granules::{State, Subs};
use crate::plan::{MetadataKind, Preallocation, Step, StepQueue};
use backchain_format::HostOffset;
use backchain_format::bytes::to_u64;
use backchain_format::qcow2::{CompressedCluster, L2Entry, L2Kind, Subclusters};

/// Packed bytes that lie one behind the other are written together, so many at most.
const MAX_PACKED: u64 = 1 << 20;

impl Qcow2Target {
    /// Brings one cluster up to what its pieces say. They cover the cluster, up to the end of
    /// the disk.
    pub(in crate::plan) fn cluster(
        &mut self,
        number: u64,
        pieces: &[Piece],
        out: &mut StepQueue,
    ) -> Result<()> {
        self.mark(pieces)?;
        let entry = self.tables.get(number)?;
        let added = |p: &Piece| p.changed && p.is_zero();
        if self.preallocation != Preallocation::Off
            && (self.v3 || !self.sink.is_encrypted())
            && entry == L2Entry::UNALLOCATED
            && pieces.iter().all(added)
        {
            return self.preallocate(number, pieces, out);
        }
        let before = State::of(entry, self.layout);
        let mut state = before.clone();
        if self.data.is_none()
            && let Some(host) = state.host
            && !(entry.copied || self.refcounts.is_sole(host)?)
        {
            state.shared = true;
        }
        if self.data.is_none()
            && let Some(host) = state.host
            && self.metadata.contains(host.0 >> self.layout.cluster.bits())
        {
            let message =
                format!("guest cluster {number} is mapped to the image's own metadata at {host}");
            return Err(Error::new(ErrorKind::Corrupt, message).about(&self.node.name));
        }
        let rewrite = state.shared || state.packed.is_some();
        let start = number << self.layout.cluster.bits();
        let subs = Subs::new(start, self.layout, pieces);
        if rewrite {
            // What is behind the end of the disk is not copied.
            state.allocated &= subs.mask();
        }

        // What each granule needs, before any host cluster is taken.
        let mut write = Vec::new();
        for (index, parts) in subs.iter() {
            let bit = 1u32 << index;
            let touched = parts.iter().any(|p| p.changed);
            let data = state.allocated & bit != 0;
            if !(touched || rewrite && data) {
                continue;
            }
            if parts.iter().all(Piece::is_zero) && !self.sink.manner.solid {
                let absent = !data && state.zero & bit == 0;
                let implied = absent && !(self.v3 && self.sink.manner.explicit_zeros);
                if state.zero & bit != 0 || implied && parts.iter().all(|p| p.under_zero) {
                    continue;
                }
                if self.v3 {
                    if let Some(file) = self.data.as_mut().filter(|file| file.raw) {
                        file.zero(parts, out);
                    }
                    state.allocated &= !bit;
                    state.zero |= bit;
                    continue;
                }
                if parts.iter().all(|p| p.under_zero) {
                    state.allocated &= !bit;
                    continue;
                }
            }
            write.push((bit, data && !rewrite, parts));
        }

        let fresh = !write.is_empty() && (rewrite || state.host.is_none());
        if fresh {
            state.host = Some(match self.data {
                Some(_) => HostOffset(start),
                None => self.refcounts.allocate_data(&self.metadata)?,
            });
        }
        let blank = fresh && state.host.is_some_and(|host| self.refcounts.is_blank(host));
        for (bit, in_place, parts) in write {
            state.allocated |= bit;
            state.zero &= !bit;
            if fresh && !blank && self.data.is_none() && !self.sink.is_encrypted() {
                let rest = self.old_rest(state.host, start, parts);
                rest.into_iter().for_each(|step| out.push(step));
            }
            let Some(host) = state.host else { continue };
            let wanted = parts.iter().filter(|p| p.changed || !in_place);
            // The rest of an encrypted granule must read as zeros once the disk grows.
            let end = start + (u64::from(bit.trailing_zeros()) + 1) * self.layout.granule();
            let end = (!in_place && self.data.is_none()).then_some(end);
            for piece in self.sink.sectors(wanted.cloned().collect(), end)? {
                let dst = host.plus(piece.start - start);
                self.moved += piece.len;
                let zeros = match &mut self.data {
                    None => blank,
                    Some(data) => {
                        data.touch();
                        data.is_fresh(dst)
                    }
                };
                if let Some(step) = self.sink.store(&piece, dst, zeros)? {
                    out.push(step);
                }
            }
        }
        self.replace(number, entry, &before, state, fresh)
    }

    /// What was in a granule before it was free must not show when the disk grows: zeros behind
    /// the last of its `parts`. `start`: of the cluster, which lies at `host` now.
    fn old_rest(&self, host: Option<HostOffset>, start: u64, parts: &[Piece]) -> Option<Step> {
        let (host, end) = (host?, parts.last()?.end());
        let granule = self.layout.granule();
        let len = (granule - end % granule) % granule;
        (len > 0).then(|| Step::Zero {
            to: self.node.id,
            dst: host.plus(end - start),
            len,
        })
    }

    /// Gives a cluster of zeros its place in the file. Where a backing file would show, the entry
    /// says zero as well, unless zeros are written or version 2 has no such entries. Subclusters
    /// are not allocated.
    fn preallocate(&mut self, number: u64, pieces: &[Piece], out: &mut StepQueue) -> Result<()> {
        let start = number << self.layout.cluster.bits();
        // The table first, so that the clusters it maps lie in a row.
        self.tables
            .set(number, L2Entry::UNALLOCATED, &mut self.refcounts)?;
        let (to, host) = match &mut self.data {
            Some(data) => {
                data.touch();
                (data.id, HostOffset(start))
            }
            // Behind the end of the file, where there are only zeros.
            None => (self.node.id, self.refcounts.allocate(1)?),
        };
        let all = if self.layout.extended { u32::MAX } else { 1 };
        // Zeros are not zeros when they are decrypted.
        let shows = self.sink.is_encrypted() || !pieces.iter().all(|p| p.under_zero);
        let write = self.preallocation == Preallocation::Full && !self.sink.is_encrypted();
        let zero = self.v3 && shows && !write;
        let state = State {
            host: Some(host),
            packed: None,
            allocated: if zero || self.layout.extended && !shows {
                0
            } else {
                all
            },
            zero: if zero { all } else { 0 },
            shared: false,
        };
        if write || self.preallocation == Preallocation::Falloc {
            let len = pieces.iter().map(|p| p.len).sum();
            self.moved += len;
            out.push(Step::Allocate {
                to,
                dst: host,
                len,
                write,
            });
        }
        let entry = state.entry(self.layout, true);
        self.tables.set(number, entry, &mut self.refcounts)
    }

    /// Stores the new entry and drops what the old one referred to.
    fn replace(
        &mut self,
        number: u64,
        old: L2Entry,
        before: &State,
        mut state: State,
        fresh: bool,
    ) -> Result<()> {
        if state == *before && !fresh {
            return Ok(());
        }
        if state.allocated == 0 && !before.is_kept_by(&state) {
            state.host = None;
        }
        if let Some(data) = &mut self.data
            && before.host.is_some()
            && state.host.is_none()
            && !data.raw
        {
            let bits = self.layout.cluster.bits();
            data.free(number << bits, 1 << bits);
        }
        if fresh || state.host.is_none() {
            self.drop_old(before);
        }
        let copied = state.host.is_some() && (fresh || old.copied || !state.shared);
        let entry = state.entry(self.layout, copied);
        self.tables.set(number, entry, &mut self.refcounts)
    }

    /// Drops the references of an entry that is replaced.
    fn drop_old(&mut self, before: &State) {
        if self.data.is_some() {
            // The clusters of a data file are not counted.
            return;
        }
        let bits = self.layout.cluster.bits();
        if let Some(host) = before.host {
            self.refcounts.drop_reference(host.0 >> bits);
        }
        if let Some(packed) = before.packed {
            let (first, last) = packed.host_clusters(self.layout.cluster);
            for cluster in first.0 >> bits..=last.0 >> bits {
                self.refcounts.drop_reference(cluster);
            }
        }
    }

    fn mark(&mut self, pieces: &[Piece]) -> Result<()> {
        let Some(bitmaps) = self.bitmaps.as_mut().filter(|_| self.marking) else {
            return Ok(());
        };
        for piece in pieces.iter().filter(|p| p.changed) {
            bitmaps.mark(piece.start, piece.len)?;
        }
        Ok(())
    }

    /// Whether a cluster may be packed: it is where all of it has to be written, and not where
    /// parts of it are here already.
    pub(in crate::plan) fn may_pack(&mut self, number: u64, pieces: &[Piece]) -> Result<bool> {
        let before = State::of(self.tables.get(number)?, self.layout);
        let is_whole = before.host.is_none() || pieces.iter().all(|piece| piece.changed);
        let has_data = pieces.iter().any(|piece| !piece.is_zero());
        let may = self.data.is_none() && !self.sink.is_encrypted();
        Ok(may && is_whole && (has_data || self.sink.manner.solid))
    }

    /// Puts a packed cluster into the image.
    pub(in crate::plan) fn store_packed(
        &mut self,
        number: u64,
        pieces: &[Piece],
        bytes: &[u8],
        out: &mut StepQueue,
    ) -> Result<()> {
        self.mark(pieces)?;
        let before = State::of(self.tables.get(number)?, self.layout);
        let len = to_u64(bytes.len());
        let host = self.refcounts.allocate_bytes(len)?;
        self.moved += len;
        let joins = self.packed.as_ref().is_some_and(|(at, waiting)| {
            let held = to_u64(waiting.len());
            at.plus(held) == host && held + len <= MAX_PACKED
        });
        if !joins {
            self.flush_packed(out);
        }
        let (_, waiting) = self.packed.get_or_insert_with(|| (host, Vec::new()));
        waiting.extend_from_slice(bytes);
        self.drop_old(&before);
        let entry = L2Entry {
            kind: L2Kind::Compressed(CompressedCluster { host, len }),
            copied: false,
            subclusters: Subclusters::default(),
        };
        self.tables.set(number, entry, &mut self.refcounts)
    }

    pub(super) fn flush_packed(&mut self, out: &mut StepQueue) {
        if let Some((dst, bytes)) = self.packed.take() {
            out.push(Step::Write {
                to: self.node.id,
                dst,
                kind: MetadataKind::Packed,
                bytes,
            });
        }
    }
}
