//! The transmission phase: receive, submit, collect, send, wait.
//!
//! Invariant: `held` is exactly what is neither answered nor forgotten: jobs in the queue, a payload being received,
//! replies in the outbox. It is zero at the end.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use remap_core::op::RequestKind;
use remap_io::Buf;
use remap_runtime::front::{BlockState, Export, FrontCompletion, FrontError, FrontRequest, Interest, Queue};
use remap_runtime::{Stage, TraceKind};
use rustix::event::{EventfdFlags, eventfd};

use super::input::Input;
use super::jobs::{Effect, Job, Jobs, Ranged, Work};
use super::patience::Patience;
use super::{ConnectionLimits, ServeError, Watch};
use crate::outbox::Outbox;
use crate::proto::{CONTEXT_ALLOCATION_ID, CONTEXT_STATE_ID, ErrorCode, STATUS_EXTENTS_MAX};
use crate::reply::{Asked, Replies, Reply, Traced};
use crate::socket::Socket;
use crate::transmission::{Command, Head, Incoming, Refusal, Requests};

/// Bytes that a cache request reads at a time.
const CACHE_STEP: u64 = 1 << 20;
/// Bytes of a payload that is better received where it belongs than copied there.
const LONG: usize = 32 << 10;
/// Most bytes that a block status reply may take, both contexts.
const STATUS_COST: usize = 2 * (40 + 16 * STATUS_EXTENTS_MAX);

/// Long reads of so many bytes that are over leave before others are begun: their bytes are still in the processor's cache, and the
/// client has something to do.
const ENOUGH: usize = 256 << 10;

/// How far the input was handled.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Parsed {
    /// To its end, as far as it is whole.
    All,
    /// Replies are to leave first.
    Enough,
    /// The limits hold back the next request.
    Full,
}

/// A payload on its way in.
enum Payload {
    /// None is due.
    None,
    /// Of a write: straight into its buffer.
    Fill { head: Head, fua: bool, buf: Buf, filled: usize, begun: Option<Instant> },
    /// Of a refused request: nowhere.
    Drain { left: u64, asked: Asked, refusal: Refusal },
}

/// What counts against the limits.
#[derive(Default)]
struct Held {
    requests: usize,
    bytes: usize,
}

/// The running connection.
pub(super) struct Transmission<'a, E: Export> {
    export: &'a E,
    queue: E::Queue,
    requests: Requests,
    replies: Replies,
    socket: &'a Socket,
    limits: ConnectionLimits,
    watch: &'a Watch,
    input: Input,
    payload: Payload,
    /// The last payload was a long one.
    long: bool,
    jobs: Jobs,
    outbox: Outbox,
    held: Held,
    receiving: bool,
    sending: bool,
    patience: Patience,
}

impl<'a, E: Export> Transmission<'a, E> {
    pub(super) fn new(
        export: &'a E,
        queue: E::Queue,
        requests: Requests,
        socket: &'a Socket,
        limits: ConnectionLimits,
        watch: &'a Watch,
        input: Input,
    ) -> Self {
        let replies = Replies::new(requests.negotiated().style);
        Self {
            export,
            queue,
            requests,
            replies,
            socket,
            limits,
            watch,
            input,
            payload: Payload::None,
            long: false,
            jobs: Jobs::default(),
            outbox: Outbox::default(),
            held: Held::default(),
            receiving: true,
            sending: true,
            patience: Patience::new(limits.busy_poll),
        }
    }

    /// Runs until the client has left or the server stops, and everything in flight is finished.
    pub(super) fn run(mut self) -> Result<(), ServeError> {
        // A descriptor that is never ready: with nothing to ask of a socket that was hung up, a wait on it would spin.
        let quiet = eventfd(0, EventfdFlags::CLOEXEC).map_err(|errno| ServeError::Queue(errno.into()))?;
        let mut outcome = Ok(());
        let mut ready = Interest::default();
        loop {
            if self.watch.stopping() {
                self.receiving = false;
            }
            if self.receiving && ready.read {
                self.receive();
            }
            let parsed = self.parse().unwrap_or_else(|error| {
                self.receiving = false;
                outcome = Err(error.into());
                Parsed::All
            });
            if !self.receiving {
                self.forget_payload();
            }
            let held = (self.held.requests, self.held.bytes);
            self.collect();
            self.send();
            if self.finished() {
                return outcome;
            }
            ready = Interest::default();
            let goes_on = match parsed {
                Parsed::All => false,
                Parsed::Enough => true,
                Parsed::Full => held != (self.held.requests, self.held.bytes),
            };
            if !(goes_on && self.receiving) {
                let full = parsed == Parsed::Full;
                ready = self.wait(full, &quiet).map_err(ServeError::Queue)?;
            }
        }
    }

    fn finished(&self) -> bool {
        !self.receiving && self.queue.in_flight() == 0 && self.outbox.is_empty()
    }

    fn wait(&mut self, blocked: bool, quiet: &OwnedFd) -> std::io::Result<Interest> {
        let interest = Interest { read: self.receiving && !blocked, write: !self.outbox.is_empty() };
        let fd = if interest.read || interest.write { self.socket.as_fd() } else { quiet.as_fd() };
        // A client that does not take its replies is not waited for.
        let looks = interest.read && !interest.write;
        if looks && let Some(ready) = self.look(interest)? {
            return Ok(ready);
        }
        let (begun, in_flight) = (Instant::now(), self.queue.in_flight());
        let ready = self.queue.wait(fd, interest, None)?;
        if looks {
            self.patience.slept(in_flight, begun.elapsed());
        }
        Ok(ready)
    }

    /// Looks for requests and completions for a moment; `None` when it is time to sleep.
    fn look(&mut self, interest: Interest) -> std::io::Result<Option<Interest>> {
        if !self.patience.may_look() {
            return Ok(None);
        }
        let Self { queue, socket, patience, .. } = self;
        let in_flight = queue.in_flight();
        if in_flight > 0 {
            // What was submitted goes to the devices first.
            let ready = queue.wait(socket.as_fd(), interest, Some(Duration::ZERO))?;
            if ready.read || queue.stirs() {
                return Ok(Some(ready));
            }
        }
        let mut ready = Interest::default();
        let found = patience.look(in_flight, || {
            ready.read = socket.is_readable();
            ready.read || queue.stirs()
        });
        if found && !ready.read {
            ready = queue.wait(socket.as_fd(), interest, Some(Duration::ZERO))?;
        }
        Ok(found.then_some(ready))
    }

    /// One receive: into the payload that is due, and what follows it into the input.
    fn receive(&mut self) {
        let mut filling = 0;
        let result = match &mut self.payload {
            Payload::Fill { buf, filled, .. } => {
                filling = buf.len() - *filled;
                self.socket.receive(&mut buf.bytes_mut()[*filled..], self.input.room(self.long))
            }
            Payload::Drain { .. } => self.socket.receive(&mut [], self.input.room(false)),
            Payload::None => self.socket.receive(&mut [], self.input.room(self.long)),
        };
        match result {
            Ok(None) => {}
            Ok(Some(0)) => self.receiving = false,
            Ok(Some(received)) => {
                if let Payload::Fill { filled, .. } = &mut self.payload {
                    *filled += received.min(filling);
                }
                self.input.received(received.saturating_sub(filling));
            }
            Err(_) => self.hang_up(),
        }
    }

    /// Handles what was received.
    fn parse(&mut self) -> Result<Parsed, crate::transmission::StreamError> {
        let mut long_reads = 0;
        while self.receiving {
            if !self.take_payload() {
                return Ok(Parsed::All);
            }
            if long_reads >= ENOUGH && self.queue.stirs() {
                return Ok(Parsed::Enough);
            }
            let Some(incoming) = self.requests.next(self.input.unread())? else { return Ok(Parsed::All) };
            let cost = self.cost(&incoming);
            let room = self.held.bytes == 0 || self.held.bytes + cost <= self.limits.bytes;
            if self.held.requests >= self.limits.requests || !room {
                return Ok(Parsed::Full);
            }
            if cost >= LONG && matches!(incoming.verdict, Ok(Command::Read { .. })) {
                long_reads += cost;
            }
            self.input.consume(incoming.used);
            self.begin(incoming, cost);
        }
        Ok(Parsed::All)
    }

    /// Bytes that the request counts while it is in flight. Checked requests are at most 32 MiB where it matters.
    fn cost(&self, incoming: &Incoming) -> usize {
        let length = match incoming.verdict {
            Ok(Command::Read { .. } | Command::Write { .. }) => incoming.head.length,
            Ok(Command::Cache) => incoming.head.length.min(self.step(Effect::Cache)),
            Ok(Command::BlockStatus { .. }) => STATUS_COST as u64,
            _ => 0,
        };
        usize::try_from(length).unwrap_or(usize::MAX)
    }

    /// Moves received bytes to the payload that is due. True when none is due any more.
    fn take_payload(&mut self) -> bool {
        match std::mem::replace(&mut self.payload, Payload::None) {
            Payload::None => true,
            Payload::Fill { head, fua, mut buf, mut filled, begun } => {
                let take = self.input.unread().len().min(buf.len() - filled);
                if take > 0 {
                    buf.bytes_mut()[filled..filled + take].copy_from_slice(&self.input.unread()[..take]);
                    self.input.consume(take);
                    filled += take;
                }
                if filled < buf.len() {
                    self.payload = Payload::Fill { head, fua, buf, filled, begun };
                    return false;
                }
                Watch::count(&self.watch.bytes_written, head.length);
                let asked = Asked { cookie: head.cookie, offset: head.offset, read: false };
                if let Some(begun) = begun {
                    self.export.trace().record(TraceKind::Write, Stage::Receive, begun);
                }
                let job = Job { asked, work: Work::Once(TraceKind::Write), cost: buf.len(), begun };
                let kind = RequestKind::Write { fua };
                self.submit(job, FrontRequest { kind, offset: head.offset, len: head.length }, Some(buf));
                true
            }
            Payload::Drain { left, asked, refusal } => {
                let unread = self.input.unread().len();
                let take = usize::try_from(left).map_or(unread, |left| left.min(unread));
                self.input.consume(take);
                let left = left - take as u64;
                if left > 0 {
                    self.payload = Payload::Drain { left, asked, refusal };
                    return false;
                }
                self.answer(0, self.replies.error(&asked, refusal.code, &refusal.message));
                true
            }
        }
    }

    /// A payload that will never be whole: its write never happened.
    fn forget_payload(&mut self) {
        match std::mem::replace(&mut self.payload, Payload::None) {
            Payload::None => {}
            Payload::Fill { buf, .. } => {
                self.release(buf.len());
                self.queue.recycle(buf);
            }
            Payload::Drain { .. } => self.release(0),
        }
    }

    /// Starts a request. From here on it is held.
    fn begin(&mut self, incoming: Incoming, cost: usize) {
        let Incoming { head, verdict, payload, .. } = incoming;
        let asked = Asked {
            cookie: head.cookie,
            offset: head.offset,
            read: head.command == crate::proto::command::READ,
        };
        if verdict == Ok(Command::Disconnect) {
            self.receiving = false;
            return;
        }
        Watch::count(&self.watch.requests, 1);
        let begun = self.export.trace().now();
        self.held.requests += 1;
        self.held.bytes += cost;
        let ranged = |effect, flush| {
            let work =
                Ranged { effect, next: head.offset, end: head.offset.saturating_add(head.length), flush };
            Job { asked, work: Work::Ranged(work), cost, begun }
        };
        match verdict {
            Err(refusal) if payload > 0 => self.payload = Payload::Drain { left: payload, asked, refusal },
            Err(refusal) => self.answer(cost, self.replies.error(&asked, refusal.code, &refusal.message)),
            Ok(Command::Flush) => {
                let job = Job { asked, work: Work::Once(TraceKind::Flush), cost, begun };
                self.submit(job, FrontRequest { kind: RequestKind::Flush, offset: 0, len: 0 }, None);
            }
            Ok(_) if head.length == 0 => self.answer(cost, self.replies.done(&asked)),
            Ok(Command::Read { df }) => {
                Watch::count(&self.watch.bytes_read, head.length);
                let buf = self.queue.buffer(cost);
                let job = Job { asked, work: Work::Read { df }, cost, begun };
                let request = FrontRequest { kind: RequestKind::Read, offset: head.offset, len: head.length };
                self.submit(job, request, Some(buf));
            }
            Ok(Command::Write { fua }) => {
                let buf = self.queue.buffer(cost);
                self.long = cost >= LONG;
                self.payload = Payload::Fill { head, fua, buf, filled: 0, begun };
            }
            Ok(Command::Trim { fua }) => self.advance(ranged(Effect::Trim, fua)),
            Ok(Command::Cache) => self.advance(ranged(Effect::Cache, false)),
            Ok(Command::WriteZeroes { fua, may_unmap }) => {
                self.advance(ranged(Effect::Zero { fua, may_unmap }, false));
            }
            Ok(Command::BlockStatus { one }) => {
                let reply = self.status(&asked, head.length, one);
                self.answer(cost, reply);
            }
            Ok(Command::Disconnect) => {}
        }
    }

    fn submit(&mut self, job: Job, request: FrontRequest, buf: Option<Buf>) {
        let token = self.jobs.insert(job);
        self.queue.submit(token, request, buf);
    }

    /// Bytes of one part of a long range.
    fn step(&self, effect: Effect) -> u64 {
        let maximum = u64::from(self.requests.offer().maximum);
        if effect == Effect::Cache { maximum.min(CACHE_STEP) } else { maximum }
    }

    /// The next part of a range, its flush, or its reply.
    fn advance(&mut self, mut job: Job) {
        let Work::Ranged(ranged) = &mut job.work else { return };
        let stop = self.watch.stopping() || !self.sending;
        if ranged.next == ranged.end && !ranged.flush {
            return self.answer_job(&job, self.replies.done(&job.asked));
        }
        if stop {
            let reply = self.replies.error(&job.asked, ErrorCode::ESHUTDOWN, "the server stops");
            return self.answer_job(&job, reply);
        }
        if ranged.next == ranged.end {
            ranged.flush = false;
            return self.submit(job, FrontRequest { kind: RequestKind::Flush, offset: 0, len: 0 }, None);
        }
        let effect = ranged.effect;
        let (offset, len) = (ranged.next, (ranged.end - ranged.next).min(self.step(effect)));
        ranged.next += len;
        let kind = match effect {
            Effect::Trim => RequestKind::Discard,
            Effect::Zero { fua, may_unmap } => RequestKind::WriteZeroes { fua, may_unmap },
            Effect::Cache => RequestKind::Read,
        };
        let buf = match (effect, usize::try_from(len)) {
            (Effect::Cache, Ok(len)) => Some(self.queue.buffer(len)),
            _ => None,
        };
        self.submit(job, FrontRequest { kind, offset, len }, buf);
    }

    /// Takes what the queue has finished.
    fn collect(&mut self) {
        while let Some(completion) = self.queue.next() {
            self.complete(completion);
        }
    }

    fn complete(&mut self, completion: FrontCompletion) {
        let FrontCompletion { token, result, buf } = completion;
        let Some(job) = self.jobs.take(token) else { return };
        let (asked, cost, begun) = (job.asked, job.cost, job.begun);
        let kind = job.work.kind();
        let reply = match (job.work, result, buf) {
            (Work::Read { .. }, Ok(()), Some(buf)) => self.replies.contents(&asked, buf),
            (Work::Read { df }, Err(FrontError::Io { bad }), Some(buf)) => {
                self.replies.partial(&asked, buf, &bad, df)
            }
            (work, result, buf) => {
                if let Some(buf) = buf {
                    self.queue.recycle(buf);
                }
                match (work, result) {
                    (_, Err(error)) => {
                        let (code, message) = told(&error);
                        self.replies.error(&asked, code, message)
                    }
                    (Work::Ranged(ranged), Ok(())) => {
                        return self.advance(Job { asked, work: Work::Ranged(ranged), cost, begun });
                    }
                    (Work::Once(_), Ok(())) => self.replies.done(&asked),
                    // A read without its buffer has no contents, whatever the result says.
                    (Work::Read { .. }, Ok(())) => self.replies.error(&asked, ErrorCode::EIO, "no contents"),
                }
            }
        };
        self.answer(cost, reply.traced(kind, begun));
    }

    fn status(&self, asked: &Asked, length: u64, one: bool) -> Reply {
        let contexts = self.requests.negotiated().contexts;
        let mut all = Vec::with_capacity(2);
        if contexts.allocation {
            // Data everywhere is what we know for certain: the main device does not tell its holes.
            all.push((CONTEXT_ALLOCATION_ID, vec![(length, 0)]));
        }
        if contexts.state {
            let max = if one { 1 } else { STATUS_EXTENTS_MAX };
            let mut left = length;
            let mut extents = Vec::new();
            for range in self.export.block_status(asked.offset, length, max).into_iter().take(max) {
                let len = range.len.min(left);
                if len == 0 {
                    break;
                }
                left -= len;
                extents.push((len, state_value(range.state)));
            }
            if extents.is_empty() {
                return self.replies.error(asked, ErrorCode::EIO, "the state is not known");
            }
            all.push((CONTEXT_STATE_ID, extents));
        }
        self.replies.status(asked, &all)
    }

    fn answer_job(&mut self, job: &Job, reply: Reply) {
        self.answer(job.cost, reply.traced(job.work.kind(), job.begun));
    }

    /// A reply is ready; what it takes is held in place of what the request took.
    fn answer(&mut self, cost: usize, reply: Reply) {
        if !self.sending {
            self.release(cost);
            if let Some(buf) = reply.into_buf() {
                self.queue.recycle(buf);
            }
            return;
        }
        self.held.bytes = self.held.bytes - cost + reply.len();
        self.outbox.push(reply);
    }

    fn release(&mut self, cost: usize) {
        self.held.requests -= 1;
        self.held.bytes -= cost;
    }

    fn send(&mut self) {
        let Self { outbox, held, queue, socket, export, .. } = self;
        let sent = outbox.send(socket, |reply| {
            if let Some(Traced { kind, begun, ended }) = reply.traced {
                export.trace().record(kind, Stage::Reply, ended);
                export.trace().record(kind, Stage::Whole, begun);
            }
            held.requests -= 1;
            held.bytes -= reply.len();
            if let Some(buf) = reply.into_buf() {
                queue.recycle(buf);
            }
        });
        if sent.is_err() {
            self.hang_up();
        }
    }

    /// The client is gone: nobody waits for replies.
    fn hang_up(&mut self) {
        self.receiving = false;
        self.sending = false;
        while let Some(reply) = self.outbox.pop() {
            self.release(reply.len());
            if let Some(buf) = reply.into_buf() {
                self.queue.recycle(buf);
            }
        }
    }
}

/// What the client is told of a failure.
fn told(error: &FrontError) -> (ErrorCode, &'static str) {
    match error {
        FrontError::Io { .. } => (ErrorCode::EIO, "the devices could not do it"),
        FrontError::NoSpace => (ErrorCode::ENOSPC, "no spare block is left"),
        FrontError::ReadOnly => (ErrorCode::EPERM, "the volume is read-only"),
        FrontError::Shutdown => (ErrorCode::ESHUTDOWN, "the volume is shutting down"),
    }
}

/// Values of the `dm-remap:state` context.
fn state_value(state: BlockState) -> u32 {
    match state {
        BlockState::Healthy => 0,
        BlockState::Remapped => 1,
        BlockState::Pending => 2,
        BlockState::Lost => 3,
    }
}
