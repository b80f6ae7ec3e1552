//! The table and its view against the naive model: one map from block to what is said of it.

use std::collections::BTreeMap;

use remap_core::table::{LEAF_ENTRIES, Table, TableCounts};
use remap_core::units::{Block, Slot};
use remap_core::view::Placement;
use remap_format::{Cause, Entry, EntryFlags, EntryState, NO_SLOT};

const BLOCK_SECTORS: u32 = 8;
const WHOLE: u128 = 0xff;

/// SplitMix64.
struct Rng(u64);

impl Rng {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit
    }
}

/// What is said of one block.
type Model = BTreeMap<u64, Entry>;

fn single(edit: &Entry, block: u64) -> Entry {
    let slot = if edit.state == EntryState::Remapped { edit.slot + (block - edit.block) } else { NO_SLOT };
    Entry { block, count: 1, slot, ..*edit }
}

fn apply(model: &mut Model, edit: &Entry) {
    for block in edit.block..edit.end() {
        if edit.state == EntryState::Absent {
            model.remove(&block);
        } else {
            model.insert(block, single(edit, block));
        }
    }
}

fn any_edit(rng: &mut Rng, blocks: u64) -> Entry {
    let block = rng.below(blocks);
    let count = if rng.below(3) == 0 { 1 + rng.below(40) } else { 1 }.min(blocks - block);
    let (state, lost) = match rng.below(8) {
        0 | 1 => (EntryState::Absent, 0),
        2 if count == 1 => (EntryState::Pending, 1 + u128::from(rng.below(255))),
        2 | 3 => (EntryState::Pending, WHOLE),
        4 if count == 1 => (EntryState::Remapped, 1 + u128::from(rng.below(255))),
        _ => (EntryState::Remapped, 0),
    };
    // Slots often follow the blocks, so that runs meet and merge.
    let slot = match state {
        EntryState::Remapped if rng.below(4) == 0 => Slot::new(1, block + rng.below(1000)).0,
        EntryState::Remapped => Slot::new(0, 5000 + block).0,
        _ => NO_SLOT,
    };
    let cause = if rng.below(6) == 0 { Cause::Manual } else { Cause::ReadError };
    Entry {
        block,
        count: u32::try_from(count).expect("short runs"),
        slot,
        lost,
        state,
        cause,
        flags: EntryFlags::default(),
        errors: 0,
        time: 1_700_000_000,
    }
}

/// Could `b` be one entry with its left neighbour `a`?
fn joined(a: &Entry, b: &Entry) -> bool {
    let follows = match a.state {
        EntryState::Remapped => a.slot + 1 == b.slot,
        _ => true,
    };
    a.block + 1 == b.block
        && (a.state, a.cause, a.lost) == (b.state, b.cause, b.lost)
        && (a.lost == 0 || a.lost == WHOLE)
        && follows
}

fn counts(model: &Model) -> TableCounts {
    let of = |state| model.values().filter(|e| e.state == state).count() as u64;
    let starts = model.values().filter(|e| {
        let before = e.block.checked_sub(1).and_then(|b| model.get(&b));
        before.is_none_or(|before| !joined(before, e))
    });
    TableCounts {
        entries: starts.count() as u64,
        remapped_blocks: of(EntryState::Remapped),
        pending_blocks: of(EntryState::Pending),
        lost_sectors: model.values().map(|e| u64::from(e.lost.count_ones())).sum(),
    }
}

fn placement(model: &Model, block: u64) -> Placement {
    match model.get(&block) {
        None => Placement::Main,
        Some(e) if e.state == EntryState::Remapped && e.lost == 0 => Placement::Settled(Slot(e.slot)),
        Some(_) => Placement::Slow,
    }
}

fn compare_block(table: &Table, model: &Model, block: u64) {
    assert_eq!(table.get(Block(block)), model.get(&block).copied(), "block {block}");
    let next = table.next_from(Block(block)).map(|e| e.block.max(block));
    assert_eq!(next, model.range(block..).next().map(|(&b, _)| b), "next from {block}");
}

/// Walks a range as the fast lane does: each stretch is what the model says of each of its blocks.
fn compare_view(table: &Table, model: &Model, start: u64, end: u64) {
    let view = table.view();
    let mut block = start;
    while block < end {
        let stretch = view.first(Block(block), Block(end));
        assert!(stretch.blocks >= 1 && block + stretch.blocks <= end, "{stretch:?} at {block} of {end}");
        for offset in 0..stretch.blocks {
            let expected = match stretch.placement {
                Placement::Settled(slot) => Placement::Settled(slot.offset(offset)),
                other => other,
            };
            assert_eq!(placement(model, block + offset), expected, "block {}", block + offset);
        }
        block += stretch.blocks;
    }
}

fn compare_all(table: &Table, model: &Model, blocks: u64) {
    assert_eq!(table.counts(), counts(model));
    let mut last_end = 0;
    for entry in table.iter() {
        assert!(entry.block >= last_end && entry.count >= 1, "sorted, never overlapping: {entry:?}");
        assert!(entry.count == 1 || entry.lost == 0 || entry.lost == WHOLE, "{entry:?}");
        assert_eq!(Entry::decode(&entry.encode(), BLOCK_SECTORS), Ok(*entry), "the format takes every entry");
        last_end = entry.end();
    }
    for block in 0..blocks {
        compare_block(table, model, block);
    }
    compare_view(table, model, 0, blocks);
}

fn random_edits(seed: u64, blocks: u64, edits: u64) {
    let mut rng = Rng(seed);
    let mut table = Table::create(blocks).expect("memory").with_block_sectors(BLOCK_SECTORS);
    let mut model = Model::new();
    for n in 0..edits {
        let edit = any_edit(&mut rng, blocks);
        table.apply(&edit).expect("memory");
        apply(&mut model, &edit);
        assert_eq!(table.counts(), counts(&model), "edit {n}: {edit:?}");
        for _ in 0..4 {
            compare_block(&table, &model, rng.below(blocks));
        }
        let start = rng.below(blocks);
        compare_view(&table, &model, start, (start + 1 + rng.below(200)).min(blocks));
        if n % 64 == 0 {
            compare_all(&table, &model, blocks);
        }
    }
    compare_all(&table, &model, blocks);
}

#[test]
fn a_small_table_that_merges_and_cuts() {
    for seed in 0..40 {
        random_edits(seed, 70, 400);
    }
}

#[test]
fn a_table_over_many_regions() {
    for seed in 0..3 {
        random_edits(seed, 3000, 1500);
    }
}

#[test]
fn leaves_split_and_empty_again() {
    let blocks = 40 * LEAF_ENTRIES as u64;
    let mut table = Table::create(blocks).expect("memory").with_block_sectors(BLOCK_SECTORS);
    let mut model = Model::new();
    let mut rng = Rng(9);
    // Every other block: nothing merges, so leaves must split; then all go in any order.
    let mut order: Vec<u64> = (0..blocks / 2).map(|n| 2 * n).collect();
    for i in (1..order.len()).rev() {
        order.swap(i, usize::try_from(rng.below(i as u64 + 1)).expect("small"));
    }
    for &block in &order {
        let edit = Entry { block, count: 1, ..any_edit(&mut rng, 1) };
        let edit =
            Entry { state: EntryState::Pending, slot: NO_SLOT, lost: 1 + u128::from(block % 7), ..edit };
        table.apply(&edit).expect("memory");
        apply(&mut model, &edit);
    }
    compare_all(&table, &model, blocks);
    assert_eq!(table.counts().entries, blocks / 2);
    let some =
        Entry { block: 0, count: 1, state: EntryState::Absent, slot: NO_SLOT, ..any_edit(&mut rng, 1) };
    for (n, &block) in order.iter().enumerate() {
        let edit = Entry { block, lost: 0, ..some };
        table.apply(&edit).expect("memory");
        apply(&mut model, &edit);
        if n % 500 == 0 {
            compare_all(&table, &model, blocks);
        }
    }
    assert_eq!(table.counts(), TableCounts::default());
    compare_view(&table, &model, 0, blocks);
}

#[test]
fn one_edit_over_everything() {
    let blocks = 4000;
    let mut rng = Rng(3);
    let mut table = Table::create(blocks).expect("memory").with_block_sectors(BLOCK_SECTORS);
    let mut model = Model::new();
    for _ in 0..2000 {
        let edit = any_edit(&mut rng, blocks);
        table.apply(&edit).expect("memory");
        apply(&mut model, &edit);
    }
    let all = Entry {
        block: 1,
        count: 3998,
        slot: Slot::new(2, 0).0,
        lost: 0,
        state: EntryState::Remapped,
        ..any_edit(&mut rng, 1)
    };
    table.apply(&all).expect("memory");
    apply(&mut model, &all);
    compare_all(&table, &model, blocks);
    assert!(table.counts().entries <= 3);
}
