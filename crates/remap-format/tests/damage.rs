//! Whatever a device returns, decoding ends with the value that was written or with an error.

use remap_format::layout::CopyShape;
use remap_format::{
    Cause, CheckpointPage, CopyHome, CopyRole, DecodeError, Entry, EntryFlags, EntryState, MainIdentity,
    NO_SLOT, PageHeader, RawEntry, Record, RecordHeader, SpareRecord, Superblock,
};
use zerocopy::{FromBytes, IntoBytes};

fn entry() -> Entry {
    Entry {
        block: 9,
        count: 1,
        slot: 77,
        lost: 0b10,
        state: EntryState::Remapped,
        cause: Cause::WriteError,
        flags: EntryFlags::default(),
        errors: 3,
        time: 1_700_000_000,
    }
}

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
        ..Superblock::new([7; 16], "v", 4096, &SHAPE, &[([9; 16], 1 << 20)], main)
    }
}

const PAGE: PageHeader = PageHeader { volume: [7; 8], copy: 2, index: 4, generation: 5 };
const RECORD: RecordHeader =
    RecordHeader { volume: [7; 8], copy: 2, position: 4, checkpoint: 5, generation: 6 };

fn page_bytes() -> Vec<u8> {
    let mut bytes = vec![0; 4096];
    CheckpointPage::encode(&PAGE, &[entry()], &mut bytes);
    bytes
}

fn record_bytes(edits: usize) -> Vec<u8> {
    let mut bytes = vec![0; Record::pages_for(edits) * 4096];
    Record::encode(&RECORD, &vec![entry(); edits], &mut bytes);
    bytes
}

fn every_bit_flip(bytes: &[u8], mut decodes: impl FnMut(&[u8]) -> bool) {
    assert!(decodes(bytes), "the undamaged bytes decode");
    let mut damaged = bytes.to_vec();
    for bit in 0..bytes.len() * 8 {
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert!(!decodes(&damaged), "a flip of bit {bit} goes unnoticed");
        damaged[bit / 8] ^= 1 << (bit % 8);
    }
}

#[test]
fn every_single_bit_flip_is_noticed() {
    let mut bytes = vec![0; 4096];
    superblock().encode(&mut bytes);
    every_bit_flip(&bytes, |b| Superblock::decode(b).is_ok());
    every_bit_flip(&page_bytes(), |b| CheckpointPage::decode(b, &PAGE, 8).is_ok());
    every_bit_flip(&record_bytes(2), |b| Record::decode(b, &RECORD, 8).is_ok());
}

#[test]
fn a_torn_write_is_noticed() {
    let whole = record_bytes(200);
    for sectors in 0..whole.len() / 512 {
        let mut torn = whole.clone();
        torn[sectors * 512..].fill(0);
        let lost = whole[sectors * 512..].iter().any(|&b| b != 0);
        assert_eq!(Record::decode(&torn, &RECORD, 8).is_err(), lost, "torn after {sectors} sectors");
    }
}

#[test]
fn a_whole_page_in_the_wrong_place_is_noticed() {
    let bytes = page_bytes();
    let wrong = [
        PageHeader { copy: 1, ..PAGE },
        PageHeader { index: 5, ..PAGE },
        PageHeader { generation: 4, ..PAGE },
        PageHeader { volume: [8; 8], ..PAGE },
    ];
    for expected in wrong {
        assert!(matches!(CheckpointPage::decode(&bytes, &expected, 8), Err(DecodeError::Field { .. })));
    }
    let bytes = record_bytes(1);
    let wrong = [
        RecordHeader { copy: 1, ..RECORD },
        RecordHeader { position: 5, ..RECORD },
        RecordHeader { checkpoint: 4, ..RECORD },
        RecordHeader { generation: 7, ..RECORD },
        RecordHeader { volume: [8; 8], ..RECORD },
    ];
    for expected in wrong {
        assert!(matches!(Record::decode(&bytes, &expected, 8), Err(DecodeError::Field { .. })));
    }
}

#[test]
fn a_newer_format_is_told_apart_from_damage() {
    // What a newer program would write: another version, sealed with a checksum that holds.
    for (at, value) in [(12, 2u8), (32, 1)] {
        let error = Superblock::decode(&resealed(at, value)).expect_err("newer");
        assert!(
            matches!(error, DecodeError::Version { found: 2 } | DecodeError::Incompatible { bits: 1 }),
            "{error}"
        );
    }
}

/// Stores `value` at `at` and seals the superblock again, so that only the field itself can be wrong.
fn resealed(at: usize, value: u8) -> Vec<u8> {
    let mut bytes = vec![0; 4096];
    superblock().encode(&mut bytes);
    bytes[at] = value;
    let crc = crc::Crc::<u32>::new(&crc::CRC_32_ISCSI);
    bytes[8..12].fill(0);
    let mut digest = crc.digest();
    digest.update(b"SUPR");
    digest.update(&bytes);
    bytes[8..12].copy_from_slice(&digest.finalize().to_le_bytes());
    bytes
}

#[test]
fn a_block_size_that_cannot_be_is_refused_behind_the_checksum() {
    let at = std::mem::offset_of!(remap_format::RawSuperblock, block_shift);
    for shift in (0..9).chain(17..=255) {
        let error = Superblock::decode(&resealed(at, shift)).expect_err("an impossible block size");
        assert!(matches!(error, DecodeError::Field { .. }), "{shift}: {error}");
    }
    assert!(Superblock::decode(&resealed(at, 12)).is_ok());
}

#[test]
fn a_shape_that_no_volume_has_is_refused_behind_the_checksum() {
    use std::mem::offset_of;
    // Lowest bytes of one page and of eight; a journal of none could not take a record.
    let (area, journal) = (
        offset_of!(remap_format::RawSuperblock, area_pages),
        offset_of!(remap_format::RawSuperblock, journal_pages),
    );
    for (at, value) in
        [(area, 0), (area + 3, 1), (journal, 0), (journal, 7), (journal + 1, 16), (journal + 3, 255)]
    {
        let error = Superblock::decode(&resealed(at, value)).expect_err("an impossible shape");
        assert!(matches!(error, DecodeError::Field { .. }), "{at}: {error}");
    }
    assert!(Superblock::decode(&resealed(journal, 8)).is_ok());
}

#[test]
fn entries_that_cannot_be_are_refused_behind_the_checksum() {
    let good = entry().encode();
    assert!(Entry::decode(&good, 8).is_ok());
    type Damage = (&'static str, fn(&mut RawEntry));
    let cases: [Damage; 11] = [
        ("no blocks", |e| e.count = 0.into()),
        ("a mask beyond the block", |e| e.lost = 0x100.into()),
        ("a run with a partial mask", |e| e.count = 2.into()),
        ("an unknown state", |e| e.state = 9),
        ("an unknown cause", |e| e.cause = 9),
        ("an unknown flag", |e| e.flags = 2.into()),
        ("reserved bytes", |e| e.reserved = [0, 1]),
        ("remapped to nowhere", |e| e.slot = NO_SLOT.into()),
        ("pending with a slot", |e| e.state = 1),
        ("retired with a block", |e| e.state = 3),
        ("blocks that wrap", |e| e.block = (u64::MAX - 1).into()),
    ];
    for (what, damage) in cases {
        let mut raw = RawEntry::read_from_bytes(good.as_bytes()).expect("48 bytes");
        damage(&mut raw);
        if what == "blocks that wrap" {
            raw.count = 2.into();
            raw.lost = 0.into();
        }
        assert!(Entry::decode(&raw, 8).is_err(), "{what}");
    }
}

#[test]
fn metadata_lie_within_their_spare_and_copies_at_homes_of_their_own() {
    let decoded = |superblock: &Superblock| {
        let mut page = vec![0; 4096];
        superblock.encode(&mut page);
        Superblock::decode(&page)
    };
    let good = superblock();
    assert_eq!(decoded(&good).as_ref(), Ok(&good));
    let field = |outcome: Result<Superblock, DecodeError>| match outcome {
        Err(DecodeError::Field { field, .. }) => field,
        other => panic!("{other:?}"),
    };
    let most = CopyShape::MAX.area_pages;
    let shapes = [
        (u32::MAX, 8, "area_pages"),
        (most + 1, 8, "area_pages"),
        (most, 8, "homes"),
        (1, u32::MAX, "journal_pages"),
        (1, 100, "homes"),
        (200, 8, "homes"),
    ];
    for (area_pages, journal_pages, expected) in shapes {
        let large = Superblock { area_pages, journal_pages, ..good.clone() };
        assert_eq!(field(decoded(&large)), expected);
    }
    for change in [
        SpareRecord { size: 8192, slots: 2, ..good.spares[0] },
        SpareRecord { reserve_pages: 60, ..good.spares[0] },
        SpareRecord { anchors: 6, ..good.spares[0] },
    ] {
        assert_eq!(field(decoded(&Superblock { spares: vec![change], ..good.clone() })), "anchors");
    }
    let shared = [0, 1, 2, 3, 3].map(|anchor| CopyHome { spare: 0, anchor });
    let outside = [0, 1, 2, 3, 5].map(|anchor| CopyHome { spare: 0, anchor });
    let elsewhere = [0, 1, 2, 3, 4].map(|anchor| CopyHome { spare: anchor / 4, anchor });
    for homes in [shared, outside, elsewhere] {
        assert_eq!(field(decoded(&Superblock { homes, ..good.clone() })), "homes");
    }
    let mut two = good.clone();
    two.spares.insert(0, SpareRecord::GONE);
    assert_eq!(field(decoded(&two)), "spare_index", "a spare that has left has no superblock");
}
