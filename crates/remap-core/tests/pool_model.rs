//! The spare pool against the naive model: a set of free slots for each spare.
//!
//! Invariant: as `table_model.rs`: any list of steps, shrunk when it breaks a property.

use std::collections::BTreeSet;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use remap_core::pool::{ClaimError, SlotCounts, SparePool};
use remap_core::units::Slot;
use remap_format::{Cause, Entry, EntryFlags, EntryState};

#[derive(Clone, Debug)]
enum Step {
    Acquire(u16),
    /// Of those that are taken.
    Free(Index),
    /// The same.
    Retire(Index),
}

/// Slots of a spare, and ranges of them that metadata lie on.
type Shape = (u64, Vec<(u64, u64)>);

#[derive(Debug, Default)]
struct Model {
    free: BTreeSet<Slot>,
    taken: BTreeSet<Slot>,
    retired: BTreeSet<Slot>,
}

impl Model {
    fn counts(&self, spare: Option<u8>) -> SlotCounts {
        let of = |slots: &BTreeSet<Slot>| {
            slots.iter().filter(|slot| spare.is_none_or(|spare| slot.spare() == spare)).count() as u64
        };
        SlotCounts {
            total: of(&self.free) + of(&self.taken),
            free: of(&self.free),
            retired: of(&self.retired),
        }
    }
}

fn shape() -> impl Strategy<Value = Shape> {
    // Around the size of a word of the bitmap, and around that of a chunk of it.
    let slots = prop_oneof![3 => 1..200_u64, 1 => (1 << 15) - 3..(1 << 15) + 70_u64];
    slots.prop_flat_map(|slots| {
        let range = (0..slots, 1..70_u64).prop_map(|(start, len)| (start, start + len));
        (Just(slots), vec(range, 0..4))
    })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => prop_oneof![3 => 1..4_u16, 1 => 1..300_u16].prop_map(Step::Acquire),
        4 => any::<Index>().prop_map(Step::Free),
        1 => any::<Index>().prop_map(Step::Retire),
    ]
}

fn create(shapes: &[Shape]) -> (SparePool, Model) {
    let (mut pool, mut model) = (SparePool::default(), Model::default());
    for (spare, (slots, metadata)) in (0..).zip(shapes) {
        pool.add_spare(spare, *slots, metadata).expect("memory");
        let under = |slot: u64| metadata.iter().any(|&(start, end)| (start..end).contains(&slot));
        model.free.extend((0..*slots).filter(|&slot| !under(slot)).map(|slot| Slot::new(spare, slot)));
    }
    (pool, model)
}

fn compare(pool: &SparePool, model: &Model, spares: usize) {
    assert_eq!(pool.counts(None), model.counts(None));
    for spare in 0..u8::try_from(spares).expect("few spares") {
        assert_eq!(pool.counts(Some(spare)), model.counts(Some(spare)), "spare {spare}");
    }
    assert_eq!(pool.retired().iter().map(|e| Slot(e.slot)).collect::<BTreeSet<_>>(), model.retired);
}

fn acquire(pool: &mut SparePool, model: &mut Model) -> Option<Slot> {
    let slot = pool.acquire().expect("memory");
    match slot {
        Some(slot) => {
            assert!(model.free.remove(&slot), "{slot} is not free");
            model.taken.insert(slot);
        }
        None => assert!(model.free.is_empty(), "free slots are left: {:?}", model.free.first()),
    }
    slot
}

fn chosen(slots: &BTreeSet<Slot>, index: Index) -> Option<Slot> {
    (!slots.is_empty()).then(|| index.get(&slots.iter().copied().collect::<Vec<_>>()).to_owned())
}

fn on_disk(slot: Slot, count: u32, state: EntryState) -> Entry {
    Entry {
        block: 5,
        count,
        slot: slot.0,
        lost: 0,
        state,
        cause: Cause::Manual,
        flags: EntryFlags::default(),
        errors: 0,
        time: 0,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// A slot is handed out only if it is free, and there is none only if none is free; in the end every free slot comes once.
    #[test]
    fn slots_come_and_go(shapes in vec(shape(), 1..4), steps in vec(step(), 1..60)) {
        let (mut pool, mut model) = create(&shapes);
        for step in steps {
            match step {
                Step::Acquire(count) => for _ in 0..count {
                    acquire(&mut pool, &mut model);
                },
                Step::Free(index) => if let Some(slot) = chosen(&model.taken, index) {
                    pool.free(slot);
                    model.taken.remove(&slot);
                    model.free.insert(slot);
                },
                Step::Retire(index) => if let Some(slot) = chosen(&model.taken, index) {
                    pool.prepare_to_retire(1).expect("memory");
                    pool.retire(&SparePool::retired_entry(slot, 0));
                    model.taken.remove(&slot);
                    model.retired.insert(slot);
                },
            }
            compare(&pool, &model, shapes.len());
        }
        while acquire(&mut pool, &mut model).is_some() {}
        compare(&pool, &model, shapes.len());
    }

    /// What is found on disk is taken as a whole, or refused for the right reason; what was taken is never handed out.
    #[test]
    fn claims_are_checked(
        shapes in vec(shape(), 1..3),
        claims in vec((0..3_u8, 0..260_u64, 1..40_u32, any::<bool>()), 1..20),
    ) {
        let (mut pool, mut model) = create(&shapes);
        for (spare, first, count, retired) in claims {
            let state = if retired { EntryState::Retired } else { EntryState::Remapped };
            let entry = on_disk(Slot::new(spare, first), count, state);
            let slots: Vec<Slot> = (first..first + u64::from(count)).map(|slot| Slot::new(spare, slot)).collect();
            let exists = shapes.get(usize::from(spare)).is_some_and(|(slots, _)| first + u64::from(count) <= *slots);
            let conflict = slots.iter().find(|slot| !model.free.contains(slot));
            let expected = match conflict {
                _ if !exists => Err(ClaimError::NoSuchSlot(slots[0])),
                Some(&slot) => Err(ClaimError::Taken(slot)),
                None => Ok(()),
            };
            prop_assert_eq!(pool.claim(&entry), expected);
            if conflict.is_some() && exists {
                // A pool that was refused is of no use: recovery ends.
                return Ok(());
            }
            if expected.is_ok() {
                model.free.retain(|slot| !slots.contains(slot));
                let to = if retired { &mut model.retired } else { &mut model.taken };
                to.extend(slots);
            }
        }
        let total = |of: fn(&SlotCounts) -> u64, pool: &SparePool| of(&pool.counts(None));
        prop_assert_eq!(pool.counts(None), model.counts(None));
        let free = total(|counts| counts.free, &pool);
        let mut handed = 0;
        while acquire(&mut pool, &mut model).is_some() {
            handed += 1;
        }
        prop_assert_eq!(handed, free);
    }
}
