//! Commands: what people and policy ask of the engine.
//!
//! Invariant: a command works through its extent block by block with the same jobs as everything else, and ends exactly
//! once with what it did.

use remap_format::{Cause, EntryState, SpareRecord, SuperblockFlags};

use super::job::JobKind;
use super::spares::{Change, Stage};
use super::{Engine, Event, RequestError, SubmitError};
use crate::memory;
use crate::op::{DeviceId, Fault};
use crate::units::{Block, Extent, Now};

/// Names a command between `command` and its completion event; the caller chooses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommandId(pub u64);

/// Commands under way at a time.
pub const MAX_COMMANDS: usize = 64;

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Move the blocks of the extent to a spare, as far as they can be read (`cause`: manual or predicted).
    Remap(Extent, Cause),
    /// Move the blocks of the extent back to the main device and drop their entries.
    Clear(Extent),
    /// Read what the entries in the extent say is there, and keep them true: a pending sector that reads again is pending no
    /// more, a slot that cannot be read is replaced. With `all`, all other sectors on the main device are read too.
    Verify {
        /// Where.
        extent: Extent,
        /// What no entry speaks of as well.
        all: bool,
    },
    /// Write all metadata copies anew.
    Save,
    /// Write all metadata copies anew, marked as released. To be asked when no block is on a spare any more and nobody uses the volume;
    /// however it ends the volume is not used afterwards: copies may be marked.
    Release,
    /// A spare joins the volume: the device that operations on `DeviceId::Spare(spare)` go to from now on.
    AddSpare {
        /// Its number: what [`Engine::next_spare`] says.
        spare: u8,
        /// What it is, as [`remap_format::layout::joining_spare`] plans it.
        record: SpareRecord,
        /// Take over its share of the metadata copies.
        copies: bool,
    },
    /// Blocks and metadata copies move off a spare, and it leaves the volume. The device must be there until the command ends.
    RetireSpare {
        /// Its number.
        spare: u8,
    },
    /// Suspend remapping until [`Command::Resume`].
    Suspend,
    /// Close the breaker.
    Resume,
}

/// What a command did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CommandOutcome {
    /// Blocks looked at.
    pub blocks: u64,
    /// Blocks for which the job did what was asked (or found it so).
    pub done: u64,
    /// Blocks that were as asked already.
    pub already: u64,
    /// Blocks for which it could not be done.
    pub failed: u64,
    /// The first failure.
    pub error: Option<RequestError>,
    /// Sectors of the extent that are lost, at the end.
    pub lost_sectors: u64,
}

#[derive(Debug)]
pub(super) struct Running {
    pub(super) index: usize,
    id: CommandId,
    pub(super) command: Command,
    pub(super) next: Block,
    end: Block,
    pub(super) jobs: u32,
    pub(super) outcome: CommandOutcome,
    /// For save and release: checkpoints done when it was asked.
    checkpoints: u64,
    begun: bool,
    /// For changes of the spares.
    pub(super) stage: Stage,
    pub(super) joins: Option<(SpareRecord, bool)>,
}

impl Command {
    /// What it changes about the spares.
    pub(super) fn change(self) -> Option<Change> {
        match self {
            Self::AddSpare { spare, .. } => Some(Change::Join(spare)),
            Self::RetireSpare { spare } => Some(Change::Leave(spare)),
            _ => None,
        }
    }
}

impl Engine {
    /// Takes a command. It ends with [`Event::CommandDone`], exactly once.
    ///
    /// # Errors
    /// [`SubmitError::Full`]; the command was not taken.
    pub fn command(&mut self, now: Now, id: CommandId, command: Command) -> Result<(), SubmitError> {
        self.now = now;
        // Each one that is taken needs a place for its end.
        if self.commands.len() + self.events.commands >= MAX_COMMANDS {
            return Err(SubmitError::Full);
        }
        let (next, end) = match command {
            Command::Remap(extent, _) | Command::Clear(extent) | Command::Verify { extent, .. } => {
                let end = extent.end().0.min(self.main_sectors());
                (self.block_of(extent.start()), Block(end.div_ceil(self.block_sectors())))
            }
            _ => (Block(0), Block(0)),
        };
        match command {
            Command::Suspend => self.trip(DeviceId::Main, Fault::Unknown, true),
            Command::Resume => self.reset_breaker(),
            _ => {}
        }
        let index = (0..).find(|i| self.commands.iter().all(|c| c.index != *i)).unwrap_or(0);
        let running = Running {
            index,
            id,
            command,
            next,
            end,
            jobs: 0,
            outcome: CommandOutcome::default(),
            checkpoints: self.counters.checkpoints,
            begun: false,
            stage: Stage::Waiting,
            joins: match command {
                Command::AddSpare { record, copies, .. } => Some((record, copies)),
                _ => None,
            },
        };
        memory::push(&mut self.commands, running);
        self.advance();
        Ok(())
    }

    pub(super) fn commands_advance(&mut self) {
        // Those that came first begin first.
        let mut at = 0;
        while at < self.commands.len() {
            self.command_step(at);
            if !self.command_ended(at) {
                at += 1;
                continue;
            }
            let running = self.commands.remove(at);
            let mut outcome = running.outcome;
            if let Command::Remap(extent, _) | Command::Clear(extent) | Command::Verify { extent, .. } =
                running.command
            {
                outcome.lost_sectors = self.lost_sectors_in(&extent);
            }
            self.events.done(Event::CommandDone { id: running.id, outcome });
            self.wake = true;
        }
    }

    fn command_ended(&self, at: usize) -> bool {
        self.commands.get(at).is_some_and(|c| match c.command {
            Command::Save | Command::Release => {
                c.begun && self.counters.checkpoints > c.checkpoints || c.outcome.error.is_some()
            }
            Command::AddSpare { .. } | Command::RetireSpare { .. } => c.stage == Stage::Ended && c.jobs == 0,
            _ => c.next >= c.end && c.jobs == 0,
        })
    }

    fn command_step(&mut self, at: usize) {
        let Some(running) = self.commands.get_mut(at) else { return };
        match running.command {
            Command::Save | Command::Release if !running.begun && self.commit.is_idle() => {
                running.begun = true;
                running.checkpoints = self.counters.checkpoints;
                if running.command == Command::Release {
                    self.commit.set_flags |= SuperblockFlags::RELEASED.0;
                }
                self.commit.checkpoint_wanted = true;
                self.wake = true;
            }
            Command::Save | Command::Release => {
                if self.commit.is_frozen() {
                    running.outcome.error = Some(RequestError::Io(Fault::Unknown));
                    running.outcome.failed = 1;
                }
            }
            command => match command.change() {
                Some(change) => self.spare_step(at, change),
                None => self.command_blocks(at),
            },
        }
    }

    /// Starts jobs for the next blocks, as far as jobs are free.
    fn command_blocks(&mut self, at: usize) {
        while self.may_start_background_job() || self.commit.is_frozen() {
            let Some(running) = self.commands.get(at).filter(|c| c.next < c.end) else { return };
            let (index, command, block, end) = (running.index, running.command, running.next, running.end);
            let entry = self.table.next_from(block);
            let here = entry.filter(|e| e.block <= block.0);
            let all = matches!(command, Command::Remap(..) | Command::Verify { all: true, .. });
            if here.is_none() && !all {
                // Nothing is asked of blocks without an entry: on to the next one.
                let next = entry.map_or(end, |e| Block(e.block)).min(end);
                if let Some(running) = self.commands.get_mut(at) {
                    running.next = next;
                }
                continue;
            }
            if self.is_locked(block) && !self.commit.is_frozen() {
                return;
            }
            let settled = here.is_some_and(|e| e.state == EntryState::Remapped);
            let (kind, cause) = match command {
                Command::Remap(_, cause) => (JobKind::Move { command: index }, cause),
                Command::Clear(_) => (JobKind::Clear { command: index }, Cause::Manual),
                _ => (JobKind::Check { command: index, all }, Cause::ReadError),
            };
            let already = matches!(kind, JobKind::Move { .. }) && settled;
            let Some(running) = self.commands.get_mut(at) else { return };
            running.next = Block(block.0 + 1);
            running.outcome.blocks += 1;
            if already {
                running.outcome.already += 1;
                continue;
            }
            if self.commit.is_frozen() {
                running.outcome.failed += 1;
                running.outcome.error.get_or_insert(RequestError::Io(Fault::Unknown));
                continue;
            }
            running.jobs += 1;
            self.start_job(kind, block, cause);
        }
    }

    pub(super) fn command_job_done(&mut self, kind: JobKind, block: Block, result: Result<(), RequestError>) {
        let left = self.table.get(block);
        let Some(index) = kind.command() else { return };
        let Some(running) = self.commands.iter_mut().find(|c| c.index == index) else { return };
        running.jobs -= 1;
        // A block that stays pending was not cleared, and was not moved either.
        let pending = left.is_some_and(|e| e.state == EntryState::Pending);
        let missed = pending && matches!(kind, JobKind::Clear { .. } | JobKind::Move { .. });
        match result {
            Ok(()) if !missed => running.outcome.done += 1,
            Ok(()) => {
                running.outcome.failed += 1;
                running.outcome.error.get_or_insert(RequestError::Io(Fault::Medium));
            }
            Err(error) => {
                running.outcome.failed += 1;
                running.outcome.error.get_or_insert(error);
            }
        }
    }

    fn lost_sectors_in(&self, extent: &Extent) -> u64 {
        let mut lost = 0;
        let mut block = self.block_of(extent.start());
        while let Some(entry) = self.table.next_from(block) {
            let first = self.block_extent(Block(entry.block));
            if first.start() >= extent.end() {
                break;
            }
            if entry.count == 1 {
                lost += u64::from((entry.lost & self.mask_in(Block(entry.block), extent)).count_ones());
            } else if entry.lost != 0 {
                let last = self.block_extent(Block(entry.end() - 1));
                let run = Extent::between(first.start(), last.end()).and_then(|run| run.intersect(extent));
                lost += run.map_or(0, |run| run.sectors());
            }
            block = Block(entry.end());
        }
        lost
    }
}
