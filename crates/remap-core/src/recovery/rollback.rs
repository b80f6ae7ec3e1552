//! Two tables of one volume: what differs, and whether the one now may be exchanged for the one then.
//!
//! Invariant: pure functions. Going back is allowed only where every sector that holds data now is found at the same place by the
//! table then, and where no sector that is lost now could be read as something else than what its disk held when it was lost (C3, C8).
//!
//! Per sector, by what the table now says of it (rows) and the table then (columns); *slot* means the same slot in both:
//!
//! | now \ then | held, on main | held, on the slot | held, on another slot | lost |
//! |---|---|---|---|---|
//! | held, on main | yes | no: outdated | no: outdated | no: would be lost |
//! | held, on a slot | no: its bytes are on the slot only | yes | no: its bytes are on the other slot | no: would be lost |
//! | lost, pending, the disk may be asked | yes: the disk still answers for itself | no: invented | no: invented | yes |
//! | lost, pending, stale | no: invented | no: invented | no: invented | yes, if stale then too |
//! | lost, remapped | no: invented | no: invented | no: invented | yes, if remapped then, or stale; if stale now, then too |

use remap_format::{Entry, EntryState};

use crate::table::Table;
use crate::units::Block;

/// A stretch of blocks of which two tables do not say the same; each side is cut down to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Difference {
    /// First block.
    pub block: u64,
    /// Blocks, at least 1.
    pub count: u64,
    /// What the first table says; `None`: no entry.
    pub from: Option<Entry>,
    /// What the second one says.
    pub to: Option<Entry>,
}

impl Difference {
    /// Do the two sides differ in what a reader would get, and not in notes only (cause, time, errors)?
    #[must_use]
    pub fn matters(&self) -> bool {
        let fate = |entry: Option<Entry>| entry.map(|e| (e.state, e.slot, e.lost, e.flags));
        fate(self.from) != fate(self.to)
    }
}

/// All stretches of which two tables of one volume do not say the same, in order.
pub fn differences<'t>(from: &'t Table, to: &'t Table) -> impl Iterator<Item = Difference> + 't {
    let mut at = 0;
    core::iter::from_fn(move || {
        loop {
            let (a, b) = (from.next_from(Block(at)), to.next_from(Block(at)));
            let begin = [a, b].into_iter().flatten().map(|e| e.block.max(at)).min()?;
            // Up to where either side says something else.
            let border = |entry: Entry| if entry.block > begin { entry.block } else { entry.end() };
            let end = [a, b].into_iter().flatten().map(border).min()?;
            at = end;
            let here = |entry: Option<Entry>| entry.filter(|e| e.block <= begin).map(|e| cut(&e, begin, end));
            let (from, to) = (here(a), here(b));
            if from != to {
                return Some(Difference { block: begin, count: end - begin, from, to });
            }
        }
    })
}

/// The part of an entry in blocks `begin..end`, which it covers.
fn cut(entry: &Entry, begin: u64, end: u64) -> Entry {
    let skipped = begin - entry.block;
    let slot = if entry.state == EntryState::Remapped { entry.slot + skipped } else { entry.slot };
    Entry { block: begin, count: u32::try_from(end - begin).unwrap_or(u32::MAX), slot, ..*entry }
}

/// Why a stretch of blocks cannot go back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Obstacle {
    /// Remapped now, on the main device then.
    #[error("the newest contents are on the slot only; the main device holds older ones")]
    OnSlotOnly,
    /// On the main device now, on a slot then.
    #[error("the newest contents are on the main device; the slot holds older ones, or another block's")]
    SlotOutdated,
    /// On another slot then.
    #[error(
        "the newest contents are on another slot; the one of that time holds older ones, or another block's"
    )]
    OtherSlot,
    /// Sectors that hold data now were lost then.
    #[error("sectors that hold data now were lost then: their contents would be lost again")]
    WouldLose,
    /// Sectors that are lost now were held then.
    #[error("sectors that are lost now would be read again, as old contents or another block's")]
    WouldInvent,
}

/// May a block go back from what the table says now to what it said then? Both entries of the same block or run.
///
/// # Errors
/// The first [`Obstacle`] in the order: place, loss, invention.
pub fn may_go_back(now: Option<&Entry>, then: Option<&Entry>, block_sectors: u32) -> Result<(), Obstacle> {
    let all = Entry::full_mask(block_sectors);
    let slot = |entry: Option<&Entry>| entry.filter(|e| e.state == EntryState::Remapped).map(|e| e.slot);
    let lost = |entry: Option<&Entry>| entry.map_or(0, |e| e.lost) & all;
    let stale = |entry: Option<&Entry>| entry.is_some_and(|e| e.flags.stale());
    let (lost_now, lost_then) = (lost(now), lost(then));
    let held_in_both = all & !lost_now & !lost_then;
    if held_in_both != 0 {
        match (slot(now), slot(then)) {
            (Some(_), None) => return Err(Obstacle::OnSlotOnly),
            (None, Some(_)) => return Err(Obstacle::SlotOutdated),
            (a, b) if a != b => return Err(Obstacle::OtherSlot),
            _ => {}
        }
    }
    if lost_then & !lost_now != 0 {
        return Err(Obstacle::WouldLose);
    }
    // The disk answers for itself only where nothing newer was ever written elsewhere.
    let disk_may_be_asked = slot(now).is_none() && !stale(now);
    if lost_now & !lost_then != 0 && !(disk_may_be_asked && slot(then).is_none()) {
        return Err(Obstacle::WouldInvent);
    }
    if lost_now & lost_then != 0 && !stale(then) {
        // Lost in both: but one that may be asked for again must be one that may be asked for now.
        let same_fate = !stale(now) && slot(now).is_some() == slot(then).is_some();
        if !disk_may_be_asked && !same_fate {
            return Err(Obstacle::WouldInvent);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use remap_format::{Cause, EntryFlags, NO_SLOT};
    use std::vec;
    use std::vec::Vec;

    const SECTORS: u32 = 2;

    fn entry(block: u64, count: u32, slot: Option<u64>, lost: u128, stale: bool) -> Entry {
        Entry {
            block,
            count,
            slot: slot.unwrap_or(NO_SLOT),
            lost,
            state: if slot.is_some() { EntryState::Remapped } else { EntryState::Pending },
            cause: Cause::Manual,
            flags: if stale { EntryFlags::STALE } else { EntryFlags::default() },
            errors: 0,
            time: 0,
        }
    }

    /// Everything that a table can say of a block of two sectors, with two slots.
    fn sayings() -> Vec<Option<Entry>> {
        let mut all = vec![None];
        for stale in [false, true] {
            all.extend((1..4).map(|lost| Some(entry(0, 1, None, lost, stale))));
            for slot in [7, 8] {
                all.extend((0..4).map(|lost| Some(entry(0, 1, Some(slot), lost, stale))));
            }
        }
        all
    }

    /// What a place can hold of a sector.
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Held {
        Newest,
        Nothing,
        /// Old bytes, or another block's.
        Wrong,
    }

    /// What main and both slots can hold of sector `n`, worst cases included, if the table says `now`.
    fn worlds(now: Option<&Entry>, n: u32) -> Vec<[Held; 3]> {
        use Held::{Newest, Nothing, Wrong};
        let Some(now) = now else { return vec![[Newest, Wrong, Wrong]] };
        match (now.lost >> n & 1 == 1, now.state, now.slot, now.flags.stale()) {
            (false, EntryState::Remapped, 7, _) => vec![[Wrong, Newest, Wrong]],
            (false, EntryState::Remapped, _, _) => vec![[Wrong, Wrong, Newest]],
            (false, ..) => vec![[Newest, Wrong, Wrong]],
            (true, EntryState::Pending, _, false) => vec![[Nothing, Wrong, Wrong], [Newest, Wrong, Wrong]],
            (true, ..) => vec![[Wrong, Wrong, Wrong], [Nothing, Wrong, Wrong]],
        }
    }

    /// Is sector `n` as good under `then` as it is under `now`, in every world, and does it stay so?
    fn is_sound(now: Option<&Entry>, then: Option<&Entry>, n: u32) -> bool {
        let lost = |e: Option<&Entry>| e.is_some_and(|e| e.lost >> n & 1 == 1);
        let remapped = |e: Option<&Entry>| e.is_some_and(|e| e.state == EntryState::Remapped);
        let stale = |e: Option<&Entry>| e.is_some_and(|e| e.flags.stale());
        worlds(now, n).into_iter().all(|[main, seven, eight]| {
            let read = match then {
                Some(e) if e.lost >> n & 1 == 1 => Held::Nothing,
                Some(e) if e.state == EntryState::Remapped => {
                    if e.slot == 7 {
                        seven
                    } else {
                        eight
                    }
                }
                _ => main,
            };
            let reads_well = read == Held::Newest || (read == Held::Nothing && lost(now));
            // A lost sector that is not stale can be asked for again: on the main device at once, from a slot after a move back.
            let asked_again = lost(then) && !stale(then);
            let was_asked_the_same = !stale(now) && remapped(now) == remapped(then);
            reads_well && (!asked_again || main != Held::Wrong || was_asked_the_same)
        })
    }

    #[test]
    fn every_pair_of_sayings_is_judged_as_a_model_of_its_bytes_does() {
        let (mut allowed, mut refused) = (0, 0);
        for now in sayings() {
            for then in sayings() {
                let sound = (0..SECTORS).all(|n| is_sound(now.as_ref(), then.as_ref(), n));
                let judged = may_go_back(now.as_ref(), then.as_ref(), SECTORS);
                assert_eq!(judged.is_ok(), sound, "{now:?}\n{then:?}\n{judged:?}");
                if sound { allowed += 1 } else { refused += 1 }
            }
        }
        // 23 sayings: the same one again is allowed, and little else is.
        assert_eq!((allowed, refused), (59, 470));
    }

    #[test]
    fn obstacles_by_name() {
        let (main, on7, on8) =
            (None, Some(entry(0, 1, Some(7), 0, false)), Some(entry(0, 1, Some(8), 0, false)));
        let pending = |lost, stale| Some(entry(0, 1, None, lost, stale));
        let holed = Some(entry(0, 1, Some(7), 0b10, false));
        let cases = [
            (on7, main, Err(Obstacle::OnSlotOnly)),
            (on7, pending(1, false), Err(Obstacle::OnSlotOnly)),
            (main, on7, Err(Obstacle::SlotOutdated)),
            (pending(1, false), on7, Err(Obstacle::SlotOutdated)),
            (on7, on8, Err(Obstacle::OtherSlot)),
            (on7, on7, Ok(())),
            (main, pending(1, false), Err(Obstacle::WouldLose)),
            (pending(1, false), pending(3, false), Err(Obstacle::WouldLose)),
            (on7, holed, Err(Obstacle::WouldLose)),
            (holed, on7, Err(Obstacle::WouldInvent)),
            (pending(3, false), main, Ok(())),
            (pending(3, false), pending(1, false), Ok(())),
            (pending(1, false), pending(1, true), Ok(())),
            (pending(1, true), main, Err(Obstacle::WouldInvent)),
            (pending(1, true), pending(1, false), Err(Obstacle::WouldInvent)),
        ];
        for (now, then, expected) in cases {
            assert_eq!(may_go_back(now.as_ref(), then.as_ref(), SECTORS), expected, "{now:?} {then:?}");
        }
    }

    fn table(entries: &[Entry]) -> Table {
        let mut table = Table::create(1 << 20, SECTORS).expect("memory");
        for e in entries {
            table.apply(e).expect("memory");
        }
        table
    }

    #[test]
    fn differences_are_cut_where_either_side_changes() {
        let a = table(&[entry(10, 10, Some(100), 0, false), entry(40, 1, None, 1, false)]);
        let b = table(&[entry(12, 4, Some(102), 0, false), entry(16, 8, Some(300), 0, false)]);
        let found: Vec<_> = differences(&a, &b)
            .map(|d| (d.block, d.count, d.from.map(|e| e.slot), d.to.map(|e| e.slot)))
            .collect();
        let expected = [
            (10, 2, Some(100), None),
            (16, 4, Some(106), Some(300)),
            (20, 4, None, Some(304)),
            (40, 1, Some(NO_SLOT), None),
        ];
        assert_eq!(found, expected);
        for d in differences(&a, &b) {
            let sides = d.from.iter().chain(&d.to);
            assert!(sides.clone().all(|e| (e.block, u64::from(e.count)) == (d.block, d.count)));
        }
        assert_eq!(differences(&a, &a).count(), 0);
        let back: Vec<_> = differences(&b, &a).map(|d| (d.block, d.count)).collect();
        assert_eq!(back, [(10, 2), (16, 4), (20, 4), (40, 1)]);
    }

    #[test]
    fn notes_do_not_matter() {
        let a = entry(3, 1, Some(9), 0, false);
        let noted = Difference {
            block: 3,
            count: 1,
            from: Some(a),
            to: Some(Entry { errors: 4, time: 9, cause: Cause::ReadError, ..a }),
        };
        assert!(!noted.matters());
        assert!(Difference { to: Some(Entry { lost: 1, ..a }), ..noted }.matters());
        assert!(Difference { to: None, ..noted }.matters());
    }
}
