//! Models of the look-up: what a reader can see while the owner changes the table.
//!
//! Invariant: the owner's side is [`Table`] itself and the moving list as the engine drives it; nothing here is a second
//! implementation. How the slabs grow is outside of the checkers' sight (`once_cell` has its own proof): tables are grown before readers
//! start.
//!
//! Each test that ends in `_is_needed` weakens one ordering and must fail, which loom sees and shuttle cannot.

mod epochs;

use alloc::sync::Arc;

use remap_format::{Cause, Entry, EntryFlags, EntryState, NO_SLOT};

use super::{Placement, View};
use crate::sync::Edge;
use crate::sync::models::{explore, thread};
use crate::table::Table;
use crate::units::{Block, Slot};

fn on_slot(block: u64, slot: u64) -> Entry {
    Entry {
        block,
        count: 1,
        slot,
        lost: 0,
        state: EntryState::Remapped,
        cause: Cause::Manual,
        flags: EntryFlags::default(),
        errors: 0,
        time: 0,
    }
}

fn absent(block: u64) -> Entry {
    Entry { slot: NO_SLOT, state: EntryState::Absent, ..on_slot(block, 0) }
}

fn table(entries: &[Entry]) -> Table {
    let mut table = Table::create(64, 8).expect("memory");
    for entry in entries {
        table.apply(entry).expect("memory");
    }
    table.prepare(&[on_slot(20, 200); 2]).expect("memory");
    table
}

fn placement(view: &View, block: u64) -> Placement {
    let stretch = view.first(Block(block), Block(block + 1));
    assert_eq!(stretch.blocks, 1);
    stretch.placement
}

const fn settled(slot: u64) -> Placement {
    Placement::Settled(Slot(slot))
}

/// Block 20 stays where it is while `edits` are made beside it.
fn a_block_that_stays(mut table: Table, edits: &[Entry]) {
    let view = Arc::clone(table.view());
    let reader = thread::spawn(move || {
        let seen = placement(&view, 20);
        assert!(seen == settled(200) || seen == Placement::Slow, "block 20 was never there: {seen:?}");
    });
    for edit in edits {
        table.apply(edit).expect("memory");
    }
    reader.join().expect("the reader ends");
}

/// An entry before it comes: its leaf gets a larger array, and the old one is given back.
fn a_look_up_is_never_torn() {
    a_block_that_stays(table(&[on_slot(20, 200)]), &[on_slot(10, 100)]);
}

/// An entry before it comes, and there is room: it changes its place in the array.
fn a_piece_changes_its_place() {
    a_block_that_stays(table(&[on_slot(5, 50), on_slot(20, 200), absent(5)]), &[on_slot(10, 100)]);
}

/// Its page has so many pieces that it is divided.
fn a_page_is_divided() {
    let entries = [on_slot(20, 200), on_slot(2, 500), on_slot(30, 300)];
    a_block_that_stays(table(&entries), &[on_slot(10, 100)]);
}

/// The only other piece of its page, which is divided, goes: what it was in is used again, but not what block 20 is in.
fn a_leaf_of_a_divided_page_empties() {
    let entries = [on_slot(20, 200), on_slot(2, 500), on_slot(30, 300), on_slot(10, 100)];
    a_block_that_stays(table(&entries), &[absent(10)]);
}

/// The array in which block 20 was becomes another page's, with an entry at the same offset.
fn an_array_is_used_again() {
    let mut table = table(&[on_slot(20, 200)]);
    let view = Arc::clone(table.view());
    let reader = thread::spawn(move || {
        let seen = placement(&view, 20);
        assert!(seen != settled(520), "block 20 was never there: {seen:?}");
    });
    table.apply(&absent(20)).expect("memory");
    table.apply(&on_slot(52, 520)).expect("memory");
    reader.join().expect("the reader ends");
}

/// The run that block 21 is part of is cut in front of it: block, slot and count belong together.
fn an_entry_is_never_mixed() {
    let mut table = table(&[Entry { count: 2, ..on_slot(20, 200) }]);
    let view = Arc::clone(table.view());
    let reader = thread::spawn(move || {
        let seen = placement(&view, 21);
        assert!(seen == settled(201) || seen == Placement::Slow, "block 21 was never there: {seen:?}");
    });
    table.apply(&on_slot(20, 500)).expect("memory");
    reader.join().expect("the reader ends");
}

/// A reader that has seen a change does not go back behind it.
fn a_change_is_never_unseen() {
    let mut table = table(&[on_slot(20, 200)]);
    let view = Arc::clone(table.view());
    let reader = thread::spawn(move || {
        let seen = placement(&view, 20);
        let again = placement(&view, 20);
        assert!(seen != settled(500) || again != settled(200), "{seen:?}, then {again:?}");
    });
    table.apply(&on_slot(20, 500)).expect("memory");
    reader.join().expect("the reader ends");
}

/// What the engine does with a block: publish, move, change the table, give up the place in the list.
fn move_block(table: &mut Table, index: usize, edit: &Entry) {
    table.view().begin_move(index, Block(edit.block));
    table.apply(edit).expect("memory");
    table.view().end_move(index);
}

/// A reader that has once seen a block move never again sees where it was.
fn a_move_is_never_unseen() {
    let mut table = table(&[]);
    let view = Arc::clone(table.view());
    let reader = thread::spawn(move || {
        let seen = placement(&view, 20);
        let again = placement(&view, 20);
        assert!(seen == Placement::Main || again != Placement::Main, "{seen:?}, then {again:?}");
    });
    move_block(&mut table, 0, &on_slot(20, 200));
    reader.join().expect("the reader ends");
}

/// The same when another block takes the place in the list.
fn a_place_in_the_list_is_used_again() {
    let mut table = table(&[]);
    let view = Arc::clone(table.view());
    let reader = thread::spawn(move || {
        let seen = placement(&view, 20);
        let again = placement(&view, 20);
        assert!(seen == Placement::Main || again != Placement::Main, "{seen:?}, then {again:?}");
    });
    move_block(&mut table, 0, &on_slot(20, 200));
    table.view().begin_move(0, Block(40));
    reader.join().expect("the reader ends");
}

/// A block that comes home: its region's mark goes, and no reader is sent to the slot once it has seen the main device.
fn a_block_comes_home() {
    let mut table = table(&[on_slot(20, 200)]);
    let view = Arc::clone(table.view());
    let reader = thread::spawn(move || {
        let seen = placement(&view, 20);
        let again = placement(&view, 20);
        assert!(seen == settled(200) || again != settled(200), "{seen:?}, then {again:?}");
    });
    move_block(&mut table, 0, &absent(20));
    reader.join().expect("the reader ends");
}

macro_rules! holds {
    ($($model:ident: $preemptions:expr),* $(,)?) => {
        mod holds {
            use super::explore;
            $(#[test] fn $model() { explore(stringify!($model), $preemptions, None, super::$model); })*
        }
    };
}

holds!(
    a_look_up_is_never_torn: 2,
    a_piece_changes_its_place: 2,
    a_page_is_divided: 2,
    a_leaf_of_a_divided_page_empties: 2,
    an_array_is_used_again: 2,
    an_entry_is_never_mixed: 1,
    a_change_is_never_unseen: 1,
    a_move_is_never_unseen: 2,
    a_place_in_the_list_is_used_again: 2,
    a_block_comes_home: 2,
);

#[cfg(loom)]
macro_rules! fails {
    ($($test:ident: $model:ident without $edge:ident, $says:literal;)*) => {
        mod fails {
            use super::{Edge, explore};
            $(
                #[test]
                #[should_panic(expected = $says)]
                fn $test() {
                    explore(stringify!($test), 2, Some(Edge::$edge), super::$model);
                }
            )*
        }
    };
}
#[cfg(loom)]
fails!(
    change_begun_is_needed: a_look_up_is_never_torn without ChangeBegun, "was never there";
    change_ended_is_needed: a_look_up_is_never_torn without ChangeEnded, "was never there";
    lookup_begun_is_needed: a_look_up_is_never_torn without LookupBegun, "was never there";
    lookup_ended_is_needed: a_look_up_is_never_torn without LookupEnded, "was never there";
    change_begun_is_needed_to_use_an_array_again: an_array_is_used_again without ChangeBegun, "was never there";
    change_ended_is_needed_in_place: a_piece_changes_its_place without ChangeEnded, "was never there";
    lookup_ended_is_needed_to_divide: a_page_is_divided without LookupEnded, "was never there";
    move_ended_is_needed: a_move_is_never_unseen without MoveEnded, "Slow, then Main";
    move_ended_is_needed_to_use_a_place_again: a_place_in_the_list_is_used_again without MoveEnded, "Slow, then Main";
    last_move_ended_is_needed: a_move_is_never_unseen without LastMoveEnded, "Slow, then Main";
    moving_read_is_needed: a_move_is_never_unseen without MovingRead, "Slow, then Main";
    moving_counted_is_needed: a_move_is_never_unseen without MovingCounted, "Slow, then Main";
);
