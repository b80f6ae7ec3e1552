//! What a drill's write cache makes of an operation before the kernel gets it.
//!
//! Invariant: what goes on to the kernel finds the newest bytes of its range on the device, or (reads) in its patches as
//! they were when it was asked for; so two operations that do not overlap in time never see each other's range too old.

use std::ops::Range;

use remap_core::op::Fault;
use rustix::io::Errno;

use super::entry::Entry;
use super::op::{DeviceOp, IoKind};
use crate::BufSlice;
use crate::device::widen;
use crate::drill::{Cache, Taken};

/// Longer zeroes go to the device at once, in bytes.
const ZEROES_MAX: u64 = 1 << 20;

/// How the operation ended without the kernel; `None`: the kernel is to have it.
pub(super) fn pass(entry: &mut Entry) -> Option<Result<(), Fault>> {
    let device = entry.op.device.clone();
    let (cache, drill) = device.cache()?;
    // The queue refuses what overlaps a late write.
    if device.graveyard().blocks(&entry.range()) {
        return None;
    }
    let outcome = match entry.op.kind {
        IoKind::Read => return read(entry, cache),
        IoKind::Write { fua: false } if drill.is_enabled() => {
            let bytes = entry.op.buf.as_ref().map(BufSlice::copy_out).unwrap_or_default();
            hold(entry, cache, &bytes)
        }
        IoKind::WriteZeroes { fua: false, .. } if drill.is_enabled() && entry.op.len <= ZEROES_MAX => {
            let zeroes = vec![0; usize::try_from(entry.op.len).unwrap_or(0)];
            hold(entry, cache, &zeroes)
        }
        IoKind::Flush => cache.write_out(&device, 0..u64::MAX).map(|out| note(entry, &out)),
        _ => {
            let range = entry.op.offset..entry.op.offset + entry.op.len;
            cache.write_out(&device, range).map(|out| note(entry, &out))
        }
    };
    match outcome {
        Ok(()) if entry.held => Some(Ok(())),
        Ok(()) => None,
        Err(errno) => Some(Err(device.fault(errno))),
    }
}

fn read(entry: &mut Entry, cache: &Cache) -> Option<Result<(), Fault>> {
    entry.patches = cache.patches(&(entry.op.offset..entry.op.offset + entry.op.len));
    let patched: usize = entry.patches.iter().map(|(_, bytes)| bytes.len()).sum();
    (widen(patched) == entry.op.len).then_some(Ok(()))
}

fn hold(entry: &mut Entry, cache: &Cache, bytes: &[u8]) -> Result<(), Errno> {
    if let Taken::Held(out) = cache.take(&entry.op.device, entry.op.offset, bytes)? {
        entry.held = true;
        note(entry, &out);
    }
    Ok(())
}

/// Tells the drills which writes reached the device.
fn note(entry: &Entry, out: &[Range<u64>]) {
    for drill in entry.op.device.drills() {
        out.iter().for_each(|range| drill.wrote(range.start / 512..range.end.div_ceil(512)));
    }
}

/// Sectors of 512 bytes that the medium is asked about: what the cache holds it need not read.
pub(super) fn asked(op: &DeviceOp) -> Vec<Range<u64>> {
    let range = op.offset..op.offset + op.len;
    let sectors = |range: Range<u64>| range.start / 512..range.end.div_ceil(512);
    match op.device.cache() {
        Some((cache, _)) if op.kind == IoKind::Read => {
            cache.gaps(&op.device, range).into_iter().map(sectors).collect()
        }
        _ => vec![sectors(range)],
    }
}

/// What the cache had that was newer goes over what the device gave.
pub(super) fn patch(entry: &mut Entry) {
    if let Some(buf) = entry.op.buf.as_mut() {
        entry.patches.iter().for_each(|(at, bytes)| buf.copy_in(*at, bytes));
    }
}
