//! Checksums that hold, so that the fuzzer gets behind them. The polynomial and the salts are those of `docs/format.md`.

use core::mem::offset_of;

use crc::{CRC_32_ISCSI, Crc, Table};
use remap_format::{MAX_RECORD_PAGES, PAGE_SIZE, RawPageHeader, RawRecordHeader, RawSuperblock};
use zerocopy::FromBytes;

static CRC: Crc<u32, Table<16>> = Crc::<u32, Table<16>>::new(&CRC_32_ISCSI);

/// A structure with a checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A superblock, one page.
    Superblock,
    /// A page of a checkpoint.
    Page,
    /// A journal record, as many pages as it says.
    Record,
}

impl Kind {
    fn salt(self) -> [u8; 4] {
        match self {
            Self::Superblock => *b"SUPR",
            Self::Page => *b"CKPT",
            Self::Record => *b"JRNL",
        }
    }

    fn crc_at(self) -> usize {
        match self {
            Self::Superblock => offset_of!(RawSuperblock, crc),
            Self::Page => offset_of!(RawPageHeader, crc),
            Self::Record => offset_of!(RawRecordHeader, crc),
        }
    }

    /// The magic number, at the front.
    pub fn magic(self) -> &'static [u8] {
        match self {
            Self::Superblock => b"dm-remap",
            Self::Page => b"CKPT",
            Self::Record => b"JRNL",
        }
    }
}

/// Stores the checksum of the structure at the front of `bytes`.
pub fn seal(kind: Kind, bytes: &mut [u8]) {
    let mut len = PAGE_SIZE;
    if kind == Kind::Record
        && let Ok((raw, _)) = RawRecordHeader::ref_from_prefix(bytes)
    {
        len *= usize::from(raw.pages).clamp(1, MAX_RECORD_PAGES);
    }
    let len = len.min(bytes.len());
    let (at, whole) = (kind.crc_at(), &mut bytes[..len]);
    if whole.len() < at + 4 {
        return;
    }
    whole[at..at + 4].fill(0);
    let mut digest = CRC.digest();
    digest.update(&kind.salt());
    digest.update(whole);
    let crc = digest.finalize();
    whole[at..at + 4].copy_from_slice(&crc.to_le_bytes());
}
