//! What a person does to a volume that nobody uses: release it, take it back, restore its table.
//!
//! Invariant: from the moment in which a volume may be marked as released the main device alone holds every byte that a client may
//! see (what the table calls lost is told to the person); and once the mark was acknowledged, recovery refuses the volume.

use remap_core::engine::{Command, CommandOutcome};
use remap_core::recovery::Recovered;
use remap_core::table::Table;
use remap_core::units::{Block, Extent, Sector};
use remap_format::{EntryState, SuperblockFlags};

use super::{Life, World};
use crate::coverage::Kind;
use crate::stamp::{self, SECTOR};
use crate::{Checked, Rule, Violation};

/// How far a release has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    None,
    /// Clients finish; no other begins.
    Draining,
    /// All blocks go home.
    Clearing(u64),
    /// The copies are being marked.
    Marking(u64),
    /// The command ended; nobody touches the volume any more.
    Ended,
}

/// Are the copies marked?
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Mark {
    #[default]
    No,
    Perhaps,
    Yes,
}

/// A release under way, or not.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Release {
    stage: Stage,
    mark: Mark,
}

impl Release {
    /// What is left of it when the power fails.
    pub(super) fn after_power_cut(self) -> Self {
        Self { stage: Stage::None, ..self }
    }

    /// A repair took away what mark there was.
    pub(super) fn goes_live(&mut self) {
        self.mark = Mark::No;
    }

    /// Is nobody to begin anything?
    pub(super) fn is_under_way(&self) -> bool {
        self.stage != Stage::None
    }
}

impl World {
    /// Clients are asked to go.
    pub(super) fn begin_release(&mut self) {
        self.release.stage = Stage::Draining;
        self.note(28, 0, || "release: clients go".into());
    }

    /// The next step, if it can be made now.
    pub(super) fn release_advance(&mut self) -> Checked {
        match self.release.stage {
            Stage::Draining if self.clients.is_empty() && self.commands.is_empty() => {
                self.release.stage = Stage::Clearing(self.next_id + 1);
                let all = Extent::new(Sector(0), self.scenario.main_sectors).expect("a volume has sectors");
                self.begin_command(Command::Clear(all))
            }
            Stage::Ended => {
                self.crash()?;
                self.assemble()
            }
            _ => Ok(()),
        }
    }

    /// A command ended: perhaps one of the release.
    pub(super) fn release_goes_on(&mut self, id: u64, outcome: &CommandOutcome) -> Checked {
        match self.release.stage {
            Stage::Clearing(clear) if clear == id => {
                let Some(life) = &self.life else { return Ok(()) };
                let left = life.engine.table().iter().any(|e| e.state == EntryState::Remapped);
                if left || self.quiet {
                    // The volume stays what it is.
                    self.release.stage = Stage::None;
                    return Ok(());
                }
                self.release = Release { stage: Stage::Marking(self.next_id + 1), mark: Mark::Perhaps };
                self.begin_command(Command::Release)
            }
            Stage::Marking(release) if release == id => {
                self.release.stage = Stage::Ended;
                let Some(Life { engine, .. }) = &self.life else { return Ok(()) };
                if outcome.error.is_some() {
                    return Ok(());
                }
                self.release.mark = Mark::Yes;
                self.main_must_stand_alone(engine.table())?;
                self.meet(Kind::Released);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Before a look at everything: `true` if the volume may be marked by now.
    pub(super) fn end_release(&mut self) -> Result<bool, Violation> {
        if let Stage::Marking(_) = self.release.stage {
            self.rest()?;
        }
        let ended = self.release.stage == Stage::Ended;
        self.release.stage = Stage::None;
        Ok(ended)
    }

    /// Every sector that the table does not call lost is on the main device as it may be.
    fn main_must_stand_alone(&self, table: &Table) -> Checked {
        let (per_block, unit) = (self.block_sectors(), self.unit());
        let mut oracle = self.oracle.clone();
        let mut main = self.disks[0].clone();
        main.fault = None;
        for sector in 0..self.scenario.main_sectors {
            let entry = table.get(Block(sector / per_block));
            if entry.is_some_and(|e| e.lost & (1 << (sector % per_block)) != 0) {
                continue;
            }
            let extent = Extent::new(Sector(sector - sector % unit), unit).expect("a logical block");
            let mut bytes = vec![0; extent.bytes() as usize];
            let at = (sector % unit) as usize * SECTOR;
            let seen = match main.read(&extent, &mut bytes) {
                Ok(()) => stamp::read(&bytes[at..at + SECTOR]),
                Err(_) => stamp::Content::Lost,
            };
            oracle.check(sector, seen, self.tick, self.tick).map_err(|violation| Violation {
                text: format!("released, on the main device alone: {}", violation.text),
                ..violation
            })?;
        }
        Ok(())
    }

    /// Recovery refused the volume because it was released; a person takes it back.
    pub(super) fn take_back(&mut self, order: &[usize]) -> Result<Recovered, Violation> {
        if self.release.mark == Mark::No {
            return Err(Rule::C8.broken("recovery says released, and nobody released it"));
        }
        let found = self.recover_released(order);
        let mut recovered = found
            .map_err(|error| Rule::C8.broken(format!("a released volume cannot be taken back: {error}")))?;
        self.main_must_stand_alone(&recovered.table)?;
        recovered.superblock.flags = SuperblockFlags::default();
        recovered.needs_repair = true;
        // Until the repair is durable the copies may say either.
        self.release.mark = Mark::Perhaps;
        self.meet(Kind::TakenBack);
        self.note(29, recovered.generation, || "the volume was released, and is taken back".into());
        Ok(recovered)
    }

    /// Recovery does not say that the volume was released.
    pub(super) fn release_must_not_be_forgotten(&self) -> Checked {
        match self.release.mark {
            Mark::Yes => Err(Rule::C1.broken("the volume was released, and recovery does not know it")),
            Mark::No | Mark::Perhaps => Ok(()),
        }
    }

    /// Now and then the table is dumped and restored between two lives: it says the same, a few generations on.
    pub(super) fn restore(&mut self, recovered: &mut Recovered) {
        let whole = self.spared.is_none() && !self.silent_damage;
        if self.adopted && self.scenario.faults.maintenance && whole && self.luck.chance(1, 6) {
            self.restoring = true;
            recovered.mark_edited();
            self.meet(Kind::Restored);
        }
    }
}
