//! Records, pages and their checksum, in memory.

use std::hint::black_box;

use remap_format::{CheckpointPage, Entry, PAGE_ENTRIES, PAGE_SIZE, PageHeader, Record, RecordHeader};

use super::{Patience, timed};
use crate::record::Figure;
use crate::scatter::{self, BLOCK_SECTORS};

/// Calls of one measurement.
const EACH: usize = 64;
/// Edits of a record that a group commit may have.
const GROUP: usize = 64;

/// Where a record belongs.
pub(crate) const RECORD: RecordHeader =
    RecordHeader { volume: [1; 8], copy: 0, position: 0, checkpoint: 1, generation: 2 };
const PAGE: PageHeader = PageHeader { volume: [1; 8], copy: 0, index: 0, generation: 1 };

/// All figures of the format.
pub(crate) fn figures(patience: Patience) -> Vec<Figure> {
    let entries: Vec<Entry> = scatter::entries(PAGE_ENTRIES as u64).collect();
    let mut page = vec![0; PAGE_SIZE];
    CheckpointPage::encode(&PAGE, &entries, &mut page);
    let mut rotten = page.clone();
    rotten[PAGE_SIZE - 1] ^= 1;
    let mut record = vec![0; PAGE_SIZE];
    let mut group = vec![0; Record::pages_for(GROUP) * PAGE_SIZE];
    let mut out = page.clone();
    let time = |name: &str, work: &mut dyn FnMut()| timed(name, None, patience, EACH, |_| work());
    vec![
        // Nothing of a page is looked at before its checksum is found wrong.
        time("checksum of a page", &mut || {
            black_box(CheckpointPage::decode(black_box(&rotten), &PAGE, BLOCK_SECTORS).is_ok());
        }),
        time("page of 84 entries, encode", &mut || {
            CheckpointPage::encode(&PAGE, black_box(&entries), &mut out);
        }),
        time("page of 84 entries, decode", &mut || {
            black_box(CheckpointPage::decode(black_box(&page), &PAGE, BLOCK_SECTORS).is_ok());
        }),
        time("record of 1 edit, encode", &mut || {
            Record::encode(&RECORD, black_box(&entries[..1]), &mut record);
        }),
        time("record of 1 edit, decode", &mut || {
            black_box(Record::decode(black_box(&record), &RECORD, BLOCK_SECTORS).is_ok());
        }),
        time("record of 64 edits, encode", &mut || {
            Record::encode(&RECORD, black_box(&entries[..GROUP]), &mut group);
        }),
        time("record of 64 edits, decode", &mut || {
            black_box(Record::decode(black_box(&group), &RECORD, BLOCK_SECTORS).is_ok());
        }),
    ]
}
