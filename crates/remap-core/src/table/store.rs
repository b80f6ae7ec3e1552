//! Where pieces are kept: units that are never moved or freed, and arrays of them that are used again.
//!
//! Invariant of [`Arrays`]: every unit below `fresh` is in exactly one array or in exactly one free stretch; a stretch lies in one slab, has its
//! length in its first and last unit and is in the list of its length; no two stretches touch. What was reserved can be taken
//! from units that were never used, whatever the lists hold.

use alloc::vec::Vec;

use once_cell::race::OnceBox;

use super::pieces::{Header, LEAF_PIECES, Unit, Words};
use crate::memory::{self, NoMemory};

const MODEL: bool = cfg!(any(loom, shuttle));
/// Units of a slab (64 KiB).
const SLAB: usize = if MODEL { 32 } else { 4096 };
/// Slabs of a shelf.
const SHELF: usize = if MODEL { 4 } else { 256 };
/// 65536 slabs: 4 GiB, more than a table with as many entries as a volume can have.
const SHELVES: usize = if MODEL { 4 } else { 256 };
/// Units of the largest array.
const LARGEST: u32 = capacity(LEAF_PIECES) as u32;

/// Units of an array for so many pieces: an eighth more, so that not every insert moves it.
pub(super) const fn capacity(pieces: usize) -> usize {
    pieces + pieces / 8
}

type Slab = [Unit; SLAB];
type Shelf = [OnceBox<Slab>; SHELF];

/// All units there are, for the owner and for readers.
#[derive(Debug)]
pub(crate) struct Units {
    shelves: [OnceBox<Shelf>; SHELVES],
}

impl Units {
    pub(super) fn none() -> Self {
        Self { shelves: core::array::from_fn(|_| OnceBox::new()) }
    }

    #[inline]
    fn slab(&self, slab: usize) -> Option<&Slab> {
        self.shelves.get(slab / SHELF)?.get()?.get(slab % SHELF)?.get()
    }

    /// A stretch of units within a slab. A reader that meets a change may ask for what there is not.
    #[inline]
    pub(crate) fn stretch(&self, at: u32, len: usize) -> Option<&[Unit]> {
        let from = at as usize % SLAB;
        self.slab(at as usize / SLAB)?.get(from..from + len)
    }

    #[inline]
    pub(crate) fn unit(&self, at: u32) -> Option<&Unit> {
        self.slab(at as usize / SLAB)?.get(at as usize % SLAB)
    }

    /// The pieces that a header names.
    #[inline]
    pub(crate) fn pieces(&self, header: Header) -> &[Unit] {
        self.stretch(header.at(), header.len()).unwrap_or_default()
    }

    pub(super) fn load(&self, at: u32) -> Words {
        self.unit(at).map_or(Words(0, 0), Unit::load)
    }

    pub(super) fn store(&self, at: u32, words: Words) {
        if let Some(unit) = self.unit(at) {
            unit.store(words);
        }
    }

    /// Makes slab number `slab`, the next one.
    fn grow(&self, slab: usize) -> Result<(), NoMemory> {
        let Some(shelf) = self.shelves.get(slab / SHELF) else { return Err(NoMemory) };
        if shelf.get().is_none() {
            // Only the owner grows, so nobody can have set it in between.
            let _ = shelf.set(memory::array(OnceBox::new)?);
        }
        let slabs = shelf.get().ok_or(NoMemory)?;
        let place = slabs.get(slab % SHELF).ok_or(NoMemory)?;
        let _ = place.set(memory::array(Unit::zero)?);
        Ok(())
    }
}

/// The end of a list of free stretches.
const NONE: u32 = u32::MAX;
/// Stretches up to this length have a list for each length.
const EXACT: u32 = 64;
/// Lists for each doubling of the length above, as a power of two.
const STEP_BITS: u32 = 3;
/// Lists: one for each length up to 64, eight for each doubling up to a whole slab.
const LISTS: usize = 64 + 7 * 8;

/// The list in which a free stretch of this length is.
fn list_of(len: u32) -> u32 {
    if len <= EXACT {
        return len - 1;
    }
    let top = len.ilog2();
    let step = (len >> (top - STEP_BITS)) & ((1 << STEP_BITS) - 1);
    EXACT + ((top - EXACT.ilog2()) << STEP_BITS) + step
}

/// The first list of which every stretch has this length at least.
fn list_for(len: u32) -> u32 {
    if len <= EXACT {
        return len - 1;
    }
    list_of(len + (1 << (len.ilog2() - STEP_BITS)) - 1)
}

/// What the owner knows of the units: which are free.
#[derive(Debug)]
pub(super) struct Arrays {
    heads: [u32; LISTS],
    /// Bit n: list n is not empty.
    lists: u128,
    /// A bit for each unit that is the first or the last one of a free stretch.
    edges: Vec<u64>,
    /// The first unit that was never used.
    fresh: u32,
    /// Units there are.
    limit: u32,
    /// Units that may still be taken before the next call of `reserve`.
    promised: u64,
}

impl Arrays {
    pub(super) fn none() -> Self {
        Self { heads: [NONE; LISTS], lists: 0, edges: Vec::new(), fresh: 0, limit: 0, promised: 0 }
    }

    /// Sees to it that arrays of `units` units together can be taken.
    pub(super) fn reserve(&mut self, units: &Units, needed: u64) -> Result<(), NoMemory> {
        while self.usable() < needed {
            let slab = self.limit as usize / SLAB;
            let limit = self.limit.checked_add(SLAB as u32).ok_or(NoMemory)?;
            let words = (limit as usize).div_ceil(64);
            self.edges.try_reserve(words - self.edges.len()).map_err(|_| NoMemory)?;
            units.grow(slab)?;
            memory::resize(&mut self.edges, words, 0);
            self.limit = limit;
        }
        self.promised = needed;
        Ok(())
    }

    /// Units there are.
    pub(super) fn units(&self) -> u64 {
        self.limit.into()
    }

    /// Units never used that arrays of any size can surely get: the end of a slab may be too short for the next one.
    fn usable(&self) -> u64 {
        let begun = self.limit.min(self.fresh.next_multiple_of(SLAB as u32)) - self.fresh;
        let whole = u64::from(self.limit - self.fresh - begun) / SLAB as u64;
        if whole == 0 {
            return u64::from(begun);
        }
        u64::from(begun.saturating_sub(LARGEST))
            + (whole - 1) * (SLAB as u64 - u64::from(LARGEST))
            + SLAB as u64
    }

    /// An array of `len` units, which hold anything.
    pub(super) fn take(&mut self, units: &Units, len: u32) -> u32 {
        debug_assert!(self.promised >= u64::from(len), "prepare() counts all that a change can take");
        self.promised = self.promised.saturating_sub(len.into());
        let lists = self.lists >> list_for(len);
        if lists == 0 {
            return self.take_fresh(units, len);
        }
        let list = list_for(len) + lists.trailing_zeros();
        let at = self.heads.get(list as usize).copied().unwrap_or(NONE);
        let found = units.load(at).1 as u32;
        self.unlink(units, at, found);
        if found > len {
            self.link(units, at + len, found - len);
        }
        at
    }

    fn take_fresh(&mut self, units: &Units, len: u32) -> u32 {
        let left = self.fresh.next_multiple_of(SLAB as u32) - self.fresh;
        if left != 0 && left < len {
            self.give(units, self.fresh, left);
            self.fresh += left;
        }
        let at = self.fresh;
        assert!(self.limit - at >= len, "prepare() reserved");
        self.fresh += len;
        at
    }

    /// Gives an array back; it becomes one stretch with those that it touches.
    pub(super) fn give(&mut self, units: &Units, mut at: u32, mut len: u32) {
        let slab = SLAB as u32;
        let end = at + len;
        if !end.is_multiple_of(slab) && self.is_edge(end) {
            let behind = units.load(end).1 as u32;
            self.unlink(units, end, behind);
            len += behind;
        }
        if !at.is_multiple_of(slab) && self.is_edge(at - 1) {
            let before = units.load(at - 1).1 as u32;
            at -= before;
            self.unlink(units, at, before);
            len += before;
        }
        self.link(units, at, len);
    }

    fn link(&mut self, units: &Units, at: u32, len: u32) {
        let list = list_of(len);
        let Some(head) = self.heads.get_mut(list as usize) else { return };
        let next = core::mem::replace(head, at);
        self.lists |= 1 << list;
        if next != NONE {
            let Words(links, length) = units.load(next);
            units.store(next, Words(links & u64::from(u32::MAX) | u64::from(at) << 32, length));
        }
        units.store(at + len - 1, Words(0, len.into()));
        units.store(at, Words(u64::from(NONE) << 32 | u64::from(next), len.into()));
        self.set_edges(at, len, true);
    }

    fn unlink(&mut self, units: &Units, at: u32, len: u32) {
        let Words(links, _) = units.load(at);
        let (before, next) = ((links >> 32) as u32, links as u32);
        if next != NONE {
            let Words(links, length) = units.load(next);
            units.store(next, Words(links & u64::from(u32::MAX) | u64::from(before) << 32, length));
        }
        if before != NONE {
            let Words(links, length) = units.load(before);
            units.store(before, Words(links & !u64::from(u32::MAX) | u64::from(next), length));
        } else {
            let list = list_of(len);
            if let Some(head) = self.heads.get_mut(list as usize) {
                *head = next;
            }
            if next == NONE {
                self.lists &= !(1 << list);
            }
        }
        self.set_edges(at, len, false);
    }

    fn is_edge(&self, at: u32) -> bool {
        self.edges.get(at as usize / 64).is_some_and(|word| word >> (at % 64) & 1 != 0)
    }

    fn set_edges(&mut self, at: u32, len: u32, to: bool) {
        for unit in [at, at + len - 1] {
            if let Some(word) = self.edges.get_mut(unit as usize / 64) {
                *word = *word & !(1 << (unit % 64)) | u64::from(to) << (unit % 64);
            }
        }
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
pub(super) mod tests {
    use alloc::collections::BTreeMap;

    use super::*;

    /// Free stretches by their first unit, found through the lists.
    fn free(arrays: &Arrays, units: &Units) -> BTreeMap<u32, u32> {
        let mut free = BTreeMap::new();
        for (list, &head) in (0..).zip(&arrays.heads) {
            assert_eq!(head != NONE, arrays.lists >> list & 1 != 0);
            let mut at = head;
            while at != NONE {
                let Words(links, len) = units.load(at);
                assert_eq!(list_of(len as u32), list);
                assert_eq!(free.insert(at, len as u32), None);
                at = links as u32;
            }
        }
        free
    }

    pub(in crate::table) fn promised(arrays: &Arrays) -> u64 {
        arrays.promised
    }

    /// Every unit that was used is in one array or in one stretch, and stretches do not touch.
    pub(in crate::table) fn check(arrays: &Arrays, units: &Units, taken: &BTreeMap<u32, u32>) {
        let free = free(arrays, units);
        let mut all: Vec<(u32, u32, bool)> = taken.iter().map(|(&at, &len)| (at, len, true)).collect();
        all.extend(free.iter().map(|(&at, &len)| (at, len, false)));
        all.sort_unstable();
        let mut end = 0;
        let mut before = true;
        for (at, len, used) in all {
            assert_eq!(at, end, "without gap or overlap");
            assert!(used || before || (at as usize).is_multiple_of(SLAB), "stretches at {at} touch");
            assert_eq!(at as usize / SLAB, (at + len - 1) as usize / SLAB, "within a slab");
            (end, before) = (at + len, used);
        }
        assert_eq!(end, arrays.fresh);
    }

    #[test]
    fn every_unit_is_in_one_place() {
        let (units, mut arrays) = (Units::none(), Arrays::none());
        let mut taken = BTreeMap::new();
        let mut state = 1_u64;
        let mut random = |below: u32| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as u32 % below
        };
        for round in 0..6000 {
            let shrink = round / 1000 % 2 == 1;
            if random(8) < if shrink { 3 } else { 5 } {
                let most = if random(3) == 0 { LARGEST } else { 40 };
                let len = 1 + random(most);
                arrays.reserve(&units, len.into()).expect("memory");
                let at = arrays.take(&units, len);
                assert_eq!(taken.insert(at, len), None);
            } else if !taken.is_empty() {
                let nth = random(taken.len() as u32) as usize;
                let (&at, &len) = taken.iter().nth(nth).expect("one of them");
                taken.remove(&at);
                arrays.give(&units, at, len);
            }
            if round % 50 == 0 {
                check(&arrays, &units, &taken);
            }
        }
        for (at, len) in core::mem::take(&mut taken) {
            arrays.give(&units, at, len);
        }
        check(&arrays, &units, &taken);
        let whole = free(&arrays, &units).into_values().filter(|&len| len as usize == SLAB).count();
        assert_eq!(whole, arrays.fresh as usize / SLAB, "all of a slab is one stretch again");
    }

    /// Every stretch from the first list on that is looked at is long enough, and no list with nothing but such is left out.
    #[test]
    fn lists_hold_what_is_asked_for() {
        assert_eq!((list_for(1), list_of(1), list_of(SLAB as u32) as usize), (0, 0, LISTS - 8));
        for len in 2..=SLAB as u32 {
            let longer = list_of(len) - list_of(len - 1);
            assert!(longer <= 1, "lists are in order of length: {len}");
            // The list of 64 is another one than that of 65 to 71: where that begins is looked for as if it began with 64.
            assert_eq!(list_for(len), list_of(len - 1) + 1 + u32::from(len == EXACT + 1), "{len}");
        }
    }

    /// No slab is made before it is needed, and each can be used to its last unit.
    #[test]
    fn slabs_are_used_up() {
        let (units, mut arrays) = (Units::none(), Arrays::none());
        arrays.reserve(&units, 0).expect("memory");
        assert_eq!(arrays.units(), 0);
        for slabs in 1..4 {
            arrays.reserve(&units, SLAB as u64).expect("memory");
            assert_eq!(arrays.units(), slabs * SLAB as u64);
            for len in [1000, 1000, 1000, 1000, 96] {
                arrays.take_fresh(&units, len);
            }
        }
    }

    /// What is reserved can be taken in pieces of any size, even where nothing that was given back fits.
    #[test]
    fn what_is_reserved_can_be_taken() {
        for most in [1, 3, 100, 1000, LARGEST] {
            let (units, mut arrays) = (Units::none(), Arrays::none());
            for needed in [1, 700, 4096, 4097, 9000, 40_000] {
                arrays.reserve(&units, needed).expect("memory");
                let mut left = needed as u32;
                while left > 0 {
                    let len = left.min(most);
                    arrays.take_fresh(&units, len);
                    left -= len;
                }
            }
        }
    }
}
