//! A page of a checkpoint: a header that names itself, then up to [`PAGE_ENTRIES`] entries.

use alloc::vec::Vec;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::{DecodeError, ENTRY_SIZE, Entry, PAGE_SIZE, RawEntry, checksum};

const MAGIC: [u8; 4] = *b"CKPT";
const HEADER_SIZE: usize = size_of::<RawPageHeader>();
const CRC_AT: usize = 4;
const WHAT: &str = "checkpoint page";

/// Entries in a full page.
pub const PAGE_ENTRIES: usize = (PAGE_SIZE - HEADER_SIZE) / ENTRY_SIZE;

/// What a page says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageHeader {
    /// First eight bytes of the volume's UUID: defends against pages of another volume.
    pub volume: [u8; 8],
    /// Which copy it was written for: defends against misdirected writes.
    pub copy: u8,
    /// Position in the checkpoint, from 0: the same.
    pub index: u32,
    /// Generation of the checkpoint: defends against stale pages.
    pub generation: u64,
}

/// The bytes of the header.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct RawPageHeader {
    /// "CKPT".
    pub magic: [u8; 4],
    /// CRC32C of the page with this field zero, salted with "CKPT".
    pub crc: U32,
    /// First eight bytes of the volume's UUID.
    pub volume: [u8; 8],
    /// Generation of the checkpoint.
    pub generation: U64,
    /// Position in the checkpoint.
    pub index: U32,
    /// Entries that follow.
    pub count: U16,
    /// Which copy.
    pub copy: u8,
    /// Zero.
    pub reserved: [u8; 33],
}

const _: () = assert!(HEADER_SIZE == 64 && HEADER_SIZE + PAGE_ENTRIES * ENTRY_SIZE == PAGE_SIZE);

/// A decoded page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointPage {
    /// Where it belongs.
    pub header: PageHeader,
    /// Its entries.
    pub entries: Vec<Entry>,
}

impl CheckpointPage {
    /// Writes the page into `out`, which is exactly one page long. At most [`PAGE_ENTRIES`] entries.
    pub fn encode(header: &PageHeader, entries: &[Entry], out: &mut [u8]) {
        assert!(
            out.len() == PAGE_SIZE && entries.len() <= PAGE_ENTRIES,
            "the caller cuts entries into pages"
        );
        out.fill(0);
        let raw = RawPageHeader {
            magic: MAGIC,
            crc: 0.into(),
            volume: header.volume,
            generation: header.generation.into(),
            index: header.index.into(),
            count: u16::try_from(entries.len()).unwrap_or(0).into(),
            copy: header.copy,
            reserved: [0; 33],
        };
        let (head, body) = out.split_at_mut(HEADER_SIZE);
        head.copy_from_slice(raw.as_bytes());
        for (bytes, entry) in body.chunks_exact_mut(ENTRY_SIZE).zip(entries) {
            bytes.copy_from_slice(entry.encode().as_bytes());
        }
        seal(out, CRC_AT, MAGIC);
    }

    /// Reads a page back and checks that it is the one that `expected` names.
    ///
    /// # Errors
    /// Any [`DecodeError`] but version and features.
    pub fn decode(bytes: &[u8], expected: &PageHeader, block_sectors: u32) -> Result<Self, DecodeError> {
        let Ok((raw, body)) = RawPageHeader::read_from_prefix(bytes) else {
            return Err(DecodeError::Magic(WHAT));
        };
        if raw.magic != MAGIC || bytes.len() != PAGE_SIZE {
            return Err(DecodeError::Magic(WHAT));
        }
        if checksum::salted(MAGIC, bytes, CRC_AT) != raw.crc.get() {
            return Err(DecodeError::Checksum(WHAT));
        }
        let field = |field, value| Err(DecodeError::Field { what: WHAT, field, value });
        if raw.volume != expected.volume {
            return field("volume", u64::from_le_bytes(raw.volume));
        }
        if raw.copy != expected.copy {
            return field("copy", raw.copy.into());
        }
        if raw.index.get() != expected.index {
            return field("index", raw.index.get().into());
        }
        if raw.generation.get() != expected.generation {
            return field("generation", raw.generation.get());
        }
        let count = usize::from(raw.count.get());
        if count > PAGE_ENTRIES {
            return field("count", raw.count.get().into());
        }
        if !is_zero(&raw.reserved) {
            return field("reserved", 1);
        }
        let entries = decode_entries(body, count, block_sectors, WHAT)?;
        Ok(Self { header: *expected, entries })
    }
}

/// Stores the checksum of `bytes` at `at`.
pub(crate) fn seal(bytes: &mut [u8], at: usize, salt: [u8; 4]) {
    let crc = checksum::salted(salt, bytes, at);
    if let Some(place) = bytes.get_mut(at..at + 4) {
        place.copy_from_slice(&crc.to_le_bytes());
    }
}

/// Is every byte zero? Most of a page often is, so this looks at all of them and compares once.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().fold(0, |all, byte| all | byte) == 0
}

/// `count` entries from the front of `body`; what follows them is zero.
pub(crate) fn decode_entries(
    body: &[u8],
    count: usize,
    block_sectors: u32,
    what: &'static str,
) -> Result<Vec<Entry>, DecodeError> {
    let mut entries = Vec::new();
    let no_room = DecodeError::Field { what, field: "count", value: count as u64 };
    entries.try_reserve_exact(count).map_err(|_| DecodeError::Memory(what))?;
    let used = count * ENTRY_SIZE;
    for raw in body.chunks_exact(ENTRY_SIZE).take(count) {
        let raw = RawEntry::read_from_bytes(raw).map_err(|_| no_room)?;
        entries.push(Entry::decode(&raw, block_sectors)?);
    }
    if entries.len() != count {
        return Err(no_room);
    }
    if body.get(used..).is_some_and(|rest| !is_zero(rest)) {
        return Err(DecodeError::Field { what, field: "padding", value: 1 });
    }
    Ok(entries)
}
