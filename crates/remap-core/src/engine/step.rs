//! The steps of a job: what to do when all operations of the current step have ended.
//!
//! ```text
//! Fence -> InPlace -> InPlaceFlush -> ReadBack ----> Commit      a write that fits where it is (heals lost sectors)
//!             | medium error             |
//!             v                          v
//!          Salvage -> [Probe] -> WriteSlot -> Commit             a move
//!             |
//!             +-> [Probe] -> Commit                              sectors learned to be unreadable
//!             +-> CopyBack -> CopyBackFlush -> CopyBackRead -> Commit      a block goes home
//! ```

use arrayvec::ArrayVec;
use remap_format::{Cause, Entry, EntryFlags, EntryState, NO_SLOT, Policy, kept_time};

use super::job::{Job, JobKind, Step};
use super::ops::Purpose;
use super::place::{bits, runs};
use super::{Engine, MAX_JOBS, Notice, RequestError};
use crate::canary::Canary;
use crate::op::{Buffer, DeviceId, Fault, OpKind, RequestKind};
use crate::pool::SparePool;
use crate::units::{Extent, Sector};

/// Slots tried for one block before the spare is taken to be in trouble as a whole.
pub(super) const MAX_SLOT_TRIES: usize = 8;
/// Edits of one job: its block, each slot that failed, and the slot that the block left.
pub(super) const MAX_JOB_EDITS: usize = MAX_SLOT_TRIES + 2;
/// Good sectors asked before a device is taken to be in trouble as a whole.
const MAX_PROBES: u8 = 4;

/// Jobs that wait for a flush of the main device.
#[derive(Debug, Default)]
pub(super) struct MainFlush {
    /// Covered by the flush that is out.
    out: ArrayVec<usize, MAX_JOBS>,
    /// Asked since.
    next: ArrayVec<usize, MAX_JOBS>,
}

/// Where the bytes of a step come from or go to.
#[derive(Clone, Copy)]
enum Bytes {
    Salvage,
    Scratch,
}

impl Engine {
    /// One operation of a job has ended.
    pub(super) fn job_op_done(&mut self, index: usize, sectors: u128, outcome: Result<(), Fault>) {
        let unit = u32::try_from(self.unit_sectors()).unwrap_or(1);
        let Some(job) = self.job(index) else { return };
        job.out -= 1;
        if let Err(fault) = outcome {
            let reading = matches!(job.step, Step::Salvage);
            if !fault.blames_medium() {
                job.fault.get_or_insert(fault);
            } else if reading && sectors.count_ones() > unit {
                // The run as a whole failed; ask sector by sector which of it can be had.
                job.units |= sectors;
                self.counters.read_errors += 1;
            } else {
                job.medium.get_or_insert(fault);
                job.unknown |= fault == Fault::Unknown;
                job.failed |= !matches!(job.step, Step::Probe | Step::WriteSlot);
                if reading {
                    job.bad |= sectors;
                    self.counters.read_errors += 1;
                } else if !matches!(job.step, Step::ReadBack | Step::CopyBackRead | Step::Probe) {
                    self.counters.write_errors += 1;
                }
            }
        }
        if self.job(index).is_some_and(|j| j.out == 0) && !self.read_next_unit(index) {
            self.job_step_done(index);
        }
    }

    /// Reads the next of the logical blocks that are asked one by one; `false` if none is left, or the path failed. One after the
    /// other: what is out together may reach the device as one operation, and then one bad sector fails them all.
    fn read_next_unit(&mut self, index: usize) -> bool {
        let unit = u32::try_from(self.unit_sectors()).unwrap_or(1);
        let Some(job) = self.job(index).filter(|job| job.fault.is_none()) else { return false };
        let Some((start, len)) = runs(job.units).next() else { return false };
        let len = len.min(unit);
        job.units &= !bits(start, len);
        self.emit_read(index, (start, len), Bytes::Salvage);
        true
    }

    fn emit_read(&mut self, index: usize, run: (u32, u32), bytes: Bytes) {
        let Some(job) = self.jobs.get(index).and_then(Option::as_ref) else { return };
        let (block, old) = (job.block, job.old);
        let from_main = matches!(job.step, Step::CopyBackRead);
        let place = if from_main { None } else { old };
        let (device, extent) = self.locate(block, place.as_ref(), run);
        let into = bounce(index, bytes, run.0);
        self.emit_for(index, device, extent, OpKind::Read(into), bits(run.0, run.1));
    }

    fn emit_for(&mut self, index: usize, device: DeviceId, extent: Extent, kind: OpKind, sectors: u128) {
        if let Some(job) = self.job(index) {
            job.out += 1;
        }
        self.emit(device, extent, kind, Purpose::Job { job: index, sectors });
    }

    fn enter(&mut self, index: usize, step: Step) {
        if let Some(job) = self.job(index) {
            job.step = step;
            job.fault = None;
            job.medium = None;
        }
    }

    /// All operations of the current step have ended: on to the next.
    pub(super) fn job_step_done(&mut self, index: usize) {
        let Some(job) = self.jobs.get(index).and_then(Option::as_ref) else { return };
        if let Some(fault) = job.fault {
            let device = match job.step {
                Step::WriteSlot => job.slot.map_or(DeviceId::Main, |s| DeviceId::Spare(s.spare())),
                Step::InPlace | Step::Salvage => {
                    job.old_slot().map_or(DeviceId::Main, |s| DeviceId::Spare(s.spare()))
                }
                _ => DeviceId::Main,
            };
            if fault == Fault::NoSpace {
                return self.abort_job(index, RequestError::NoSpace);
            }
            self.trip(device, fault, false);
            return self.abort_job(index, RequestError::Io(fault));
        }
        match job.step {
            Step::Fence => self.after_fence(index),
            Step::InPlace => self.after_in_place(index),
            Step::ReadBack if job.medium.is_some() => self.begin_salvage(index),
            Step::ReadBack => self.commit_in_place(index),
            Step::Salvage => self.after_salvage(index),
            Step::Probe => self.after_probe(index),
            Step::WriteSlot => self.after_write_slot(index),
            // A flush that failed proves nothing about any sector; what it was to make durable is in doubt.
            Step::InPlaceFlush | Step::CopyBackFlush | Step::CopyBack | Step::CopyBackRead
                if job.medium.is_some() =>
            {
                self.abort_job(index, RequestError::Io(Fault::Medium));
            }
            Step::InPlaceFlush => self.begin_read_back(index),
            Step::CopyBack => self.flush_main(index, Step::CopyBackFlush),
            Step::CopyBackFlush => self.begin_copy_back_read(index),
            Step::CopyBackRead => self.commit_cleared(index),
            Step::Commit => {}
        }
    }

    fn after_fence(&mut self, index: usize) {
        let Some(job) = self.jobs.get(index).and_then(Option::as_ref) else { return };
        let extent = self.block_extent(job.block);
        let waits = !self.planted(Canary::NoFence);
        if waits && self.requests.iter().flatten().any(|r| r.has_piece_on(&extent)) {
            return;
        }
        let repeated =
            self.planted(Canary::RepeatSkipped) && job.old.is_some_and(|e| e.lost & job.covered() == 0);
        if repeated && matches!(job.kind, JobKind::Write { .. }) {
            return self.finish_job(index, Ok(()));
        }
        let on_spare = job.old_slot().is_some();
        match job.kind {
            JobKind::Write { .. } if on_spare || self.policy == Policy::RewriteThenRemap => {
                self.begin_in_place(index)
            }
            _ => self.begin_salvage(index),
        }
    }

    /// Writes the covered sectors where the block is now.
    fn begin_in_place(&mut self, index: usize) {
        self.enter(index, Step::InPlace);
        let Some(job) = self.jobs.get(index).and_then(Option::as_ref) else { return };
        let (block, old, covered) = (job.block, job.old, job.covered());
        for run in runs(covered) {
            let (device, extent) = self.locate(block, old.as_ref(), run);
            self.emit_client_write(index, device, extent, run);
        }
    }

    /// A write of the client's bytes for a run of the block's sectors.
    fn emit_client_write(&mut self, index: usize, device: DeviceId, extent: Extent, run: (u32, u32)) {
        let Some(job) = self.jobs.get(index).and_then(Option::as_ref) else { return };
        let JobKind::Write { request, .. } = job.kind else { return };
        let sector = Sector(self.block_extent(job.block).start().0 + u64::from(run.0));
        let Some(slow) = self.slow_request(request) else { return };
        let kind = match slow.request().kind {
            RequestKind::WriteZeroes { fua, .. } => OpKind::WriteZeroes { fua, may_unmap: false },
            RequestKind::Write { fua } => OpKind::Write { from: slow.buffer_at(sector), fua },
            RequestKind::Read | RequestKind::Discard | RequestKind::Flush => return,
        };
        self.emit_for(index, device, extent, kind, bits(run.0, run.1));
    }

    fn after_in_place(&mut self, index: usize) {
        let Some(job) = self.jobs.get(index).and_then(Option::as_ref) else { return };
        match (job.medium, job.old_slot()) {
            (Some(_), old) => {
                if old.is_some()
                    && let Some(job) = self.job(index)
                {
                    job.cause = Cause::SlotError;
                }
                self.begin_salvage(index);
            }
            (None, Some(_)) => self.commit_in_place(index),
            (None, None) => self.flush_main(index, Step::InPlaceFlush),
        }
    }

    /// Makes what a job wrote to the main device durable. Jobs that ask while a flush is out share the next one.
    fn flush_main(&mut self, index: usize, step: Step) {
        self.enter(index, step);
        if let Some(job) = self.job(index) {
            job.out += 1;
        }
        self.main_flush.next.push(index);
        self.begin_main_flush();
    }

    fn begin_main_flush(&mut self) {
        if self.main_flush.out.is_empty() && !self.main_flush.next.is_empty() {
            self.main_flush.out = core::mem::take(&mut self.main_flush.next);
            let nowhere = Extent::new(Sector(0), 1).expect("one sector");
            self.emit(DeviceId::Main, nowhere, OpKind::Flush, Purpose::MainFlush);
        }
    }

    pub(super) fn main_flushed(&mut self, outcome: Result<(), Fault>) {
        let waited = core::mem::take(&mut self.main_flush.out);
        if let Err(fault) = outcome
            && fault != Fault::NoMemory
        {
            for job in core::mem::take(&mut self.main_flush.next) {
                self.job_op_done(job, 0, outcome);
            }
            self.flush_failed(DeviceId::Main, fault);
        }
        for job in waited {
            self.job_op_done(job, 0, outcome);
        }
        self.begin_main_flush();
    }

    fn begin_read_back(&mut self, index: usize) {
        self.enter(index, Step::ReadBack);
        let Some(covered) = self.job(index).map(|j| j.covered()) else { return };
        for run in runs(covered) {
            self.emit_read(index, run, Bytes::Scratch);
        }
    }

    /// The covered sectors are good where they are: they are lost no more.
    fn commit_in_place(&mut self, index: usize) {
        let Some(job) = self.jobs.get(index).and_then(Option::as_ref) else { return };
        let covered = job.covered();
        let Some(old) = job.old.filter(|e| e.lost & covered != 0) else {
            return self.finish_job(index, Ok(()));
        };
        let lost = if self.planted(Canary::LostMaskDropped) { 0 } else { old.lost & !covered };
        let healed = old.state == EntryState::Pending && lost == 0;
        let state = if healed { EntryState::Absent } else { old.state };
        let flush = job.old_slot().map(|s| DeviceId::Spare(s.spare()));
        self.stage(index, Entry { lost, state, count: 1, ..old }, flush);
    }

    /// Reads what the job must keep (or must know).
    fn begin_salvage(&mut self, index: usize) {
        self.enter(index, Step::Salvage);
        let Some(job) = self.jobs.get(index).and_then(Option::as_ref) else { return };
        let valid = self.valid_mask(job.block);
        let readable = valid & !job.old_lost();
        let stays = self.policy == Policy::RewriteThenRemap && job.old_slot().is_none();
        let believed = self.planted(Canary::StaleMainBelieved);
        let wanted = match job.kind {
            JobKind::Learn { sectors, .. } if stays => sectors & valid,
            JobKind::Check { all, .. } if job.old_slot().is_none() => match job.old {
                Some(old) => {
                    let others = if all { !old.lost } else { 0 };
                    // Bytes that are known to be out of date prove nothing by being readable.
                    let lost = if old.flags.stale() && !believed { 0 } else { old.lost };
                    (lost | others) & valid
                }
                None => valid,
            },
            JobKind::Clear { .. } if job.old_slot().is_none() => {
                job.old.filter(|e| !e.flags.stale() || believed).map_or(0, |e| e.lost & valid)
            }
            _ => readable & !job.covered(),
        };
        let by_unit = matches!(job.kind, JobKind::Learn { .. }) && stays;
        if let Some(job) = self.job(index) {
            job.wanted = wanted;
            job.bad = 0;
            job.units = if by_unit { wanted } else { 0 };
        }
        if by_unit {
            self.read_next_unit(index);
        } else {
            runs(wanted).for_each(|run| self.emit_read(index, run, Bytes::Salvage));
        }
        if wanted == 0 {
            self.after_salvage(index);
        }
    }

    fn after_salvage(&mut self, index: usize) {
        let Some(job) = self.jobs.get(index).and_then(Option::as_ref) else { return };
        let (kind, bad, on_spare, unknown) = (job.kind, job.bad, job.old_slot().is_some(), job.unknown);
        match kind {
            JobKind::Clear { .. } if on_spare && bad == 0 => return self.begin_copy_back(index),
            JobKind::Clear { .. } if on_spare => {
                return self.abort_job(index, RequestError::Io(Fault::Medium));
            }
            JobKind::Check { .. } if on_spare && bad == 0 => return self.finish_job(index, Ok(())),
            JobKind::Learn { .. } if bad == 0 => return self.finish_job(index, Ok(())),
            // A slot that cannot be read is not given back for another block.
            JobKind::Check { .. } | JobKind::Move { .. } if on_spare && bad != 0 => {
                if let Some(job) = self.job(index) {
                    job.cause = Cause::SlotError;
                }
            }
            _ => {}
        }
        // Everything from here on blames the medium (unless a person asked for the move and nothing failed).
        let errors = bad != 0 || matches!(kind, JobKind::Write { .. });
        if errors && unknown && self.breaker.open().is_none() {
            return self.begin_probe(index);
        }
        self.decide(index, errors);
    }

    /// A bare EIO blames the medium only if the same device still answers elsewhere.
    fn begin_probe(&mut self, index: usize) {
        self.enter(index, Step::Probe);
        let Some(job) = self.job(index) else { return };
        let tried = job.probes;
        job.probes += 1;
        let Some(job) = self.jobs.get(index).and_then(Option::as_ref) else { return };
        let (device, avoid) = match job.old_slot() {
            Some(slot) => (DeviceId::Spare(slot.spare()), self.in_slot(slot, (0, 1)).1),
            None => (DeviceId::Main, self.block_extent(job.block)),
        };
        let extent = self.probe_place(device, usize::from(tried));
        if extent.overlaps(&avoid) {
            // Says nothing new about this block: the next place.
            if let Some(job) = self.job(index) {
                job.medium = Some(Fault::Unknown);
            }
            return self.after_probe(index);
        }
        let into = bounce(index, Bytes::Scratch, 0);
        self.emit_for(index, device, extent, OpKind::Read(into), 0);
    }

    fn after_probe(&mut self, index: usize) {
        let Some(job) = self.job(index) else { return };
        if job.medium == Some(Fault::Unknown) && job.probes < MAX_PROBES {
            return self.begin_probe(index);
        }
        if job.medium == Some(Fault::Unknown) {
            let device = job.old_slot().map_or(DeviceId::Main, |s| DeviceId::Spare(s.spare()));
            self.trip(device, Fault::Unknown, false);
            return self.abort_job(index, RequestError::Io(Fault::Unknown));
        }
        self.decide(index, true);
    }

    /// What was read is known: change the entry accordingly.
    fn decide(&mut self, index: usize, errors: bool) {
        let Some(job) = self.jobs.get(index).and_then(Option::as_ref) else { return };
        let (kind, unknown) = (job.kind, job.unknown);
        let device = job.old_slot().map_or(DeviceId::Main, |s| DeviceId::Spare(s.spare()));
        if errors && !self.may_blame(device, unknown) {
            return self.abort_job(index, RequestError::Io(Fault::Unknown));
        }
        let stays = self.policy == Policy::RewriteThenRemap && device == DeviceId::Main;
        match kind {
            JobKind::Learn { .. } if stays => self.commit_pending(index),
            JobKind::Check { .. } | JobKind::Clear { .. } if device == DeviceId::Main => {
                self.commit_pending(index)
            }
            _ => self.begin_write_slot(index),
        }
    }

    /// The block stays on the main device with the sectors that cannot be read noted.
    fn commit_pending(&mut self, index: usize) {
        let Some(job) = self.jobs.get(index).and_then(Option::as_ref) else { return };
        let valid = self.valid_mask(job.block);
        let lost = ((job.old_lost() & !job.wanted) | job.bad) & valid;
        if job.old.map_or(0, |e| e.lost) == lost {
            return self.finish_job(index, Ok(()));
        }
        let entry = self.entry_of(job, lost, EntryState::Pending, NO_SLOT);
        let state = if lost == 0 { EntryState::Absent } else { EntryState::Pending };
        self.stage(index, Entry { state, ..entry }, None);
    }

    fn entry_of(&self, job: &Job, lost: u128, state: EntryState, slot: u64) -> Entry {
        let errors = job.old.map_or(0, |e| e.errors).saturating_add(u16::from(job.failed));
        let flags = job.old.map_or(EntryFlags::default(), |e| e.flags);
        // As it will be read back: in memory and on disk the same neighbours are one entry.
        let time = job.old.map_or(kept_time(self.now.unix_s), |e| e.time);
        let cause = if job.cause == Cause::SlotError {
            Cause::SlotError
        } else {
            job.old.map_or(job.cause, |e| e.cause)
        };
        Entry { block: job.block.0, count: 1, slot, lost, state, cause, flags, errors, time }
    }

    fn begin_write_slot(&mut self, index: usize) {
        let Some(job) = self.jobs.get(index).and_then(Option::as_ref) else { return };
        let valid = self.valid_mask(job.block);
        let salvaged = job.wanted & !job.bad;
        if salvaged | job.covered() == 0 && job.old_slot().is_none() {
            // Nothing to keep on the spare: note the loss, spend no slot.
            return self.commit_pending(index);
        }
        if job.failed_slots.len() >= MAX_SLOT_TRIES {
            let spare = job.failed_slots.last().map_or(0, |slot| slot.spare());
            self.trip(DeviceId::Spare(spare), Fault::Unknown, false);
            return self.abort_job(index, RequestError::Io(Fault::Unknown));
        }
        let block = job.block;
        let full = self.config.max_remaps.is_some_and(|max| self.counts().remapped_blocks >= max);
        let slot = if full || !self.has_room_for(index) { Ok(None) } else { self.pool.acquire() };
        let Ok(slot) = slot else { return self.abort_job(index, RequestError::Io(Fault::NoMemory)) };
        let Some(slot) = slot else { return self.no_room(index) };
        self.enter(index, Step::WriteSlot);
        let Some(job) = self.job(index) else { return };
        job.slot = Some(slot);
        let covered = job.covered() & valid;
        for run in runs(salvaged) {
            let (device, extent) = self.in_slot(slot, run);
            let from = bounce(index, Bytes::Salvage, run.0);
            if self.planted(Canary::SalvageWrittenHome) {
                let (main, home) = self.locate(block, None, run);
                let kind = OpKind::Write { from: from.clone(), fua: false };
                self.emit_for(index, main, home, kind, bits(run.0, run.1));
            }
            self.emit_for(index, device, extent, OpKind::Write { from, fua: false }, bits(run.0, run.1));
        }
        for run in runs(covered) {
            let (device, extent) = self.in_slot(slot, run);
            self.emit_client_write(index, device, extent, run);
        }
        if salvaged | covered == 0 {
            self.after_write_slot(index);
        }
        debug_assert!(self.valid_mask(block) & covered == covered, "covered sectors are the block's");
    }

    /// No slot, or no room for an entry: it is said once. A block that cannot leave a slot that went bad stays in it, and what
    /// was found lost is noted all the same (C3); else nothing changes.
    fn no_room(&mut self, index: usize) {
        if !self.exhausted_said {
            self.exhausted_said = true;
            self.notice(Notice::Exhausted);
        }
        let Some(job) = self.jobs.get(index).and_then(Option::as_ref) else { return };
        let found = matches!(job.kind, JobKind::Learn { .. } | JobKind::Check { .. })
            && job.bad & !job.old_lost() != 0;
        match job.old_slot() {
            Some(slot) if found && self.has_room_for(index) => {
                let lost = (job.old_lost() | job.bad) & self.valid_mask(job.block);
                let entry = self.entry_of(job, lost, EntryState::Remapped, slot.0);
                self.stage(index, entry, None);
            }
            _ => self.abort_job(index, RequestError::NoSpace),
        }
    }

    fn after_write_slot(&mut self, index: usize) {
        let Some(job) = self.job(index) else { return };
        if job.medium.is_some() {
            if let Some(slot) = job.slot.take() {
                job.failed_slots.push(slot);
            }
            return self.begin_write_slot(index);
        }
        let Some(job) = self.jobs.get(index).and_then(Option::as_ref) else { return };
        let Some(slot) = job.slot else { return };
        let kept = (job.wanted & !job.bad) | job.covered();
        let lost = self.valid_mask(job.block) & !kept;
        let mut entry = self.entry_of(job, lost, EntryState::Remapped, slot.0);
        if job.old_slot().is_none() && job.old.is_none() {
            entry.cause = job.cause;
        }
        self.stage(index, entry, Some(DeviceId::Spare(slot.spare())));
    }

    fn begin_copy_back(&mut self, index: usize) {
        self.enter(index, Step::CopyBack);
        let Some(job) = self.job(index) else { return };
        let (block, wanted) = (job.block, job.wanted);
        for run in runs(wanted) {
            let (device, extent) = self.locate(block, None, run);
            let from = bounce(index, Bytes::Salvage, run.0);
            self.emit_for(index, device, extent, OpKind::Write { from, fua: false }, bits(run.0, run.1));
        }
        if wanted == 0 {
            self.commit_cleared(index);
        }
    }

    fn begin_copy_back_read(&mut self, index: usize) {
        self.enter(index, Step::CopyBackRead);
        let Some(wanted) = self.job(index).map(|j| j.wanted) else { return };
        for run in runs(wanted) {
            self.emit_read(index, run, Bytes::Scratch);
        }
    }

    /// The block is home; what was lost stays lost, and the main device's old bytes of it are not to be believed.
    fn commit_cleared(&mut self, index: usize) {
        let Some(job) = self.jobs.get(index).and_then(Option::as_ref) else { return };
        let Some(old) = job.old else { return self.finish_job(index, Ok(())) };
        let state = if old.lost == 0 { EntryState::Absent } else { EntryState::Pending };
        self.stage(index, Entry { state, slot: NO_SLOT, flags: EntryFlags::STALE, count: 1, ..old }, None);
    }

    /// Hands the job's edits to the next commit.
    fn stage(&mut self, index: usize, edit: Entry, flush: Option<DeviceId>) {
        if !self.has_room_for(index) {
            return self.no_room(index);
        }
        self.enter(index, Step::Commit);
        let Some(job) = self.jobs.get(index).and_then(Option::as_ref) else { return };
        let mut edit = edit;
        if edit.state == EntryState::Absent {
            edit = Entry { slot: NO_SLOT, lost: 0, flags: EntryFlags::default(), ..edit };
        }
        let mut edits: ArrayVec<Entry, MAX_JOB_EDITS> = ArrayVec::new();
        edits.push(edit);
        let relocated = job.cause == Cause::SlotError && job.slot.is_some();
        let gone = job.failed_slots.iter().copied().chain(job.old_slot().filter(|_| relocated));
        gone.for_each(|slot| edits.push(SparePool::retired_entry(slot, kept_time(self.now.unix_s))));
        let request = match job.kind {
            JobKind::Write { request, .. } => Some(request),
            _ => None,
        };
        debug_assert!(index < MAX_JOBS, "jobs have places");
        let left = job.old_slot().filter(|old| old.0 != edits.first().map_or(NO_SLOT, |e| e.slot));
        if let Some(left) = left.filter(|_| self.planted(Canary::FreedEarly) && !relocated) {
            self.pool.free(left);
        }
        self.stage_edits(index, &edits, flush, request);
    }

    /// Metadata cannot be written: neither client nor command must wait for it, but the job keeps its block.
    pub(super) fn orphan_job(&mut self, index: usize) {
        let Some(job) = self.job(index) else { return };
        if let JobKind::Write { request, .. } = job.kind {
            job.kind = JobKind::Learn { sectors: 0, on_slot: false };
            if self.planted(Canary::OrphanForgotten) {
                return;
            }
            self.request_job_done(request, Err(RequestError::Io(Fault::Unknown)));
        } else if !core::mem::replace(&mut job.told, true) {
            let (kind, block) = (job.kind, job.block);
            self.command_job_done(kind, block, Err(RequestError::Io(Fault::Unknown)));
        }
    }
}

/// A job's bounce buffer from a sector on.
fn bounce(job: usize, bytes: Bytes, sector: u32) -> Buffer {
    let half = match bytes {
        Bytes::Salvage => 0,
        Bytes::Scratch => 1,
    };
    Buffer::Bounce { index: (2 * job + half) as u16, offset: sector * 512 }
}
