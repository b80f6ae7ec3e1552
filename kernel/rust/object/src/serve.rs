// SPDX-License-Identifier: GPL-2.0
//! The two lanes.
//!
//! Invariant: see the crate. [`dmr_map`] and [`dmr_blames_medium`] may run in any context.

use remap_core::op::{Fault, OpId, RequestKind};
use remap_core::units::{Extent, Sector};
use remap_glue::lookup::{Asked, Lane, Lookup};
use remap_glue::text::Text;
use remap_glue::volume::{Source, Told, Volume, WorkKind};
use remap_words::notice::Level;

use crate::abi::{DmrEvent, DmrNow, DmrOp, DmrPlace, DmrView, device, device_number, number, outcome};
use crate::room;

const EBUSY: i32 = 16;
const EINVAL: i32 = 22;

const WRITE: u32 = 1;
const ZEROES: u32 = 2;
const DISCARD: u32 = 3;
const FLUSH: u32 = 4;
const GRACE: u32 = 5;
const FUA: u32 = 1;
const UNMAP: u32 = 2;

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dmr_view(volume: &Volume, out: &mut DmrView) {
    let (summary, moving, region_shift) = volume.lookup().summary();
    *out = DmrView { summary: summary.as_ptr(), moving, lookup: volume.lookup(), region_shift };
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dmr_map(lookup: &Lookup, sector: u64, sectors: u32, kind: u32) -> DmrPlace {
    let asked = match kind {
        WRITE | ZEROES => Asked::Write,
        DISCARD => Asked::Discard,
        _ => Asked::Read,
    };
    let place = lookup.place(sector, sectors, asked);
    let (kind, device) = match place.lane {
        Lane::Main => (0, 0),
        Lane::Spare(n) => (1, u16::from(n) + 1),
        Lane::Owner => (2, 0),
        Lane::Nobody => (3, 0),
    };
    DmrPlace { sector: place.sector, sectors: place.sectors, kind, device }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dmr_blames_medium(fault: u32) -> bool {
    outcome(fault).is_err_and(Fault::blames_medium)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dmr_submit(
    volume: &mut Volume,
    now: DmrNow,
    cookie: u64,
    kind: u32,
    flags: u32,
    sector: u64,
    sectors: u64,
) -> i32 {
    let fua = flags & FUA != 0;
    let kind = match kind {
        WRITE => RequestKind::Write { fua },
        ZEROES => RequestKind::WriteZeroes { fua, may_unmap: flags & UNMAP != 0 },
        DISCARD => RequestKind::Discard,
        FLUSH => RequestKind::Flush,
        _ => RequestKind::Read,
    };
    let extent = if kind == RequestKind::Flush {
        Extent::new(Sector(0), 1)
    } else {
        Extent::new(Sector(sector), sectors)
    };
    let Some(extent) = extent else { return -EINVAL };
    match volume.submit(now.into(), cookie, kind, extent) {
        Ok(()) => 0,
        Err(remap_core::engine::SubmitError::Full) => -EBUSY,
        Err(remap_core::engine::SubmitError::OutOfRange) => -EINVAL,
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dmr_complete(volume: &mut Volume, now: DmrNow, id: u64, fault: u32) {
    volume.complete(now.into(), OpId(id), outcome(fault));
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dmr_timeout(volume: &mut Volume, now: DmrNow) {
    volume.time_passed(now.into());
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dmr_next_timeout(volume: &Volume) -> u64 {
    volume.engine().poll_timeout().unwrap_or(u64::MAX)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dmr_poll_op(volume: &mut Volume, now: DmrNow, out: &mut DmrOp) -> bool {
    let Some(work) = volume.work(now.into()) else { return false };
    let (kind, fua, unmap) = match work.kind {
        WorkKind::Read => (0, false, false),
        WorkKind::Write { fua } => (WRITE, fua, false),
        WorkKind::Zeroes { fua, may_unmap } => (ZEROES, fua, may_unmap),
        WorkKind::Discard => (DISCARD, false, false),
        WorkKind::Flush => (FLUSH, false, false),
        WorkKind::Grace => (GRACE, false, false),
    };
    let (source, cookie, offset) = match work.source {
        Source::Nothing => (0, 0, 0),
        Source::Request(id, offset) => (1, id, offset),
        Source::Bounce(index, offset) => (2, u64::from(index), u64::from(offset)),
        Source::Lent => (3, 0, 0),
    };
    let flags = if fua { FUA } else { 0 } | if unmap { UNMAP } else { 0 };
    let bytes = if source == 3 { volume.lent(work.id).as_ptr() } else { core::ptr::null() };
    *out = DmrOp {
        id: work.id.0,
        sector: work.extent.start().0,
        sectors: work.extent.sectors(),
        cookie,
        offset,
        bytes,
        device: device_number(work.device),
        kind,
        flags,
        source,
    };
    true
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dmr_poll_event(
    volume: &mut Volume,
    out: &mut DmrEvent,
    text: *mut u8,
    text_room: usize,
) -> bool {
    // SAFETY: as the header says.
    let mut text = unsafe { Text::new(room(text, text_room)) };
    let Some(told) = volume.told(&mut text) else { return false };
    *out = DmrEvent { cookie: 0, kind: 0, fault: 0, level: 0, tell: 0 };
    match told {
        Told::Request { id, result } => (out.kind, out.cookie, out.fault) = (1, id, number(result)),
        Told::Answer { ticket } => (out.kind, out.cookie) = (2, ticket),
        Told::News { level, tell } => {
            (out.kind, out.tell) = (3, u32::from(tell));
            out.level = match level {
                Some(Level::Error) => 0,
                Some(Level::Warning) => 1,
                Some(Level::Info) => 2,
                None => 3,
            };
        }
    }
    true
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dmr_report(volume: &mut Volume, now: DmrNow, number: u32, fault: u32) {
    if let Err(fault) = outcome(fault) {
        volume.report(now.into(), device(number), fault);
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dmr_report_flush(volume: &mut Volume, now: DmrNow, number: u32, fault: u32) {
    if let Err(fault) = outcome(fault) {
        volume.report_flush(now.into(), device(number), fault);
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dmr_state(volume: &Volume) -> u32 {
    let engine = volume.engine();
    u32::from(engine.is_live()) | u32::from(engine.is_idle()) << 1 | u32::from(volume.is_frozen()) << 2
}
