//! The block-device ioctls we need, typed.
//!
//! Invariant: each function pairs one opcode with the argument type that `linux/fs.h` gives it.

#![allow(unsafe_code)]

use std::os::fd::BorrowedFd;

use rustix::io;
use rustix::ioctl::{Getter, Opcode, Setter, ioctl, opcode};

const BLKROGET: Opcode = opcode::none(0x12, 94);
const BLKDISCARD: Opcode = opcode::none(0x12, 119);
/// The header says `size_t`, the kernel writes a `u64`.
const BLKGETSIZE64: Opcode = opcode::read::<usize>(0x12, 114);

/// Size of a block device in bytes; 0 once it has vanished.
pub(crate) fn size_bytes(fd: BorrowedFd<'_>) -> io::Result<u64> {
    // SAFETY: BLKGETSIZE64 writes one u64.
    unsafe { ioctl(fd, Getter::<BLKGETSIZE64, u64>::new()) }
}

/// Is the block device set read-only?
pub(crate) fn is_read_only(fd: BorrowedFd<'_>) -> io::Result<bool> {
    // SAFETY: BLKROGET writes one int.
    unsafe { ioctl(fd, Getter::<BLKROGET, i32>::new()) }.map(|flag| flag != 0)
}

/// Discards bytes `[offset, offset + len)`; both multiples of the logical block. Blocks until done.
pub(crate) fn discard(fd: BorrowedFd<'_>, offset: u64, len: u64) -> io::Result<()> {
    // SAFETY: BLKDISCARD reads two u64: start and length in bytes.
    unsafe { ioctl(fd, Setter::<BLKDISCARD, [u64; 2]>::new([offset, len])) }
}
