// SPDX-License-Identifier: GPL-2.0
//! Messages and status.
//!
//! Invariant: see the crate.

use core::ffi::{CStr, c_char};

use remap_glue::call::Progress;
use remap_glue::text::Text;
use remap_glue::volume::Volume;
use remap_words::status;

use crate::abi::{DmrLanes, DmrNow};
use crate::{room, words};

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dmr_message(
    volume: &mut Volume,
    now: DmrNow,
    argc: u32,
    argv: *const *const c_char,
    lanes: &DmrLanes,
    ticket: &mut u64,
    text: *mut u8,
    text_room: usize,
) -> i32 {
    // SAFETY: as the header says.
    let (words, mut text) = unsafe { (words(argc, argv), Text::new(room(text, text_room))) };
    match volume.message(now.into(), words.as_slice(), (*lanes).into(), &mut text) {
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
    lanes: &DmrLanes,
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
