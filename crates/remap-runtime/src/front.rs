//! What a front end (NBD now; ublk, stdio) sees of a volume: an [`Export`] to share, one [`Queue`] per thread.
//!
//! Invariant: every request that `submit` took is completed exactly once by `next`, whatever the devices do.

use std::os::fd::BorrowedFd;
use std::time::Duration;

use remap_core::op::RequestKind;
use remap_io::Buf;

use crate::trace::Trace;

/// What a client must know of the volume's size and limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Size in bytes.
    pub size: u64,
    /// Offsets and lengths of requests must be multiples of this many bytes (512 or 4096).
    pub min_io: u32,
    /// Preferred request alignment and size in bytes (the block size, at least 4096).
    pub preferred_io: u32,
    /// Largest request in bytes.
    pub max_io: u32,
    /// Writes are refused with EPERM.
    pub read_only: bool,
    /// Discards do something.
    pub can_discard: bool,
    /// The main device spins.
    pub rotational: bool,
    /// Export name that a client may use (the volume's name).
    pub name: String,
    /// One line for people.
    pub description: String,
}

/// Byte ranges, half-open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteRange {
    /// First byte.
    pub start: u64,
    /// Length in bytes.
    pub len: u64,
}

/// A request in bytes of the export; the front end has checked range and alignment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrontRequest {
    /// What to do.
    pub kind: RequestKind,
    /// First byte.
    pub offset: u64,
    /// Length in bytes (0 only for a flush).
    pub len: u64,
}

/// Why a request failed; the front end maps it to its protocol's errno.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FrontError {
    /// Unreadable or unwritable: EIO. For reads, `bad` lists exactly the byte ranges (of the export) that have no
    /// contents; everything else in the buffer is valid.
    Io {
        /// Ranges without contents, sorted, never empty for a read that was partly good.
        bad: Vec<ByteRange>,
    },
    /// No spare slot is left, or the device has no room: ENOSPC.
    NoSpace,
    /// The volume is read-only: EPERM.
    ReadOnly,
    /// The volume is being shut down: ESHUTDOWN.
    Shutdown,
}

/// One finished request.
#[derive(Debug)]
pub struct FrontCompletion {
    /// The caller's token.
    pub token: u64,
    /// How it went.
    pub result: Result<(), FrontError>,
    /// The buffer given with it; `None` if there was none, or if a device still holds it after a time-out.
    pub buf: Option<Buf>,
}

/// State of a stretch of the volume, for block status queries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockState {
    /// On the main device, never failed.
    Healthy,
    /// On a spare.
    Remapped,
    /// On the main device, in a block with unreadable neighbours.
    Pending,
    /// No device holds the contents; reads fail until it is overwritten.
    Lost,
}

/// A stretch with one state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatusRange {
    /// Length in bytes.
    pub len: u64,
    /// Its state.
    pub state: BlockState,
}

/// A volume that front ends can serve.
pub trait Export: Send + Sync + 'static {
    /// The per-thread half.
    type Queue: Queue;

    /// Sizes and limits; constant while the export lives.
    fn geometry(&self) -> Geometry;

    /// A new queue for the calling thread.
    ///
    /// # Errors
    /// The kernel gave no ring, descriptor or memory.
    fn queue(&self) -> std::io::Result<Self::Queue>;

    /// States of `[offset, offset + len)`, covering it exactly from the start, neighbours merged, at most `max_ranges`
    /// ranges (so it may stop short of the end).
    fn block_status(&self, offset: u64, len: u64, max_ranges: usize) -> Vec<StatusRange>;

    /// Where the front end's own stages of a request are recorded.
    fn trace(&self) -> &Trace;
}

/// One thread's way to submit requests and to wait for them and for its socket at the same time.
pub trait Queue {
    /// A page-aligned buffer of `len` bytes, contents unspecified. Reuses recycled ones.
    fn buffer(&mut self, len: usize) -> Buf;

    /// Gives a buffer back for reuse.
    fn recycle(&mut self, buf: Buf);

    /// Starts a request. Reads and writes bring a buffer of exactly `request.len` bytes.
    fn submit(&mut self, token: u64, request: FrontRequest, buf: Option<Buf>);

    /// Next finished request, if any. Never blocks.
    fn next(&mut self) -> Option<FrontCompletion>;

    /// Requests submitted and not yet returned by `next`.
    fn in_flight(&self) -> usize;

    /// Would `wait` return at once for something other than the caller's descriptor, as far as can be told without a system call?
    fn stirs(&mut self) -> bool;

    /// Blocks until a completion is there, `fd` is readable (`read`) or writable (`write`) as asked, or `timeout` is over.
    /// Returns the readiness of `fd`. A hang-up or error on `fd` counts as readable and writable.
    ///
    /// # Errors
    /// The wait itself failed; the queue is not usable any more.
    fn wait(
        &mut self,
        fd: BorrowedFd<'_>,
        interest: Interest,
        timeout: Option<Duration>,
    ) -> std::io::Result<Interest>;
}

/// What to wait for on a descriptor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Interest {
    /// Readable.
    pub read: bool,
    /// Writable.
    pub write: bool,
}
