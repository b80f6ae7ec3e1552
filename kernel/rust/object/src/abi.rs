// SPDX-License-Identifier: GPL-2.0
//! The structures of `kernel/module/dmr.h`, and the numbers in them.
//!
//! Invariant: field for field what the header says; the sizes are asserted here and in the shim.

use core::ffi::c_void;
use core::sync::atomic::{AtomicU64, AtomicUsize};

use remap_core::op::{DeviceId, Fault};
use remap_core::units::Now;
use remap_glue::lookup::Lookup;
use remap_glue::shown::Lanes;

pub(crate) const MAX_SPARES: usize = 16;

#[repr(C)]
#[derive(Clone, Copy)]
pub struct DmrNow {
    mono_ns: u64,
    unix_s: u64,
}

impl From<DmrNow> for Now {
    fn from(now: DmrNow) -> Self {
        Self { mono_ns: now.mono_ns, unix_s: now.unix_s }
    }
}

#[repr(C)]
pub struct DmrTable {
    pub(crate) start: [u64; MAX_SPARES],
    pub(crate) sectors: [u64; MAX_SPARES],
    pub(crate) max_remaps: u64,
    pub(crate) spare: [u32; MAX_SPARES],
    pub(crate) spares: u32,
    pub(crate) block_size: u32,
    pub(crate) policy: u32,
    pub(crate) form: u32,
    pub(crate) adopt: u32,
    pub(crate) any_main: u32,
    pub(crate) any_state: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct DmrDevice {
    pub(crate) bytes: u64,
    pub(crate) logical_block: u32,
    pub(crate) read_only: u32,
}

#[repr(C)]
pub struct DmrAssembly {
    pub(crate) table: *const DmrTable,
    pub(crate) context: *mut c_void,
    pub(crate) read: unsafe extern "C" fn(*mut c_void, u32, u64, *mut u8, usize) -> u32,
    pub(crate) zero: unsafe extern "C" fn(*mut c_void, u32, u64, usize) -> u32,
    pub(crate) now: DmrNow,
    pub(crate) served: u32,
    pub(crate) main: DmrDevice,
    pub(crate) spares: [DmrDevice; MAX_SPARES],
    pub(crate) volume_bytes: u64,
    pub(crate) name: [u8; 64],
    pub(crate) random: [[u8; 16]; MAX_SPARES + 1],
}

#[repr(C)]
pub struct DmrShape {
    pub(crate) sectors: u64,
    pub(crate) block_size: u32,
    pub(crate) logical_block: u32,
    pub(crate) spares: u32,
    pub(crate) spare: [u32; MAX_SPARES],
}

#[repr(C)]
pub struct DmrPlace {
    pub(crate) sector: u64,
    pub(crate) sectors: u32,
    pub(crate) kind: u16,
    pub(crate) device: u16,
}

#[repr(C)]
pub struct DmrOp {
    pub(crate) id: u64,
    pub(crate) sector: u64,
    pub(crate) sectors: u64,
    pub(crate) cookie: u64,
    pub(crate) offset: u64,
    pub(crate) bytes: *const u8,
    pub(crate) device: u32,
    pub(crate) kind: u32,
    pub(crate) flags: u32,
    pub(crate) source: u32,
}

#[repr(C)]
pub struct DmrEvent {
    pub(crate) cookie: u64,
    pub(crate) kind: u32,
    pub(crate) fault: u32,
    pub(crate) level: u32,
    pub(crate) tell: u32,
}

/// For look-ups.
#[repr(C)]
pub struct DmrView {
    pub(crate) summary: *const AtomicU64,
    pub(crate) moving: *const AtomicUsize,
    pub(crate) lookup: *const Lookup,
    pub(crate) region_shift: u32,
}

const _: () = {
    assert!(size_of::<DmrTable>() == 360);
    assert!(size_of::<DmrAssembly>() == 672);
    assert!(size_of::<DmrShape>() == 88);
    assert!(size_of::<DmrPlace>() == 16);
    assert!(size_of::<DmrOp>() == 64);
    assert!(size_of::<DmrEvent>() == 24);
    assert!(size_of::<Lanes>() == 96);
    assert!(size_of::<DmrView>() == 32);
};

/// The faults, in the order of their numbers (from 1).
const FAULTS: [Fault; 9] = [
    Fault::Medium,
    Fault::Protection,
    Fault::Transport,
    Fault::Timeout,
    Fault::Gone,
    Fault::NoSpace,
    Fault::Unsupported,
    Fault::Unknown,
    Fault::NoMemory,
];

/// What a number says of an operation. One that the header does not know says nothing.
pub(crate) fn outcome(number: u32) -> Result<(), Fault> {
    match number {
        0 => Ok(()),
        n => Err(FAULTS.get(n as usize - 1).copied().unwrap_or(Fault::Unknown)),
    }
}

pub(crate) fn number(result: Result<(), Fault>) -> u32 {
    match result {
        Ok(()) => 0,
        Err(fault) => FAULTS.iter().position(|&known| known == fault).map_or(8, |at| at as u32 + 1),
    }
}

/// Of the main device, or of a spare by its number in the volume.
pub(crate) fn device(number: u32) -> DeviceId {
    number.checked_sub(1).and_then(|n| u8::try_from(n).ok()).map_or(DeviceId::Main, DeviceId::Spare)
}

pub(crate) fn device_number(device: DeviceId) -> u32 {
    match device {
        DeviceId::Main => 0,
        DeviceId::Spare(n) => u32::from(n) + 1,
    }
}
