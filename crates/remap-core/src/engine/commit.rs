//! Group commit: staged edits become durable, then true.
//!
//! Invariant: bytes on slots are durable before a record names them (C2); a record is durable on at least [`MIN_COPIES`]
//! copies, and no other copy that lacks it can be believed, before its edits are applied and anybody is told (C1); a
//! generation never stands for two different tables: a record whose fate is unknown is written again, byte for byte, and
//! nothing else is.

use alloc::vec::Vec;

use arrayvec::ArrayVec;
use remap_format::layout::{self, CopyPlace, CopyShape};
use remap_format::{COPIES, Entry, EntryState, PAGE_SIZE, Record, RecordHeader};

use super::batch::{Batch, DeviceSet};
use super::checkpoint::{Checkpoint, Phase as CheckpointPhase};
use super::ops::{CommitPart, Purpose};
use super::spares::{Change, Former, Relayout, Strays, as_array};
use super::superblocks::Superblocks;
use super::{Engine, MIN_COPIES, Notice, RequestError};
use crate::memory::{self, NoMemory};
use crate::op::{Buffer, DeviceId, Fault, OpKind};
use crate::recovery::{Recovered, SuperblockPage, shape_of};
use crate::units::{Extent, Sector};

/// Set of copies: bit n is copy n.
pub(super) type CopySet = u8;
/// Bytes for some copies.
pub(super) type PerCopy = ArrayVec<(u8, Vec<u8>), { COPIES as usize }>;
/// Pause before copies that fell behind are written anew, and how often that is tried (with twice the pause each time).
const RESYNC_PAUSE_NS: u64 = 10_000_000_000;
const RESYNC_TRIES: u32 = 6;
pub(super) const ALL_COPIES: CopySet = (1 << COPIES) - 1;

#[derive(Debug)]
pub(super) enum Phase {
    Idle,
    /// Slot contents are being flushed.
    DataFlush,
    /// The record is being written to every copy.
    Record,
    /// And flushed.
    RecordFlush,
    /// The table is being written anew.
    Checkpoint(Checkpoint),
}

/// The committer.
#[derive(Debug)]
pub(super) struct Commit {
    pub(super) phase: Phase,
    pub(super) staged: Batch,
    /// Spares with bytes of what is staged that the flush under way makes durable, too.
    pub(super) riding: DeviceSet,
    /// A commit waits for others until then.
    pub(super) hold_until: Option<u64>,
    pub(super) batch: Batch,
    pub(super) shape: CopyShape,
    pub(super) places: [CopyPlace; COPIES as usize],
    /// Copies that hold all that is durable.
    pub(super) in_step: CopySet,
    /// Copies the current phase has to write, those that failed in it, and those whose fence is owed.
    pub(super) trying: CopySet,
    pub(super) failed: CopySet,
    pub(super) to_fence: CopySet,
    pub(super) fault: Option<Fault>,
    pub(super) out: u32,
    pub(super) superblocks: Superblocks,
    generation: u64,
    /// The generation of the same table that recovery can read: another one than `generation` until the first commit, if recovery
    /// had to go back.
    pub(super) base: u64,
    pub(super) checkpoint_generation: u64,
    position: u32,
    /// The checkpoint area in use in each copy; a checkpoint goes into the other one.
    pub(super) areas: [u8; COPIES as usize],
    /// The volume is being made: every copy must be written, and spares that hold none get their labels (never again: both
    /// pages of a label could be torn, and nothing in them changes).
    pub(super) making: bool,
    pub(super) checkpoint_wanted: bool,
    pub(super) set_flags: u32,
    pub(super) frozen_until: Option<u64>,
    /// When copies that are out of step are to be written anew, and how often that was tried.
    resync_at: Option<u64>,
    resyncs: u32,
    /// Times that the record of the batch failed.
    pub(super) record_failures: u32,
    /// Memory was refused for a part of what the current phase has to write: when the rest has ended the whole is tried again.
    pub(super) starved: bool,
    /// What the next checkpoint changes about the spares.
    pub(super) relayout: Option<Relayout>,
    /// What the checkpoint under way changes about the spares.
    pub(super) changing: Option<Change>,
    /// Copies that move to homes in which nothing of them lies yet.
    pub(super) moving: CopySet,
    /// What was before it, until a superblock says otherwise.
    pub(super) former: Option<Former>,
    /// Superblocks (spare, first byte) that are nobody's once the checkpoint under way is durable; those that are now; and writes
    /// that are out to erase them.
    pub(super) leaving: Strays,
    pub(super) strays: Strays,
    pub(super) wiping: u32,
}

impl Commit {
    pub(super) fn begin(recovered: &Recovered) -> Result<Self, NoMemory> {
        let superblock = &recovered.superblock;
        let mut in_step = 0;
        let mut areas = [1; COPIES as usize];
        for (report, area) in recovered.copies.iter().zip(&mut areas) {
            if report.flaw.is_none() {
                in_step |= 1 << report.copy;
            }
            *area = report.area.unwrap_or(1);
        }
        Ok(Self {
            phase: Phase::Idle,
            staged: Batch::with_room()?,
            riding: 0,
            hold_until: None,
            batch: Batch::with_room()?,
            shape: shape_of(superblock),
            places: layout::copy_places(&superblock.spares, &superblock.homes),
            in_step,
            trying: 0,
            failed: 0,
            to_fence: 0,
            fault: None,
            out: 0,
            superblocks: Superblocks::found(&recovered.copies),
            generation: recovered.generation,
            base: recovered.base,
            checkpoint_generation: superblock.generation,
            position: recovered.journal_position,
            areas,
            making: recovered.copies.iter().all(|c| c.generation.is_none()),
            checkpoint_wanted: recovered.needs_repair,
            set_flags: 0,
            frozen_until: None,
            record_failures: 0,
            resync_at: None,
            resyncs: 0,
            starved: false,
            relayout: None,
            changing: None,
            moving: 0,
            former: None,
            leaving: as_array(&recovered.strays),
            strays: Strays::new(),
            wiping: 0,
        })
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    pub(super) fn in_step(&self) -> [bool; COPIES as usize] {
        core::array::from_fn(|copy| self.in_step & (1 << copy) != 0)
    }

    /// The generation after the newest that may be on a disk.
    pub(super) fn next_generation(&self) -> u64 {
        // A batch that is given up may have left its record behind.
        self.generation.wrapping_add(if self.batch.edits.is_empty() { 1 } else { 2 })
    }

    pub(super) fn is_frozen(&self) -> bool {
        self.frozen_until.is_some()
    }

    pub(super) fn is_idle(&self) -> bool {
        matches!(self.phase, Phase::Idle) && self.staged.edits.is_empty() && !self.checkpoint_wanted
    }

    pub(super) fn retry_at(&self) -> Option<u64> {
        if self.is_frozen() {
            self.frozen_until
        } else {
            [self.resync_at, self.hold_until].into_iter().flatten().min()
        }
    }

    /// Copies that fell behind are written anew after a pause, which doubles; not for ever, because each try writes the whole table.
    fn plan_resync(&mut self, now_ns: u64) {
        if self.in_step == ALL_COPIES {
            self.resync_at = None;
            self.resyncs = 0;
        } else if self.resync_at.is_none() && self.resyncs < RESYNC_TRIES {
            self.resync_at = Some(now_ns.saturating_add(RESYNC_PAUSE_NS << self.resyncs));
            self.resyncs += 1;
        }
    }

    pub(super) fn checkpoint(&mut self) -> Option<&mut Checkpoint> {
        match &mut self.phase {
            Phase::Checkpoint(checkpoint) => Some(checkpoint),
            _ => None,
        }
    }

    /// Copies that have not failed in this phase.
    pub(super) fn good(&self) -> CopySet {
        self.trying & !self.failed
    }

    /// The area of a copy that a checkpoint may overwrite.
    pub(super) fn idle_area(&self, copy: u8) -> u8 {
        1 - self.areas.get(usize::from(copy)).copied().unwrap_or(1)
    }

    /// Is a checkpoint under way, and where is it?
    pub(super) fn checkpoint_phase(&self) -> Option<CheckpointPhase> {
        match &self.phase {
            Phase::Checkpoint(checkpoint) => Some(checkpoint.phase),
            _ => None,
        }
    }

    pub(super) fn place(&self, copy: u8) -> CopyPlace {
        self.places.get(usize::from(copy)).copied().unwrap_or(CopyPlace { copy, spare: 0, start: 0 })
    }

    /// Notes that memory was refused for something that must be written: what is under way fails as a whole and is tried again.
    pub(super) fn starve(&mut self) {
        self.starved = true;
        self.fault = Some(Fault::NoMemory);
    }

    /// Notes that a copy could not be written. A medium error can be fenced; a device that is gone cannot.
    pub(super) fn copy_failed(&mut self, copy: u8, fault: Fault) {
        if fault == Fault::NoMemory {
            return self.starve();
        }
        self.failed |= 1 << copy;
        self.fault.get_or_insert(fault);
        if fault.blames_medium() {
            self.to_fence |= 1 << copy;
        }
    }
}

pub(super) fn copies_of(set: CopySet) -> impl Iterator<Item = u8> {
    (0..COPIES).filter(move |copy| set & (1 << copy) != 0)
}

impl Engine {
    pub(super) fn commit_advance(&mut self) {
        if let Some(at) = self.commit.frozen_until {
            if self.now.mono_ns < at || self.commit.out > 0 {
                return;
            }
            self.commit.frozen_until = Some(u64::MAX);
            self.retry_frozen();
            return;
        }
        if !matches!(self.commit.phase, Phase::Idle) {
            return;
        }
        if self.commit.resync_at.is_some_and(|at| at <= self.now.mono_ns) {
            self.commit.checkpoint_wanted = true;
        }
        // Named again below if a commit still waits.
        let held = self.commit.hold_until.take();
        let staged = self.commit.staged.edits.len();
        let pages = Record::pages_for(staged) as u32;
        let full = staged > 0 && self.commit.position + pages > self.commit.shape.journal_pages;
        if self.commit.checkpoint_wanted || full {
            self.begin_checkpoint();
        } else if staged > 0 && !self.holds_commit(held) {
            self.take_batch();
            self.begin_data_flush();
        }
    }

    /// Asks for all memory that the record and its edits need, then writes it: once it is durable nothing can keep its edits from
    /// being applied.
    pub(super) fn begin_record(&mut self) {
        self.commit.phase = Phase::Record;
        let unbelieved = self.commit.superblocks.unbelieved();
        self.commit.trying = self.commit.in_step & !unbelieved;
        self.commit.failed = 0;
        // Fenced when this record was tried before; the flush that failed then may have lost the fence.
        self.commit.to_fence = self.commit.in_step & unbelieved;
        self.commit.fault = None;
        self.commit.starved = false;
        match self.record_bytes() {
            Ok(writes) => {
                let offset = self.commit.shape.journal_at(self.commit.position);
                for (copy, bytes) in writes {
                    self.write_copy(copy, offset, bytes, CommitPart::Copy(copy));
                }
            }
            Err(NoMemory) => self.commit.starve(),
        }
        if self.commit.out == 0 {
            self.record_written();
        }
    }

    /// The record for every copy that is to get it.
    fn record_bytes(&mut self) -> Result<PerCopy, NoMemory> {
        let retired = |e: &&Entry| e.state == EntryState::Retired;
        let slots = self.commit.batch.edits.iter().filter(retired).count();
        self.table.prepare(&self.commit.batch.edits)?;
        self.pool.prepare_to_retire(slots)?;
        let pages = Record::pages_for(self.commit.batch.edits.len());
        let header = |copy| RecordHeader {
            volume: self.volume.volume_tag(),
            copy,
            position: self.commit.position,
            checkpoint: self.commit.checkpoint_generation,
            generation: self.commit.generation.wrapping_add(1),
        };
        let mut writes = PerCopy::new();
        for copy in copies_of(self.commit.trying) {
            let mut bytes = memory::zeroes(pages * PAGE_SIZE)?;
            Record::encode(&header(copy), &self.commit.batch.edits, &mut bytes);
            writes.push((copy, bytes));
        }
        Ok(writes)
    }

    /// Writes bytes into a copy.
    pub(super) fn write_copy(&mut self, copy: u8, offset: u64, bytes: Vec<u8>, part: CommitPart) {
        let place = self.commit.place(copy);
        let start = Sector((place.start + offset) / 512);
        let extent = Extent::new(start, (bytes.len() / 512) as u64).expect("metadata writes are not empty");
        let kind = OpKind::Write { from: Buffer::Owned(bytes), fua: false };
        self.emit_commit(DeviceId::Spare(place.spare), extent, kind, part);
    }

    pub(super) fn emit_commit(&mut self, device: DeviceId, extent: Extent, kind: OpKind, part: CommitPart) {
        self.commit.out += 1;
        self.emit(device, extent, kind, Purpose::Commit(part));
    }

    /// Flushes every spare that holds copies that were written.
    pub(super) fn flush_copies(&mut self) {
        let mut spares: DeviceSet = 0;
        for copy in copies_of(self.commit.trying) {
            spares |= 1 << self.commit.place(copy).spare;
        }
        self.commit.ride_along(spares << 1);
        let nowhere = Extent::new(Sector(0), 1).expect("one sector");
        for spare in (0..16u8).filter(|s| spares & (1 << s) != 0) {
            self.emit_commit(DeviceId::Spare(spare), nowhere, OpKind::Flush, CommitPart::Flush(spare));
            self.counters.commit_flushes += 1;
        }
    }

    pub(super) fn commit_op_done(&mut self, part: CommitPart, outcome: Result<(), Fault>) {
        self.commit.out -= 1;
        if let CommitPart::Flush(spare) = part {
            self.commit.ride_ends(DeviceId::Spare(spare), outcome.is_ok());
        }
        if let Err(fault) = outcome {
            match part {
                CommitPart::DataFlush => {
                    self.commit.fault.get_or_insert(fault);
                }
                CommitPart::Copy(copy) => self.commit.copy_failed(copy, fault),
                CommitPart::Superblock(copy, _) => self.commit.copy_failed(copy, fault),
                CommitPart::Fence(copy, page) => self.fence_failed(copy, page, fault),
                // A volume whose spares cannot all be recognised is not made.
                CommitPart::Label => {
                    self.commit.failed = ALL_COPIES;
                    self.commit.fault.get_or_insert(fault);
                }
                CommitPart::Flush(spare) => {
                    for copy in copies_of(self.commit.trying) {
                        if self.commit.place(copy).spare == spare {
                            // What a failed flush left behind is unknown: such a copy is not fenced but not counted.
                            self.commit.failed |= 1 << copy;
                        }
                    }
                    self.commit.fault.get_or_insert(fault);
                    self.flush_failed(DeviceId::Spare(spare), fault);
                }
            }
        } else if let CommitPart::Superblock(copy, page) = part {
            self.commit.superblocks.written(copy, page, SuperblockPage::Whole);
        } else if let CommitPart::Fence(copy, page) = part {
            self.commit.superblocks.written(copy, page, SuperblockPage::Fence);
            let fault = self.commit.fault.unwrap_or(Fault::Medium);
            self.notice(Notice::CopyFailed { copy, fault, fenced: true });
        }
        if matches!(self.commit.phase, Phase::Checkpoint(_)) {
            self.checkpoint_advance();
        } else if self.commit.out == 0 {
            match self.commit.phase {
                Phase::DataFlush => self.data_flushed(),
                Phase::Record => self.record_written(),
                Phase::RecordFlush => self.record_flushed(),
                Phase::Idle | Phase::Checkpoint(_) => {}
            }
        }
    }

    fn record_written(&mut self) {
        if self.commit.starved {
            return self.freeze();
        }
        if self.owe_fences() {
            return;
        }
        if self.commit.starved || self.commit.good().count_ones() < MIN_COPIES {
            return self.freeze();
        }
        self.commit.phase = Phase::RecordFlush;
        self.flush_copies();
    }

    fn record_flushed(&mut self) {
        let good = self.commit.good();
        if good.count_ones() < MIN_COPIES {
            return self.freeze();
        }
        for copy in copies_of(self.commit.failed & self.commit.in_step) {
            // Those that were fenced were reported; the others are behind on a device that did not answer.
            if let Some(fault) = self.commit.fault.filter(|f| !f.blames_medium()) {
                self.notice(Notice::CopyFailed { copy, fault, fenced: false });
            }
        }
        if good != self.commit.in_step {
            self.commit.in_step = good;
            self.commit.resyncs = 0;
        }
        self.commit.plan_resync(self.now.mono_ns);
        self.commit.generation = self.commit.generation.wrapping_add(1);
        self.commit.base = self.commit.generation;
        self.commit.position += Record::pages_for(self.commit.batch.edits.len()) as u32;
        self.commit.phase = Phase::Idle;
        self.counters.commits += 1;
        self.thaw();
        for edit in &self.commit.batch.edits {
            if edit.state == EntryState::Retired {
                self.pool.retire(edit);
            } else {
                self.table.apply_prepared(edit);
            }
        }
        for job in self.commit.batch.end() {
            self.job_committed(job);
        }
        self.wake = true;
    }

    pub(super) fn enter_checkpoint(&mut self, checkpoint: Checkpoint) {
        self.commit.phase = Phase::Checkpoint(checkpoint);
    }

    /// The checkpoint is not to be any more, and nothing names it: the journal goes on.
    pub(super) fn checkpoint_given_up(&mut self) {
        self.commit.phase = Phase::Idle;
        // Somebody may have asked for one for another reason.
        self.commit.checkpoint_wanted = true;
        self.thaw();
        self.wake = true;
    }

    /// The checkpoint is durable: the journal starts over.
    pub(super) fn checkpoint_done(&mut self, generation: u64) {
        let good = self.commit.good();
        if good != self.commit.in_step {
            self.commit.resyncs = 0;
        }
        self.commit.in_step = good;
        self.commit.superblocks.unfenced(good);
        self.commit.resync_at = None;
        self.commit.plan_resync(self.now.mono_ns);
        self.commit.generation = generation;
        self.commit.base = generation;
        self.commit.checkpoint_generation = generation;
        self.commit.making = false;
        let nobodys = core::mem::take(&mut self.commit.leaving);
        self.commit.strays = nobodys;
        self.relayout_done();
        self.commit.position = 0;
        self.commit.phase = Phase::Idle;
        self.counters.checkpoints += 1;
        self.thaw();
        // A batch that was given up: its clients were told, and no generation that can be believed names its slots.
        for job in self.commit.batch.end() {
            self.abort_job(job, RequestError::Io(Fault::Unknown));
        }
        let copies = self.commit.in_step.count_ones() as u8;
        self.notice(Notice::Checkpointed { generation, copies });
        if !self.live {
            self.live = true;
            self.notice(Notice::Live);
        }
        self.wake = true;
    }
}
