//! The subcluster bitmap of extended L2 entries.

/// Allocation of the 32 subclusters of one cluster (spec: "Extended L2 Entries").
///
/// A subcluster is data (allocated bit), zero (zero bit) or unallocated (neither). Both bits
/// set is invalid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Subclusters {
    /// Bit n: subcluster n is in the host cluster.
    pub allocated: u32,
    /// Bit n: subcluster n reads as zeros.
    pub zero: u32,
}

impl Subclusters {
    /// Subclusters in a cluster.
    pub const COUNT: u32 = 32;

    /// Bits 0 to 31 of the bitmap: allocated; bits 32 to 63: zero.
    pub fn from_bits(bits: u64) -> Self {
        let low = bits & u64::from(u32::MAX);
        // Both halves fit by construction.
        Self {
            allocated: u32::try_from(low).unwrap_or(u32::MAX),
            zero: u32::try_from(bits >> 32).unwrap_or(u32::MAX),
        }
    }

    /// The bitmap as stored.
    pub fn to_bits(self) -> u64 {
        u64::from(self.zero) << 32 | u64::from(self.allocated)
    }

    /// No subcluster is both allocated and zero.
    pub fn is_valid(self) -> bool {
        self.allocated & self.zero == 0
    }
}
