//! What readers on other threads see of the table, without locks and without allocation.
//!
//! Invariant: outside of a `Change` the view equals the table; a look-up that overlapped a change is noticed by the
//! version and repeated, at most `RETRIES` times, after which the answer is "ask the owner", which is always right.
//! Nothing is ever freed while the view lives, so a reader can never follow a dead pointer.
//!
//! Three stages, cheapest first: a bit per region of the device (nearly every look-up ends there), a sorted directory of
//! leaves, a sorted leaf. Blocks that are about to move are in a short list of their own (C11).

use alloc::vec::Vec;
use core::ops::RangeInclusive;

use once_cell::race::OnceBox;
use remap_format::{Entry, EntryState};

use crate::memory::{self, NoMemory};
use crate::sync::{AtomicU32, AtomicU64, AtomicUsize, Edge, Ordering, spin_loop};
use crate::table::LEAF_ENTRIES;
use crate::units::{Block, Slot};

/// A checker can follow little state, but all of it.
const MODEL: bool = cfg!(any(loom, shuttle));
/// Repeats of a look-up that met a change.
pub const RETRIES: u32 = if MODEL { 1 } else { 64 };
/// Blocks that can be moving at the same time.
pub const MAX_MOVING: usize = if MODEL { 2 } else { 128 };
/// Most bits in the summary (1 MiB of them).
const MAX_REGIONS: u64 = 1 << 23;
/// Least blocks in a region.
const MIN_REGION_SHIFT: u32 = 9;
const NOWHERE: u64 = u64::MAX;
/// Slot word of a run that readers must leave to the owner.
const SLOW: u64 = u64::MAX;

/// Where a stretch of blocks is, for a reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// On the main device, nothing known against it.
    Main,
    /// On a spare, all of it, from this slot on.
    Settled(Slot),
    /// Pending, lost in part, or moving: the owner must handle it.
    Slow,
}

/// A stretch of blocks with one placement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// Blocks, at least 1.
    pub blocks: u64,
    /// Where.
    pub placement: Placement,
}

/// What of an entry a reader needs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HotEntry {
    block: u64,
    count: u32,
    slot: u64,
}

impl HotEntry {
    pub(crate) fn of(entry: &Entry) -> Self {
        let settled = entry.state == EntryState::Remapped && entry.lost == 0;
        Self { block: entry.block, count: entry.count, slot: if settled { entry.slot } else { SLOW } }
    }
}

/// 16 << 26 elements: more leaves than entries that a volume can have.
const MAX_CHUNKS: usize = 26;

/// An array that grows by chunks of doubling size and never moves what it holds.
#[derive(Debug)]
struct Chunks<T> {
    chunks: [OnceBox<[Vec<T>; 1]>; MAX_CHUNKS],
}

impl<T> Chunks<T> {
    const FIRST: usize = if MODEL { 1 } else { 16 };

    fn empty() -> Self {
        Self { chunks: core::array::from_fn(|_| OnceBox::new()) }
    }

    /// Chunk and offset of an index: chunk k holds `FIRST << k` elements.
    fn place(index: usize) -> (usize, usize) {
        let n = index / Self::FIRST + 1;
        let chunk = n.ilog2() as usize;
        (chunk, index + Self::FIRST - (Self::FIRST << chunk))
    }

    fn get(&self, index: usize) -> Option<&T> {
        let (chunk, offset) = Self::place(index);
        let [elements] = self.chunks.get(chunk)?.get()?;
        elements.get(offset)
    }

    fn grow(&self, index: usize, make: impl Fn() -> T) -> Result<(), NoMemory> {
        let (chunk, _) = Self::place(index);
        let Some(place) = self.chunks.get(chunk) else { return Err(NoMemory) };
        if place.get().is_none() {
            let len = Self::FIRST << chunk;
            let mut elements = memory::list(len)?;
            memory::extend(&mut elements, len, (0..len).map(|_| make()));
            // Only the owner grows, so nobody can have set it in between.
            let _ = place.set(memory::boxed(elements)?);
        }
        Ok(())
    }
}

#[derive(Debug)]
struct HotLeaf {
    len: AtomicUsize,
    block: [AtomicU64; LEAF_ENTRIES],
    slot: [AtomicU64; LEAF_ENTRIES],
    count: [AtomicU32; LEAF_ENTRIES],
}

impl HotLeaf {
    fn empty() -> Self {
        Self {
            len: AtomicUsize::new(0),
            block: core::array::from_fn(|_| AtomicU64::new(0)),
            slot: core::array::from_fn(|_| AtomicU64::new(0)),
            count: core::array::from_fn(|_| AtomicU32::new(0)),
        }
    }

    fn entry(&self, index: usize) -> Option<HotEntry> {
        Some(HotEntry {
            block: self.block.get(index)?.load(Ordering::Relaxed),
            count: self.count.get(index)?.load(Ordering::Relaxed),
            slot: self.slot.get(index)?.load(Ordering::Relaxed),
        })
    }

    /// The first entry that ends behind `block`.
    fn first_behind(&self, block: u64) -> Option<HotEntry> {
        let (mut low, mut high) = (0, self.len.load(Ordering::Relaxed).min(LEAF_ENTRIES));
        while low < high {
            let middle = usize::midpoint(low, high);
            let entry = self.entry(middle)?;
            if entry.block.saturating_add(u64::from(entry.count)) <= block {
                low = middle + 1
            } else {
                high = middle
            }
        }
        if low < self.len.load(Ordering::Relaxed) { self.entry(low) } else { None }
    }
}

/// The readers' side of a [`crate::table::Table`].
#[derive(Debug)]
pub struct View {
    version: AtomicU64,
    region_shift: u32,
    summary: Vec<AtomicU64>,
    keys: Chunks<AtomicU64>,
    ids: Chunks<AtomicU32>,
    leaves: Chunks<HotLeaf>,
    leaf_count: AtomicUsize,
    moving_count: AtomicUsize,
    moving: [AtomicU64; MAX_MOVING],
}

/// While this lives the view is being changed and readers repeat.
#[derive(Debug)]
pub(crate) struct Change<'view>(&'view View);

impl Drop for Change<'_> {
    fn drop(&mut self) {
        let version = self.0.version.load(Ordering::Relaxed);
        self.0.version.store(version.wrapping_add(1), Edge::ChangeEnded.order(Ordering::Release));
    }
}

impl View {
    pub(crate) fn create(blocks: u64) -> Result<Self, NoMemory> {
        let mut region_shift = MIN_REGION_SHIFT;
        while blocks >> region_shift >= MAX_REGIONS {
            region_shift += 1;
        }
        let words = usize::try_from((blocks >> region_shift) / 64 + 1).map_err(|_| NoMemory)?;
        let mut summary = memory::list(words)?;
        memory::extend(&mut summary, words, (0..words).map(|_| AtomicU64::new(0)));
        Ok(Self {
            version: AtomicU64::new(0),
            region_shift,
            summary,
            keys: Chunks::empty(),
            ids: Chunks::empty(),
            leaves: Chunks::empty(),
            leaf_count: AtomicUsize::new(0),
            moving_count: AtomicUsize::new(0),
            moving: core::array::from_fn(|_| AtomicU64::new(NOWHERE)),
        })
    }

    /// The first stretch of `[block, end)`; the caller goes on behind it. `block < end`.
    #[must_use]
    pub fn first(&self, block: Block, end: Block) -> Stretch {
        let (block, mut end) = (block.0, end.0);
        debug_assert!(block < end, "an empty range has no stretch");
        if self.moving_count.load(Edge::MovingCounted.order(Ordering::Acquire)) != 0 {
            match self.first_moving(block, end) {
                Some(moving) if moving == block => return Stretch { blocks: 1, placement: Placement::Slow },
                Some(moving) => end = moving,
                None => {}
            }
        }
        let unmarked = self.unmarked_until(block, end);
        if unmarked > block {
            return Stretch { blocks: unmarked - block, placement: Placement::Main };
        }
        for _ in 0..RETRIES {
            let before = self.version.load(Edge::LookupBegun.order(Ordering::Acquire));
            if before & 1 == 0 {
                let found = self.search(block);
                Edge::LookupEnded.fence(Ordering::Acquire);
                if self.version.load(Ordering::Relaxed) == before {
                    return stretch_of(found, block, end);
                }
            }
            spin_loop();
        }
        Stretch { blocks: end - block, placement: Placement::Slow }
    }

    fn first_moving(&self, block: u64, end: u64) -> Option<u64> {
        // A place that was given up, even to another block, shows what became of the block that had it.
        let places = self.moving.iter().map(|m| m.load(Edge::MovingRead.order(Ordering::Acquire)));
        places.filter(|m| (block..end).contains(m)).min()
    }

    /// End of the run of regions without entries that starts at `block`; `block` itself if its region has some.
    fn unmarked_until(&self, block: u64, end: u64) -> u64 {
        let last = (end - 1) >> self.region_shift;
        let mut region = block >> self.region_shift;
        while region <= last {
            let word = self.summary.get((region / 64) as usize).map_or(0, |w| w.load(Ordering::Relaxed));
            let here = word >> (region % 64);
            if here != 0 {
                let marked = region + u64::from(here.trailing_zeros());
                return (marked << self.region_shift).clamp(block, end);
            }
            region = (region / 64 + 1) * 64;
        }
        end
    }

    fn search(&self, block: u64) -> Option<HotEntry> {
        let leaves = self.leaf_count.load(Ordering::Relaxed);
        let (mut low, mut high) = (0, leaves);
        while low < high {
            let middle = usize::midpoint(low, high);
            if self.keys.get(middle)?.load(Ordering::Relaxed) <= block {
                low = middle + 1
            } else {
                high = middle
            }
        }
        let leaf = low.saturating_sub(1);
        let found = self.leaf(leaf).and_then(|l| l.first_behind(block));
        if found.is_some() || leaf + 1 >= leaves { found } else { self.leaf(leaf + 1)?.entry(0) }
    }

    fn leaf(&self, position: usize) -> Option<&HotLeaf> {
        let id = self.ids.get(position)?.load(Ordering::Relaxed);
        self.leaves.get(id as usize)
    }

    pub(crate) fn change(&self) -> Change<'_> {
        let version = self.version.load(Ordering::Relaxed);
        self.version.store(version.wrapping_add(1), Ordering::Relaxed);
        Edge::ChangeBegun.fence(Ordering::Release);
        Change(self)
    }

    /// Makes room for leaf `id` and for as many directory places.
    pub(crate) fn grow(&self, id: u32) -> Result<(), NoMemory> {
        self.leaves.grow(id as usize, HotLeaf::empty)?;
        self.keys.grow(id as usize, || AtomicU64::new(0))?;
        self.ids.grow(id as usize, || AtomicU32::new(0))
    }

    pub(crate) fn publish_leaf(&self, id: u32, entries: impl Iterator<Item = HotEntry>) {
        let Some(leaf) = self.leaves.get(id as usize) else { return };
        let mut len = 0;
        for (((block, slot), count), entry) in leaf.block.iter().zip(&leaf.slot).zip(&leaf.count).zip(entries)
        {
            block.store(entry.block, Ordering::Relaxed);
            slot.store(entry.slot, Ordering::Relaxed);
            count.store(entry.count, Ordering::Relaxed);
            len += 1;
        }
        leaf.len.store(len, Ordering::Relaxed);
    }

    pub(crate) fn publish_directory(
        &self,
        from: usize,
        total: usize,
        keys: impl Iterator<Item = (u64, u32)>,
    ) {
        for (position, (key, id)) in (from..).zip(keys) {
            if let (Some(k), Some(i)) = (self.keys.get(position), self.ids.get(position)) {
                k.store(key, Ordering::Relaxed);
                i.store(id, Ordering::Relaxed);
            }
        }
        self.leaf_count.store(total, Ordering::Relaxed);
    }

    pub(crate) fn regions(&self, block: u64, end: u64) -> RangeInclusive<u64> {
        block >> self.region_shift..=end.saturating_sub(1) >> self.region_shift
    }

    pub(crate) fn region_blocks(&self, region: u64) -> (u64, u64) {
        (region << self.region_shift, (region + 1) << self.region_shift)
    }

    /// Notes that the regions of these blocks hold entries.
    pub(crate) fn mark(&self, block: u64, end: u64) {
        for region in self.regions(block, end) {
            if let Some(word) = self.summary.get((region / 64) as usize) {
                word.fetch_or(1 << (region % 64), Ordering::Relaxed);
            }
        }
    }

    pub(crate) fn unmark(&self, region: u64) {
        if let Some(word) = self.summary.get((region / 64) as usize) {
            word.fetch_and(!(1 << (region % 64)), Ordering::Relaxed);
        }
    }

    /// Publishes that job `index` moves `block`: from now on readers leave it to the owner.
    pub(crate) fn begin_move(&self, index: usize, block: Block) {
        if let Some(place) = self.moving.get(index) {
            place.store(block.0, Edge::MoveEnded.order(Ordering::Release));
            // Who sees the count sees the place. C11 does not rest on it, but on the fences around a grace call.
            self.moving_count.fetch_add(1, Ordering::Release);
        }
    }

    /// The move of job `index` is over.
    pub(crate) fn end_move(&self, index: usize) {
        if let Some(place) = self.moving.get(index) {
            place.store(NOWHERE, Edge::MoveEnded.order(Ordering::Release));
            self.moving_count.fetch_sub(1, Edge::LastMoveEnded.order(Ordering::Release));
        }
    }
}

fn stretch_of(found: Option<HotEntry>, block: u64, end: u64) -> Stretch {
    let Some(entry) = found else { return Stretch { blocks: end - block, placement: Placement::Main } };
    if entry.block > block {
        return Stretch { blocks: entry.block.min(end) - block, placement: Placement::Main };
    }
    let blocks = entry.block.saturating_add(u64::from(entry.count)).min(end) - block;
    let placement = match entry.slot {
        SLOW => Placement::Slow,
        slot => Placement::Settled(Slot(slot + (block - entry.block))),
    };
    Stretch { blocks, placement }
}

#[cfg(all(test, any(loom, shuttle)))]
mod models;
