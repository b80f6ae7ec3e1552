//! The spare pool: which slots are free.
//!
//! Invariant: a slot is handed out at most once until it is given back, never if metadata lies on it, never again once
//! retired. A slot is given back only when the generation that stopped naming it is durable (C5): the engine calls
//! [`SparePool::free`] after the commit, never before.
//!
//! Allocation goes round (next fit), so that the writes of new remaps spread evenly over the spare.

use alloc::vec::Vec;

use remap_format::{Cause, Entry, EntryFlags, EntryState, NO_BLOCK};

use crate::memory::{self, NoMemory};
use crate::units::Slot;

/// Slots per chunk of the bitmap; a chunk is allocated when it is first touched.
const CHUNK_SLOTS: u64 = 1 << 15;
const CHUNK_WORDS: usize = (CHUNK_SLOTS / 64) as usize;

/// How the slots of a spare are used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SlotCounts {
    /// Slots that can hold blocks (metadata and retired ones not counted).
    pub total: u64,
    /// Free slots.
    pub free: u64,
    /// Slots that went bad.
    pub retired: u64,
}

#[derive(Debug)]
struct Spare {
    slots: u64,
    /// One bit per slot, set when taken. An empty chunk is all free.
    taken: Vec<Vec<u64>>,
    cursor: u64,
    counts: SlotCounts,
    /// The spare is about to leave: no slot of it is handed out.
    leaving: bool,
}

/// All slots of all spares.
#[derive(Debug, Default)]
pub struct SparePool {
    spares: Vec<Spare>,
    last: usize,
    retired: Vec<Entry>,
}

/// Why a slot could not be marked: the metadata contradict themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClaimError {
    /// Not a slot of this volume.
    #[error("slot {0} does not exist")]
    NoSuchSlot(Slot),
    /// Named twice, or under metadata.
    #[error("slot {0} is claimed twice or lies under metadata")]
    Taken(Slot),
    /// Out of memory.
    #[error(transparent)]
    Memory(#[from] NoMemory),
}

impl Spare {
    fn word(&mut self, slot: u64) -> Result<&mut u64, NoMemory> {
        let chunk = usize::try_from(slot / CHUNK_SLOTS).map_err(|_| NoMemory)?;
        let chunk = self.taken.get_mut(chunk).ok_or(NoMemory)?;
        if chunk.is_empty() {
            *chunk = memory::list(CHUNK_WORDS)?;
            memory::resize(chunk, CHUNK_WORDS, 0);
        }
        chunk.get_mut((slot % CHUNK_SLOTS / 64) as usize).ok_or(NoMemory)
    }

    /// Slots that can be handed out.
    fn free(&self) -> u64 {
        if self.leaving { 0 } else { self.counts.free }
    }

    /// Marks a slot taken; `false` if it was.
    fn take(&mut self, slot: u64) -> Result<bool, NoMemory> {
        let word = self.word(slot)?;
        let bit = 1 << (slot % 64);
        let was_free = *word & bit == 0;
        *word |= bit;
        Ok(was_free)
    }

    fn give_back(&mut self, slot: u64) {
        if let Ok(word) = self.word(slot) {
            *word &= !(1 << (slot % 64));
        }
    }

    /// The first free slot at or behind `from`, below `end`.
    fn find_free(&self, from: u64, end: u64) -> Option<u64> {
        let mut slot = from;
        while slot < end {
            let chunk = self.taken.get(usize::try_from(slot / CHUNK_SLOTS).ok()?)?;
            let word = chunk.get((slot % CHUNK_SLOTS / 64) as usize).copied().unwrap_or(0);
            let free = !word >> (slot % 64);
            if free != 0 {
                let found = slot + u64::from(free.trailing_zeros());
                return (found < end).then_some(found);
            }
            slot = (slot / 64 + 1) * 64;
        }
        None
    }
}

impl SparePool {
    /// Adds spare `index` (the next one, or in the place of one that has left): `slots` slots, of which those in `metadata`
    /// (slot ranges) are never handed out.
    ///
    /// # Errors
    /// [`NoMemory`], also when there was none for a spare before it: slots are named by their spare's number.
    pub fn add_spare(&mut self, index: u8, slots: u64, metadata: &[(u64, u64)]) -> Result<(), NoMemory> {
        let chunks = usize::try_from(slots.div_ceil(CHUNK_SLOTS)).map_err(|_| NoMemory)?;
        let mut taken = memory::list(chunks)?;
        memory::resize(&mut taken, chunks, Vec::new());
        let mut spare = Spare { slots, taken, cursor: 0, counts: SlotCounts::default(), leaving: false };
        let mut usable = slots;
        for &(start, end) in metadata {
            for slot in start..end.min(slots) {
                if spare.take(slot)? {
                    usable -= 1;
                }
            }
        }
        spare.counts = SlotCounts { total: usable, free: usable, retired: 0 };
        if self.spares.len() < usize::from(index) {
            return Err(NoMemory);
        }
        match self.spares.get_mut(usize::from(index)) {
            Some(place) => *place = spare,
            None => memory::try_push(&mut self.spares, spare)?,
        }
        Ok(())
    }

    /// From now on no slot of the spare is handed out (or, if it stays after all, they are again).
    pub fn set_leaving(&mut self, spare: u8, leaving: bool) {
        if let Some(spare) = self.spares.get_mut(usize::from(spare)) {
            spare.leaving = leaving;
        }
    }

    /// The spare has left: it has no slots any more, and what went bad on it is forgotten.
    pub fn remove_spare(&mut self, spare: u8) {
        self.retired.retain(|entry| Slot(entry.slot).spare() != spare);
        if let Some(spare) = self.spares.get_mut(usize::from(spare)) {
            *spare = Spare {
                slots: 0,
                taken: Vec::new(),
                cursor: 0,
                counts: SlotCounts::default(),
                leaving: true,
            };
        }
    }

    /// Totals of one spare, or of all.
    #[must_use]
    pub fn counts(&self, spare: Option<u8>) -> SlotCounts {
        let chosen =
            self.spares.iter().enumerate().filter(|(i, _)| spare.is_none_or(|s| usize::from(s) == *i));
        chosen.fold(SlotCounts::default(), |sum, (_, s)| SlotCounts {
            total: sum.total + s.counts.total,
            free: sum.free + s.free(),
            retired: sum.retired + s.counts.retired,
        })
    }

    /// Marks the slots of an entry found on disk.
    ///
    /// # Errors
    /// [`ClaimError`]: the metadata are not consistent.
    pub fn claim(&mut self, entry: &Entry) -> Result<(), ClaimError> {
        let first = Slot(entry.slot);
        let index = usize::from(first.spare());
        let end = first.index().saturating_add(u64::from(entry.count));
        let Some(spare) = self.spares.get_mut(index).filter(|s| end <= s.slots) else {
            return Err(ClaimError::NoSuchSlot(first));
        };
        for slot in first.index()..end {
            if !spare.take(slot)? {
                return Err(ClaimError::Taken(Slot::new(first.spare(), slot)));
            }
        }
        spare.counts.free -= u64::from(entry.count);
        if entry.state == EntryState::Retired {
            spare.counts.retired += u64::from(entry.count);
            spare.counts.total -= u64::from(entry.count);
            memory::try_push(&mut self.retired, *entry)?;
        }
        Ok(())
    }

    /// Takes a free slot; `None` when there is none.
    ///
    /// # Errors
    /// [`NoMemory`] to note that it is taken.
    pub fn acquire(&mut self) -> Result<Option<Slot>, NoMemory> {
        // Stay on one spare, so that neighbours land side by side, until another has clearly more room.
        let most = self.spares.iter().enumerate().max_by_key(|(_, s)| s.free()).map_or(0, |(i, _)| i);
        let free = |i: usize| self.spares.get(i).map_or(0, Spare::free);
        if free(self.last) == 0 || free(most) > free(self.last) + free(self.last) / 16 + 64 {
            self.last = most;
        }
        let index = self.last;
        let Some(spare) = self.spares.get_mut(index).filter(|s| s.free() > 0) else { return Ok(None) };
        let found = spare.find_free(spare.cursor, spare.slots).or_else(|| spare.find_free(0, spare.cursor));
        let Some((slot, spare_index)) = found.zip(u8::try_from(index).ok()) else { return Ok(None) };
        if !spare.take(slot)? {
            return Ok(None);
        }
        spare.cursor = slot + 1;
        spare.counts.free -= 1;
        Ok(Some(Slot::new(spare_index, slot)))
    }

    /// Gives a slot back: forfeited before any commit named it, or freed after the commit that stopped naming it.
    pub fn free(&mut self, slot: Slot) {
        if let Some(spare) = self.spares.get_mut(usize::from(slot.spare())) {
            spare.give_back(slot.index());
            spare.counts.free += 1;
        }
    }

    /// Takes the memory that the next `edits` calls of [`Self::retire`] need.
    ///
    /// # Errors
    /// [`NoMemory`].
    pub fn prepare_to_retire(&mut self, edits: usize) -> Result<(), NoMemory> {
        self.retired.try_reserve(edits).map_err(|_| NoMemory)
    }

    /// Taken slots went bad: they are never handed out again. Call it once the commit that says so is durable, after
    /// [`Self::prepare_to_retire`] counted it before.
    pub fn retire(&mut self, edit: &Entry) {
        if let Some(spare) = self.spares.get_mut(usize::from(Slot(edit.slot).spare())) {
            let count = u64::from(edit.count).min(spare.counts.total);
            spare.counts.retired += count;
            spare.counts.total -= count;
        }
        memory::push(&mut self.retired, *edit);
    }

    /// The edit that retires a slot.
    #[must_use]
    pub fn retired_entry(slot: Slot, time: u64) -> Entry {
        Entry {
            block: NO_BLOCK,
            count: 1,
            slot: slot.0,
            lost: 0,
            state: EntryState::Retired,
            cause: Cause::SlotError,
            flags: EntryFlags::default(),
            errors: 1,
            time,
        }
    }

    /// All retired slots, as entries.
    #[must_use]
    pub fn retired(&self) -> &[Entry] {
        &self.retired
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{BTreeMap, BTreeSet};
    use std::vec;
    use std::vec::Vec;

    fn acquire(pool: &mut SparePool) -> Option<Slot> {
        pool.acquire().expect("memory")
    }

    fn pool(slots: &[u64], metadata: &[(u64, u64)]) -> SparePool {
        let mut pool = SparePool::default();
        for (index, &slots) in (0..).zip(slots) {
            pool.add_spare(index, slots, metadata).expect("memory");
        }
        pool
    }

    #[test]
    fn a_spare_is_never_put_at_anothers_number() {
        let mut pool = pool(&[100], &[]);
        assert_eq!(pool.add_spare(2, 100, &[]), Err(NoMemory));
        assert_eq!(pool.counts(None).total, 100);
    }

    #[test]
    fn every_slot_once_and_never_under_metadata() {
        let mut pool = pool(&[100_000, 300], &[(0, 10), (150, 160)]);
        let total = pool.counts(None).total;
        assert_eq!(total, 100_300 - 40);
        let mut seen = BTreeSet::new();
        while let Some(slot) = acquire(&mut pool) {
            assert!(!(0..10).contains(&slot.index()) && !(150..160).contains(&slot.index()), "{slot}");
            assert!(seen.insert(slot), "{slot} was handed out twice");
        }
        assert_eq!(seen.len() as u64, total);
        assert_eq!(pool.counts(None).free, 0);
    }

    #[test]
    fn slot_writes_spread_evenly() {
        // Half of the slots are in use for good; the others take remap after remap.
        let mut pool = pool(&[512], &[]);
        let fixed: Vec<Slot> = (0..256).filter_map(|_| acquire(&mut pool)).collect();
        assert_eq!(fixed.len(), 256);
        let mut writes: BTreeMap<Slot, u32> = BTreeMap::new();
        for _ in 0..256 * 40 {
            let slot = acquire(&mut pool).expect("half is free");
            *writes.entry(slot).or_default() += 1;
            pool.free(slot);
        }
        let (least, most) = (writes.values().min().copied(), writes.values().max().copied());
        assert_eq!((writes.len(), least, most), (256, Some(40), Some(40)));
    }

    #[test]
    fn a_fragmented_pool_is_used_up_to_the_last_slot() {
        let mut pool = pool(&[1000], &[]);
        let all: Vec<Slot> = core::iter::from_fn(|| acquire(&mut pool)).collect();
        for slot in all.iter().step_by(7) {
            pool.free(*slot);
        }
        let again: BTreeSet<Slot> = core::iter::from_fn(|| acquire(&mut pool)).collect();
        assert_eq!(again, all.iter().step_by(7).copied().collect());
    }

    #[test]
    fn a_retired_slot_never_comes_back() {
        let mut pool = pool(&[64], &[]);
        let bad = acquire(&mut pool).expect("free");
        pool.prepare_to_retire(1).expect("memory");
        pool.retire(&SparePool::retired_entry(bad, 0));
        let rest: Vec<Slot> = core::iter::from_fn(|| acquire(&mut pool)).collect();
        assert!(rest.len() == 63 && !rest.contains(&bad));
        assert_eq!(pool.counts(Some(0)), SlotCounts { total: 63, free: 0, retired: 1 });
    }

    #[test]
    fn spares_are_filled_alike() {
        let mut pool = pool(&[10_000, 10_000, 5_000], &[]);
        for _ in 0..12_000 {
            acquire(&mut pool).expect("free");
        }
        let free = [0, 1, 2].map(|n| pool.counts(Some(n)).free);
        assert!(free.iter().all(|&f| f.abs_diff(free[0]) < 700), "{free:?}");
    }

    #[test]
    fn a_spare_that_is_about_to_leave_gives_no_slot() {
        for (leaves, slots) in [(0, [10, 3]), (1, [3, 10])] {
            let mut pool = pool(&slots, &[]);
            pool.set_leaving(leaves, true);
            assert_eq!(pool.counts(None).free, 3);
            let others: Vec<u8> = core::iter::from_fn(|| acquire(&mut pool)).map(Slot::spare).collect();
            assert_eq!(others, vec![1 - leaves; 3]);
            pool.set_leaving(leaves, false);
            assert_eq!(acquire(&mut pool).map(Slot::spare), Some(leaves));
        }
    }

    #[test]
    fn neighbours_stay_on_one_spare_until_another_has_clearly_more_room() {
        let mut pool = pool(&[1000, 1000], &[]);
        let spares: Vec<u8> = (0..121).filter_map(|_| acquire(&mut pool)).map(Slot::spare).collect();
        // 1000 free slots are more than 880 and a sixteenth of them and 64, and not more than with 881.
        assert!(spares.iter().take(120).all(|&spare| spare == 0), "{spares:?}");
        assert_eq!(spares.last(), Some(&1));
    }

    #[test]
    fn what_the_disk_says_is_checked() {
        let mut pool = pool(&[100], &[(0, 10)]);
        let entry = |slot: u64, count| Entry {
            block: 5,
            count,
            slot,
            lost: 0,
            state: EntryState::Remapped,
            cause: Cause::Manual,
            flags: EntryFlags::default(),
            errors: 0,
            time: 0,
        };
        assert_eq!(pool.claim(&entry(20, 5)), Ok(()));
        let wrong = vec![
            (entry(24, 1), ClaimError::Taken(Slot(24))),
            (entry(9, 1), ClaimError::Taken(Slot(9))),
            (entry(99, 2), ClaimError::NoSuchSlot(Slot(99))),
            (entry(Slot::new(1, 0).0, 1), ClaimError::NoSuchSlot(Slot::new(1, 0))),
        ];
        for (entry, error) in wrong {
            assert_eq!(pool.claim(&entry), Err(error));
        }
    }
}
