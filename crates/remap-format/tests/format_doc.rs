//! `docs/format.md` is enough to write another reader: its tables agree with the layouts, and a reader that knows nothing
//! but those tables decodes the stored images.

use std::collections::BTreeMap;
use std::mem::offset_of;
use std::path::{Path, PathBuf};

use remap_format::layout::{copy_places, plan};
use remap_format::{
    Cause, CheckpointPage, CopyRole, Entry, EntryFlags, EntryState, MainIdentity, NO_BLOCK, NO_SLOT,
    PageHeader, Policy, RawEntry, RawPageHeader, RawRecordHeader, RawSpare, RawSuperblock, Record,
    RecordHeader, Superblock,
};

/// Fields of a table: name, offset, size.
type Fields = Vec<(String, usize, usize)>;

fn document() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/format.md");
    std::fs::read_to_string(path).expect("docs/format.md is in the tree")
}

/// The tables of the document by name, with the size in their comment.
fn tables() -> BTreeMap<String, (usize, Fields)> {
    let mut tables = BTreeMap::new();
    let mut current: Option<String> = None;
    for line in document().lines() {
        if let Some(rest) = line.strip_prefix("<!-- table: ") {
            let mut words = rest.split_whitespace();
            let name = words.next().unwrap().to_string();
            let size = words.next().unwrap().parse().unwrap();
            tables.insert(name.clone(), (size, Fields::new()));
            current = Some(name);
        } else if line.starts_with("| ") {
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            let numbers = (cells[1].parse(), cells.get(2).and_then(|c| c.parse().ok()));
            if let (Some(name), (Ok(offset), Some(size))) = (&current, numbers) {
                tables.get_mut(name).unwrap().1.push((cells[3].to_string(), offset, size));
            }
        } else if line.is_empty() && current.as_ref().is_some_and(|c| !tables[c].1.is_empty()) {
            current = None;
        }
    }
    tables
}

/// Field names, offsets and sizes of a struct.
macro_rules! fields {
    ($type:ty: $($field:ident),*) => {{
        let mut ends: Vec<usize> = vec![$(offset_of!($type, $field)),*];
        ends.push(size_of::<$type>());
        let names = [$(stringify!($field)),*];
        names.iter().enumerate()
            .map(|(i, n)| (n.to_string(), ends[i], ends[i + 1] - ends[i]))
            .collect::<Fields>()
    }};
}

#[test]
fn tables_agree_with_the_layouts() {
    let layouts: [(&str, usize, Fields); 5] = [
        (
            "superblock",
            4096,
            fields!(RawSuperblock: magic, crc, version, role, copy, compat, ro_compat, incompat, volume, spare,
                generation, entries, area_pages, journal_pages, flags, spare_index, spare_count, copies, block_shift,
                area, policy, reserved, created, written, main_size, main_logical_block, reserved_2, main_wwn,
                main_serial, main_model, main_content_uuid, name, spares, homes, reserved_3, base, reserved_4),
        ),
        ("spare_record", 40, fields!(RawSpare: uuid, size, slots, reserve_pages, anchors, reserved)),
        (
            "entry",
            48,
            fields!(RawEntry: block, slot, lost, time, count, errors, flags, state, cause, reserved),
        ),
        (
            "checkpoint_page",
            64,
            fields!(RawPageHeader: magic, crc, volume, generation, index, count, copy, reserved),
        ),
        (
            "journal_record",
            64,
            fields!(RawRecordHeader: magic, crc, volume, checkpoint, generation, position, count, copy, pages, reserved),
        ),
    ];
    let tables = tables();
    for (name, size, fields) in layouts {
        let (documented_size, documented) = &tables[name];
        assert_eq!(*documented_size, size, "{name}");
        assert_eq!(*documented, fields, "{name}");
        let end: usize = fields.last().map(|(_, offset, len)| offset + len).unwrap();
        assert_eq!(end, size, "{name} has no gap at its end");
    }
}

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

const SPARE_SIZE: u64 = 3 << 20;

fn superblock() -> Superblock {
    let shape = plan(&[SPARE_SIZE], 4096).expect("3 MiB are enough");
    let spares = [(*b"golden-spare--id", SPARE_SIZE)];
    let main = MainIdentity {
        size: 1 << 40,
        logical_block: 512,
        wwn: "0x5000c500a1b2c3d4".into(),
        serial: "Z1F0ABCD".into(),
        model: "ST3000DM001".into(),
        content_uuid: String::new(),
    };
    Superblock {
        policy: Policy::RemapOnly,
        generation: u64::MAX,
        base: u64::MAX - 2,
        entries: 3,
        created: 1_700_000_000,
        written: 1_700_000_001,
        ..Superblock::new(*b"golden-volume-id", "golden \u{e9}", 4096, &shape, &spares, main)
    }
}

fn entry(block: u64, count: u32, slot: u64, lost: u128, state: EntryState, cause: Cause) -> Entry {
    Entry {
        block,
        count,
        slot,
        lost,
        state,
        cause,
        flags: EntryFlags::default(),
        errors: 2,
        time: 1_700_000_002,
    }
}

fn checkpoint_entries() -> [Entry; 3] {
    [
        entry(7, 1, NO_SLOT, 0b101, EntryState::Pending, Cause::ReadError),
        Entry {
            flags: EntryFlags::STALE,
            ..entry(1 << 20, 70_000, NO_SLOT, 0xff, EntryState::Pending, Cause::Imported)
        },
        entry(NO_BLOCK, 1, 600, 0, EntryState::Retired, Cause::SlotError),
    ]
}

fn journal() -> [Vec<Entry>; 2] {
    [
        vec![entry(9, 2, 100, 0, EntryState::Remapped, Cause::WriteError)],
        vec![
            Entry { lost: 0, ..entry(7, 1, NO_SLOT, 0, EntryState::Absent, Cause::Manual) },
            entry(7, 1, 102, 0b100, EntryState::Remapped, Cause::Manual),
        ],
    ]
}

/// The non-empty pages of a spare: offset, bytes.
fn image() -> BTreeMap<u64, Vec<u8>> {
    let mut pages = BTreeMap::new();
    let base = superblock();
    let shape = plan(&[SPARE_SIZE], 4096).unwrap();
    for place in copy_places(&base.spares, &base.homes) {
        let mut page = vec![0; 4096];
        Superblock { role: CopyRole::Copy(place.copy), ..base.clone() }.encode(&mut page);
        pages.insert(place.start + shape.superblock_at(1), page);
        let header =
            PageHeader { volume: base.volume_tag(), copy: place.copy, index: 0, generation: base.generation };
        let mut page = vec![0; 4096];
        CheckpointPage::encode(&header, &checkpoint_entries(), &mut page);
        pages.insert(place.start + shape.page_at(1, 0), page);
        for (n, edits) in (0u32..).zip(journal()) {
            let header = RecordHeader {
                volume: base.volume_tag(),
                copy: place.copy,
                position: n,
                checkpoint: base.generation,
                generation: base.generation.wrapping_add(1 + u64::from(n)),
            };
            let mut page = vec![0; 4096];
            Record::encode(&header, &edits, &mut page);
            pages.insert(place.start + shape.journal_at(n), page);
        }
    }
    pages
}

fn stored_image() -> BTreeMap<u64, Vec<u8>> {
    let bytes = std::fs::read(golden().join("spare-v1.pages")).expect("the golden image is in the tree");
    bytes
        .chunks_exact(8 + 4096)
        .map(|c| (u64::from_le_bytes(c[..8].try_into().unwrap()), c[8..].to_vec()))
        .collect()
}

/// Writes the golden image. Only for a new format version: stored images are never changed.
#[test]
#[ignore = "writes the golden image"]
fn write_golden_image() {
    let mut bytes = Vec::new();
    for (offset, page) in image() {
        bytes.extend(offset.to_le_bytes());
        bytes.extend(page);
    }
    std::fs::write(golden().join("spare-v1.pages"), bytes).unwrap();
}

#[test]
fn this_version_writes_the_stored_image() {
    assert_eq!(image(), stored_image());
}

/// Another reader: it knows the tables of the document and the rules in its prose, none of our code.
struct TableReader {
    tables: BTreeMap<String, (usize, Fields)>,
    pages: BTreeMap<u64, Vec<u8>>,
}

impl TableReader {
    fn page(&self, at: u64) -> &[u8] {
        self.pages.get(&at).map_or(&[0; 4096], Vec::as_slice)
    }

    fn field<'b>(&self, table: &str, field: &str, bytes: &'b [u8]) -> &'b [u8] {
        let (_, fields) = &self.tables[table];
        let (_, offset, size) =
            fields.iter().find(|(name, ..)| name == field).expect("the table has the field");
        &bytes[*offset..offset + size]
    }

    fn number(&self, table: &str, field: &str, bytes: &[u8]) -> u128 {
        self.field(table, field, bytes).iter().rev().fold(0, |n, &b| (n << 8) | u128::from(b))
    }

    /// CRC32C as the document defines it, bit by bit.
    fn checksum_holds(&self, table: &str, salt: &[u8; 4], bytes: &[u8]) -> bool {
        let (_, fields) = &self.tables[table];
        let (_, at, _) = fields.iter().find(|(name, ..)| name == "crc").unwrap();
        let mut zeroed = bytes.to_vec();
        zeroed[*at..at + 4].fill(0);
        let mut crc = u32::MAX;
        for byte in salt.iter().chain(&zeroed) {
            crc ^= u32::from(*byte);
            for _ in 0..8 {
                crc = if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 };
            }
        }
        u128::from(!crc) == self.number(table, "crc", bytes)
    }

    fn entries(&self, table: &str, bytes: &[u8]) -> Vec<Vec<u128>> {
        let count = self.number(table, "count", bytes) as usize;
        let names = ["block", "count", "slot", "lost", "state", "cause", "flags", "errors", "time"];
        let (size, _) = self.tables["entry"];
        bytes[64..]
            .chunks_exact(size)
            .take(count)
            .map(|e| names.map(|n| self.number("entry", n, e)).to_vec())
            .collect()
    }
}

fn as_numbers(entry: &Entry) -> Vec<u128> {
    let state = match entry.state {
        EntryState::Absent => 0,
        EntryState::Pending => 1,
        EntryState::Remapped => 2,
        EntryState::Retired => 3,
    };
    let cause =
        if state == 0 { 0 } else { Cause::ALL.iter().position(|c| *c == entry.cause).unwrap() as u128 + 1 };
    vec![
        entry.block.into(),
        entry.count.into(),
        entry.slot.into(),
        entry.lost,
        state,
        cause,
        entry.flags.0.into(),
        entry.errors.into(),
        (entry.time - 1_577_836_800).into(),
    ]
}

#[test]
fn a_reader_made_of_the_tables_reads_the_stored_image() {
    let reader = TableReader { tables: tables(), pages: stored_image() };
    let mut copies_found = 0;
    for index in 0..5u64 {
        // "The i-th of the m copies starts at size * i / m, rounded down to a multiple of 65536 from 2 MiB on."
        let start = SPARE_SIZE * index / 5 / 65536 * 65536;
        let found = [0, 4096].map(|page| reader.page(start + page));
        let Some(superblock) = found.into_iter().find(|p| reader.checksum_holds("superblock", b"SUPR", p))
        else {
            continue;
        };
        copies_found += 1;
        let number = |field| reader.number("superblock", field, superblock);
        assert_eq!(reader.field("superblock", "magic", superblock), b"dm-remap");
        assert_eq!((number("version"), number("role"), number("copy")), (1, 1, index.into()));
        assert_eq!(number("generation"), u128::from(u64::MAX));
        assert_eq!((number("block_shift"), number("policy"), number("main_size")), (12, 1, 1 << 40));
        let name = reader.field("superblock", "name", superblock);
        assert_eq!(std::str::from_utf8(name).unwrap().trim_end_matches('\0'), "golden \u{e9}");
        let spare = &reader.field("superblock", "spares", superblock)[..40];
        assert_eq!(reader.number("spare_record", "size", spare), SPARE_SIZE.into());
        assert_eq!(reader.number("spare_record", "anchors", spare), 5);
        let home = &reader.field("superblock", "homes", superblock)[2 * index as usize..][..2];
        assert_eq!(home, [0, index as u8], "spare and anchor of this copy");

        let area_pages = number("area_pages") as u64;
        let checkpoint = reader.page(start + (2 + number("area") as u64 * area_pages) * 4096);
        assert!(reader.checksum_holds("checkpoint_page", b"CKPT", checkpoint));
        assert_eq!(reader.number("checkpoint_page", "copy", checkpoint), index.into());
        let expected: Vec<_> = checkpoint_entries().iter().map(as_numbers).collect();
        assert_eq!(reader.entries("checkpoint_page", checkpoint), expected);

        for (n, edits) in (0u64..).zip(journal()) {
            let record = reader.page(start + (2 + 2 * area_pages + n) * 4096);
            assert!(reader.checksum_holds("journal_record", b"JRNL", record));
            // Generations wrap: 2^64 - 1 is followed by 0.
            assert_eq!(reader.number("journal_record", "generation", record), n.into());
            let expected: Vec<_> = edits.iter().map(as_numbers).collect();
            assert_eq!(reader.entries("journal_record", record), expected);
        }
    }
    assert_eq!(copies_found, 5);
}
