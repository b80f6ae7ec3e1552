//! The table and its view against the naive model: one map from block to what is said of it.
//!
//! Invariant: each property takes any list of edits; a list that breaks it is shrunk before it is shown. `PROPTEST_CASES` sets how many
//! lists are tried.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use remap_core::table::{LEAF_ENTRIES, Table, TableCounts};
use remap_core::units::{Block, Slot};
use remap_core::view::Placement;
use remap_format::{Cause, Entry, EntryFlags, EntryState, NO_SLOT};

const BLOCK_SECTORS: u32 = 8;
const WHOLE: u128 = 0xff;
const TIME: u64 = 1_700_000_000;

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

/// Masks that an entry of this state and length may have: only a single block is lost in part.
fn lost(state: EntryState, single: bool) -> BoxedStrategy<u128> {
    match (state, single) {
        (EntryState::Absent, _) => Just(0).boxed(),
        (EntryState::Pending, true) => (1..=WHOLE).boxed(),
        (EntryState::Pending, false) => Just(WHOLE).boxed(),
        (_, true) => prop_oneof![3 => Just(0), 1 => 1..=WHOLE].boxed(),
        (_, false) => prop_oneof![3 => Just(0), 1 => Just(WHOLE)].boxed(),
    }
}

/// Any edit of a device of `blocks` blocks, up to `longest` of them. Slots often follow the blocks, so that runs meet and merge.
fn edit(blocks: u64, longest: u64) -> impl Strategy<Value = Entry> {
    let states = prop_oneof![
        2 => Just(EntryState::Absent),
        2 => Just(EntryState::Pending),
        4 => Just(EntryState::Remapped),
    ];
    let count = prop_oneof![2 => Just(1), 1 => 1..=longest];
    (0..blocks, count, states).prop_flat_map(move |(block, count, state)| {
        let count = count.min(blocks - block);
        let slot = prop_oneof![
            6 => Just(Slot::new(0, 5000 + block)),
            1 => Just(Slot::new(0, 9000 + block)),
            1 => Just(Slot::new(1, 5000 + block)),
            1 => (0..1000_u64).prop_map(|slot| Slot::new(2, slot)),
        ];
        let cause = prop_oneof![5 => Just(Cause::ReadError), 1 => Just(Cause::Manual)];
        let flags = prop_oneof![5 => Just(EntryFlags::default()), 1 => Just(EntryFlags::STALE)];
        let time = prop_oneof![5 => Just(TIME), 1 => Just(TIME + 1)];
        (lost(state, count == 1), slot, cause, flags, time, 0..4_u16).prop_map(
            move |(lost, slot, cause, flags, time, errors)| {
                let present = state != EntryState::Absent;
                Entry {
                    block,
                    count: u32::try_from(count).expect("short runs"),
                    slot: if state == EntryState::Remapped { slot.0 } else { NO_SLOT },
                    lost,
                    state,
                    cause: if present { cause } else { Cause::Manual },
                    flags: if present && lost != 0 { flags } else { EntryFlags::default() },
                    errors: if present { errors } else { 0 },
                    time,
                }
            },
        )
    })
}

/// Could `b` be one entry with its left neighbour `a`?
fn joined(a: &Entry, b: &Entry) -> bool {
    let follows = match a.state {
        EntryState::Remapped => a.slot + 1 == b.slot,
        _ => true,
    };
    a.block + 1 == b.block
        && (a.state, a.cause, a.lost, a.flags, a.time) == (b.state, b.cause, b.lost, b.flags, b.time)
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

/// A run counts the errors of its worst block, so a block of it may show more than were said of it, never fewer.
fn compare_block(table: &Table, model: &Model, block: u64) {
    let (found, said) = (table.get(Block(block)), model.get(&block).copied());
    let errors = |entry: Option<Entry>| entry.map_or(0, |e| e.errors);
    assert!(errors(found) >= errors(said), "block {block}: {found:?} for {said:?}");
    assert_eq!(found.map(|e| Entry { errors: errors(said), ..e }), said, "block {block}");
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

fn empty(blocks: u64) -> (Table, Model) {
    (Table::create(blocks).expect("memory").with_block_sectors(BLOCK_SECTORS), Model::new())
}

/// After every edit: the totals, and what lies in and around the edited blocks, looked up as ranges of any length.
fn edits_and_look_ups(blocks: u64, edits: &[(Entry, u64, u64)]) {
    let (mut table, mut model) = empty(blocks);
    for (edit, before, len) in edits {
        table.apply(edit).expect("memory");
        apply(&mut model, edit);
        assert_eq!(table.counts(), counts(&model), "{edit:?}");
        let start = edit.block.saturating_sub(*before);
        compare_view(&table, &model, start, (start + len).min(blocks));
        for block in [start, edit.block, edit.end() - 1, edit.end()] {
            compare_block(&table, &model, block.min(blocks - 1));
        }
    }
    compare_all(&table, &model, blocks);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Few blocks, so that edits meet: merged, cut, cut out of the middle, covered.
    #[test]
    fn a_small_table_that_merges_and_cuts(edits in vec((edit(70, 40), 0..5_u64, 1..70_u64), 1..120)) {
        edits_and_look_ups(70, &edits);
    }

    /// Several regions of the summary, most of them empty at some time.
    #[test]
    fn a_table_over_many_regions(edits in vec((edit(5000, 1500), 0..700_u64, 1..2000_u64), 1..60)) {
        edits_and_look_ups(5000, &edits);
    }

    /// More entries than a leaf holds, before any edits: every `step`-th block, pending with a mask of its own.
    #[test]
    fn leaves_split_and_empty_again(
        step in 2..4_u64,
        edits in vec((edit(6 * LEAF_ENTRIES as u64, 300), 0..50_u64, 1..400_u64), 1..40),
        order in any::<u64>(),
    ) {
        let blocks = 6 * LEAF_ENTRIES as u64;
        let (mut table, mut model) = empty(blocks);
        let mut all: Vec<u64> = (0..blocks / step).map(|n| n * step).collect();
        all.sort_by_key(|n| (n + 1).wrapping_mul(order | 1).rotate_left(17));
        for &block in &all {
            let masked = pending(block, 1 + u128::from(block % 7));
            table.apply(&masked).expect("memory");
            apply(&mut model, &masked);
        }
        assert_eq!(table.counts().entries, blocks / step);
        for (edit, before, len) in &edits {
            table.apply(edit).expect("memory");
            apply(&mut model, edit);
            let start = edit.block.saturating_sub(*before);
            compare_view(&table, &model, start, (start + len).min(blocks));
        }
        compare_all(&table, &model, blocks);
        for &block in all.iter().rev() {
            let gone = Entry { state: EntryState::Absent, lost: 0, cause: Cause::Manual, ..pending(block, 0) };
            table.apply(&gone).expect("memory");
            apply(&mut model, &gone);
        }
        compare_all(&table, &model, blocks);
    }

    /// Memory taken for many edits at once serves them all, whatever they are.
    #[test]
    fn prepared_edits_need_no_more(edits in vec(edit(700, 300), 1..40), first in vec(edit(700, 1), 0..300)) {
        let (mut table, mut model) = empty(700);
        for edit in &first {
            table.apply(edit).expect("memory");
            apply(&mut model, edit);
        }
        table.prepare(edits.len()).expect("memory");
        for edit in &edits {
            table.apply_prepared(edit);
            apply(&mut model, edit);
        }
        compare_all(&table, &model, 700);
    }

    /// One edit over all that is there leaves the two ends and itself.
    #[test]
    fn one_edit_over_everything(edits in vec(edit(900, 30), 1..300), state in select(vec![EntryState::Absent, EntryState::Remapped])) {
        let (mut table, mut model) = empty(900);
        for edit in &edits {
            table.apply(edit).expect("memory");
            apply(&mut model, edit);
        }
        let slot = if state == EntryState::Remapped { Slot::new(3, 0).0 } else { NO_SLOT };
        let all = Entry { count: 898, slot, state, lost: 0, cause: Cause::Manual, ..pending(1, 0) };
        table.apply(&all).expect("memory");
        apply(&mut model, &all);
        compare_all(&table, &model, 900);
        prop_assert!(table.counts().entries <= 3);
    }
}

fn pending(block: u64, lost: u128) -> Entry {
    Entry {
        block,
        count: 1,
        slot: NO_SLOT,
        lost,
        state: EntryState::Pending,
        cause: Cause::ReadError,
        flags: EntryFlags::default(),
        errors: 0,
        time: TIME,
    }
}

/// Of a device so large that its regions grow, every block is found where it is.
#[test]
fn a_table_of_a_large_device() {
    for blocks in [(1 << 32) - 1, 1 << 32, (1 << 32) + 1, 1 << 40] {
        let (mut table, mut model) = empty(blocks);
        for block in [0, 511, 512, 1 << 20, (1 << 31) + 7, blocks - 2, blocks - 1] {
            table.apply(&pending(block, 1)).expect("memory");
            apply(&mut model, &pending(block, 1));
        }
        compare_view(&table, &model, 500, 520);
        let view = table.view();
        let stretches =
            [(1, 511), (513, 1 << 20), ((1 << 20) + 1, (1 << 31) + 7), ((1 << 31) + 8, blocks - 2)];
        for (first, end) in stretches {
            let mut block = first;
            // A region at a time may be looked at as a whole, never a block that is not there.
            while block < end {
                let stretch = view.first(Block(block), Block(blocks));
                assert_eq!(stretch.placement, Placement::Main, "{block} of {blocks}");
                block += stretch.blocks;
            }
            assert_eq!(block, end);
            assert_eq!(view.first(Block(end), Block(blocks)).placement, Placement::Slow);
        }
    }
}

/// Stretches without an entry are found region by region; none is skipped, and the search ends.
#[test]
fn one_entry_in_any_region() {
    const REGION: u64 = 512;
    for region in [1, 63, 64, 65, 127, 128, 4160] {
        let (mut table, mut model) = empty(1 << 22);
        table.apply(&pending(region * REGION, 1)).expect("memory");
        apply(&mut model, &pending(region * REGION, 1));
        for start in [0, 1, region / 2, region - 1].map(|region| region * REGION) {
            compare_view(&table, &model, start, (region + 2) * REGION);
        }
        for start in [region + 1, region + 64, 6000].map(|region| region * REGION) {
            assert_eq!(table.view().first(Block(start), Block(1 << 22)).blocks, (1 << 22) - start);
        }
    }
}

/// Edits that split a leaf each, after memory was taken for all of them at once.
#[test]
fn as_many_splits_as_edits() {
    let blocks = 64 * LEAF_ENTRIES as u64;
    let (mut table, mut model) = empty(blocks);
    // In order, which leaves half of each leaf free; then into the gaps, which fills them.
    for block in (0..blocks / 4).map(|n| 4 * n).chain((0..blocks / 4).map(|n| 4 * n + 1)) {
        table.apply(&pending(block, 1)).expect("memory");
        apply(&mut model, &pending(block, 1));
    }
    let edits: Vec<Entry> = (0..32).map(|n| pending(n * blocks / 32 + 2, 1)).collect();
    table.prepare(edits.len()).expect("memory");
    for edit in &edits {
        table.apply_prepared(edit);
        apply(&mut model, edit);
    }
    compare_all(&table, &model, blocks);
}
