//! Trouble, within the budget that the engine promises to survive.
//!
//! Invariant (the budget): at most three copies of the metadata have bad sectors, and every spare keeps one copy without; rot
//! between lives spares on every spare one copy that is in step with the newest generation there is.

use remap_core::engine::MIN_COPIES;
use remap_core::op::Fault;
use remap_core::units::{Extent, Sector};
use remap_format::layout::{self, CopyPlace};
use remap_format::{COPIES, EntryState};

use super::World;
use super::lives::GONE;
use crate::disk::Bad;

const MAX_BAD_COPIES: usize = COPIES as usize - MIN_COPIES as usize;

impl World {
    /// Between two events something may happen to the devices.
    pub(super) fn weather(&mut self) {
        if let Some((disk, until)) = self.path_until
            && self.steps >= until
        {
            self.disks[disk].fault = None;
            self.path_until = None;
        }
        let faults = self.scenario.faults;
        if faults.path && self.path_until.is_none() && self.rng.chance(1, 300) {
            let disk = self.rng.index(self.disks.len());
            let fault = self.rng.pick(&[Fault::Transport, Fault::Timeout, Fault::Gone]);
            self.disks[disk].fault = Some(fault);
            self.path_until = Some((disk, self.steps + 1 + self.rng.below(40)));
            self.note(12, disk as u64, || format!("disk {disk}: from now on {fault:?}"));
        }
        if !self.adopted || !self.rng.chance(1, self.scenario.spoil_every) {
            return;
        }
        match self.rng.below(4) {
            0 | 1 if faults.main_medium => self.spoil_main(),
            2 if faults.slot_medium => self.spoil_slot(),
            3 if faults.metadata_medium => self.spoil_metadata(),
            _ => {}
        }
    }

    pub(super) fn end_faults(&mut self) {
        for disk in &mut self.disks {
            disk.fault = None;
        }
        self.path_until = None;
    }

    pub(super) fn flush_fails(&mut self) -> Option<Fault> {
        let on = self.scenario.faults.flush && self.adopted && !self.quiet;
        (on && self.rng.chance(1, 25))
            .then(|| self.rng.pick(&[Fault::Unknown, Fault::Medium, Fault::Timeout, Fault::Transport]))
    }

    fn any_bad(&mut self) -> Bad {
        let fault = if self.scenario.faults.unknown && self.rng.chance(1, 2) {
            Fault::Unknown
        } else {
            self.rng.pick(&[Fault::Medium, Fault::Medium, Fault::Protection])
        };
        if self.rng.chance(1, 2) { Bad::UntilWritten(fault) } else { Bad::ForEver(fault) }
    }

    fn spoil_main(&mut self) {
        let extent = self.any_extent(2);
        let unit = self.unit();
        let len = extent.sectors().min((1 + self.rng.below(3)) * unit);
        let extent = Extent::new(extent.start(), len).expect("at least one logical block");
        let bad = self.any_bad();
        self.spoil_main_at(extent, bad);
    }

    /// Sectors of the main device go bad; `false` if they could not just now.
    pub fn spoil_main_at(&mut self, extent: Extent, bad: Bad) -> bool {
        if !self.disks[0].spoil(&extent, bad) {
            return false;
        }
        self.note(13, extent.start().0, || format!("disk 0: {extent} goes bad: {bad:?}"));
        for sector in extent.start().0..extent.end().0 {
            self.oracle.lose(sector, self.tick);
        }
        true
    }

    fn spoil_slot(&mut self) {
        let Some(life) = &self.life else { return };
        let (per_block, unit) = (self.block_sectors(), self.unit());
        let slots: Vec<(usize, u64)> = life
            .spare_disks
            .iter()
            .zip(&self.volume.spares)
            .map(|(&disk, record)| (disk, record.slots))
            .collect();
        let mapped: Vec<(u64, u64)> = life
            .engine
            .table()
            .iter()
            .filter(|e| e.state == EntryState::Remapped)
            .flat_map(|e| (0..u64::from(e.count)).map(move |i| (e.block + i, e.slot + i)))
            .collect();
        let idle = life.engine.is_idle();
        let spare = self.rng.index(slots.len());
        let (disk, count) = slots[spare];
        if disk == GONE || count == 0 {
            return;
        }
        let (slot, block) = if !mapped.is_empty() && self.rng.chance(2, 3) {
            let (block, slot) = mapped[self.rng.index(mapped.len())];
            (remap_core::units::Slot(slot), Some(block))
        } else {
            let slot = remap_core::units::Slot::new(spare as u8, self.rng.below(count));
            (slot, mapped.iter().find(|&&(_, s)| s == slot.0).map(|&(block, _)| block))
        };
        // A free slot may be a job's already, and a job does not say so.
        if self.in_metadata(slot.spare(), slot.index()) || (block.is_none() && !idle) {
            return;
        }
        let disk = if slot.spare() as usize == spare { disk } else { slots[usize::from(slot.spare())].0 };
        let offset = self.rng.below(per_block / unit) * unit;
        let bad = self.any_bad();
        let start = slot.index() * per_block + offset;
        let extent = Extent::new(Sector(start), unit).expect("one logical block");
        if !self.disks[disk].spoil(&extent, bad) {
            return;
        }
        self.note(14, start, || {
            format!("disk {disk}: {extent} ({slot:?}, block {block:?}) goes bad: {bad:?}")
        });
        let first = block.map(|b| b * per_block + offset);
        for sector in first.into_iter().flat_map(|first| first..first + unit) {
            if sector < self.scenario.main_sectors {
                self.oracle.lose(sector, self.tick);
            }
        }
    }

    fn in_metadata(&self, spare: u8, slot: u64) -> bool {
        let block = 1u64 << self.scenario.block_shift;
        let (start, end) = (slot * block, (slot + 1) * block);
        let record = &self.volume.spares[usize::from(spare)];
        layout::metadata_ranges(record).any(|(at, len)| at < end && start < at + len)
    }

    pub(super) fn places(&self) -> Vec<(CopyPlace, usize)> {
        let disks = self.life.as_ref().map(|l| l.spare_disks.clone()).unwrap_or_default();
        layout::copy_places(&self.volume.spares, &self.volume.homes)
            .into_iter()
            .map(|place| (place, disks.get(usize::from(place.spare)).copied().unwrap_or(1)))
            .collect()
    }

    pub(super) fn copy_extent(&self, place: &CopyPlace) -> Extent {
        let bytes = remap_core::recovery::shape_of(&self.volume).bytes();
        Extent::new(Sector(place.start / 512), bytes / 512).expect("a copy is not empty")
    }

    fn has_bad(&self, place: &CopyPlace, disk: usize) -> bool {
        let extent = self.copy_extent(place);
        (extent.start().0..extent.end().0).any(|s| self.disks[disk].bad(s).is_some())
    }

    fn spoil_metadata(&mut self) {
        let Some(life) = &self.life else { return };
        let (live, in_step) = (life.engine.is_live(), life.engine.copies_in_step());
        let places = self.places();
        let (place, disk) = places[self.rng.index(places.len())];
        let bad_now: Vec<u8> =
            places.iter().filter(|(p, d)| self.has_bad(p, *d)).map(|(p, _)| p.copy).collect();
        // What rotted before this life must have been repaired: another copy on the same spare is whole.
        let whole = |p: &CopyPlace| in_step[usize::from(p.copy)] && !bad_now.contains(&p.copy);
        let whole_left =
            places.iter().any(|(p, _)| p.spare == place.spare && p.copy != place.copy && whole(p));
        let too_many = !bad_now.contains(&place.copy) && bad_now.len() >= MAX_BAD_COPIES;
        if !live || !whole_left || too_many {
            return;
        }
        let extent = self.copy_extent(&place);
        let unit = self.unit();
        let at = extent.start().0 + self.rng.below(extent.sectors() / unit) * unit;
        let bad = self.any_bad();
        let extent = Extent::new(Sector(at), unit).expect("one logical block");
        if self.disks[disk].spoil(&extent, bad) {
            self.note(15, at, || format!("disk {disk}: {extent} (copy {}) goes bad: {bad:?}", place.copy));
        }
    }

    /// Rot between two lives. `in_step`: the copies that would be believed if nothing rotted.
    pub(super) fn rot(&mut self, in_step: &[bool]) {
        let places = self.places();
        let sound = |w: &Self, (p, d): &(CopyPlace, usize)| {
            in_step.get(usize::from(p.copy)).copied().unwrap_or(false) && !w.has_bad(p, *d)
        };
        let mut spared: Vec<u8> = Vec::new();
        for spare in 0..self.volume.spares.len() as u8 {
            let here: Vec<u8> =
                places.iter().filter(|p| p.0.spare == spare && sound(self, p)).map(|p| p.0.copy).collect();
            let on_spare = places.iter().filter(|p| p.0.spare == spare).count();
            if here.is_empty() && on_spare > 0 {
                return;
            }
            if !here.is_empty() {
                spared.push(here[self.rng.index(here.len())]);
            }
        }
        for (place, disk) in places {
            if spared.contains(&place.copy) || !self.rng.chance(2, 3) {
                continue;
            }
            let extent = self.copy_extent(&place);
            // A few flipped bits, or a page of the wrong thing, or all of it.
            let sectors: Vec<u64> = match self.rng.below(3) {
                0 => (extent.start().0..extent.end().0).collect(),
                1 => (0..1 + self.rng.below(4))
                    .map(|_| extent.start().0 + self.rng.below(extent.sectors()))
                    .collect(),
                _ => (extent.start().0..extent.start().0 + 16).collect(),
            };
            for sector in &sectors {
                let (byte, mask) = (self.rng.index(512), 1 << self.rng.below(8));
                self.disks[disk].rot(*sector, byte, mask);
            }
            self.tally.rotten += 1;
            self.note(16, place.start, || format!("copy {} rots in {} sectors", place.copy, sectors.len()));
        }
    }
}
