//! Bits of metadata at rest, flipped one by one.
//!
//! Invariant: a flip in one copy never changes what recovery gives; a flip in what counts is noticed, one in unused space is not.
//! With no other copy left, a flip gives the same table or none; only the record that ends the journal may be missing, because a
//! record that is damaged everywhere cannot be told from one that was never finished.

use remap_core::recovery::RecoveryError;
use remap_format::{COPIES, PAGE_SIZE};

use super::Finding;
use super::image::{Change, Image, Moment, moments, table_of};
use crate::rng::Rng;
use crate::scenario::Scenario;
use crate::world::World;
use crate::{Rule, Violation};

const PAGE_BITS: usize = PAGE_SIZE * 8;

/// How far a sweep goes: of the bits, one in so many.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// In pages that count, all copies whole but for the flip.
    pub counting: usize,
    /// In the other pages.
    pub unused: usize,
    /// In a copy that is the last one.
    pub alone: usize,
    /// Pairs of copies flipped at the same place.
    pub pairs: u64,
}

impl Bounds {
    /// Each bit that counts, in one of the five copies.
    pub const SHORT: Self = Self { counting: 5, unused: 40, alone: 40, pairs: 5000 };
    /// Each bit, in each copy.
    pub const DEEP: Self = Self { counting: 1, unused: 1, alone: 1, pairs: 100_000 };
}

/// What a sweep did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Flips in one copy of five.
    pub flips: u64,
    /// Of these, noticed: all copies would be written anew.
    pub noticed: u64,
    /// Flips in the last copy.
    pub alone: u64,
    /// Of these, refused.
    pub refused: u64,
    /// Of these, without the record that ends the journal.
    pub shorter: u64,
    /// Flips in two copies at the same place.
    pub pairs: u64,
}

/// Both areas and both superblock pages in use, two records in the journal, and one of an older life behind them.
const CHANGES: [Change; 9] = [
    Change::Remap(0),
    Change::Save,
    Change::Remap(1),
    Change::Remap(2),
    Change::Remap(3),
    Change::Save,
    Change::Remap(4),
    Change::Remap(5),
    Change::Save,
];
/// The moment before the last change, which is there to have a checkpoint behind it.
const NOW: usize = CHANGES.len() - 1;

/// Sweeps a volume.
///
/// # Errors
/// The first finding.
pub fn sweep(scenario: &Scenario, bounds: &Bounds) -> Result<Tally, Finding> {
    let finding = |place: String| move |violation| Finding { place, violation };
    let moments =
        moments(World::create(scenario.clone()), &CHANGES).map_err(finding("an undisturbed life".into()))?;
    let mut flips = Flips {
        image: moments[NOW].image.clone(),
        now: &moments[NOW],
        shorter: &moments[NOW - 1],
        tally: Tally::default(),
    };
    let bits = flips.image.copy(0).len() * 8;
    for copy in 0..COPIES {
        let counting = flips.counting_pages(copy);
        for bit in 0..bits {
            let counts = counting.contains(&(bit / PAGE_BITS));
            let stride = if counts { bounds.counting } else { bounds.unused };
            if (bit + usize::from(copy)).is_multiple_of(stride) {
                flips.one(copy, bit, counts).map_err(finding(format!("copy {copy}, bit {bit}")))?;
            }
        }
    }
    flips.pairs(bounds.pairs, bits)?;
    for copy in 0..COPIES {
        flips.leave_alone(copy);
        for bit in (usize::from(copy)..bits).step_by(bounds.alone) {
            flips.alone(copy, bit).map_err(finding(format!("copy {copy} alone, bit {bit}")))?;
        }
        flips.image = moments[NOW].image.clone();
    }
    Ok(flips.tally)
}

struct Flips<'m> {
    image: Image,
    now: &'m Moment,
    /// One record less.
    shorter: &'m Moment,
    tally: Tally,
}

impl Flips<'_> {
    /// Pages of a copy that recovery needs: the newer superblock, its checkpoint, its two records.
    fn counting_pages(&self, copy: u8) -> Vec<usize> {
        let bytes = self.image.copy(copy);
        let page = |n: usize| remap_format::Superblock::decode(&bytes[n * PAGE_SIZE..(n + 1) * PAGE_SIZE]);
        let shape = self.image.shape();
        let newest = [page(0), page(1)].into_iter().flatten().enumerate().max_by_key(|(_, s)| s.generation);
        let Some((which, superblock)) = newest else { return Vec::new() };
        let checkpoint = shape.page_at(superblock.area, 0) as usize / PAGE_SIZE;
        let journal = shape.journal_at(0) as usize / PAGE_SIZE;
        vec![which, checkpoint, journal, journal + 1]
    }

    fn flip(&mut self, copy: u8, bit: usize) {
        self.image.copy_mut(copy)[bit / 8] ^= 1 << (bit % 8);
    }

    fn one(&mut self, copy: u8, bit: usize, counts: bool) -> Result<(), Violation> {
        self.flip(copy, bit);
        let found = self.image.recover();
        self.flip(copy, bit);
        self.tally.flips += 1;
        let found = found.map_err(|error| Rule::C8.broken(format!("refused: {error}")))?;
        self.same(found.generation, &table_of(&found), self.now)?;
        let flawed = found.copies.iter().any(|c| c.flaw.is_some());
        self.tally.noticed += u64::from(flawed);
        if flawed == counts && (found.needs_repair || !counts) {
            Ok(())
        } else {
            Err(Rule::C8.broken(format!("noticed: {flawed}, counts: {counts}; {:?}", found.copies)))
        }
    }

    fn pairs(&mut self, pairs: u64, bits: usize) -> Result<(), Finding> {
        let mut rng = Rng::seeded(pairs);
        for _ in 0..pairs {
            let (first, step) = (rng.below(5) as u8, 1 + rng.below(4) as u8);
            let second = (first + step) % COPIES;
            let counting = self.counting_pages(first);
            let page = if rng.chance(3, 4) { rng.pick(&counting) } else { rng.index(bits / PAGE_BITS) };
            let bit = page * PAGE_BITS + rng.index(PAGE_BITS);
            [first, second].into_iter().for_each(|copy| self.flip(copy, bit));
            let found = self.image.recover();
            [first, second].into_iter().for_each(|copy| self.flip(copy, bit));
            self.tally.pairs += 1;
            let outcome = match found {
                Ok(found) => self.same(found.generation, &table_of(&found), self.now),
                Err(error) => Err(Rule::C8.broken(format!("refused: {error}"))),
            };
            let place = format!("copies {first} and {second}, bit {bit}");
            outcome.map_err(|violation| Finding { place, violation })?;
        }
        Ok(())
    }

    /// No other copy is left.
    fn leave_alone(&mut self, copy: u8) {
        for other in (0..COPIES).filter(|&other| other != copy) {
            self.image.copy_mut(other).fill(0);
        }
    }

    fn alone(&mut self, copy: u8, bit: usize) -> Result<(), Violation> {
        self.flip(copy, bit);
        let found = self.image.recover();
        self.flip(copy, bit);
        self.tally.alone += 1;
        match found {
            Err(RecoveryError::Memory(error)) => Err(Rule::C6.broken(error.to_string())),
            Err(_) => {
                self.tally.refused += 1;
                Ok(())
            }
            Ok(found) if found.generation == self.shorter.generation => {
                self.tally.shorter += 1;
                self.same(found.generation, &table_of(&found), self.shorter)
            }
            Ok(found) => self.same(found.generation, &table_of(&found), self.now),
        }
    }

    fn same(&self, generation: u64, table: &[remap_format::Entry], as_in: &Moment) -> Result<(), Violation> {
        if generation == as_in.generation && table == as_in.table {
            return Ok(());
        }
        let expected = as_in.generation;
        Err(Rule::C8
            .broken(format!("generation {generation} where it was {expected}, or another table: {table:?}")))
    }
}
