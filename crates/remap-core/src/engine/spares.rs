//! Spares that join and leave a volume in service.
//!
//! Invariant: what is on the spares changes with a checkpoint, at once. Before it a spare that joins holds a label and nothing
//! that counts; after it slots of it may be handed out. A spare leaves only when no entry names a slot of it and no copy lives on
//! it. Superblocks where no copy lives any more are erased after the checkpoint is durable, never before.

use alloc::vec::Vec;

use arrayvec::ArrayVec;
use remap_format::layout::{self, CopyPlace, CopyShape, LABEL_BYTES};
use remap_format::{
    COPIES, Cause, CopyHome, CopyRole, Entry, EntryState, MAX_SPARES, PAGE_SIZE, SpareRecord,
};

use super::command::Running;
use super::commit::{Commit, CopySet};
use super::job::JobKind;
use super::ops::Purpose;
use super::superblocks::{Superblocks, encode_pages};
use super::{Engine, Notice, RequestError};
use crate::memory::{self, NoMemory};
use crate::op::{Buffer, DeviceId, Fault, OpKind};
use crate::units::{Block, Extent, Sector, Slot};

type Spares = ArrayVec<SpareRecord, MAX_SPARES>;

/// The spares and homes after the next checkpoint.
#[derive(Debug)]
pub(super) struct Relayout {
    spares: Spares,
    homes: [CopyHome; COPIES as usize],
    shape: CopyShape,
    change: Change,
}

/// What was before a checkpoint that changes the spares: it comes back if the new homes cannot be written.
#[derive(Debug)]
pub(super) struct Former {
    spares: Spares,
    homes: [CopyHome; COPIES as usize],
    shape: CopyShape,
    areas: [u8; COPIES as usize],
    superblocks: Superblocks,
    in_step: CopySet,
}

/// What becomes of the spare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Join(u8),
    Leave(u8),
}

/// Where a command that changes the spares is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Another one is under way, or metadata cannot be written.
    Waiting,
    /// The label of the spare that joins is being written.
    Label,
    /// Blocks are moving off the spare that leaves.
    Moving,
    /// The checkpoint with which it happens.
    Checkpoint,
    /// What is left of it is being erased.
    Erasing,
    Ended,
}

/// Superblocks (spare, first byte) that are to be erased.
pub(super) type Strays = ArrayVec<(u8, u64), MAX_STRAYS>;

/// As many as recovery can find, and a change of the spares adds.
pub(super) const MAX_STRAYS: usize = (MAX_SPARES + 2) * COPIES as usize;

/// A write of both pages of a label.
pub(super) fn label_write(bytes: Vec<u8>) -> (Extent, OpKind) {
    let extent = Extent::new(Sector(0), LABEL_BYTES / 512).expect("a label is not empty");
    (extent, OpKind::Write { from: Buffer::Owned(bytes), fua: true })
}

/// The same values; there are never more than there is room for.
pub(super) fn as_array<T: Copy, const MOST: usize>(values: &[T]) -> ArrayVec<T, MOST> {
    let mut array = ArrayVec::new();
    values.iter().take(MOST).for_each(|value| array.push(*value));
    array
}

/// How many copies live on a spare.
fn copies_on(homes: &[CopyHome; COPIES as usize], spare: u8) -> usize {
    homes.iter().filter(|home| home.spare == spare).count()
}

/// An anchor of `spare` at which no copy lives; the copy's own number if that is free.
fn free_anchor(
    homes: &[CopyHome; COPIES as usize],
    spare: u8,
    record: &SpareRecord,
    copy: u8,
) -> Option<CopyHome> {
    let home = |anchor| CopyHome { spare, anchor };
    core::iter::once(copy)
        .chain(0..record.anchors)
        .map(home)
        .find(|home| home.anchor < record.anchors && !homes.contains(home))
}

/// Copies move from the spares that hold most of them to the one that joined, until it has its share.
fn spread(homes: &mut [CopyHome; COPIES as usize], joined: u8, spares: &[SpareRecord]) {
    let Some(record) = spares.get(usize::from(joined)) else { return };
    loop {
        let crowded =
            (0u8..).take(spares.len()).max_by_key(|&spare| copies_on(homes, spare)).unwrap_or(joined);
        if copies_on(homes, crowded) < copies_on(homes, joined) + 2 {
            return;
        }
        let last = homes.iter().rposition(|home| home.spare == crowded);
        let Some(copy) = last.and_then(|copy| u8::try_from(copy).ok()) else { return };
        let Some(home) = free_anchor(homes, joined, record, copy) else { return };
        if let Some(place) = homes.get_mut(usize::from(copy)) {
            *place = home;
        }
    }
}

/// The copies of a spare that leaves find homes on the others, where fewest live; `None`: there is not enough room.
fn rehouse(
    homes: &mut [CopyHome; COPIES as usize],
    leaves: u8,
    spares: &[SpareRecord],
    least_pages: u32,
) -> Option<()> {
    for copy in 0..COPIES {
        if homes.get(usize::from(copy))?.spare != leaves {
            continue;
        }
        let others =
            (0u8..).zip(spares).filter(|(spare, r)| *spare != leaves && r.reserve_pages >= least_pages);
        let homes_there = others.filter_map(|(spare, record)| free_anchor(homes, spare, record, copy));
        let home = homes_there.min_by_key(|home| copies_on(homes, home.spare))?;
        *homes.get_mut(usize::from(copy))? = home;
    }
    Some(())
}

impl Commit {
    /// What lies there is nobody's once the checkpoint under way is durable. (More than there is room for cannot be: recovery finds
    /// a superblock at each anchor at most.)
    pub(super) fn leaves(&mut self, spare: u8, start: u64) {
        if !self.leaving.contains(&(spare, start)) {
            let _ = self.leaving.try_push((spare, start));
        }
    }

    /// Is a change of the spares asked for or under way, or what an earlier one left not erased yet?
    fn is_changing_spares(&self) -> bool {
        self.changing.is_some() || self.wiping > 0 || !(self.leaving.is_empty() && self.strays.is_empty())
    }

    /// The copy has a home in which nothing of it lies yet.
    pub(super) fn moved_home(&mut self, copy: u8) {
        let index = usize::from(copy);
        if let Some(area) = self.areas.get_mut(index) {
            *area = 1;
        }
        self.superblocks.moved_home(copy);
        self.in_step &= !(1 << copy);
        self.moving |= 1 << copy;
    }
}

impl Engine {
    /// The number that the next spare to join gets; `None`: the volume has had as many as it can name since it was opened.
    #[must_use]
    pub fn next_spare(&self) -> Option<u8> {
        let count = self.volume.spares.len();
        let vacant =
            (0u8..).zip(&self.volume.spares).find(|(n, s)| !s.is_present() && self.left & (1 << n) == 0);
        if count < MAX_SPARES { u8::try_from(count).ok() } else { vacant.map(|(n, _)| n) }
    }

    /// Do the metadata copies on this spare find homes on the others?
    #[must_use]
    pub fn can_leave(&self, spare: u8) -> bool {
        self.layout_without(spare).is_some()
    }

    /// A step of a command that changes the spares.
    pub(super) fn spare_step(&mut self, at: usize, change: Change) {
        let Some(running) = self.commands.get(at) else { return };
        match running.stage {
            Stage::Waiting => self.spare_change_begins(at, change),
            Stage::Moving => self.blocks_leave(at, change),
            Stage::Checkpoint
                if self.commit.relayout.is_none() && self.commit.checkpoint_phase().is_none() =>
            {
                self.command_enters(at, Stage::Erasing);
            }
            Stage::Checkpoint if self.commit.is_frozen() => {
                // Whoever asked must not wait for metadata that cannot be written (C6). What has begun goes on once they can.
                if self.commit.relayout.take().is_some()
                    && let Change::Leave(spare) = change
                {
                    self.pool.set_leaving(spare, false);
                }
                self.spare_change_fails(at, Fault::Unknown);
            }
            Stage::Erasing if self.commit.strays.is_empty() && self.commit.wiping == 0 => {
                if let Some(running) = self.commands.get_mut(at) {
                    running.outcome.done += u64::from(matches!(change, Change::Join(_)));
                }
                self.command_enters(at, Stage::Ended);
            }
            Stage::Label | Stage::Checkpoint | Stage::Erasing | Stage::Ended => {}
        }
    }

    fn command_enters(&mut self, at: usize, stage: Stage) {
        if let Some(running) = self.commands.get_mut(at) {
            running.stage = stage;
            self.wake = true;
        }
    }

    fn spare_change_fails(&mut self, at: usize, fault: Fault) {
        if let Some(running) = self.commands.get_mut(at) {
            running.outcome.failed += 1;
            running.outcome.error.get_or_insert(RequestError::Io(fault));
            if let Some(Change::Join(spare)) = running.command.change() {
                // It is no spare: no probe of it could close the breaker.
                self.forget_trouble_of(DeviceId::Spare(spare));
            }
        }
        self.command_enters(at, Stage::Ended);
    }

    fn spare_change_begins(&mut self, at: usize, change: Change) {
        if self.commit.is_frozen() {
            return self.spare_change_fails(at, Fault::Unknown);
        }
        let busy = |c: &Running| !matches!(c.stage, Stage::Waiting | Stage::Ended);
        // A superblock that is still to be erased may lie where a copy would move to.
        if self.commit.is_changing_spares() || self.commands.iter().any(busy) {
            return;
        }
        match change {
            Change::Join(spare) => self.spare_joins(at, spare),
            Change::Leave(spare) => {
                let present = self.volume.spares.get(usize::from(spare)).is_some_and(SpareRecord::is_present);
                if !present || self.layout_without(spare).is_none() {
                    return self.spare_change_fails(at, Fault::Unsupported);
                }
                self.pool.set_leaving(spare, true);
                self.command_enters(at, Stage::Moving);
            }
        }
    }

    fn spare_joins(&mut self, at: usize, spare: u8) {
        let Some(running) = self.commands.get(at) else { return };
        let (index, record) = (running.index, running.joins.map(|(record, _)| record));
        let sound =
            |r: &SpareRecord| r.is_present() && layout::spare_fits(r, u64::from(self.volume.block_size()));
        let Some(record) = record.filter(|r| sound(r) && self.next_spare() == Some(spare)) else {
            return self.spare_change_fails(at, Fault::Unsupported);
        };
        let Ok(bytes) = self.joining_label(spare, record) else {
            return self.spare_change_fails(at, Fault::NoMemory);
        };
        let (extent, kind) = label_write(bytes);
        self.command_enters(at, Stage::Label);
        self.emit(DeviceId::Spare(spare), extent, kind, Purpose::JoinLabel { command: index });
    }

    fn joining_label(&self, spare: u8, record: SpareRecord) -> Result<Vec<u8>, NoMemory> {
        let mut bytes = memory::zeroes(LABEL_BYTES as usize)?;
        let mut label = self.superblock()?;
        label.role = CopyRole::Label;
        label.spare_index = spare;
        label.spares = memory::copy(&self.spares_with(spare, record))?;
        encode_pages(&label, &mut bytes);
        Ok(bytes)
    }

    /// The spare that joins can be recognised: on to the checkpoint.
    pub(super) fn label_written(&mut self, index: usize, outcome: Result<(), Fault>) {
        let Some(at) = self.commands.iter().position(|c| c.index == index) else { return };
        if let Err(fault) = outcome {
            return self.spare_change_fails(at, fault);
        }
        let Some((Change::Join(spare), Some((record, copies)))) =
            self.commands.get(at).and_then(|c| Some((c.command.change()?, c.joins)))
        else {
            return;
        };
        let spares = self.spares_with(spare, record);
        let mut homes = self.volume.homes;
        if copies && record.reserve_pages >= self.commit.shape.pages() {
            spread(&mut homes, spare, &spares);
        }
        let relayout = Relayout { spares, homes, shape: self.commit.shape, change: Change::Join(spare) };
        self.ask_for(at, relayout);
    }

    /// The volume's spares with this one in its place, which may be the next one.
    fn spares_with(&self, index: u8, record: SpareRecord) -> Spares {
        let mut spares: Spares = as_array(&self.volume.spares);
        match spares.get_mut(usize::from(index)) {
            Some(place) => *place = record,
            None => spares.push(record),
        }
        spares
    }

    fn ask_for(&mut self, at: usize, relayout: Relayout) {
        self.commit.relayout = Some(relayout);
        self.commit.checkpoint_wanted = true;
        self.command_enters(at, Stage::Checkpoint);
    }

    /// Starts moves of blocks off the spare that leaves; when none is left there, on to the checkpoint.
    fn blocks_leave(&mut self, at: usize, change: Change) {
        let Change::Leave(spare) = change else { return };
        while self.may_start_background_job() || self.commit.is_frozen() {
            let Some(running) = self.commands.get(at) else { return };
            let (index, from) = (running.index, running.next);
            let Some(block) = self.next_on(spare, from) else {
                return self.blocks_have_left(at, spare);
            };
            if self.is_locked(block) && !self.commit.is_frozen() {
                return;
            }
            let frozen = self.commit.is_frozen();
            let Some(running) = self.commands.get_mut(at) else { return };
            running.next = Block(block.0 + 1);
            running.outcome.blocks += 1;
            if frozen {
                running.outcome.failed += 1;
                running.outcome.error.get_or_insert(RequestError::Io(Fault::Unknown));
                continue;
            }
            running.jobs += 1;
            self.start_job(JobKind::Move { command: index }, block, Cause::Manual);
        }
    }

    /// The first block at or behind `from` that is on this spare.
    fn next_on(&self, spare: u8, from: Block) -> Option<Block> {
        let mut at = from;
        loop {
            let entry = self.table.next_from(at)?;
            if entry.state == EntryState::Remapped && Slot(entry.slot).spare() == spare {
                return Some(Block(entry.block.max(at.0)));
            }
            at = Block(entry.end());
        }
    }

    fn blocks_have_left(&mut self, at: usize, spare: u8) {
        let Some(running) = self.commands.get(at) else { return };
        let held = |slot: &Slot| slot.spare() == spare;
        let by_jobs = self.jobs.iter().flatten().any(|job| {
            job.slot.iter().chain(&job.failed_slots).any(held)
                || job.old_slot().is_some_and(|slot| held(&slot))
        });
        if by_jobs {
            // While metadata cannot be written they do not end, and nobody waits for them.
            if self.commit.is_frozen() {
                self.spare_stays(at, spare, Fault::Unknown);
            }
            return;
        }
        let moved_all = self.next_on(spare, Block(0)).is_none();
        let relayout = self.layout_without(spare).filter(|_| moved_all);
        match relayout {
            Some(relayout) => self.ask_for(at, relayout),
            None if running.outcome.error.is_none() && !moved_all => {
                // A block came back to it while others left: once more.
                if let Some(running) = self.commands.get_mut(at) {
                    running.next = Block(0);
                    self.wake = true;
                }
            }
            None => self.spare_stays(at, spare, Fault::Unsupported),
        }
    }

    /// Not all of its blocks have left: its slots are handed out again.
    fn spare_stays(&mut self, at: usize, spare: u8, fault: Fault) {
        self.pool.set_leaving(spare, false);
        if let Some(running) = self.commands.get_mut(at) {
            running.outcome.error.get_or_insert(RequestError::Io(fault));
        }
        self.command_enters(at, Stage::Ended);
    }

    /// Spares and homes without this one; `None`: its copies find no home.
    fn layout_without(&self, spare: u8) -> Option<Relayout> {
        let spares = self.spares_with(spare, SpareRecord::GONE);
        let mut homes = self.volume.homes;
        rehouse(&mut homes, spare, &spares, self.commit.shape.pages())?;
        // Copies that all move to new homes can grow with them.
        let all_move = homes.iter().zip(&self.volume.homes).all(|(to, from)| to != from);
        let room =
            homes.iter().filter_map(|h| spares.get(usize::from(h.spare))).map(|s| s.reserve_pages).min();
        let grown = room.filter(|_| all_move).and_then(CopyShape::within);
        let shape =
            grown.filter(|s| s.capacity() > self.commit.shape.capacity()).unwrap_or(self.commit.shape);
        Some(Relayout { spares, homes, shape, change: Change::Leave(spare) })
    }

    /// A checkpoint begins: it is the first of what was asked for.
    pub(super) fn relayout(&mut self) {
        let Some(relayout) = self.commit.relayout.take() else { return };
        self.commit.former = Some(Former {
            spares: as_array(&self.volume.spares),
            homes: self.volume.homes,
            shape: self.commit.shape,
            areas: self.commit.areas,
            superblocks: self.commit.superblocks,
            in_step: self.commit.in_step,
        });
        let grows = relayout.shape != self.commit.shape;
        for (copy, (from, to)) in (0u8..).zip(self.volume.homes.iter().zip(&relayout.homes)) {
            if from != to || grows {
                let CopyPlace { spare, start, .. } = self.commit.place(copy);
                self.commit.leaves(spare, start);
                self.commit.moved_home(copy);
            }
        }
        if let Change::Leave(spare) = relayout.change {
            let record = self.volume.spares.get(usize::from(spare)).copied().unwrap_or(SpareRecord::GONE);
            layout::metadata_ranges(&record).for_each(|(start, _)| self.commit.leaves(spare, start));
        }
        self.set_layout(relayout.spares, relayout.homes, relayout.shape);
        self.commit.changing = Some(relayout.change);
    }

    fn set_layout(&mut self, spares: Spares, homes: [CopyHome; COPIES as usize], shape: CopyShape) {
        self.commit.places = layout::copy_places(&spares, &homes);
        self.commit.shape = shape;
        // There is room: the engine made it when it started.
        self.volume.spares.clear();
        memory::extend(&mut self.volume.spares, spares.len(), spares.into_iter());
        self.volume.homes = homes;
        self.volume.area_pages = shape.area_pages;
        self.volume.journal_pages = shape.journal_pages;
    }

    /// Too few of the homes that copies were to move to can be written. No superblock names them yet: all stays as it was. `false`: one
    /// may, or no copy was to move.
    pub(super) fn relayout_undone(&mut self) -> bool {
        let Some(former) = self.commit.former.take() else { return false };
        let change = self.commit.changing.take();
        self.set_layout(former.spares, former.homes, former.shape);
        self.commit.areas = former.areas;
        self.commit.superblocks = former.superblocks;
        self.commit.in_step = former.in_step;
        self.commit.leaving.clear();
        self.commit.moving = 0;
        if let Some(Change::Leave(spare)) = change {
            self.pool.set_leaving(spare, false);
        }
        let asked = |c: &Running| c.stage == Stage::Checkpoint && c.command.change() == change;
        if let Some(at) = self.commands.iter().position(asked) {
            self.spare_change_fails(at, self.commit.fault.unwrap_or(Fault::Unknown));
        }
        true
    }

    /// Retired slots that leave with their spare.
    pub(super) fn retired_that_leave(&self) -> u64 {
        self.pool.retired().iter().filter(|entry| !self.stays(entry)).count() as u64
    }

    /// Is a retired slot still to be written down?
    pub(super) fn stays(&self, retired: &Entry) -> bool {
        self.commit.changing != Some(Change::Leave(Slot(retired.slot).spare()))
    }

    /// The checkpoint is durable: what it changed is true.
    pub(super) fn relayout_done(&mut self) {
        self.commit.former = None;
        match self.commit.changing.take() {
            Some(Change::Join(spare)) => {
                let block_size = u64::from(self.volume.block_size());
                let record = self.volume.spares.get(usize::from(spare)).copied().unwrap_or(SpareRecord::GONE);
                let reserved = layout::kept_slots(&record, block_size);
                // Without memory for it, its slots wait for the next start.
                if self.pool.add_spare(spare, record.slots, &reserved).is_ok() {
                    self.notice(Notice::SpareJoined { spare });
                }
            }
            Some(Change::Leave(spare)) => {
                self.pool.remove_spare(spare);
                self.left |= 1 << spare;
                self.notice(Notice::SpareLeft { spare });
                self.forget_trouble_of(DeviceId::Spare(spare));
            }
            None => {}
        }
    }

    /// Erases superblocks that are nobody's.
    pub(super) fn wipe_advance(&mut self) {
        for (spare, start) in core::mem::take(&mut self.commit.strays) {
            let stays = self.volume.spares.get(usize::from(spare)).is_some_and(SpareRecord::is_present);
            let next = stays.then_some(start + PAGE_SIZE as u64);
            self.wipe(spare, start, stays, next);
        }
    }

    /// On a spare that has left, both pages with zeroes; on one that stays, one page after the other with labels: it may be what the
    /// spare is recognised by.
    fn wipe(&mut self, spare: u8, start: u64, label: bool, next: Option<u64>) {
        let bytes = if label { self.label_page(spare) } else { memory::zeroes(LABEL_BYTES as usize) };
        let Ok(bytes) = bytes else { return self.notice(Notice::NotErased { fault: Fault::NoMemory }) };
        let extent =
            Extent::new(Sector(start / 512), (bytes.len() / 512) as u64).expect("a page is not empty");
        self.commit.wiping += 1;
        let kind = OpKind::Write { from: Buffer::Owned(bytes), fua: true };
        self.emit(DeviceId::Spare(spare), extent, kind, Purpose::Wipe { spare, next });
    }

    pub(super) fn wiped(&mut self, spare: u8, next: Option<u64>, outcome: Result<(), Fault>) {
        self.commit.wiping -= 1;
        if let Err(fault) = outcome {
            self.notice(Notice::NotErased { fault });
        }
        if let Some(start) = next {
            self.wipe(spare, start, true, None);
        }
    }
}
