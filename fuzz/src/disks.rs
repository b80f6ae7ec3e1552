//! Spares in memory, with places that cannot be read, and an engine that runs on them.
//!
//! Invariant: only bytes that the engine made itself (metadata) are kept; what is in a slot is no matter here.

use std::collections::BTreeMap;

use remap_core::engine::{Command, CommandId, Engine, Event, Notice};
use remap_core::op::{Buffer, DeviceId, Fault, Op, OpKind, Request, RequestId, RequestKind};
use remap_core::recovery::SpareReader;
use remap_core::units::{Extent, Now, SECTOR_SIZE, Sector};
use remap_format::PAGE_SIZE;

/// The bytes of some spares, in the order in which they are given.
#[derive(Clone, Debug, Default)]
pub struct Disks {
    /// Contents.
    pub spares: Vec<Vec<u8>>,
    /// Pages that cannot be read: device, number of the page, and how it fails.
    pub faults: BTreeMap<(usize, u64), Fault>,
    /// Bytes read so far.
    pub read: u64,
}

impl Disks {
    /// Their sizes in bytes.
    pub fn sizes(&self) -> Vec<u64> {
        self.spares.iter().map(|spare| spare.len() as u64).collect()
    }

    fn write(&mut self, device: usize, at: u64, bytes: &[u8]) -> Result<(), Fault> {
        let spare = self.spares.get_mut(device).ok_or(Fault::Gone)?;
        let at = usize::try_from(at).map_err(|_| Fault::Gone)?;
        let end = at.checked_add(bytes.len()).ok_or(Fault::Gone)?;
        spare.get_mut(at..end).ok_or(Fault::Gone)?.copy_from_slice(bytes);
        // Overwritten sectors read again.
        let page = (at / PAGE_SIZE) as u64;
        for page in page..=(end.saturating_sub(1) / PAGE_SIZE) as u64 {
            self.faults.remove(&(device, page));
        }
        Ok(())
    }
}

impl SpareReader for Disks {
    fn read(&mut self, spare: usize, offset: u64, into: &mut [u8]) -> Result<(), Fault> {
        self.read += into.len() as u64;
        let bytes = self.spares.get(spare).ok_or(Fault::Gone)?;
        let start = usize::try_from(offset).map_err(|_| Fault::Gone)?;
        let end = start.checked_add(into.len()).ok_or(Fault::Gone)?;
        let found = bytes.get(start..end).ok_or(Fault::Gone)?;
        let page = offset / PAGE_SIZE as u64;
        let last = (end.saturating_sub(1) / PAGE_SIZE) as u64;
        if let Some((_, fault)) = self.faults.range((spare, page)..=(spare, last)).next() {
            return Err(*fault);
        }
        into.copy_from_slice(found);
        Ok(())
    }
}

/// An engine and its spares, one step after the other.
pub struct Driver<'d> {
    /// The engine.
    pub engine: Engine,
    disks: &'d mut Disks,
    devices: Vec<Option<usize>>,
    /// Sectors of the main device that fail every read and write.
    pub bad: Vec<u64>,
    now: Now,
    requests: u64,
}

impl<'d> Driver<'d> {
    /// Drives `engine`, whose spares are `devices` of `disks`.
    pub fn of(engine: Engine, disks: &'d mut Disks, devices: Vec<Option<usize>>) -> Self {
        Self { engine, disks, devices, bad: Vec::new(), now: START, requests: 0 }
    }

    /// Carries out whatever the engine wants; gives its news. An engine that never has enough is a finding.
    pub fn settle(&mut self) -> Vec<Notice> {
        let mut notices = Vec::new();
        for _ in 0..200_000 {
            while let Some(event) = self.engine.poll_event() {
                if let Event::Notice(notice) = event {
                    notices.push(notice);
                }
            }
            let Some(op) = self.engine.poll_op() else { return notices };
            let id = op.id;
            let outcome = self.perform(op);
            self.now.mono_ns += 1000;
            self.engine.handle_completion(self.now, id, outcome);
        }
        let next = self.engine.poll_op();
        panic!("the engine does not come to rest: {:?} {next:?} {:?}", self.engine.state(), notices.last());
    }

    /// Does the page at this byte of a spare fail to be read?
    pub fn is_blind(&self, spare: u8, at: u64) -> bool {
        let device = self.devices.get(usize::from(spare)).copied().flatten();
        device.is_some_and(|device| self.disks.faults.contains_key(&(device, at / PAGE_SIZE as u64)))
    }

    /// The spares.
    pub fn disks(&mut self) -> &mut Disks {
        self.disks
    }

    /// Gives a command and waits for its end.
    pub fn command(&mut self, command: Command) {
        self.requests += 1;
        self.engine.command(self.now, CommandId(self.requests), command).expect("memory");
        self.settle();
    }

    /// A client's request, to its end.
    pub fn request(&mut self, kind: RequestKind, sector: u64, sectors: u64) {
        self.requests += 1;
        let Some(extent) = Extent::new(Sector(sector), sectors) else { return };
        let request = Request { id: RequestId(self.requests), kind, extent };
        if self.engine.submit(self.now, request).is_ok() {
            self.settle();
        }
    }

    fn perform(&mut self, op: Op) -> Result<(), Fault> {
        let extent = op.extent;
        let DeviceId::Spare(n) = op.device else {
            let touched = self.bad.iter().any(|&sector| extent.contains(Sector(sector)));
            let reads_or_writes = matches!(op.kind, OpKind::Read(_) | OpKind::Write { .. });
            return if touched && reads_or_writes { Err(Fault::Medium) } else { Ok(()) };
        };
        let device = self.devices.get(usize::from(n)).copied().flatten().ok_or(Fault::Gone)?;
        match op.kind {
            OpKind::Write { from: Buffer::Owned(bytes), .. } => {
                self.disks.write(device, extent.start().0 * SECTOR_SIZE, &bytes)
            }
            OpKind::Read(_) | OpKind::Write { .. } => {
                let size = self.disks.spares.get(device).map_or(0, |s| s.len() as u64);
                if extent.end().0 * SECTOR_SIZE <= size { Ok(()) } else { Err(Fault::Gone) }
            }
            _ => Ok(()),
        }
    }
}

/// When every engine here starts.
pub const START: Now = Now { mono_ns: 1_000_000_000, unix_s: 1_800_000_000 };
