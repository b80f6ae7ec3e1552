//! One entry of the remap table: a run of blocks with one fate.
//!
//! Invariant of a decoded [`Entry`]: `count >= 1`, block and slot runs do not wrap, `lost` has no bit beyond the block's
//! sectors, a pending entry has no slot and a non-empty mask, a remapped one has a slot, a run longer than one block is
//! either wholly lost or wholly held.

use zerocopy::little_endian::{U16, U32, U64, U128};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::DecodeError;

/// Bytes of an entry on disk.
pub const ENTRY_SIZE: usize = 48;
/// Slot value of an entry without a slot.
pub const NO_SLOT: u64 = u64::MAX;
/// Block value of an entry that names only slots (retired ones).
pub const NO_BLOCK: u64 = u64::MAX;
/// Entry times count seconds from here: 2020-01-01 00:00:00 UTC in Unix seconds.
pub const TIME_EPOCH: u64 = 1_577_836_800;

/// What is kept of a time in Unix seconds: those that an entry cannot hold are the nearest that it can.
#[must_use]
pub const fn kept_time(unix_s: u64) -> u64 {
    let latest = TIME_EPOCH + u32::MAX as u64;
    if unix_s < TIME_EPOCH {
        TIME_EPOCH
    } else if unix_s > latest {
        latest
    } else {
        unix_s
    }
}

/// What an entry says about its blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EntryState {
    /// In a journal record only: the blocks have no entry any more.
    Absent,
    /// Still on the main device; the sectors in the lost mask cannot be read there.
    Pending,
    /// On the spare, but for the sectors in the lost mask.
    Remapped,
    /// Not about blocks: this run of slots went bad and is never used again.
    Retired,
}

/// Why the entry was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// The main device failed a read.
    ReadError,
    /// The main device failed a write.
    WriteError,
    /// An operator asked for it.
    Manual,
    /// A list of bad sectors was imported.
    Imported,
    /// Moved before it failed.
    Predicted,
    /// A slot of the spare went bad.
    SlotError,
}

impl Cause {
    /// All causes, in the order of their numbers on disk (from 1).
    pub const ALL: [Self; 6] =
        [Self::ReadError, Self::WriteError, Self::Manual, Self::Imported, Self::Predicted, Self::SlotError];

    /// The word used in lists and JSON.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::ReadError => "read-error",
            Self::WriteError => "write-error",
            Self::Manual => "manual",
            Self::Imported => "imported",
            Self::Predicted => "predicted",
            Self::SlotError => "slot-error",
        }
    }

    fn number(self) -> u8 {
        match self {
            Self::ReadError => 1,
            Self::WriteError => 2,
            Self::Manual => 3,
            Self::Imported => 4,
            Self::Predicted => 5,
            Self::SlotError => 6,
        }
    }
}

/// Flags of an entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct EntryFlags(pub u16);

impl EntryFlags {
    /// The main device's bytes of the lost sectors are not to be believed even if they read again (imported from a rescue
    /// map, or lost on the spare): only an overwrite heals them.
    pub const STALE: Self = Self(1);
    const KNOWN: u16 = 1;

    /// Is [`Self::STALE`] set?
    #[must_use]
    pub fn stale(self) -> bool {
        self.0 & Self::STALE.0 != 0
    }
}

/// A run of `count` blocks from `block` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Entry {
    /// First block on the main device ([`NO_BLOCK`] when retired).
    pub block: u64,
    /// Blocks (or slots, when retired) in the run; at least 1.
    pub count: u32,
    /// First slot ([`NO_SLOT`] when pending or absent); the run's slots follow each other.
    pub slot: u64,
    /// Bit n: sector n of the block (512-byte sectors) has no contents anywhere. For a run, of each of its blocks.
    pub lost: u128,
    /// What it says.
    pub state: EntryState,
    /// Why it was made.
    pub cause: Cause,
    /// Flags.
    pub flags: EntryFlags,
    /// Errors seen on these blocks; saturates.
    pub errors: u16,
    /// When it was made: seconds since 1970. Times before 2020 are kept as 2020.
    pub time: u64,
}

/// The bytes of an entry.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct RawEntry {
    /// First block.
    pub block: U64,
    /// First slot.
    pub slot: U64,
    /// Lost mask.
    pub lost: U128,
    /// Seconds since 2020-01-01.
    pub time: U32,
    /// Run length.
    pub count: U32,
    /// Error count.
    pub errors: U16,
    /// Flags.
    pub flags: U16,
    /// 0 absent, 1 pending, 2 remapped, 3 retired.
    pub state: u8,
    /// See [`Cause`]; 0 when absent.
    pub cause: u8,
    /// Zero.
    pub reserved: [u8; 2],
}

const _: () = assert!(size_of::<RawEntry>() == ENTRY_SIZE);

/// All sectors of a block of `block_sectors` sectors (1 to 128).
#[must_use]
pub(crate) fn full_mask(block_sectors: u32) -> u128 {
    if block_sectors >= 128 { u128::MAX } else { (1 << block_sectors) - 1 }
}

fn impossible(field: &'static str, value: u64) -> DecodeError {
    DecodeError::Field { what: "entry", field, value }
}

impl Entry {
    /// The mask with every sector of a block of `block_sectors` sectors (1 to 128).
    #[must_use]
    pub fn full_mask(block_sectors: u32) -> u128 {
        full_mask(block_sectors)
    }

    /// One past the last block.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.block.saturating_add(u64::from(self.count))
    }

    /// To bytes.
    #[must_use]
    pub fn encode(&self) -> RawEntry {
        let (state, cause) = match self.state {
            EntryState::Absent => (0, 0),
            EntryState::Pending => (1, self.cause.number()),
            EntryState::Remapped => (2, self.cause.number()),
            EntryState::Retired => (3, self.cause.number()),
        };
        let time = u32::try_from(kept_time(self.time) - TIME_EPOCH).unwrap_or(u32::MAX);
        RawEntry {
            block: self.block.into(),
            slot: self.slot.into(),
            lost: self.lost.into(),
            time: time.into(),
            count: self.count.into(),
            errors: self.errors.into(),
            flags: self.flags.0.into(),
            state,
            cause,
            reserved: [0; 2],
        }
    }

    /// From bytes, for a volume whose blocks have `block_sectors` sectors.
    ///
    /// # Errors
    /// [`DecodeError::Field`] when a field breaks the invariant of this module.
    pub fn decode(raw: &RawEntry, block_sectors: u32) -> Result<Self, DecodeError> {
        let state = match raw.state {
            0 => EntryState::Absent,
            1 => EntryState::Pending,
            2 => EntryState::Remapped,
            3 => EntryState::Retired,
            n => return Err(impossible("state", n.into())),
        };
        let cause = match (state, raw.cause) {
            (EntryState::Absent, 0) => Cause::Manual,
            (EntryState::Absent, n) => return Err(impossible("cause", n.into())),
            (_, n) => n
                .checked_sub(1)
                .and_then(|i| Cause::ALL.get(usize::from(i)).copied())
                .ok_or_else(|| impossible("cause", n.into()))?,
        };
        let entry = Self {
            block: raw.block.get(),
            count: raw.count.get(),
            slot: raw.slot.get(),
            lost: raw.lost.get(),
            state,
            cause,
            flags: EntryFlags(raw.flags.get()),
            errors: raw.errors.get(),
            time: TIME_EPOCH + u64::from(raw.time.get()),
        };
        entry.check(block_sectors, raw)?;
        Ok(entry)
    }

    fn check(&self, block_sectors: u32, raw: &RawEntry) -> Result<(), DecodeError> {
        let full = full_mask(block_sectors);
        let run = u64::from(self.count);
        if raw.reserved != [0; 2] {
            return Err(impossible("reserved", u16::from_le_bytes(raw.reserved).into()));
        }
        if self.flags.0 & !EntryFlags::KNOWN != 0 {
            return Err(impossible("flags", self.flags.0.into()));
        }
        if run == 0 {
            return Err(impossible("count", 0));
        }
        if self.lost & !full != 0 || (run > 1 && self.lost != 0 && self.lost != full) {
            return Err(impossible("lost", u64::try_from(self.lost & u128::from(u64::MAX)).unwrap_or(0)));
        }
        let wants_block = self.state != EntryState::Retired;
        if wants_block == (self.block == NO_BLOCK) || (wants_block && self.block.checked_add(run).is_none()) {
            return Err(impossible("block", self.block));
        }
        let wants_slot = matches!(self.state, EntryState::Remapped | EntryState::Retired);
        if wants_slot == (self.slot == NO_SLOT) || (wants_slot && self.slot.checked_add(run).is_none()) {
            return Err(impossible("slot", self.slot));
        }
        let masked = match self.state {
            EntryState::Absent | EntryState::Retired => self.lost == 0,
            EntryState::Pending => self.lost != 0,
            EntryState::Remapped => true,
        };
        if masked { Ok(()) } else { Err(impossible("lost", 0)) }
    }
}
