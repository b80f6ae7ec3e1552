//! The fast lane: one thread's requests, straight to the devices wherever the blocks are healthy or settled.
//!
//! Invariant: each request is cut into parts that have one placement each and is completed once, when its last part has
//! ended. A part that meets a block in trouble, or whose operation failed on the medium, goes to the owner. No lock is
//! taken on the way of a healthy request, and nothing is allocated once the slabs have grown.
//!
//! Reads of blocks that lie side by side on a spare are one operation ([`gather`]).
//!
//! C11: placements are looked up between [`Outstanding::starting`] and [`Outstanding::started`], and every operation that a queue
//! begins is told to [`Outstanding`], which answers grace calls.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use remap_core::op::{DeviceId, Fault, RequestKind};
use remap_core::units::{Block, Extent, SECTOR_SIZE, Sector, Slot};
use remap_core::view::Placement;
use remap_io::{Audience, Buf, BufSlice, Device, DeviceOp, IoKind, IoQueue, Watch};

use crate::front::{ByteRange, FrontCompletion, FrontError, FrontRequest, Interest, Queue};
use crate::grace::{Outstanding, Presence};
use crate::mail::{Lane, LaneAtomics, QueueMail, ToOwner, ToQueue};
use crate::mailbox::Mailbox;
use crate::pattern::{Recent, Streams};
use crate::trace::Stage;
use crate::volume::Shared;

mod gather;

use gather::{GATHER, Gather, Run};

/// Device operations of a queue that are out at a time; more wait in it.
const DEPTH: u32 = 256;
/// Longer requests, in bytes, are worth another thread where they are cut into many parts that are only copied.
const LONG: u64 = 256 << 10;
/// Buffers kept for reuse, and the most bytes of them.
const POOL_BUFFERS: usize = 64;
const POOL_BYTES: usize = 16 << 20;

/// A slab: values by index, freed places reused.
#[derive(Debug)]
struct Slab<T> {
    places: Vec<Option<T>>,
    free: Vec<usize>,
}

impl<T> Slab<T> {
    const EMPTY: Self = Self { places: Vec::new(), free: Vec::new() };

    fn add(&mut self, value: T) -> usize {
        let index = self.free.pop().unwrap_or_else(|| {
            self.places.push(None);
            self.places.len() - 1
        });
        self.places[index] = Some(value);
        index
    }

    fn get(&mut self, index: usize) -> Option<&mut T> {
        self.places.get_mut(index)?.as_mut()
    }

    fn take(&mut self, index: usize) -> Option<T> {
        let value = self.places.get_mut(index)?.take()?;
        self.free.push(index);
        Some(value)
    }

    fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }
}

/// A client's request.
#[derive(Debug)]
struct Active {
    token: u64,
    request: FrontRequest,
    buf: Option<Buf>,
    parts_left: usize,
    bad: Vec<ByteRange>,
    error: Option<FrontError>,
    /// When it was submitted, if that is traced.
    begun: Option<Instant>,
    /// A part of it went to the owner.
    slow: bool,
    /// Long, and cut into more than one part.
    scattered: bool,
}

/// A stretch of a request with one placement.
#[derive(Clone, Copy, Debug)]
struct Part {
    active: usize,
    /// In the volume's sectors; `None` for a flush.
    extent: Option<Extent>,
    device: DeviceId,
    /// In the owner's hands.
    slow: bool,
}

/// One thread's half of a volume.
pub struct VolumeQueue {
    shared: Arc<Shared>,
    mail: Arc<QueueMail>,
    io: IoQueue,
    actives: Slab<Active>,
    parts: Slab<Part>,
    gathers: Slab<Gather>,
    out: Outstanding,
    /// Spares by their numbers, as last seen.
    spares: Vec<Option<Device>>,
    done: VecDeque<FrontCompletion>,
    streams: Streams,
    pool: Vec<Buf>,
    pool_bytes: usize,
}

impl VolumeQueue {
    /// For the calling thread, which from now on stays near the main device.
    pub(crate) fn open(shared: &Arc<Shared>) -> std::io::Result<Self> {
        remap_io::bind_thread(shared.main.limits().numa_node);
        let mut io = IoQueue::open(shared.io, DEPTH)?;
        io.hears_of_failed_flushes(Audience::Clients);
        let mail = Arc::new(QueueMail {
            mail: Mailbox::open()?,
            presence: Presence::idle(),
            counters: LaneAtomics::default(),
            recent: Recent::default(),
        });
        shared.queues.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&mail));
        Ok(Self {
            shared: Arc::clone(shared),
            mail,
            io,
            actives: Slab::EMPTY,
            parts: Slab::EMPTY,
            gathers: Slab::EMPTY,
            out: Outstanding::default(),
            spares: shared.spares.snapshot(),
            done: VecDeque::new(),
            streams: Streams::default(),
            pool: Vec::new(),
            pool_bytes: 0,
        })
    }

    fn count(&self, lane: Lane, by: u64) {
        self.mail.counters.add(lane, by);
    }

    /// `None`: a spare that has left since the placement was looked up.
    fn device(&mut self, id: DeviceId) -> Option<Device> {
        let DeviceId::Spare(n) = id else { return Some(self.shared.main.clone()) };
        if self.spares.get(usize::from(n)).is_none_or(Option::is_none) {
            // It joined since they were last seen.
            self.spares = self.shared.spares.snapshot();
        }
        self.spares.get(usize::from(n)).cloned().flatten()
    }

    fn refusal(&self, kind: RequestKind) -> Option<FrontError> {
        if self.shared.stopping.load(Ordering::Acquire) {
            return Some(FrontError::Shutdown);
        }
        let writes = matches!(
            kind,
            RequestKind::Write { .. } | RequestKind::WriteZeroes { .. } | RequestKind::Discard
        );
        (writes && self.shared.read_only).then_some(FrontError::ReadOnly)
    }

    fn submit_flush(&mut self, active: usize) {
        // Another queue's writes may be on a spare that this one has not seen yet.
        self.spares = self.shared.spares.snapshot();
        let here = |n: &u8| self.spares.get(usize::from(*n)).is_some_and(Option::is_some);
        let spares: Vec<u8> = (0u8..).take(self.spares.len()).filter(here).collect();
        for device in std::iter::once(DeviceId::Main).chain(spares.into_iter().map(DeviceId::Spare)) {
            self.begin(Part { active, extent: None, device, slow: false }, IoKind::Flush, 0);
        }
    }

    /// Cuts a request by placement and starts its parts.
    fn submit_parts(&mut self, active: usize, request: &FrontRequest) {
        let per_block = self.shared.block_sectors();
        let mut at = request.offset / SECTOR_SIZE;
        let end = at + request.len / SECTOR_SIZE;
        let mut slow_from = None;
        let mut run: Option<Run> = None;
        let kind = io_kind(request.kind);
        while at < end {
            let block = Block(at / per_block);
            let stretch = self.shared.view.first(block, Block(end.div_ceil(per_block)));
            let until = ((block.0 + stretch.blocks) * per_block).min(end);
            if until < end
                && request.len > LONG
                && let Some(active) = self.actives.get(active)
            {
                active.scattered = true;
            }
            let here = Extent::between(Sector(at), Sector(until));
            if stretch.placement == Placement::Slow {
                slow_from.get_or_insert(at);
            } else if let Some(from) = slow_from.take() {
                self.begin_slow(active, from, at, request.kind);
            }
            match (stretch.placement, here) {
                (Placement::Main, Some(extent)) => self.begin_fast(active, extent, None, kind),
                (Placement::Settled(slot), Some(extent)) => {
                    let sector = slot_sector(slot, per_block) + at % per_block;
                    if kind == IoKind::Read {
                        self.gather(active, &mut run, slot.spare(), sector, extent);
                    } else {
                        self.begin_fast(active, extent, Some((slot.spare(), sector)), kind);
                    }
                }
                _ => {}
            }
            at = until;
        }
        if let Some(from) = slow_from {
            self.begin_slow(active, from, end, request.kind);
        }
        self.begin_run(active, run);
    }

    fn begin_slow(&mut self, active: usize, from: u64, to: u64, kind: RequestKind) {
        if kind == RequestKind::Discard {
            // A hint: blocks in trouble keep what they have.
            return;
        }
        // Each block that is written is a job of its own: side by side they share commits.
        let per_block = self.shared.block_sectors();
        let mut at = from;
        while at < to {
            let block_end = (at / per_block + 1) * per_block;
            let until = if kind == RequestKind::Read { to } else { block_end.min(to) };
            if let Some(extent) = Extent::between(Sector(at), Sector(until)) {
                self.add_slow(active, extent);
            }
            at = until;
        }
    }

    fn add_slow(&mut self, active: usize, extent: Extent) {
        let part = self.parts.add(Part { active, extent: Some(extent), device: DeviceId::Main, slow: true });
        if let Some(active) = self.actives.get(active) {
            active.parts_left += 1;
        }
        self.send_slow(part);
    }

    /// Hands a part to the owner.
    fn send_slow(&mut self, index: usize) {
        let Some(&mut Part { active, extent: Some(extent), .. }) = self.parts.get(index) else { return };
        let Some(active) = self.actives.get(active) else { return };
        active.slow = true;
        let first =
            usize::try_from(extent.start().0 * SECTOR_SIZE - active.request.offset).unwrap_or(usize::MAX);
        let len = usize::try_from(extent.bytes()).unwrap_or(usize::MAX);
        let message = ToOwner::Submit {
            reply: Arc::clone(&self.mail),
            part: index as u64,
            kind: active.request.kind,
            extent,
            buf: active.buf.as_mut().map(|buf| buf.slice(first..first + len)),
        };
        self.count(Lane::Slow, 1);
        if !self.shared.owner.post(message) {
            self.part_done(index, Err(FrontError::Shutdown), &[]);
        }
    }

    /// Begins a part on the main device, or at a sector of a spare.
    fn begin_fast(&mut self, active: usize, extent: Extent, spare: Option<(u8, u64)>, kind: IoKind) {
        let (device, sector) = match spare {
            None => (DeviceId::Main, extent.start().0),
            Some(_) if kind == IoKind::Discard => return,
            Some((spare, sector)) => {
                self.count(Lane::Remapped, 1);
                (DeviceId::Spare(spare), sector)
            }
        };
        self.begin(Part { active, extent: Some(extent), device, slow: false }, kind, sector * SECTOR_SIZE);
    }

    fn begin(&mut self, part: Part, kind: IoKind, offset: u64) {
        let index = self.parts.add(part);
        let Some(active) = self.actives.get(part.active) else { return };
        active.parts_left += 1;
        self.out.began();
        self.count(Lane::Fast, 1);
        self.start(index, &part, kind, offset);
    }

    /// The operation of a part that was begun.
    fn start(&mut self, index: usize, part: &Part, kind: IoKind, offset: u64) {
        let len = part.extent.map_or(0, |e| e.bytes());
        let scattered = self.actives.get(part.active).is_some_and(|active| active.scattered);
        let buf = self.slice_of(part);
        match self.device(part.device) {
            Some(device) => {
                let op = DeviceOp { device, kind, offset, len, buf, scattered };
                self.io.submit(index as u64, op, self.shared.deadline);
            }
            None => self.fast_done(index, Err(Fault::Gone)),
        }
    }

    /// The part's bytes in its request's buffer.
    fn slice_of(&mut self, part: &Part) -> Option<BufSlice> {
        let active = self.actives.get(part.active)?;
        let (extent, buf) = part.extent.zip(active.buf.as_mut())?;
        let first = extent.start().0 * SECTOR_SIZE - active.request.offset;
        let first = usize::try_from(first).unwrap_or(usize::MAX);
        Some(buf.slice(first..first + usize::try_from(extent.bytes()).unwrap_or(usize::MAX)))
    }

    /// Takes completions of devices and mail from the owner.
    fn collect(&mut self) {
        while let Some((tag, outcome)) = self.io.next() {
            if tag & GATHER != 0 {
                self.gather_done(tag, outcome);
            } else {
                self.fast_done(usize::try_from(tag).unwrap_or(usize::MAX), outcome);
            }
        }
        if self.mail.mail.has_mail() {
            for message in self.mail.mail.take() {
                match message {
                    ToQueue::Done { part, result, bad } => {
                        let index = usize::try_from(part).unwrap_or(usize::MAX);
                        self.part_done(index, result, &bad);
                    }
                    ToQueue::Grace { grace, extent } => self.begin_grace(grace, extent),
                    ToQueue::SparesChanged => self.spares = self.shared.spares.snapshot(),
                }
            }
        }
    }

    fn fast_done(&mut self, index: usize, outcome: Result<(), Fault>) {
        let Some(&mut part) = self.parts.get(index) else { return };
        let owner = &self.shared.owner;
        self.out.ended(index, &self.mail.presence, |grace| {
            owner.post(ToOwner::GraceDone { grace });
        });
        let Err(fault) = outcome else { return self.part_done(index, Ok(()), &[]) };
        let kind = self.actives.get(part.active).map_or(RequestKind::Read, |a| a.request.kind);
        match kind {
            RequestKind::Discard => return self.part_done(index, Ok(()), &[]),
            RequestKind::Read => self.count(Lane::ReadErrors, 1),
            _ => self.count(Lane::WriteErrors, 1),
        }
        if fault.blames_medium() && part.extent.is_some() {
            if let Some(part) = self.parts.get(index) {
                part.slow = true;
            }
            return self.send_slow(index);
        }
        if fault == Fault::NoSpace {
            return self.part_done(index, Err(FrontError::NoSpace), &[]);
        }
        self.shared.owner.post(ToOwner::Report { device: part.device, fault });
        let bad: Vec<Extent> = part.extent.into_iter().collect();
        self.part_done(index, Err(FrontError::Io { bad: Vec::new() }), &bad);
    }

    fn part_done(&mut self, index: usize, result: Result<(), FrontError>, bad: &[Extent]) {
        let Some(part) = self.parts.take(index) else { return };
        let Some(active) = self.actives.get(part.active) else { return };
        active.parts_left -= 1;
        if let Err(error) = result {
            active.error.get_or_insert(error);
            let whole = part.extent.filter(|_| bad.is_empty());
            let ranges = bad.iter().chain(&whole);
            active.bad.extend(ranges.map(|e| ByteRange { start: e.start().0 * SECTOR_SIZE, len: e.bytes() }));
        }
        if active.parts_left == 0 {
            self.finish(part.active);
        }
    }

    fn finish(&mut self, index: usize) {
        let Some(active) = self.actives.take(index) else { return };
        let read = active.request.kind == RequestKind::Read;
        if let Some(begun) = active.begun {
            let stage = if active.slow { Stage::Owner } else { Stage::Device };
            self.shared.trace.record(active.request.kind.into(), stage, begun);
        }
        if active.request.kind == RequestKind::Flush && active.error.is_some() {
            self.io.clients_were_told();
        }
        let result = match active.error {
            None => Ok(()),
            Some(FrontError::Io { .. }) => {
                self.count(if read { Lane::FailedReads } else { Lane::FailedWrites }, 1);
                Err(FrontError::Io { bad: merge(active.bad) })
            }
            Some(other) => Err(other),
        };
        // A device that timed out may still hold it.
        let buf = active.buf.filter(Buf::is_unique);
        self.done.push_back(FrontCompletion { token: active.token, result, buf });
    }

    fn begin_grace(&mut self, grace: u64, extent: Extent) {
        let overlaps = |part: &Part| !part.slow && part.extent.is_some_and(|e| e.overlaps(&extent));
        let parts: Vec<usize> = (0..self.parts.places.len())
            .filter(|&index| self.parts.places[index].as_ref().is_some_and(overlaps))
            .collect();
        if self.out.asked(grace, parts) {
            self.shared.owner.post(ToOwner::GraceDone { grace });
        }
    }
}

fn io_kind(kind: RequestKind) -> IoKind {
    match kind {
        RequestKind::Read => IoKind::Read,
        RequestKind::Write { fua } => IoKind::Write { fua },
        RequestKind::WriteZeroes { fua, may_unmap } => IoKind::WriteZeroes { fua, may_unmap },
        RequestKind::Discard => IoKind::Discard,
        RequestKind::Flush => IoKind::Flush,
    }
}

fn slot_sector(slot: Slot, per_block: u64) -> u64 {
    slot.index() * per_block
}

/// Sorted, neighbours joined.
fn merge(mut ranges: Vec<ByteRange>) -> Vec<ByteRange> {
    ranges.sort_by_key(|r| r.start);
    let mut merged: Vec<ByteRange> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match merged.last_mut() {
            Some(last) if last.start + last.len >= range.start => {
                last.len = last.len.max(range.start + range.len - last.start);
            }
            _ => merged.push(range),
        }
    }
    merged
}

impl Queue for VolumeQueue {
    fn buffer(&mut self, len: usize) -> Buf {
        if let Some(at) =
            self.pool.iter().rposition(|b| b.capacity() >= len && b.capacity() <= 4 * len.max(4096))
        {
            let mut buf = self.pool.swap_remove(at);
            self.pool_bytes -= buf.capacity();
            buf.set_len(len);
            return buf;
        }
        loop {
            match Buf::alloc(len) {
                Ok(buf) => return buf,
                // Front ends bound what they ask for; memory comes back as requests end.
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        }
    }

    fn recycle(&mut self, buf: Buf) {
        if buf.is_unique() && self.pool.len() < POOL_BUFFERS && self.pool_bytes + buf.capacity() <= POOL_BYTES
        {
            self.pool_bytes += buf.capacity();
            self.pool.push(buf);
        }
    }

    fn submit(&mut self, token: u64, request: FrontRequest, buf: Option<Buf>) {
        let lanes = match request.kind {
            RequestKind::Read => (Lane::Reads, Lane::ReadBytes),
            RequestKind::Flush => (Lane::Flushes, Lane::ReadBytes),
            _ => (Lane::Writes, Lane::WrittenBytes),
        };
        self.count(lanes.0, 1);
        self.count(lanes.1, request.len);
        if let Some(error) = self.refusal(request.kind) {
            self.done.push_back(FrontCompletion { token, result: Err(error), buf });
            return;
        }
        if matches!(request.kind, RequestKind::Read | RequestKind::Write { .. }) {
            self.streams.note(request.offset, request.len, &self.mail.recent);
        }
        self.out.starting(&self.mail.presence);
        let begun = self.shared.trace.now();
        let active = Active {
            token,
            request,
            buf,
            parts_left: 1,
            bad: Vec::new(),
            error: None,
            begun,
            slow: false,
            scattered: false,
        };
        let index = self.actives.add(active);
        if request.kind == RequestKind::Flush {
            self.submit_flush(index);
        } else {
            self.submit_parts(index, &request);
        }
        self.out.started(&self.mail.presence);
        // The one that kept it open while its parts were started.
        let Some(active) = self.actives.get(index) else { return };
        active.parts_left -= 1;
        if active.parts_left == 0 {
            self.finish(index);
        }
    }

    fn next(&mut self) -> Option<FrontCompletion> {
        if self.done.is_empty() {
            self.collect();
        }
        self.done.pop_front()
    }

    fn in_flight(&self) -> usize {
        self.actives.len() + self.done.len()
    }

    fn stirs(&mut self) -> bool {
        !self.done.is_empty() || self.mail.mail.has_mail() || self.io.stirs()
    }

    fn wait(
        &mut self,
        fd: BorrowedFd<'_>,
        interest: Interest,
        timeout: Option<Duration>,
    ) -> std::io::Result<Interest> {
        self.collect();
        let timeout = if self.done.is_empty() { timeout } else { Some(Duration::ZERO) };
        let wake = Arc::clone(&self.mail);
        let mut fds = [
            Watch { fd, read: interest.read, write: interest.write, ready_read: false, ready_write: false },
            Watch {
                fd: wake.mail.wake.as_fd(),
                read: true,
                write: false,
                ready_read: false,
                ready_write: false,
            },
        ];
        self.io.wait(&mut fds, timeout)?;
        let ready = Interest { read: fds[0].ready_read, write: fds[0].ready_write };
        self.collect();
        Ok(ready)
    }
}

impl Drop for VolumeQueue {
    /// Waits for what is out (bounded by the deadline of each operation), so that no grace call waits for a queue that is gone.
    fn drop(&mut self) {
        while self.actives.len() > 0 {
            let wake = Arc::clone(&self.mail);
            let mut fds = [Watch {
                fd: wake.mail.wake.as_fd(),
                read: true,
                write: false,
                ready_read: false,
                ready_write: false,
            }];
            if self.io.wait(&mut fds, Some(Duration::from_secs(1))).is_err() {
                break;
            }
            self.collect();
        }
        let mut queues = self.shared.queues.lock().unwrap_or_else(PoisonError::into_inner);
        queues.retain(|q| !Arc::ptr_eq(q, &self.mail));
        let mut past = self.shared.past.lock().unwrap_or_else(PoisonError::into_inner);
        self.mail.counters.add_to(&mut past);
        // A grace call that was posted meanwhile: nothing is out.
        for message in self.mail.mail.close() {
            if let ToQueue::Grace { grace, .. } = message {
                self.shared.owner.post(ToOwner::GraceDone { grace });
            }
        }
    }
}
