// SPDX-License-Identifier: GPL-2.0
//! What a program on bare metal brings itself: memory and an end.
//!
//! Invariant: memory comes from the shim; a panic never returns (the shim leaves the call, says where it was, and never asks the target again).

use core::alloc::{GlobalAlloc, Layout};
use core::ffi::c_void;
use core::panic::PanicInfo;

unsafe extern "C" {
    fn dmr_alloc(bytes: usize, align: usize) -> *mut c_void;
    fn dmr_dealloc(memory: *mut c_void);
    fn dmr_panic(text: *const u8, bytes: usize, file: *const u8, file_bytes: usize, line: u32);
}

struct Shim;

// SAFETY: the shim gives memory of this size and alignment, or none, and takes back what it gave.
unsafe impl GlobalAlloc for Shim {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: a plain call; the sizes are those of the layout.
        unsafe { dmr_alloc(layout.size(), layout.align()).cast() }
    }

    unsafe fn dealloc(&self, memory: *mut u8, _: Layout) {
        // SAFETY: it came from `alloc`.
        unsafe { dmr_dealloc(memory.cast()) }
    }
}

#[global_allocator]
static MEMORY: Shim = Shim;

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    let text = info.message().as_str().unwrap_or("a message with figures");
    let (file, line) = info.location().map_or(("", 0), |at| (at.file(), at.line()));
    // SAFETY: two texts with their lengths; the shim only reads them.
    unsafe { dmr_panic(text.as_ptr(), text.len(), file.as_ptr(), file.len(), line) };
    // SAFETY: an instruction that does not come back: an end that objtool can see.
    unsafe { core::arch::asm!("ud2", options(noreturn, nostack)) }
}
