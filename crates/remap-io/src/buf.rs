//! Page-aligned, reference-counted buffers for direct I/O.
//!
//! Invariant: while a [`BufSlice`] of a buffer exists (an operation may touch the memory), nobody holds a Rust reference
//! to its bytes: [`Buf::slice`] needs `&mut`, and [`Buf::bytes`] and [`Buf::bytes_mut`] refuse to work unless the
//! buffer is unique. So the kernel may write behind the compiler's back without breaking any reference.

#![allow(unsafe_code)]

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

/// Alignment and granularity of buffers in bytes: enough for direct I/O on every device we know.
pub const BUF_ALIGN: usize = 4096;

/// Memory for a buffer could not be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "no memory for an I/O buffer of {bytes} bytes: free memory, or lower the queue depth or the request size"
)]
pub struct AllocError {
    /// What was asked for.
    pub bytes: usize,
}

/// The allocation itself; freed when the last buffer and slice are gone.
struct Memory {
    start: NonNull<u8>,
    layout: Layout,
}

// SAFETY: `Memory` is only an owned allocation; who may touch its bytes is decided by `Buf` and `BufSlice`.
unsafe impl Send for Memory {}
// SAFETY: as above; `Memory` itself gives no access to the bytes.
unsafe impl Sync for Memory {}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: `start` came from `alloc_zeroed` with this very layout and is freed once, here.
        unsafe { dealloc(self.start.as_ptr(), self.layout) }
    }
}

/// A page-aligned buffer. Callers pool them.
pub struct Buf {
    memory: Arc<Memory>,
    len: usize,
}

impl Buf {
    /// A zeroed buffer of `len` bytes; the capacity is rounded up to 4096 bytes (at least one such page).
    ///
    /// # Errors
    /// [`AllocError`] when the memory cannot be had.
    pub fn alloc(len: usize) -> Result<Self, AllocError> {
        let refused = AllocError { bytes: len };
        let capacity = len.max(1).checked_next_multiple_of(BUF_ALIGN).ok_or(refused)?;
        let layout = Layout::from_size_align(capacity, BUF_ALIGN).map_err(|_| refused)?;
        // SAFETY: the layout's size is at least BUF_ALIGN, never zero.
        let start = NonNull::new(unsafe { alloc_zeroed(layout) }).ok_or(refused)?;
        Ok(Self { memory: Arc::new(Memory { start, layout }), len })
    }

    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Is the length zero?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Changes the length; the bytes keep their contents.
    ///
    /// # Panics
    /// When `len` is above the capacity (a bug of the caller).
    pub fn set_len(&mut self, len: usize) {
        assert!(len <= self.capacity(), "a buffer of {} bytes cannot be {len} long", self.capacity());
        self.len = len;
    }

    /// Bytes allocated; a multiple of 4096.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.memory.layout.size()
    }

    /// True when no operation holds a slice of it, so that its bytes may be looked at.
    #[must_use]
    pub fn is_unique(&self) -> bool {
        let unique = Arc::strong_count(&self.memory) == 1;
        // Pairs with the release in the drop of the last slice: what its operation wrote is visible from here on.
        fence(Ordering::Acquire);
        unique
    }

    /// The contents.
    ///
    /// # Panics
    /// Unless the buffer is unique (a bug of the caller: an operation may still write to it).
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        assert!(self.is_unique(), "the buffer is still held by an I/O operation");
        // SAFETY: the allocation has at least `len` initialised bytes; no slice exists and none can be made while
        // `self` is borrowed (`slice` needs `&mut self`), so nothing writes to them.
        unsafe { std::slice::from_raw_parts(self.memory.start.as_ptr(), self.len) }
    }

    /// The contents, to be changed.
    ///
    /// # Panics
    /// Unless the buffer is unique (a bug of the caller: an operation may still use it).
    #[must_use]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        assert!(self.is_unique(), "the buffer is still held by an I/O operation");
        // SAFETY: as in `bytes`, and `&mut self` makes this the only reference.
        unsafe { std::slice::from_raw_parts_mut(self.memory.start.as_ptr(), self.len) }
    }

    /// A part of the buffer for an operation; it shares the memory and is dropped when the operation has ended.
    /// Slices that are out at the same time may overlap only if all of their operations write to the device.
    ///
    /// # Panics
    /// When the range is not within the length (a bug of the caller).
    #[must_use]
    pub fn slice(&mut self, range: Range<usize>) -> BufSlice {
        self.shared_slice(range)
    }

    /// As [`Self::slice`], for operations that only read the memory while somebody may hold a shared reference to it.
    pub(crate) fn shared_slice(&self, range: Range<usize>) -> BufSlice {
        assert!(
            range.start <= range.end && range.end <= self.len,
            "slice {range:?} of a buffer of {} bytes",
            self.len
        );
        BufSlice { memory: Arc::clone(&self.memory), start: range.start, len: range.len() }
    }
}

impl std::fmt::Debug for Buf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Buf").field("len", &self.len).field("capacity", &self.capacity()).finish()
    }
}

/// A part of a [`Buf`] in the hands of an operation. It keeps the memory alive until the kernel is done with it.
pub struct BufSlice {
    memory: Arc<Memory>,
    start: usize,
    len: usize,
}

impl BufSlice {
    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Is the length zero?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// A part of the part, for an operation of its own.
    ///
    /// # Panics
    /// When the range is not within the length (a bug of the caller).
    #[must_use]
    pub fn part(&self, range: Range<usize>) -> Self {
        assert!(
            range.start <= range.end && range.end <= self.len,
            "part {range:?} of a slice of {} bytes",
            self.len
        );
        Self { memory: Arc::clone(&self.memory), start: self.start + range.start, len: range.len() }
    }

    /// A copy of the bytes, for an operation that ends without the kernel.
    pub(crate) fn copy_out(&self) -> Vec<u8> {
        // SAFETY: inside the allocation, which `self` keeps alive, and initialised. The slice belongs to an operation that
        // writes, so others at most read this memory too (a condition of `Buf::slice`).
        unsafe { std::slice::from_raw_parts(self.as_ptr(), self.len) }.to_vec()
    }

    /// Puts bytes at a place inside, for an operation that reads and that the kernel does not have (any more), or never had.
    ///
    /// # Panics
    /// When they do not fit (a bug of the caller).
    pub fn copy_in(&mut self, at: usize, bytes: &[u8]) {
        assert!(at.checked_add(bytes.len()).is_some_and(|end| end <= self.len), "a patch beyond its slice");
        // SAFETY: checked to be inside the slice. Slices of operations that read overlap no other (a condition of
        // `Buf::slice`) and this operation is not with the kernel, so nobody else touches these bytes.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.as_ptr().add(at), bytes.len()) }
    }

    /// Another handle on the same bytes, for a worker that may outlive the queue.
    pub(crate) fn share(&self) -> Self {
        Self { memory: Arc::clone(&self.memory), start: self.start, len: self.len }
    }

    /// Address of the first byte. Valid for `len` bytes while `self` lives.
    pub(crate) fn as_ptr(&self) -> *mut u8 {
        // SAFETY: `start + len` was checked against the buffer's length, hence is inside the allocation.
        unsafe { self.memory.start.as_ptr().add(self.start) }
    }
}

impl std::fmt::Debug for BufSlice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BufSlice").field("start", &self.start).field("len", &self.len).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_aligned_zeroed_and_rounded_up() {
        let mut buf = Buf::alloc(5000).unwrap();
        assert_eq!((buf.len(), buf.capacity()), (5000, 8192));
        assert!(buf.bytes().iter().all(|&b| b == 0));
        assert_eq!(buf.bytes().as_ptr().addr() % BUF_ALIGN, 0);
        buf.set_len(8192);
        assert_eq!(buf.bytes_mut().len(), 8192);
        assert_eq!(Buf::alloc(0).unwrap().capacity(), 4096);
    }

    #[test]
    fn absurd_sizes_are_refused() {
        assert_eq!(Buf::alloc(usize::MAX).unwrap_err().bytes, usize::MAX);
        assert!(Buf::alloc(usize::MAX / 2).is_err());
    }

    #[test]
    fn a_slice_makes_the_buffer_shared_until_it_is_dropped() {
        let mut buf = Buf::alloc(4096).unwrap();
        let slice = buf.slice(512..1024);
        assert!(!buf.is_unique());
        assert_eq!(slice.len(), 512);
        assert!(std::panic::catch_unwind(|| buf.bytes().len()).is_err());
        drop(slice);
        assert!(buf.is_unique());
        assert_eq!(buf.bytes().len(), 4096);
    }

    #[test]
    fn a_slice_outlives_its_buffer() {
        let mut buf = Buf::alloc(4096).unwrap();
        buf.bytes_mut()[100] = 7;
        let slice = buf.slice(100..101);
        drop(buf);
        // SAFETY: one byte, kept alive by the slice, with no other handle.
        assert_eq!(unsafe { slice.as_ptr().read() }, 7);
    }
}
