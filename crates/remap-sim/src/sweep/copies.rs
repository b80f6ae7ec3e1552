//! Every way in which the five copies of the metadata can be good, damaged, left behind or ahead of each other.
//!
//! Invariant: what recovery makes of them is what [`super::model`] says, in generation and table; and where a single copy is good
//! and newest, it is never less than that one.

use remap_format::{COPIES, PAGE_SIZE};

use super::Finding;
use super::image::{Change, Moment, check_repaired, moments, table_of};
use super::model::{Outcome, Whole, outcome};
use crate::rng::Rng;
use crate::scenario::Scenario;
use crate::world::World;
use crate::{Checked, Rule};

const N: usize = COPIES as usize;

/// How a copy is damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// All of it reads as zeroes.
    Zeroed,
    /// All of it is noise.
    Garbage,
    /// Nothing of it can be read.
    Unreadable,
    /// The newer superblock page is torn.
    TornSuperblock,
    /// The last record of the journal is torn.
    TornRecord,
    /// The checkpoint has rotted.
    RottenCheckpoint,
}

impl Damage {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Zeroed,
        Self::Garbage,
        Self::Unreadable,
        Self::TornSuperblock,
        Self::TornRecord,
        Self::RottenCheckpoint,
    ];
}

/// How a copy is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// As it should be.
    Good,
    /// Damaged.
    Damaged,
    /// As it was some time before.
    Stale,
    /// As it will be after the next change.
    Ahead,
}

/// What the sweep did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Sets of five copies looked at.
    pub sets: u64,
    /// Sets that gave the newest table.
    pub newest: u64,
    /// Sets in which no newer table can be proved, and an older one was given.
    pub older: u64,
    /// Sets that were refused.
    pub refused: u64,
}

/// A life of which two moments can be mixed.
struct Life {
    moments: Vec<Moment>,
    /// For each moment, what is whole in a copy.
    whole: Vec<Whole>,
    spare_of: Vec<u8>,
}

const CHANGES: [Change; 11] = [
    Change::Remap(0),
    Change::Remap(1),
    Change::Save,
    Change::Remap(2),
    Change::Remap(3),
    Change::Remap(4),
    Change::Save,
    Change::Remap(5),
    Change::Save,
    Change::Save,
    Change::Remap(6),
];

/// How far a sweep goes.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// How far back a stale copy may be, in changes; the beginning is always one of the moments.
    pub back: usize,
    /// Are there copies that are ahead?
    pub ahead: bool,
    /// Of the sets that are not refused, one in so many is repaired, and recovered again.
    pub repair_every: u64,
}

impl Bounds {
    /// What every run of the tests can afford.
    pub const SHORT: Self = Self { back: 1, ahead: true, repair_every: 16 };
    /// The same for more spares: only good, damaged and stale copies.
    pub const MIXED: Self = Self { back: 1, ahead: false, repair_every: 16 };
    /// All that there is.
    pub const DEEP: Self = Self { back: CHANGES.len(), ahead: true, repair_every: 1 };
}

/// Sweeps a volume: at each moment of a life every set of five copies, with every damage.
///
/// # Errors
/// The first finding.
pub fn sweep(scenario: &Scenario, bounds: &Bounds) -> Result<Tally, Finding> {
    let mut tally = Tally::default();
    let moments = moments(World::create(scenario.clone()), &CHANGES)
        .map_err(|violation| Finding { place: "an undisturbed life".into(), violation })?;
    let life = Life::of(moments);
    let kinds: usize = if bounds.ahead { 4 } else { 3 };
    for now in 1..CHANGES.len() {
        for before in (0..now).filter(|&before| before == 0 || before + bounds.back >= now) {
            for (nth, damage) in Damage::ALL.into_iter().enumerate() {
                for set in 0..kinds.pow(COPIES.into()) {
                    let conditions = conditions(set, kinds);
                    let damaged = conditions.contains(&Condition::Damaged);
                    // Without a damaged copy all damages are the same.
                    if !damaged && nth > 0 {
                        continue;
                    }
                    let repair = tally.sets.is_multiple_of(bounds.repair_every);
                    life.judge(before, now, damage, &conditions, repair, &mut tally).map_err(|violation| {
                        let spares = scenario.spares.len();
                        let place = format!(
                            "{spares} spares, moment {now} with {before}, copies {conditions:?}, damage {damage:?}"
                        );
                        Finding { place, violation }
                    })?;
                }
            }
        }
    }
    Ok(tally)
}

fn conditions(set: usize, kinds: usize) -> [Condition; N] {
    const ALL: [Condition; 4] = [Condition::Good, Condition::Damaged, Condition::Stale, Condition::Ahead];
    core::array::from_fn(|copy| ALL[set / kinds.pow(copy as u32) % kinds])
}

impl Life {
    fn of(moments: Vec<Moment>) -> Self {
        let mut whole = vec![Whole::adopted(moments[0].generation)];
        for change in CHANGES {
            let mut next = whole[whole.len() - 1].clone();
            next.change(change);
            whole.push(next);
        }
        let spare_of = moments[0].image.places().iter().map(|p| p.spare).collect();
        Self { moments, whole, spare_of }
    }

    fn judge(
        &self,
        before: usize,
        now: usize,
        damage: Damage,
        conditions: &[Condition; N],
        repair: bool,
        tally: &mut Tally,
    ) -> Checked {
        let mut image = self.moments[now].image.clone();
        let mut copies = Vec::new();
        for (copy, condition) in (0u8..).zip(conditions) {
            let from = match condition {
                Condition::Good | Condition::Damaged => now,
                Condition::Stale => before,
                Condition::Ahead => now + 1,
            };
            image.copy_mut(copy).copy_from_slice(self.moments[from].image.copy(copy));
            let mut whole = self.whole[from].clone();
            if *condition == Condition::Damaged {
                let entries = self.table_at_checkpoint(&whole);
                inflict(damage, copy, &mut image, &mut whole, entries > 0);
            }
            copies.push(whole);
        }
        let expected = outcome(&copies, &self.spare_of);
        let found = image.recover();
        tally.sets += 1;
        let seen = match &found {
            Ok(recovered) => Outcome::Table(recovered.generation),
            Err(_) => Outcome::Refused,
        };
        if seen != expected {
            let found = found.map(|r| (r.generation, r.copies));
            return Err(Rule::C8.broken(format!("{seen:?} where the rules say {expected:?}: {found:?}")));
        }
        let newest = self.moments[now].generation;
        let good = conditions.contains(&Condition::Good) || conditions.contains(&Condition::Ahead);
        let every_spare = |c: &Whole| !c.superblocks.is_empty();
        let Ok(recovered) = found else {
            tally.refused += 1;
            if good && copies.iter().all(every_spare) {
                return Err(Rule::C8.broken("refused although a copy is good"));
            }
            return Ok(());
        };
        let generation = recovered.generation;
        tally.newest += u64::from(generation >= newest);
        tally.older += u64::from(generation < newest);
        if good && generation < newest {
            return Err(
                Rule::C8.broken(format!("generation {generation} although a good copy proves {newest}"))
            );
        }
        let truth = self.moments.iter().find(|m| m.generation == generation);
        if truth.is_none_or(|truth| truth.table != table_of(&recovered)) {
            return Err(Rule::C8.broken(format!("generation {generation} with a table that it never had")));
        }
        if repair { check_repaired(&image, recovered) } else { Ok(()) }
    }

    /// Entries in the newest checkpoint of a copy.
    fn table_at_checkpoint(&self, whole: &Whole) -> usize {
        let newest = whole.superblocks.first();
        self.moments.iter().find(|m| Some(&m.generation) == newest).map_or(0, |m| m.table.len())
    }
}

fn inflict(damage: Damage, copy: u8, image: &mut super::image::Image, whole: &mut Whole, has_page: bool) {
    let shape = image.shape();
    let newest = whole.superblocks.first().copied().unwrap_or_default();
    let mut rng = Rng::seeded(u64::from(copy));
    match damage {
        Damage::Zeroed => image.copy_mut(copy).fill(0),
        Damage::Garbage => image.copy_mut(copy).fill_with(|| rng.next_u64() as u8),
        Damage::Unreadable => image.hide(copy),
        Damage::TornSuperblock => {
            let bytes = image.copy_mut(copy);
            let page = usize::from(page_of(bytes, newest));
            // The second half of an older page, as far as it matters: noise.
            bytes[page * PAGE_SIZE + 100..page * PAGE_SIZE + 512].fill_with(|| rng.next_u64() as u8);
            whole.superblocks.remove(0);
            return;
        }
        Damage::TornRecord => {
            let last = (whole.end() - newest) as usize;
            if last > 0 {
                let at = shape.journal_at(last as u32 - 1) as usize;
                image.copy_mut(copy)[at + 64..at + 512].fill_with(|| rng.next_u64() as u8);
                whole.lose_last_record();
            }
            return;
        }
        Damage::RottenCheckpoint => {
            let bytes = image.copy_mut(copy);
            let page = usize::from(page_of(bytes, newest));
            let superblock =
                remap_format::Superblock::decode(&bytes[page * PAGE_SIZE..(page + 1) * PAGE_SIZE]);
            let area = superblock.map(|s| s.area).unwrap_or_default();
            if has_page {
                bytes[shape.page_at(area, 0) as usize + 70] ^= 0x10;
                whole.checkpoints.remove(&newest);
            }
            return;
        }
    }
    *whole = Whole::default();
}

/// Which superblock page of a copy names this generation.
fn page_of(copy: &[u8], generation: u64) -> u8 {
    let second = remap_format::Superblock::decode(&copy[PAGE_SIZE..2 * PAGE_SIZE]);
    u8::from(second.is_ok_and(|s| s.generation == generation))
}
