//! Newtypes for every number that could be mistaken for another.
//!
//! Invariant: an [`Extent`] is half-open, never empty and never wraps; only [`Extent::new`] makes one.

use core::fmt;

/// Bytes in a sector. All sector numbers in this project count 512-byte units, whatever the device's logical block size.
pub const SECTOR_SIZE: u64 = 512;

/// A 512-byte sector number on a volume or on a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sector(pub u64);

/// The number of a block (the unit remapped; 512 B to 64 KiB) on the main device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Block(pub u64);

/// A slot: a block of a spare. The top byte names the spare, the rest the slot's index in the spare's data area.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub u64);

impl Slot {
    const INDEX_BITS: u32 = 56;
    /// Largest slot index that a spare can have, exclusive.
    pub const INDEX_LIMIT: u64 = 1 << Self::INDEX_BITS;

    /// Slot `index` of spare `spare`. `index` must be below [`Self::INDEX_LIMIT`].
    #[must_use]
    pub fn new(spare: u8, index: u64) -> Self {
        assert!(index < Self::INDEX_LIMIT, "a slot index fits 56 bits");
        Self((u64::from(spare) << Self::INDEX_BITS) | index)
    }

    /// Which spare of the volume.
    #[must_use]
    pub fn spare(self) -> u8 {
        self.0.to_be_bytes()[0]
    }

    /// Which slot of that spare's data area.
    #[must_use]
    pub fn index(self) -> u64 {
        self.0 & (Self::INDEX_LIMIT - 1)
    }

    /// The slot `n` further on the same spare.
    #[must_use]
    pub fn offset(self, n: u64) -> Self {
        Self::new(self.spare(), self.index() + n)
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spare{}:{}", self.spare(), self.index())
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// A non-empty half-open run of sectors.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Extent {
    start: Sector,
    sectors: u64,
}

impl Extent {
    /// `None` when empty or when the end would wrap.
    #[must_use]
    pub fn new(start: Sector, sectors: u64) -> Option<Self> {
        if sectors == 0 || start.0.checked_add(sectors).is_none() {
            return None;
        }
        Some(Self { start, sectors })
    }

    /// From a start (inclusive) to an end (exclusive).
    #[must_use]
    pub fn between(start: Sector, end: Sector) -> Option<Self> {
        Self::new(start, end.0.checked_sub(start.0)?)
    }

    /// First sector.
    #[must_use]
    pub fn start(&self) -> Sector {
        self.start
    }

    /// One past the last sector.
    #[must_use]
    pub fn end(&self) -> Sector {
        Sector(self.start.0 + self.sectors)
    }

    /// Length in sectors, at least 1.
    #[must_use]
    pub fn sectors(&self) -> u64 {
        self.sectors
    }

    /// Length in bytes; saturates (only a device beyond 2^64 bytes could).
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.sectors.saturating_mul(SECTOR_SIZE)
    }

    /// Do the two share a sector?
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.start < other.end() && other.start < self.end()
    }

    /// Is the sector in the extent?
    #[must_use]
    pub fn contains(&self, sector: Sector) -> bool {
        self.start <= sector && sector < self.end()
    }

    /// The common part.
    #[must_use]
    pub fn intersect(&self, other: &Self) -> Option<Self> {
        Self::between(self.start.max(other.start), self.end().min(other.end()))
    }
}

impl fmt::Debug for Extent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{},{})", self.start.0, self.end().0)
    }
}

impl fmt::Display for Extent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// The time as the caller sees it. The core has no clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Now {
    /// Monotonic nanoseconds since any fixed start.
    pub mono_ns: u64,
    /// Wall clock, seconds since 1970 (only for the time shown in entries).
    pub unix_s: u64,
}
