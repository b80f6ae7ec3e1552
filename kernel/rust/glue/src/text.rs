// SPDX-License-Identifier: GPL-2.0
//! Texts for C: into a buffer of fixed room, always with an end.
//!
//! Invariant: what does not fit is cut, and the last byte written is a zero.

use core::ffi::CStr;
use core::fmt::{self, Write};

/// A buffer that takes text.
#[derive(Debug)]
pub struct Text<'a> {
    room: &'a mut [u8],
    len: usize,
}

impl<'a> Text<'a> {
    /// An empty text in `room`.
    pub fn new(room: &'a mut [u8]) -> Self {
        if let Some(first) = room.first_mut() {
            *first = 0;
        }
        Self { room, len: 0 }
    }

    /// Bytes of text.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// As C wants it.
    #[must_use]
    pub fn as_c_str(&self) -> &CStr {
        CStr::from_bytes_until_nul(self.room).unwrap_or_default()
    }

    /// Is there none yet?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl Write for Text<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let free = self.room.get_mut(self.len..).unwrap_or_default();
        let taken = text.len().min(free.len().saturating_sub(1));
        for (to, from) in free.iter_mut().zip(text.bytes().take(taken).chain([0])) {
            *to = from;
        }
        self.len += taken;
        if taken < text.len() { Err(fmt::Error) } else { Ok(()) }
    }
}
