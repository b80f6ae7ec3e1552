//! Bytes to values of dm-remap's on-disk format, and back. Nothing else knows a byte offset.
//!
//! Invariant: a `decode` function returns a value only if its checksum, its identity fields and every reserved byte are as
//! this version writes them; whatever a device returns, decoding ends with a value or a typed error, never a panic.
//!
//! The format is described byte by byte in `docs/format.md`; a test compares the tables there with the layouts here.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod checksum;
mod entry;
mod journal;
pub mod layout;
mod page;
mod superblock;

pub use entry::{
    Cause, ENTRY_SIZE, Entry, EntryFlags, EntryState, NO_BLOCK, NO_SLOT, RawEntry, TIME_EPOCH, kept_time,
};
pub use journal::{MAX_RECORD_EDITS, MAX_RECORD_PAGES, RawRecordHeader, Record, RecordHeader};
pub use page::{CheckpointPage, PAGE_ENTRIES, PageHeader, RawPageHeader};
pub use superblock::{
    CopyHome, CopyRole, MAX_SPARES, MainIdentity, Policy, RawHome, RawSpare, RawSuperblock, SpareRecord,
    Superblock, SuperblockFlags, TEXT_LEN,
};

/// Metadata is read and written in pages of this many bytes, whatever the device's logical block size (512 or 4096).
pub const PAGE_SIZE: usize = 4096;
/// Copies of the metadata in a volume.
pub const COPIES: u8 = 5;
/// The format version this code writes. An older reader refuses a newer version.
pub const VERSION: u16 = 1;

/// Why bytes are not what they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// Not ours at all: blank, foreign, or overwritten.
    #[error("no {0} here (wrong magic)")]
    Magic(&'static str),
    /// Torn or rotten.
    #[error("{0}: checksum does not match")]
    Checksum(&'static str),
    /// Written by a newer program.
    #[error("format version {found} is newer than {VERSION}, the newest that this program reads")]
    Version {
        /// What the superblock says.
        found: u16,
    },
    /// Uses features this program does not know.
    #[error("uses unknown incompatible features {bits:#x}; a newer dm-remap is needed")]
    Incompatible {
        /// The unknown bits.
        bits: u64,
    },
    /// A field has a value that cannot be.
    #[error("{what}: field {field} has the impossible value {value}")]
    Field {
        /// Which structure.
        what: &'static str,
        /// Which field.
        field: &'static str,
        /// Its value.
        value: u64,
    },
    /// There was no memory for the value: nothing is said about the bytes.
    #[error("{0}: out of memory")]
    Memory(&'static str),
}

/// Is generation `a` newer than `b`? Serial-number arithmetic (as in RFC 1982): right across a wrap of 2^64.
#[must_use]
pub fn newer(a: u64, b: u64) -> bool {
    a != b && a.wrapping_sub(b) < 1 << 63
}

#[cfg(test)]
mod tests {
    use super::newer;

    #[test]
    fn newer_survives_wrap_around() {
        assert!(newer(2, 1));
        assert!(!newer(1, 1));
        assert!(newer(0, u64::MAX));
        assert!(newer(3, u64::MAX - 2));
        assert!(!newer(u64::MAX, 0));
        // Half of all generations apart, neither is.
        assert!(!newer(1 << 63, 0) && !newer(0, 1 << 63));
        assert!(newer((1 << 63) - 1, 0));
    }
}
