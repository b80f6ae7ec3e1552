//! I/O queues: many operations at once, each answered exactly once and in time.
//!
//! Invariant: every entry is in exactly one [`Place`]; a tag is answered when its entry ends or becomes a zombie, and an
//! entry (with the memory that the kernel may write to) is only dropped when the kernel does not have it.

mod blocking;
mod cached;
mod entry;
mod op;
mod threads;
mod uring;
mod wake;

use std::collections::VecDeque;
use std::io;
use std::marker::PhantomData;
use std::os::fd::BorrowedFd;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use remap_core::op::Fault;
use rustix::io::Errno;

pub use op::{DeviceOp, IoBackend, IoKind, Watch};
pub use wake::Wake;

use crate::device::DeviceKey;
use crate::drill::Act as DrillAct;
use crate::flushes::{self, Audience};
use crate::{Buf, BufSlice, Device};
use entry::{Entry, Place, Verdict};

/// Bytes of zeroes that one write of the fall-back zeroing sends.
const ZERO_BYTES: usize = 256 << 10;
/// How long a dropped queue waits for the kernel before it gives up memory for good.
const DRAIN: Duration = Duration::from_secs(5);
/// Longer deadlines are shortened to this.
const DEADLINE_MAX: Duration = Duration::from_secs(86_400);
/// Most operations at once with the kernel, per queue.
const DEPTH_MAX: u32 = 4096;

/// What the kernel said about the operation in a slot.
type Finished = (u32, Result<u64, Errno>);

enum Backend {
    Uring(Box<uring::Uring>),
    Threads(threads::Threads),
}

impl Backend {
    fn start(&mut self, slot: u32, entry: &Entry, zeroes: &BufSlice) {
        let call = entry.call(zeroes.len());
        match self {
            Self::Uring(uring) => uring.start(slot, entry, call, zeroes),
            Self::Threads(threads) => threads.start(slot, entry, call, zeroes),
        }
    }

    /// Tries to stop an operation; true when the kernel certainly does not have it and will not finish it.
    fn cancel(&mut self, slot: u32) -> bool {
        match self {
            Self::Uring(uring) => uring.cancel(slot),
            Self::Threads(threads) => threads.cancel(slot),
        }
    }

    fn reap(&mut self, into: &mut Vec<Finished>) {
        match self {
            Self::Uring(uring) => uring.reap(into),
            Self::Threads(threads) => threads.reap(into),
        }
    }

    fn stirs(&mut self) -> bool {
        match self {
            Self::Uring(uring) => uring.stirs(),
            Self::Threads(threads) => threads.stirs(),
        }
    }

    /// Hands everything over to the kernel and waits for a result, a descriptor, a signal or the time.
    fn wait(&mut self, fds: &mut [Watch<'_>], timeout: Option<Duration>) -> io::Result<()> {
        match self {
            Self::Uring(uring) => uring.wait(fds, timeout),
            Self::Threads(threads) => threads.wait(fds, timeout),
        }
    }
}

/// One thread's I/O queue. To be used in the thread that opened it.
pub struct IoQueue {
    /// `None` only while it is dropped.
    backend: Option<Backend>,
    depth: usize,
    slots: Vec<Option<Entry>>,
    free: Vec<u32>,
    waiting: VecDeque<u32>,
    ready: VecDeque<(u64, Result<(), Fault>)>,
    finished: Vec<Finished>,
    /// Entries that are answered to nobody yet.
    unanswered: usize,
    /// Entries in [`Place::Kernel`].
    in_kernel: usize,
    /// When deadlines and delays are to be looked at next; never later than the earliest of them.
    alarm: Option<Instant>,
    zeroes: BufSlice,
    /// For whom it flushes, since how many failures; and up to which one it has heard of those of which device.
    audience: Option<(Audience, u64)>,
    heard: Vec<(DeviceKey, u64)>,
    /// A ring belongs to the thread that made it.
    one_thread: PhantomData<*mut ()>,
}

impl IoQueue {
    /// Opens a queue for the calling thread, with at most `depth` operations (1 to 4096) at once in the kernel.
    ///
    /// # Errors
    /// The kernel gave no ring, descriptor or memory.
    pub fn open(backend: IoBackend, depth: u32) -> io::Result<Self> {
        let depth = depth.clamp(1, DEPTH_MAX);
        let forced =
            backend == IoBackend::Auto && std::env::var_os("DM_REMAP_IO").is_some_and(|v| v == "threads");
        let backend = match backend {
            IoBackend::Uring => Backend::Uring(Box::new(uring::Uring::open(depth)?)),
            IoBackend::Auto if !forced => match uring::Uring::open(depth) {
                Ok(uring) => Backend::Uring(Box::new(uring)),
                Err(_) => Backend::Threads(threads::Threads::open(depth)?),
            },
            _ => Backend::Threads(threads::Threads::open(depth)?),
        };
        Ok(Self {
            backend: Some(backend),
            depth: usize::try_from(depth).unwrap_or(usize::MAX),
            slots: Vec::new(),
            free: Vec::new(),
            waiting: VecDeque::new(),
            ready: VecDeque::new(),
            finished: Vec::new(),
            unanswered: 0,
            in_kernel: 0,
            alarm: None,
            zeroes: zeroes()?,
            audience: None,
            heard: Vec::new(),
            one_thread: PhantomData,
        })
    }

    /// From now on a flush fails if another one of the same device, of any queue, failed of which the audience had not been told when
    /// it began. The owner is told by the completion, clients when [`Self::clients_were_told`] is called.
    pub fn hears_of_failed_flushes(&mut self, audience: Audience) {
        self.audience = Some((audience, flushes::failures()));
    }

    /// A client was told that a flush failed: whatever was lost before that may have been its own.
    pub fn clients_were_told(&mut self) {
        let number = flushes::failures();
        for (device, heard) in &mut self.heard {
            *heard = number;
            device.tell(Audience::Clients, number);
        }
    }

    /// Up to which failed flush the audience has heard of this device's.
    fn heard_of(&mut self, device: &Device) -> u64 {
        let Some((audience, opened)) = self.audience else { return 0 };
        if let Some((_, heard)) = self.heard.iter().find(|(other, _)| other.names(device)) {
            return *heard;
        }
        let known = device.failed_flushes().known_at(audience, opened);
        self.heard.push((device.key(), known));
        known
    }

    /// The back end in use, never [`IoBackend::Auto`].
    #[must_use]
    pub fn backend(&self) -> IoBackend {
        match self.backend {
            Some(Backend::Uring(_)) => IoBackend::Uring,
            Some(Backend::Threads(_)) | None => IoBackend::Threads,
        }
    }

    /// Starts an operation, to be answered under `tag` within `deadline`. Never blocks; what exceeds the depth waits
    /// inside. An operation outside of the device, not aligned to its logical block, without the right buffer, or a
    /// write to a read-only device completes with [`Fault::Unsupported`].
    pub fn submit(&mut self, tag: u64, op: DeviceOp, deadline: Duration) {
        let end = op.offset.checked_add(op.len);
        let checked = end.map_or(Err(Fault::Unsupported), |end| {
            op.device.check(op.kind, &(op.offset..end), op.buf.as_ref())
        });
        if let Err(fault) = checked {
            self.ready.push_back((tag, Err(fault)));
            return;
        }
        let start = Instant::now();
        let mut entry = Entry::of(tag, op, start + deadline.min(DEADLINE_MAX));
        if entry.op.kind == IoKind::Flush {
            entry.heard = self.heard_of(&entry.op.device);
        }
        let mut delay = Duration::ZERO;
        if !entry.op.device.drills().is_empty() {
            (delay, entry.drilled) = judge(&entry.op);
        }
        if !delay.is_zero() {
            entry.place = Place::Delayed(start + delay.min(DEADLINE_MAX));
            self.alarm_at(start + delay.min(DEADLINE_MAX));
        }
        self.alarm_at(entry.deadline);
        let delayed = !delay.is_zero();
        let slot = self.keep(entry);
        if !delayed {
            self.begin(slot);
        }
    }

    /// The next completion, if there is one: each tag exactly once, in any order. Never blocks and makes no system call;
    /// completions arrive in [`Self::wait`].
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Option<(u64, Result<(), Fault>)> {
        if self.ready.is_empty() {
            self.reap();
        }
        self.ready.pop_front()
    }

    /// Operations submitted and not yet returned by [`Self::next`].
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.unanswered + self.ready.len()
    }

    /// Is there a completion, or something that [`Self::wait`] makes one of? Makes no system call, and may overlook some.
    pub fn stirs(&mut self) -> bool {
        !self.ready.is_empty() || self.backend.as_mut().is_some_and(Backend::stirs)
    }

    /// Hands over what was submitted, and returns when a completion is available, a watched descriptor is ready, or
    /// `timeout` is over. With a completion at hand it does not block, but still looks at the descriptors.
    ///
    /// # Errors
    /// The wait itself failed; the queue is not usable any more.
    pub fn wait(&mut self, fds: &mut [Watch<'_>], timeout: Option<Duration>) -> io::Result<()> {
        let mut now = Instant::now();
        let until = timeout.map(|timeout| now + timeout.min(DEADLINE_MAX));
        for watch in fds.iter_mut() {
            (watch.ready_read, watch.ready_write) = (false, false);
        }
        self.expire(now);
        loop {
            let next = [until, self.alarm].into_iter().flatten().min();
            let nap = if self.ready.is_empty() {
                next.map(|next| next.saturating_duration_since(now))
            } else {
                Some(Duration::ZERO)
            };
            let Some(backend) = &mut self.backend else { return Ok(()) };
            backend.wait(fds, nap)?;
            self.reap();
            now = Instant::now();
            self.expire(now);
            let over = until.is_some_and(|until| until <= now);
            if over || !self.ready.is_empty() || fds.iter().any(Watch::is_ready) {
                return Ok(());
            }
        }
    }

    /// Stops watching a descriptor. To be called before closing a descriptor that was watched, if the queue lives on:
    /// the kernel still watches the open file behind it, and its number may come to mean another one.
    pub fn forget(&mut self, fd: BorrowedFd<'_>) {
        if let Some(Backend::Uring(uring)) = &mut self.backend {
            uring.forget(fd);
        }
    }

    /// Puts an entry into a slot.
    fn keep(&mut self, entry: Entry) -> u32 {
        self.unanswered += 1;
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            u32::try_from(self.slots.len() - 1).expect("memory ends before 2^32 operations")
        });
        self.slots[index(slot)] = Some(entry);
        slot
    }

    /// Begins an entry that is not delayed (any more).
    fn begin(&mut self, slot: u32) {
        let Some(entry) = self.slots[index(slot)].as_mut() else { return };
        if let Some(fault) = entry.drilled {
            self.answer(slot, Err(fault));
        } else if let Some(outcome) = cached::pass(entry) {
            self.answer(slot, outcome);
        } else if self.in_kernel >= self.depth {
            entry.place = Place::Waiting;
            self.waiting.push_back(slot);
        } else {
            self.launch(slot);
        }
    }

    /// Gives an entry to the kernel, unless it must not get it.
    fn launch(&mut self, slot: u32) {
        let (Some(entry), Some(backend)) = (self.slots[index(slot)].as_mut(), self.backend.as_mut()) else {
            return;
        };
        let device = &entry.op.device;
        if let (IoKind::Flush, Some(fault)) = (entry.op.kind, device.lost_flush()) {
            self.answer(slot, Err(fault));
        } else if device.graveyard().blocks(&entry.range()) {
            self.answer(slot, Err(Fault::Timeout));
        } else {
            entry.place = Place::Kernel;
            self.in_kernel += 1;
            backend.start(slot, entry, &self.zeroes);
        }
    }

    /// Launches what waits while there is room.
    fn refill(&mut self) {
        while self.in_kernel < self.depth {
            let Some(slot) = self.waiting.pop_front() else { return };
            self.launch(slot);
        }
    }

    /// Ends an entry that the kernel does not have.
    fn answer(&mut self, slot: u32, outcome: Result<(), Fault>) {
        let Some(mut entry) = self.slots[index(slot)].take() else { return };
        self.free.push(slot);
        self.unanswered -= 1;
        if outcome.is_ok() {
            match entry.op.kind {
                IoKind::Write { .. } | IoKind::WriteZeroes { .. } if !entry.held => {
                    entry.op.device.drills().iter().for_each(|drill| drill.wrote(sectors(&entry.op)));
                }
                IoKind::Read => cached::patch(&mut entry),
                _ => {}
            }
        }
        let outcome = if entry.op.kind == IoKind::Flush {
            self.flush_judged(&entry.op.device, entry.heard, outcome)
        } else {
            outcome
        };
        self.ready.push_back((entry.tag, outcome));
    }

    /// What is answered to a flush that ended so.
    fn flush_judged(&mut self, device: &Device, heard: u64, outcome: Result<(), Fault>) -> Result<(), Fault> {
        let failures = device.failed_flushes();
        if let Err(fault) = outcome {
            failures.add(fault);
        }
        let Some((audience, _)) = self.audience else { return outcome };
        let outcome = outcome.and(failures.owed(heard).map_or(Ok(()), Err));
        if outcome.is_err() && audience == Audience::Owner {
            // Of this device: it asks which of its writes are in doubt.
            let number = flushes::failures();
            failures.tell(audience, number);
            let known = self.heard.iter_mut().find(|(other, _)| other.names(device));
            known.into_iter().for_each(|(_, heard)| *heard = number);
        }
        outcome
    }

    /// Takes what the kernel has finished.
    fn reap(&mut self) {
        let Some(backend) = &mut self.backend else { return };
        let mut finished = std::mem::take(&mut self.finished);
        backend.reap(&mut finished);
        for (slot, result) in finished.drain(..) {
            self.finish(slot, result);
        }
        self.finished = finished;
        self.refill();
    }

    fn finish(&mut self, slot: u32, result: Result<u64, Errno>) {
        let Some(entry) = self.slots.get_mut(index(slot)).and_then(Option::as_mut) else { return };
        let verdict = entry.judge(result);
        if matches!(entry.place, Place::Zombie(_)) {
            // Answered long ago. What is left undone stays undone; the range and the memory are free again.
            if let (IoKind::Flush, Verdict::Over(Err(fault))) = (entry.op.kind, verdict) {
                entry.op.device.failed_flushes().add(fault);
            }
            self.slots[index(slot)] = None;
            self.free.push(slot);
            return;
        }
        self.in_kernel -= 1;
        match verdict {
            Verdict::Over(outcome) => self.answer(slot, outcome),
            Verdict::Continue => self.launch(slot),
        }
    }

    fn alarm_at(&mut self, at: Instant) {
        self.alarm = Some(self.alarm.map_or(at, |alarm| alarm.min(at)));
    }

    /// Begins what was delayed until now, and answers what is over time.
    fn expire(&mut self, now: Instant) {
        if self.alarm.is_none_or(|alarm| alarm > now) {
            return;
        }
        self.alarm = None;
        for slot in 0..u32::try_from(self.slots.len()).unwrap_or(u32::MAX) {
            let Some(entry) = &self.slots[index(slot)] else { continue };
            match entry.place {
                Place::Zombie(_) => {}
                Place::Delayed(due) if due <= now && due <= entry.deadline => {
                    let deadline = entry.deadline;
                    self.begin(slot);
                    self.alarm_at(deadline);
                }
                _ if entry.deadline <= now => self.time_out(slot),
                Place::Delayed(due) => self.alarm_at(due.min(self.deadline_of(slot))),
                Place::Waiting | Place::Kernel => self.alarm_at(self.deadline_of(slot)),
            }
        }
        self.refill();
    }

    fn deadline_of(&self, slot: u32) -> Instant {
        self.slots[index(slot)].as_ref().map_or_else(Instant::now, |entry| entry.deadline)
    }

    fn time_out(&mut self, slot: u32) {
        let (Some(entry), Some(backend)) = (self.slots[index(slot)].as_mut(), self.backend.as_mut()) else {
            return;
        };
        if matches!(entry.place, Place::Kernel) {
            self.in_kernel -= 1;
            if !backend.cancel(slot) {
                let zombie = entry.op.device.graveyard().bury(entry.range(), entry.op.kind.changes());
                entry.place = Place::Zombie(zombie);
                let (tag, heard, device) = (entry.tag, entry.heard, entry.op.device.clone());
                let flush = entry.op.kind == IoKind::Flush;
                let late = Err(Fault::Timeout);
                let outcome = if flush { self.flush_judged(&device, heard, late) } else { late };
                self.unanswered -= 1;
                self.ready.push_back((tag, outcome));
                return;
            }
        } else if matches!(entry.place, Place::Waiting) {
            self.waiting.retain(|&other| other != slot);
        }
        self.answer(slot, Err(Fault::Timeout));
    }

    /// Waits for the kernel to finish what is not known to hang.
    fn drain(&mut self) {
        self.reap();
        let limit = Instant::now() + DRAIN;
        while self.in_kernel > 0 && Instant::now() < limit {
            let slots: Vec<u32> = self.waiting.drain(..).collect();
            for slot in slots {
                self.answer(slot, Err(Fault::Timeout));
            }
            if self.wait(&mut [], Some(Duration::from_millis(100))).is_err() {
                return;
            }
            self.ready.clear();
        }
    }
}

impl Drop for IoQueue {
    fn drop(&mut self) {
        self.drain();
        let held = |entry: &Entry| matches!(entry.place, Place::Kernel | Place::Zombie(_));
        let entries: Vec<Option<Entry>> =
            self.slots.drain(..).map(|slot| slot.filter(|entry| held(entry))).collect();
        match self.backend.take() {
            Some(Backend::Threads(threads)) => threads.abandon(entries),
            Some(Backend::Uring(uring)) if entries.iter().any(Option::is_some) => {
                // The kernel may write to this memory at any time: it is never given back.
                std::mem::forget((uring, entries));
            }
            _ => {}
        }
    }
}

impl std::fmt::Debug for IoQueue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IoQueue")
            .field("backend", &self.backend())
            .field("unanswered", &self.unanswered)
            .field("in_kernel", &self.in_kernel)
            .finish_non_exhaustive()
    }
}

fn index(slot: u32) -> usize {
    usize::try_from(slot).expect("Linux machines have at least 32 bits")
}

/// 512-byte sectors of an operation, as drills count them.
fn sectors(op: &DeviceOp) -> std::ops::Range<u64> {
    op.offset / 512..(op.offset + op.len).div_ceil(512)
}

/// What the drills of its device make of an operation.
fn judge(op: &DeviceOp) -> (Duration, Option<Fault>) {
    let act = match op.kind {
        IoKind::Read => DrillAct::Read,
        IoKind::Write { .. } | IoKind::WriteZeroes { .. } => DrillAct::Write,
        IoKind::Discard => DrillAct::Discard,
        IoKind::Flush => DrillAct::Flush,
    };
    let asked = cached::asked(op);
    let mut delay = Duration::ZERO;
    let mut fault = None;
    for drill in op.device.drills() {
        let judged = drill.judge(act, &asked);
        delay += judged.delay;
        fault = fault.or(judged.failure.map(|failure| failure.fault(&op.device)));
    }
    (delay, fault)
}

/// The process's zeroes, never written to.
fn zeroes() -> io::Result<BufSlice> {
    static ZEROES: OnceLock<Buf> = OnceLock::new();
    let buf = match ZEROES.get() {
        Some(buf) => buf,
        None => {
            let fresh = Buf::alloc(ZERO_BYTES).map_err(|e| io::Error::new(io::ErrorKind::OutOfMemory, e))?;
            ZEROES.get_or_init(|| fresh)
        }
    };
    Ok(buf.shared_slice(0..ZERO_BYTES))
}

#[cfg(test)]
mod tests;
