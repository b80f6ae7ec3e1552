//! The superblock: what a volume is, where its parts are, and which checkpoint a copy holds.
//!
//! Every copy has two superblock pages, written in turn, so that a torn write leaves the older one. Each field says
//! what it defends against or what it is for.

use alloc::string::String;
use alloc::vec::Vec;
use zerocopy::{FromBytes, FromZeros, IntoBytes};

pub use self::raw::{RawHome, RawSpare, RawSuperblock};
use crate::layout::{self, AREA_PAGES, CopyShape, JOURNAL_PAGES};
use crate::page::{is_zero, seal};
use crate::{COPIES, DecodeError, PAGE_SIZE, VERSION, checksum, newer};

mod raw;

const MAGIC: [u8; 8] = *b"dm-remap";
const SALT: [u8; 4] = *b"SUPR";
const CRC_AT: usize = 8;
const WHAT: &str = "superblock";

/// Most spares in a volume.
pub const MAX_SPARES: usize = 16;
/// Bytes of a text field (UTF-8, zero-padded).
pub const TEXT_LEN: usize = 64;

/// What this superblock stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyRole {
    /// Copy n (0 to 4) of the metadata follows it.
    Copy(u8),
    /// Only a label: this spare holds slots but no copy (volumes of more than five spares).
    Label,
}

/// What to do with a block that fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Policy {
    /// Give the drive the chance to reallocate when a lost sector is overwritten; remap if that fails.
    #[default]
    RewriteThenRemap,
    /// Remap at once; never write to a sector that failed.
    RemapOnly,
}

impl Policy {
    /// The word used in commands and JSON.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::RewriteThenRemap => "rewrite-then-remap",
            Self::RemapOnly => "remap-only",
        }
    }
}

/// State flags of a superblock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SuperblockFlags(pub u32);

impl SuperblockFlags {
    /// This copy could not be kept in step: never believe it.
    pub const FENCED: Self = Self(1);
    /// The volume was released: the main device stands alone again.
    pub const RELEASED: Self = Self(2);
    const KNOWN: u32 = 3;

    /// Are all bits of `other` set?
    #[must_use]
    pub fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// What the main device was when it was adopted: defends against serving the wrong disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MainIdentity {
    /// Size in bytes.
    pub size: u64,
    /// Logical block size in bytes (512 or 4096).
    pub logical_block: u32,
    /// World-wide name; empty if there was none.
    pub wwn: String,
    /// Serial number; empty if there was none.
    pub serial: String,
    /// Model; empty if there was none.
    pub model: String,
    /// UUID of the partition table or file system found on it; empty if there was none.
    pub content_uuid: String,
}

/// A spare of the volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpareRecord {
    /// Its own UUID.
    pub uuid: [u8; 16],
    /// Size of its slice in bytes when it was added: anchors are computed from this.
    pub size: u64,
    /// Slots in it, those under metadata included (never allocated).
    pub slots: u64,
    /// Places for copies on it, 0 to 5; with none it holds only a label.
    pub anchors: u8,
    /// Pages reserved at each of them.
    pub reserve_pages: u32,
}

impl SpareRecord {
    /// What is left of a spare that has left the volume: its number stays taken.
    pub const GONE: Self = Self { uuid: [0; 16], size: 0, slots: 0, anchors: 0, reserve_pages: 0 };

    /// Is it part of the volume?
    #[must_use]
    pub fn is_present(&self) -> bool {
        self.size != 0
    }
}

/// Where a copy lives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CopyHome {
    /// On which spare.
    pub spare: u8,
    /// At which of its anchors.
    pub anchor: u8,
}

/// A decoded superblock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// Which copy, or a label.
    pub role: CopyRole,
    /// The volume's UUID.
    pub volume: [u8; 16],
    /// The volume's name, for people; not empty.
    pub name: String,
    /// Which of the volume's spares this one is.
    pub spare_index: u8,
    /// All spares of the volume, in order; 1 to [`MAX_SPARES`], those that left included.
    pub spares: Vec<SpareRecord>,
    /// Where the copies live.
    pub homes: [CopyHome; COPIES as usize],
    /// Block size: 2^shift bytes, shift 9 to 16.
    pub block_shift: u8,
    /// Policy.
    pub policy: Policy,
    /// State flags.
    pub flags: SuperblockFlags,
    /// Generation of the checkpoint this superblock names.
    pub generation: u64,
    /// Generation that the table had before this checkpoint was made of it, and that has the same table: where this one cannot be
    /// read, that one will do. Never newer than `generation`; one that no disk holds if the table was edited on the way.
    pub base: u64,
    /// Which of the two checkpoint areas holds it: 0 or 1.
    pub area: u8,
    /// Entries in the checkpoint.
    pub entries: u64,
    /// Pages in one checkpoint area.
    pub area_pages: u32,
    /// Pages in the journal.
    pub journal_pages: u32,
    /// When the main device was adopted, seconds since 1970.
    pub created: u64,
    /// When this superblock was written, seconds since 1970 (for people, never for decisions).
    pub written: u64,
    /// Features that an older program may ignore; kept as found.
    pub compat: u64,
    /// Features that an older program may ignore when it only reads: not zero means that this one must not write.
    pub ro_compat: u64,
    /// The main device it belongs to.
    pub main: MainIdentity,
}

fn text(field: &str) -> [u8; TEXT_LEN] {
    let mut out = [0; TEXT_LEN];
    let mut len = field.len().min(TEXT_LEN);
    while !field.is_char_boundary(len) {
        len -= 1;
    }
    for (to, from) in out.iter_mut().zip(field.bytes().take(len)) {
        *to = from;
    }
    out
}

fn impossible(field: &'static str, value: u64) -> DecodeError {
    DecodeError::Field { what: WHAT, field, value }
}

fn untext(bytes: &[u8; TEXT_LEN], field: &'static str) -> Result<String, DecodeError> {
    let len = bytes.iter().position(|&b| b == 0).unwrap_or(TEXT_LEN);
    let (used, rest) = bytes.split_at(len);
    if rest.iter().any(|&b| b != 0) {
        return Err(impossible(field, len as u64));
    }
    let used = core::str::from_utf8(used).map_err(|e| impossible(field, e.valid_up_to() as u64))?;
    owned(used)
}

/// A text of its own; with an allocator that may refuse it.
fn owned(text: &str) -> Result<String, DecodeError> {
    let mut out = String::new();
    out.try_reserve_exact(text.len()).map_err(|_| DecodeError::Memory(WHAT))?;
    out.push_str(text);
    Ok(out)
}

impl MainIdentity {
    fn try_clone(&self) -> Result<Self, DecodeError> {
        Ok(Self {
            size: self.size,
            logical_block: self.logical_block,
            wwn: owned(&self.wwn)?,
            serial: owned(&self.serial)?,
            model: owned(&self.model)?,
            content_uuid: owned(&self.content_uuid)?,
        })
    }
}

impl Superblock {
    /// That of a volume which has never been written, as copy 0 has it: `spares` are their UUIDs and sizes in bytes, `block_size` is a
    /// power of two; generation 0 and an empty table, adopted at second 0, the policy that is the default.
    #[must_use]
    pub fn new(
        volume: [u8; 16],
        name: &str,
        block_size: u32,
        shape: &CopyShape,
        spares: &[([u8; 16], u64)],
        main: MainIdentity,
    ) -> Self {
        Self {
            role: CopyRole::Copy(0),
            volume,
            name: Self::clip_text(name),
            spare_index: 0,
            spares: layout::first_spares(spares, shape, u64::from(block_size)),
            homes: layout::first_homes(spares.len()),
            block_shift: block_size.trailing_zeros() as u8,
            policy: Policy::default(),
            flags: SuperblockFlags::default(),
            generation: 0,
            base: 0,
            area: 1,
            entries: 0,
            area_pages: shape.area_pages,
            journal_pages: shape.journal_pages,
            created: 0,
            written: 0,
            compat: 0,
            ro_compat: 0,
            main,
        }
    }

    /// Bytes in a block.
    #[must_use]
    pub fn block_size(&self) -> u32 {
        1 << self.block_shift
    }

    /// The spares that are part of the volume, with their numbers.
    pub fn present(&self) -> impl Iterator<Item = (u8, &SpareRecord)> {
        (0u8..).zip(&self.spares).filter(|(_, spare)| spare.is_present())
    }

    /// Sectors in a block.
    #[must_use]
    pub fn block_sectors(&self) -> u32 {
        self.block_size() / 512
    }

    /// The same once more, with an allocator that may refuse it.
    ///
    /// # Errors
    /// [`DecodeError::Memory`].
    pub fn try_clone(&self) -> Result<Self, DecodeError> {
        let mut spares = Vec::new();
        spares.try_reserve_exact(self.spares.len()).map_err(|_| DecodeError::Memory(WHAT))?;
        spares.extend_from_slice(&self.spares);
        Ok(Self { name: owned(&self.name)?, spares, main: self.main.try_clone()?, ..*self })
    }

    /// First eight bytes of the volume's UUID, as pages and records carry it.
    #[must_use]
    pub fn volume_tag(&self) -> [u8; 8] {
        let [a, b, c, d, e, f, g, h, ..] = self.volume;
        [a, b, c, d, e, f, g, h]
    }

    /// Truncates a text to what a text field holds.
    #[must_use]
    pub fn clip_text(value: &str) -> String {
        untext(&text(value), "text").unwrap_or_default()
    }

    /// Writes the superblock into `out`, which is exactly one page long.
    pub fn encode(&self, out: &mut [u8]) {
        assert!(self.spares.len() <= MAX_SPARES && out.len() == PAGE_SIZE, "a volume has 1 to 16 spares");
        let mut raw = RawSuperblock::new_zeroed();
        raw.magic = MAGIC;
        raw.version = VERSION.into();
        (raw.role, raw.copy) = match self.role {
            CopyRole::Copy(n) => (1, n),
            CopyRole::Label => (2, 0),
        };
        raw.compat = self.compat.into();
        raw.ro_compat = self.ro_compat.into();
        raw.volume = self.volume;
        raw.spare = self.spares.get(usize::from(self.spare_index)).map_or([0; 16], |s| s.uuid);
        raw.generation = self.generation.into();
        raw.entries = self.entries.into();
        raw.area_pages = self.area_pages.into();
        raw.journal_pages = self.journal_pages.into();
        raw.flags = self.flags.0.into();
        raw.spare_index = self.spare_index;
        raw.spare_count = u8::try_from(self.spares.len()).unwrap_or(0);
        raw.copies = COPIES;
        raw.block_shift = self.block_shift;
        raw.area = self.area;
        raw.policy = u8::from(self.policy == Policy::RemapOnly);
        raw.created = self.created.into();
        raw.written = self.written.into();
        raw.main_size = self.main.size.into();
        raw.main_logical_block = self.main.logical_block.into();
        raw.main_wwn = text(&self.main.wwn);
        raw.main_serial = text(&self.main.serial);
        raw.main_model = text(&self.main.model);
        raw.main_content_uuid = text(&self.main.content_uuid);
        raw.name = text(&self.name);
        for (to, from) in raw.spares.iter_mut().zip(&self.spares) {
            *to = RawSpare {
                uuid: from.uuid,
                size: from.size.into(),
                slots: from.slots.into(),
                reserve_pages: from.reserve_pages.into(),
                anchors: from.anchors,
                reserved: [0; 3],
            };
        }
        raw.homes = self.homes.map(|home| RawHome { spare: home.spare, anchor: home.anchor });
        raw.base = self.base.into();
        out.copy_from_slice(raw.as_bytes());
        seal(out, CRC_AT, SALT);
    }

    /// Reads a superblock from a page.
    ///
    /// # Errors
    /// Any [`DecodeError`]. A newer version or unknown features are told apart from damage, once the checksum holds.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let raw = RawSuperblock::ref_from_bytes(bytes).map_err(|_| DecodeError::Magic(WHAT))?;
        if raw.magic != MAGIC {
            return Err(DecodeError::Magic(WHAT));
        }
        if checksum::salted(SALT, bytes, CRC_AT) != raw.crc.get() {
            return Err(DecodeError::Checksum(WHAT));
        }
        if raw.version.get() != VERSION {
            return Err(DecodeError::Version { found: raw.version.get() });
        }
        if raw.incompat.get() != 0 {
            return Err(DecodeError::Incompatible { bits: raw.incompat.get() });
        }
        check_fields(raw)?;
        let role = match (raw.role, raw.copy) {
            (1, n) if n < COPIES => CopyRole::Copy(n),
            (2, 0) => CopyRole::Label,
            (role, _) => return Err(impossible("role", role.into())),
        };
        let spares = decode_spares(raw)?;
        let homes = decode_homes(raw, &spares)?;
        let name = untext(&raw.name, "name")?;
        if name.is_empty() {
            return Err(impossible("name", 0));
        }
        Ok(Self {
            role,
            volume: raw.volume,
            name,
            spare_index: raw.spare_index,
            spares,
            homes,
            block_shift: raw.block_shift,
            policy: if raw.policy == 1 { Policy::RemapOnly } else { Policy::RewriteThenRemap },
            flags: SuperblockFlags(raw.flags.get()),
            generation: raw.generation.get(),
            base: raw.base.get(),
            area: raw.area,
            entries: raw.entries.get(),
            area_pages: raw.area_pages.get(),
            journal_pages: raw.journal_pages.get(),
            created: raw.created.get(),
            written: raw.written.get(),
            compat: raw.compat.get(),
            ro_compat: raw.ro_compat.get(),
            main: MainIdentity {
                size: raw.main_size.get(),
                logical_block: raw.main_logical_block.get(),
                wwn: untext(&raw.main_wwn, "main_wwn")?,
                serial: untext(&raw.main_serial, "main_serial")?,
                model: untext(&raw.main_model, "main_model")?,
                content_uuid: untext(&raw.main_content_uuid, "main_content_uuid")?,
            },
        })
    }
}

fn decode_spares(raw: &RawSuperblock) -> Result<Vec<SpareRecord>, DecodeError> {
    let count = usize::from(raw.spare_count);
    if count == 0 || count > MAX_SPARES || raw.spare_index >= raw.spare_count {
        return Err(impossible("spare_count", raw.spare_count.into()));
    }
    let mut spares = Vec::new();
    spares.try_reserve_exact(count).map_err(|_| DecodeError::Memory(WHAT))?;
    for (index, spare) in raw.spares.iter().enumerate() {
        let unused = spare.as_bytes().iter().all(|&b| b == 0);
        if unused && index < count {
            spares.push(SpareRecord::GONE);
        } else if index < count {
            spares.push(decode_spare(raw, spare)?);
        } else if !unused {
            return Err(impossible("spares", index as u64));
        }
    }
    match spares.get(usize::from(raw.spare_index)) {
        Some(own) if own.is_present() && own.uuid == raw.spare => Ok(spares),
        _ => Err(impossible("spare_index", raw.spare_index.into())),
    }
}

fn decode_spare(raw: &RawSuperblock, spare: &RawSpare) -> Result<SpareRecord, DecodeError> {
    let record = SpareRecord {
        uuid: spare.uuid,
        size: spare.size.get(),
        slots: spare.slots.get(),
        anchors: spare.anchors,
        reserve_pages: spare.reserve_pages.get(),
    };
    if record.size == 0 || record.size >= 1 << 63 || record.slots > record.size >> raw.block_shift {
        return Err(impossible("slots", record.slots));
    }
    let fits = record.anchors <= COPIES && layout::spare_fits(&record, 1 << raw.block_shift);
    if record.reserve_pages > CopyShape::MAX.pages() {
        return Err(impossible("reserve_pages", record.reserve_pages.into()));
    }
    if !fits || spare.reserved != [0; 3] {
        return Err(impossible("anchors", record.anchors.into()));
    }
    Ok(record)
}

/// Every copy has a home of its own, in which it fits.
fn decode_homes(
    raw: &RawSuperblock,
    spares: &[SpareRecord],
) -> Result<[CopyHome; COPIES as usize], DecodeError> {
    let homes = raw.homes.map(|home| CopyHome { spare: home.spare, anchor: home.anchor });
    let shape = CopyShape { area_pages: raw.area_pages.get(), journal_pages: raw.journal_pages.get() };
    for (copy, home) in homes.iter().enumerate() {
        let spare = spares.get(usize::from(home.spare)).copied().unwrap_or(SpareRecord::GONE);
        let room = u64::from(spare.reserve_pages) * PAGE_SIZE as u64;
        let shared = homes.iter().skip(copy + 1).any(|other| other == home);
        if home.anchor >= spare.anchors || shape.bytes() > room || shared {
            return Err(impossible("homes", copy as u64));
        }
    }
    Ok(homes)
}

fn check_fields(raw: &RawSuperblock) -> Result<(), DecodeError> {
    let zero = is_zero(&raw.reserved)
        && [&raw.reserved_2[..], &raw.reserved_3, &raw.reserved_4].into_iter().all(is_zero);
    let entries_fit = u64::from(raw.area_pages.get()) * crate::PAGE_ENTRIES as u64;
    let checks: [(&'static str, u64, bool); 12] = [
        ("reserved", 1, zero),
        ("copies", raw.copies.into(), raw.copies == COPIES),
        ("block_shift", raw.block_shift.into(), (9..=16).contains(&raw.block_shift)),
        ("area", raw.area.into(), raw.area <= 1),
        ("policy", raw.policy.into(), raw.policy <= 1),
        ("flags", raw.flags.get().into(), raw.flags.get() & !SuperblockFlags::KNOWN == 0),
        ("base", raw.base.get(), !newer(raw.base.get(), raw.generation.get())),
        ("entries", raw.entries.get(), raw.entries.get() <= entries_fit),
        ("area_pages", raw.area_pages.get().into(), AREA_PAGES.contains(&raw.area_pages.get())),
        ("journal_pages", raw.journal_pages.get().into(), JOURNAL_PAGES.contains(&raw.journal_pages.get())),
        ("main_logical_block", raw.main_logical_block.get().into(), logical_block_ok(raw)),
        ("main_size", raw.main_size.get(), raw.main_size.get() >= 512 && raw.main_size.get() < 1 << 63),
    ];
    for (field, value, ok) in checks {
        if !ok {
            return Err(impossible(field, value));
        }
    }
    Ok(())
}

fn logical_block_ok(raw: &RawSuperblock) -> bool {
    let size = raw.main_logical_block.get();
    // The block size is judged by a check of its own: here it may still be anything.
    let block = 1_u32.checked_shl(raw.block_shift.into()).unwrap_or(0);
    size.is_power_of_two() && (512..=block).contains(&size)
}
