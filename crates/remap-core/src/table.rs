//! The remap table: which runs of blocks are not simply on the main device.
//!
//! Invariant: entries are sorted by block and never overlap; no two neighbours could be one entry; every leaf holds 1 to
//! [`LEAF_ENTRIES`] entries; the [`View`] that readers see shows exactly this after every change. The table holds what is
//! durable and nothing else: an edit is applied once its commit is.
//!
//! One owner changes it; readers use the [`View`] without locks.

use alloc::sync::Arc;
use alloc::vec::Vec;

use remap_format::{Entry, EntryState};

use crate::memory::{self, NoMemory};
use crate::units::{Block, Slot};
use crate::view::{HotEntry, View};

/// Entries in a full leaf.
pub const LEAF_ENTRIES: usize = if cfg!(any(loom, shuttle)) { 2 } else { 128 };

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
    fn add(&mut self, entry: &Entry, sign: i64) {
        let count = i64::from(entry.count) * sign;
        let bump = |to: &mut u64, by: i64| *to = to.wrapping_add_signed(by);
        bump(&mut self.entries, sign);
        match entry.state {
            EntryState::Remapped => bump(&mut self.remapped_blocks, count),
            EntryState::Pending => bump(&mut self.pending_blocks, count),
            EntryState::Absent | EntryState::Retired => {}
        }
        bump(&mut self.lost_sectors, count * i64::from(entry.lost.count_ones()));
    }
}

#[derive(Debug)]
struct Leaf {
    /// Where the view keeps this leaf.
    id: u32,
    entries: Vec<Entry>,
}

/// The owner's table.
#[derive(Debug)]
pub struct Table {
    leaves: Vec<Leaf>,
    /// Empty leaves ready for splits, so that a change that has begun cannot fail.
    idle: Vec<Leaf>,
    ids: u32,
    counts: TableCounts,
    view: Arc<View>,
    /// Mask of a block that is lost as a whole; 0 as long as the block size is not known.
    whole: u128,
}

/// Where an entry is: leaf, then index in it.
type At = (usize, usize);

impl Table {
    /// An empty table for a main device of `blocks` blocks.
    ///
    /// # Errors
    /// [`NoMemory`].
    pub fn create(blocks: u64) -> Result<Self, NoMemory> {
        Ok(Self {
            leaves: Vec::new(),
            idle: Vec::new(),
            ids: 0,
            counts: TableCounts::default(),
            view: memory::shared(View::create(blocks)?)?,
            whole: 0,
        })
    }

    /// Lets neighbours become one entry when they are lost as a whole, all `block_sectors` sectors of each.
    #[must_use]
    pub fn with_block_sectors(mut self, block_sectors: u32) -> Self {
        self.whole = Entry::full_mask(block_sectors);
        self
    }

    /// What readers on other threads use.
    #[must_use]
    pub fn view(&self) -> &Arc<View> {
        &self.view
    }

    /// Totals.
    #[must_use]
    pub fn counts(&self) -> TableCounts {
        self.counts
    }

    /// The entry of one block, cut down to that block (`count` 1).
    #[must_use]
    pub fn get(&self, block: Block) -> Option<Entry> {
        let entry = self.next_from(block)?;
        (entry.block <= block.0).then(|| part(entry, block.0, 1))
    }

    /// The first entry that ends behind `block`: the one that holds it, or the next one.
    #[must_use]
    pub fn next_from(&self, block: Block) -> Option<&Entry> {
        self.at(self.find(block.0)?)
    }

    /// All entries in order.
    pub fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.leaves.iter().flat_map(|leaf| leaf.entries.iter())
    }

    fn at(&self, (leaf, index): At) -> Option<&Entry> {
        self.leaves.get(leaf)?.entries.get(index)
    }

    /// Position of the first entry that ends behind `block`.
    fn find(&self, block: u64) -> Option<At> {
        let after = self.leaves.partition_point(|l| l.entries.first().is_some_and(|e| e.block <= block));
        let leaf = after.saturating_sub(1);
        let index = self.leaves.get(leaf)?.entries.partition_point(|e| e.end() <= block);
        if index < self.leaves.get(leaf)?.entries.len() {
            return Some((leaf, index));
        }
        (leaf + 1 < self.leaves.len()).then_some((leaf + 1, 0))
    }

    /// Takes the memory that the next `edits` calls of [`Self::apply_prepared`] can need: at most three leaves (of about
    /// 8 KiB) for each, and what is left of them serves the edits after those.
    ///
    /// # Errors
    /// [`NoMemory`]; the table is as it was.
    pub fn prepare(&mut self, edits: usize) -> Result<(), NoMemory> {
        // An edit inserts at most three entries (both remainders of what it cuts, and itself): three splits at most.
        let splits = 3 * edits;
        self.leaves.try_reserve(splits).map_err(|_| NoMemory)?;
        // One edit can empty every leaf there is.
        self.idle.try_reserve(self.leaves.len() + splits).map_err(|_| NoMemory)?;
        while self.idle.len() < splits {
            let entries = memory::list(LEAF_ENTRIES)?;
            self.view.grow(self.ids)?;
            memory::push(&mut self.idle, Leaf { id: self.ids, entries });
            self.ids += 1;
        }
        Ok(())
    }

    /// Puts `edit` in place of whatever the table says about its blocks ([`EntryState::Absent`] removes only).
    ///
    /// # Errors
    /// [`NoMemory`]; the table is as it was.
    pub fn apply(&mut self, edit: &Entry) -> Result<(), NoMemory> {
        self.prepare(1)?;
        self.apply_prepared(edit);
        Ok(())
    }

    /// The same, for an edit that [`Self::prepare`] counted.
    pub fn apply_prepared(&mut self, edit: &Entry) {
        assert!(edit.state != EntryState::Retired, "retired slots are the pool's");
        let view = Arc::clone(&self.view);
        let _change = view.change();
        while let Some(at) =
            self.find(edit.block).filter(|&at| self.at(at).is_some_and(|e| e.block < edit.end()))
        {
            let cut = self.remove(at);
            if cut.block < edit.block {
                self.insert(part(&cut, cut.block, edit.block - cut.block));
            }
            if cut.end() > edit.end() {
                self.insert(part(&cut, edit.end(), cut.end() - edit.end()));
            }
        }
        if edit.state == EntryState::Absent {
            self.unmark(edit);
        } else {
            let merged = self.absorb_neighbours(*edit);
            self.insert(merged);
            self.view.mark(merged.block, merged.end());
        }
    }

    fn absorb_neighbours(&mut self, mut entry: Entry) -> Entry {
        let before = entry.block.checked_sub(1).and_then(|b| self.find(b));
        if let Some(at) = before.filter(|&at| self.at(at).is_some_and(|e| self.mergeable(e, &entry))) {
            let left = self.remove(at);
            entry = Entry { count: left.count + entry.count, errors: left.errors.max(entry.errors), ..left };
        }
        let after = self.find(entry.end());
        if let Some(at) = after.filter(|&at| self.at(at).is_some_and(|e| self.mergeable(&entry, e))) {
            let right = self.remove(at);
            entry.count += right.count;
            entry.errors = entry.errors.max(right.errors);
        }
        entry
    }

    /// Could `b`, the right neighbour, be one entry with `a`? The format knows runs that are lost as a whole or not at all.
    fn mergeable(&self, a: &Entry, b: &Entry) -> bool {
        let slots_follow = match a.state {
            EntryState::Remapped => {
                a.slot + u64::from(a.count) == b.slot && Slot(a.slot).spare() == Slot(b.slot).spare()
            }
            _ => true,
        };
        a.end() == b.block
            && a.state == b.state
            && a.cause == b.cause
            && a.flags == b.flags
            && a.time == b.time
            && a.lost == b.lost
            && (a.lost == 0 || a.lost == self.whole)
            && slots_follow
            && a.count.checked_add(b.count).is_some()
    }

    fn insert(&mut self, entry: Entry) {
        self.counts.add(&entry, 1);
        let after =
            self.leaves.partition_point(|l| l.entries.first().is_some_and(|e| e.block <= entry.block));
        let mut leaf = after.saturating_sub(1);
        if self.leaves.is_empty() {
            let empty = self.idle.pop().expect("prepare() keeps idle leaves");
            memory::push(&mut self.leaves, empty);
        }
        if self.leaves.get(leaf).is_some_and(|l| l.entries.len() >= LEAF_ENTRIES) {
            self.split(leaf);
            if self
                .leaves
                .get(leaf + 1)
                .and_then(|l| l.entries.first())
                .is_some_and(|e| e.block <= entry.block)
            {
                leaf += 1;
            }
        }
        let Some(target) = self.leaves.get_mut(leaf) else { return };
        let index = target.entries.partition_point(|e| e.block < entry.block);
        memory::insert(&mut target.entries, index, entry);
        self.publish_leaf(leaf);
        if index == 0 {
            self.publish_directory(leaf);
        }
    }

    fn split(&mut self, leaf: usize) {
        let mut upper = self.idle.pop().expect("prepare() keeps idle leaves");
        let Some(lower) = self.leaves.get_mut(leaf) else { return };
        memory::extend(&mut upper.entries, LEAF_ENTRIES / 2, lower.entries.drain(LEAF_ENTRIES / 2..));
        memory::insert(&mut self.leaves, leaf + 1, upper);
        self.publish_leaf(leaf);
        self.publish_leaf(leaf + 1);
        self.publish_directory(leaf);
    }

    fn remove(&mut self, (leaf, index): At) -> Entry {
        let target = self.leaves.get_mut(leaf).expect("find() gives a place that exists");
        let entry = target.entries.remove(index);
        self.counts.add(&entry, -1);
        if target.entries.is_empty() {
            let mut empty = self.leaves.remove(leaf);
            empty.entries.clear();
            memory::push(&mut self.idle, empty);
            self.publish_directory(leaf);
        } else {
            self.publish_leaf(leaf);
            if index == 0 {
                self.publish_directory(leaf);
            }
        }
        entry
    }

    fn publish_leaf(&self, leaf: usize) {
        if let Some(leaf) = self.leaves.get(leaf) {
            self.view.publish_leaf(leaf.id, leaf.entries.iter().map(HotEntry::of));
        }
    }

    fn publish_directory(&self, from: usize) {
        let changed = self.leaves.iter().skip(from);
        let keys = changed.map(|l| (l.entries.first().map_or(u64::MAX, |e| e.block), l.id));
        self.view.publish_directory(from, self.leaves.len(), keys);
    }

    /// Takes back the summary marks of regions that hold no entry any more.
    fn unmark(&self, removed: &Entry) {
        let view = &self.view;
        for region in view.regions(removed.block, removed.end()) {
            let (start, end) = view.region_blocks(region);
            if self.next_from(Block(start)).is_none_or(|e| e.block >= end) {
                view.unmark(region);
            }
        }
    }
}

/// The `count` blocks of `entry` from `block` on, as an entry of their own.
fn part(entry: &Entry, block: u64, count: u64) -> Entry {
    let skipped = block - entry.block;
    let slot = if entry.state == EntryState::Remapped { entry.slot + skipped } else { entry.slot };
    let count = u32::try_from(count).expect("a part of a run is no longer than the run");
    Entry { block, count, slot, ..*entry }
}
