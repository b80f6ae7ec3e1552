//! A volatile write cache: what was written since the last flush is in memory only, so ending the process with SIGKILL is
//! a power cut.
//!
//! Invariant: of each block the newest bytes are either held here or on the device; a block leaves the cache only after
//! the device took it, and all that was held when a flush began is with the device before the flush goes there.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;

use crate::device::widen;
use crate::{Buf, Device};

/// Longest single write to the device, in bytes.
const RUN_BYTES_MAX: usize = 1 << 20;

/// A part of a read's buffer, and the newer bytes that belong there.
pub(crate) type Patch = (usize, Arc<[u8]>);

/// Unflushed writes of one device.
#[derive(Debug)]
pub(crate) struct Cache {
    limit: u64,
    state: Mutex<Held>,
}

#[derive(Debug)]
struct Held {
    /// Logical blocks by their offset on the device or slice.
    blocks: BTreeMap<u64, Arc<[u8]>>,
    bytes: u64,
    random: super::Random,
}

/// What became of a write.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// It is held, and done as far as the writer can tell. Ranges of bytes that reached the device meanwhile.
    Held(Vec<Range<u64>>),
    /// It is to go to the device; whatever was held of its range is there already.
    Through,
}

impl Cache {
    pub(crate) fn of(limit: u64, random: super::Random) -> Self {
        Self { limit, state: Mutex::new(Held { blocks: BTreeMap::new(), bytes: 0, random }) }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What of the range is not held.
    pub(crate) fn gaps(&self, device: &Device, range: Range<u64>) -> Vec<Range<u64>> {
        let block = u64::from(device.limits().logical_block);
        let held = self.held();
        let mut gaps = Vec::new();
        let mut at = range.start;
        let ends = held.blocks.range(range.clone()).map(|(&start, _)| (start, start + block));
        for (start, end) in ends.chain([(range.end, range.end)]) {
            if at < start {
                gaps.push(at..start);
            }
            at = end;
        }
        gaps
    }

    /// What is newer here than on the device, relative to the start of the range.
    pub(crate) fn patches(&self, range: &Range<u64>) -> Vec<Patch> {
        let held = self.held();
        let inside = held.blocks.range(range.clone());
        inside.map(|(at, bytes)| (position(at - range.start), Arc::clone(bytes))).collect()
    }

    /// Takes a write of these bytes, or lets it through: as from a real cache some writes go out at once, some of those
    /// only in part, and now and then an older one goes first.
    pub(crate) fn take(&self, device: &Device, offset: u64, bytes: &[u8]) -> Result<Taken, Errno> {
        let mut held = self.held();
        let range = offset..offset + widen(bytes.len());
        let mut out = Vec::new();
        if held.bytes + widen(bytes.len()) > self.limit {
            out = held.write_out(device, 0..u64::MAX, |_| true)?;
        }
        let chance = held.random.next() % 8;
        if chance == 0 || widen(bytes.len()) > self.limit {
            held.write_out(device, range, |_| true)?;
            return Ok(Taken::Through);
        }
        let block = position(u64::from(device.limits().logical_block));
        for (at, bytes) in (offset..).step_by(block).zip(bytes.chunks(block)) {
            if held.blocks.insert(at, bytes.into()).is_none() {
                held.bytes += widen(bytes.len());
            }
        }
        let chosen = |random: &mut super::Random| random.next().is_multiple_of(2);
        match chance {
            1 => out.extend(held.write_out(device, range, chosen)?),
            2 => {
                let from = held.random.next() % range.start.max(1);
                out.extend(held.write_out(device, from..range.start, chosen)?);
            }
            _ => {}
        }
        Ok(Taken::Held(out))
    }

    /// Brings what is held of a range to the device; the ranges of bytes that went there.
    pub(crate) fn write_out(&self, device: &Device, range: Range<u64>) -> Result<Vec<Range<u64>>, Errno> {
        self.held().write_out(device, range, |_| true)
    }
}

impl Held {
    /// Writes the chosen ones of the blocks in a range, in runs. Blocks of a run that failed stay.
    fn write_out(
        &mut self,
        device: &Device,
        range: Range<u64>,
        chosen: impl Fn(&mut super::Random) -> bool,
    ) -> Result<Vec<Range<u64>>, Errno> {
        let mut runs: Vec<(u64, Vec<u8>)> = Vec::new();
        for (&at, bytes) in self.blocks.range(range) {
            if !chosen(&mut self.random) {
                continue;
            }
            match runs.last_mut() {
                Some((start, run)) if *start + widen(run.len()) == at && run.len() < RUN_BYTES_MAX => {
                    run.extend_from_slice(bytes);
                }
                _ => runs.push((at, bytes.to_vec())),
            }
        }
        let mut out = Vec::new();
        for (start, run) in runs {
            write_all(device, start, &run)?;
            let end = start + widen(run.len());
            let gone: Vec<u64> = self.blocks.range(start..end).map(|(&at, _)| at).collect();
            for at in gone {
                self.bytes -= self.blocks.remove(&at).map_or(0, |bytes| widen(bytes.len()));
            }
            out.push(start..end);
        }
        Ok(out)
    }
}

/// Blocks until the device has taken the bytes; a drill may do that, a volume in earnest has none.
fn write_all(device: &Device, offset: u64, bytes: &[u8]) -> Result<(), Errno> {
    let mut buf = Buf::alloc(bytes.len()).map_err(|_| Errno::NOMEM)?;
    buf.bytes_mut().copy_from_slice(bytes);
    let mut done = 0;
    while done < bytes.len() {
        let at = device.absolute(offset) + widen(done);
        match rustix::io::pwrite(device.fd(), &buf.bytes()[done..], at) {
            Ok(0) => return Err(Errno::IO),
            Ok(more) => done += more,
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// A distance inside of memory.
fn position(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}
