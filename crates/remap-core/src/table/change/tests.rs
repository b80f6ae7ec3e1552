//! The invariants of the tree, looked at from inside: every unit is in one place, no leaf is larger or fuller than it may be, nothing that is
//! empty is kept. And what is reserved for an edit, to the unit.

use alloc::collections::BTreeMap;

use remap_format::{Cause, EntryFlags, NO_SLOT};

use super::super::store::tests::{check as check_units, promised};
use super::super::{RUN_BORDER, Table};
use super::*;
use crate::units::{Block, Slot};

const BLOCK_SECTORS: u32 = 8;
const WHOLE: u128 = 0xff;
/// Blocks of the largest and of the smallest leaf.
const LEAF: u64 = 1 << LEAF_BITS;
const SMALL: u64 = 1 << SMALL_BITS;
/// A device with pages of 4096 blocks, one whose pages are the largest leaves, and one with three directories above them.
const SMALL_PAGES: u64 = 1 << 28;
const PAGES_OF_LEAVES: u64 = 1 << 32;
const GIANT: u64 = 1 << 50;

fn pending(block: u64, count: u64, lost: u128) -> Entry {
    Entry {
        block,
        count: count as u32,
        slot: NO_SLOT,
        lost,
        state: EntryState::Pending,
        cause: Cause::ReadError,
        flags: EntryFlags::default(),
        errors: 0,
        time: 1_700_000_000,
    }
}

fn on_slot(block: u64, count: u64, slot: u64) -> Entry {
    Entry { slot, lost: 0, state: EntryState::Remapped, ..pending(block, count, 0) }
}

fn absent(block: u64, count: u64) -> Entry {
    Entry { state: EntryState::Absent, ..pending(block, count, 0) }
}

fn empty(blocks: u64) -> Table {
    Table::create(blocks, BLOCK_SECTORS).expect("memory")
}

/// What is below a node: pieces in all, and its units by the first of each array.
fn below(table: &Table, node: Node, begin: u64, taken: &mut BTreeMap<u32, u32>) -> usize {
    let pages = table.view.pages();
    if node.header.is_directory() {
        let inner = inside(node.bits).expect("not the smallest");
        assert_eq!(taken.insert(node.header.at(), directory_units(node.bits - inner)), None);
        let children = (0..1 << (node.bits - inner)).map(|child: u64| {
            let from = begin + (child << inner);
            below(table, pages.child(node, from, inner).expect("all of it"), from, taken)
        });
        let held = children.sum();
        assert!(held > 0, "a directory with nothing in it at {begin}");
        return held;
    }
    let pieces = pages.units.pieces(node.header);
    assert_eq!(pieces.is_empty(), node.header.is_empty());
    if pieces.is_empty() {
        return 0;
    }
    assert!(node.bits <= LEAF_BITS && pieces.len() <= LEAF_PIECES, "{} pieces at {begin}", pieces.len());
    assert_eq!(taken.insert(node.header.at(), node.header.room()), None);
    let mut before: Option<Entry> = None;
    for unit in pieces {
        if let Some(at) = unit.load().wide() {
            assert_eq!(taken.insert(at, WIDE_UNITS), None);
        }
        let piece = pages.entry(unit, begin);
        let free = before.map_or(begin, |before| before.end());
        assert!(piece.block >= free && piece.end() <= begin + (1 << node.bits), "{piece:?} at {begin}");
        assert!(!before.is_some_and(|before| mergeable(&before, &piece, WHOLE)), "{piece:?} could be longer");
        let run = table.next_from(Block(piece.block)).expect("the run that it is of");
        assert_eq!((run.errors, run.state, run.lost), (piece.errors, piece.state, piece.lost));
        before = Some(piece);
    }
    pieces.len()
}

fn check(table: &Table) {
    let pages = table.view.pages();
    let mut taken = BTreeMap::new();
    for page in 0..pages.count() {
        let begin = (page as u64) << pages.bits;
        let held = below(table, pages.page(begin).expect("a page"), begin, &mut taken);
        let used = table.owner.used.get(page / 64).is_some_and(|word| word >> (page % 64) & 1 != 0);
        assert_eq!(used, held > 0, "page {page}");
    }
    check_units(&table.owner.arrays, &pages.units, &taken);
}

/// A run over the borders of all parts of a leaf, with so many holes that the leaf is divided, and all of them filled again.
fn divided_under_a_run(table: &mut Table, run: Entry) {
    table.apply(&run).expect("memory");
    let hole = |n: u64| run.block + 5 + n * 13;
    let holes = (u64::from(run.count) - 5) / 13;
    for n in 0..holes {
        table.apply(&absent(hole(n), 1)).expect("memory");
        if n % 200 == 0 || n.abs_diff(LEAF_PIECES as u64 - 1) < 4 {
            check(table);
        }
    }
    assert_eq!(table.counts().entries, holes + 1);
    assert!(table.iter().map(|e| e.end()).take(holes as usize).eq((0..holes).map(hole)));
    check(table);
    for n in (0..holes).rev() {
        table.apply(&part(&run, hole(n), 1)).expect("memory");
    }
    check(table);
    assert!(table.iter().eq([run]));
    table.apply(&absent(run.block, run.count.into())).expect("memory");
    check(table);
    assert_eq!(table.iter().next(), None);
}

#[test]
fn leaves_divide_under_long_runs() {
    for blocks in [SMALL_PAGES, PAGES_OF_LEAVES, GIANT] {
        let mut table = empty(blocks);
        for run in [
            on_slot(7, LEAF + 3000, 40),
            pending(LEAF - 9, 2 * LEAF, WHOLE),
            on_slot(3 * SMALL, 9 * SMALL, 1 << 39),
        ] {
            divided_under_a_run(&mut table, run);
        }
    }
}

/// As many pieces as blocks: the smallest leaves are full, and need never be divided.
#[test]
fn as_many_pieces_as_blocks() {
    let mut table = empty(GIANT);
    for block in (0..2 * SMALL).chain(LEAF - 20..LEAF + 20) {
        table.apply(&pending(block, 1, u128::from(1 + block % 3))).expect("memory");
    }
    check(&table);
    assert_eq!(table.counts().entries, 2 * SMALL + 40);
    table.apply(&absent(SMALL - 1, LEAF)).expect("memory");
    check(&table);
    assert_eq!(table.counts().entries, SMALL - 1);
}

/// A leaf grows by two pieces at a time past the number at which it must be divided.
#[test]
fn leaves_grow_by_two_pieces() {
    for first in [0, 1] {
        let mut table = empty(SMALL_PAGES);
        table.apply(&on_slot(first, 3000, 9)).expect("memory");
        table.apply(&on_slot(3500, first + 1, 9)).expect("memory");
        for n in 0..700 {
            table.apply(&pending(first + 2 + 4 * n, 1, 1)).expect("memory");
        }
        check(&table);
        assert_eq!(table.counts().entries, 1402);
    }
}

/// Entries here and there, one at a time, leave nothing behind.
#[test]
fn directories_are_given_back() {
    let mut table = empty(GIANT);
    for n in 0..3000 {
        let block = n * 7_777_777_777 % GIANT;
        table.apply(&pending(block, 3, WHOLE)).expect("memory");
        assert_eq!(table.counts().entries, 1);
        table.apply(&absent(block.saturating_sub(1), 5)).expect("memory");
    }
    check(&table);
    assert_eq!(table.counts(), TableCounts::default());
    assert!(table.bytes() <= 64 << 10, "{} bytes", table.bytes());
}

/// Any edits, many of which meet: nothing is lost of what is kept, or kept of what is gone.
#[test]
fn whatever_is_said_all_units_are_in_one_place() {
    let mut state = 1_u64;
    let mut random = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    for (blocks, begin) in [(3 * 4096, 0), (PAGES_OF_LEAVES, LEAF - 3000), (GIANT, (1 << 40) - 4000)] {
        let mut table = empty(blocks);
        for round in 0..6000 {
            let long = if round % 1500 > 1350 { 4000 } else { 3 };
            let block = begin + random(7000);
            let count = 1 + if random(4) == 0 { random(long) } else { 0 };
            let edit = match random(8) {
                0 => absent(block, count),
                1..4 => pending(block, 1, u128::from(1 + random(250) as u8)),
                4 => pending(block, count, WHOLE),
                5 => on_slot(block, count, Slot::new(99, block).0),
                _ => on_slot(block, count, 5000 + block),
            };
            let errors = if edit.state == EntryState::Absent { 0 } else { random(9) as u16 };
            table.apply(&Entry { errors, ..edit }).expect("memory");
            if round % 100 == 0 {
                check(&table);
            }
        }
        check(&table);
        table.apply(&absent(begin, 12_000)).expect("memory");
        check(&table);
        assert_eq!(table.counts(), TableCounts::default());
    }
}

/// Times that no entry can hold are the nearest ones; runs meet by what is kept.
#[test]
fn times_are_those_that_are_kept() {
    let mut table = empty(100);
    for (block, time) in [(1, 0), (2, 5), (3, u64::MAX), (4, u64::MAX - 1)] {
        table.apply(&Entry { time, ..on_slot(block, 1, block) }).expect("memory");
    }
    let runs: Vec<(u32, u64)> = table.iter().map(|e| (e.count, e.time)).collect();
    assert_eq!(runs, [(2, kept_time(0)), (2, kept_time(u64::MAX))]);
}

/// An edit over a border of runs joins one on each side: all pieces of both count the same errors.
#[test]
fn errors_are_level_on_both_sides_of_a_border() {
    let mut table = empty(GIANT);
    let begin = RUN_BORDER - 2 * LEAF;
    let run = on_slot(begin, 4 * LEAF, 0);
    for (block, count, errors) in
        [(begin, LEAF, 6), (RUN_BORDER + LEAF, LEAF, 9), (RUN_BORDER - LEAF, 2 * LEAF, 1)]
    {
        table.apply(&Entry { errors, ..part(&run, block, count) }).expect("memory");
    }
    check(&table);
    let runs: Vec<(u32, u16)> = table.iter().map(|e| (e.count, e.errors)).collect();
    assert_eq!(runs, [(2 * LEAF as u32, 6), (2 * LEAF as u32, 9)]);
}

/// The largest directories have nodes of 64 smaller ones, the smallest are of the smallest leaves; one so small is none.
#[test]
fn sizes_of_nodes() {
    let sizes = [10, 11, 16, 17, 22, 23, 29, 35].map(inside);
    assert_eq!(sizes, [None, Some(10), Some(10), Some(16), Some(16), Some(17), Some(23), Some(29)]);
}

/// Pages that hold something are found wherever they are, and nothing else is.
#[test]
fn every_page_is_found() {
    let mut table = empty(200 << 12);
    for pages in [1..64, 64..128, 1..200] {
        for page in pages.clone() {
            table.apply(&pending(page << 12, 1, 1)).expect("memory");
        }
        assert!(table.iter().map(|e| e.block >> 12).eq(pages.clone()));
        table.apply(&absent(0, 200 << 12)).expect("memory");
        check(&table);
        assert_eq!(table.counts(), TableCounts::default());
    }
}

/// Units of an array for an edit beside so many pieces, with the records of what it writes.
fn room(pieces: u64) -> u64 {
    pieces + pieces / 8 + 6
}

/// Where there is nothing: what may be there at both ends after the edits before, a piece in each leaf, the directories above.
#[test]
fn what_is_reserved_where_nothing_is() {
    let wide = |edit: Entry| Entry { lost: WHOLE, ..edit };
    let (one, two) = (on_slot(4095, 1, 0), on_slot(4095, 2, 0));
    // Pages of 4096 blocks, the largest leaves, two of these, three directories of 64.
    for (blocks, way, ways) in
        [(SMALL_PAGES, 0, 0), (PAGES_OF_LEAVES, 0, 0), (2 * PAGES_OF_LEAVES, 1, 2), (GIANT, 96, 128)]
    {
        let table = empty(blocks);
        let need = |edit, growth| need(table.view.pages(), &edit, growth);
        assert_eq!(need(one, 2), 16 + 1 + way);
        assert_eq!(need(wide(one), 2), 16 + 3 + way);
        assert_eq!(need(absent(4095, 1), 2), 16);
        assert_eq!(need(one, 40), 2 * room(40) + 1 + way);
        assert_eq!(need(one, LEAF_PIECES), 2 * room(1024) + 1 + way);
        assert_eq!(need(one, LEAF_PIECES + 2), 2 * room(1024) + 1 + way + (2050 + 256 + 12) + 64);
        let small = blocks == SMALL_PAGES;
        assert_eq!(need(wide(two), 2), 16 + if small { 6 } else { 3 } + way);
        assert_eq!(
            need(wide(two), LEAF_PIECES + 2) - need(absent(4095, 2), LEAF_PIECES + 2),
            if small { 6 + 2 * 192 } else { 3 + 192 } + way
        );
        let most = blocks.min(1 << 23);
        // Over the border in the middle, of leaves and of all directories up to the one of 1 << 28 blocks.
        let over = need(on_slot(most / 2 - 1, 2, 0), 2);
        assert_eq!(over, 16 + 2 + ways);
    }
}

/// Where something is: an array for each leaf, or its division.
#[test]
fn what_is_reserved_where_pieces_are() {
    let mut table = empty(GIANT);
    let three = |block, count| on_slot(block, count, 0);
    let way = 96;
    for (held, array) in [(10, room(12)), (1022, room(1024)), (1023, 1564 + 2)] {
        for n in table.counts().entries..held {
            table.apply(&pending(64 * n, 1, 1)).expect("memory");
        }
        let need = |edit| need(table.view.pages(), &edit, 2);
        assert_eq!(need(three(5, 1)), 16 + 1 + way + array);
        assert_eq!(need(three(LEAF, 1)), 16 + 1 + way, "nothing there");
        assert_eq!(need(three(LEAF - 3, 3)), 16 + 1 + way + array, "the last of them");
        let dividing = u64::from(held == 1023);
        assert_eq!(need(absent(5, LEAF)), 16 + array - 2 * dividing);
        assert_eq!(need(three(5, 3 * SMALL)), 16 + 1 + way + array + 2 * dividing);
        assert_eq!(need(three(LEAF - 2 * SMALL, 4 * SMALL)), 16 + 2 + way + array + dividing);
        let lost = Entry { lost: WHOLE, ..three(5, 3 * SMALL) };
        assert_eq!(need(lost), 16 + 3 + way + array + (3 * 4 - 2) * dividing);
    }
    let many = |growth| need(table.view.pages(), &absent(5, 1), growth);
    assert_eq!(many(40), 2 * room(40) + 1564);
    assert_eq!(many(400), 2 * room(400) + 1424 + 178 + 12, "what two leaves hold");
}

/// In a leaf that was divided: an array for each part, empty or full.
#[test]
fn what_is_reserved_where_a_leaf_was_divided() {
    let mut table = empty(SMALL_PAGES);
    for block in 0..SMALL + 200 {
        table.apply(&pending(block, 1, u128::from(1 + block % 2))).expect("memory");
    }
    let need = |edit| need(table.view.pages(), &edit, 2);
    assert_eq!(need(absent(5, 1)), 16 + room(1024), "as full as can be");
    assert_eq!(need(absent(SMALL, 1)), 16 + room(202));
    assert_eq!(need(absent(2 * SMALL, 1)), 16 + room(2), "empty");
    assert_eq!(need(absent(0, 4096)), 16 + room(1024) + room(202) + 2 * room(2));
    assert_eq!(need(absent(4096, 4096)), 16);
}

/// Each of the edits is reserved for as if all others had come before it; those that are the pool's are not looked at.
#[test]
fn what_is_reserved_for_several_edits() {
    let mut table = empty(SMALL_PAGES);
    let retired = Entry { state: EntryState::Retired, ..on_slot(7, 1, 0) };
    table.prepare(&[on_slot(1, 1, 5), retired, on_slot(9, 1, 5), absent(4096, 9)]).expect("memory");
    assert_eq!(promised(&table.owner.arrays), 3 * 2 * room(6) + 2);
}
