//! A journal record: one commit, in one to [`MAX_RECORD_PAGES`] pages that are written together.
//!
//! A record is believed only if it sits where it says (copy, position) and extends the checkpoint that its copy's
//! superblock names; so whatever an earlier life of the journal left behind is never replayed.

use alloc::vec::Vec;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::page::{decode_entries, is_zero, seal};
use crate::{DecodeError, ENTRY_SIZE, Entry, PAGE_SIZE, checksum};

const MAGIC: [u8; 4] = *b"JRNL";
const HEADER_SIZE: usize = size_of::<RawRecordHeader>();
const CRC_AT: usize = 4;
const WHAT: &str = "journal record";

/// Most pages in a record (64 KiB).
pub const MAX_RECORD_PAGES: usize = 16;
/// Most edits in a record.
pub const MAX_RECORD_EDITS: usize = (MAX_RECORD_PAGES * PAGE_SIZE - HEADER_SIZE) / ENTRY_SIZE;

/// What a record says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHeader {
    /// First eight bytes of the volume's UUID.
    pub volume: [u8; 8],
    /// Which copy it was written for.
    pub copy: u8,
    /// Where in the journal it starts, in pages.
    pub position: u32,
    /// Generation of the checkpoint that the journal extends.
    pub checkpoint: u64,
    /// Generation of the table once this record is applied: one more than the record before.
    pub generation: u64,
}

/// The bytes of the header.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct RawRecordHeader {
    /// "JRNL".
    pub magic: [u8; 4],
    /// CRC32C of the record's pages with this field zero, salted with "JRNL".
    pub crc: U32,
    /// First eight bytes of the volume's UUID.
    pub volume: [u8; 8],
    /// Generation of the checkpoint.
    pub checkpoint: U64,
    /// Generation after this record.
    pub generation: U64,
    /// Start in the journal, in pages.
    pub position: U32,
    /// Edits that follow.
    pub count: U16,
    /// Which copy.
    pub copy: u8,
    /// Pages of this record.
    pub pages: u8,
    /// Zero.
    pub reserved: [u8; 24],
}

const _: () = assert!(HEADER_SIZE == 64);

/// A decoded record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Where it belongs.
    pub header: RecordHeader,
    /// Its edits, to be applied in order.
    pub edits: Vec<Entry>,
    /// Pages it takes.
    pub pages: u32,
}

impl Record {
    /// Pages that a record of `edits` edits takes.
    #[must_use]
    pub fn pages_for(edits: usize) -> usize {
        (HEADER_SIZE + edits * ENTRY_SIZE).div_ceil(PAGE_SIZE)
    }

    /// Writes a record into `out`, which is [`Self::pages_for`] pages long.
    pub fn encode(header: &RecordHeader, edits: &[Entry], out: &mut [u8]) {
        let pages = Self::pages_for(edits.len());
        assert!(edits.len() <= MAX_RECORD_EDITS && out.len() == pages * PAGE_SIZE, "the caller cuts records");
        out.fill(0);
        let raw = RawRecordHeader {
            magic: MAGIC,
            crc: 0.into(),
            volume: header.volume,
            checkpoint: header.checkpoint.into(),
            generation: header.generation.into(),
            position: header.position.into(),
            count: u16::try_from(edits.len()).unwrap_or(0).into(),
            copy: header.copy,
            pages: u8::try_from(pages).unwrap_or(0),
            reserved: [0; 24],
        };
        let (head, body) = out.split_at_mut(HEADER_SIZE);
        head.copy_from_slice(raw.as_bytes());
        for (bytes, edit) in body.chunks_exact_mut(ENTRY_SIZE).zip(edits) {
            bytes.copy_from_slice(edit.encode().as_bytes());
        }
        seal(out, CRC_AT, MAGIC);
    }

    /// Do the bytes begin like the record that `expected` names, whole or not? Then its write was begun; gives the pages that it
    /// says it takes.
    #[must_use]
    pub fn begun(bytes: &[u8], expected: &RecordHeader) -> Option<u32> {
        let (raw, _) = RawRecordHeader::read_from_prefix(bytes).ok()?;
        let begun = raw.magic == MAGIC
            && raw.volume == expected.volume
            && raw.copy == expected.copy
            && raw.position.get() == expected.position
            && raw.checkpoint.get() == expected.checkpoint
            && raw.generation.get() == expected.generation;
        begun.then_some(u32::from(raw.pages))
    }

    /// What the bytes say of themselves, if they begin like a record: nothing of it is proved before they decode with it.
    #[must_use]
    pub fn claimed(bytes: &[u8]) -> Option<RecordHeader> {
        let (raw, _) = RawRecordHeader::read_from_prefix(bytes).ok()?;
        (raw.magic == MAGIC).then(|| RecordHeader {
            volume: raw.volume,
            copy: raw.copy,
            position: raw.position.get(),
            checkpoint: raw.checkpoint.get(),
            generation: raw.generation.get(),
        })
    }

    /// Reads a record from the front of `bytes`, the journal from `expected.position` on; its generation must be
    /// `expected.generation`.
    ///
    /// # Errors
    /// Any [`DecodeError`] but version and features: the journal ends here, or this copy is damaged here.
    pub fn decode(bytes: &[u8], expected: &RecordHeader, block_sectors: u32) -> Result<Self, DecodeError> {
        let Ok((raw, _)) = RawRecordHeader::read_from_prefix(bytes) else {
            return Err(DecodeError::Magic(WHAT));
        };
        if raw.magic != MAGIC {
            return Err(DecodeError::Magic(WHAT));
        }
        let pages = usize::from(raw.pages);
        let count = usize::from(raw.count.get());
        let field = |field, value| Err(DecodeError::Field { what: WHAT, field, value });
        if pages == 0 || pages > MAX_RECORD_PAGES || pages != Self::pages_for(count) {
            return field("pages", raw.pages.into());
        }
        let Some(record) = bytes.get(..pages * PAGE_SIZE) else {
            return field("pages", raw.pages.into());
        };
        if checksum::salted(MAGIC, record, CRC_AT) != raw.crc.get() {
            return Err(DecodeError::Checksum(WHAT));
        }
        if raw.volume != expected.volume {
            return field("volume", u64::from_le_bytes(raw.volume));
        }
        if raw.copy != expected.copy {
            return field("copy", raw.copy.into());
        }
        if raw.position.get() != expected.position {
            return field("position", raw.position.get().into());
        }
        if raw.checkpoint.get() != expected.checkpoint {
            return field("checkpoint", raw.checkpoint.get());
        }
        if raw.generation.get() != expected.generation {
            return field("generation", raw.generation.get());
        }
        if !is_zero(&raw.reserved) {
            return field("reserved", 1);
        }
        let body = record.get(HEADER_SIZE..).unwrap_or(&[]);
        let edits = decode_entries(body, count, block_sectors, WHAT)?;
        Ok(Self { header: *expected, edits, pages: u32::from(raw.pages) })
    }
}
