//! What people and policy ask of the engine, at any time.

use remap_core::engine::{Command, CommandId};
use remap_format::{Cause, SpareRecord, layout};

use super::lives::GONE;
use super::{Changing, World};
use crate::coverage::Kind;
use crate::disk::SimDisk;
use crate::inside;
use crate::rule::Rule;
use crate::{Checked, Violation};

/// Spares in a volume, at most.
const MOST_SPARES: usize = 6;
/// Commands under way at a time, at most.
const MOST_COMMANDS: usize = 3;

impl World {
    pub(super) fn begin_any_command(&mut self) -> Checked {
        let live = self.life.as_ref().is_some_and(|l| l.engine.is_live());
        let busy = self.commands.len() >= MOST_COMMANDS || self.release.is_under_way();
        if !live || !self.scenario.commands || busy {
            return self.complete_any();
        }
        if self.scenario.faults.maintenance && self.luck.chance(1, 12) {
            self.begin_release();
            return Ok(());
        }
        let most = self.scenario.main_sectors.div_ceil(self.block_sectors());
        let extent = self.any_extent(most);
        // While copies have trouble that nobody hears of, each spare needs the one that has none.
        let free_to_move = self.victims.is_empty();
        // Copies may move to homes with bad sectors, which the budget of bad copies does not count: not both.
        if !self.scenario.faults.metadata_medium && self.rng.chance(1, 8) && free_to_move {
            return self.begin_spare_change();
        }
        let command = match self.rng.below(12) {
            0..=3 => Command::Remap(extent, self.rng.pick(&[Cause::Manual, Cause::Predicted])),
            4..=6 => Command::Clear(extent),
            7..=8 => Command::Verify { extent, all: self.rng.chance(1, 2) },
            9 => Command::Save,
            10 if self.rng.chance(1, 2) => Command::Suspend,
            _ => Command::Resume,
        };
        self.begin_command(command)
    }

    /// A spare joins or leaves, one at a time.
    fn begin_spare_change(&mut self) -> Checked {
        if self.changing.is_some() {
            return self.complete_any();
        }
        let present: Vec<u8> =
            (0u8..).zip(&self.volume.spares).filter(|(_, s)| s.is_present()).map(|(n, _)| n).collect();
        if present.len() > 1 && self.rng.chance(1, 2) {
            let spare = self.rng.pick(&present);
            return self.spare_leaves(spare);
        }
        if present.len() == MOST_SPARES {
            return self.complete_any();
        }
        let disk = self.idle_disk();
        let copies = self.rng.chance(1, 2);
        let migrates = self.scenario.faults.maintenance && self.luck.chance(1, 2);
        let takes_place_of = self.luck.pick(&present);
        if !self.spare_joins(disk, copies)? {
            return self.complete_any();
        }
        if migrates && self.changing.is_some() {
            self.migrating = Some(takes_place_of);
        }
        Ok(())
    }

    /// A spare joined: the one whose place it takes is to leave.
    pub(super) fn migration_goes_on(&mut self, joined: bool) -> Checked {
        let Some(spare) = self.migrating.take_if(|_| joined) else { return Ok(()) };
        if self.quiet || self.release.is_under_way() {
            return Ok(());
        }
        self.meet(Kind::CommandMigrate);
        self.spare_leaves(spare)
    }

    /// Asks that a spare leaves.
    ///
    /// # Errors
    /// What it showed is a violation.
    pub fn spare_leaves(&mut self, spare: u8) -> Checked {
        self.changing = Some(Changing { command: self.next_id + 1, spare, joins: false });
        self.begin_command(Command::RetireSpare { spare })
    }

    /// Asks that a disk joins, with copies on it if it may have some; `false` if it is no use as a spare.
    ///
    /// # Errors
    /// What it showed is a violation.
    pub(super) fn spare_joins(&mut self, disk: usize, copies: bool) -> Result<bool, Violation> {
        let Some(spare) = self.life.as_ref().and_then(|life| life.engine.next_spare()) else {
            return Ok(false);
        };
        let size = self.disks[disk].sectors() * 512;
        let uuid = (u128::from(self.id()) << 64 | u128::from(self.scenario.seed)).to_be_bytes();
        let shape = remap_core::recovery::shape_of(&self.volume);
        let planned = layout::joining_spare(uuid, size, spare, &shape, 1 << self.scenario.block_shift);
        let (Ok(record), Some(life)) = (planned, &mut self.life) else { return Ok(false) };
        let places = &mut life.spare_disks;
        places.resize(places.len().max(usize::from(spare) + 1), GONE);
        places[usize::from(spare)] = disk;
        self.changing = Some(Changing { command: self.next_id + 1, spare, joins: true });
        self.begin_command(Command::AddSpare { spare, record, copies })?;
        Ok(true)
    }

    /// A disk that is no spare, wiped as a joining spare is: what is not a superblock stays on it.
    fn idle_disk(&mut self) -> usize {
        let used = self.life.as_ref().map(|l| l.spare_disks.clone()).unwrap_or_default();
        let idle: Vec<usize> = (1..self.disks.len()).filter(|disk| !used.contains(disk)).collect();
        let healthy = |disk: &SimDisk| (0..disk.sectors()).all(|sector| disk.bad(sector).is_none());
        match idle.iter().copied().find(|&disk| healthy(&self.disks[disk])) {
            Some(disk) if self.rng.chance(2, 3) => {
                let size = self.disks[disk].sectors() * 512;
                for place in layout::search_places(size) {
                    for sector in place / 512..((place + layout::LABEL_BYTES) / 512).min(size / 512) {
                        self.disks[disk].preset(sector, &[0; 512]);
                    }
                }
                disk
            }
            _ => {
                let sectors = self.scenario.spares[0] / 512;
                let sectors = self.rng.pick(&[sectors, sectors, 2 * sectors, sectors / 4 / 8 * 8]);
                self.disks.push(SimDisk::blank(sectors));
                self.disks.len() - 1
            }
        }
    }

    /// A command ended; a spare that was to join, and did not, is no spare. (The disk of one that leaves must be there until its
    /// superblocks are erased; its number is not given again in this life.) `true`: one joined.
    pub(super) fn spares_changed(&mut self, id: u64) -> bool {
        let Some(changed) = self.changing.take_if(|changing| changing.command == id) else { return false };
        let Some(life) = self.life.as_mut().filter(|_| changed.joins) else { return false };
        let spare = usize::from(changed.spare);
        let joined = life.engine.volume().spares.get(spare).is_some_and(SpareRecord::is_present);
        if !joined {
            life.spare_disks[spare] = GONE;
            self.migrating = None;
        }
        joined
    }

    /// A person asks for something.
    ///
    /// # Errors
    /// What it showed is a violation.
    pub fn begin_command(&mut self, command: Command) -> Checked {
        let id = self.id();
        self.note(11, id, || format!("command {id}: {command:?}"));
        self.meet(Kind::of_command(&command));
        if let Command::Clear(extent) = command {
            let per_block = self.block_sectors();
            for block in extent.start().0 / per_block..extent.end().0.div_ceil(per_block) {
                self.clearing[block as usize] = true;
            }
        }
        match command {
            Command::Suspend => self.suspended = true,
            Command::Resume => self.suspended = false,
            _ => {}
        }
        self.commands.push(id);
        let now = self.now;
        if let Some(life) = &mut self.life {
            let taken = inside::core(|| life.engine.command(now, CommandId(id), command));
            taken.map_err(|error| Rule::C6.broken(format!("command {id}: not taken: {error}")))?;
        }
        self.pump()
    }
}
