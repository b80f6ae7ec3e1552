// SPDX-License-Identifier: GPL-2.0
//! What may be called in any context: look-ups, and the names of figures.
//!
//! Invariant: nothing here takes a lock, allocates or panics.

use core::ffi::c_char;
use core::ptr;

use remap_core::op::Fault;
use remap_glue::errno::outcome;
use remap_glue::lookup::{Asked, Lane, Lookup};
use remap_glue::shown;

use crate::abi::{DISCARD, DmrPlace, WRITE, ZEROES};

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dmr_map(lookup: &Lookup, sector: u64, sectors: u32, kind: u32) -> DmrPlace {
    let asked = match kind {
        WRITE | ZEROES => Asked::Write,
        DISCARD => Asked::Discard,
        _ => Asked::Read,
    };
    let place = lookup.place(sector, sectors, asked);
    let (lane, spare) = match place.lane {
        Lane::Main => (0, 0),
        Lane::Spare(n) => (1, u16::from(n)),
        Lane::Owner => (2, 0),
        Lane::Nobody => (3, 0),
    };
    DmrPlace { sector: place.sector, sectors: place.sectors, lane, spare }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dmr_blames_medium(error: i32) -> bool {
    outcome(error).is_err_and(Fault::blames_medium)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dmr_figure_name(number: u32, tunable: &mut bool) -> *const c_char {
    let Some((name, can_be_set)) = shown::name(number as usize) else { return ptr::null() };
    *tunable = can_be_set;
    name.as_ptr()
}
