//! Requests in the slow lane: cut into pieces that have one placement each, piece after piece.
//!
//! Invariant: a request has at most one piece out, no piece covers a block that a job works on, and a request ends exactly
//! once. A write is acknowledged when each of its sectors is where the durable table says to look (C1).

use alloc::vec::Vec;

use super::job::{Job, JobKind, Suspicion};
use super::ops::Purpose;
use super::place::{bits, runs};
use super::{Engine, Event, MAX_SUSPICIONS, RequestError};
use crate::canary::Canary;
use crate::memory;
use crate::op::{Buffer, DeviceId, Fault, OpKind, Request, RequestKind};
use crate::units::{Block, Extent, Sector};
use remap_format::{Cause, SpareRecord};

/// Requests that the slow lane takes at a time; the driver keeps the others.
pub const MAX_REQUESTS: usize = 1024;

/// Flush requests whose device flushes are out at a time; more wait.
pub const MAX_FLUSHES: usize = 16;

/// Suspicions that are looked through for the same block.
const RECENT_SUSPICIONS: usize = 64;

/// Why a request was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// [`MAX_REQUESTS`] requests (or [`super::MAX_COMMANDS`] commands) are under way or have ended without being taken from
    /// `poll_event`; ask again after the next event.
    #[error("the slow lane is full")]
    Full,
    /// Part of the extent lies behind the end of the volume.
    #[error("the request goes past the end of the volume")]
    OutOfRange,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The piece from the cursor on can be started.
    Ready,
    /// A piece is out.
    Piece(Extent, DeviceId),
    /// A job writes its part of a block.
    Job(Extent),
    /// Waiting for a lock.
    Waiting,
    /// All jobs are taken; it needs one.
    Queued,
    /// Flushes are out.
    Flushing { left: u32, fault: Option<Fault> },
}

#[derive(Debug)]
pub(super) struct SlowRequest {
    request: Request,
    cursor: Sector,
    /// Most sectors in the next piece: halves on errors, doubles on success.
    limit: u64,
    stage: Stage,
    bad: Vec<Extent>,
    /// There was no memory for the list of bad sectors: all must be taken for bad.
    all_bad: bool,
    fault: Option<Fault>,
    /// A write to this block failed on the medium, and how: a job writes it as soon as one is free, the main device is not asked
    /// again.
    refused: Option<(Block, Fault)>,
}

impl SlowRequest {
    /// Does a piece that is out touch the extent (of the volume)?
    pub(super) fn has_piece_on(&self, extent: &Extent) -> bool {
        matches!(self.stage, Stage::Piece(piece, _) if piece.overlaps(extent))
    }

    pub(super) fn request(&self) -> &Request {
        &self.request
    }

    /// Byte offset in the request's buffer of a sector of the volume.
    pub(super) fn buffer_at(&self, sector: Sector) -> Buffer {
        Buffer::Request { id: self.request.id, offset: (sector.0 - self.request.extent.start().0) * 512 }
    }

    /// Without memory for another extent the last one grows over the good sectors up to it; what cannot be told so is all of it.
    fn add_bad(&mut self, extent: Extent) {
        let apart = self.bad.last().is_none_or(|last| last.end() != extent.start());
        if apart && memory::try_push(&mut self.bad, extent).is_ok() {
            return;
        }
        let grown = self.bad.last().and_then(|last| Extent::between(last.start(), extent.end()));
        match (self.bad.last_mut(), grown) {
            (Some(last), Some(grown)) => *last = grown,
            _ => self.all_bad = true,
        }
    }
}

impl Engine {
    /// Takes a request. It ends with [`Event::RequestDone`], exactly once.
    ///
    /// # Errors
    /// [`SubmitError`]; the request was not taken.
    pub fn submit(&mut self, now: crate::units::Now, request: Request) -> Result<(), SubmitError> {
        self.now = now;
        let flush = request.kind == RequestKind::Flush;
        if !flush && request.extent.end().0 > self.main_sectors() {
            return Err(SubmitError::OutOfRange);
        }
        // Each one that is taken needs a place for its end.
        if self.requests.iter().flatten().count() + self.events.requests >= MAX_REQUESTS {
            return Err(SubmitError::Full);
        }
        let index = self.requests.iter().position(Option::is_none).unwrap_or_else(|| {
            memory::push(&mut self.requests, None);
            self.requests.len() - 1
        });
        self.counters.slow_requests += 1;
        let slow = SlowRequest {
            request,
            cursor: request.extent.start(),
            limit: u64::MAX,
            stage: Stage::Ready,
            bad: Vec::new(),
            all_bad: false,
            fault: None,
            refused: None,
        };
        if let Some(place) = self.requests.get_mut(index) {
            *place = Some(slow);
        }
        if flush {
            self.begin_flush(index);
        }
        self.advance();
        Ok(())
    }

    fn slow(&mut self, index: usize) -> Option<&mut SlowRequest> {
        self.requests.get_mut(index)?.as_mut()
    }

    /// Flushes every device; `false` if too many requests do so already.
    fn begin_flush(&mut self, index: usize) -> bool {
        let flushing = |s: &&SlowRequest| matches!(s.stage, Stage::Flushing { .. });
        if self.requests.iter().flatten().filter(flushing).count() >= MAX_FLUSHES {
            if let Some(slow) = self.slow(index) {
                slow.stage = Stage::Waiting;
            }
            return false;
        }
        let present = self.volume.spares.iter().filter(|s| s.is_present()).count();
        let left = present as u32 + 1;
        if let Some(slow) = self.slow(index) {
            slow.stage = Stage::Flushing { left, fault: None };
        }
        let nowhere = Extent::new(Sector(0), 1).expect("one sector");
        self.emit(DeviceId::Main, nowhere, OpKind::Flush, Purpose::RequestFlush { request: index });
        for spare in 0..self.volume.spares.len() as u8 {
            if self.volume.spares.get(usize::from(spare)).is_some_and(SpareRecord::is_present) {
                let purpose = Purpose::RequestFlush { request: index };
                self.emit(DeviceId::Spare(spare), nowhere, OpKind::Flush, purpose);
            }
        }
        true
    }

    pub(super) fn request_flush_done(&mut self, index: usize, outcome: Result<(), Fault>) {
        let Some(slow) = self.slow(index) else { return };
        let Stage::Flushing { left, fault } = &mut slow.stage else { return };
        *left -= 1;
        if let Err(e) = outcome {
            fault.get_or_insert(e);
            self.some_flush_failed(e);
        }
        let Some(slow) = self.slow(index) else { return };
        let Stage::Flushing { left, fault } = &mut slow.stage else { return };
        if *left == 0 {
            let result = fault.map_or(Ok(()), |f| Err(RequestError::Io(f)));
            self.end_request(index, result);
        }
    }

    pub(super) fn requests_advance(&mut self) {
        let mut jobs = self.takes_jobs();
        for index in 0..self.requests.len() {
            while let Some(Some(slow)) = self.requests.get(index) {
                // With a thousand that queue for a job, each is looked at only when there is one.
                let runnable = match slow.stage {
                    Stage::Ready | Stage::Waiting => true,
                    Stage::Queued => jobs,
                    _ => false,
                };
                if !(runnable && self.request_step(index)) {
                    break;
                }
                jobs = self.takes_jobs();
            }
        }
    }

    /// Is there something to say to a request that needs a job: begin, or, while metadata cannot be written, an error?
    fn takes_jobs(&self) -> bool {
        self.commit.is_frozen() || self.jobs.iter().any(Option::is_none)
    }

    /// Starts the next piece or ends the request; `false` if it must wait.
    fn request_step(&mut self, index: usize) -> bool {
        let Some(slow) = self.requests.get(index).and_then(Option::as_ref) else { return false };
        let (cursor, request, refused) = (slow.cursor, slow.request, slow.refused);
        if request.kind == RequestKind::Flush {
            return self.begin_flush(index);
        }
        if cursor >= request.extent.end() {
            let result = slow.fault.map_or(Ok(()), |f| Err(RequestError::Io(f)));
            self.end_request(index, result);
            return true;
        }
        let block = self.block_of(cursor);
        if self.is_locked(block) {
            let beside = request.kind == RequestKind::Read && self.reads_beside_move(block);
            return if beside { self.start_read_beside(index, block) } else { self.wait_for_lock(index) };
        }
        let entry = self.table.next_from(block);
        let missed = self.planted(Canary::LookupOffByOne);
        match entry.filter(|e| e.block <= block.0 && !(missed && e.block == block.0)) {
            None if refused.is_some_and(|(refused, _)| refused == block) => {
                self.start_write_job(index, block)
            }
            None => self.start_main_piece(index, entry.map(|e| Block(e.block))),
            Some(_) => match request.kind {
                RequestKind::Read => self.start_entry_read(index, block),
                RequestKind::Write { .. } | RequestKind::WriteZeroes { .. } => {
                    self.start_write_job(index, block)
                }
                RequestKind::Discard | RequestKind::Flush => {
                    // A discard is a hint: blocks with an entry keep theirs.
                    let end = self.block_extent(block).end();
                    self.move_cursor(index, end);
                    true
                }
            },
        }
    }

    /// Does a command move the block from the main device, while metadata cannot be written? Until they can, what the main device holds is
    /// still what was acknowledged last, and the move writes nothing there while the read goes on: reads need not fail.
    fn reads_beside_move(&self, block: Block) -> bool {
        let moves = |job: &Job| {
            let from_main = job.old_slot().is_none() && matches!(job.kind, JobKind::Move { .. });
            job.block == block && from_main
        };
        self.commit.is_frozen() && self.jobs.iter().flatten().any(moves)
    }

    fn start_read_beside(&mut self, index: usize, block: Block) -> bool {
        if self.table.get(block).is_some() {
            return self.start_entry_read(index, block);
        }
        let whole = self.block_extent(block);
        let Some(slow) = self.requests.get(index).and_then(Option::as_ref) else { return false };
        let end = slow.request.extent.end().min(whole.end()).0.min(slow.cursor.0.saturating_add(slow.limit));
        let Some(piece) = Extent::between(slow.cursor, Sector(end)) else { return false };
        self.emit_piece(index, DeviceId::Main, piece, piece);
        true
    }

    fn wait_for_lock(&mut self, index: usize) -> bool {
        if self.commit.is_frozen() {
            // The job that holds the lock cannot end before metadata can be written: fail in time (C6).
            self.end_request(index, Err(RequestError::Io(Fault::Unknown)));
            return true;
        }
        if let Some(slow) = self.slow(index) {
            slow.stage = Stage::Waiting;
        }
        false
    }

    fn move_cursor(&mut self, index: usize, to: Sector) {
        if let Some(slow) = self.slow(index) {
            slow.cursor = to;
            slow.stage = Stage::Ready;
        }
    }

    /// A piece on the main device, up to the next entry or locked block.
    fn start_main_piece(&mut self, index: usize, next_entry: Option<Block>) -> bool {
        let Some(slow) = self.requests.get(index).and_then(Option::as_ref) else { return false };
        let (request, cursor, limit) = (slow.request, slow.cursor, slow.limit);
        let per_block = self.block_sectors();
        let mut end = request.extent.end().0.min(cursor.0.saturating_add(limit));
        let last = Block(end.div_ceil(per_block));
        let locked = self.next_locked(self.block_of(cursor), last);
        for border in [next_entry, locked].into_iter().flatten() {
            end = end.min(border.0.saturating_mul(per_block));
        }
        let Some(piece) = Extent::between(cursor, Sector(end)) else { return false };
        self.emit_piece(index, DeviceId::Main, piece, piece);
        true
    }

    /// Emits the piece `logical` of a request, which lies at `physical` on `device`.
    fn emit_piece(&mut self, index: usize, device: DeviceId, logical: Extent, physical: Extent) {
        let Some(slow) = self.slow(index) else { return };
        slow.stage = Stage::Piece(logical, device);
        let buffer = slow.buffer_at(logical.start());
        let kind = match slow.request.kind {
            RequestKind::Read => OpKind::Read(buffer),
            RequestKind::Write { fua } => OpKind::Write { from: buffer, fua },
            RequestKind::WriteZeroes { fua, may_unmap } => OpKind::WriteZeroes { fua, may_unmap },
            RequestKind::Discard | RequestKind::Flush => OpKind::Discard,
        };
        self.emit(device, physical, kind, Purpose::Piece { request: index });
    }

    /// A read of a block that has an entry: lost sectors are errors, the others are read where they are.
    fn start_entry_read(&mut self, index: usize, block: Block) -> bool {
        let Some(slow) = self.requests.get(index).and_then(Option::as_ref) else { return false };
        let (cursor, request, limit) = (slow.cursor, slow.request, slow.limit);
        let Some(entry) = self.table.get(block) else { return false };
        let start = self.block_extent(block).start();
        let rest = Extent::between(cursor, request.extent.end().min(self.block_extent(block).end()));
        let wanted = rest.map_or(0, |rest| self.mask_in(block, &rest));
        let first_lost = entry.lost & bits(u32::try_from(cursor.0 - start.0).unwrap_or(0), 1) != 0;
        let same = if first_lost { wanted & entry.lost } else { wanted & !entry.lost };
        let Some((from, len)) = runs(same).next() else { return false };
        let logical = |len| {
            Extent::new(Sector(start.0 + u64::from(from)), u64::from(len))
                .expect("a run of a mask is not empty")
        };
        if first_lost {
            let lost = logical(len);
            if self.planted(Canary::ZeroesForLost) {
                self.move_cursor(index, lost.end());
                return true;
            }
            let Some(slow) = self.slow(index) else { return false };
            slow.add_bad(lost);
            slow.fault.get_or_insert(Fault::Medium);
            self.move_cursor(index, lost.end());
            return true;
        }
        let len = len.min(u32::try_from(limit).unwrap_or(u32::MAX)).max(1);
        let read = if self.planted(Canary::FirstSectorOnly) { 1 } else { len };
        let (device, physical) = self.locate(block, Some(&entry), (from, read));
        self.emit_piece(index, device, logical(len), physical);
        true
    }

    /// A write to a block that has an entry, or that failed: a job merges it.
    fn start_write_job(&mut self, index: usize, block: Block) -> bool {
        let Some(slow) = self.requests.get(index).and_then(Option::as_ref) else { return false };
        let whole = self.block_extent(block);
        let Some(part) =
            Extent::between(slow.cursor, slow.request.extent.end()).and_then(|e| e.intersect(&whole))
        else {
            return false;
        };
        if self.commit.is_frozen() {
            self.end_request(index, Err(RequestError::Io(Fault::Unknown)));
            return true;
        }
        let covered = self.mask_in(block, &part);
        let refused = slow.refused.filter(|(refused, _)| *refused == block).map(|(_, fault)| fault);
        // Before the job starts, because a job that cannot go on ends its request at once.
        if let Some(slow) = self.slow(index) {
            slow.stage = Stage::Job(part);
        }
        let started =
            self.start_job(JobKind::Write { request: index, covered, refused }, block, Cause::WriteError);
        if !started && let Some(slow) = self.slow(index) {
            slow.stage = Stage::Queued;
        }
        started
    }

    pub(super) fn piece_done(&mut self, index: usize, outcome: Result<(), Fault>) {
        let Some(slow) = self.slow(index) else { return };
        let Stage::Piece(piece, device) = slow.stage else { return };
        slow.stage = Stage::Ready;
        let kind = slow.request.kind;
        match outcome {
            Ok(()) => {
                slow.limit = slow.limit.saturating_mul(2);
                slow.cursor = piece.end();
                if device == DeviceId::Main {
                    self.last_good = Some(piece.start());
                }
            }
            Err(_) if kind == RequestKind::Discard => slow.cursor = piece.end(),
            Err(fault) if fault.blames_medium() => {
                self.medium_piece_failed(index, piece, device, fault, kind)
            }
            Err(Fault::NoSpace) => self.end_request(index, Err(RequestError::NoSpace)),
            Err(fault) => {
                self.trip(device, fault, false);
                self.end_request(index, Err(RequestError::Io(fault)));
            }
        }
        self.fences_advance(piece);
    }

    fn medium_piece_failed(
        &mut self,
        index: usize,
        piece: Extent,
        device: DeviceId,
        fault: Fault,
        kind: RequestKind,
    ) {
        let block = self.block_of(piece.start());
        let unit = self.unit_sectors();
        let per_block = self.block_sectors();
        if kind == RequestKind::Read {
            self.counters.read_errors += 1;
            if piece.sectors() > unit {
                // Halve down to one unit: bad sectors cluster, so small pieces near them, larger ones again behind them.
                let half = (piece.sectors() / 2).next_multiple_of(unit).max(unit);
                if let Some(slow) = self.slow(index) {
                    slow.limit = half.min(piece.sectors() - unit);
                }
                return;
            }
            if let Some(slow) = self.slow(index) {
                slow.add_bad(piece);
                slow.fault.get_or_insert(fault);
                slow.cursor = piece.end();
            }
            if self.planted(Canary::RetryForEver)
                && let Some(slow) = self.slow(index)
            {
                slow.cursor = piece.start();
            }
            let sectors = self.mask_in(block, &piece);
            self.suspect(Suspicion { block, sectors, on_slot: device != DeviceId::Main });
            return;
        }
        self.counters.write_errors += 1;
        let within_block = piece.end() <= self.block_extent(block).end();
        // A job that waits for this piece owns the block already: the request asks again when that has ended.
        if within_block && !self.is_locked(block) {
            if let Some(slow) = self.slow(index) {
                slow.refused = Some((block, fault));
            }
            self.start_write_job(index, block);
        } else if let Some(slow) = self.slow(index) {
            slow.limit = per_block - piece.start().0 % per_block;
        }
    }

    /// Notes sectors that could not be read; a job examines them.
    pub(super) fn suspect(&mut self, suspicion: Suspicion) {
        // Reads go through a block in order, so what is known of it is at the back. Noting a block twice does no harm.
        let recent = self.suspicions.iter_mut().rev().take(RECENT_SUSPICIONS);
        if let Some(known) = recent.into_iter().find(|s| s.block == suspicion.block) {
            known.sectors |= suspicion.sectors;
            known.on_slot |= suspicion.on_slot;
        } else if self.suspicions.len() < MAX_SUSPICIONS && self.suspicions.try_reserve(1).is_ok() {
            memory::push_back(&mut self.suspicions, suspicion);
        } else {
            self.counters.dropped_suspicions += 1;
        }
    }

    /// Is a request reading its way through this block? What it finds is better learned at once.
    pub(super) fn is_being_read(&self, block: Block) -> bool {
        let extent = self.block_extent(block);
        self.requests
            .iter()
            .flatten()
            .any(|r| r.request.kind == RequestKind::Read && extent.contains(r.cursor))
    }

    /// The job that wrote a part of this request has ended.
    pub(super) fn request_job_done(&mut self, index: usize, result: Result<(), RequestError>) {
        let Some(slow) = self.slow(index) else { return };
        match result {
            Ok(()) => {
                if let Stage::Job(part) = slow.stage {
                    slow.cursor = part.end();
                    slow.stage = Stage::Ready;
                }
            }
            Err(error) => self.end_request(index, Err(error)),
        }
    }

    pub(super) fn slow_request(&self, index: usize) -> Option<&SlowRequest> {
        self.requests.get(index)?.as_ref()
    }

    fn end_request(&mut self, index: usize, result: Result<(), RequestError>) {
        let good_news = self.planted(Canary::AckFailedWrite);
        if let Some(mut slow) = self.requests.get_mut(index).and_then(Option::take) {
            let written = matches!(slow.request.kind, RequestKind::Write { .. });
            let result = if good_news && written { Ok(()) } else { result };
            let unread = Extent::between(slow.cursor, slow.request.extent.end());
            if let (Err(_), RequestKind::Read, Some(unread)) = (result, slow.request.kind, unread) {
                // The list says what of the buffer must not be believed: also what was never read.
                slow.add_bad(unread);
            }
            let bad = if slow.all_bad { Vec::new() } else { slow.bad };
            self.events.done(Event::RequestDone { id: slow.request.id, result, bad });
            self.wake = true;
        }
    }

    /// A piece has ended: jobs that waited for it can go on.
    fn fences_advance(&mut self, piece: Extent) {
        let first = self.block_of(piece.start());
        let end = Block(piece.end().0.div_ceil(self.block_sectors()));
        for index in 0..self.jobs.len() {
            let here = |j: &Job| (first..end).contains(&j.block) && j.is_fenced();
            if self.jobs.get(index).and_then(Option::as_ref).is_some_and(here) {
                self.job_step_done(index);
            }
        }
    }
}
