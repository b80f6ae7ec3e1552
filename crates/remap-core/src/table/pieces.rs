//! What is stored of the table: headers of pages, and pieces of entries.
//!
//! Invariant: a piece never crosses the border of a leaf, so its offset and its count fit 16 bits; the order of pieces is the order
//! of their first words. What readers need of a piece is in its two words, or its bit `WIDE` sends them to the owner, who finds the rest
//! in a record of two more units.
//!
//! | word 0 | 63..48 | 47 | 46..44 | 43 | 42..39 | 38..0 |
//! |---|---|---|---|---|---|---|
//! | | offset | wide | cause | stale | spare | index of the slot, or unit of the wide record |
//!
//! | word 1 | 63..32 | 31..16 | 15..0 |
//! |---|---|---|---|
//! | | seconds since 2020 | errors | count - 1 |

use remap_format::{Cause, Entry, EntryFlags, EntryState, TIME_EPOCH};

use crate::sync::{AtomicU64, Ordering};
use crate::units::Slot;

/// A checker can follow little state, but all of it.
const MODEL: bool = cfg!(any(loom, shuttle));
/// Blocks of the largest leaf, as a power of two. At most 16: what an offset has.
pub(crate) const LEAF_BITS: u32 = if MODEL { 5 } else { 16 };
/// Blocks of the smallest leaf.
pub(crate) const SMALL_BITS: u32 = if MODEL { 2 } else { 10 };
/// Pieces in a full leaf: as many as the smallest one has blocks, which need never be divided.
pub const LEAF_PIECES: usize = 1 << SMALL_BITS;
/// Units of a wide record.
pub(super) const WIDE_UNITS: u32 = 2;

const OFFSET_SHIFT: u32 = 48;
const OFFSET: u64 = (1 << LEAF_BITS) - 1;
const WIDE: u64 = 1 << 47;
const CAUSE_SHIFT: u32 = 44;
const STALE: u64 = 1 << 43;
const SPARE_SHIFT: u32 = 39;
const INDEX: u64 = (1 << SPARE_SHIFT) - 1;

/// Offset of a block in whatever leaf it is in.
pub(crate) const fn offset(block: u64) -> u64 {
    block & OFFSET
}

/// Where a page's pieces are: in an array of units, or in the leaves of a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header(pub(crate) u64);

impl Header {
    /// No pieces.
    pub(crate) const EMPTY: Self = Self(0);
    const DIRECTORY: u64 = 1 << 63;

    /// `len` pieces in an array of `room` units from unit `at` on.
    pub(super) fn array(at: u32, len: usize, room: usize) -> Self {
        debug_assert!(len >= 1 && len <= room && room < 1 << 15, "an array of {len} in {room}");
        Self(u64::from(at) | (len as u64) << 32 | (room as u64) << 47)
    }

    pub(super) fn directory(at: u32) -> Self {
        Self(u64::from(at) | Self::DIRECTORY)
    }

    #[inline]
    pub(crate) fn is_directory(self) -> bool {
        self.0 & Self::DIRECTORY != 0
    }

    pub(crate) fn is_empty(self) -> bool {
        self == Self::EMPTY
    }

    /// First unit.
    #[inline]
    pub(crate) fn at(self) -> u32 {
        self.0 as u32
    }

    /// Pieces.
    #[inline]
    pub(crate) fn len(self) -> usize {
        (self.0 >> 32) as usize & 0x7fff
    }

    /// Units of the array.
    pub(super) fn room(self) -> u32 {
        (self.0 >> 47) as u32 & 0x7fff
    }
}

/// 16 bytes: a piece, two headers, half of a wide record, or the mark of a stretch that nobody uses.
#[derive(Debug)]
pub(crate) struct Unit(pub(crate) [AtomicU64; 2]);

impl Unit {
    pub(super) fn zero() -> Self {
        Self([AtomicU64::new(0), AtomicU64::new(0)])
    }

    /// Offset of the piece, as long as it is one.
    #[inline]
    pub(crate) fn offset(&self) -> u64 {
        let [first, _] = &self.0;
        first.load(Ordering::Relaxed) >> OFFSET_SHIFT
    }

    #[inline]
    pub(crate) fn load(&self) -> Words {
        let [first, second] = &self.0;
        Words(first.load(Ordering::Relaxed), second.load(Ordering::Relaxed))
    }

    pub(super) fn store(&self, words: Words) {
        let [first, second] = &self.0;
        first.store(words.0, Ordering::Relaxed);
        second.store(words.1, Ordering::Relaxed);
    }
}

/// The contents of a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Words(pub(crate) u64, pub(crate) u64);

impl Words {
    #[inline]
    pub(crate) fn offset(self) -> u64 {
        self.0 >> OFFSET_SHIFT
    }

    #[inline]
    pub(crate) fn count(self) -> u64 {
        (self.1 & 0xffff) + 1
    }

    /// Offset of the end.
    #[inline]
    pub(crate) fn end(self) -> u64 {
        self.offset() + self.count()
    }

    /// First slot; `None`: only the owner can tell.
    #[inline]
    pub(crate) fn slot(self) -> Option<Slot> {
        let spare = (self.0 >> SPARE_SHIFT) as u8 & 0xf;
        (self.0 & WIDE == 0).then(|| Slot::new(spare, self.0 & INDEX))
    }

    /// First unit of the wide record.
    pub(super) fn wide(self) -> Option<u32> {
        (self.0 & WIDE != 0).then_some(self.0 as u32)
    }

    pub(super) fn errors(self) -> u16 {
        (self.1 >> 16) as u16
    }

    pub(super) fn with_errors(self, errors: u16) -> Self {
        Self(self.0, self.1 & !(0xffff << 16) | u64::from(errors) << 16)
    }

    /// What is stored for a piece; `place` is its slot's or its wide record's. Its time is one that is kept.
    pub(super) fn of(entry: &Entry, place: u64) -> Self {
        let stale = if entry.flags.stale() { STALE } else { 0 };
        let first = offset(entry.block) << OFFSET_SHIFT | (entry.cause as u64) << CAUSE_SHIFT | stale | place;
        let time = entry.time - TIME_EPOCH;
        Self(first, time << 32 | u64::from(entry.errors) << 16 | u64::from(entry.count - 1))
    }

    /// The entry that this is, in the leaf of `block`; `wide` is what the wide record says.
    pub(super) fn entry(self, block: u64, wide: Option<Wide>) -> Entry {
        let settled = self.slot().map_or(0, |slot| slot.0);
        let wide = wide.unwrap_or(Wide { lost: 0, slot: settled, state: EntryState::Remapped });
        let cause = (self.0 >> CAUSE_SHIFT) as usize & 7;
        Entry {
            block: block - offset(block) + self.offset(),
            count: self.count() as u32,
            slot: wide.slot,
            lost: wide.lost,
            state: wide.state,
            cause: Cause::ALL.get(cause).copied().unwrap_or(Cause::Manual),
            flags: if self.0 & STALE != 0 { EntryFlags::STALE } else { EntryFlags::default() },
            errors: self.errors(),
            time: TIME_EPOCH + (self.1 >> 32),
        }
    }
}

/// What of an entry readers have no use for, or what does not fit a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wide {
    lost: u128,
    slot: u64,
    state: EntryState,
}

impl Wide {
    const PENDING: u64 = 1;

    pub(super) fn words(self) -> [Words; 2] {
        let pending = if self.state == EntryState::Pending { Self::PENDING } else { 0 };
        let lost = Words(self.lost as u64, (self.lost >> 64) as u64);
        [lost, Words(self.slot, pending)]
    }

    pub(super) fn of_words([lost, rest]: [Words; 2]) -> Self {
        let pending = rest.1 & Self::PENDING != 0;
        Self {
            lost: u128::from(lost.0) | u128::from(lost.1) << 64,
            slot: rest.0,
            state: if pending { EntryState::Pending } else { EntryState::Remapped },
        }
    }
}

/// What goes into the place of the slot in a piece's first word: the slot itself, or else what the wide record must hold.
pub(super) fn place_of(entry: &Entry) -> Result<u64, Wide> {
    let slot = Slot(entry.slot);
    if entry.state == EntryState::Remapped && entry.lost == 0 && slot.spare() < 16 && slot.index() <= INDEX {
        return Ok(u64::from(slot.spare()) << SPARE_SHIFT | slot.index());
    }
    Err(Wide { lost: entry.lost, slot: entry.slot, state: entry.state })
}

/// The place of a wide record that begins at this unit.
pub(super) fn wide_at(unit: u32) -> u64 {
    WIDE | u64::from(unit)
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use remap_format::NO_SLOT;

    use super::*;

    /// Stored and read again it is the same entry, and readers are told of its slot if that is all there is to say.
    fn kept(entry: Entry) {
        let (words, wide) = match place_of(&entry) {
            Ok(place) => (Words::of(&entry, place), None),
            Err(wide) => {
                let words = Words::of(&entry, wide_at(0x89ab_cdef));
                assert_eq!(words.wide(), Some(0x89ab_cdef));
                (words, Some(Wide::of_words(wide.words())))
            }
        };
        assert_eq!(words.entry(entry.block, wide), entry);
        let slot = Slot(entry.slot);
        let settled = entry.state == EntryState::Remapped && entry.lost == 0;
        let fits = slot.spare() < 16 && slot.index() < 1 << 39;
        assert_eq!(words.slot(), Some(slot).filter(|_| settled && fits), "{entry:?}");
        let unit = Unit::zero();
        unit.store(words.with_errors(0x5a5a));
        let found = unit.load().entry(entry.block, wide);
        assert_eq!(
            (found, unit.offset()),
            (Entry { errors: 0x5a5a, ..entry }, entry.block % (1 << LEAF_BITS))
        );
    }

    #[test]
    fn pieces_keep_what_they_are_given() {
        let plain = Entry {
            block: (9 << LEAF_BITS) + 0xa5a5,
            count: 1,
            slot: Slot::new(5, 0x55_aaaa_5555).0,
            lost: 0,
            state: EntryState::Remapped,
            cause: Cause::ReadError,
            flags: EntryFlags::default(),
            errors: 0xffff,
            time: TIME_EPOCH + 0x8123_4567,
        };
        kept(plain);
        for (spare, index) in [(0, 0), (15, (1 << 39) - 1), (15, 1 << 39), (16, 0), (255, 77)] {
            kept(Entry { slot: Slot::new(spare, index).0, ..plain });
            kept(Entry { slot: Slot::new(spare, index).0, flags: EntryFlags::STALE, ..plain });
        }
        for lost in [1, 1 << 63, 1 << 64, u128::MAX, 0x1234_5678 << 60] {
            kept(Entry { lost, flags: EntryFlags::STALE, ..plain });
            kept(Entry { lost, state: EntryState::Pending, slot: NO_SLOT, ..plain });
        }
        for cause in Cause::ALL {
            kept(Entry { cause, ..plain });
        }
        kept(Entry { block: 1 << 54, count: 1 << LEAF_BITS, time: TIME_EPOCH, errors: 0, ..plain });
        kept(Entry { block: (1 << 54) - 1, time: TIME_EPOCH + u64::from(u32::MAX), ..plain });
    }
}
