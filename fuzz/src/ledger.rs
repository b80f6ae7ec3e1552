//! A plain second opinion on what a journal means: records laid out on five copies, and the table that must come of them.
//!
//! Invariant: nothing here knows how recovery reads; it follows `docs/format.md` and the recovery's own promises: a record counts
//! if any copy has it whole, two whole ones must agree, none may be missing before another.

use std::collections::BTreeMap;

use remap_core::recovery::{Flaw, Recovered, main_blocks};
use remap_core::units::Slot;
use remap_format::layout::kept_slots;
use remap_format::{Entry, EntryState, PAGE_SIZE, Record, RecordHeader};

/// What an entry says about one block: slot (if remapped), lost mask, flags.
type Fate = (Option<u64>, u128, u16);

/// A table, block by block.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    blocks: BTreeMap<u64, Fate>,
    /// Slots that went bad, as often as they were named.
    retired: Vec<u64>,
}

impl Ledger {
    /// What recovery believes.
    pub fn of(recovered: &Recovered) -> Self {
        let mut ledger = Self::default();
        for entry in recovered.table.iter().chain(recovered.pool.retired().iter().copied()) {
            ledger.apply(&entry);
        }
        ledger.retired.sort_unstable();
        ledger
    }

    /// One edit.
    pub fn apply(&mut self, edit: &Entry) {
        for n in 0..u64::from(edit.count) {
            match edit.state {
                EntryState::Retired => self.retired.push(edit.slot + n),
                EntryState::Absent => drop(self.blocks.remove(&(edit.block + n))),
                EntryState::Pending => {
                    self.blocks.insert(edit.block + n, (None, edit.lost, edit.flags.0));
                }
                EntryState::Remapped => {
                    self.blocks.insert(edit.block + n, (Some(edit.slot + n), edit.lost, edit.flags.0));
                }
            }
        }
        self.retired.sort_unstable();
    }

    /// Could a volume hold this: every block on the main device, every slot on a spare, not under metadata, named once?
    pub fn is_possible(&self, volume: &Recovered) -> bool {
        let superblock = &volume.superblock;
        let block_size = u64::from(superblock.block_size());
        let mut slots: Vec<u64> = self.blocks.values().filter_map(|fate| fate.0).collect();
        slots.extend(&self.retired);
        slots.sort_unstable();
        let free = |slot: &u64| {
            let slot = Slot(*slot);
            let Some(spare) = superblock.spares.get(usize::from(slot.spare())) else { return false };
            let kept = kept_slots(spare, block_size);
            slot.index() < spare.slots
                && !kept.iter().any(|&(first, end)| (first..end).contains(&slot.index()))
        };
        slots.windows(2).all(|pair| pair[0] != pair[1])
            && slots.iter().all(free)
            && self.blocks.keys().all(|&block| block < main_blocks(superblock))
    }
}

/// A record that was meant to be written, and where.
pub struct Planned {
    /// Edits of each copy (all the same, unless the input lies).
    pub edits: Vec<Entry>,
    /// Its headers, by copy.
    pub headers: Vec<RecordHeader>,
}

/// What replaying must end with.
#[derive(Debug, PartialEq, Eq)]
pub enum Expected {
    /// This table, of this generation.
    Table(Box<Ledger>, u64),
    /// A refusal: two copies say different things about a generation.
    Contradiction,
    /// A refusal: a record is missing, and later ones are not, or it is where no copy can be read.
    Hole,
    /// A refusal: the table that comes out cannot be.
    Impossible,
}

/// The whole records that copies hold where `record` belongs: their edits.
fn whole<'r>(
    record: &'r Planned,
    block_sectors: u32,
    read: &'r impl Fn(usize, u32) -> Option<Vec<u8>>,
) -> impl Iterator<Item = Vec<Entry>> + 'r {
    record.headers.iter().enumerate().filter_map(move |(copy, header)| {
        let bytes = read(copy, header.position)?;
        Record::decode(&bytes, header, block_sectors).ok().map(|found| found.edits)
    })
}

/// Can the place of this record be read in no copy, so that it may be there? (Not where a copy shows that a crash cut the checkpoint
/// short.)
fn is_hidden(before: &Recovered, record: &Planned, read: &impl Fn(usize, u32) -> Option<Vec<u8>>) -> bool {
    let behind = before.copies.iter().any(|copy| matches!(copy.flaw, Some((Flaw::Stale, _))));
    let mut headers = record.headers.iter().enumerate();
    headers.all(|(copy, header)| read(copy, header.position).is_none() && !(behind && header.position == 0))
}

/// Follows the journal. `read` gives a copy's journal from a page on, `None` if that page cannot be read.
pub fn expect(
    before: &Recovered,
    records: &[Planned],
    read: &impl Fn(usize, u32) -> Option<Vec<u8>>,
) -> Expected {
    let block_sectors = before.superblock.block_sectors();
    let mut ledger = Ledger::of(before);
    let mut generation = before.generation;
    // What was ever behind the device's end is refused, whatever came of it.
    let end = main_blocks(&before.superblock);
    let behind = |e: &Entry| matches!(e.state, EntryState::Pending | EntryState::Remapped) && e.end() > end;
    let mut possible = true;
    let mut left = records.iter();
    for record in left.by_ref() {
        let mut found = whole(record, block_sectors, read);
        let Some(first) = found.next() else {
            let later = left.any(|later| whole(later, block_sectors, read).next().is_some());
            if later || is_hidden(before, record, read) {
                return Expected::Hole;
            }
            break;
        };
        if found.any(|other| other != first) {
            return Expected::Contradiction;
        }
        possible &= !first.iter().any(behind);
        first.iter().for_each(|edit| ledger.apply(edit));
        generation = generation.wrapping_add(1);
    }
    if possible && ledger.is_possible(before) {
        Expected::Table(Box::new(ledger), generation)
    } else {
        Expected::Impossible
    }
}

/// Bytes of a record of these edits.
pub fn encoded(header: &RecordHeader, edits: &[Entry]) -> Vec<u8> {
    let mut bytes = vec![0; Record::pages_for(edits.len()) * PAGE_SIZE];
    Record::encode(header, edits, &mut bytes);
    bytes
}
