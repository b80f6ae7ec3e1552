//! One system call of an operation, here and now.
//!
//! Invariant: a transfer stays inside the slice of memory that comes with it.

#![allow(unsafe_code)]

use std::io::IoSlice;

use rustix::io::{Errno, ReadWriteFlags};

use super::entry::{Act, Call};
use crate::device::widen;
use crate::{BufSlice, Device, ioctl};

/// Makes the call; how many bytes it moved.
pub(super) fn perform(device: &Device, memory: Option<&BufSlice>, call: &Call) -> Result<u64, Errno> {
    let fd = device.fd();
    let len = usize::try_from(call.len).unwrap_or(usize::MAX);
    match call.act {
        Act::Read => {
            let (start, len) = memory_of(memory, call.memory_offset, len)?;
            // SAFETY: the memory is inside the slice, which keeps it alive, and initialised. Nobody holds another
            // reference to it: `Buf` gives none while a slice exists, and slices of operations that read do not overlap
            // (a condition of `Buf::slice`).
            let bytes = unsafe { std::slice::from_raw_parts_mut(start, len) };
            rustix::io::pread(fd, bytes, call.offset).map(widen)
        }
        Act::Write { durable } | Act::WriteZeroBytes { durable } => {
            let (start, len) = memory_of(memory, call.memory_offset, len)?;
            // SAFETY: as above, and it is only read.
            let bytes = unsafe { std::slice::from_raw_parts(start, len) };
            let flags = if durable { ReadWriteFlags::DSYNC } else { ReadWriteFlags::empty() };
            rustix::io::pwritev2(fd, &[IoSlice::new(bytes)], call.offset, flags).map(widen)
        }
        Act::Fallocate(mode) => rustix::fs::fallocate(fd, mode, call.offset, call.len).map(|()| 0),
        Act::Discard => ioctl::discard(fd, call.offset, call.len).map(|()| 0),
        Act::Sync => rustix::fs::fdatasync(fd).map(|()| 0),
    }
}

/// Start and length of the memory of a transfer, inside the slice.
fn memory_of(memory: Option<&BufSlice>, at: usize, len: usize) -> Result<(*mut u8, usize), Errno> {
    let memory = memory.ok_or(Errno::INVAL)?;
    if at.checked_add(len).is_none_or(|end| end > memory.len()) {
        return Err(Errno::INVAL);
    }
    // SAFETY: `at` is at most the slice's length.
    Ok((unsafe { memory.as_ptr().add(at) }, len))
}
