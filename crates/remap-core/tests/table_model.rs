//! The table and its view against the naive model: one map from block to what is said of it.
//!
//! Invariant: each property takes any list of edits; a list that breaks it is shrunk before it is shown. `PROPTEST_CASES` sets how many
//! lists are tried.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use remap_core::table::{LEAF_PIECES, RUN_BORDER, Table, TableCounts};
use remap_core::units::{Block, Slot};
use remap_core::view::Placement;
use remap_format::{Cause, Entry, EntryFlags, EntryState, NO_SLOT};

const BLOCK_SECTORS: u32 = 8;
const WHOLE: u128 = 0xff;
const TIME: u64 = 1_700_000_000;
/// A device, and the blocks of its pages: more than a leaf may hold pieces.
const DEVICE: u64 = 1 << 28;
const PAGE: u64 = 1 << 12;
/// Blocks of a page of a small device.
const SMALL_PAGE: u64 = 1 << 8;
/// Blocks of a region of the summary of a small device.
const REGION: u64 = 4;
/// The first slot that does not fit a piece.
const FAR: u64 = 1 << 39;

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
            1 => Just(Slot::new(0, FAR - 20 + block)),
            1 => Just(Slot::new(99, 5000 + block)),
            1 => Just(Slot::new(0, 9000 + block)),
            1 => Just(Slot::new(1, 5000 + block)),
            1 => (0..1000_u64).prop_map(|slot| Slot::new(2, slot)),
        ];
        let cause = prop_oneof![5 => Just(Cause::ReadError), 1 => Just(Cause::Manual)];
        let flags = prop_oneof![5 => Just(EntryFlags::default()), 1 => Just(EntryFlags::STALE)];
        let time = prop_oneof![5 => Just(TIME), 1 => Just(TIME + 1)];
        let errors = prop_oneof![5 => 0..4_u16, 1 => Just(u16::MAX)];
        (lost(state, count == 1), slot, cause, flags, time, errors).prop_map(
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
        && !b.block.is_multiple_of(RUN_BORDER)
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

/// A piece has no room for any slot; one that it has no room for is the owner's to tell.
fn fits(placement: Placement) -> bool {
    match placement {
        Placement::Settled(slot) => slot.spare() < 16 && slot.index() < FAR,
        _ => true,
    }
}

/// Walks a range as the fast lane does: each stretch is what the model says of each of its blocks.
fn compare_view(table: &Table, model: &Model, start: u64, end: u64) {
    let view = table.view();
    let mut block = start;
    while block < end {
        let stretch = view.first(Block(block), Block(end));
        assert!(stretch.blocks >= 1 && block + stretch.blocks <= end, "{stretch:?} at {block} of {end}");
        for offset in 0..stretch.blocks {
            let found = match stretch.placement {
                Placement::Settled(slot) => Placement::Settled(slot.offset(offset)),
                other => other,
            };
            let expected = placement(model, block + offset);
            let told = found == expected || (found == Placement::Slow && !fits(expected));
            assert!(told, "block {}: {found:?} for {expected:?}", block + offset);
        }
        block += stretch.blocks;
    }
}

/// Just the regions with entries are marked, and a stretch on the main device goes on to the next entry, wherever regions end.
fn compare_summary(table: &Table, model: &Model, blocks: u64) {
    let (marks, _, shift) = table.view().summary();
    assert_eq!(1 << shift, REGION);
    for start in (0..blocks).step_by(REGION as usize) {
        let region = start / REGION;
        let marked = marks[region as usize / 64].load(Ordering::Relaxed) >> (region % 64) & 1 != 0;
        assert_eq!(marked, model.range(start..start + REGION).next().is_some(), "the region at {start}");
        let next = model.range(start..).next().map_or(blocks, |(&block, _)| block);
        if start < next {
            let stretch = table.view().first(Block(start), Block(blocks));
            assert_eq!((stretch.placement, stretch.blocks), (Placement::Main, next - start), "at {start}");
        }
    }
}

/// The entries that the model has, each as long as it can be.
fn runs(model: &Model) -> Vec<Entry> {
    let mut runs: Vec<Entry> = Vec::new();
    let mut last: Option<Entry> = None;
    for entry in model.values() {
        match runs.last_mut() {
            Some(run) if last.is_some_and(|last| joined(&last, entry)) => run.count += 1,
            _ => runs.push(*entry),
        }
        last = Some(*entry);
    }
    runs
}

fn compare_all(table: &Table, model: &Model, blocks: u64) {
    assert_eq!(table.counts(), counts(model));
    let same = |(found, said): (Entry, &Entry)| Entry { errors: said.errors, ..found } == *said;
    let said = runs(model);
    assert_eq!(table.iter().count(), said.len());
    for (found, said) in table.iter().zip(&said) {
        assert!(same((found, said)), "{found:?} for {said:?}");
        assert!(found.count == 1 || found.lost == 0 || found.lost == WHOLE, "{found:?}");
        assert_eq!(Entry::decode(&found.encode(), BLOCK_SECTORS), Ok(found), "the format takes every entry");
        for block in [found.block, found.end() - 1] {
            assert_eq!(
                table.get(Block(block)).map(|e| e.errors),
                Some(found.errors),
                "all of it counts as many"
            );
        }
    }
    for block in 0..blocks {
        compare_block(table, model, block);
    }
    compare_view(table, model, 0, blocks);
}

fn empty(blocks: u64) -> (Table, Model) {
    (Table::create(blocks, BLOCK_SECTORS).expect("memory"), Model::new())
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

    /// The summary knows exactly which regions hold entries: readers pass all others without a look into the tree, also those from
    /// which everything was taken.
    #[test]
    fn regions_without_entries_are_passed(edits in vec(edit(90 * REGION, 2 * REGION), 1..25)) {
        let blocks = 200 * REGION;
        let (mut table, mut model) = empty(blocks);
        for edit in &edits {
            table.apply(edit).expect("memory");
            apply(&mut model, edit);
            compare_summary(&table, &model, blocks);
        }
        for run in runs(&model) {
            let gone = absent(run.block, run.count);
            table.apply(&gone).expect("memory");
            apply(&mut model, &gone);
            compare_summary(&table, &model, blocks);
        }
    }

    /// Runs over the borders of pages.
    #[test]
    fn runs_over_many_pages(edits in vec((edit(60 * SMALL_PAGE, 50 * SMALL_PAGE), 0..5_u64, 1..20 * SMALL_PAGE), 1..30)) {
        edits_and_look_ups(60 * SMALL_PAGE, &edits);
    }

    /// Pages with more pieces than a leaf holds, before any edits: every `step`-th block, pending with a mask of its own, or on a slot.
    #[test]
    fn pages_divide_and_empty_again(
        step in 2..4_u64,
        edits in vec((edit(DENSE, 3000), 0..50_u64, 1..400_u64), 1..40),
        order in any::<u64>(),
    ) {
        let (mut table, mut model) = empty(DEVICE);
        let all = scattered(step, order);
        for &block in &all {
            let one = if block % 5 == 0 { on_slot(block, 7 * block) } else { pending(block, 1 + u128::from(block % 7)) };
            table.apply(&one).expect("memory");
            apply(&mut model, &one);
        }
        assert_eq!(table.counts().entries, all.len() as u64);
        for (edit, before, len) in &edits {
            table.apply(edit).expect("memory");
            apply(&mut model, edit);
            let start = edit.block.saturating_sub(*before);
            compare_view(&table, &model, start, (start + len).min(DENSE));
        }
        compare_all(&table, &model, DENSE);
        for &block in all.iter().rev() {
            table.apply(&absent(block, 1)).expect("memory");
            apply(&mut model, &absent(block, 1));
        }
        compare_all(&table, &model, DENSE);
    }

    /// Memory taken for many edits at once serves them all, whatever they are: in pages that are nearly full, too, and where the first edits
    /// divide what the next ones find.
    #[test]
    fn prepared_edits_need_no_more(
        edits in vec(edit(DENSE, 3000), 1..40),
        step in 2..6_u64,
        order in any::<u64>(),
        share in 1..5_usize,
    ) {
        let (mut table, mut model) = empty(DEVICE);
        let all = scattered(step, order);
        for &block in all.iter().take(all.len() / share) {
            table.apply(&pending(block, 1)).expect("memory");
            apply(&mut model, &pending(block, 1));
        }
        table.prepare(&edits).expect("memory");
        for edit in &edits {
            table.apply_prepared(edit);
            apply(&mut model, edit);
        }
        compare_all(&table, &model, DENSE);
    }

    /// Of devices of any size: edits around the borders of all that there is.
    #[test]
    fn borders_of_large_devices(
        bits in select(vec![30_u32, 32, 33, 38, 45, 54]),
        edits in vec(edit(AROUND * BORDERS.len() as u64, 40), 1..60),
    ) {
        let blocks = 1 << bits;
        let (mut table, mut model) = empty(blocks);
        for edit in &edits {
            let Some(edit) = at_border(edit, blocks) else { continue };
            table.apply(&edit).expect("memory");
            apply(&mut model, &edit);
            assert_eq!(table.counts(), counts(&model), "{edit:?}");
        }
        assert!(table.iter().map(|e| e.block).eq(runs(&model).iter().map(|e| e.block)));
        for &border in BORDERS.iter().filter(|&&border| border < blocks) {
            let (start, end) = (border.saturating_sub(AROUND), (border + AROUND).min(blocks));
            compare_view(&table, &model, start, end);
            for block in start..end {
                compare_block(&table, &model, block);
            }
        }
        for block in model.keys() {
            table.apply(&absent(*block, 1)).expect("memory");
        }
        assert_eq!((table.counts(), table.iter().next()), (TableCounts::default(), None));
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

/// Blocks of three pages.
const DENSE: u64 = 3 * PAGE;

/// Borders of leaves, pages, directories and runs, on devices of several sizes.
const BORDERS: [u64; 7] = [1 << 10, 1 << 16, 1 << 20, 1 << 31, 1 << 32, 1 << 44, (1 << 54) - 64];
/// Blocks on each side of a border.
const AROUND: u64 = 64;

/// The edit where one of the borders is, if the device has it.
fn at_border(edit: &Entry, blocks: u64) -> Option<Entry> {
    let border = BORDERS[(edit.block / AROUND) as usize];
    let block = border - AROUND / 2 + edit.block % AROUND;
    Some(Entry { block, ..*edit }).filter(|edit| edit.end() <= blocks)
}

/// Every `step`-th block of the three pages, in some order.
fn scattered(step: u64, order: u64) -> Vec<u64> {
    let mut all: Vec<u64> = (0..DENSE / step).map(|n| n * step).collect();
    all.sort_by_key(|n| (n + 1).wrapping_mul(order | 1).rotate_left(17));
    all
}

fn absent(block: u64, count: u32) -> Entry {
    Entry { count, state: EntryState::Absent, lost: 0, cause: Cause::Manual, ..pending(block, 0) }
}

fn on_slot(block: u64, slot: u64) -> Entry {
    Entry { slot, lost: 0, state: EntryState::Remapped, ..pending(block, 0) }
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
    for region in [1, 63, 64, 65, 127, 128, 4160] {
        let (mut table, mut model) = empty(1 << 22);
        table.apply(&pending(region * REGION, 1)).expect("memory");
        apply(&mut model, &pending(region * REGION, 1));
        for start in [0, 1, region / 2, region - 1].map(|region| region * REGION) {
            compare_view(&table, &model, start, (region + 2) * REGION);
        }
        for start in [region + 1, region + 64, 6000].map(|region| region * REGION) {
            compare_view(&table, &model, start, 1 << 22);
        }
    }
}

/// At the borders of regions: what is left on one side of a border marks its own region, not the one that was emptied.
#[test]
fn entries_at_the_borders_of_regions() {
    let blocks = 100 * REGION;
    let beside = [3 * REGION - 1, 3 * REGION, 4 * REGION - 1, 4 * REGION];
    for gone in beside {
        let (mut table, mut model) = empty(blocks);
        for block in beside {
            table.apply(&pending(block, 1)).expect("memory");
            apply(&mut model, &pending(block, 1));
        }
        for gone in [absent(gone, 1), absent(3 * REGION, REGION as u32), absent(0, 9 * REGION as u32)] {
            table.apply(&gone).expect("memory");
            apply(&mut model, &gone);
            compare_summary(&table, &model, blocks);
            compare_view(&table, &model, 0, 9 * REGION);
        }
    }
}

/// Edits that divide a page each, after memory was taken for all of them at once.
#[test]
fn as_many_divisions_as_edits() {
    const PAGES: u64 = 16;
    let blocks = PAGES * PAGE;
    let (mut table, mut model) = empty(DEVICE);
    let full = LEAF_PIECES as u64 - 2;
    for block in (0..PAGES).flat_map(|page| (0..full).map(move |n| page * PAGE + 4 * n)) {
        table.apply(&pending(block, 1)).expect("memory");
        apply(&mut model, &pending(block, 1));
    }
    // Two of each page: the first fills it, the second divides it.
    let edits: Vec<Entry> = (0..2 * PAGES).map(|n| pending(n / 2 * PAGE + 4 * (n % 2) + 2, 1)).collect();
    table.prepare(&edits).expect("memory");
    for edit in &edits {
        table.apply_prepared(edit);
        apply(&mut model, edit);
    }
    compare_all(&table, &model, blocks);
}

/// The longest runs there are, on a device that is larger than any: cut, joined again, and gone.
#[test]
fn the_longest_runs_of_a_giant_device() {
    let blocks = 1 << 54;
    let mut table = Table::create(blocks, 1).expect("memory");
    let begin = (1 << 40) - 5;
    let all = Entry { count: u32::MAX, ..on_slot(begin, 3) };
    table.apply(&all).expect("memory");
    let borders = [begin, 1 << 40, (1 << 40) + RUN_BORDER, begin + u64::from(u32::MAX)];
    let said = borders.windows(2).map(|b| Entry {
        block: b[0],
        count: (b[1] - b[0]) as u32,
        slot: 3 + (b[0] - begin),
        ..all
    });
    let said: Vec<Entry> = said.collect();
    assert!(table.iter().eq(said.iter().copied()), "{:?}", table.iter().collect::<Vec<_>>());
    assert_eq!((table.counts().entries, table.counts().remapped_blocks), (3, u64::from(u32::MAX)));
    let middle = (1 << 40) + 12_345;
    assert_eq!(table.next_from(Block(middle)), Some(said[1]));
    table.apply(&absent(middle, 1)).expect("memory");
    assert_eq!((table.counts().entries, table.get(Block(middle))), (4, None));
    let again = on_slot(middle, 3 + (middle - begin));
    table.apply(&Entry { errors: 7, ..again }).expect("memory");
    assert_eq!(table.next_from(Block(1 << 40)), Some(Entry { errors: 7, ..said[1] }));
    table.apply(&absent(0, u32::MAX)).expect("memory");
    assert_eq!(table.counts().entries, 3);
    table.apply(&absent(begin, u32::MAX)).expect("memory");
    assert_eq!((table.counts(), table.iter().next()), (TableCounts::default(), None));
}

/// What was given up is used again: a table that changes for ever does not grow for ever.
#[test]
fn arrays_are_used_again() {
    let (mut table, mut model) = empty(DENSE);
    for round in 0..40 {
        for block in scattered(3, 2 * round + 1) {
            let one = if block % 2 == 0 { pending(block, 3) } else { on_slot(block, 9 * block) };
            table.apply(&one).expect("memory");
            apply(&mut model, &one);
        }
        compare_view(&table, &model, 0, DENSE);
        assert!(table.bytes() <= 6 * (64 << 10), "{} bytes in round {round}", table.bytes());
        assert!(table.bytes() >= 16 * table.counts().entries, "each entry has its unit");
        for block in scattered(3, 4 * round + 3) {
            table.apply(&absent(block, 1)).expect("memory");
            apply(&mut model, &absent(block, 1));
        }
        assert_eq!(table.counts(), TableCounts::default());
    }
}

/// What preparing takes for a batch of the kind that the engine makes.
#[test]
fn preparing_takes_little() {
    let blocks = 2_500_000_000;
    let mut table = Table::create(blocks, BLOCK_SECTORS).expect("memory");
    let before = table.bytes();
    let edits: Vec<Entry> = (0..64).map(|n| on_slot(n * 39_000_001, n)).collect();
    table.prepare(&edits).expect("memory");
    assert!(table.bytes() - before <= 2 << 20, "{} bytes", table.bytes() - before);
    // As many in one page that is nearly full: each may be the one that divides it.
    for n in 0..LEAF_PIECES as u64 - 2 {
        table.apply(&pending(60 * n, 1)).expect("memory");
    }
    let before = table.bytes();
    let edits: Vec<Entry> = (0..64).map(|n| pending(60 * n + 1, 3)).collect();
    table.prepare(&edits).expect("memory");
    assert!(table.bytes() - before <= 64 * (36 << 10), "{} bytes", table.bytes() - before);
    edits.iter().for_each(|edit| table.apply_prepared(edit));
}
