//! What a script asks of the world by name, where a seed would draw it by lot.
//!
//! Invariant: nothing here draws a random number.

use std::sync::Arc;

use remap_core::engine::{Command, Engine, EngineConfig};
use remap_core::op::Fault;
use remap_core::recovery::Recovered;
use remap_core::units::{Block, Extent, Sector, Slot};
use remap_format::{COPIES, Entry, EntryState, layout};

use super::devices::Work;
use super::lives::disks_of;
use super::{Life, Out, World};
use crate::disk::{Bad, SimDisk};
use crate::sweep::image::Image;
use crate::{Checked, Rule, Violation};

/// What a script does to device operations.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Stage {
    /// An operation takes effect when it ends, never before: then all that it could leave is in doubt for as long as it is out.
    pub(super) effects_late: bool,
    /// Operations that took effect so far.
    operations: u64,
    failing: Option<Failing>,
    /// The disk that fails from now on.
    failed_disk: Option<usize>,
}

/// One operation that fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failing {
    /// Which, counted from the beginning.
    pub operation: u64,
    /// How.
    pub fault: Fault,
    /// And so does every later one on the same device.
    pub lasts: bool,
}

impl World {
    /// Operations take effect when they end, and one of them fails.
    pub fn stage(&mut self, failing: Option<Failing>) {
        self.stage = Stage { effects_late: true, failing, ..Stage::default() };
    }

    /// Nothing fails any more.
    pub fn end_stage(&mut self) {
        self.stage.failing = None;
    }

    /// Operations that took effect since the world was staged.
    #[must_use]
    pub fn staged_operations(&self) -> u64 {
        self.stage.operations
    }

    /// How the operation that is about to take effect is to fail.
    pub(super) fn staged_fault(&mut self, index: usize) -> Option<Fault> {
        let number = self.stage.operations;
        self.stage.operations += 1;
        let failing = self.stage.failing?;
        let Out { disk, extent, .. } = self.outs[index];
        if number == failing.operation && failing.lasts {
            self.stage.failed_disk = Some(disk);
        }
        if number != failing.operation && self.stage.failed_disk != Some(disk) {
            return None;
        }
        let reads = matches!(self.outs[index].work, Work::Read(_));
        if failing.fault.blames_medium() && reads {
            self.flicker(disk, extent);
        }
        Some(failing.fault)
    }

    /// What lies there cannot be read for once.
    fn flicker(&mut self, disk: usize, extent: Extent) {
        let per_block = self.block_sectors();
        let mut sectors: Vec<u64> = Vec::new();
        if disk == 0 {
            sectors.extend(extent.start().0..extent.end().0);
        } else if let Some(life) = &self.life {
            for entry in life.engine.table().iter().filter(|e| e.state == EntryState::Remapped) {
                for n in 0..u64::from(entry.count) {
                    let slot = Slot(entry.slot).offset(n);
                    let here = life.spare_disks.get(usize::from(slot.spare())) == Some(&disk);
                    let first = slot.index() * per_block;
                    let hit = |s: &u64| here && extent.contains(Sector(first + s));
                    sectors.extend((0..per_block).filter(hit).map(|s| (entry.block + n) * per_block + s));
                }
            }
        }
        for sector in sectors.into_iter().filter(|&s| s < self.scenario.main_sectors) {
            self.oracle.flicker(sector, self.tick);
        }
    }

    /// May requests be taken?
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.life.as_ref().is_some_and(|l| l.engine.is_live())
    }

    /// Blocks that the table says something about.
    #[must_use]
    pub fn blocks_with_entries(&self) -> Vec<u64> {
        let entries = self.life.iter().flat_map(|l| l.engine.table().iter());
        entries.flat_map(|e| e.block..e.end()).collect()
    }

    /// The end of a story: all sectors are as they may be, and after a save all copies agree.
    ///
    /// # Errors
    /// They are not, or do not.
    pub fn end_story(&mut self) -> Checked {
        self.end_stage();
        self.look_at_everything()?;
        for copy in 0..COPIES {
            self.mend_copy(copy);
        }
        self.begin_command(Command::Save)?;
        self.rest()?;
        self.check_copies()
    }

    /// Are operations out?
    #[must_use]
    pub fn is_busy(&self) -> bool {
        !self.outs.is_empty()
    }

    /// Ends one operation; which one follows from the seed.
    ///
    /// # Errors
    /// What it showed is a violation.
    pub fn end_one(&mut self) -> Checked {
        self.complete_any()
    }

    /// Ends all operations that are out, and those that follow from them.
    ///
    /// # Errors
    /// What they showed is a violation.
    pub fn end_all(&mut self) -> Checked {
        while self.is_busy() {
            self.end_one()?;
        }
        Ok(())
    }

    /// Ends all operations and lets time pass until nothing is under way.
    ///
    /// # Errors
    /// What they showed is a violation, or there is no rest.
    pub fn settle(&mut self) -> Checked {
        self.rest()
    }

    /// Generation of the durable table, if the volume is assembled.
    #[must_use]
    pub fn generation(&self) -> Option<u64> {
        self.life.as_ref().map(|l| l.engine.generation())
    }

    /// What is durable on the spares.
    #[must_use]
    pub fn image(&self) -> Image {
        let whole =
            |disk: &SimDisk| Extent::new(Sector(0), disk.sectors()).map(|e| disk.durable(&e).to_vec());
        let spares = self.disks.iter().skip(1).filter_map(whole).collect();
        Image { volume: self.volume.clone(), spares, unreadable: Vec::new() }
    }

    /// Time passes.
    ///
    /// # Errors
    /// What it showed is a violation.
    pub fn wait(&mut self, seconds: u64) -> Checked {
        self.now.mono_ns += seconds * 1_000_000_000;
        self.now.unix_s += seconds;
        self.wake_engine()
    }

    /// Sectors of the slot that holds `block` go bad; `false` if it has none, or if they could not just now.
    pub fn spoil_slot_of(&mut self, block: u64, first: u64, sectors: u64, bad: Bad) -> bool {
        let per_block = self.block_sectors();
        let Some(life) = &self.life else { return false };
        let entry = life.engine.table().get(Block(block)).filter(|e| e.state == EntryState::Remapped);
        let Some(slot) = entry.map(|e| Slot(e.slot)) else { return false };
        let Some(&disk) = life.spare_disks.get(usize::from(slot.spare())) else { return false };
        let Some(extent) = Extent::new(Sector(slot.index() * per_block + first), sectors) else {
            return false;
        };
        if !self.disks[disk].spoil(&extent, bad) {
            return false;
        }
        for sector in block * per_block + first..block * per_block + first + sectors {
            if sector < self.scenario.main_sectors {
                self.oracle.lose(sector, self.tick);
            }
        }
        self.tick += 1;
        true
    }

    /// Sectors of a metadata copy, counted from its start, go bad; `false` if they could not just now.
    pub fn spoil_copy(&mut self, copy: u8, first: u64, sectors: u64, bad: Bad) -> bool {
        let Some((place, disk)) = self.places().into_iter().find(|(place, _)| place.copy == copy) else {
            return false;
        };
        let extent = Extent::new(Sector(place.start / 512 + first), sectors);
        extent.is_some_and(|extent| self.disks[disk].spoil(&extent, bad))
    }

    /// A blank disk as large as `spares` of the first spare asks to join; `false` if it is too small.
    ///
    /// # Errors
    /// What it showed is a violation.
    pub fn blank_spare_joins(&mut self, spares: u64, copies: bool) -> Result<bool, Violation> {
        self.disks.push(SimDisk::blank(spares * self.scenario.spares[0] / 512));
        self.spare_joins(self.disks.len() - 1, copies)
    }

    /// As [`Self::blank_spare_joins`], with copies; the page where each journal would begin is bad for ever.
    ///
    /// # Errors
    /// What it showed is a violation.
    pub fn bad_spare_joins(&mut self, spares: u64) -> Result<bool, Violation> {
        let size = spares * self.scenario.spares[0];
        let mut disk = SimDisk::blank(size / 512);
        let journal = remap_core::recovery::shape_of(&self.volume).journal_at(0);
        for index in 0..COPIES {
            let start = Sector((layout::anchor(size, index, COPIES) + journal) / 512);
            let page = Extent::new(start, 8).expect("not empty");
            disk.spoil(&page, Bad::ForEver(Fault::Medium));
        }
        self.disks.push(disk);
        self.spare_joins(self.disks.len() - 1, true)
    }

    /// The volume is released, all of it: what the clients wrote goes home, then the copies are marked.
    ///
    /// # Errors
    /// What it showed is a violation.
    pub fn release(&mut self) -> Checked {
        self.quiet = false;
        self.begin_release();
        self.release_advance()
    }

    /// All bad sectors of a metadata copy are good again.
    pub fn mend_copy(&mut self, copy: u8) {
        for (place, disk) in self.places() {
            if place.copy == copy {
                let extent = self.copy_extent(&place);
                self.disks[disk].mend(&extent);
            }
        }
    }

    /// Between two lives an edit was made to the whole table, as an import or a restore does: the volume starts from that.
    ///
    /// # Errors
    /// Recovery refused, or the edit does not fit.
    pub fn assemble_edited(&mut self, edits: &[Entry]) -> Checked {
        let order: Vec<usize> = (1..self.disks.len()).collect();
        let found = self.recover_from(&order, Vec::new());
        let mut recovered =
            found.map_err(|error| Rule::C8.broken(format!("refused before an edit: {error}")))?;
        for edit in edits {
            recovered.table.apply(edit).map_err(|error| Rule::C6.broken(format!("an edit: {error}")))?;
            let per_block = self.block_sectors();
            for block in edit.block..edit.end() {
                for sector in (0..per_block).filter(|s| edit.lost & (1 << s) != 0) {
                    self.oracle.lose(block * per_block + sector, self.tick);
                }
            }
        }
        self.tick += 1;
        recovered.mark_edited();
        self.start(recovered, &order)
    }

    fn start(&mut self, recovered: Recovered, order: &[usize]) -> Checked {
        let spare_disks = disks_of(&recovered, order);
        let engine = Engine::start(recovered, EngineConfig::default(), self.now).expect("memory");
        let view = Arc::clone(&engine.view());
        self.life = Some(Life { engine, view, spare_disks });
        self.pump()
    }
}
