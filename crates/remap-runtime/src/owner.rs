//! The owner's thread: the engine and everything it needs to act.
//!
//! Invariant: only this thread touches the engine. Each turn takes what came in, hands the engine's operations to the
//! devices and its events to whoever waits, and then waits for the next thing; it never waits for a client.

use std::collections::{HashMap, VecDeque};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use remap_core::engine::{
    Command, CommandId, CommandOutcome, Engine, EngineConfig, Event, MAX_BOUNCES, MAX_JOBS, Notice,
    RequestError,
};
use remap_core::op::{Buffer, DeviceId, Fault, Op, OpId, OpKind, Request, RequestId, RequestKind};
use remap_core::recovery::Recovered;
use remap_core::units::{Block, Extent, SECTOR_SIZE};
use remap_io::{Audience, Buf, BufSlice, Device, DeviceOp, IoKind, IoQueue, Watch};
use rustix::thread::sched_yield;

use crate::bypass::{BypassThread, Call, Carried};
use crate::clock::Clock;
use crate::front::{ByteRange, FrontError};
use crate::gate::{Act, Gate, gated_block};
use crate::grace::Calls;
use crate::mail::{QueueMail, ToOwner, ToQueue};
use crate::volume::{OnNotice, Shared};

/// Device operations of the owner that are out at a time; more wait in the queue.
const DEPTH: u32 = 256;

/// For how long the owner looks for the end of an operation before it sleeps. To be woken takes some 25 us on a virtual machine, and a commit is
/// two waits, one after the other. Solid-state disks write and flush within this time; the others make the owner sleep.
const LOOK: Duration = Duration::from_micros(300);

/// Why the owner could not begin.
#[derive(Debug)]
pub(crate) enum StartError {
    Metadata(Fault),
    System(std::io::Error),
}

/// A client's request in the slow lane.
struct Client {
    reply: Arc<QueueMail>,
    part: u64,
    buf: Option<BufSlice>,
}

/// Requests that the engine had no room for.
struct Waiting {
    client: Client,
    kind: RequestKind,
    extent: Extent,
}

struct Owner<'s> {
    shared: &'s Shared,
    engine: Engine,
    io: IoQueue,
    clock: Clock,
    on_notice: Option<OnNotice>,
    bounces: Vec<Option<Buf>>,
    clients: HashMap<u64, Client>,
    next_request: u64,
    backlog: VecDeque<Waiting>,
    commands: HashMap<u64, Sender<CommandOutcome>>,
    /// Commands that the engine had no room for.
    later: VecDeque<(CommandId, Command)>,
    next_command: u64,
    graces: Calls,
    /// Bounce buffers of operations that are out, to be replaced when one times out.
    in_bounce: HashMap<u64, u16>,
    live: Option<Sender<Result<(), StartError>>>,
    /// Where the kernel carries the clients' requests: which operations may run, and who has it stand still.
    gate: Option<(Gate, BypassThread)>,
    stopping: bool,
}

pub(crate) fn run(
    shared: &Shared,
    recovered: Recovered,
    config: EngineConfig,
    clock: Clock,
    on_notice: Option<OnNotice>,
    bypass: Option<BypassThread>,
    live: &Sender<Result<(), StartError>>,
) {
    let io = match IoQueue::open(shared.io, DEPTH) {
        Ok(mut io) => {
            io.hears_of_failed_flushes(Audience::Owner);
            io
        }
        Err(error) => {
            shared.owner.close();
            // Nobody waits any more if this fails.
            let _ = live.send(Err(StartError::System(error)));
            return;
        }
    };
    let Ok(mut engine) = Engine::start(recovered, config, clock.now()) else {
        shared.owner.close();
        let _ = live.send(Err(StartError::System(std::io::ErrorKind::OutOfMemory.into())));
        return;
    };
    if shared.read_only {
        // Nothing may be written, so nothing may be learned. An engine that has just started takes a command.
        let _ = engine.command(clock.now(), CommandId(0), Command::Suspend);
    }
    let mut owner = Owner {
        shared,
        engine,
        io,
        clock,
        on_notice,
        bounces: (0..MAX_BOUNCES).map(|_| None).collect(),
        clients: HashMap::new(),
        next_request: 0,
        backlog: VecDeque::new(),
        commands: HashMap::new(),
        later: VecDeque::new(),
        next_command: 1,
        graces: Calls::default(),
        in_bounce: HashMap::new(),
        live: Some(live.clone()),
        gate: bypass.map(|bypass| (Gate::idle(), bypass)),
        stopping: false,
    };
    owner.turn();
    while !owner.is_done() {
        owner.wait();
        owner.turn();
    }
}

impl Drop for Owner<'_> {
    /// However the owner ends, nobody is left waiting for it (C6).
    fn drop(&mut self) {
        if std::thread::panicking() && self.gate.as_ref().is_some_and(|(gate, _)| gate.stands_still()) {
            // Clients wait in the kernel, and nobody here will ever resume it: whoever watches this process starts it again.
            std::process::abort();
        }
        let mut clients: Vec<Client> = self.clients.drain().map(|(_, client)| client).collect();
        clients.extend(self.backlog.drain(..).map(|waiting| waiting.client));
        for message in self.shared.owner.close() {
            if let ToOwner::Submit { reply, part, buf, .. } = message {
                clients.push(Client { reply, part, buf });
            }
        }
        for Client { reply, part, buf } in clients {
            drop(buf);
            reply.mail.post(ToQueue::Done { part, result: Err(FrontError::Shutdown), bad: Vec::new() });
        }
    }
}

impl Owner<'_> {
    fn is_done(&self) -> bool {
        let waiting = !self.backlog.is_empty() || !self.later.is_empty();
        let idle = self.engine.is_idle() && self.clients.is_empty() && !waiting;
        // A commit that cannot be written keeps the engine busy for ever: what is not durable was not acknowledged.
        let stuck = self.engine.state() == remap_core::engine::VolumeState::Frozen && self.clients.is_empty();
        let carried = self.gate.as_ref().is_none_or(|(gate, _)| gate.is_settled());
        self.stopping && (idle || stuck) && carried && self.io.in_flight() == 0
    }

    fn wait(&mut self) {
        let now = self.clock.now().mono_ns;
        let gate = self.gate.as_ref().and_then(|(gate, _)| gate.timeout());
        let next = [self.engine.poll_timeout(), gate].into_iter().flatten().min();
        let timeout = next.map(|at| Duration::from_nanos(at.saturating_sub(now)));
        let cap = Duration::from_secs(3600);
        let timeout = if self.stopping { Duration::from_millis(20) } else { timeout.unwrap_or(cap).min(cap) };
        if self.shared.owner.has_mail() {
            return;
        }
        let wake = &self.shared.owner.wake;
        let mut fds =
            [Watch { fd: wake.as_fd(), read: true, write: false, ready_read: false, ready_write: false }];
        // The next thing to end is near as long as anything is out: what is waited for is a write or a flush of a commit, mostly.
        let look = if self.io.in_flight() > 0 { LOOK.min(timeout) } else { Duration::ZERO };
        if !look.is_zero() && self.io.wait(&mut fds, Some(Duration::ZERO)).is_ok() && self.look(look) {
            return;
        }
        if self.io.wait(&mut fds, Some(timeout - look)).is_err() {
            // The ring is broken; what is out is lost to us. Do not spin.
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Looks for completions and mail for so long; `false` when it is time to sleep.
    fn look(&mut self, time: Duration) -> bool {
        let begun = Instant::now();
        loop {
            if self.io.stirs() || self.shared.owner.has_mail() {
                return true;
            }
            if begun.elapsed() >= time {
                return false;
            }
            // Whoever else wants this processor goes first.
            sched_yield();
        }
    }

    /// Takes everything that came in and hands on everything that came out of it.
    fn turn(&mut self) {
        for message in self.shared.owner.take() {
            self.handle(message);
        }
        while let Some((tag, outcome)) = self.io.next() {
            if let Some(bounce) = self.in_bounce.remove(&tag)
                && outcome == Err(Fault::Timeout)
                && let Some(place) = self.bounces.get_mut(usize::from(bounce))
            {
                // The kernel may still write to it.
                *place = None;
            }
            self.engine.handle_completion(self.clock.now(), OpId(tag), outcome);
            self.drain();
        }
        if self.engine.poll_timeout().is_some_and(|at| at <= self.clock.now().mono_ns) {
            self.engine.handle_timeout(self.clock.now());
        }
        self.drain();
        while let Some(waiting) = self.backlog.pop_front() {
            if let Some(waiting) = self.try_submit(waiting) {
                self.backlog.push_front(waiting);
                break;
            }
        }
        self.begin_commands();
        self.drain();
        self.gate_advance();
    }

    /// Has the mapped device suspended or resumed, if it is time.
    fn gate_advance(&mut self) {
        let Some((gate, bypass)) = &mut self.gate else { return };
        let moving: Vec<Block> = (0..MAX_JOBS).filter_map(|job| self.shared.view.moving(job)).collect();
        match gate.next(self.clock.now().mono_ns, &moving) {
            None => {}
            Some(Act::Suspend) => bypass.call(Call::Suspend),
            Some(Act::Carry(closed)) => self.carry(closed),
        }
    }

    /// Has the mapped device carry the durable table.
    fn carry(&self, closed: Vec<Block>) {
        let Some((_, bypass)) = &self.gate else { return };
        let entries = self.engine.table().iter().collect();
        bypass.call(Call::Carry(Carried { entries, closed, spares: self.shared.spares.present() }));
    }

    fn suspended(&mut self, outcome: &std::io::Result<()>) {
        let now = self.clock.now();
        let Some((gate, _)) = &mut self.gate else { return };
        if outcome.is_ok() {
            let kept = gate.suspended(now.mono_ns);
            kept.into_iter().for_each(|op| self.begin(op));
            return;
        }
        for op in gate.not_suspended(now.mono_ns) {
            // Nothing was tried, and nothing is said about any device.
            self.engine.handle_completion(now, op.id, Err(Fault::NoMemory));
        }
    }

    fn carries(&mut self, outcome: std::io::Result<()>) {
        if let Some((gate, _)) = &mut self.gate {
            match outcome {
                Ok(()) => gate.carries(self.clock.now().mono_ns),
                Err(_) => gate.gives_up(),
            }
        }
        if let Some(live) = self.live.take() {
            // The opener waits for exactly one answer.
            let _ = live.send(outcome.map_err(StartError::System));
        }
    }

    fn handle(&mut self, message: ToOwner) {
        let now = self.clock.now();
        match message {
            ToOwner::Submit { reply, part, kind, extent, buf } => {
                let waiting = Waiting { client: Client { reply, part, buf }, kind, extent };
                if self.backlog.is_empty() {
                    let refused = self.try_submit(waiting);
                    self.backlog.extend(refused);
                } else {
                    self.backlog.push_back(waiting);
                }
            }
            ToOwner::GraceDone { grace } => self.grace_answered(grace),
            ToOwner::Report { device, fault } => self.engine.report(now, device, fault),
            ToOwner::Command { command, reply } => {
                let id = self.next_command;
                self.next_command += 1;
                self.commands.insert(id, reply);
                self.later.push_back((CommandId(id), command));
                self.begin_commands();
            }
            ToOwner::Query(ask) => ask(&self.engine),
            ToOwner::Suspended(outcome) => self.suspended(&outcome),
            ToOwner::Carries(outcome) => self.carries(outcome),
            ToOwner::Hold { id, blocks, granted } => {
                // Without a mapped device there is nobody to be kept away, and the hold is refused.
                if let Some((gate, _)) = &mut self.gate {
                    gate.hold(id, blocks, granted, now.mono_ns);
                }
            }
            ToOwner::Release { id } => {
                if let Some((gate, _)) = &mut self.gate {
                    gate.release(id);
                }
            }
            ToOwner::Stop => self.stopping = true,
        }
        self.drain();
    }

    /// Gives the engine the commands that it has room for, in the order in which they came.
    fn begin_commands(&mut self) {
        while let Some(&(id, command)) = self.later.front() {
            if self.engine.command(self.clock.now(), id, command).is_err() {
                return;
            }
            self.later.pop_front();
            self.drain();
        }
    }

    fn try_submit(&mut self, waiting: Waiting) -> Option<Waiting> {
        let id = self.next_request;
        let request = Request { id: RequestId(id), kind: waiting.kind, extent: waiting.extent };
        // Before submitting: the engine may ask for the buffer at once.
        self.clients.insert(id, waiting.client);
        if self.engine.submit(self.clock.now(), request).is_err() {
            let client = self.clients.remove(&id)?;
            return Some(Waiting { client, kind: waiting.kind, extent: waiting.extent });
        }
        self.next_request += 1;
        self.drain();
        None
    }

    fn drain(&mut self) {
        loop {
            if let Some(op) = self.engine.poll_op() {
                self.begin(op);
            } else if let Some(event) = self.engine.poll_event() {
                self.tell(event);
            } else {
                return;
            }
        }
    }

    fn device(&self, id: DeviceId) -> Option<Device> {
        match id {
            DeviceId::Main => Some(self.shared.main.clone()),
            DeviceId::Spare(n) => self.shared.spares.get(n),
        }
    }

    /// May it run now? If not, it is kept until it may.
    fn passes_gate(&mut self, op: &Op) -> bool {
        let Some((gate, _)) = &mut self.gate else { return true };
        let block = gated_block(op, |job| self.shared.view.moving(job), self.shared.block_sectors());
        let passes = block.is_none_or(|block| gate.admit(block, self.clock.now().mono_ns));
        if !passes {
            gate.keep(op.clone());
        }
        passes
    }

    fn begin(&mut self, op: Op) {
        if !self.passes_gate(&op) {
            return;
        }
        let len = op.extent.bytes();
        let (kind, buffer) = match op.kind {
            OpKind::Grace => return self.begin_grace(op.id, op.extent),
            OpKind::Read(into) => (IoKind::Read, Some(into)),
            OpKind::Write { from, fua } => (IoKind::Write { fua }, Some(from)),
            OpKind::WriteZeroes { fua, may_unmap } => (IoKind::WriteZeroes { fua, may_unmap }, None),
            OpKind::Discard => (IoKind::Discard, None),
            OpKind::Flush => (IoKind::Flush, None),
        };
        let flush = kind == IoKind::Flush;
        let buf = match buffer.map(|buffer| self.resolve(op.id, buffer, len as usize)) {
            Some(None) => {
                // The operation was not begun.
                self.engine.handle_completion(self.clock.now(), op.id, Err(Fault::NoMemory));
                return;
            }
            Some(buf) => buf,
            None => None,
        };
        let (offset, len) = if flush { (0, 0) } else { (op.extent.start().0 * SECTOR_SIZE, len) };
        let Some(device) = self.device(op.device) else {
            self.engine.handle_completion(self.clock.now(), op.id, Err(Fault::Gone));
            return;
        };
        self.io.submit(
            op.id.0,
            DeviceOp { device, kind, offset, len, buf, scattered: false },
            self.shared.deadline,
        );
    }

    fn resolve(&mut self, id: OpId, buffer: Buffer, len: usize) -> Option<BufSlice> {
        match buffer {
            Buffer::Request { id, offset } => {
                let offset = usize::try_from(offset).ok()?;
                self.clients.get(&id.0)?.buf.as_ref().map(|buf| buf.part(offset..offset + len))
            }
            Buffer::Bounce { index, offset } => {
                let block = self.shared.volume.block_size() as usize;
                let place = self.bounces.get_mut(usize::from(index))?;
                if place.is_none() {
                    *place = Some(Buf::alloc(block).ok()?);
                }
                self.in_bounce.insert(id.0, index);
                let offset = offset as usize;
                place.as_mut().map(|buf| buf.slice(offset..offset + len))
            }
            Buffer::Owned(bytes) => {
                let mut buf = Buf::alloc(bytes.len()).ok()?;
                buf.bytes_mut().copy_from_slice(&bytes);
                Some(buf.slice(0..len))
            }
        }
    }

    /// The engine published the move before this.
    fn begin_grace(&mut self, id: OpId, extent: Extent) {
        let queues = self.shared.queues();
        let ask = |queue: &Arc<QueueMail>| queue.mail.post(ToQueue::Grace { grace: id.0, extent });
        if self.graces.begin(id.0, &queues, |queue| &queue.presence, ask) {
            self.engine.handle_completion(self.clock.now(), id, Ok(()));
        }
    }

    fn grace_answered(&mut self, grace: u64) {
        if self.graces.answered(grace) {
            self.engine.handle_completion(self.clock.now(), OpId(grace), Ok(()));
        }
    }

    fn tell(&mut self, event: Event) {
        match event {
            Event::RequestDone { id, result, bad } => {
                let Some(client) = self.clients.remove(&id.0) else { return };
                let result = result.map_err(|error| match error {
                    RequestError::NoSpace => FrontError::NoSpace,
                    RequestError::Io(_) => FrontError::Io { bad: bad.iter().map(byte_range).collect() },
                });
                // The buffer must be free again before the queue hears of it.
                drop(client.buf);
                client.reply.mail.post(ToQueue::Done { part: client.part, result, bad });
            }
            Event::CommandDone { id, outcome } => {
                if let Some(reply) = self.commands.remove(&id.0) {
                    // The asker may have gone away.
                    let _ = reply.send(outcome);
                }
            }
            Event::Notice(notice) => {
                let answer = match notice {
                    // Clients of a mapped device come when it carries.
                    Notice::Live if self.gate.is_some() => {
                        if let Some((gate, _)) = &mut self.gate {
                            gate.start();
                        }
                        self.carry(Vec::new());
                        None
                    }
                    Notice::Live => Some(Ok(())),
                    Notice::Frozen { fault } => Some(Err(StartError::Metadata(fault))),
                    _ => None,
                };
                if let Some(answer) = answer
                    && let Some(live) = self.live.take()
                {
                    // The opener waits for exactly one answer.
                    let _ = live.send(answer);
                }
                if let Some(on_notice) = &self.on_notice {
                    on_notice(&notice);
                }
            }
        }
    }
}

fn byte_range(extent: &Extent) -> ByteRange {
    ByteRange { start: extent.start().0 * SECTOR_SIZE, len: extent.bytes() }
}
