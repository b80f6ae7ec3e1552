// SPDX-License-Identifier: GPL-2.0
//! The owner's turns: what came in goes into the engine, and what comes out of it goes to the driver.
//!
//! Invariant: bytes that an operation reads or writes live until its end was handed in. A request that the engine has no room for is kept,
//! one at a time, and no other is asked for meanwhile.

use alloc::vec::Vec;
use core::cell::Cell;
use core::ffi::CStr;

use remap_core::engine::{Event, MAX_BOUNCES, RequestError, SubmitError};
use remap_core::memory::NoMemory;
use remap_core::op::{Buffer, DeviceId, Fault, Op, OpId, OpKind, Request, RequestId, RequestKind};
use remap_core::units::{Extent, Now};
use remap_words::notice::Level;

use crate::text::Text;
use crate::volume::Volume;

/// Operations that are out at a time; the others wait in the engine.
pub const MAX_OUT: usize = 256;

/// Bytes of a line for the log.
const LINE: usize = 512;

/// Where an operation's bytes are.
#[derive(Clone, Copy, Debug)]
pub enum Source<'a> {
    /// It has none.
    Nothing,
    /// In the buffer of a request, from a byte offset on.
    Request(u64, u64),
    /// Here, until the operation's end was handed in.
    Bytes(&'a [Cell<u8>]),
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
    /// What was written becomes durable.
    Flush,
    /// Wait for what began before.
    Grace,
}

/// An operation to carry out.
#[derive(Clone, Copy, Debug)]
pub struct Work<'a> {
    /// Its name, below [`MAX_OUT`].
    pub slot: usize,
    /// On which device: 0 is the main device, n + 1 the spare number n of the table line.
    pub device: usize,
    /// What.
    pub kind: WorkKind,
    /// Where.
    pub extent: Extent,
    /// With which bytes.
    pub source: Source<'a>,
}

/// What came in.
#[derive(Clone, Copy, Debug)]
pub enum Input {
    /// An operation ended.
    Ended {
        /// Which.
        slot: usize,
        /// How.
        result: Result<(), Fault>,
    },
    /// Something of the fast lane failed with a fault that does not blame the medium.
    Failed {
        /// On which device, as in [`Work`].
        device: usize,
        /// It was a flush.
        flush: bool,
        /// How.
        fault: Fault,
    },
    /// A request; `id` is unique while it is under way.
    Asked {
        /// Its name.
        id: u64,
        /// What.
        kind: RequestKind,
        /// Where; `None`: nowhere, it is a mistake.
        extent: Option<Extent>,
    },
}

/// Who moves bytes.
pub trait Driver {
    /// What came in until now, once each: operations that ended before all others, requests last and only if they are wanted.
    fn next(&mut self, requests: bool) -> Option<Input>;
    /// Begins an operation, in any order with others that are out.
    fn begin(&mut self, work: &Work<'_>);
    /// The request has ended.
    fn end_request(&mut self, id: u64, result: Result<(), Fault>);
    /// News. `level`: how much it matters; `None`: to nobody but a debugger. `tell`: waiters for events want to hear of it.
    fn log(&mut self, level: Option<Level>, tell: bool, text: &CStr);
}

/// An operation that is out, with the bytes that it writes if they are the engine's own.
#[derive(Debug)]
pub(crate) struct Out {
    id: OpId,
    bytes: Vec<u8>,
}

/// Buffers of one block, made when they are first needed.
#[derive(Debug)]
pub(crate) struct Bounces(Vec<Vec<Cell<u8>>>);

impl Bounces {
    pub(crate) fn none_yet() -> Result<Self, NoMemory> {
        let mut all = Vec::new();
        all.try_reserve_exact(MAX_BOUNCES).map_err(|_| NoMemory)?;
        all.extend((0..MAX_BOUNCES).map(|_| Vec::new()));
        Ok(Self(all))
    }

    fn from(&mut self, index: u16, offset: u32, block_size: u32) -> Result<&[Cell<u8>], Fault> {
        let bounce = self.0.get_mut(usize::from(index)).ok_or(Fault::NoMemory)?;
        if bounce.is_empty() {
            bounce.try_reserve_exact(block_size as usize).map_err(|_| Fault::NoMemory)?;
            bounce.extend((0..bounce.capacity().min(block_size as usize)).map(|_| Cell::new(0)));
        }
        bounce.get(offset as usize..).ok_or(Fault::NoMemory)
    }
}

impl Volume {
    /// Takes what came in, sees what time it is, and hands on what comes out.
    pub fn turn(&mut self, now: Now, driver: &mut dyn Driver) {
        self.now = now;
        while let Some(input) = driver.next(self.kept.is_none()) {
            self.fail_if_asked();
            match input {
                Input::Ended { slot, result } => self.ended(now, slot, result),
                Input::Failed { device, flush, fault } => self.failed(now, device, flush, fault),
                Input::Asked { id, kind, extent: Some(extent) } => {
                    self.take(now, Request { id: RequestId(id), kind, extent }, driver);
                }
                Input::Asked { id, .. } => driver.end_request(id, Err(Fault::Unknown)),
            }
            self.hand_on(now, driver);
        }
        if self.timeout() <= now.mono_ns {
            self.engine.handle_timeout(now);
        }
        self.hand_on(now, driver);
    }

    #[expect(clippy::panic, reason = "asked for: a drill of a mistake in the code of the owner")]
    fn fail_if_asked(&mut self) {
        self.fails_after = match self.fails_after {
            0 => 0,
            1 => panic!("trigger_failure was set"),
            more => more.wrapping_sub(1),
        };
    }

    /// When the next turn is due though nothing came in, in monotonic nanoseconds; `u64::MAX`: not at all.
    #[must_use]
    pub fn timeout(&self) -> u64 {
        self.engine.poll_timeout().unwrap_or(u64::MAX)
    }

    /// Is something out, or does somebody wait for an answer?
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.free.len() < MAX_OUT || self.kept.is_some() || self.calls.are_under_way()
    }

    /// Hands a request to the engine, or keeps it.
    fn take(&mut self, now: Now, request: Request, driver: &mut dyn Driver) {
        match self.engine.submit(now, request) {
            Ok(()) => {}
            Err(SubmitError::Full) => self.kept = Some(request),
            Err(SubmitError::OutOfRange) => driver.end_request(request.id.0, Err(Fault::Unknown)),
        }
    }

    fn ended(&mut self, now: Now, slot: usize, result: Result<(), Fault>) {
        let Some(out) = self.out.get_mut(slot).and_then(Option::take) else { return };
        // There is room for all of them.
        let _ = self.free.try_push(slot);
        drop(out.bytes);
        self.engine.handle_completion(now, out.id, result);
    }

    fn failed(&mut self, now: Now, device: usize, flush: bool, fault: Fault) {
        let device = match device.checked_sub(1) {
            None => Some(DeviceId::Main),
            Some(given) => self.number_of(given).map(DeviceId::Spare),
        };
        match device {
            None => {} // It has left.
            Some(device) if flush => self.engine.report_flush(now, device, fault),
            Some(device) => self.engine.report(now, device, fault),
        }
    }

    /// Which number of the volume has the spare of this place in the table line?
    pub(crate) fn number_of(&self, given: usize) -> Option<u8> {
        let at = self.devices.iter().position(|device| *device == Some(given))?;
        u8::try_from(at).ok()
    }

    /// All that the engine has to say and wants done, as far as there is room for operations.
    fn hand_on(&mut self, now: Now, driver: &mut dyn Driver) {
        loop {
            self.tell(driver);
            while !self.free.is_empty() {
                let Some(op) = self.engine.poll_op() else { break };
                let id = op.id;
                if let Err(outcome) = self.begin(op, driver) {
                    self.engine.handle_completion(now, id, outcome);
                }
            }
            let Some(request) = self.kept.take() else { return };
            self.take(now, request, driver);
            if self.kept.is_some() {
                return;
            }
        }
    }

    /// `Err`: it is over already.
    fn begin(&mut self, op: Op, driver: &mut dyn Driver) -> Result<(), Result<(), Fault>> {
        let device = match op.device {
            DeviceId::Spare(n) if op.kind != OpKind::Grace => {
                let given = self.devices.get(usize::from(n)).copied().flatten();
                given.ok_or(Err(Fault::Gone))? + 1
            }
            _ => 0,
        };
        let (kind, buffer) = match op.kind {
            OpKind::Read(into) => (WorkKind::Read, Some(into)),
            OpKind::Write { from, fua } => (WorkKind::Write { fua }, Some(from)),
            OpKind::WriteZeroes { fua, may_unmap } => (WorkKind::Zeroes { fua, may_unmap }, None),
            OpKind::Discard => return Err(Ok(())), // A hint.
            OpKind::Flush => (WorkKind::Flush, None),
            OpKind::Grace => (WorkKind::Grace, None),
        };
        let block_size = self.engine.volume().block_size();
        let mut out = Out { id: op.id, bytes: Vec::new() };
        let source = match buffer {
            None => Source::Nothing,
            Some(Buffer::Request { id, offset }) => Source::Request(id.0, offset),
            Some(Buffer::Bounce { index, offset }) => {
                Source::Bytes(self.bounces.from(index, offset, block_size).map_err(Err)?)
            }
            Some(Buffer::Owned(bytes)) => {
                out.bytes = bytes;
                Source::Bytes(Cell::from_mut(out.bytes.as_mut_slice()).as_slice_of_cells())
            }
        };
        let Some(slot) = self.free.pop() else { return Err(Err(Fault::NoMemory)) };
        driver.begin(&Work { slot, device, kind, extent: op.extent, source });
        if let Some(place) = self.out.get_mut(slot) {
            *place = Some(out);
        }
        Ok(())
    }

    fn tell(&mut self, driver: &mut dyn Driver) {
        while let Some(event) = self.engine.poll_event() {
            match event {
                Event::RequestDone { id, result, .. } => {
                    let result = result.map_err(|error| match error {
                        RequestError::Io(fault) => fault,
                        RequestError::NoSpace => Fault::NoSpace,
                    });
                    driver.end_request(id.0, result);
                }
                Event::CommandDone { id, outcome } => self.call_ended(id.0, &outcome),
                Event::Notice(news) => {
                    let mut room = [0; LINE];
                    let mut text = Text::new(&mut room);
                    let (level, tell) = self.news(&news, &mut text);
                    driver.log(level, tell, text.as_c_str());
                }
            }
        }
    }
}
