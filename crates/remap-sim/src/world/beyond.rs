//! More damage than is promised to be survived: then recovery refuses, and does not guess (C8).
//!
//! Invariant: this works on a copy of the spares, with dice of its own; a run is the same without it.

use remap_core::recovery::{Recovered, shape_of};
use remap_core::units::{Extent, Sector};
use remap_format::layout::CopyPlace;
use remap_format::{Entry, MAX_RECORD_PAGES, PAGE_SIZE, Record, RecordHeader};

use super::World;
use super::lives::GONE;
use crate::disk::SimDisk;
use crate::rng::Rng;
use crate::stamp::SECTOR;
use crate::{Checked, Rule};

/// One crash in so many is looked at.
const ONE_IN: u64 = 8;

#[derive(Clone, Copy, Debug)]
enum Damage {
    /// The first record of the journal rots in every copy; a later one is whole.
    Hole,
    /// A copy holds another record than the others, whole, with the same generation.
    Contradiction,
    /// A page of the checkpoint rots in every copy.
    Page,
    /// All superblocks rot.
    Superblocks,
}

impl World {
    /// After a power cut: what recovery would say if there were more damage than it can bear.
    pub(super) fn beyond_the_budget(&self) -> Checked {
        let mut rng = Rng::seeded(self.scenario.seed ^ self.tick.rotate_left(32));
        let Some(life) = self.life.as_ref().filter(|_| self.adopted && rng.chance(1, ONE_IN)) else {
            return Ok(());
        };
        let order: Vec<usize> = life.spare_disks.iter().copied().filter(|&disk| disk != GONE).collect();
        let Ok(truth) = self.recover_from(&order, Vec::new()) else { return Ok(()) };
        // In the middle of a change of the spares the copies are not where the engine is about to have them.
        if truth.superblock.homes != self.volume.homes || !truth.strays.is_empty() {
            return Ok(());
        }
        let kinds = [Damage::Hole, Damage::Contradiction, Damage::Page, Damage::Superblocks];
        let damage = rng.pick(&kinds);
        let mut disks = vec![SimDisk::blank(0)];
        disks.extend(self.disks.iter().skip(1).cloned());
        if !self.damage(damage, &truth, &mut disks, &mut rng) {
            return Ok(());
        }
        let Ok(found) = self.recover_on(&disks, &order, Vec::new()) else { return Ok(()) };
        let entries = |of: &Recovered| of.table.iter().collect::<Vec<Entry>>();
        // A checkpoint that cannot be read may be told by what it was made of.
        if matches!(damage, Damage::Page) && entries(&found) == entries(&truth) {
            return Ok(());
        }
        let (said, was) = (found.generation, truth.generation);
        Err(Rule::C8.broken(format!(
            "{damage:?} beyond what can be survived: recovery gave generation {said} (it was {was})"
        )))
    }

    /// Damages the spares; `false` if there is nothing to damage so.
    fn damage(&self, damage: Damage, truth: &Recovered, disks: &mut [SimDisk], rng: &mut Rng) -> bool {
        let shape = shape_of(&truth.superblock);
        let records = truth.generation.wrapping_sub(truth.superblock.generation);
        let places = self.places();
        let rot = |disks: &mut [SimDisk], at: &dyn Fn(u8) -> u64| {
            for (place, disk) in &places {
                let sector = (place.start + at(place.copy)) / SECTOR as u64;
                disks[*disk].rot(sector, 17, 4);
            }
        };
        match damage {
            Damage::Hole if (2..=u64::from(truth.journal_position)).contains(&records) => {
                rot(disks, &|_| shape.journal_at(0));
                true
            }
            Damage::Page if truth.superblock.entries > 0 => {
                rot(disks, &|_| shape.page_at(0, 0));
                rot(disks, &|_| shape.page_at(1, 0));
                true
            }
            Damage::Superblocks => {
                rot(disks, &|_| shape.superblock_at(0));
                rot(disks, &|_| shape.superblock_at(1));
                true
            }
            Damage::Contradiction if (1..=u64::from(truth.journal_position)).contains(&records) => {
                let in_step = |copy: u8| truth.copies.iter().any(|c| c.copy == copy && c.flaw.is_none());
                let sound: Vec<_> = places.iter().filter(|(place, _)| in_step(place.copy)).collect();
                sound.len() >= 2
                    && contradict(truth, sound[rng.index(sound.len())], shape.journal_at(0), disks)
            }
            Damage::Hole | Damage::Page | Damage::Contradiction => false,
        }
    }
}

/// Makes the first record of a copy say something else; `false` if it cannot be read there.
fn contradict(truth: &Recovered, (place, disk): &(CopyPlace, usize), at: u64, disks: &mut [SimDisk]) -> bool {
    let header = RecordHeader {
        volume: truth.superblock.volume_tag(),
        copy: place.copy,
        position: 0,
        checkpoint: truth.superblock.generation,
        generation: truth.superblock.generation.wrapping_add(1),
    };
    let pages = (truth.superblock.journal_pages as usize).min(MAX_RECORD_PAGES);
    let first = (place.start + at) / SECTOR as u64;
    let mut bytes = vec![0; pages * PAGE_SIZE];
    let extent = Extent::new(Sector(first), (bytes.len() / SECTOR) as u64).expect("a record has pages");
    if disks[*disk].read(&extent, &mut bytes).is_err() {
        return false;
    }
    let Ok(mut record) = Record::decode(&bytes, &header, truth.superblock.block_sectors()) else {
        return false;
    };
    let Some(edit) = record.edits.first_mut() else { return false };
    edit.errors ^= 1;
    bytes.truncate(record.pages as usize * PAGE_SIZE);
    Record::encode(&header, &record.edits, &mut bytes);
    for (sector, bytes) in (first..).zip(bytes.chunks_exact(SECTOR)) {
        disks[*disk].preset(sector, bytes);
    }
    true
}
