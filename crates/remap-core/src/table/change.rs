//! What only the owner knows of the table, and how it changes what readers see.
//!
//! Invariant: no two pieces of a leaf could be one, so an entry is one piece in each leaf that it reaches into; all its pieces count the same
//! errors. `used` has a bit for each page that is not empty. A change takes no more units than [`Owner::prepare`] reserved.

use alloc::vec::Vec;

use arrayvec::ArrayVec;
use remap_format::{Entry, EntryState, kept_time};

use super::pages::{Node, Pages, Place, directory_units, ending_by, inside};
use super::pieces::{
    Header, LEAF_BITS, LEAF_PIECES, SMALL_BITS, Unit, WIDE_UNITS, Words, offset, place_of, wide_at,
};
use super::store::{Arrays, capacity};
use super::{TableCounts, mergeable, part};
use crate::memory::{self, NoMemory};

/// Pieces that an edit adds to a leaf: it cuts one into two and is one itself.
const GROWTH: usize = 2;
/// Pieces that an edit writes into a leaf: itself and what it cut, or joined, on both sides.
const WRITTEN: usize = 3;

/// The owner's side.
#[derive(Debug)]
pub(super) struct Owner {
    arrays: Arrays,
    used: Vec<u64>,
    counts: TableCounts,
    /// Mask of a block that is lost as a whole.
    whole: u128,
}

impl Owner {
    pub(super) fn create(pages: &Pages, whole: u128) -> Result<Self, NoMemory> {
        let words = pages.count().div_ceil(64);
        let mut used = memory::list(words)?;
        memory::resize(&mut used, words, 0);
        Ok(Self { arrays: Arrays::none(), used, counts: TableCounts::default(), whole })
    }

    pub(super) fn counts(&self) -> TableCounts {
        self.counts
    }

    pub(super) fn bytes(&self) -> u64 {
        self.arrays.units() * size_of::<Unit>() as u64
    }

    /// The first piece that ends behind `from` and begins before `end`.
    pub(super) fn next_piece(&self, pages: &Pages, from: u64, end: u64) -> Option<Entry> {
        let mut at = from;
        while at < end {
            let node = pages.node(at)?;
            let pieces = pages.units.pieces(node.header);
            if let Some(unit) = pieces.get(ending_by(pieces, offset(at))) {
                return Some(pages.entry(unit, at)).filter(|piece| piece.block < end);
            }
            at = node.end(at);
            if at.trailing_zeros() >= pages.bits {
                at = self.next_used((at >> pages.bits) as usize)? << pages.bits;
            }
        }
        None
    }

    /// The first page from this one on that holds anything.
    fn next_used(&self, page: usize) -> Option<u64> {
        let mut mask = u64::MAX << (page % 64);
        for (at, word) in self.used.iter().enumerate().skip(page / 64) {
            if word & mask != 0 {
                return Some(at as u64 * 64 + u64::from((word & mask).trailing_zeros()));
            }
            mask = u64::MAX;
        }
        None
    }

    /// The whole entry that a piece is part of.
    pub(super) fn whole_run(&self, pages: &Pages, piece: Entry) -> Entry {
        let mut run = piece;
        while let Some(before) = self.joined(pages, run.block) {
            let errors = run.errors.max(before.errors);
            run = Entry { count: before.count + run.count, errors, ..before };
        }
        while self.joined(pages, run.end()).is_some() {
            let Some(behind) = pages.piece(run.end()) else { break };
            run.count += behind.count;
            run.errors = run.errors.max(behind.errors);
        }
        run
    }

    /// The piece that ends where another begins with which it could be one: within a leaf there are no such.
    fn joined(&self, pages: &Pages, border: u64) -> Option<Entry> {
        // Most pieces do not touch the border of any leaf.
        if border.trailing_zeros() < SMALL_BITS.min(pages.bits) || border == 0 {
            return None;
        }
        let behind = pages.piece(border)?;
        pages.piece(border - 1).filter(|before| mergeable(before, &behind, self.whole))
    }

    /// Sees to it that these edits can be applied.
    pub(super) fn prepare(&mut self, pages: &Pages, edits: &[Entry]) -> Result<(), NoMemory> {
        let edits = || edits.iter().filter(|edit| edit.state != EntryState::Retired);
        let growth = GROWTH * edits().count();
        let needed = edits().map(|edit| need(pages, edit, growth)).fold(0, u64::saturating_add);
        self.arrays.reserve(&pages.units, needed)
    }

    /// Puts `edit` in place of what there is of its blocks.
    pub(super) fn apply(&mut self, pages: &Pages, edit: &Entry) {
        let present = edit.state != EntryState::Absent;
        let edit = Entry { time: kept_time(edit.time), ..*edit };
        let mut at = edit.block;
        while at < edit.end() {
            let Some(node) = pages.node(at) else {
                assert!(!present, "an entry behind the end of the device");
                break;
            };
            let end = node.end(at).min(edit.end());
            if node.header.is_empty() && !present {
                at = end;
                if at.trailing_zeros() >= pages.bits {
                    let Some(used) = self.next_used((at >> pages.bits) as usize) else { break };
                    at = used << pages.bits;
                }
            } else if node.bits > LEAF_BITS {
                self.open(pages, node);
            } else if node.header.len() + GROWTH > LEAF_PIECES && node.bits > SMALL_BITS {
                self.divide(pages, node, at);
            } else {
                self.put(pages, node, (at, end), present.then_some(&edit));
                at = end;
            }
        }
        if present {
            self.level_errors(pages, edit.block);
            if edit.count > 1 {
                self.level_errors(pages, edit.end() - 1);
            }
        }
    }

    /// All pieces of the entry of a block count as many errors as the worst of them.
    fn level_errors(&self, pages: &Pages, block: u64) {
        let Some(piece) = pages.piece(block) else { return };
        let run = self.whole_run(pages, piece);
        let mut at = run.block;
        while at < run.end() && run.count != piece.count {
            let Some(node) = pages.node(at) else { return };
            let pieces = pages.units.pieces(node.header);
            let Some(unit) = pieces.get(ending_by(pieces, offset(at))) else { return };
            let words = unit.load();
            if words.errors() != run.errors {
                unit.store(words.with_errors(run.errors));
            }
            at += words.count();
        }
    }

    /// Changes blocks `from..end` of a leaf.
    fn put(&mut self, pages: &Pages, node: Node, (from, end): (u64, u64), edit: Option<&Entry>) {
        let pieces = pages.units.pieces(node.header);
        let borders = [(from, node.begins_at(from)), (end, node.begins_at(end))];
        let borders = borders.map(|(border, of_leaf)| of_leaf.then_some(border));
        self.count_joins(pages, borders, 1);
        let mut first = ending_by(pieces, offset(from));
        let mut behind = first;
        while pieces.get(behind).is_some_and(|unit| unit.offset() <= offset(end - 1)) {
            behind += 1;
        }
        let at = |index: usize| pieces.get(index).map(|unit| pages.entry(unit, from));
        let mut left = at(first).filter(|e| e.block < from).map(|e| part(&e, e.block, from - e.block));
        let mut right =
            at(behind.wrapping_sub(1)).filter(|e| e.end() > end).map(|e| part(&e, end, e.end() - end));
        let mine = edit.map(|edit| part(edit, from, end - from));
        if let Some(mine) = &mine {
            if left.is_none() && first > 0 {
                left = at(first - 1).filter(|e| mergeable(e, mine, self.whole));
                first -= usize::from(left.is_some());
            }
            if right.is_none() {
                right = at(behind).filter(|e| mergeable(mine, e, self.whole));
                behind += usize::from(right.is_some());
            }
        }
        for unit in pieces.get(first..behind).unwrap_or_default() {
            self.counts.add(&pages.entry(unit, from), -1);
            self.forget_wide(pages, unit.load());
        }
        let mut written = ArrayVec::<Entry, WRITTEN>::new();
        for piece in [left, mine, right].into_iter().flatten() {
            match written.last_mut() {
                Some(last) if mergeable(last, &piece, self.whole) => {
                    last.count += piece.count;
                    last.errors = last.errors.max(piece.errors);
                }
                _ => written.push(piece),
            }
        }
        let mut words = ArrayVec::<Words, WRITTEN>::new();
        for piece in &written {
            self.counts.add(piece, 1);
            words.push(self.words(pages, piece));
        }
        self.replace(pages, node, (first, behind), &words);
        if words.is_empty() && behind - first == pieces.len() {
            self.close(pages, from);
        }
        self.count_joins(pages, borders, -1);
    }

    /// Two pieces of one entry, at the border of two leaves, are not two entries.
    fn count_joins(&mut self, pages: &Pages, borders: [Option<u64>; 2], sign: i64) {
        for border in borders.into_iter().flatten() {
            if self.joined(pages, border).is_some() {
                self.counts.entries = self.counts.entries.wrapping_add_signed(sign);
            }
        }
    }

    /// What is stored for a piece.
    fn words(&mut self, pages: &Pages, piece: &Entry) -> Words {
        let place = place_of(piece).unwrap_or_else(|wide| {
            let at = self.arrays.take(&pages.units, WIDE_UNITS);
            for (unit, words) in (at..).zip(wide.words()) {
                pages.units.store(unit, words);
            }
            wide_at(at)
        });
        Words::of(piece, place)
    }

    fn forget_wide(&mut self, pages: &Pages, piece: Words) {
        if let Some(at) = piece.wide() {
            self.arrays.give(&pages.units, at, WIDE_UNITS);
        }
    }

    /// Puts pieces in place of pieces `first..behind` of a leaf.
    fn replace(&mut self, pages: &Pages, node: Node, (first, behind): (usize, usize), with: &[Words]) {
        let header = node.header;
        let old = pages.units.pieces(header);
        let len = old.len() - (behind - first) + with.len();
        if len == 0 {
            self.arrays.give(&pages.units, header.at(), header.room());
            return self.set(pages, node.place, Header::EMPTY);
        }
        let room = capacity(len) as u32;
        let stays = len as u32 <= header.room() && header.room() <= 2 * room;
        let (at, room) =
            if stays { (header.at(), header.room()) } else { (self.arrays.take(&pages.units, room), room) };
        let new = pages.units.stretch(at, len).unwrap_or_default();
        let head = if stays { 0 } else { first };
        copy(old.get(..head), new.get(..head));
        let (tail, place) = (old.get(behind..), new.get(first + with.len()..));
        if first + with.len() > behind {
            copy_back(tail, place)
        } else {
            copy(tail, place)
        }
        for (unit, words) in new.iter().skip(first).zip(with) {
            unit.store(*words);
        }
        self.set(pages, node.place, Header::array(at, len, room as usize));
        if !stays && !header.is_empty() {
            self.arrays.give(&pages.units, header.at(), header.room());
        }
    }

    fn set(&mut self, pages: &Pages, place: Place, header: Header) {
        if let Place::Page(page) = place
            && let Some(word) = self.used.get_mut(page / 64)
        {
            *word = *word & !(1 << (page % 64)) | u64::from(!header.is_empty()) << (page % 64);
        }
        pages.set(place, header);
    }

    /// Makes a directory of empty nodes; gives its units.
    fn new_directory(&mut self, pages: &Pages, fan_bits: u32) -> u32 {
        let len = directory_units(fan_bits);
        let at = self.arrays.take(&pages.units, len);
        for unit in at..at + len {
            pages.units.store(unit, Words(0, 0));
        }
        at
    }

    /// Makes an empty node that is too large for a leaf a directory.
    fn open(&mut self, pages: &Pages, node: Node) {
        let Some(inner) = inside(node.bits) else { return };
        let at = self.new_directory(pages, node.bits - inner);
        self.set(pages, node.place, Header::directory(at));
    }

    /// Makes empty nodes of directories around this block without anything in them.
    fn close(&mut self, pages: &Pages, block: u64) {
        while let Some(directory) = pages.directory(block) {
            let fan_bits = directory.bits - inside(directory.bits).unwrap_or(directory.bits);
            let (at, len) = (directory.header.at(), directory_units(fan_bits));
            if (at..at + len).any(|unit| pages.units.load(unit) != Words(0, 0)) {
                return;
            }
            self.arrays.give(&pages.units, at, len);
            self.set(pages, directory.place, Header::EMPTY);
        }
    }

    /// Makes a leaf that is nearly full a directory of smaller leaves.
    fn divide(&mut self, pages: &Pages, node: Node, block: u64) {
        let Some(inner) = inside(node.bits) else { return };
        let pieces = pages.units.pieces(node.header);
        let directory = self.new_directory(pages, node.bits - inner);
        let begin = block >> node.bits << node.bits;
        for child in 0..1 << (node.bits - inner) {
            let from = begin + (child << inner);
            let end = from + (1 << inner);
            let first = ending_by(pieces, offset(from));
            let behind = super::pages::begun_by(pieces, offset(end - 1));
            if first < behind {
                let room = capacity(behind - first);
                let at = self.arrays.take(&pages.units, room as u32);
                for (to, unit) in (at..).zip(pieces.get(first..behind).unwrap_or_default()) {
                    let words = self.clipped(pages, unit, from, end);
                    pages.units.store(to, words);
                }
                let place = Place::Unit(directory + (child / 2) as u32, child as usize % 2);
                self.set(pages, place, Header::array(at, behind - first, room));
            }
        }
        for unit in pieces {
            let words = unit.load();
            if crosses(words, inner) {
                self.forget_wide(pages, words);
            }
        }
        self.set(pages, node.place, Header::directory(directory));
        self.arrays.give(&pages.units, node.header.at(), node.header.room());
    }

    /// What of a piece lies in blocks `from..end`.
    fn clipped(&mut self, pages: &Pages, unit: &Unit, from: u64, end: u64) -> Words {
        let words = unit.load();
        if !crosses(words, (end - from).trailing_zeros()) {
            return words;
        }
        let piece = pages.entry(unit, from);
        let (first, behind) = (piece.block.max(from), piece.end().min(end));
        self.words(pages, &part(&piece, first, behind - first))
    }
}

/// Does a piece reach into several nodes of this size?
fn crosses(words: Words, bits: u32) -> bool {
    words.offset() >> bits != (words.end() - 1) >> bits
}

/// Copies pieces, the first one first.
fn copy(from: Option<&[Unit]>, to: Option<&[Unit]>) {
    for (from, to) in from.unwrap_or_default().iter().zip(to.unwrap_or_default()) {
        to.store(from.load());
    }
}

/// Copies pieces, the last one first.
fn copy_back(from: Option<&[Unit]>, to: Option<&[Unit]>) {
    for (from, to) in from.unwrap_or_default().iter().zip(to.unwrap_or_default()).rev() {
        to.store(from.load());
    }
}

/// Units of a wide record for each piece that an edit writes into a leaf.
const RECORDS: u64 = WRITTEN as u64 * WIDE_UNITS as u64;
/// Leaves that come of one.
const PARTS: usize = 1 << (LEAF_BITS - SMALL_BITS);

/// Most units of an array, and of the records of what an edit writes there.
const fn array(pieces: usize) -> u64 {
    let most = if pieces < LEAF_PIECES { pieces } else { LEAF_PIECES };
    capacity(most) as u64 + RECORDS
}

/// Most units for an edit that divides a leaf, or finds it divided by an edit before it: `growth` pieces come together.
fn divided(growth: usize) -> u64 {
    // The directory, all arrays, records for the parts of what reached over a border. Then an array with 16 pieces or more has room for
    // what the edit adds at each of its ends.
    const DIVIDING: u64 = directory_units(LEAF_BITS - SMALL_BITS) as u64
        + capacity(LEAF_PIECES + PARTS) as u64
        + 2 * PARTS as u64 * WIDE_UNITS as u64
        + 2 * array(16 + GROWTH);
    // Or else what the two leaves at its ends hold, which was in one.
    DIVIDING.max(capacity(LEAF_PIECES + growth) as u64 + 2 * RECORDS)
}

/// Most units that one of several edits can take, which together add `growth` pieces to a leaf.
fn need(pages: &Pages, edit: &Entry, growth: usize) -> u64 {
    let (block, last) = (edit.block, edit.end() - 1);
    let nodes = |bits: u32| (last >> bits) - (block >> bits) + 1;
    let present = edit.state != EntryState::Absent;
    // The piece that a leaf with nothing else in it gets.
    let alone = match place_of(edit) {
        _ if !present => 0,
        Ok(_) => 1,
        Err(_) => 1 + u64::from(WIDE_UNITS),
    };
    // What may be in leaves that are empty now, at both ends; a piece in each of those between, and the way to them.
    let leaf_bits = pages.bits.min(LEAF_BITS);
    let mut units = 2 * array(growth) + nodes(leaf_bits) * alone;
    let mut bits = pages.bits;
    while present && bits > LEAF_BITS {
        let inner = inside(bits).unwrap_or(LEAF_BITS);
        units += nodes(bits) * u64::from(directory_units(bits - inner));
        bits = inner;
    }
    // So many edits may fill any leaf first.
    if growth > LEAF_PIECES {
        units += nodes(leaf_bits) * (divided(growth) + PARTS as u64 * alone);
    }
    let mut at = block;
    while at <= last {
        let Some(node) = pages.node(at) else { break };
        let (held, pieces) = (!node.header.is_empty(), node.header.len() + growth);
        if held && pieces > LEAF_PIECES && node.bits > SMALL_BITS {
            let within = (node.end(at) - 1).min(last) - at;
            units += divided(growth) + ((within >> SMALL_BITS) + 2) * alone;
        } else if held || node.bits < leaf_bits {
            units += array(pieces);
        }
        at = node.end(at);
    }
    units
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests;
