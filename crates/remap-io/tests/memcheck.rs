//! What the lane `memcheck` must see, or it sees nothing.
#![allow(missing_docs, unsafe_code)]

use std::hint::black_box;

use remap_io::Buf;

/// Memory that a transfer was to go to is given back too early.
#[test]
#[ignore = "wrong on purpose: the lane `memcheck` runs it under valgrind, where it must fail"]
fn memory_that_was_given_back() {
    let buf = Buf::alloc(4096).expect("memory");
    let start = black_box(buf.bytes().as_ptr());
    drop(buf);
    // SAFETY: none; that is what is to be found.
    black_box(unsafe { start.add(100).read_volatile() });
}
