//! What is committed together: edits, the jobs that wait for them, and the flushes that their bytes need.
//!
//! Invariant: a record is begun only when all bytes in slots that it names are durable (C2): by a flush of their device that was
//! begun after they were written, the batch's own or the one that ended the commit before; if any flush of the device
//! fails before that, they are given up.

use alloc::vec::Vec;

use arrayvec::ArrayVec;
use remap_format::{Entry, MAX_RECORD_EDITS};

use super::commit::{Commit, Phase};
use super::job::{JobKind, Step};
use super::ops::CommitPart;
use super::step::MAX_JOB_EDITS;
use super::{Engine, MAX_JOBS, RequestError};
use crate::canary::Canary;
use crate::memory::{self, NoMemory};
use crate::op::{DeviceId, OpKind};
use crate::units::{Extent, Sector};

/// Set of devices: bit 0 the main device, bit n+1 spare n.
pub(super) type DeviceSet = u32;
/// Longest time that a commit waits for others to share it.
const COMMIT_HOLD_NS: u64 = 4_000_000;
/// Most edits of a batch: every job's.
const MAX_BATCH_EDITS: usize = MAX_JOBS * MAX_JOB_EDITS;
const _: () = assert!(MAX_BATCH_EDITS <= MAX_RECORD_EDITS, "all jobs' edits fit one record");

/// Edits that become durable together, and the jobs that wait for them.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) jobs: ArrayVec<usize, MAX_JOBS>,
    pub(super) edits: Vec<Entry>,
    /// Devices with bytes that must be durable before the record.
    flush: DeviceSet,
}

impl Batch {
    pub(super) fn with_room() -> Result<Self, NoMemory> {
        Ok(Self { jobs: ArrayVec::new(), edits: memory::list(MAX_BATCH_EDITS)?, flush: 0 })
    }

    /// Empties it, keeps its memory, and gives the jobs that waited.
    pub(super) fn end(&mut self) -> ArrayVec<usize, MAX_JOBS> {
        self.edits.clear();
        self.flush = 0;
        core::mem::take(&mut self.jobs)
    }
}

fn devices_of(set: DeviceSet) -> impl Iterator<Item = DeviceId> {
    let device = |bit: u32| bit.checked_sub(1).map_or(DeviceId::Main, |n| DeviceId::Spare(n as u8));
    (0..u32::BITS).filter(move |bit| set & (1 << bit) != 0).map(device)
}

fn set_of(device: DeviceId) -> DeviceSet {
    match device {
        DeviceId::Main => 1,
        DeviceId::Spare(n) => 2 << n,
    }
}

impl Commit {
    /// If bytes on the device are to be flushed for the next commit: takes all that is staged, and gives its jobs.
    pub(super) fn take_staged_on(&mut self, device: DeviceId) -> ArrayVec<usize, MAX_JOBS> {
        if (self.staged.flush | self.riding) & set_of(device) == 0 {
            return ArrayVec::new();
        }
        self.riding = 0;
        self.staged.end()
    }

    /// The flush of a device has ended: what rode along is durable, or needs another one.
    pub(super) fn ride_ends(&mut self, device: DeviceId, durable: bool) {
        if !durable {
            self.staged.flush |= self.riding & set_of(device);
        }
        self.riding &= !set_of(device);
    }

    /// These spares are about to be flushed: what is staged was written before, and needs no flush of its own there.
    pub(super) fn ride_along(&mut self, devices: DeviceSet) {
        debug_assert!(self.riding == 0, "one flush of the copies at a time");
        self.riding = self.staged.flush & devices;
        self.staged.flush &= !self.riding;
    }
}

impl Engine {
    /// Takes a job's edits into the next commit.
    pub(super) fn stage_edits(
        &mut self,
        job: usize,
        edits: &[Entry],
        flush: Option<DeviceId>,
        request: Option<usize>,
    ) {
        if self.commit.is_frozen() {
            self.orphan_job(job);
        }
        if let Some(request) = request.filter(|_| self.planted(Canary::AckBeforeCommit)) {
            self.request_job_done(request, Ok(()));
            if let Some(job) = self.job(job) {
                job.kind = JobKind::Learn { sectors: 0, on_slot: false };
            }
        }
        let rides = self.planted(Canary::FlushedTooEarly) && self.commit.riding != 0;
        let staged = &mut self.commit.staged;
        staged.jobs.push(job);
        memory::extend(&mut staged.edits, edits.len(), edits.iter().copied());
        staged.flush |= flush.filter(|_| !rides).map_or(0, set_of);
        self.wake = true;
    }

    /// Blocks that fail side by side share a commit: it waits a little for those that are on their way to one.
    /// `held`: until when it waits already.
    pub(super) fn holds_commit(&mut self, held: Option<u64>) -> bool {
        let more = self.jobs.iter().flatten().any(|job| job.step != Step::Commit);
        let until = held.unwrap_or(self.now.mono_ns.saturating_add(COMMIT_HOLD_NS));
        let holds = more && self.now.mono_ns < until;
        self.commit.hold_until = holds.then_some(until);
        holds
    }

    /// All that is staged goes into one record: the edits of all jobs there can be fit.
    pub(super) fn take_batch(&mut self) {
        self.commit.batch.end();
        core::mem::swap(&mut self.commit.batch, &mut self.commit.staged);
    }

    pub(super) fn begin_data_flush(&mut self) {
        self.commit.phase = Phase::DataFlush;
        self.commit.fault = None;
        let set = if self.planted(Canary::MapBeforeData) { 0 } else { self.commit.batch.flush };
        let nowhere = Extent::new(Sector(0), 1).expect("one sector");
        for device in devices_of(set) {
            self.emit_commit(device, nowhere, OpKind::Flush, CommitPart::DataFlush);
            self.counters.commit_flushes += 1;
        }
        if self.commit.out == 0 {
            self.begin_record();
        }
    }

    /// A flush that failed leaves the contents of the batch's slots in doubt; no record was written: nothing happened.
    pub(super) fn data_flushed(&mut self) {
        let Some(fault) = self.commit.fault else { return self.begin_record() };
        self.commit.phase = Phase::Idle;
        let device = match (self.commit.batch.flush >> 1).trailing_zeros() {
            u32::BITS => DeviceId::Main,
            spare => DeviceId::Spare(spare as u8),
        };
        self.trip(device, fault, false);
        for device in devices_of(self.commit.batch.flush) {
            self.flush_failed(device, fault);
        }
        for job in self.commit.batch.end() {
            self.abort_job(job, RequestError::Io(fault));
        }
        self.wake = true;
    }
}
