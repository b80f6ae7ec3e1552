//! Metadata as JSON and as text: `metadata dump`, and the way back for `metadata restore`.
//!
//! Invariant: what [`Dump::of`] writes, [`Dump::volume`] turns into the same superblock and the same entries; and what
//! `volume` accepts could have been read from a spare: it passes through the decoders of the on-disk format.

use anyhow::{Context as _, ensure};
use remap_core::recovery::Recovered;
use remap_core::units::Slot;
use remap_format::{
    COPIES, Cause, CopyHome, CopyRole, Entry, EntryFlags, EntryState, MAX_SPARES, MainIdentity, NO_BLOCK,
    NO_SLOT, PAGE_SIZE, Policy, SpareRecord, Superblock, SuperblockFlags,
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// First field of every dump.
const FORMAT: &str = "dm-remap metadata dump";
/// Version of the dump format.
const VERSION: u32 = 1;

/// A dump: everything that the metadata say, and nothing of where they lie.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Dump {
    format: String,
    version: u32,
    volume: VolumePart,
    main: MainPart,
    spares: Vec<SparePart>,
    copies: Vec<CopyPart>,
    entries: Vec<EntryPart>,
    retired: Vec<RetiredPart>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct VolumePart {
    uuid: String,
    name: String,
    block_size: u32,
    policy: String,
    released: bool,
    generation: u64,
    area: u8,
    area_pages: u32,
    journal_pages: u32,
    created: u64,
    written: u64,
    compat: u64,
    ro_compat: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MainPart {
    size: u64,
    logical_block: u32,
    wwn: String,
    serial: String,
    model: String,
    content_uuid: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SparePart {
    uuid: String,
    size: u64,
    slots: u64,
    anchors: u8,
    reserve_pages: u32,
}

/// Where a copy lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CopyPart {
    spare: u8,
    anchor: u8,
}

/// An entry, for people and programs; also the element of `map list --json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct EntryPart {
    /// First block.
    pub block: u64,
    /// Blocks in the run.
    pub count: u32,
    /// `pending` or `remapped`.
    pub state: String,
    /// First slot; absent when pending.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slot: Option<SlotPart>,
    /// Lost mask of each block, hexadecimal (bit n: sector n).
    pub lost: String,
    /// See [`Cause::word`].
    pub cause: String,
    /// The main device's bytes of the lost sectors are not to be believed.
    pub stale: bool,
    /// Errors seen.
    pub errors: u16,
    /// Seconds since 1970.
    pub time: u64,
}

/// A slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SlotPart {
    /// Which spare of the volume.
    pub spare: u8,
    /// Which slot of it.
    pub index: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RetiredPart {
    slot: SlotPart,
    count: u32,
    cause: String,
    stale: bool,
    errors: u16,
    time: u64,
}

impl SlotPart {
    /// Of a slot.
    pub(crate) fn of(slot: u64) -> Self {
        let slot = Slot(slot);
        Self { spare: slot.spare(), index: slot.index() }
    }

    fn slot(self) -> anyhow::Result<u64> {
        ensure!(self.index < Slot::INDEX_LIMIT, "slot {} is beyond any spare", self.index);
        Ok(Slot::new(self.spare, self.index).0)
    }
}

fn flags(stale: bool) -> EntryFlags {
    if stale { EntryFlags::STALE } else { EntryFlags::default() }
}

fn cause(word: &str) -> anyhow::Result<Cause> {
    let found = Cause::ALL.into_iter().find(|c| c.word() == word);
    found.with_context(|| format!("unknown cause '{word}'"))
}

fn uuid(text: &str) -> anyhow::Result<[u8; 16]> {
    let uuid = Uuid::parse_str(text).with_context(|| format!("'{text}' is not a UUID"))?;
    Ok(*uuid.as_bytes())
}

impl EntryPart {
    /// An entry of the table.
    pub(crate) fn of(entry: &Entry) -> Self {
        let remapped = entry.state == EntryState::Remapped;
        Self {
            block: entry.block,
            count: entry.count,
            state: if remapped { "remapped" } else { "pending" }.into(),
            slot: remapped.then(|| SlotPart::of(entry.slot)),
            lost: format!("{:#x}", entry.lost),
            cause: entry.cause.word().into(),
            stale: entry.flags.stale(),
            errors: entry.errors,
            time: entry.time,
        }
    }

    /// Back to an entry of a volume whose blocks have `block_sectors` sectors.
    ///
    /// # Errors
    /// What cannot be, in words.
    pub(crate) fn entry(&self, block_sectors: u32) -> anyhow::Result<Entry> {
        let digits = self.lost.strip_prefix("0x").context("the lost mask must begin with 0x")?;
        let (state, slot) = match (self.state.as_str(), self.slot) {
            ("pending", None) => (EntryState::Pending, NO_SLOT),
            ("remapped", Some(slot)) => (EntryState::Remapped, slot.slot()?),
            ("pending" | "remapped", _) => anyhow::bail!("exactly the remapped entries have a slot"),
            (other, _) => anyhow::bail!("unknown state '{other}' (pending or remapped)"),
        };
        let entry = Entry {
            block: self.block,
            count: self.count,
            slot,
            lost: u128::from_str_radix(digits, 16).context("the lost mask is not a number")?,
            state,
            cause: cause(&self.cause)?,
            flags: flags(self.stale),
            errors: self.errors,
            time: self.time,
        };
        as_stored(&entry, block_sectors)
    }
}

/// The entry as a spare would give it back.
fn as_stored(entry: &Entry, block_sectors: u32) -> anyhow::Result<Entry> {
    Ok(Entry::decode(&entry.encode(), block_sectors)?)
}

impl RetiredPart {
    fn of(entry: &Entry) -> Self {
        Self {
            slot: SlotPart::of(entry.slot),
            count: entry.count,
            cause: entry.cause.word().into(),
            stale: entry.flags.stale(),
            errors: entry.errors,
            time: entry.time,
        }
    }

    fn entry(&self, block_sectors: u32) -> anyhow::Result<Entry> {
        let entry = Entry {
            block: NO_BLOCK,
            count: self.count,
            slot: self.slot.slot()?,
            lost: 0,
            state: EntryState::Retired,
            cause: cause(&self.cause)?,
            flags: flags(self.stale),
            errors: self.errors,
            time: self.time,
        };
        as_stored(&entry, block_sectors)
    }
}

impl Dump {
    /// Everything that recovery believed.
    pub(crate) fn of(recovered: &Recovered) -> Self {
        let s = &recovered.superblock;
        Self {
            format: FORMAT.into(),
            version: VERSION,
            volume: VolumePart {
                uuid: Uuid::from_bytes(s.volume).to_string(),
                name: s.name.clone(),
                block_size: s.block_size(),
                policy: s.policy.word().into(),
                released: s.flags.has(SuperblockFlags::RELEASED),
                generation: recovered.generation,
                area: s.area,
                area_pages: s.area_pages,
                journal_pages: s.journal_pages,
                created: s.created,
                written: s.written,
                compat: s.compat,
                ro_compat: s.ro_compat,
            },
            main: MainPart {
                size: s.main.size,
                logical_block: s.main.logical_block,
                wwn: s.main.wwn.clone(),
                serial: s.main.serial.clone(),
                model: s.main.model.clone(),
                content_uuid: s.main.content_uuid.clone(),
            },
            spares: s
                .spares
                .iter()
                .map(|p| SparePart {
                    uuid: Uuid::from_bytes(p.uuid).to_string(),
                    size: p.size,
                    slots: p.slots,
                    anchors: p.anchors,
                    reserve_pages: p.reserve_pages,
                })
                .collect(),
            copies: s.homes.iter().map(|h| CopyPart { spare: h.spare, anchor: h.anchor }).collect(),
            entries: recovered.table.iter().map(|entry| EntryPart::of(&entry)).collect(),
            retired: recovered.pool.retired().iter().map(RetiredPart::of).collect(),
        }
    }

    /// UUID of the volume.
    pub(crate) fn uuid(&self) -> &str {
        &self.volume.uuid
    }

    /// Reads a dump.
    ///
    /// # Errors
    /// Not a dump of this version, with line and column.
    pub(crate) fn parse(text: &str) -> anyhow::Result<Self> {
        let dump: Self = serde_json::from_str(text)?;
        ensure!(dump.format == FORMAT, "this is not a metadata dump (its format is '{}')", dump.format);
        ensure!(
            dump.version == VERSION,
            "the dump has version {}; this program reads {VERSION}",
            dump.version
        );
        Ok(dump)
    }

    /// As JSON, with a line break at the end.
    ///
    /// # Errors
    /// None in practice: every value has a JSON form.
    pub(crate) fn to_json(&self) -> anyhow::Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }

    /// The superblock and all entries (retired slots last).
    ///
    /// # Errors
    /// What cannot be, with the entry's number.
    pub(crate) fn volume(&self) -> anyhow::Result<(Superblock, Vec<Entry>)> {
        let superblock = self.superblock()?;
        let sectors = superblock.block_sectors();
        let mut entries = Vec::new();
        for (number, part) in self.entries.iter().enumerate() {
            entries.push(part.entry(sectors).with_context(|| format!("entry number {number}"))?);
        }
        for (number, part) in self.retired.iter().enumerate() {
            entries.push(part.entry(sectors).with_context(|| format!("retired slot number {number}"))?);
        }
        Ok((superblock, entries))
    }

    fn superblock(&self) -> anyhow::Result<Superblock> {
        let v = &self.volume;
        ensure!(
            !self.spares.is_empty() && self.spares.len() <= MAX_SPARES,
            "a volume has 1 to {MAX_SPARES} spares"
        );
        ensure!(v.block_size.is_power_of_two(), "block size {} is not a power of two", v.block_size);
        let policy = [Policy::RewriteThenRemap, Policy::RemapOnly].into_iter().find(|p| p.word() == v.policy);
        let spare = |p: &SparePart| {
            let &SparePart { size, slots, anchors, reserve_pages, .. } = p;
            anyhow::Ok(SpareRecord { uuid: uuid(&p.uuid)?, size, slots, anchors, reserve_pages })
        };
        let spares: Vec<SpareRecord> = self.spares.iter().map(spare).collect::<anyhow::Result<_>>()?;
        let homes: Vec<CopyHome> =
            self.copies.iter().map(|c| CopyHome { spare: c.spare, anchor: c.anchor }).collect();
        let homes = homes.try_into().ok().with_context(|| format!("a volume has {COPIES} copies"))?;
        let first = spares.iter().position(SpareRecord::is_present).unwrap_or(0);
        let superblock = Superblock {
            role: CopyRole::Copy(0),
            volume: uuid(&v.uuid)?,
            name: Superblock::clip_text(&v.name),
            spare_index: u8::try_from(first).unwrap_or(0),
            spares,
            homes,
            block_shift: u8::try_from(v.block_size.trailing_zeros()).unwrap_or(u8::MAX),
            policy: policy.with_context(|| format!("unknown policy '{}'", v.policy))?,
            flags: if v.released { SuperblockFlags::RELEASED } else { SuperblockFlags::default() },
            generation: v.generation,
            base: v.generation,
            area: v.area,
            entries: 0,
            area_pages: v.area_pages,
            journal_pages: v.journal_pages,
            created: v.created,
            written: v.written,
            compat: v.compat,
            ro_compat: v.ro_compat,
            main: MainIdentity {
                size: self.main.size,
                logical_block: self.main.logical_block,
                wwn: Superblock::clip_text(&self.main.wwn),
                serial: Superblock::clip_text(&self.main.serial),
                model: Superblock::clip_text(&self.main.model),
                content_uuid: Superblock::clip_text(&self.main.content_uuid),
            },
        };
        let mut page = [0; PAGE_SIZE];
        superblock.encode(&mut page);
        Superblock::decode(&page).context("the volume's description")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::map::pieces::tests::entry;
    use remap_core::pool::SparePool;
    use remap_format::layout::CopyShape;

    const SHAPE: CopyShape = CopyShape { area_pages: 3, journal_pages: 8 };

    fn superblock() -> Superblock {
        let spares = [([1; 16], 4 << 20), ([2; 16], 4 << 20)];
        let main = MainIdentity {
            size: 1 << 30,
            logical_block: 512,
            wwn: "naa.5".into(),
            content_uuid: "u-1".into(),
            ..Default::default()
        };
        Superblock {
            policy: Policy::RemapOnly,
            flags: SuperblockFlags::RELEASED,
            generation: u64::MAX - 1,
            created: 1_700_000_000,
            written: 1_700_000_100,
            ..Superblock::new([7; 16], "probe", 4096, &SHAPE, &spares, main)
        }
    }

    fn recovered() -> (Recovered, Vec<Entry>) {
        let mut entries = vec![
            entry(3, 1, None, 0b101),
            entry(9, 4, Some(Slot::new(0, 500)), 0),
            entry(20, 2, Some(Slot::new(1, 501)), 0xff),
        ];
        entries[0].flags = EntryFlags::STALE;
        entries.push(SparePool::retired_entry(Slot::new(1, 700), 1_700_000_050));
        (Recovered::fresh(superblock(), &entries).unwrap(), entries)
    }

    #[test]
    fn a_dump_gives_back_the_same_volume() {
        let (recovered, entries) = recovered();
        let dump = Dump::of(&recovered);
        let read = Dump::parse(&dump.to_json().unwrap()).unwrap();
        assert_eq!(read, dump);
        let (superblock, read_entries) = read.volume().unwrap();
        assert_eq!(superblock, recovered.superblock);
        assert_eq!(read_entries, entries);
    }

    #[test]
    fn what_no_spare_could_hold_is_refused_with_its_place() {
        let (recovered, _) = recovered();
        let json = Dump::of(&recovered).to_json().unwrap();
        let cases = [
            (r#""cause": "read-error""#, r#""cause": "boredom""#, "entry number 0: unknown cause 'boredom'"),
            (r#""lost": "0x5""#, r#""lost": "0x100""#, "entry number 0"),
            (r#""count": 4"#, r#""count": 0"#, "entry number 1"),
            (r#""policy": "remap-only""#, r#""policy": "hope""#, "unknown policy 'hope'"),
            (r#""block_size": 4096"#, r#""block_size": 4095"#, "not a power of two"),
            (r#""version": 1"#, r#""version": 9"#, "version 9"),
            (r#""errors": 1"#, r#""errers": 1"#, "line"),
        ];
        for (from, to, expected) in cases {
            assert!(json.contains(from), "{from}");
            let broken = json.replacen(from, to, 1);
            let error = Dump::parse(&broken).and_then(|d| d.volume()).unwrap_err();
            assert!(format!("{error:#}").contains(expected), "{to}: {error:#}");
        }
    }
}
