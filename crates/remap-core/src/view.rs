//! What readers on other threads see of the table, without locks and without allocation.
//!
//! Invariant: outside of a `Change` a look-up finds what the table says; one that overlapped a change is noticed by the
//! version and repeated, at most `RETRIES` times, after which the answer is "ask the owner", which is always right.
//! Nothing is ever freed while the view lives, and what is used again is used again within a change, so a reader never follows a
//! dead pointer, and never believes what it found at the end of an old one.
//!
//! Three stages, cheapest first: a bit per region of the device (nearly every look-up ends there), the tree down to a leaf, the
//! sorted pieces of the leaf. Blocks that are about to move are in a short list of their own (C11).

use alloc::vec::Vec;
use core::ops::Range;

use crate::memory::{self, NoMemory};
use crate::sync::{AtomicU64, AtomicUsize, Edge, Ordering, spin_loop};
use crate::table::pages::{Pages, begun_by};
use crate::table::pieces::offset;
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
const MIN_REGION_SHIFT: u32 = 2;
const NOWHERE: u64 = u64::MAX;

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

/// The readers' side of a [`crate::table::Table`].
#[derive(Debug)]
pub struct View {
    version: AtomicU64,
    region_shift: u32,
    summary: Vec<AtomicU64>,
    pages: Pages,
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
            pages: Pages::create(blocks)?,
            moving_count: AtomicUsize::new(0),
            moving: core::array::from_fn(|_| AtomicU64::new(NOWHERE)),
        })
    }

    pub(crate) fn pages(&self) -> &Pages {
        &self.pages
    }

    /// A stretch that begins at `block` and ends at `end` or before; the caller goes on behind it. `block < end`.
    #[inline]
    #[must_use]
    pub fn first(&self, block: Block, end: Block) -> Stretch {
        let (block, end) = (block.0, end.0);
        debug_assert!(block < end, "an empty range has no stretch");
        if self.moving_count.load(Edge::MovingCounted.order(Ordering::Acquire)) != 0 {
            return self.first_beside_moving(block, end);
        }
        self.settled(block, end)
    }

    /// The same where nothing moves.
    #[inline]
    fn settled(&self, block: u64, end: u64) -> Stretch {
        let begin = self.stretch_at(block, end);
        if begin.placement == Placement::Main && begin.blocks < end - block {
            return self.main_from(block, end, begin.blocks);
        }
        begin
    }

    /// `block` is on the main device with so many blocks; how many more are? A long request is not to be cut where a region ends.
    #[inline(never)]
    fn main_from(&self, block: u64, end: u64, mut blocks: u64) -> Stretch {
        while blocks < end - block {
            let next = self.stretch_at(block + blocks, end);
            if next.placement != Placement::Main {
                break;
            }
            blocks += next.blocks;
        }
        Stretch { blocks, placement: Placement::Main }
    }

    /// A stretch that ends at a region, a word of the summary, or a page at the latest.
    #[inline]
    fn stretch_at(&self, block: u64, end: u64) -> Stretch {
        let region = block >> self.region_shift;
        let word = self.summary.get((region / 64) as usize).map_or(0, |word| word.load(Ordering::Relaxed));
        let marks = word >> (region % 64);
        if marks & 1 != 0 {
            return self.look_up(block, end);
        }
        // Up to the next mark, or to the end of the word.
        let unmarked = u64::from(marks.trailing_zeros()).min(64 - region % 64);
        let until = (region + unmarked) << self.region_shift;
        Stretch { blocks: until.min(end) - block, placement: Placement::Main }
    }

    #[cold]
    fn first_beside_moving(&self, block: u64, end: u64) -> Stretch {
        // A place that was given up, even to another block, shows what became of the block that had it.
        let places = self.moving.iter().map(|m| m.load(Edge::MovingRead.order(Ordering::Acquire)));
        match places.filter(|moving| (block..end).contains(moving)).min() {
            Some(moving) if moving == block => Stretch { blocks: 1, placement: Placement::Slow },
            moving => self.settled(block, moving.unwrap_or(end)),
        }
    }

    /// For a reader that does not call [`View::first`] (the kernel's): a bit per region, how many blocks are moving, and the blocks of
    /// a region as a power of two. A stretch whose regions have their bits in one word is on the main device if nothing moves (read first,
    /// and acquired) and none of these bits is set; who finds anything else asks [`View::first`].
    #[must_use]
    pub fn summary(&self) -> (&[AtomicU64], &AtomicUsize, u32) {
        (&self.summary, &self.moving_count, self.region_shift)
    }

    /// The answer where the summary has none.
    #[inline(never)]
    fn look_up(&self, block: u64, end: u64) -> Stretch {
        for _ in 0..RETRIES {
            let before = self.version.load(Edge::LookupBegun.order(Ordering::Acquire));
            if before & 1 == 0 {
                let (blocks, placement) = self.search(block);
                Edge::LookupEnded.fence(Ordering::Acquire);
                if self.version.load(Ordering::Relaxed) == before {
                    return Stretch { blocks: blocks.min(end - block), placement };
                }
            }
            spin_loop();
        }
        Stretch { blocks: end - block, placement: Placement::Slow }
    }

    /// What the tree says of `block`, and of how many blocks from there on. Whatever it meets, it ends: a look-up that overlaps a change
    /// can find anything.
    #[inline]
    fn search(&self, block: u64) -> (u64, Placement) {
        let Some(node) = self.pages.node(block) else { return (u64::MAX, Placement::Main) };
        let pieces = self.pages.units.pieces(node.header);
        let offset = offset(block);
        let begun = begun_by(pieces, offset);
        if let Some(unit) = pieces.get(begun.wrapping_sub(1)) {
            let words = unit.load();
            if (words.offset()..words.end()).contains(&offset) {
                // Never negative here; said so that the optimizer sees that the index stays in its bits, and look-ups cannot panic.
                let slot = words.slot().map(|slot| slot.offset(offset.saturating_sub(words.offset())));
                return (words.end() - offset, slot.map_or(Placement::Slow, Placement::Settled));
            }
        }
        let next = pieces.get(begun).map(|unit| unit.offset().wrapping_sub(offset));
        (next.unwrap_or(node.end(block) - block), Placement::Main)
    }

    pub(crate) fn change(&self) -> Change<'_> {
        let version = self.version.load(Ordering::Relaxed);
        self.version.store(version.wrapping_add(1), Ordering::Relaxed);
        Edge::ChangeBegun.fence(Ordering::Release);
        Change(self)
    }

    /// The regions in which these blocks are.
    pub(crate) fn regions(&self, block: u64, end: u64) -> Range<u64> {
        block >> self.region_shift..(end.saturating_sub(1) >> self.region_shift) + 1
    }

    /// First block of a region, and the one behind its last.
    pub(crate) fn region_blocks(&self, region: u64) -> (u64, u64) {
        (region << self.region_shift, (region + 1) << self.region_shift)
    }

    /// Notes that the regions of these blocks hold entries.
    pub(crate) fn mark(&self, block: u64, end: u64) {
        self.each_word(self.regions(block, end), |word, regions| word | regions);
    }

    /// Notes that these regions hold none.
    pub(crate) fn unmark(&self, regions: Range<u64>) {
        self.each_word(regions, |word, regions| word & !regions);
    }

    /// Changes the summary, a word at a time. Nobody but the owner writes it.
    fn each_word(&self, regions: Range<u64>, change: impl Fn(u64, u64) -> u64) {
        let mut at = regions.start;
        while at < regions.end {
            let Some(word) = self.summary.get((at / 64) as usize) else { return };
            let len = (64 - at % 64).min(regions.end - at);
            let (old, mask) = (word.load(Ordering::Relaxed), u64::MAX >> (64 - len) << (at % 64));
            if change(old, mask) != old {
                word.store(change(old, mask), Ordering::Relaxed);
            }
            at += len;
        }
    }

    /// The block that job `index` works on, for whoever drives the engine; the owner's thread only.
    #[must_use]
    pub fn moving(&self, index: usize) -> Option<Block> {
        let block = self.moving.get(index)?.load(Ordering::Relaxed);
        (block != NOWHERE).then_some(Block(block))
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

#[cfg(all(test, any(loom, shuttle)))]
mod models;

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    /// As long as a change lasts, readers are sent to the owner with all that they asked for.
    #[test]
    fn the_owner_answers_while_the_table_changes() {
        let view = View::create(2000).expect("memory");
        view.mark(700, 701);
        let first = || view.first(Block(701), Block(704));
        let change = view.change();
        assert_eq!(first(), Stretch { blocks: 3, placement: Placement::Slow });
        drop(change);
        assert_eq!(first(), Stretch { blocks: 3, placement: Placement::Main });
    }
}
