//! Waking a thread that waits in a queue.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::event::{EventfdFlags, eventfd};

/// Wakes a thread that waits in [`IoQueue::wait`](crate::IoQueue::wait), from any thread. The waiting thread watches it for
/// reading.
#[derive(Debug)]
pub struct Wake {
    fd: OwnedFd,
}

impl Wake {
    /// Makes one.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn create() -> io::Result<Arc<Self>> {
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Arc::new(Self { fd }))
    }

    /// Makes it readable until [`Self::clear`].
    pub fn wake(&self) {
        // Any number will do, in any byte order. The only failure is a counter at its limit, which is readable already.
        let _ = rustix::io::write(&self.fd, &1_u64.to_le_bytes());
    }

    /// Makes it not readable. To be called before looking at what the other threads left, so that nothing is missed.
    pub fn clear(&self) {
        // The only failure is that it was not readable.
        let _ = rustix::io::read(&self.fd, &mut [0; 8]);
    }
}

impl AsFd for Wake {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
