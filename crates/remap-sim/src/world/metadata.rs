//! Trouble with metadata copies, within the budget that recovery promises to survive.
//!
//! Invariant (the budget): at most three copies have bad sectors, and every spare keeps one copy without. What nobody hears of
//! (rot, writes that vanish or go astray, reads that fail for a moment while recovering) spares on every spare one copy that is
//! in step with the newest generation there is. In a life that has such trouble in service no spare fails as a whole, because
//! that could take the spared copy out of step, and no metadata are unreadable: after a power cut in the middle of a checkpoint
//! what cannot be read may then be all that tells how far it had come, and recovery refuses (C8).

use remap_core::engine::MIN_COPIES;
use remap_core::units::{Extent, Sector};
use remap_format::layout::{self, CopyPlace};
use remap_format::{COPIES, PAGE_SIZE};

use super::World;
use crate::coverage::Kind;
use crate::rng::Rng;

const MAX_BAD_COPIES: usize = COPIES as usize - MIN_COPIES as usize;

impl World {
    pub(super) fn in_metadata(&self, spare: u8, slot: u64) -> bool {
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

    pub(super) fn spoil_metadata(&mut self) {
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
        if !live || !whole_left || too_many || !self.victims.is_empty() {
            return;
        }
        let extent = self.copy_extent(&place);
        let unit = self.unit();
        let at = extent.start().0 + self.rng.below(extent.sectors() / unit) * unit;
        let bad = self.any_bad();
        let extent = Extent::new(Sector(at), unit).expect("one logical block");
        if self.disks[disk].spoil(&extent, bad) {
            self.spoiled.push((disk, extent));
            self.meet(Kind::MetadataBad);
            self.note(15, at, || format!("disk {disk}: {extent} (copy {}) goes bad: {bad:?}", place.copy));
        }
    }

    /// Of the copies that recovery would believe, one on each spare, to be left alone; `None` where some spare has none. With trouble
    /// that nobody hears of these stay the same until a repair is finished: damage adds up from life to life.
    pub(super) fn spare_some(
        &mut self,
        in_step: &[bool],
        any: impl FnMut(usize) -> usize,
    ) -> Option<Vec<u8>> {
        let spared = self.whole_ones(in_step, any).filter(|_| !self.restoring)?;
        let sound = |copies: &Vec<u8>| {
            copies.iter().all(|&copy| in_step.get(usize::from(copy)).copied().unwrap_or(false))
        };
        match &self.spared {
            Some(before) if self.scenario.faults.silent => Some(before.clone()).filter(sound),
            _ => {
                self.spared = Some(spared.clone());
                Some(spared)
            }
        }
    }

    fn whole_ones(&self, in_step: &[bool], mut any: impl FnMut(usize) -> usize) -> Option<Vec<u8>> {
        let places = self.places();
        let mut spared: Vec<u8> = Vec::new();
        for spare in 0..self.volume.spares.len() as u8 {
            let on_spare = || places.iter().filter(|(p, _)| p.spare == spare);
            let sound = |(p, d): &&(CopyPlace, usize)| {
                in_step.get(usize::from(p.copy)).copied().unwrap_or(false) && !self.has_bad(p, *d)
            };
            let here: Vec<u8> = on_spare().filter(sound).map(|(p, _)| p.copy).collect();
            if here.is_empty() && on_spare().next().is_some() {
                return None;
            }
            if !here.is_empty() {
                spared.push(here[any(here.len())]);
            }
        }
        Some(spared)
    }

    /// Rot between two lives. `in_step`: the copies that would be believed if nothing rotted.
    pub(super) fn rot(&mut self, in_step: &[bool]) {
        let mut rng = self.rng.clone();
        let spared = self.spare_some(in_step, |n| rng.index(n));
        self.rng = rng;
        let Some(spared) = spared else { return };
        let mut rotten = 0;
        for (place, disk) in self.places() {
            if spared.contains(&place.copy) || !self.rng.chance(2, 3) {
                continue;
            }
            let extent = self.copy_extent(&place);
            let mut rng = self.rng.clone();
            let sectors = rotten_sectors(&extent, &mut rng);
            for sector in &sectors {
                let (byte, mask) = (rng.index(512), 1 << rng.below(8));
                self.disks[disk].rot(*sector, byte, mask);
            }
            self.rng = rng;
            rotten += 1;
            self.meet(Kind::RotBetweenLives);
            self.note(16, place.start, || format!("copy {} rots in {} sectors", place.copy, sectors.len()));
        }
        if rotten == COPIES - 1 {
            self.meet(Kind::RotFourCopies);
        }
    }

    /// Chooses the copies whose trouble nobody hears of in this life; every spare keeps one copy that is whole and has none.
    pub(super) fn choose_victims(&mut self, in_step: &[bool]) {
        self.victims.clear();
        if !self.scenario.faults.silent || !self.adopted || !self.luck.chance(2, 3) {
            return;
        }
        if self.places().iter().any(|(p, d)| self.has_bad(p, *d)) {
            return;
        }
        let mut luck = self.luck.clone();
        let spared = self.spare_some(in_step, |n| luck.index(n));
        if let Some(spared) = spared {
            self.victims = (0..COPIES).filter(|c| !spared.contains(c) && luck.chance(3, 4)).collect();
            self.stray_one_in = luck.pick(&[1, 2, 8]);
        }
        self.luck = luck;
        if !self.victims.is_empty() {
            self.silent_damage = true;
            let victims = self.victims.clone();
            self.note(21, victims.len() as u64, || format!("copies {victims:?} are in for silent trouble"));
        }
    }

    /// A copy rots while the volume is in service.
    pub(super) fn rot_in_service(&mut self) {
        if self.victims.is_empty() {
            return;
        }
        let copy = self.victims[self.luck.index(self.victims.len())];
        let Some(&(place, disk)) = self.places().iter().find(|(p, _)| p.copy == copy) else { return };
        let sectors = rotten_sectors(&self.copy_extent(&place), &mut self.luck);
        for sector in &sectors {
            let (byte, mask) = (self.luck.index(512), 1 << self.luck.below(8));
            self.disks[disk].rot(*sector, byte, mask);
        }
        self.meet(Kind::RotInService);
        self.note(22, place.start, || format!("copy {copy} rots in {} sectors", sectors.len()));
    }

    /// What becomes of a metadata write that reports success: `None`: it happens; else the place where it lands instead, if it
    /// lands at all.
    pub(super) fn stray(&mut self, disk: usize, extent: &Extent) -> Option<Option<Extent>> {
        if self.victims.is_empty() || disk == 0 {
            return None;
        }
        let places = self.places();
        let mut here = places.iter().filter(|(p, d)| *d == disk && self.victims.contains(&p.copy));
        if !here.clone().any(|(p, _)| self.copy_extent(p).overlaps(extent)) {
            return None;
        }
        if !self.luck.chance(1, self.stray_one_in) {
            return None;
        }
        if self.luck.chance(1, 2) {
            self.meet(Kind::MetadataWriteLost);
            self.note(23, extent.start().0, || format!("disk {disk}: the write to {extent} is lost"));
            return Some(None);
        }
        let nth = self.luck.index(here.clone().count());
        let copy = self.copy_extent(&here.nth(nth)?.0);
        let page = PAGE_SIZE as u64 / 512;
        let room = (copy.sectors().checked_sub(extent.sectors())?) / page + 1;
        let start = copy.start().0 + self.luck.below(room) * page;
        let astray = Extent::new(Sector(start), extent.sectors());
        self.meet(Kind::MetadataWriteMisdirected);
        self.note(24, start, || format!("disk {disk}: the write to {extent} lands at {start}"));
        Some(astray)
    }
}

/// A few flipped bits, or a page of the wrong thing, or all of it.
fn rotten_sectors(copy: &Extent, rng: &mut Rng) -> Vec<u64> {
    let start = copy.start().0;
    match rng.below(3) {
        0 => (start..copy.end().0).collect(),
        1 => (0..1 + rng.below(4)).map(|_| start + rng.below(copy.sectors())).collect(),
        _ => (start..start + 16).collect(),
    }
}
