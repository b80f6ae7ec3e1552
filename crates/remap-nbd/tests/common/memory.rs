//! An export in memory with lost sectors and requests that can be held back.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use remap_core::op::RequestKind;
use remap_io::Buf;
use remap_runtime::Trace;
use remap_runtime::front::{
    BlockState, ByteRange, Export, FrontCompletion, FrontError, FrontRequest, Geometry, Interest, Queue,
    StatusRange,
};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use super::PATIENCE;

/// What a read finds where nothing can be read: it must never reach a client.
pub(crate) const POISON: u8 = 0xee;

#[derive(Default)]
struct Contents {
    bytes: Vec<u8>,
    /// Lost 512-byte sectors.
    lost: BTreeSet<u64>,
    states: BTreeMap<u64, BlockState>,
}

#[derive(Default)]
pub(crate) struct Shared {
    contents: Mutex<Contents>,
    log: Mutex<Vec<FrontRequest>>,
    logged: Condvar,
    /// Requests to hold back: those at these offsets, or all.
    held: Mutex<BTreeSet<u64>>,
    hold_all: AtomicBool,
    bells: Mutex<Vec<Arc<OwnedFd>>>,
    fail_with: Mutex<Option<FrontError>>,
    pub(crate) no_queue: AtomicBool,
    pub(crate) queues: AtomicUsize,
    /// Bytes of buffers handed out and not recycled, now and at most.
    pub(crate) outstanding: AtomicI64,
    pub(crate) peak: AtomicI64,
    pub(crate) trace: Trace,
}

pub(crate) struct MemoryExport {
    geometry: Geometry,
    pub(crate) shared: Arc<Shared>,
}

pub(crate) fn geometry(size: u64) -> Geometry {
    Geometry {
        size,
        min_io: 512,
        preferred_io: 4096,
        max_io: 32 << 20,
        read_only: false,
        can_discard: true,
        rotational: true,
        name: "mem".into(),
        description: "memory for tests".into(),
    }
}

impl MemoryExport {
    pub(crate) fn new(size: usize) -> Arc<Self> {
        Self::with(geometry(size as u64), super::pattern(size, 0))
    }

    pub(crate) fn with(geometry: Geometry, bytes: Vec<u8>) -> Arc<Self> {
        let shared = Shared::default();
        shared.contents.lock().unwrap().bytes = bytes;
        Arc::new(Self { geometry, shared: Arc::new(shared) })
    }

    pub(crate) fn lose(&self, sectors: impl IntoIterator<Item = u64>) {
        self.shared.contents.lock().unwrap().lost.extend(sectors);
    }

    pub(crate) fn set_state(&self, sector: u64, state: BlockState) {
        self.shared.contents.lock().unwrap().states.insert(sector, state);
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.shared.contents.lock().unwrap().bytes.clone()
    }

    pub(crate) fn log(&self) -> Vec<FrontRequest> {
        self.shared.log.lock().unwrap().clone()
    }

    /// Waits until `count` requests were submitted.
    pub(crate) fn wait_for_requests(&self, count: usize) {
        let deadline = Instant::now() + PATIENCE;
        let mut log = self.shared.log.lock().unwrap();
        while log.len() < count {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "only {} of {count} requests came", log.len());
            log = self.shared.logged.wait_timeout(log, left).unwrap().0;
        }
    }

    pub(crate) fn hold(&self, offset: u64) {
        self.shared.held.lock().unwrap().insert(offset);
    }

    pub(crate) fn hold_all(&self) {
        self.shared.hold_all.store(true, Ordering::SeqCst);
    }

    pub(crate) fn release(&self) {
        self.shared.held.lock().unwrap().clear();
        self.shared.hold_all.store(false, Ordering::SeqCst);
        for bell in self.shared.bells.lock().unwrap().iter() {
            rustix::io::write(bell, &[1; 8]).unwrap();
        }
    }

    pub(crate) fn fail_with(&self, error: Option<FrontError>) {
        *self.shared.fail_with.lock().unwrap() = error;
    }
}

impl Export for MemoryExport {
    type Queue = MemoryQueue;

    fn geometry(&self) -> Geometry {
        self.geometry.clone()
    }

    fn queue(&self) -> io::Result<MemoryQueue> {
        if self.shared.no_queue.load(Ordering::SeqCst) {
            return Err(io::Error::other("no queue today"));
        }
        self.shared.queues.fetch_add(1, Ordering::SeqCst);
        let bell = Arc::new(eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?);
        self.shared.bells.lock().unwrap().push(Arc::clone(&bell));
        Ok(MemoryQueue {
            shared: Arc::clone(&self.shared),
            bell,
            waiting: Vec::new(),
            done: VecDeque::new(),
            checked: (self.geometry.size, u64::from(self.geometry.max_io), u64::from(self.geometry.min_io)),
        })
    }

    fn trace(&self) -> &Trace {
        &self.shared.trace
    }

    fn block_status(&self, offset: u64, len: u64, max_ranges: usize) -> Vec<StatusRange> {
        let contents = self.shared.contents.lock().unwrap();
        if contents.bytes.is_empty() {
            return vec![StatusRange { len, state: BlockState::Healthy }];
        }
        let mut ranges: Vec<StatusRange> = Vec::new();
        for sector in offset / 512..(offset + len) / 512 {
            let state = if contents.lost.contains(&sector) {
                BlockState::Lost
            } else {
                contents.states.get(&sector).copied().unwrap_or(BlockState::Healthy)
            };
            let full = ranges.len() == max_ranges;
            match ranges.last_mut() {
                Some(last) if last.state == state => last.len += 512,
                _ if full => break,
                _ => ranges.push(StatusRange { len: 512, state }),
            }
        }
        ranges
    }
}

type Waiting = (u64, FrontRequest, Option<Buf>);

pub(crate) struct MemoryQueue {
    shared: Arc<Shared>,
    bell: Arc<OwnedFd>,
    waiting: Vec<Waiting>,
    done: VecDeque<FrontCompletion>,
    /// Size, largest and smallest request: what the front end promised to check.
    checked: (u64, u64, u64),
}

impl MemoryQueue {
    fn is_held(&self, request: &FrontRequest) -> bool {
        self.shared.hold_all.load(Ordering::SeqCst)
            || self.shared.held.lock().unwrap().contains(&request.offset)
    }

    fn execute(&mut self, (token, request, mut buf): Waiting) {
        let result = match self.shared.fail_with.lock().unwrap().clone() {
            Some(error) => Err(error),
            None => carry_out(&mut self.shared.contents.lock().unwrap(), &request, buf.as_mut()),
        };
        self.done.push_back(FrontCompletion { token, result, buf });
    }

    fn advance(&mut self) {
        let waiting = std::mem::take(&mut self.waiting);
        for entry in waiting {
            if self.is_held(&entry.1) {
                self.waiting.push(entry);
            } else {
                self.execute(entry);
            }
        }
    }
}

fn carry_out(
    contents: &mut Contents,
    request: &FrontRequest,
    buf: Option<&mut Buf>,
) -> Result<(), FrontError> {
    let (start, end) = (request.offset, request.offset + request.len);
    let range = usize::try_from(start).unwrap()..usize::try_from(end).unwrap();
    match request.kind {
        RequestKind::Read => {
            let buf = buf.expect("a read brings a buffer");
            assert_eq!(buf.len() as u64, request.len);
            buf.bytes_mut().copy_from_slice(&contents.bytes[range]);
            let bad: Vec<ByteRange> = contents
                .lost
                .range(start / 512..end / 512)
                .map(|sector| ByteRange { start: sector * 512, len: 512 })
                .collect();
            for range in &bad {
                let at = usize::try_from(range.start - start).unwrap();
                buf.bytes_mut()[at..at + 512].fill(POISON);
            }
            return if bad.is_empty() { Ok(()) } else { Err(FrontError::Io { bad }) };
        }
        RequestKind::Write { .. } => {
            let buf = buf.expect("a write brings a buffer");
            assert_eq!(buf.len() as u64, request.len);
            contents.bytes[range].copy_from_slice(buf.bytes());
        }
        RequestKind::WriteZeroes { .. } => contents.bytes[range].fill(0),
        RequestKind::Discard | RequestKind::Flush => return Ok(()),
    }
    contents.lost.retain(|sector| !(start / 512..end / 512).contains(sector));
    Ok(())
}

impl Queue for MemoryQueue {
    fn buffer(&mut self, len: usize) -> Buf {
        let now = self.shared.outstanding.fetch_add(len as i64, Ordering::SeqCst) + len as i64;
        self.shared.peak.fetch_max(now, Ordering::SeqCst);
        Buf::alloc(len).unwrap()
    }

    fn recycle(&mut self, buf: Buf) {
        self.shared.outstanding.fetch_sub(buf.len() as i64, Ordering::SeqCst);
    }

    fn submit(&mut self, token: u64, request: FrontRequest, buf: Option<Buf>) {
        let (size, max, min) = self.checked;
        if request.kind != RequestKind::Flush {
            assert!(
                request.len > 0 && request.len <= max && request.offset + request.len <= size,
                "{request:?}"
            );
            assert!(request.offset.is_multiple_of(min) && request.len.is_multiple_of(min), "{request:?}");
        }
        self.shared.log.lock().unwrap().push(request);
        self.shared.logged.notify_all();
        self.waiting.push((token, request, buf));
        self.advance();
    }

    fn next(&mut self) -> Option<FrontCompletion> {
        self.advance();
        self.done.pop_front()
    }

    fn in_flight(&self) -> usize {
        self.waiting.len() + self.done.len()
    }

    fn stirs(&mut self) -> bool {
        !self.done.is_empty()
    }

    fn wait(
        &mut self,
        fd: BorrowedFd<'_>,
        interest: Interest,
        timeout: Option<Duration>,
    ) -> io::Result<Interest> {
        self.advance();
        let mut flags = PollFlags::empty();
        flags.set(PollFlags::IN, interest.read);
        flags.set(PollFlags::OUT, interest.write);
        let timeout = if self.done.is_empty() { timeout } else { Some(Duration::ZERO) };
        let timeout = timeout.map(|timeout| Timespec::try_from(timeout).unwrap());
        let mut fds = [PollFd::from_borrowed_fd(fd, flags), PollFd::new(&self.bell, PollFlags::IN)];
        poll(&mut fds, timeout.as_ref())?;
        let seen = fds[0].revents();
        let _ = rustix::io::read(&self.bell, &mut [0; 8]);
        let gone = seen.intersects(PollFlags::HUP | PollFlags::ERR);
        Ok(Interest {
            read: seen.contains(PollFlags::IN) || gone,
            write: seen.contains(PollFlags::OUT) || gone,
        })
    }
}
