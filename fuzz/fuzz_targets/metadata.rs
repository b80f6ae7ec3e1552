//! Every decoder of the on-disk format: it ends with an error, or with a value that encodes to the very same bytes.

#![no_main]

use bench::input::Input;
use bench::memory;
use bench::seal::{Kind, seal};
use libfuzzer_sys::fuzz_target;
use remap_format::layout::{self, CopyShape};
use remap_format::{
    CheckpointPage, CopyRole, Entry, MAX_RECORD_PAGES, PAGE_SIZE, PageHeader, RawEntry, RawPageHeader,
    RawRecordHeader, Record, RecordHeader, Superblock,
};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

/// A decoder makes one value of at most [`MAX_RECORD_PAGES`] pages of entries, which are less than twice as large in memory.
const BOUND: usize = 2 * MAX_RECORD_PAGES * PAGE_SIZE + 4096;

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input::of(bytes);
    let choices = input.u8();
    let (raw, sealed) = (choices & 0x80 != 0, choices & 0x40 == 0);
    let block_sectors = 1 << (choices >> 2 & 7);
    let kind = match choices & 3 {
        0 => Kind::Superblock,
        1 => Kind::Page,
        2 => Kind::Record,
        _ => return entry(input.rest(), block_sectors),
    };
    // What the input says is laid over something whole, so that an empty one is whole.
    let mut structure = if raw { vec![0; PAGE_SIZE] } else { whole(kind, input.u8()) };
    let rest = input.rest();
    if raw && kind == Kind::Record {
        structure.resize(rest.len().clamp(1, (MAX_RECORD_PAGES + 1) * PAGE_SIZE), 0);
    }
    for (to, from) in structure.iter_mut().zip(rest) {
        *to ^= from;
    }
    if raw && sealed && structure.len() >= 8 {
        structure[..kind.magic().len()].copy_from_slice(kind.magic());
    }
    if sealed {
        seal(kind, &mut structure);
    }
    memory::within(BOUND + structure.len(), || match kind {
        Kind::Superblock => superblock(&structure),
        Kind::Page => page(&structure, block_sectors),
        Kind::Record => record(&structure, block_sectors),
    });
});

fn whole(kind: Kind, size: u8) -> Vec<u8> {
    let entries: Vec<Entry> = (0..u64::from(size)).map(some_entry).collect();
    match kind {
        Kind::Superblock => {
            let mut page = vec![0; PAGE_SIZE];
            some_superblock(usize::from(size % 16) + 1).encode(&mut page);
            page
        }
        Kind::Page => {
            let header = PageHeader { volume: [7; 8], copy: 2, index: 4, generation: 5 };
            let entries = &entries[..entries.len().min(remap_format::PAGE_ENTRIES)];
            let mut page = vec![0; PAGE_SIZE];
            CheckpointPage::encode(&header, entries, &mut page);
            page
        }
        Kind::Record => {
            let header = RecordHeader { volume: [7; 8], copy: 2, position: 4, checkpoint: 5, generation: 6 };
            let mut pages = vec![0; Record::pages_for(entries.len()) * PAGE_SIZE];
            Record::encode(&header, &entries, &mut pages);
            pages
        }
    }
}

fn some_superblock(spares: usize) -> Superblock {
    let shape = CopyShape { area_pages: 1, journal_pages: 8 };
    let main = remap_format::MainIdentity { size: 1 << 30, logical_block: 512, ..Default::default() };
    Superblock {
        role: CopyRole::Copy(3),
        generation: 5,
        base: 4,
        area: 0,
        entries: 1,
        created: 1,
        written: 2,
        ..Superblock::new([7; 16], "v", 4096, &shape, &vec![([9; 16], 1 << 20); spares], main)
    }
}

fn some_entry(n: u64) -> Entry {
    let mut bytes = [0; 12];
    bytes[2] = n as u8;
    bytes[4] = n as u8;
    bench::damage::entry(&mut Input::of(&bytes))
}

fn superblock(bytes: &[u8]) {
    let Ok(found) = Superblock::decode(bytes) else { return };
    let mut again = vec![0; PAGE_SIZE];
    found.encode(&mut again);
    assert!(again == bytes, "{found:?} encodes to other bytes");
    assert!(found.block_size().is_power_of_two() && (512..=65536).contains(&found.block_size()));
}

fn page(bytes: &[u8], block_sectors: u32) {
    let Ok((raw, _)) = RawPageHeader::ref_from_prefix(bytes) else { return };
    let header = PageHeader {
        volume: raw.volume,
        copy: raw.copy,
        index: raw.index.get(),
        generation: raw.generation.get(),
    };
    let Ok(found) = CheckpointPage::decode(bytes, &header, block_sectors) else { return };
    let mut again = vec![0; PAGE_SIZE];
    CheckpointPage::encode(&header, &found.entries, &mut again);
    assert!(again == bytes, "{found:?} encodes to other bytes");
    for other in [
        PageHeader { copy: header.copy ^ 1, ..header },
        PageHeader { index: header.index ^ 1, ..header },
        PageHeader { generation: header.generation ^ 1, ..header },
        PageHeader { volume: [!raw.volume[0]; 8], ..header },
    ] {
        assert!(CheckpointPage::decode(bytes, &other, block_sectors).is_err(), "taken for {other:?}");
    }
}

fn record(bytes: &[u8], block_sectors: u32) {
    let Ok((raw, _)) = RawRecordHeader::ref_from_prefix(bytes) else {
        let nobody = RecordHeader { volume: [0; 8], copy: 0, position: 0, checkpoint: 0, generation: 0 };
        assert!(
            Record::decode(bytes, &nobody, block_sectors).is_err() && Record::begun(bytes, &nobody).is_none()
        );
        return;
    };
    let header = RecordHeader {
        volume: raw.volume,
        copy: raw.copy,
        position: raw.position.get(),
        checkpoint: raw.checkpoint.get(),
        generation: raw.generation.get(),
    };
    let Ok(found) = Record::decode(bytes, &header, block_sectors) else { return };
    assert!(Record::begun(bytes, &header).is_some(), "a whole record was begun");
    let mut again = vec![0; Record::pages_for(found.edits.len()) * PAGE_SIZE];
    assert_eq!(again.len(), found.pages as usize * PAGE_SIZE);
    Record::encode(&header, &found.edits, &mut again);
    assert!(again == bytes[..again.len()], "{found:?} encodes to other bytes");
    for other in [
        RecordHeader { copy: header.copy ^ 1, ..header },
        RecordHeader { position: header.position ^ 1, ..header },
        RecordHeader { checkpoint: header.checkpoint ^ 1, ..header },
        RecordHeader { generation: header.generation ^ 1, ..header },
        RecordHeader { volume: [!raw.volume[0]; 8], ..header },
    ] {
        assert!(Record::decode(bytes, &other, block_sectors).is_err(), "taken for {other:?}");
    }
}

fn entry(bytes: &[u8], block_sectors: u32) {
    let mut raw = RawEntry::new_zeroed();
    for (to, from) in raw.as_mut_bytes().iter_mut().zip(bytes) {
        *to = *from;
    }
    let Ok(found) = Entry::decode(&raw, block_sectors) else { return };
    assert!(found.encode().as_bytes() == raw.as_bytes(), "{found:?} encodes to other bytes");
    assert!(found.count > 0 && found.end() >= found.block);
}
