//! What a script asks of the world by name, where a seed would draw it by lot.
//!
//! Invariant: nothing here draws a random number.

use std::sync::Arc;

use remap_core::engine::{Engine, EngineConfig};
use remap_core::recovery::Recovered;
use remap_core::units::{Block, Extent, Sector, Slot};
use remap_format::{Entry, EntryState};

use super::{Life, World};
use crate::disk::{Bad, SimDisk};
use crate::sweep::image::Image;
use crate::{Checked, Rule};

impl World {
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
        recovered.generation = recovered.generation.wrapping_add(EDIT_DISTANCE);
        recovered.needs_repair = true;
        self.start(recovered, &order)
    }

    fn start(&mut self, recovered: Recovered, order: &[usize]) -> Checked {
        let spare_disks = recovered.devices.iter().map(|&given| order[given]).collect();
        let engine = Engine::start(recovered, EngineConfig::default(), self.now).expect("memory");
        let view = Arc::clone(&engine.view());
        self.life = Some(Life { engine, view, spare_disks });
        self.pump()
    }
}

/// Generations that an edit of the whole table skips, as the runtime does it.
const EDIT_DISTANCE: u64 = 16;
