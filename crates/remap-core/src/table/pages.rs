//! The tree that owner and readers walk: pages, and what is inside of pages with many pieces.
//!
//! Invariant: a node covers a power of two of blocks and begins at a multiple of it. It is empty, or a leaf (an array of pieces, sorted and
//! apart from each other, none beyond the node), or a directory of smaller nodes. No leaf is larger than [`LEAF_BITS`] say, and none has more than
//! [`LEAF_PIECES`] pieces. Outside of a change of the view each unit belongs to one node.

use alloc::vec::Vec;

use remap_format::Entry;

use super::pieces::{Header, LEAF_BITS, SMALL_BITS, Unit, Wide, Words, offset};
use super::store::Units;
use crate::memory::{self, NoMemory};
use crate::sync::{AtomicU64, Ordering};

const MODEL: bool = cfg!(any(loom, shuttle));
/// Least blocks of a page, as a power of two.
const MIN_PAGE_BITS: u32 = if MODEL { LEAF_BITS } else { 8 };
/// Most pages, as a power of two.
const PAGES_BITS: u32 = if MODEL { 2 } else { 16 };
/// Most nodes in a directory, as a power of two.
const FAN_BITS: u32 = LEAF_BITS - SMALL_BITS;

/// Where the header of a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Page(usize),
    /// A unit, and which of its words.
    Unit(u32, usize),
}

/// A node that is no directory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Node {
    pub(super) place: Place,
    /// Blocks, as a power of two.
    pub(super) bits: u32,
    pub(crate) header: Header,
}

impl Node {
    /// The block behind the node that holds `block`.
    #[inline]
    pub(crate) fn end(&self, block: u64) -> u64 {
        ((block >> self.bits) + 1) << self.bits
    }

    pub(super) fn begins_at(&self, block: u64) -> bool {
        block.trailing_zeros() >= self.bits
    }
}

/// Size of the nodes in a directory that covers `1 << bits` blocks; `None`: one so small is none.
#[inline]
pub(super) const fn inside(bits: u32) -> Option<u32> {
    if bits > LEAF_BITS + FAN_BITS {
        Some(bits - FAN_BITS)
    } else if bits > LEAF_BITS {
        Some(LEAF_BITS)
    } else if bits > SMALL_BITS {
        Some(SMALL_BITS)
    } else {
        None
    }
}

/// Units of a directory of so many nodes.
pub(super) const fn directory_units(fan_bits: u32) -> u32 {
    (1u32 << fan_bits).div_ceil(2)
}

/// All pieces, as owner and readers find them.
#[derive(Debug)]
pub(crate) struct Pages {
    pub(super) bits: u32,
    headers: Vec<AtomicU64>,
    pub(crate) units: Units,
}

impl Pages {
    pub(crate) fn create(blocks: u64) -> Result<Self, NoMemory> {
        let mut bits = MIN_PAGE_BITS;
        while blocks.div_ceil(1 << bits) > 1 << PAGES_BITS {
            bits += 1;
        }
        let len = usize::try_from(blocks.div_ceil(1 << bits)).map_err(|_| NoMemory)?;
        let mut headers = memory::list(len)?;
        memory::extend(&mut headers, len, (0..len).map(|_| AtomicU64::new(0)));
        Ok(Self { bits, headers, units: Units::none() })
    }

    /// Pages there are.
    pub(super) fn count(&self) -> usize {
        self.headers.len()
    }

    /// The page that holds a block, whatever is in it; `None` behind the last one.
    #[inline]
    pub(super) fn page(&self, block: u64) -> Option<Node> {
        let page = (block >> self.bits) as usize;
        let header = Header(self.headers.get(page)?.load(Ordering::Relaxed));
        Some(Node { place: Place::Page(page), bits: self.bits, header })
    }

    /// The leaf or empty node that holds a block; `None` behind the last page.
    #[inline]
    pub(crate) fn node(&self, block: u64) -> Option<Node> {
        let node = self.page(block)?;
        if node.header.is_directory() { self.node_inside(node, block) } else { Some(node) }
    }

    fn node_inside(&self, mut node: Node, block: u64) -> Option<Node> {
        while node.header.is_directory() {
            // Only a reader that met a change can find a directory below the smallest node.
            node = self.child(node, block, inside(node.bits)?)?;
        }
        Some(node)
    }

    /// The node of `1 << bits` blocks in a directory that holds `block`.
    pub(super) fn child(&self, directory: Node, block: u64, bits: u32) -> Option<Node> {
        let child = (block >> bits) & ((1 << (directory.bits - bits)) - 1);
        let (unit, word) = (directory.header.at() + (child / 2) as u32, child as usize % 2);
        let header = Header(self.units.unit(unit)?.0.get(word)?.load(Ordering::Relaxed));
        Some(Node { place: Place::Unit(unit, word), bits, header })
    }

    /// The smallest directory that holds `block`.
    pub(super) fn directory(&self, block: u64) -> Option<Node> {
        let mut node = self.page(block)?;
        let mut found = None;
        while node.header.is_directory() {
            found = Some(node);
            node = self.child(node, block, inside(node.bits)?)?;
        }
        found
    }

    pub(super) fn set(&self, place: Place, header: Header) {
        let word = match place {
            Place::Page(page) => self.headers.get(page),
            Place::Unit(unit, word) => self.units.unit(unit).and_then(|unit| unit.0.get(word)),
        };
        if let Some(word) = word {
            word.store(header.0, Ordering::Relaxed);
        }
    }

    pub(super) fn wide(&self, words: Words) -> Option<Wide> {
        let at = words.wide()?;
        Some(Wide::of_words([self.units.load(at), self.units.load(at + 1)]))
    }

    /// The entry of a piece in the leaf of `block`.
    pub(super) fn entry(&self, unit: &Unit, block: u64) -> Entry {
        let words = unit.load();
        words.entry(block, self.wide(words))
    }

    /// The piece that holds a block.
    pub(super) fn piece(&self, block: u64) -> Option<Entry> {
        let pieces = self.units.pieces(self.node(block)?.header);
        let unit = pieces.get(ending_by(pieces, offset(block)))?;
        Some(self.entry(unit, block)).filter(|piece| piece.block <= block)
    }
}

/// So few pieces are counted, not searched: no look waits for the one before, nor for what it has to fetch from memory.
const COUNTED: usize = 64;

/// How many pieces begin at or before this offset.
#[inline]
pub(crate) fn begun_by(pieces: &[Unit], offset: u64) -> usize {
    let begun = |unit: &Unit| unit.offset() <= offset;
    if pieces.len() <= COUNTED {
        return pieces.iter().filter(|unit| begun(unit)).count();
    }
    pieces.partition_point(begun)
}

/// How many pieces end at or before this offset.
pub(super) fn ending_by(pieces: &[Unit], offset: u64) -> usize {
    let begun = begun_by(pieces, offset);
    let holds =
        begun.checked_sub(1).and_then(|last| pieces.get(last)).is_some_and(|u| u.load().end() > offset);
    if holds { begun - 1 } else { begun }
}
