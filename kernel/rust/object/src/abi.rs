// SPDX-License-Identifier: GPL-2.0
//! What `kernel/module/dmr.h` says, in Rust.
//!
//! Invariant: field for field what the header says; the sizes are asserted here and in the shim.

use core::cell::Cell;
use core::ffi::{c_char, c_void};
use core::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize};

use remap_glue::lookup::Lookup;
use remap_glue::shown::Lanes;
use remap_glue::target::{MAX_DEVICES, Target};
use remap_glue::turn::MAX_OUT;

pub(crate) const MAX_SPARES: usize = MAX_DEVICES - 1;
/// Bytes of the memory that [`dmr_wait`] moves.
pub(crate) const SCRATCH: usize = 65536;

pub(crate) const WRITE: u32 = 1;
pub(crate) const ZEROES: u32 = 2;
pub(crate) const DISCARD: u32 = 3;
pub(crate) const FLUSH: u32 = 4;
pub(crate) const GRACE: u32 = 5;
pub(crate) const FUA: u32 = 1;
pub(crate) const UNMAP: u32 = 2;

pub(crate) const PARSE: u32 = 0;
pub(crate) const REHEARSE: u32 = 1;
pub(crate) const ASSEMBLE: u32 = 2;
pub(crate) const END: u32 = 3;
pub(crate) const FREE: u32 = 4;
pub(crate) const TURN: u32 = 5;
pub(crate) const MESSAGE: u32 = 6;
pub(crate) const RESULT: u32 = 7;
pub(crate) const FORGET: u32 = 8;
pub(crate) const STATUS: u32 = 9;
pub(crate) const FIGURE: u32 = 10;
pub(crate) const TUNE: u32 = 11;
pub(crate) const TABLE: u32 = 12;

pub(crate) const IS_LIVE: u32 = 1;
pub(crate) const IS_FROZEN: u32 = 2;
pub(crate) const IS_BUSY: u32 = 4;

pub(crate) const ENDED: u32 = 0;
pub(crate) const FAULT: u32 = 1;
pub(crate) const FLUSH_FAULT: u32 = 2;

/// The shim's side of a target.
#[repr(C)]
pub struct Dmr {
    _private: [u8; 0],
}

#[repr(C)]
pub struct DmrPlace {
    pub(crate) sector: u64,
    pub(crate) sectors: u32,
    pub(crate) lane: u16,
    pub(crate) spare: u16,
}

/// For look-ups.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct DmrView {
    pub(crate) summary: *const AtomicU64,
    pub(crate) moving: *const AtomicUsize,
    pub(crate) lookup: *const Lookup,
    pub(crate) region_shift: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct DmrDevice {
    pub(crate) start: u64,
    pub(crate) sectors: u64,
    pub(crate) size: u64,
    pub(crate) name: *const c_char,
    pub(crate) word: u32,
    pub(crate) id: u32,
    pub(crate) logical_block: u32,
    pub(crate) read_only: u32,
}

/// What is in a cell or atomic the Rust object writes.
#[repr(C)]
pub struct DmrShared {
    pub(crate) view: Cell<DmrView>,
    pub(crate) target: Cell<*mut Target>,
    pub(crate) members: AtomicU32,
    pub(crate) devices_given: Cell<u32>,
    pub(crate) device_of: [AtomicU32; MAX_SPARES],
    pub(crate) devices: [Cell<DmrDevice>; MAX_DEVICES],
    pub(crate) timeout: AtomicU64,
    pub(crate) state: AtomicU32,
    pub(crate) answers: AtomicU32,
    pub(crate) scratch: *mut u8,
    pub(crate) sectors: u64,
    pub(crate) max_remaps: u64,
    pub(crate) counts: Lanes,
    pub(crate) name: [u8; 128],
}

#[repr(C)]
pub struct DmrAsk {
    pub(crate) c: *mut Dmr,
    pub(crate) shared: *const DmrShared,
    pub(crate) mono_ns: u64,
    pub(crate) unix_s: u64,
    pub(crate) ticket: u64,
    pub(crate) argv: *const *const c_char,
    pub(crate) text: *mut u8,
    pub(crate) room: u64,
    pub(crate) argc: u32,
    pub(crate) what: u32,
    pub(crate) number: u32,
    pub(crate) result: i32,
}

#[repr(C)]
pub struct DmrOp {
    pub(crate) sector: u64,
    pub(crate) sectors: u64,
    pub(crate) cookie: u64,
    pub(crate) offset: u64,
    pub(crate) bytes: *mut c_void,
    pub(crate) slot: u32,
    pub(crate) device: u32,
    pub(crate) kind: u32,
    pub(crate) flags: u32,
}

#[repr(C)]
#[derive(Default)]
pub struct DmrInput {
    pub(crate) cookie: u64,
    pub(crate) sector: u64,
    pub(crate) sectors: u64,
    pub(crate) is: u32,
    pub(crate) kind: u32,
    pub(crate) flags: u32,
    pub(crate) number: u32,
    pub(crate) error: i32,
}

const _: () = {
    assert!(size_of::<DmrPlace>() == 16);
    assert!(size_of::<DmrView>() == 32);
    assert!(size_of::<DmrDevice>() == 48);
    assert!(size_of::<DmrShared>() == 1192);
    assert!(size_of::<DmrAsk>() == 80);
    assert!(size_of::<DmrOp>() == 56);
    assert!(size_of::<DmrInput>() == 48);
    assert!(MAX_OUT == 256 && MAX_DEVICES == 17);
};

unsafe extern "C" {
    pub(crate) fn dmr_next(c: *mut Dmr, input: *mut DmrInput, requests: bool) -> bool;
    pub(crate) fn dmr_begin(c: *mut Dmr, op: *const DmrOp);
    pub(crate) fn dmr_end_request(c: *mut Dmr, cookie: u64, error: i32);
    pub(crate) fn dmr_log(c: *mut Dmr, level: u32, tell: bool, text: *const c_char);
    pub(crate) fn dmr_wait(c: *mut Dmr, device: u32, sector: u64, bytes: u32, write: bool) -> i32;
    pub(crate) fn dmr_random(bytes: *mut c_void, len: usize);
}
