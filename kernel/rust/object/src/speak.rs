// SPDX-License-Identifier: GPL-2.0
//! Messages and status.
//!
//! Invariant: see the crate.

use core::ffi::{CStr, c_char};
use core::ptr;

use remap_glue::call::Progress;
use remap_glue::shown::{self, Lanes};
use remap_glue::text::Text;
use remap_glue::volume::Volume;
use remap_words::status;

use crate::abi::DmrNow;
use crate::{room, words};

const EINVAL: i32 = 22;

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dmr_message(
    volume: &mut Volume,
    now: DmrNow,
    argc: u32,
    argv: *const *const c_char,
    spares: u32,
    names: *const *const c_char,
    lanes: &Lanes,
    ticket: &mut u64,
    text: *mut u8,
    text_room: usize,
) -> i32 {
    // SAFETY: as the header says.
    let (words, mut text) = unsafe { (words(argc, argv), Text::new(room(text, text_room))) };
    // SAFETY: as the header says: two for each spare.
    let names = unsafe { crate::words(2 * spares, names) };
    let (pairs, _) = names.as_slice().as_chunks::<2>();
    match volume.message(now.into(), words.as_slice(), pairs, (*lanes).into(), &mut text) {
        Progress::Answered => 0,
        Progress::Pending(number) => {
            *ticket = number;
            1
        }
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dmr_answer(volume: &mut Volume, ticket: u64, text: *mut u8, text_room: usize) {
    // SAFETY: as the header says.
    let mut text = unsafe { Text::new(room(text, text_room)) };
    volume.answer(ticket, &mut text);
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dmr_forget(volume: &mut Volume, ticket: u64) {
    volume.forget(ticket);
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dmr_status(
    volume: &Volume,
    form: u32,
    lanes: &Lanes,
    main: *const c_char,
    spare: *const c_char,
    text: *mut u8,
    text_room: usize,
) {
    // SAFETY: as the header says.
    let (main, spare, mut text) =
        unsafe { (CStr::from_ptr(main), CStr::from_ptr(spare), Text::new(room(text, text_room))) };
    let figures = volume.figures((*lanes).into());
    // A line that is cut is all that there was room for.
    let _ = match form {
        1 => status::v4(&mut text, &figures, main.to_str().unwrap_or("?"), spare.to_str().unwrap_or("?")),
        _ => status::v2(&mut text, &figures),
    };
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dmr_figure_name(number: u32, tunable: &mut bool) -> *const c_char {
    let Some((name, can_be_set)) = shown::name(number as usize) else { return ptr::null() };
    *tunable = can_be_set;
    name.as_ptr()
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dmr_figure(
    volume: &Volume,
    number: u32,
    lanes: &Lanes,
    text: *mut u8,
    text_room: usize,
) {
    // SAFETY: as the header says.
    let mut text = unsafe { Text::new(room(text, text_room)) };
    // There is room for a number.
    let _ = volume.figure(number as usize, lanes, &mut text);
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dmr_tune(volume: &mut Volume, number: u32, value: *const c_char) -> i32 {
    // SAFETY: as the header says.
    let value = unsafe { CStr::from_ptr(value) };
    if value.to_str().is_ok_and(|value| volume.tune(number as usize, value)) { 0 } else { -EINVAL }
}
