//! Blocks that lie side by side on a spare, read by one operation.
//!
//! Invariant: each of the blocks is a part of its own, for its result, its error and grace calls; one operation that fails on the medium
//! says nothing about any of them, and each is read alone. In the request the blocks lie apart, so the bytes pass through a buffer.
//!
//! Blocks that went bad one after the other got slots one after the other: a long read over many of them is one operation on the
//! spare beside those on the main device, instead of as many small ones as there are blocks.

use remap_core::op::{DeviceId, Fault};
use remap_core::units::{Extent, SECTOR_SIZE};
use remap_io::{Buf, DeviceOp, IoKind};

use super::{Part, VolumeQueue};
use crate::front::Queue;
use crate::mail::Lane;

/// Bit of the tag that tells a gather from a part; the rest is its index.
pub(super) const GATHER: u64 = 1 << 63;

/// A run of blocks that is being collected.
#[derive(Debug)]
pub(super) struct Run {
    spare: u8,
    /// On the spare.
    first: u64,
    end: u64,
    /// In the volume.
    pieces: Vec<Extent>,
}

/// A run on its way.
#[derive(Debug)]
pub(super) struct Gather {
    /// Sector of the first on the spare.
    first: u64,
    /// In the order in which they lie on the spare.
    parts: Vec<usize>,
    buf: Buf,
}

impl VolumeQueue {
    /// Adds a piece that is to be read from a sector of a spare, or begins with it another run.
    pub(super) fn gather(
        &mut self,
        active: usize,
        run: &mut Option<Run>,
        spare: u8,
        sector: u64,
        piece: Extent,
    ) {
        match run {
            Some(run) if (run.spare, run.end) == (spare, sector) => {
                run.end += piece.sectors();
                run.pieces.push(piece);
            }
            _ => {
                self.begin_run(active, run.take());
                let end = sector + piece.sectors();
                *run = Some(Run { spare, first: sector, end, pieces: vec![piece] });
            }
        }
    }

    pub(super) fn begin_run(&mut self, active: usize, run: Option<Run>) {
        let Some(Run { spare, first, end, pieces }) = run else { return };
        let device = DeviceId::Spare(spare);
        let opened = self.device(device).filter(|opened| pieces.len() > 1 && !opened.is_in_memory());
        let Some(opened) = opened else {
            let mut sector = first;
            for piece in pieces {
                self.begin_fast(active, piece, Some((spare, sector)), IoKind::Read);
                sector += piece.sectors();
            }
            return;
        };
        let mut parts = Vec::with_capacity(pieces.len());
        for piece in pieces {
            parts.push(self.parts.add(Part { active, extent: Some(piece), device, slow: false }));
            self.out.began();
            self.count(Lane::Fast, 1);
            self.count(Lane::Remapped, 1);
        }
        if let Some(active) = self.actives.get(active) {
            active.parts_left += parts.len();
        }
        let len = (end - first) * SECTOR_SIZE;
        let mut buf = self.buffer(usize::try_from(len).unwrap_or(usize::MAX));
        let slice = buf.slice(0..buf.len());
        let tag = GATHER | self.gathers.add(Gather { first, parts, buf }) as u64;
        let op = DeviceOp {
            device: opened,
            kind: IoKind::Read,
            offset: first * SECTOR_SIZE,
            len,
            buf: Some(slice),
            scattered: false,
        };
        self.io.submit(tag, op, self.shared.deadline);
    }

    pub(super) fn gather_done(&mut self, tag: u64, outcome: Result<(), Fault>) {
        let index = usize::try_from(tag & !GATHER).unwrap_or(usize::MAX);
        let Some(Gather { first, parts, buf }) = self.gathers.take(index) else { return };
        let mut sector = first;
        for index in parts {
            let Some(&mut part) = self.parts.get(index) else { continue };
            let Some(extent) = part.extent else { continue };
            match outcome {
                Ok(()) => {
                    let at = usize::try_from((sector - first) * SECTOR_SIZE).unwrap_or(usize::MAX);
                    let bytes = usize::try_from(extent.bytes()).unwrap_or(usize::MAX);
                    if let Some(mut slice) = self.slice_of(&part) {
                        slice.copy_in(0, &buf.bytes()[at..at + bytes]);
                    }
                    self.fast_done(index, Ok(()));
                }
                Err(fault) if fault.blames_medium() => {
                    self.start(index, &part, IoKind::Read, sector * SECTOR_SIZE);
                }
                Err(fault) => self.fast_done(index, Err(fault)),
            }
            sector += extent.sectors();
        }
        self.recycle(buf);
    }
}
