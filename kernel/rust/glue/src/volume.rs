// SPDX-License-Identifier: GPL-2.0
//! A volume in service: the engine, and what it lends to operations that are out.
//!
//! Invariant: one caller at a time. Bytes that an operation writes live until its completion was handed in; the end of every request
//! and message that was taken is told exactly once.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt::Write;

use remap_core::engine::{Engine, EngineConfig, Event, Notice, RequestError, SubmitError, VolumeState};
use remap_core::memory::NoMemory;
use remap_core::op::{Buffer, DeviceId, Fault, OpId, OpKind, Request, RequestId, RequestKind};
use remap_core::recovery::Recovered;
use remap_core::units::{Extent, Now};
use remap_format::MAX_SPARES;
use remap_words::figures::{Asked, Figures};
use remap_words::notice::{self, Level};

use crate::call::Calls;
use crate::lookup::Lookup;
use crate::spares::Waiting;

/// Operations with bytes of the engine's own that can be out: more than the engine has of them.
const MAX_LENT: usize = 256;

/// Where an operation's bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// It has none.
    Nothing,
    /// In the buffer of a request, from a byte offset on.
    Request(u64, u64),
    /// In a bounce buffer of one block, from a byte offset on.
    Bounce(u16, u32),
    /// Lent by the volume until the operation is completed: see [`Volume::lent`].
    Lent,
}

/// An operation to carry out.
#[derive(Clone, Copy, Debug)]
pub struct Work {
    /// Its name.
    pub id: OpId,
    /// On which device.
    pub device: DeviceId,
    /// What; the buffers in it are not used.
    pub kind: WorkKind,
    /// Where.
    pub extent: Extent,
    /// With which bytes.
    pub source: Source,
}

/// What an operation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkKind {
    /// Device to buffer.
    Read,
    /// Buffer to device.
    Write {
        /// Durable before it completes.
        fua: bool,
    },
    /// Zeroes to the device.
    Zeroes {
        /// Durable before it completes.
        fua: bool,
        /// The space may be given back.
        may_unmap: bool,
    },
    /// A hint.
    Discard,
    /// What was written becomes durable.
    Flush,
    /// Wait for what began before.
    Grace,
}

/// Something that the driver must know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// A request ended.
    Request {
        /// Which.
        id: u64,
        /// How.
        result: Result<(), Fault>,
    },
    /// The answer to a message can be asked for.
    Answer {
        /// To which.
        ticket: u64,
    },
    /// News; the text says what.
    News {
        /// How much it matters; `None`: to nobody but a debugger.
        level: Option<Level>,
        /// Do waiters for events want to hear of it?
        tell: bool,
    },
}

/// A volume on the heap. (An array, because that is what a list can become without allocating again.)
pub type Boxed = Box<[Volume; 1]>;

/// A volume in service.
#[derive(Debug)]
pub struct Volume {
    pub(crate) engine: Engine,
    pub(crate) calls: Calls,
    /// For each spare of the volume, which of the given devices it is.
    pub(crate) devices: Vec<Option<usize>>,
    /// Those of the given devices that may become spares.
    pub(crate) waiting: Vec<Waiting>,
    lookup: Lookup,
    lent: Vec<(OpId, Vec<u8>)>,
    pub(crate) max_remaps: Option<u64>,
    /// The time, as far as it was told.
    pub(crate) now: Now,
    pub(crate) suspended: bool,
    pub(crate) copy_failures: u64,
    /// What `clear_stats` counts from.
    pub(crate) then: (Asked, u64),
}

impl Volume {
    /// Puts a recovered volume in service, on the heap.
    ///
    /// # Errors
    /// [`NoMemory`]; nothing was begun.
    #[inline(never)]
    pub fn start(
        recovered: Recovered,
        waiting: Vec<Waiting>,
        config: EngineConfig,
        now: Now,
    ) -> Result<Boxed, NoMemory> {
        // Room first: what is built on the stack is moved once.
        let mut room = Vec::new();
        room.try_reserve_exact(1).map_err(|_| NoMemory)?;
        room.push(Self::assembled(recovered, waiting, config, now)?);
        room.into_boxed_slice().try_into().map_err(|_| NoMemory)
    }

    fn assembled(
        recovered: Recovered,
        waiting: Vec<Waiting>,
        config: EngineConfig,
        now: Now,
    ) -> Result<Self, NoMemory> {
        let mut devices = Vec::new();
        devices.try_reserve_exact(recovered.devices.len().max(MAX_SPARES)).map_err(|_| NoMemory)?;
        devices.extend(recovered.devices.iter().copied());
        let mut lent = Vec::new();
        lent.try_reserve_exact(MAX_LENT).map_err(|_| NoMemory)?;
        let shift = u32::from(recovered.superblock.block_shift).saturating_sub(9);
        let calls = Calls::with_room()?;
        let engine = Engine::start(recovered, config, now)?;
        let lookup = Lookup::new(engine.view(), shift);
        Ok(Self {
            engine,
            calls,
            devices,
            waiting,
            lookup,
            lent,
            max_remaps: config.max_remaps,
            now,
            suspended: false,
            copy_failures: 0,
            then: (Asked::default(), 0),
        })
    }

    /// The engine, to be looked at.
    #[must_use]
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// For each spare of the volume, which of the given devices it is.
    #[must_use]
    pub fn devices(&self) -> &[Option<usize>] {
        &self.devices
    }

    /// For the fast lane.
    #[must_use]
    pub fn lookup(&self) -> &Lookup {
        &self.lookup
    }

    /// Sectors of the volume.
    #[must_use]
    pub fn sectors(&self) -> u64 {
        self.engine.volume().main.size / 512
    }

    /// Takes a request; `id` is unique while it is under way.
    ///
    /// # Errors
    /// [`SubmitError`]; it was not taken.
    pub fn submit(
        &mut self,
        now: Now,
        id: u64,
        kind: RequestKind,
        extent: Extent,
    ) -> Result<(), SubmitError> {
        self.engine.submit(now, Request { id: RequestId(id), kind, extent })
    }

    /// An operation ended. One that is not out is left alone.
    pub fn complete(&mut self, now: Now, id: OpId, outcome: Result<(), Fault>) {
        if let Some(at) = self.lent.iter().position(|(lent, _)| *lent == id) {
            self.lent.swap_remove(at);
        }
        self.now = now;
        self.engine.handle_completion(now, id, outcome);
    }

    /// The next operation to carry out.
    pub fn work(&mut self, now: Now) -> Option<Work> {
        loop {
            let op = self.engine.poll_op()?;
            let (id, device, extent) = (op.id, op.device, op.extent);
            let (kind, buffer) = match op.kind {
                OpKind::Read(into) => (WorkKind::Read, Some(into)),
                OpKind::Write { from, fua } => (WorkKind::Write { fua }, Some(from)),
                OpKind::WriteZeroes { fua, may_unmap } => (WorkKind::Zeroes { fua, may_unmap }, None),
                OpKind::Discard => (WorkKind::Discard, None),
                OpKind::Flush => (WorkKind::Flush, None),
                OpKind::Grace => (WorkKind::Grace, None),
            };
            let source = match buffer {
                None => Source::Nothing,
                Some(Buffer::Request { id, offset }) => Source::Request(id.0, offset),
                Some(Buffer::Bounce { index, offset }) => Source::Bounce(index, offset),
                Some(Buffer::Owned(bytes)) if self.lent.len() < self.lent.capacity() => {
                    self.lent.push((id, bytes));
                    Source::Lent
                }
                Some(Buffer::Owned(_)) => {
                    self.engine.handle_completion(now, id, Err(Fault::NoMemory));
                    continue;
                }
            };
            return Some(Work { id, device, kind, extent, source });
        }
    }

    /// The bytes lent to an operation that is out.
    #[must_use]
    pub fn lent(&self, id: OpId) -> &[u8] {
        self.lent.iter().rev().find(|(lent, _)| *lent == id).map_or(&[], |(_, bytes)| bytes)
    }

    /// The next event; what it says, for the log, goes into `text`.
    pub fn told(&mut self, text: &mut dyn Write) -> Option<Told> {
        loop {
            match self.engine.poll_event()? {
                Event::RequestDone { id, result, .. } => {
                    let result = result.map_err(|error| match error {
                        RequestError::Io(fault) => fault,
                        RequestError::NoSpace => Fault::NoSpace,
                    });
                    return Some(Told::Request { id: id.0, result });
                }
                Event::CommandDone { id, outcome } => {
                    if self.call_ended(id.0, &outcome) {
                        return Some(Told::Answer { ticket: id.0 });
                    }
                }
                Event::Notice(news) => return Some(self.news(&news, text)),
            }
        }
    }

    fn news(&mut self, news: &Notice, text: &mut dyn Write) -> Told {
        let block_sectors = u64::from(self.engine.volume().block_sectors());
        // A line that is cut still tells.
        let _ = notice::write(text, news, block_sectors);
        self.copy_failures += u64::from(matches!(news, Notice::CopyFailed { .. }));
        let routine = matches!(news, Notice::Live | Notice::Checkpointed { .. });
        let level = notice::level(news);
        let tell = level != Level::Info
            || matches!(
                news,
                Notice::BreakerReset | Notice::Thawed | Notice::Healed { .. } | Notice::Cleared { .. }
            );
        Told::News { level: (!routine).then_some(level), tell }
    }

    /// The volume's figures, with what the driver counted.
    #[must_use]
    pub fn figures(&self, asked: Asked) -> Figures {
        let volume = self.engine.volume();
        let slots = self.engine.slots(None);
        Figures {
            state: self.engine.state(),
            read_only: false,
            suspended: self.suspended,
            sectors: self.sectors(),
            block_size: volume.block_size(),
            logical_block: volume.main.logical_block,
            counts: self.engine.counts(),
            slots: slots.total,
            free_slots: slots.free,
            max_remaps: self.max_remaps,
            counters: self.engine.counters(),
            asked,
            copies: self.copies_in_step(),
        }
    }

    /// Metadata copies in step, of five.
    #[must_use]
    pub fn copies_in_step(&self) -> u8 {
        self.engine.copies_in_step().iter().map(|&good| u8::from(good)).sum()
    }

    /// Can the table not change now?
    #[must_use]
    pub fn is_frozen(&self) -> bool {
        self.engine.state() == VolumeState::Frozen
    }

    /// Time passed.
    pub fn time_passed(&mut self, now: Now) {
        self.engine.handle_timeout(now);
    }

    /// An operation of the fast lane failed with a fault that does not blame the medium.
    pub fn report(&mut self, now: Now, device: DeviceId, fault: Fault) {
        self.engine.report(now, device, fault);
    }

    /// A flush that the fast lane passed on to a device failed.
    pub fn report_flush(&mut self, now: Now, device: DeviceId, fault: Fault) {
        self.engine.report_flush(now, device, fault);
    }
}
