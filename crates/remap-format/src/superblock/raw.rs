//! The bytes of a superblock, field by field, as docs/format.md has them.
//!
//! Invariant: no padding, no alignment, little endian; the whole is one page.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{MAX_SPARES, TEXT_LEN};
use crate::{COPIES, PAGE_SIZE};

/// The bytes of a spare record.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct RawSpare {
    /// UUID.
    pub uuid: [u8; 16],
    /// Bytes.
    pub size: U64,
    /// Slots.
    pub slots: U64,
    /// Pages reserved at each anchor.
    pub reserve_pages: U32,
    /// Anchors.
    pub anchors: u8,
    /// Zero.
    pub reserved: [u8; 3],
}

/// The bytes of a copy's home.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct RawHome {
    /// Spare.
    pub spare: u8,
    /// Anchor on it.
    pub anchor: u8,
}

/// The bytes of a superblock.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct RawSuperblock {
    /// "dm-remap".
    pub magic: [u8; 8],
    /// CRC32C of the page with this field zero, salted with "SUPR".
    pub crc: U32,
    /// Format version.
    pub version: U16,
    /// 1 copy, 2 label.
    pub role: u8,
    /// Copy number: defends against misdirected writes.
    pub copy: u8,
    /// Features that an older program may ignore.
    pub compat: U64,
    /// Features that an older program may ignore when it only reads.
    pub ro_compat: U64,
    /// Features without which the volume must not be opened.
    pub incompat: U64,
    /// Volume UUID.
    pub volume: [u8; 16],
    /// UUID of this spare: defends against mixed-up spares.
    pub spare: [u8; 16],
    /// Generation of the checkpoint.
    pub generation: U64,
    /// Entries in the checkpoint.
    pub entries: U64,
    /// Pages in a checkpoint area.
    pub area_pages: U32,
    /// Pages in the journal.
    pub journal_pages: U32,
    /// Flags.
    pub flags: U32,
    /// Number of this spare in the volume.
    pub spare_index: u8,
    /// Spares in the volume.
    pub spare_count: u8,
    /// Copies in the volume: 5.
    pub copies: u8,
    /// log2 of the block size in bytes.
    pub block_shift: u8,
    /// Active checkpoint area.
    pub area: u8,
    /// 0 rewrite-then-remap, 1 remap-only.
    pub policy: u8,
    /// Zero.
    pub reserved: [u8; 6],
    /// Seconds since 1970.
    pub created: U64,
    /// Seconds since 1970.
    pub written: U64,
    /// Main device: size in bytes.
    pub main_size: U64,
    /// Main device: logical block size in bytes.
    pub main_logical_block: U32,
    /// Zero.
    pub reserved_2: [u8; 4],
    /// Main device: WWN.
    pub main_wwn: [u8; TEXT_LEN],
    /// Main device: serial number.
    pub main_serial: [u8; TEXT_LEN],
    /// Main device: model.
    pub main_model: [u8; TEXT_LEN],
    /// Main device: UUID of what was on it.
    pub main_content_uuid: [u8; TEXT_LEN],
    /// Volume name.
    pub name: [u8; TEXT_LEN],
    /// The spares; unused ones, and those that left, zero.
    pub spares: [RawSpare; MAX_SPARES],
    /// Where the copies live.
    pub homes: [RawHome; COPIES as usize],
    /// Zero.
    pub reserved_3: [u8; 6],
    /// Generation that the checkpoint was made of.
    pub base: U64,
    /// Zero.
    pub reserved_4: [u8; PAGE_SIZE - RAW_USED],
}

const RAW_USED: usize = 144 + 5 * TEXT_LEN + MAX_SPARES * size_of::<RawSpare>() + 2 * COPIES as usize + 14;
const _: () = assert!(size_of::<RawSuperblock>() == PAGE_SIZE);
