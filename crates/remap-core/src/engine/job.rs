//! Jobs: the work on one block that may change its entry.
//!
//! Invariant: a job owns its block from start to end (readers and requests leave it alone, C11), takes steps one after
//! another, and ends exactly once: with a durable edit, with nothing to change, or with nothing changed. Until its commit
//! is durable the table says what it said before; a slot it took is forfeited unless a durable entry names it.
//!
//! The steps of one life are in `step`; this file starts and ends jobs.

use arrayvec::ArrayVec;
use remap_format::{Cause, Entry, EntryState};

use super::ops::Purpose;
use super::step::MAX_SLOT_TRIES;
use super::{Engine, MAX_JOBS, Notice, RequestError};
use crate::canary::Canary;
use crate::memory;
use crate::op::{DeviceId, Fault, OpKind};
use crate::units::{Block, Slot};
use crate::view::Placement;

/// Jobs kept free for writes when suspicions and commands start theirs.
const JOBS_FOR_WRITES: usize = MAX_JOBS / 4;

/// What a job is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum JobKind {
    /// Sectors could not be read: find out which, note them (or move what can be read).
    Learn { sectors: u128, on_slot: bool },
    /// A client overwrites `covered` sectors of a block that has an entry, or whose write the main device refused.
    Write { request: usize, covered: u128, refused: Option<Fault> },
    /// Move the block to a spare.
    Move { command: usize },
    /// Move the block back to the main device.
    Clear { command: usize },
    /// Read what the entry says is there (with `all`, also what it says nothing about); keep the entry true.
    Check { command: usize, all: bool },
}

impl JobKind {
    pub(super) fn command(self) -> Option<usize> {
        match self {
            Self::Move { command } | Self::Clear { command } | Self::Check { command, .. } => Some(command),
            Self::Learn { .. } | Self::Write { .. } => None,
        }
    }
}

/// Sectors of a block that a read could not give.
#[derive(Clone, Copy, Debug)]
pub(super) struct Suspicion {
    pub(super) block: Block,
    pub(super) sectors: u128,
    pub(super) on_slot: bool,
}

/// Where a job is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Waiting for requests that began before (C11).
    Fence,
    /// Writing the covered sectors where they are now.
    InPlace,
    /// Making that durable on the main device.
    InPlaceFlush,
    /// Reading it back: a drive that reallocates must show it.
    ReadBack,
    /// Reading what must be kept.
    Salvage,
    /// Asking a good sector of the same device whether the medium is to blame.
    Probe,
    /// Writing a new slot.
    WriteSlot,
    /// Writing the main device on the way back.
    CopyBack,
    /// Making that durable.
    CopyBackFlush,
    /// Reading that back.
    CopyBackRead,
    /// Waiting for the commit.
    Commit,
}

/// Work on one block.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) block: Block,
    pub(super) kind: JobKind,
    pub(super) cause: Cause,
    pub(super) step: Step,
    /// Operations that are out.
    pub(super) out: u32,
    /// The entry when the job began, cut to this block.
    pub(super) old: Option<Entry>,
    /// Entries that its edit can add to the table: a block inside a run splits it.
    pub(super) growth: u64,
    /// Sectors that the salvage was to read.
    pub(super) wanted: u128,
    /// Of these, the ones that cannot be read.
    pub(super) bad: u128,
    /// Of these, the ones that are still to be read one logical block after the other.
    pub(super) units: u128,
    /// A fault of the current step that does not blame the medium.
    pub(super) fault: Option<Fault>,
    /// A fault of the current step that does.
    pub(super) medium: Option<Fault>,
    /// Some fault said nothing (bare EIO) and was not confirmed by a probe yet.
    pub(super) unknown: bool,
    /// The block could not be read or written where it is.
    pub(super) failed: bool,
    /// Probes tried in this step.
    pub(super) probes: u8,
    /// The slot taken.
    pub(super) slot: Option<Slot>,
    /// Slots that failed while this job wrote them.
    pub(super) failed_slots: ArrayVec<Slot, MAX_SLOT_TRIES>,
    /// Its command was told that it failed, because metadata cannot be written.
    pub(super) told: bool,
}

impl Job {
    pub(super) fn is_fenced(&self) -> bool {
        self.step == Step::Fence && self.out == 0
    }

    /// Entries that its edits may add: to the table, and for slots that went bad.
    fn entries_to_come(&self) -> u64 {
        let leaves_slot = self.cause == Cause::SlotError && self.old_slot().is_some();
        self.growth + self.failed_slots.len() as u64 + u64::from(leaves_slot)
    }

    pub(super) fn covered(&self) -> u128 {
        match self.kind {
            JobKind::Write { covered, .. } => covered,
            _ => 0,
        }
    }

    pub(super) fn old_lost(&self) -> u128 {
        self.old.map_or(0, |e| e.lost)
    }

    pub(super) fn old_slot(&self) -> Option<Slot> {
        self.old.filter(|e| e.state == EntryState::Remapped).map(|e| Slot(e.slot))
    }
}

impl Engine {
    pub(super) fn job(&mut self, index: usize) -> Option<&mut Job> {
        self.jobs.get_mut(index)?.as_mut()
    }

    fn free_jobs(&self) -> usize {
        self.jobs.iter().filter(|j| j.is_none()).count()
    }

    /// May background work start a job now?
    pub(super) fn may_start_background_job(&self) -> bool {
        self.free_jobs() > JOBS_FOR_WRITES && !self.commit.is_frozen()
    }

    /// Starts a job on a block that no job works on; `false` if all jobs are taken.
    pub(super) fn start_job(&mut self, kind: JobKind, block: Block, cause: Cause) -> bool {
        let Some(index) = self.jobs.iter().position(Option::is_none) else { return false };
        let old = self.table.get(block);
        let growth = match (old, self.table.next_from(block)) {
            (None, _) => 1,
            (Some(_), Some(run)) if run.count > 1 => 2,
            _ => 0,
        };
        let readers = self.table.view().first(block, Block(block.0 + 1)).placement;
        self.table.view().begin_move(index, block);
        // Readers never touch a block that was already the owner's: nothing to wait for.
        let grace = readers != Placement::Slow && !self.planted(Canary::NoGrace);
        if let Some(place) = self.jobs.get_mut(index) {
            *place = Some(Job {
                block,
                kind,
                cause,
                step: Step::Fence,
                out: u32::from(grace),
                old,
                growth,
                wanted: 0,
                bad: 0,
                units: 0,
                fault: None,
                medium: None,
                unknown: matches!(kind, JobKind::Write { refused: Some(Fault::Unknown), .. }),
                failed: matches!(kind, JobKind::Write { refused: Some(_), .. }),
                probes: 0,
                slot: None,
                failed_slots: ArrayVec::new(),
                told: false,
            });
        }
        if grace {
            let extent = self.block_extent(block);
            self.emit(DeviceId::Main, extent, OpKind::Grace, Purpose::Job { job: index, sectors: 0 });
        } else {
            self.job_step_done(index);
        }
        true
    }

    /// Has a checkpoint room for what this job's edits may add, all other jobs' included?
    pub(super) fn has_room_for(&self, index: usize) -> bool {
        let jobs = || self.jobs.iter().flatten();
        let coming: u64 = jobs().map(Job::entries_to_come).sum();
        let grows = self.jobs.get(index).and_then(Option::as_ref).is_none_or(|j| j.entries_to_come() > 0);
        !grows || self.metadata_entries() + coming <= self.commit.shape.capacity()
    }

    /// Entries that a checkpoint would hold now.
    pub(super) fn metadata_entries(&self) -> u64 {
        self.counts().entries + self.pool.retired().len() as u64
    }

    /// Examines suspicious blocks, as far as jobs are free and the breaker is closed.
    pub(super) fn suspicions_advance(&mut self) {
        let mut tries = self.suspicions.len();
        while tries > 0 && self.may_start_background_job() {
            tries -= 1;
            let Some(s) = self.suspicions.pop_front() else { break };
            if self.breaker.open().is_some() {
                // The next read raises it again; nothing is decided while the path is in doubt.
                continue;
            }
            if self.is_locked(s.block) || self.is_being_read(s.block) {
                memory::push_back(&mut self.suspicions, s);
                continue;
            }
            let cause = if s.on_slot { Cause::SlotError } else { Cause::ReadError };
            self.start_job(JobKind::Learn { sectors: s.sectors, on_slot: s.on_slot }, s.block, cause);
        }
    }

    /// Ends a job that changes nothing.
    pub(super) fn abort_job(&mut self, index: usize, error: RequestError) {
        if let Some(job) = self.jobs.get_mut(index).and_then(Option::as_mut) {
            for slot in job.slot.take().into_iter().chain(job.failed_slots.drain(..)) {
                self.pool.free(slot);
            }
        }
        self.finish_job(index, Err(error));
    }

    /// The job is over: unlock its block, tell whoever waits.
    pub(super) fn finish_job(&mut self, index: usize, result: Result<(), RequestError>) {
        let Some(job) = self.jobs.get_mut(index).and_then(Option::take) else { return };
        self.table.view().end_move(index);
        self.wake = true;
        match job.kind {
            JobKind::Write { request, .. } => self.request_job_done(request, result),
            _ if job.told => {}
            kind => self.command_job_done(kind, job.block, result),
        }
    }

    /// The commit that holds a job's edits is durable and applied.
    pub(super) fn job_committed(&mut self, index: usize) {
        let Some(job) = self.job(index) else { return };
        let (block, cause, old_lost) = (job.block, job.cause, job.old_lost());
        let (slot, old_slot) = (job.slot.take(), job.old_slot());
        let old_failed =
            matches!(job.kind, JobKind::Learn { on_slot: true, .. }) || job.cause == Cause::SlotError;
        let failed = core::mem::take(&mut job.failed_slots);
        let now = self.table.get(block);
        for slot in failed {
            self.notice(Notice::SlotRetired { slot });
        }
        let still = now.filter(|e| e.state == EntryState::Remapped).map(|e| Slot(e.slot));
        if let Some(old) = old_slot.filter(|&old| still != Some(old)) {
            if old_failed && slot.is_some() {
                self.notice(Notice::SlotRetired { slot: old });
            } else if !self.planted(Canary::FreedEarly) {
                self.pool.free(old);
            }
        }
        match cause {
            // A block that leaves its spare was counted when it came.
            _ if slot.is_none() => {}
            Cause::ReadError | Cause::WriteError | Cause::SlotError => self.counters.auto_remaps += 1,
            Cause::Manual | Cause::Predicted | Cause::Imported => {
                self.counters.manual_remaps += u64::from(old_slot.is_none());
            }
        }
        self.tell(block, cause, old_lost, slot, now.as_ref());
        self.finish_job(index, Ok(()));
    }

    fn tell(&mut self, block: Block, cause: Cause, old_lost: u128, slot: Option<Slot>, now: Option<&Entry>) {
        let lost = now.map_or(0, |e| e.lost);
        if let Some(to) = slot {
            self.notice(Notice::Remapped { block, to, lost, cause });
        } else if lost.count_ones() > old_lost.count_ones() {
            self.notice(Notice::Pending { block, lost });
        } else if lost.count_ones() < old_lost.count_ones() {
            self.counters.heals += 1;
            self.notice(Notice::Healed { block, lost });
        } else if now.is_none() {
            self.notice(Notice::Cleared { block });
        }
    }
}
