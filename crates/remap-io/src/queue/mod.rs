//! I/O queues (being written: the signatures are final).
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use remap_core::op::Fault;

use crate::{BufSlice, Device};

/// How to talk to the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IoBackend {
    /// io_uring where the kernel lets us, else threads. `DM_REMAP_IO=threads` forces threads.
    #[default]
    Auto,
    /// io_uring.
    Uring,
    /// A small pool of threads.
    Threads,
}

/// What to do.
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
    /// The contents are no longer needed (a hint).
    Discard,
    /// Everything completed becomes durable.
    Flush,
}

/// An operation.
#[derive(Debug)]
pub struct DeviceOp {
    /// Where.
    pub device: Device,
    /// What.
    pub kind: IoKind,
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
    /// For reads and writes: exactly `len` bytes.
    pub buf: Option<BufSlice>,
}

/// A descriptor to wait for.
#[derive(Debug)]
pub struct Watch<'fd> {
    /// The descriptor.
    pub fd: BorrowedFd<'fd>,
    /// Wait until readable.
    pub read: bool,
    /// Wait until writable.
    pub write: bool,
    /// Out: readable (or hung up, or in error).
    pub ready_read: bool,
    /// Out: writable (or hung up, or in error).
    pub ready_write: bool,
}

/// Wakes a thread that waits in [`IoQueue::wait`] from another thread.
#[derive(Debug)]
pub struct Wake {}

impl Wake {
    /// Makes one.
    ///
    /// # Errors
    /// No descriptor left.
    pub fn create() -> io::Result<Arc<Self>> {
        unimplemented!()
    }
    /// Makes it readable.
    pub fn wake(&self) {
        unimplemented!()
    }
    /// Makes it not readable.
    pub fn clear(&self) {
        unimplemented!()
    }
}

impl AsFd for Wake {
    fn as_fd(&self) -> BorrowedFd<'_> {
        unimplemented!()
    }
}

/// One thread's I/O queue.
#[derive(Debug)]
pub struct IoQueue {}

#[allow(unused_variables)]
impl IoQueue {
    /// Opens a queue, to be used in this thread.
    ///
    /// # Errors
    /// The kernel refused, or no memory.
    pub fn open(backend: IoBackend, depth: u32) -> io::Result<Self> {
        unimplemented!()
    }
    /// The back end in use, never `Auto`.
    #[must_use]
    pub fn backend(&self) -> IoBackend {
        unimplemented!()
    }
    /// Starts an operation. Never blocks.
    pub fn submit(&mut self, tag: u64, op: DeviceOp, deadline: Duration) {
        unimplemented!()
    }
    /// The next completion. Never blocks.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Option<(u64, Result<(), Fault>)> {
        unimplemented!()
    }
    /// Tags submitted and not returned by `next`.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        unimplemented!()
    }
    /// Waits for a completion, a watched descriptor or the time.
    ///
    /// # Errors
    /// The queue is broken.
    pub fn wait(&mut self, fds: &mut [Watch<'_>], timeout: Option<Duration>) -> io::Result<()> {
        unimplemented!()
    }
    /// Call before closing a watched descriptor, if the queue lives on.
    pub fn forget(&mut self, fd: BorrowedFd<'_>) {
        unimplemented!()
    }
}
