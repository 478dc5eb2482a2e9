//! Extents: guest range -> where its bytes live.

use backchain_format::HostOffset;

/// Where the bytes of an extent are, as *one* layer tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Plain bytes in the layer's file from `host` on.
    Data {
        /// Offset in the file of the extent's first byte.
        host: HostOffset,
    },
    /// Packed bytes: the extent is (a part of) one compressed cluster.
    Compressed {
        /// Offset in the file of the packed bytes.
        host: HostOffset,
        /// Upper limit of the packed bytes' length.
        len: u64,
        /// How far into the unpacked cluster the extent starts, in bytes.
        skip: u64,
    },
    /// Reads as zeros because the layer says so.
    Zero {
        /// The host cluster kept for it, if any: offset of the extent's first byte.
        host: Option<HostOffset>,
    },
    /// Reads as zeros because the layer ends before it (and hides whatever is below).
    BeyondEnd,
    /// The layer says nothing: the next layer down decides; zeros when there is none.
    Unallocated,
}

impl Place {
    /// The place of the bytes `by` further on in the same extent.
    #[must_use]
    pub fn advanced(self, by: u64) -> Self {
        match self {
            Place::Data { host } => Place::Data {
                host: host.plus(by),
            },
            Place::Compressed { host, len, skip } => Place::Compressed {
                host,
                len,
                skip: skip + by,
            },
            Place::Zero { host } => Place::Zero {
                host: host.map(|h| h.plus(by)),
            },
            same => same,
        }
    }

    /// Whether `next`, which follows `len` bytes behind, continues this place.
    pub fn continues(self, len: u64, next: Place) -> bool {
        self.advanced(len) == next
    }

    /// Whether the layer decides (rather than leaving it to the one below).
    pub fn is_allocated(self) -> bool {
        self != Place::Unallocated
    }

    /// Whether it reads as zeros for sure, when no layer below has a say.
    pub fn reads_zero(self) -> bool {
        matches!(
            self,
            Place::Zero { .. } | Place::BeyondEnd | Place::Unallocated
        )
    }
}

/// A guest range of one layer with one place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// First guest byte.
    pub start: u64,
    /// Bytes; never 0.
    pub len: u64,
    /// Where they are.
    pub place: Place,
}

impl Extent {
    /// First guest byte behind the extent.
    pub fn end(&self) -> u64 {
        self.start.saturating_add(self.len)
    }

    /// The part from guest byte `start` on, of at most `len` bytes. `start` is inside.
    #[must_use]
    pub fn slice(&self, start: u64, len: u64) -> Self {
        let by = start.saturating_sub(self.start);
        let len = len.min(self.len.saturating_sub(by));
        Self {
            start,
            len,
            place: self.place.advanced(by),
        }
    }

    /// Takes `next` in when it continues this extent.
    pub fn merge(&mut self, next: &Extent) -> bool {
        let joins = self.end() == next.start && self.place.continues(self.len, next.place);
        if joins {
            self.len += next.len;
        }
        joins
    }
}
