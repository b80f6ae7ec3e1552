//! Requests of our own to a volume that the kernel serves: reading to find what is bad, writing where no client can be.
//!
//! Invariant: nothing is written outside of a hold; a write puts zeroes where the metadata say that nothing is, or the bytes that were
//! just read.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::time::Duration;

use anyhow::Context as _;
use remap_core::op::{Fault, RequestKind};
use remap_core::units::{Block, Extent, SECTOR_SIZE, Sector};
use remap_format::{EntryState, Policy};
use remap_io::{Buf, Device};
use remap_runtime::front::{Export as _, FrontCompletion, FrontError, FrontRequest, Interest, Queue as _};
use remap_runtime::{Volume, VolumeQueue, lost_extents};

use crate::map::pieces::{Place, pieces};

/// Sectors read at a time.
const STRIDE: u64 = 2048;
/// Requests out at a time.
const DEPTH: usize = 16;
/// Blocks held at a time.
const HELD: usize = 64;

/// Requests of one thread.
pub(super) struct Requests {
    queue: VolumeQueue,
    idle: File,
}

impl Requests {
    /// # Errors
    /// The kernel gave no ring or descriptor.
    pub(super) fn of(volume: &Volume) -> anyhow::Result<Self> {
        let queue = volume.queue().context("no queue")?;
        Ok(Self { queue, idle: File::open("/dev/null").context("/dev/null")? })
    }

    fn next(&mut self) -> anyhow::Result<FrontCompletion> {
        loop {
            if let Some(done) = self.queue.next() {
                return Ok(done);
            }
            self.queue.wait(self.idle.as_fd(), Interest::default(), Some(Duration::from_secs(1)))?;
        }
    }

    fn begin(&mut self, kind: RequestKind, extent: &Extent, buf: Option<Buf>) {
        let (offset, len) = (extent.start().0 * SECTOR_SIZE, extent.bytes());
        self.queue.submit(extent.start().0, FrontRequest { kind, offset, len }, buf);
    }

    fn one(
        &mut self,
        kind: RequestKind,
        extent: &Extent,
        buf: Option<Buf>,
    ) -> anyhow::Result<FrontCompletion> {
        self.begin(kind, extent, buf);
        self.next()
    }

    /// Reads extents; whatever cannot be read the engine looks at. Gives the sectors that were not read.
    ///
    /// # Errors
    /// The volume was stopped.
    pub(super) fn read_all(&mut self, extents: &[Extent]) -> anyhow::Result<u64> {
        let mut strides = extents.iter().flat_map(strides);
        let mut unread = 0;
        let mut out = 0;
        loop {
            while out < DEPTH
                && let Some(stride) = strides.next()
            {
                let buf = self.queue.buffer(usize::try_from(stride.bytes())?);
                self.begin(RequestKind::Read, &stride, Some(buf));
                out += 1;
            }
            if out == 0 {
                return Ok(unread);
            }
            let done = self.next()?;
            out -= 1;
            if let Some(buf) = done.buf {
                self.queue.recycle(buf);
            }
            match done.result {
                Ok(()) => {}
                Err(FrontError::Io { bad }) => {
                    unread += bad.iter().map(|range| range.len / SECTOR_SIZE).sum::<u64>()
                }
                Err(error) => anyhow::bail!("the volume takes no requests: {error:?}"),
            }
        }
    }

    /// Puts zeroes on the lost sectors of an extent; gives how many.
    ///
    /// # Errors
    /// The device cannot be suspended, or a sector takes no write anywhere.
    pub(super) fn heal(&mut self, volume: &Volume, extent: &Extent) -> anyhow::Result<u64> {
        let per_block = u64::from(volume.superblock().block_sectors());
        let size = volume.superblock().main.size / SECTOR_SIZE;
        let mut healed = 0;
        let mut from = extent.start();
        // A part at a time: what is lost is asked for again when no client and no move can change it.
        while let Some(rest) = Extent::between(from, extent.end()) {
            let entries = volume.entries_in(rest)?;
            let lost = lost_in(&lost_extents(entries.into_iter(), per_block, size), &rest);
            let Some(first) = lost.first() else { break };
            let start = Sector(first.start().0 - first.start().0 % per_block);
            let end = Sector(start.0 + HELD as u64 * per_block).min(extent.end());
            let Some(part) = Extent::between(start.max(extent.start()), end) else { break };
            let blocks = (start.0 / per_block..end.0.div_ceil(per_block)).map(Block);
            let _hold = volume.hold(blocks.collect())?;
            let entries = volume.entries_in(part)?;
            for lost in lost_in(&lost_extents(entries.into_iter(), per_block, size), &part) {
                let zeroes = RequestKind::WriteZeroes { fua: true, may_unmap: false };
                let done = self.one(zeroes, &lost, None)?;
                if let Err(error) = done.result {
                    let (first, last) = (lost.start().0, lost.end().0 - 1);
                    anyhow::bail!(
                        "sectors {first}-{last} take no write ({}); {healed} healed before",
                        why(&error)
                    );
                }
                healed += lost.sectors();
            }
            from = end;
        }
        Ok(healed)
    }

    /// Writes a block on a spare again, as it is: a slot that takes no write any more is left for another one.
    ///
    /// # Errors
    /// As [`Self::heal`].
    pub(super) fn renew(&mut self, volume: &Volume, block: Block) -> anyhow::Result<()> {
        let per_block = u64::from(volume.superblock().block_sectors());
        let size = volume.superblock().main.size / SECTOR_SIZE;
        let end = Sector((block.0 + 1).saturating_mul(per_block).min(size));
        let Some(extent) = Extent::between(Sector(block.0 * per_block), end) else { return Ok(()) };
        let _hold = volume.hold(vec![block])?;
        let entries = volume.entries_in(extent)?;
        let whole = entries.iter().any(|e| e.state == EntryState::Remapped && e.lost == 0);
        if !whole {
            // Nothing on a spare any more, or not all of it: what is lost there was noted by whoever found it.
            return Ok(());
        }
        let buf = self.queue.buffer(usize::try_from(extent.bytes())?);
        let read = self.one(RequestKind::Read, &extent, Some(buf))?;
        let (Ok(()), Some(buf)) = (read.result, read.buf) else { return Ok(()) };
        let written = self.one(RequestKind::Write { fua: true }, &extent, Some(buf))?;
        written.result.map_err(|error| anyhow::anyhow!("block {} takes no write ({})", block.0, why(&error)))
    }
}

fn why(error: &FrontError) -> &'static str {
    match error {
        FrontError::Io { .. } => "an error of the device, or remapping is suspended",
        FrontError::NoSpace => "no slot is free",
        FrontError::ReadOnly => "read-only",
        FrontError::Shutdown => "the volume is being stopped",
    }
}

fn lost_in(lost: &[Extent], part: &Extent) -> Vec<Extent> {
    lost.iter().filter_map(|extent| extent.intersect(part)).collect()
}

fn strides(extent: &Extent) -> impl Iterator<Item = Extent> + use<> {
    let (start, end) = (extent.start().0, extent.end().0);
    (start..end)
        .step_by(STRIDE as usize)
        .filter_map(move |at| Extent::between(Sector(at), Sector((at + STRIDE).min(end))))
}

/// Sectors of a device that cannot be read, found by halves down to the logical block. A fault that does not blame the medium ends it.
pub(super) fn unreadable(device: &Device, extent: &Extent) -> Result<Vec<Extent>, Fault> {
    let unit = u64::from(device.limits().logical_block) / SECTOR_SIZE;
    let mut bad: Vec<Extent> = Vec::new();
    let mut todo: Vec<Extent> = strides(extent).collect();
    todo.reverse();
    while let Some(part) = todo.pop() {
        let mut buf =
            usize::try_from(part.bytes()).ok().and_then(|len| Buf::alloc(len).ok()).ok_or(Fault::NoMemory)?;
        match device.read_at(part.start().0 * SECTOR_SIZE, &mut buf) {
            Ok(()) => {}
            Err(fault) if !fault.blames_medium() => return Err(fault),
            Err(_) if part.sectors() > unit => {
                let half = Sector(
                    part.start().0 + (part.sectors() / 2).next_multiple_of(unit).min(part.sectors() - unit),
                );
                todo.extend(Extent::between(half, part.end()));
                todo.extend(Extent::between(part.start(), half));
            }
            Err(_) => match bad.last_mut().filter(|last| last.end() == part.start()) {
                Some(last) => *last = Extent::between(last.start(), part.end()).unwrap_or(*last),
                None => bad.push(part),
            },
        }
    }
    Ok(bad)
}

/// Sectors of an extent that are on the main device, and those that are elsewhere (on a spare), both without the lost ones.
pub(super) fn places(volume: &Volume, extent: &Extent) -> anyhow::Result<(Vec<Extent>, Vec<Extent>)> {
    let block = volume.superblock().block_sectors();
    let size = volume.superblock().main.size / SECTOR_SIZE;
    let entries = volume.entries_in(*extent)?;
    let all = pieces(size, block, &entries);
    let of = |wanted: fn(&Place) -> bool| -> Vec<Extent> {
        all.iter().filter(|p| wanted(&p.place)).filter_map(|p| p.extent.intersect(extent)).collect()
    };
    Ok((of(|place| *place == Place::Main), of(|place| matches!(place, Place::Spare { .. }))))
}

/// Reads an extent to find what is bad, while clients go on: the engine acts on what it finds, but for the main device of a volume that
/// leaves bad sectors to it. Gives the sectors that cannot be read.
///
/// # Errors
/// The volume was stopped, or the path to a device fails.
pub(super) fn scrub(volume: &Volume, extent: &Extent) -> anyhow::Result<u64> {
    let (main, elsewhere) = places(volume, extent)?;
    let mut requests = Requests::of(volume)?;
    let mut unread = requests.read_all(&elsewhere)?;
    if leaves_to_main(volume)? {
        for part in &main {
            let bad = unreadable(volume.main(), part);
            let bad = bad.map_err(|fault| anyhow::anyhow!("the main device does not answer ({fault:?})"))?;
            unread += bad.iter().map(Extent::sectors).sum::<u64>();
        }
    } else {
        unread += requests.read_all(&main)?;
    }
    Ok(unread)
}

/// Do bad sectors of the main device stay there, to be overwritten?
pub(super) fn leaves_to_main(volume: &Volume) -> anyhow::Result<bool> {
    Ok(volume.status()?.policy == Policy::RewriteThenRemap)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use remap_io::{Drill, OpenOptions};

    use super::*;

    #[test]
    fn unreadable_sectors_are_found_one_by_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        std::fs::write(&path, vec![7; 4 << 20]).unwrap();
        let options = OpenOptions { direct: remap_io::Direct::Never, ..OpenOptions::default() };
        let drill = Drill::parse("bad=sectors:0;100-103;2047-2049;8191").unwrap();
        let device = Device::open(&path, &options).unwrap().with_drill(Arc::new(drill));
        let extent = |a, b| Extent::between(Sector(a), Sector(b)).unwrap();
        let bad = unreadable(&device, &extent(0, 8192)).unwrap();
        assert_eq!(bad, [extent(0, 1), extent(100, 104), extent(2047, 2050), extent(8191, 8192)]);
        assert_eq!(unreadable(&device, &extent(101, 103)).unwrap(), [extent(101, 103)]);
        assert_eq!(unreadable(&device, &extent(104, 2047)).unwrap(), []);
    }
}
