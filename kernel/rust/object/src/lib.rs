// SPDX-License-Identifier: GPL-2.0
//! The C interface of `kernel/module/dmr.h`.
//!
//! Invariant: a function here does nothing but turn C values into Rust values and back. What the header says about who may call it in
//! which context holds for each; pointers are valid as C says, and every length belongs to the pointer in front of it.

#![no_std]
#![allow(missing_docs, unreachable_pub, reason = "the header documents them, and C reaches them")]

extern crate alloc;

mod abi;
mod base;
mod open;
mod serve;
mod speak;

use core::ffi::{CStr, c_char};

use line::Words;

/// Lists of words without the allocator.
mod line {
    /// Most words of a table line or message that are looked at.
    pub(crate) const MAX_WORDS: usize = 96;

    /// The words of a line.
    pub(crate) struct Words<'a> {
        words: [&'a str; MAX_WORDS],
        count: usize,
    }

    impl<'a> Words<'a> {
        pub(crate) fn new() -> Self {
            Self { words: [""; MAX_WORDS], count: 0 }
        }

        pub(crate) fn push(&mut self, word: &'a str) {
            if let Some(place) = self.words.get_mut(self.count) {
                *place = word;
                self.count += 1;
            }
        }

        pub(crate) fn as_slice(&self) -> &[&'a str] {
            self.words.get(..self.count).unwrap_or(&[])
        }
    }
}

/// # Safety
/// `argv` has `argc` texts that end with a zero and live for `'a`.
unsafe fn words<'a>(argc: u32, argv: *const *const c_char) -> Words<'a> {
    let mut words = Words::new();
    for index in 0..argc as usize {
        // SAFETY: see above.
        let word = unsafe { CStr::from_ptr(*argv.add(index)) };
        // What is no text is no word that anybody knows.
        words.push(word.to_str().unwrap_or("?"));
    }
    words
}

/// # Safety
/// `text` has `room` bytes that nobody else uses.
unsafe fn room<'a>(text: *mut u8, room: usize) -> &'a mut [u8] {
    if room == 0 {
        return &mut [];
    }
    // SAFETY: see above.
    unsafe { core::slice::from_raw_parts_mut(text, room) }
}
