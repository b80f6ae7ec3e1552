//! What callers hand to a queue.

use std::os::fd::BorrowedFd;

use crate::{BufSlice, Device};

/// How to talk to the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IoBackend {
    /// io_uring where the kernel lets us, else threads. `DM_REMAP_IO=threads` in the environment means threads.
    #[default]
    Auto,
    /// io_uring, or the queue does not open.
    Uring,
    /// A small pool of threads.
    Threads,
}

/// What an operation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IoKind {
    /// Device to buffer.
    Read,
    /// Buffer to device.
    Write {
        /// Durable before it completes.
        fua: bool,
    },
    /// Make the range read as zeroes.
    WriteZeroes {
        /// Durable before it completes.
        fua: bool,
        /// The space may be given back.
        may_unmap: bool,
    },
    /// The contents are no longer needed: a hint, never refused for being unsupported.
    Discard,
    /// Everything completed on the device becomes durable. Offset and length are ignored.
    Flush,
}

impl IoKind {
    /// Can it change what the device holds?
    pub(crate) fn changes(self) -> bool {
        !matches!(self, Self::Read | Self::Flush)
    }
}

/// An operation on a device.
#[derive(Debug)]
pub struct DeviceOp {
    /// Where.
    pub device: Device,
    /// What.
    pub kind: IoKind,
    /// First byte; a multiple of the logical block.
    pub offset: u64,
    /// Bytes; a multiple of the logical block, not 0 except for a flush.
    pub len: u64,
    /// For reads and writes: exactly `len` bytes.
    pub buf: Option<BufSlice>,
    /// One of many parts of a long transfer, which together are worth another thread. A hint.
    pub scattered: bool,
}

/// A descriptor to wait for. A hang-up or an error sets both `ready` flags. Readiness may be spurious, as with `poll(2)`:
/// make the descriptor non-blocking.
#[derive(Debug)]
pub struct Watch<'fd> {
    /// The descriptor.
    pub fd: BorrowedFd<'fd>,
    /// Wait until it is readable.
    pub read: bool,
    /// Wait until it is writable.
    pub write: bool,
    /// Set by the wait: it is readable.
    pub ready_read: bool,
    /// Set by the wait: it is writable.
    pub ready_write: bool,
}

impl<'fd> Watch<'fd> {
    /// Waits for `fd` to become readable (`read`), writable (`write`) or either.
    #[must_use]
    pub fn on(fd: BorrowedFd<'fd>, read: bool, write: bool) -> Self {
        Self { fd, read, write, ready_read: false, ready_write: false }
    }

    /// Takes over what poll said.
    pub(crate) fn note(&mut self, events: u32) {
        let broken = events & (POLL_ERR | POLL_HUP | POLL_NVAL) != 0;
        self.ready_read |= broken || self.read && events & POLL_IN != 0;
        self.ready_write |= broken || self.write && events & POLL_OUT != 0;
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.ready_read || self.ready_write
    }
}

pub(crate) const POLL_IN: u32 = 0x1;
pub(crate) const POLL_OUT: u32 = 0x4;
pub(crate) const POLL_ERR: u32 = 0x8;
pub(crate) const POLL_HUP: u32 = 0x10;
pub(crate) const POLL_NVAL: u32 = 0x20;
