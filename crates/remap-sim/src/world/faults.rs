//! Trouble with devices: sectors that go bad and read again, paths that fail, devices that take no writes or do not answer.
//!
//! Invariant (the budget): a fault of a whole spare never meets damage of its metadata copies that nobody knows of (see
//! `metadata`); everything else may come together.

use remap_core::op::Fault;
use remap_core::units::{Extent, Sector, Slot};
use remap_format::EntryState;

use super::World;
use super::lives::GONE;
use crate::coverage::Kind;
use crate::disk::Bad;

impl World {
    /// Between two events something may happen to the devices.
    pub(super) fn weather(&mut self) {
        if let Some((disk, until)) = self.path_until
            && self.steps >= until
        {
            self.disks[disk].fault = None;
            self.path_until = None;
        }
        self.later_weather();
        let faults = self.scenario.faults;
        if faults.path && self.path_until.is_none() && self.rng.chance(1, self.scenario.one_in(300)) {
            let disk = self.rng.index(self.disks.len());
            let fault = self.rng.pick(&[Fault::Transport, Fault::Timeout, Fault::Gone]);
            let steps = 1 + self.rng.below(40);
            if self.may_fail_as_a_whole(disk) {
                self.disks[disk].fault = Some(fault);
                self.path_until = Some((disk, self.steps + steps));
                self.meet(match fault {
                    Fault::Transport => Kind::PathTransport,
                    Fault::Timeout => Kind::PathTimeout,
                    _ => Kind::PathGone,
                });
                self.note(12, disk as u64, || format!("disk {disk}: from now on {fault:?}"));
            }
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

    /// Trouble of the kinds that came later (with numbers of their own: see `Faults`).
    fn later_weather(&mut self) {
        let faults = self.scenario.faults;
        if let Some((disk, until)) = self.no_writes_until
            && self.steps >= until
        {
            self.disks[disk].write_fault = None;
            self.no_writes_until = None;
        }
        if faults.no_room && self.adopted && self.no_writes_until.is_none() && self.luck.chance(1, 400) {
            let disk = self.luck.index(self.disks.len());
            let (fault, kind) =
                self.luck.pick(&[(Fault::NoSpace, Kind::NoRoom), (Fault::Unsupported, Kind::ReadOnly)]);
            if self.may_fail_as_a_whole(disk) {
                self.disks[disk].write_fault = Some(fault);
                self.no_writes_until = Some((disk, self.steps + 1 + self.luck.below(40)));
                self.meet(kind);
                self.note(27, disk as u64, || format!("disk {disk}: from now on writes fail: {fault:?}"));
            }
        }
        if faults.heal && self.luck.chance(1, 80) {
            self.heal_one();
        }
        if faults.clock && self.luck.chance(1, 150) {
            self.clock_jumps();
        }
        if faults.hang {
            self.late_writes_land();
        }
        if faults.silent && self.luck.chance(1, 60) {
            self.rot_in_service();
        }
    }

    /// May a fault hit this device as a whole, or any of its operations, now?
    pub(super) fn may_fail_as_a_whole(&self, disk: usize) -> bool {
        disk == 0 || (self.victims.is_empty() && !self.scenario.faults.metadata_medium)
    }

    /// The monotonic clock only leaps ahead; the wall clock goes anywhere.
    fn clock_jumps(&mut self) {
        let seconds = self.luck.pick(&[1, 3600, 86_400, 400 * 86_400]);
        if self.luck.chance(1, 2) {
            self.now.mono_ns += seconds.min(86_400) * 1_000_000_000;
            self.now.unix_s += seconds;
            self.meet(Kind::ClockAhead);
        } else {
            self.now.unix_s = self.now.unix_s.saturating_sub(seconds * 100);
            self.meet(Kind::ClockBack);
        }
    }

    /// One of the places that went bad reads again.
    fn heal_one(&mut self) {
        if self.spoiled.is_empty() {
            return;
        }
        let at = self.luck.index(self.spoiled.len());
        let (disk, extent) = self.spoiled.swap_remove(at);
        if (extent.start().0..extent.end().0).all(|s| self.disks[disk].bad(s).is_none()) {
            return;
        }
        self.disks[disk].mend(&extent);
        self.meet(Kind::SectorHeals);
        self.note(20, extent.start().0, || format!("disk {disk}: {extent} reads again"));
        for sector in extent.start().0..extent.end().0 {
            if let Some(logical) = self.volume_sector(disk, sector) {
                self.oracle.heal(logical);
            }
        }
    }

    /// Which sector of the volume lies there, if one does.
    pub(super) fn volume_sector(&self, disk: usize, sector: u64) -> Option<u64> {
        let sectors = self.scenario.main_sectors;
        if disk == 0 {
            return Some(sector).filter(|&s| s < sectors);
        }
        let life = self.life.as_ref()?;
        let spare = life.spare_disks.iter().position(|&d| d == disk)? as u8;
        let per_block = self.block_sectors();
        let slot = Slot::new(spare, sector / per_block).0;
        let holds = |e: &remap_format::Entry| {
            e.state == EntryState::Remapped && (e.slot..e.slot + u64::from(e.count)).contains(&slot)
        };
        let entry = life.engine.table().iter().find(holds)?;
        let logical = (entry.block + slot - entry.slot) * per_block + sector % per_block;
        Some(logical).filter(|&s| s < sectors)
    }

    pub(super) fn end_faults(&mut self) {
        for disk in &mut self.disks {
            disk.fault = None;
            disk.write_fault = None;
        }
        self.path_until = None;
        self.no_writes_until = None;
        self.storm = None;
        while !self.late.is_empty() {
            self.late_write_ends(0);
        }
    }

    pub(super) fn flush_fails(&mut self) -> Option<Fault> {
        let on = self.scenario.faults.flush && self.adopted && !self.quiet;
        (on && self.rng.chance(1, self.scenario.one_in(25)))
            .then(|| self.rng.pick(&[Fault::Unknown, Fault::Medium, Fault::Timeout, Fault::Transport]))
    }

    pub(super) fn any_bad(&mut self) -> Bad {
        let fault = if self.scenario.faults.unknown && self.rng.chance(1, 2) {
            Fault::Unknown
        } else {
            self.rng.pick(&[Fault::Medium, Fault::Medium, Fault::Protection])
        };
        if fault == Fault::Unknown {
            self.meet(Kind::BareError);
        }
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
        self.spoiled.push((0, extent));
        self.meet(if matches!(bad, Bad::ForEver(_)) { Kind::MainDead } else { Kind::MainBad });
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
            (Slot(slot), Some(block))
        } else {
            let slot = Slot::new(spare as u8, self.rng.below(count));
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
        self.spoiled.push((disk, extent));
        self.meet(if matches!(bad, Bad::ForEver(_)) { Kind::SlotDead } else { Kind::SlotBad });
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
}
