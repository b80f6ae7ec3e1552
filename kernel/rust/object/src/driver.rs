// SPDX-License-Identifier: GPL-2.0
//! The shim as remap-glue wants it: who moves bytes in service, and during an assembly.
//!
//! Invariant: pointers that go out stay valid as long as the header says.

use core::ffi::CStr;
use core::ptr;

use remap_core::op::{Fault, RequestKind};
use remap_core::units::{Extent, Sector};
use remap_glue::assemble::Devices;
use remap_glue::errno::{error, outcome};
use remap_glue::turn::{Driver, Input, Source, Work, WorkKind};
use remap_words::notice::Level;

use crate::abi::{
    DISCARD, Dmr, DmrInput, DmrOp, DmrShared, ENDED, FAULT, FLUSH, FLUSH_FAULT, FUA, GRACE, SCRATCH, UNMAP,
    WRITE, ZEROES, dmr_begin, dmr_end_request, dmr_log, dmr_next, dmr_wait,
};

/// The shim's side of the target that is asked.
pub(crate) struct Shim<'a> {
    pub(crate) c: *mut Dmr,
    pub(crate) shared: &'a DmrShared,
}

fn request(input: &DmrInput) -> Input {
    let fua = input.flags & FUA != 0;
    let kind = match input.kind {
        WRITE => RequestKind::Write { fua },
        ZEROES => RequestKind::WriteZeroes { fua, may_unmap: input.flags & UNMAP != 0 },
        DISCARD => RequestKind::Discard,
        _ => RequestKind::Read,
    };
    Input::Asked { id: input.cookie, kind, extent: Extent::new(Sector(input.sector), input.sectors) }
}

impl Driver for Shim<'_> {
    fn next(&mut self, requests: bool) -> Option<Input> {
        let mut input = DmrInput::default();
        // SAFETY: as the header says: the owner asks.
        if !unsafe { dmr_next(self.c, &raw mut input, requests) } {
            return None;
        }
        let (number, result) = (input.number as usize, outcome(input.error));
        Some(match input.is {
            ENDED => Input::Ended { slot: number, result },
            FAULT | FLUSH_FAULT => {
                let fault = result.err().unwrap_or(Fault::Unknown);
                Input::Failed { device: number, flush: input.is == FLUSH_FAULT, fault }
            }
            _ => request(&input),
        })
    }

    fn begin(&mut self, work: &Work<'_>) {
        let (kind, fua, unmap) = match work.kind {
            WorkKind::Read => (0, false, false),
            WorkKind::Write { fua } => (WRITE, fua, false),
            WorkKind::Zeroes { fua, may_unmap } => (ZEROES, fua, may_unmap),
            WorkKind::Flush => (FLUSH, false, false),
            WorkKind::Grace => (GRACE, false, false),
        };
        let (cookie, offset, bytes) = match work.source {
            Source::Nothing => (0, 0, ptr::null_mut()),
            Source::Request(id, offset) => (id, offset, ptr::null_mut()),
            Source::Bytes(cells) => (0, 0, cells.as_ptr().cast_mut().cast()),
        };
        let op = DmrOp {
            sector: work.extent.start().0,
            sectors: work.extent.sectors(),
            cookie,
            offset,
            bytes,
            slot: work.slot as u32,
            device: work.device as u32,
            kind,
            flags: if fua { FUA } else { 0 } | if unmap { UNMAP } else { 0 },
        };
        // SAFETY: the shim copies it; the bytes are cells that live until the operation's end is handed in.
        unsafe { dmr_begin(self.c, &raw const op) }
    }

    fn end_request(&mut self, id: u64, result: Result<(), Fault>) {
        // SAFETY: it came from `next`, and ends once.
        unsafe { dmr_end_request(self.c, id, error(result)) }
    }

    fn log(&mut self, level: Option<Level>, tell: bool, text: &CStr) {
        let level = match level {
            Some(Level::Error) => 0,
            Some(Level::Warning) => 1,
            Some(Level::Info) => 2,
            None => 3,
        };
        // SAFETY: a text with its end; the shim only reads it.
        unsafe { dmr_log(self.c, level, tell, text.as_ptr()) }
    }
}

impl Shim<'_> {
    fn wait(&mut self, device: u32, offset: u64, bytes: usize, write: bool) -> Result<(), Fault> {
        // SAFETY: nothing is in service; at most as many bytes as the scratch memory has.
        outcome(unsafe { dmr_wait(self.c, device, offset / 512, bytes as u32, write) })
    }
}

impl Devices for Shim<'_> {
    fn read(&mut self, spare: Option<usize>, mut offset: u64, into: &mut [u8]) -> Result<(), Fault> {
        let device = spare.map_or(0, |spare| spare as u32 + 1);
        for part in into.chunks_mut(SCRATCH) {
            self.wait(device, offset, part.len(), false)?;
            // SAFETY: the scratch memory has as many bytes, and nobody else uses it.
            unsafe { ptr::copy_nonoverlapping(self.shared.scratch, part.as_mut_ptr(), part.len()) };
            offset += part.len() as u64;
        }
        Ok(())
    }

    fn zero(&mut self, spare: usize, mut offset: u64, mut bytes: u64) -> Result<(), Fault> {
        // SAFETY: as much has the scratch memory, and nobody else uses it.
        unsafe { ptr::write_bytes(self.shared.scratch, 0, SCRATCH) };
        while bytes > 0 {
            let part = bytes.min(SCRATCH as u64);
            self.wait(spare as u32 + 1, offset, part as usize, true)?;
            (offset, bytes) = (offset + part, bytes - part);
        }
        Ok(())
    }
}
