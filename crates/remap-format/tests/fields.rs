//! Every field at its limits, behind a checksum that holds: the last value that can be is read, the next one is refused by name.

use std::mem::offset_of;

use remap_format::layout::{CopyShape, LayoutError, joining_spare, plan, spare_fits};
use remap_format::{
    Cause, CheckpointPage, CopyRole, DecodeError, Entry, EntryFlags, EntryState, MAX_RECORD_EDITS,
    MainIdentity, NO_BLOCK, NO_SLOT, PAGE_ENTRIES, PageHeader, Policy, RawPageHeader, RawRecordHeader,
    RawSpare, RawSuperblock, Record, RecordHeader, SpareRecord, Superblock,
};

const SPARE: SpareRecord =
    SpareRecord { uuid: [9; 16], size: 1 << 20, slots: 256, anchors: 5, reserve_pages: 12 };

const SHAPE: CopyShape = CopyShape { area_pages: 1, journal_pages: 8 };

fn superblock() -> Superblock {
    let main = MainIdentity { size: 1 << 30, logical_block: 512, ..MainIdentity::default() };
    Superblock {
        role: CopyRole::Copy(3),
        generation: 5,
        base: 4,
        area: 0,
        entries: 1,
        created: 1,
        written: 2,
        ..Superblock::new([7; 16], "fields", 4096, &SHAPE, &[(SPARE.uuid, SPARE.size)], main)
    }
}

/// Stores bytes at a place and seals again.
fn sealed(mut bytes: Vec<u8>, crc_at: usize, salt: &[u8], changes: &[(usize, &[u8])]) -> Vec<u8> {
    for (at, value) in changes {
        bytes[*at..at + value.len()].copy_from_slice(value);
    }
    bytes[crc_at..crc_at + 4].fill(0);
    let crc = crc::Crc::<u32>::new(&crc::CRC_32_ISCSI);
    let mut digest = crc.digest();
    digest.update(salt);
    digest.update(&bytes);
    bytes[crc_at..crc_at + 4].copy_from_slice(&digest.finalize().to_le_bytes());
    bytes
}

fn field<T: std::fmt::Debug>(outcome: Result<T, DecodeError>) -> &'static str {
    match outcome {
        Ok(_) => "",
        Err(DecodeError::Field { field, .. }) => field,
        Err(other) => panic!("{other}"),
    }
}

/// The field that is refused once these bytes are in a superblock; empty if none is.
fn refused(changes: &[(usize, &[u8])]) -> &'static str {
    let mut bytes = vec![0; 4096];
    superblock().encode(&mut bytes);
    field(Superblock::decode(&sealed(bytes, 8, b"SUPR", changes)))
}

#[test]
fn superblock_fields() {
    let (role, copy) = (offset_of!(RawSuperblock, role), offset_of!(RawSuperblock, copy));
    for (values, expected) in
        [([1, 4], ""), ([1, 5], "role"), ([2, 0], ""), ([2, 1], "role"), ([3, 0], "role")]
    {
        assert_eq!(refused(&[(role, &values[..1]), (copy, &values[1..])]), expected, "{values:?}");
    }
    for at in [
        offset_of!(RawSuperblock, reserved),
        offset_of!(RawSuperblock, reserved_2) + 3,
        offset_of!(RawSuperblock, reserved_3),
        offset_of!(RawSuperblock, reserved_4),
        4095,
    ] {
        assert_eq!(refused(&[(at, &[1])]), "reserved", "{at}");
    }
    // Two bits that cancel each other are two bits.
    assert_eq!(refused(&[(offset_of!(RawSuperblock, reserved), &[1, 1])]), "reserved");
    let cases: [(usize, u64, &str, &str); 4] = [
        (offset_of!(RawSuperblock, entries), 84, "", "entries"),
        (offset_of!(RawSuperblock, main_size), (1 << 63) - 1, "", "main_size"),
        (offset_of!(RawSuperblock, main_size), 511, "main_size", ""),
        (offset_of!(RawSuperblock, base), 5, "", "base"),
    ];
    for (at, value, expected, next) in cases {
        assert_eq!(refused(&[(at, &value.to_le_bytes())]), expected, "{value} at {at}");
        assert_eq!(refused(&[(at, &(value + 1).to_le_bytes())]), next, "{value} + 1 at {at}");
    }
    // Generations wrap: the largest is before 0.
    let (generation, base) = (offset_of!(RawSuperblock, generation), offset_of!(RawSuperblock, base));
    let after_wrap = [(generation, &3_u64.to_le_bytes()[..]), (base, &u64::MAX.to_le_bytes())];
    assert_eq!(refused(&after_wrap), "");
    assert_eq!(refused(&[(generation, &u64::MAX.to_le_bytes())]), "base", "4 is after it");
    let logical = offset_of!(RawSuperblock, main_logical_block);
    for (size, expected) in [(512_u32, ""), (4096, ""), (0, "!"), (256, "!"), (513, "!"), (8192, "!")] {
        let expected = if expected.is_empty() { "" } else { "main_logical_block" };
        assert_eq!(refused(&[(logical, &size.to_le_bytes())]), expected, "{size}");
    }
    let name = offset_of!(RawSuperblock, name);
    assert_eq!(refused(&[(name, &[0; 64])]), "name");
    assert_eq!(refused(&[(name + 60, &[1])]), "name", "bytes behind the end of the text");
}

#[test]
fn spare_records() {
    let count = offset_of!(RawSuperblock, spare_count);
    let index = offset_of!(RawSuperblock, spare_index);
    for (value, expected) in
        [(0, "spare_count"), (1, ""), (16, ""), (17, "spare_count"), (255, "spare_count")]
    {
        assert_eq!(refused(&[(count, &[value])]), expected, "{value}");
    }
    assert_eq!(refused(&[(index, &[1])]), "spare_count", "no such spare");
    let spares = offset_of!(RawSuperblock, spares);
    assert_eq!(refused(&[(spares + size_of::<RawSpare>(), &[1])]), "spares", "a record that is not in use");
    let at = |field: usize| spares + field;
    let (size, slots, reserve, reserved) = (
        at(offset_of!(RawSpare, size)),
        at(offset_of!(RawSpare, slots)),
        at(offset_of!(RawSpare, reserve_pages)),
        at(offset_of!(RawSpare, reserved)),
    );
    assert_eq!(refused(&[(slots, &256_u64.to_le_bytes())]), "");
    assert_eq!(refused(&[(slots, &257_u64.to_le_bytes())]), "slots");
    assert_eq!(refused(&[(size, &0_u64.to_le_bytes())]), "slots");
    assert_eq!(refused(&[(size, &(1_u64 << 63).to_le_bytes())]), "slots");
    assert_eq!(refused(&[(reserved + 2, &[1])]), "anchors");
    // As much as the largest copy takes, on a spare that has the room.
    let large = (size, &(1_u64 << 40).to_le_bytes()[..]);
    let most = CopyShape::MAX.pages();
    assert_eq!(refused(&[large, (reserve, &most.to_le_bytes())]), "");
    assert_eq!(refused(&[large, (reserve, &(most + 1).to_le_bytes())]), "reserve_pages");
}

#[test]
fn texts_are_cut_between_characters() {
    assert_eq!(Superblock::clip_text("short"), "short");
    assert_eq!(Superblock::clip_text(&"x".repeat(70)), "x".repeat(64));
    assert_eq!(Superblock::clip_text(&"\u{20ac}".repeat(30)), "\u{20ac}".repeat(21), "three bytes each");
    assert_eq!(Superblock::clip_text(&format!("{}\u{1f600}", "x".repeat(62))), "x".repeat(62));
    assert_eq!(
        [Policy::RewriteThenRemap, Policy::RemapOnly].map(Policy::word),
        ["rewrite-then-remap", "remap-only"]
    );
    assert_eq!(
        Cause::ALL.map(Cause::word),
        ["read-error", "write-error", "manual", "imported", "predicted", "slot-error"]
    );
}

#[test]
fn spares_that_are_there() {
    let volume = Superblock { spares: vec![SPARE, SpareRecord::GONE, SPARE], ..superblock() };
    assert_eq!(volume.present().map(|(number, _)| number).collect::<Vec<_>>(), [0, 2]);
}

fn entry(state: EntryState) -> Entry {
    let retired = state == EntryState::Retired;
    let slot = matches!(state, EntryState::Remapped | EntryState::Retired);
    Entry {
        block: if retired { NO_BLOCK } else { 9 },
        count: 1,
        slot: if slot { 77 } else { NO_SLOT },
        lost: u128::from(state == EntryState::Pending),
        state,
        cause: Cause::Manual,
        flags: EntryFlags::default(),
        errors: 3,
        time: 1_700_000_000,
    }
}

#[test]
fn entries() {
    use EntryState::{Absent, Pending, Remapped, Retired};
    let decoded = |entry: Entry| field(Entry::decode(&entry.encode(), 8));
    let with_lost = |state, lost| decoded(Entry { lost, ..entry(state) });
    for state in [Absent, Pending, Remapped, Retired] {
        assert_eq!(Entry::decode(&entry(state).encode(), 8), Ok(entry(state)));
        let lost = [0, 1].map(|lost| with_lost(state, lost));
        let expected = match state {
            Pending => ["lost", ""],
            Remapped => ["", ""],
            Absent | Retired => ["", "lost"],
        };
        assert_eq!(lost, expected, "{state:?}");
        let (blocks, slots) = (state != Retired, matches!(state, Remapped | Retired));
        let last_block = Entry { block: u64::MAX - 2, count: 2, lost: 0, ..entry(state) };
        let behind = Entry { block: u64::MAX - 1, ..last_block };
        if blocks && state != Pending {
            assert_eq!([last_block, behind].map(decoded), ["", "block"], "{state:?}");
        }
        if slots {
            let run = Entry { count: 2, ..entry(state) };
            let at = |slot| decoded(Entry { slot, ..run });
            assert_eq!([at(u64::MAX - 2), at(u64::MAX - 1)], ["", "slot"], "{state:?}");
        } else {
            assert_eq!(decoded(Entry { slot: 1, ..entry(state) }), "slot", "{state:?}");
        }
    }
    // What is said of a mask that cannot be is the part of it that fits.
    let refused = Entry::decode(&Entry { lost: 0x103, ..entry(Pending) }.encode(), 8);
    assert_eq!(refused, Err(DecodeError::Field { what: "entry", field: "lost", value: 0x103 }));
}

const RECORD: RecordHeader =
    RecordHeader { volume: [7; 8], copy: 2, position: 4, checkpoint: 5, generation: 6 };

fn record(edits: usize) -> Vec<u8> {
    let mut bytes = vec![0; Record::pages_for(edits) * 4096];
    Record::encode(&RECORD, &vec![entry(EntryState::Remapped); edits], &mut bytes);
    bytes
}

#[test]
fn records() {
    for (edits, pages) in [(0, 1), (84, 1), (85, 2), (169, 2), (170, 3), (MAX_RECORD_EDITS, 16)] {
        assert_eq!(Record::pages_for(edits), pages);
        let decoded = Record::decode(&record(edits), &RECORD, 8).expect("whole");
        assert_eq!((decoded.edits.len(), decoded.pages as usize), (edits, pages));
    }
    let (pages, count) = (offset_of!(RawRecordHeader, pages), offset_of!(RawRecordHeader, count));
    let mut long = record(1);
    long.resize(17 * 4096, 0);
    let refused = |changes: &[(usize, &[u8])]| {
        field(Record::decode(&sealed(long.clone(), 4, b"JRNL", changes), &RECORD, 8))
    };
    for value in [0, 2, 17] {
        assert_eq!(refused(&[(pages, &[value])]), "pages", "{value}");
    }
    let most = u16::try_from(MAX_RECORD_EDITS).expect("small") + 1;
    assert_eq!(refused(&[(pages, &[17]), (count, &most.to_le_bytes())]), "pages", "one page too many");
    assert_eq!(field(Record::decode(&record(85)[..4096], &RECORD, 8)), "pages", "cut off");
    assert_eq!(Record::decode(&[0; 10], &RECORD, 8), Err(DecodeError::Magic("journal record")));
}

#[test]
fn records_that_were_begun() {
    let torn = &record(100)[..512];
    assert_eq!(Record::begun(torn, &RECORD), Some(2));
    assert_eq!(Record::claimed(torn), Some(RECORD));
    for other in [
        RecordHeader { volume: [8; 8], ..RECORD },
        RecordHeader { copy: 1, ..RECORD },
        RecordHeader { position: 5, ..RECORD },
        RecordHeader { checkpoint: 4, ..RECORD },
        RecordHeader { generation: 7, ..RECORD },
    ] {
        assert_eq!(Record::begun(torn, &other), None, "{other:?}");
    }
    let mut foreign = torn.to_vec();
    foreign[0] ^= 1;
    assert_eq!((Record::begun(&foreign, &RECORD), Record::claimed(&foreign)), (None, None));
}

#[test]
fn pages() {
    let header = PageHeader { volume: [7; 8], copy: 2, index: 4, generation: 5 };
    let mut full = vec![0; 4096];
    CheckpointPage::encode(&header, &[entry(EntryState::Remapped); PAGE_ENTRIES], &mut full);
    let decoded = |changes: &[(usize, &[u8])]| {
        CheckpointPage::decode(&sealed(full.clone(), 4, b"CKPT", changes), &header, 8)
    };
    assert_eq!(decoded(&[]).map(|page| page.entries.len()), Ok(PAGE_ENTRIES));
    let count = offset_of!(RawPageHeader, count);
    assert_eq!(field(decoded(&[(count, &85_u16.to_le_bytes())])), "count");
    assert_eq!(field(decoded(&[(count, &83_u16.to_le_bytes())])), "padding");
    let reserved = offset_of!(RawPageHeader, reserved);
    for bytes in [&[1][..], &[1, 1]] {
        assert_eq!(field(decoded(&[(reserved, bytes)])), "reserved");
    }
    let short = CheckpointPage::decode(&full[..4095], &header, 8);
    assert_eq!(short, Err(DecodeError::Magic("checkpoint page")));
    assert_eq!(decoded(&[(0, b"C")]).map(|page| page.header), Ok(header));
    assert!(matches!(decoded(&[(0, b"X")]), Err(DecodeError::Magic(_))));
}

#[test]
fn shapes() {
    assert_eq!(plan(&[], 4096), Err(LayoutError::SpareCount(0)));
    assert!(plan(&[1 << 20; 16], 4096).is_ok());
    assert_eq!(plan(&[1 << 20; 17], 4096), Err(LayoutError::SpareCount(17)));
    // As many entries as a quarter of a small spare has room for.
    let areas = [1 << 20, 3 << 19, 2 << 20].map(|size| plan(&[size], 4096).map(|shape| shape.area_pages));
    assert_eq!(areas, [Ok(1), Ok(3), Ok(7)]);
    let shape = CopyShape { area_pages: 10, journal_pages: 8 };
    assert_eq!(
        [shape.page_at(0, 0), shape.page_at(1, 0), shape.page_at(1, 9)],
        [2, 12, 21].map(|p| p * 4096)
    );
    assert_eq!([shape.journal_at(0), shape.journal_at(7)], [22, 29].map(|p| p * 4096));
    assert_eq!((shape.pages(), shape.bytes(), shape.capacity()), (30, 30 * 4096, 840));
    for block_size in [512, 4096, 65536] {
        let Err(LayoutError::TooSmall { least, .. }) = joining_spare([1; 16], 512, 1, &shape, block_size)
        else {
            panic!("a sector is no spare")
        };
        let joined = joining_spare([1; 16], least, 1, &shape, block_size).expect("the least that works");
        assert!(spare_fits(&joined, block_size), "{joined:?}");
        let less = least - block_size.max(4096);
        assert!(joining_spare([1; 16], less, 1, &shape, block_size).is_err(), "{block_size}: {least}");
    }
}
