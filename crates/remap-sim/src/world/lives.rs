//! Lives of the volume: adopt or assemble, crash, and the look at everything in the end.
//!
//! Invariant: whatever is durable on the disks, recovery gives a volume, and the same one every time, as long as the budget of
//! `faults` is kept.

use remap_core::canary::Planted;
use remap_core::engine::{Command, Engine, EngineConfig};
use remap_core::op::{Fault, RequestKind};
use remap_core::recovery::{Recovered, RecoveryError, SpareReader, recover};
use remap_core::units::{Extent, Sector};
use remap_format::{COPIES, Entry, MainIdentity, SpareRecord, Superblock};

use super::flushes::{Debt, Failures};
use super::{Life, STEPS_TO_REST, World};
use crate::coverage::Kind;
use crate::disk::{Loss, SimDisk};
use crate::inside;
use crate::scenario::Scenario;
use crate::{Checked, Rule, Violation};

/// The disk of a spare that has left.
pub(super) const GONE: usize = usize::MAX;
/// Blocks read at a time in a look at everything.
const LOOK_BLOCKS: u64 = 4;

/// Recovery's way to the disks, in the order in which they were given.
struct Reader<'d> {
    disks: &'d [SimDisk],
    order: &'d [usize],
    /// Byte ranges that cannot be read now, on the first disk given.
    hidden: Vec<(u64, u64)>,
    planted: Planted,
    flakes: &'d mut Vec<Flake>,
    /// The path failed.
    path_failed: bool,
}

/// Reads that touch the extent fail, some times.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flake {
    disk: usize,
    extent: Extent,
    fault: Fault,
    times: u32,
}

impl SpareReader for Reader<'_> {
    fn read(&mut self, spare: usize, offset: u64, into: &mut [u8]) -> Result<(), Fault> {
        let end = offset + into.len() as u64;
        if self.hidden.iter().any(|&(from, to)| spare == 0 && from < end && offset < to) {
            return Err(Fault::Timeout);
        }
        let extent = Extent::new(Sector(offset / 512), (into.len() / 512) as u64).ok_or(Fault::Unknown)?;
        let disk = self.order[spare];
        let here = |f: &&mut Flake| f.disk == disk && f.times > 0 && f.extent.overlaps(&extent);
        if let Some(flake) = self.flakes.iter_mut().find(here) {
            flake.times -= 1;
            self.path_failed |= matches!(flake.fault, Fault::Transport | Fault::Gone);
            return Err(flake.fault);
        }
        inside::outside(|| self.disks[disk].read(&extent, into))
    }

    fn planted(&self) -> Planted {
        self.planted
    }
}

/// For each spare of a recovered volume, its disk.
pub(super) fn disks_of(recovered: &Recovered, order: &[usize]) -> Vec<usize> {
    recovered.devices.iter().map(|given| given.map_or(GONE, |g| order[g])).collect()
}

/// The volume of a scenario, as it is adopted; `attempt` tells one adoption from the next.
pub(super) fn describe(scenario: &Scenario, attempt: u64) -> Superblock {
    let shape = scenario.shape().expect("scenarios have spares that are large enough");
    let uuid = |n: u64| (u128::from(scenario.seed) << 64 | u128::from(attempt << 8 | n)).to_be_bytes();
    let spares: Vec<_> = (1u64..).zip(&scenario.spares).map(|(n, &size)| (uuid(n), size)).collect();
    let main = MainIdentity {
        size: scenario.main_sectors * 512,
        logical_block: scenario.logical_block,
        ..MainIdentity::default()
    };
    Superblock {
        policy: scenario.policy,
        // A wrap of the generation is in reach of some seeds.
        generation: if scenario.seed.is_multiple_of(4) { u64::MAX - scenario.seed % 64 } else { 0 },
        created: super::START_UNIX_S,
        written: super::START_UNIX_S,
        ..Superblock::new(uuid(0), "simulated", 1 << scenario.block_shift, &shape, &spares, main)
    }
}

impl World {
    /// Starts a life: recovers the volume, or adopts it as long as it was never live.
    ///
    /// # Errors
    /// Recovery refused although the budget was kept.
    pub fn assemble(&mut self) -> Checked {
        let mut order: Vec<usize> = (1..self.disks.len()).collect();
        self.rng.shuffle(&mut order);
        let (life, in_step) = loop {
            if let Some(begun) = self.begin_life(&mut order)? {
                break begun;
            }
        };
        self.life = Some(life);
        self.choose_victims(&in_step);
        self.pump()?;
        if self.adopted && self.rng.chance(1, 4) && !self.stage.effects_late {
            self.look_at_everything()?;
        }
        Ok(())
    }

    /// Recovers or adopts, and starts an engine: with it, which copies were in step. `None`: there was no memory for it.
    fn begin_life(&mut self, order: &mut Vec<usize>) -> Result<Option<(Life, Vec<bool>)>, Violation> {
        let mut recovered = match self.find_at_last(order)? {
            Ok(recovered) => {
                self.release_must_not_be_forgotten()?;
                recovered
            }
            Err(RecoveryError::Released { .. }) if self.adopted => self.take_back(order)?,
            Err(error) if self.adopted => {
                return Err(Rule::C8.broken(format!("recovery refused within the budget: {error}")));
            }
            Err(_) => {
                order.sort_unstable();
                let Some(recovered) = self.adopt()? else { return Ok(None) };
                recovered
            }
        };
        if recovered.superblock.volume != self.volume.volume {
            return Err(Rule::C8.broken("recovery found another volume"));
        }
        self.restore(&mut recovered);
        let copies = recovered.good_copies();
        let (generation, entries) = (recovered.generation, recovered.table.counts().entries);
        self.note(17, generation, || {
            format!("assembled: generation {generation}, {entries} entries, {copies} good copies")
        });
        if self.adopted && recovered.needs_repair {
            self.meet(Kind::Repair);
        }
        let in_step: Vec<bool> = recovered.copies.iter().map(|c| c.flaw.is_none()).collect();
        let spare_disks = disks_of(&recovered, order);
        self.see_layout(&recovered.superblock);
        let config = EngineConfig { planted: self.scenario.planted, ..EngineConfig::default() };
        let now = self.now;
        let Ok(engine) = inside::core(|| Engine::start(recovered, config, now)) else { return Ok(None) };
        let view = engine.view();
        Ok(Some((Life { engine, view, spare_disks }, in_step)))
    }

    /// Recovers from these disks. A spare that has left, or did not quite join, is refused: a person is told, and leaves it out.
    fn find_volume(&mut self, order: &mut Vec<usize>) -> Result<Recovered, RecoveryError> {
        loop {
            match self.recover_from(order, Vec::new()) {
                Err(RecoveryError::NotAMember { spare, .. } | RecoveryError::NoMetadata { spare, .. })
                    if self.adopted && order.len() > 1 =>
                {
                    self.leave_out(order, spare);
                }
                other => return other,
            }
        }
    }

    pub(super) fn recover_from(
        &self,
        order: &[usize],
        hidden: Vec<(u64, u64)>,
    ) -> Result<Recovered, RecoveryError> {
        self.recover_on(&self.disks, order, hidden)
    }

    /// Asks again as long as memory is refused.
    pub(super) fn recover_on(
        &self,
        disks: &[SimDisk],
        order: &[usize],
        hidden: Vec<(u64, u64)>,
    ) -> Result<Recovered, RecoveryError> {
        self.recover_with(disks, order, hidden, &mut Vec::new(), false).0
    }

    /// Recovers a volume that was released.
    pub(super) fn recover_released(&self, order: &[usize]) -> Result<Recovered, RecoveryError> {
        self.recover_with(&self.disks, order, Vec::new(), &mut Vec::new(), true).0
    }

    /// What recovery says, and whether the path failed while it read.
    fn recover_with(
        &self,
        disks: &[SimDisk],
        order: &[usize],
        hidden: Vec<(u64, u64)>,
        flakes: &mut Vec<Flake>,
        released_too: bool,
    ) -> (Result<Recovered, RecoveryError>, bool) {
        let sizes: Vec<u64> = order.iter().map(|&d| disks[d].sectors() * 512).collect();
        let planted = self.scenario.planted;
        let mut reader = Reader { disks, order, hidden, planted, flakes, path_failed: false };
        loop {
            let before = inside::refusals();
            // Only what this try met says what its answer must be.
            reader.path_failed = false;
            let found = inside::core(|| recover(&mut reader, &sizes, released_too));
            if !matches!(found, Err(RecoveryError::Memory(_))) || inside::refusals() == before {
                return (found, reader.path_failed);
            }
        }
    }

    /// Recovers; as long as the path fails that must be refused, and a person tries again.
    fn find_at_last(
        &mut self,
        order: &mut Vec<usize>,
    ) -> Result<Result<Recovered, RecoveryError>, Violation> {
        let mut flakes = core::mem::take(&mut self.flakes);
        loop {
            let before: u32 = flakes.iter().map(|f| f.times).sum();
            let (found, path_failed) = self.recover_with(&self.disks, order, Vec::new(), &mut flakes, false);
            let failed = before - flakes.iter().map(|f| f.times).sum::<u32>();
            if failed > 0 && !path_failed {
                self.meet(Kind::RecoveryReadFails);
            }
            match found {
                Err(RecoveryError::Unreachable { .. }) if path_failed => self.meet(Kind::RecoveryPathFails),
                _ if path_failed => {
                    return Err(Rule::C8.broken("recovery went on although the path to a spare failed"));
                }
                Err(RecoveryError::NotAMember { spare, .. } | RecoveryError::NoMetadata { spare, .. })
                    if self.adopted && order.len() > 1 =>
                {
                    self.leave_out(order, spare);
                }
                found => return Ok(found),
            }
        }
    }

    fn leave_out(&mut self, order: &mut Vec<usize>, spare: usize) {
        let disk = order.remove(spare);
        self.note(19, disk as u64, || format!("disk {disk} is not part of the volume"));
    }

    /// After a power cut: which copies recovery would believe now.
    fn look_at_copies(&mut self) -> Option<Vec<bool>> {
        let disks = self.life.as_ref().map(|l| l.spare_disks.clone()).unwrap_or_default();
        let mut order: Vec<usize> = disks.into_iter().filter(|&disk| disk != GONE).collect();
        let found = self.find_volume(&mut order).ok()?;
        self.see_layout(&found.superblock);
        if let Some(life) = &mut self.life {
            life.spare_disks = disks_of(&found, &order);
        }
        Some(found.copies.iter().map(|c| c.flaw.is_none()).collect())
    }

    /// Chooses what cannot be read for a moment in the next recovery: of each spare one copy that is whole is spared, but the
    /// path may fail anywhere.
    fn choose_flakes(&mut self, in_step: &[bool]) {
        let mut luck = self.luck.clone();
        if let Some(spared) = self.spare_some(in_step, |n| luck.index(n)) {
            for (place, disk) in self.places() {
                if spared.contains(&place.copy) {
                    continue;
                }
                let copy = self.copy_extent(&place);
                for _ in 0..luck.below(4) {
                    let start = copy.start().0 + luck.below(copy.sectors());
                    let len = (1 + luck.below(copy.sectors())).min(copy.end().0 - start);
                    let extent = Extent::new(Sector(start), len).expect("a part of a copy");
                    let fault =
                        luck.pick(&[Fault::Medium, Fault::Unknown, Fault::Timeout, Fault::Protection]);
                    self.flakes.push(Flake { disk, extent, fault, times: 1 + luck.below(3) as u32 });
                }
            }
        }
        if luck.chance(1, 3) {
            let disk = 1 + luck.index(self.disks.len() - 1);
            let sectors = self.disks[disk].sectors();
            let from = luck.below(sectors);
            let extent = Extent::between(Sector(from), Sector(sectors)).expect("the end of a disk");
            let fault = luck.pick(&[Fault::Transport, Fault::Gone]);
            self.flakes.push(Flake { disk, extent, fault, times: 1 + luck.below(3) as u32 });
        }
        self.luck = luck;
    }

    /// Disks that are spares of the volume, in its order, or about to be, or not quite gone.
    pub(super) fn present_disks(&self) -> Vec<usize> {
        let disks = self.life.as_ref().map(|l| l.spare_disks.as_slice()).unwrap_or_default();
        let changing = self.changing.map(|changing| usize::from(changing.spare));
        let present = |spare: usize| self.volume.spares.get(spare).is_some_and(SpareRecord::is_present);
        let spares = disks.iter().enumerate().filter(|&(n, _)| present(n) || changing == Some(n));
        spares.map(|(_, &disk)| disk).filter(|&disk| disk != GONE).collect()
    }

    /// Spares come and go: where copies live now.
    pub(super) fn see_layout(&mut self, volume: &Superblock) {
        self.volume.spares.clone_from(&volume.spares);
        self.volume.homes = volume.homes;
        self.volume.area_pages = volume.area_pages;
        self.volume.journal_pages = volume.journal_pages;
    }

    /// All copies are whole and say the same.
    pub(super) fn goes_live(&mut self) {
        self.adopted = true;
        self.silent_damage = !self.victims.is_empty();
        self.restoring = false;
        if self.victims.is_empty() {
            self.spared = None;
        }
        self.release.goes_live();
    }

    fn adopt(&mut self) -> Result<Option<Recovered>, Violation> {
        for disk in self.disks.iter_mut().skip(1) {
            *disk = SimDisk::blank(disk.sectors());
        }
        self.volume = describe(&self.scenario, self.tick);
        let volume = self.volume.clone();
        match inside::core(|| Recovered::fresh(volume, &[])) {
            Ok(recovered) => Ok(Some(recovered)),
            Err(RecoveryError::Memory(_)) => Ok(None),
            Err(error) => Err(Rule::C8.broken(format!("a fresh volume was refused: {error}"))),
        }
    }

    /// The power fails: what was on its way and what was not flushed is lost in part, and copies may rot.
    ///
    /// # Errors
    /// Recovery guesses where it should refuse; the rest shows in the next life.
    pub fn crash(&mut self) -> Checked {
        let losses = [Loss::None, Loss::All, Loss::Suffix, Loss::Writes, Loss::Sectors];
        self.meet(Kind::PowerCut);
        if self.adopted && self.life.as_ref().is_some_and(|l| !l.engine.is_live()) {
            self.meet(Kind::PowerCutInRepair);
        }
        self.strand_operations();
        for disk in 0..self.disks.len() {
            let loss = self.rng.pick(&losses);
            self.note(18, disk as u64, || format!("crash: disk {disk} loses {loss:?}"));
            self.disks[disk].crash(loss, &mut self.rng);
            self.meet(match loss {
                Loss::None => Kind::CrashKeepsAll,
                Loss::All => Kind::CrashDropsAll,
                Loss::Suffix => Kind::CrashDropsNewest,
                Loss::Writes => Kind::CrashReorders,
                Loss::Sectors => Kind::CrashTears,
            });
        }
        self.path_until = None;
        self.no_writes_until = None;
        self.storm = None;
        self.flush_debt = Debt::NONE;
        self.failures.fill(Failures::default());
        self.beyond_the_budget()?;
        if self.adopted
            && self.scenario.faults.rot
            && self.rng.chance(1, 2)
            && let Some(in_step) = self.look_at_copies()
        {
            self.rot(&in_step);
        }
        self.flakes.clear();
        if self.adopted
            && !self.silent_damage
            && self.scenario.faults.flaky
            && self.luck.chance(1, 2)
            && let Some(in_step) = self.look_at_copies()
        {
            self.choose_flakes(&in_step);
        }
        self.victims.clear();
        self.replays = self.recent.drain(..).collect();
        self.release = self.release.after_power_cut();
        self.life = None;
        self.suspended = false;
        self.changing = None;
        self.migrating = None;
        self.clients.clear();
        self.parts.clear();
        self.graces.clear();
        self.commands.clear();
        self.tick += 1;
        self.oracle.crash(self.tick);
        self.now.mono_ns += 1_000_000_000;
        self.now.unix_s += 1;
        Ok(())
    }

    /// Comes to rest and reads the whole volume.
    ///
    /// # Errors
    /// It does not come to rest, or a sector is not what it may be.
    pub fn look_at_everything(&mut self) -> Checked {
        self.end_faults();
        self.quiet = true;
        let marked = self.end_release()?;
        if marked || self.flushes_are_latched() {
            // Only a restart makes flushes good again, and a volume that was released is not used.
            self.crash()?;
            self.assemble()?;
        }
        self.rest()?;
        self.begin_command(Command::Resume)?;
        self.rest()?;
        let step = LOOK_BLOCKS * self.block_sectors();
        for start in (0..self.scenario.main_sectors).step_by(step as usize) {
            let len = step.min(self.scenario.main_sectors - start);
            let extent = Extent::new(Sector(start), len).expect("not empty");
            self.begin_request(RequestKind::Read, extent)?;
        }
        self.rest()
    }

    /// The end of the story: all must be readable as it may be, all copies must agree, and another life must show the same.
    pub(super) fn finish(&mut self) -> Checked {
        self.look_at_everything()?;
        self.check_table()?;
        self.victims.clear();
        for (place, disk) in self.places() {
            let extent = self.copy_extent(&place);
            self.disks[disk].mend(&extent);
        }
        self.begin_command(Command::Save)?;
        self.rest()?;
        self.catch_up()?;
        self.check_copies()?;
        self.crash()?;
        self.assemble()?;
        self.look_at_everything()
    }

    /// Copies that fell behind catch up by themselves, in a time that the engine names (C6).
    fn catch_up(&mut self) -> Checked {
        for _ in 0..STEPS_TO_REST {
            let Some(life) = &self.life else { return Ok(()) };
            if life.engine.copies_in_step().iter().all(|&c| c) {
                return Ok(());
            }
            let Some(at) = life.engine.poll_timeout() else { break };
            self.now.mono_ns = self.now.mono_ns.max(at);
            self.wake_engine()?;
            self.rest()?;
        }
        Err(Rule::C6.broken("copies that fell behind do not catch up although nothing is wrong any more"))
    }

    /// C4: without a bad sector and without a command no block has an entry.
    fn check_table(&self) -> Checked {
        let faults = self.scenario.faults;
        let Some(life) = &self.life else { return Ok(()) };
        let entries = life.engine.counts().entries;
        if !faults.main_medium && !faults.slot_medium && !self.scenario.commands && entries != 0 {
            return Err(Rule::C4.broken(format!("{entries} entries, but no sector ever went bad")));
        }
        Ok(())
    }

    /// After a save every copy proves the same table; with one spare, each of them alone.
    pub(super) fn check_copies(&mut self) -> Checked {
        let Some(life) = &self.life else { return Ok(()) };
        let expected: Vec<Entry> = life.engine.table().iter().collect();
        let order = self.present_disks();
        let single = order.len() == 1;
        let bytes = remap_core::recovery::shape_of(&self.volume).bytes();
        let places = self.places();
        for copy in 0..if single { COPIES } else { 1 } {
            let others = places.iter().filter(|(p, _)| single && p.copy != copy);
            let hidden = others.map(|(p, _)| (p.start, p.start + bytes)).collect();
            let found = self
                .recover_from(&order, hidden)
                .map_err(|error| Rule::C8.broken(format!("copy {copy} alone after a save: {error}")))?;
            let entries: Vec<Entry> = found.table.iter().collect();
            if entries != expected {
                return Err(Rule::C1.broken(format!("copy {copy}: {entries:?}, in memory {expected:?}")));
            }
            if !single && found.copies.iter().any(|c| c.flaw.is_some()) {
                return Err(Rule::C6.broken(format!("copies not in step after a save: {:?}", found.copies)));
            }
        }
        Ok(())
    }
}
