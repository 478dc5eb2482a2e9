//! Zeros within data: finding them before they are copied.

use super::pack::{is_zero, may_be_zero};
use crate::chain::{Chain, ChainExtent, Reader};
use crate::error::Result;
use crate::extent::Place;
use backchain_format::bytes::to_usize;
use serde::{Deserialize, Serialize};

/// Bytes looked at first: most data is not zero there.
const GLANCE: u64 = 4096;
/// Bytes looked at next.
const LOOK: u64 = 64 << 10;
/// Bytes decided on at once.
const STRETCH: u64 = 2 << 20;

/// What becomes of zeros when a guest view is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Zeros {
    /// What the images say is zero is left out; data is copied without a look at it.
    #[default]
    Known,
    /// So are runs of at least so many bytes of zeros within data (`-S`).
    Found(u64),
    /// Nothing is left out: everything gets its place on the disk.
    Written,
}

impl Zeros {
    /// What qemu-img does unless told otherwise.
    pub const USUAL: Self = Self::Found(4096);
}

/// Tells zeros from data in the extents of a chain.
pub(super) struct Finder {
    reader: Reader,
    /// Zeros count in whole, aligned units of so many bytes.
    unit: u64,
    /// Bytes of zeros in a row that are worth a hole.
    least: u64,
    /// Only compressed clusters are looked at.
    only_packed: bool,
    buffer: Vec<u8>,
}

impl Finder {
    /// Finds runs of at least `least` bytes in a view that goes into a target with this
    /// granule.
    pub(super) fn new(view: &Chain, granule: u64, least: u64, only_packed: bool) -> Self {
        let power = 1 << (u64::BITS - 1 - least.max(1).leading_zeros());
        Self {
            reader: Reader::new(view.clone()),
            unit: granule.max(power).max(1),
            least,
            only_packed,
            buffer: Vec::new(),
        }
    }

    /// How many bytes at the start of `extent`, data of this view, are alike, and whether they
    /// are zeros. `packing` are the bytes of its layer's clusters.
    pub(super) fn look(&mut self, extent: &ChainExtent, packing: u64) -> Result<(u64, bool)> {
        let packed = matches!(extent.place, Place::Compressed { .. });
        if !packed && self.only_packed || packed && !may_be_zero(extent.place, packing) {
            return Ok((extent.len, false));
        }
        let end = extent.end().min(extent.start.saturating_add(STRETCH));
        let (mut pos, mut zeros) = (extent.start, None);
        // The run of units at `pos`: where it started, and what it is.
        while pos < end {
            let next = (pos / self.unit + 1).saturating_mul(self.unit).min(end);
            let now = self.is_zero(extent, pos, next)?;
            match zeros {
                None => zeros = Some(now),
                Some(before) if before != now => break,
                Some(_) => {}
            }
            pos = next;
        }
        let len = pos - extent.start;
        let enough = self.least.min(extent.len);
        Ok((len, zeros == Some(true) && len >= enough))
    }

    fn is_zero(&mut self, extent: &ChainExtent, from: u64, to: u64) -> Result<bool> {
        let mut pos = from;
        while pos < to {
            let most = if pos == from { GLANCE } else { LOOK };
            let part = extent.slice(pos, most.min(to - pos));
            self.buffer.resize(to_usize(part.len), 0);
            self.reader.read_extent(&part, &mut self.buffer)?;
            if !is_zero(&self.buffer) {
                return Ok(false);
            }
            pos = part.end();
        }
        Ok(true)
    }

    /// How many bytes at the start of `extent` can be read, or how many cannot and why not
    /// (`--salvage`).
    pub(super) fn salvage(&mut self, extent: &ChainExtent) -> (u64, Option<crate::Error>) {
        let end = extent.end().min(extent.start.saturating_add(STRETCH));
        let len = end - extent.start;
        let Err(whole) = self.read(extent, len) else {
            return (len, None);
        };
        if matches!(extent.place, Place::Compressed { .. }) {
            return (extent.len, Some(whole));
        }
        // Sector by sector; the extent starts with readable ones or with others.
        let (mut pos, mut lost) = (extent.start, None);
        while pos < end {
            let next = (pos / SECTOR + 1).saturating_mul(SECTOR).min(end);
            let bad = self.read(&extent.slice(pos, next - pos), next - pos).err();
            match (pos > extent.start, &lost, bad) {
                (false, _, bad) => lost = bad,
                (true, None, None) | (true, Some(_), Some(_)) => {}
                _ => break,
            }
            pos = next;
        }
        (pos - extent.start, lost)
    }

    fn read(&mut self, extent: &ChainExtent, len: u64) -> Result<()> {
        let mut pos = extent.start;
        let end = extent.start + len;
        while pos < end {
            let part = extent.slice(pos, LOOK.min(end - pos));
            self.buffer.resize(to_usize(part.len), 0);
            self.reader.read_extent(&part, &mut self.buffer)?;
            pos = part.end();
        }
        Ok(())
    }
}

/// Bytes of a sector.
const SECTOR: u64 = 512;
