//! The remap table: which runs of blocks are not simply on the main device.
//!
//! Invariant: entries are sorted by block and never overlap; no two neighbours could be one entry; readers of the [`View`] find exactly
//! this after every change. The table holds what is durable and nothing else: an edit is applied once its commit is.
//!
//! One owner changes it; readers use the [`View`] without locks. There is one copy of everything: an entry is stored as a piece for
//! each leaf of the tree that it reaches into (`pages.rs`), and is put together again when it is read. So an entry ends at
//! multiples of [`RUN_BORDER`] blocks, whatever was said in which order.

mod change;
pub(crate) mod pages;
pub(crate) mod pieces;
mod store;

use alloc::sync::Arc;

use remap_format::{Entry, EntryState};

use self::change::Owner;
pub use self::pieces::LEAF_PIECES;
use crate::memory::{self, NoMemory};
use crate::units::{Block, Slot};
use crate::view::View;

/// No entry crosses a multiple of so many blocks.
pub const RUN_BORDER: u64 = 1 << 31;

/// How much of what the table holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TableCounts {
    /// Entries (runs).
    pub entries: u64,
    /// Blocks on a spare.
    pub remapped_blocks: u64,
    /// Blocks on the main device with unreadable sectors.
    pub pending_blocks: u64,
    /// Sectors whose contents no device holds.
    pub lost_sectors: u64,
}

impl TableCounts {
    fn add(&mut self, piece: &Entry, sign: i64) {
        let count = i64::from(piece.count) * sign;
        let bump = |to: &mut u64, by: i64| *to = to.wrapping_add_signed(by);
        bump(&mut self.entries, sign);
        match piece.state {
            EntryState::Remapped => bump(&mut self.remapped_blocks, count),
            EntryState::Pending => bump(&mut self.pending_blocks, count),
            EntryState::Absent | EntryState::Retired => {}
        }
        bump(&mut self.lost_sectors, count * i64::from(piece.lost.count_ones()));
    }
}

/// The owner's table.
#[derive(Debug)]
pub struct Table {
    owner: Owner,
    view: Arc<View>,
}

impl Table {
    /// An empty table for a main device of `blocks` blocks of `block_sectors` sectors.
    ///
    /// # Errors
    /// [`NoMemory`].
    pub fn create(blocks: u64, block_sectors: u32) -> Result<Self, NoMemory> {
        let view = memory::shared(View::create(blocks)?)?;
        Ok(Self { owner: Owner::create(view.pages(), Entry::full_mask(block_sectors))?, view })
    }

    /// What readers on other threads use.
    #[must_use]
    pub fn view(&self) -> &Arc<View> {
        &self.view
    }

    /// Totals.
    #[must_use]
    pub fn counts(&self) -> TableCounts {
        self.owner.counts()
    }

    /// The entry of one block, cut down to that block (`count` 1).
    #[must_use]
    pub fn get(&self, block: Block) -> Option<Entry> {
        self.view.pages().piece(block.0).map(|piece| part(&piece, block.0, 1))
    }

    /// The first entry that ends behind `block`: the one that holds it, or the next one.
    #[must_use]
    pub fn next_from(&self, block: Block) -> Option<Entry> {
        let piece = self.owner.next_piece(self.view.pages(), block.0, u64::MAX)?;
        Some(self.owner.whole_run(self.view.pages(), piece))
    }

    /// All entries in order.
    pub fn iter(&self) -> impl Iterator<Item = Entry> {
        let mut from = Block(0);
        core::iter::from_fn(move || {
            let entry = self.next_from(from)?;
            from = Block(entry.end());
            Some(entry)
        })
    }

    /// Memory that entries take, free room included; headers of pages and the summary of regions, which are there from the beginning,
    /// are not counted.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.owner.bytes()
    }

    /// Takes the memory that [`Self::apply_prepared`] can need for these edits, in this order: units for new arrays of the leaves that they
    /// touch, and for leaves that may have to be divided. What is left of it serves the edits after them.
    ///
    /// # Errors
    /// [`NoMemory`]; the table is as it was.
    pub fn prepare(&mut self, edits: &[Entry]) -> Result<(), NoMemory> {
        self.owner.prepare(self.view.pages(), edits)
    }

    /// Puts `edit` in place of whatever the table says about its blocks ([`EntryState::Absent`] removes only). All of it lies on the
    /// device, unless it only removes.
    ///
    /// # Errors
    /// [`NoMemory`]; the table is as it was.
    pub fn apply(&mut self, edit: &Entry) -> Result<(), NoMemory> {
        self.prepare(core::slice::from_ref(edit))?;
        self.apply_prepared(edit);
        Ok(())
    }

    /// The same, for an edit that [`Self::prepare`] was given.
    pub fn apply_prepared(&mut self, edit: &Entry) {
        assert!(edit.state != EntryState::Retired, "retired slots are the pool's");
        let _change = self.view.change();
        self.owner.apply(self.view.pages(), edit);
        if edit.state == EntryState::Absent {
            self.unmark(edit);
        } else {
            self.view.mark(edit.block, edit.end());
        }
    }

    /// Takes back the summary marks of regions that hold no entry any more.
    fn unmark(&self, removed: &Entry) {
        let mut regions = self.view.regions(removed.block, removed.end());
        // Nothing is left in those between; the first and the last one may hold neighbours.
        let held = |region| {
            let (start, end) = self.view.region_blocks(region);
            self.owner.next_piece(self.view.pages(), start, end).is_some()
        };
        if held(regions.start) {
            regions.start += 1;
        }
        if !regions.is_empty() && held(regions.end - 1) {
            regions.end -= 1;
        }
        self.view.unmark(regions);
    }
}

/// The `count` blocks of `entry` from `block` on, as an entry of their own.
fn part(entry: &Entry, block: u64, count: u64) -> Entry {
    let skipped = block - entry.block;
    let slot = if entry.state == EntryState::Remapped { entry.slot + skipped } else { entry.slot };
    let count = u32::try_from(count).expect("a part of a run is no longer than the run");
    Entry { block, count, slot, ..*entry }
}

/// Could `b`, the right neighbour, be one entry with `a`? The format knows runs that are lost as a whole (`whole`) or not at all.
fn mergeable(a: &Entry, b: &Entry, whole: u128) -> bool {
    let slots_follow = match a.state {
        EntryState::Remapped => {
            a.slot + u64::from(a.count) == b.slot && Slot(a.slot).spare() == Slot(b.slot).spare()
        }
        _ => true,
    };
    a.end() == b.block
        && !b.block.is_multiple_of(RUN_BORDER)
        && a.state == b.state
        && a.cause == b.cause
        && a.flags == b.flags
        && a.time == b.time
        && a.lost == b.lost
        && (a.lost == 0 || a.lost == whole)
        && slots_follow
}
