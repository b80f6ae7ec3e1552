//! A bound on memory: the allocator of every target counts, and ends the process where a stated bound is passed.
//!
//! Invariant: the count is what is allocated now, by all threads; outside of [`within`] there is no bound.

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::Write as _;
use std::sync::atomic::{AtomicUsize, Ordering};

struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);
static LIMIT: AtomicUsize = AtomicUsize::new(usize::MAX);

fn grow(bytes: usize) {
    let now = NOW.fetch_add(bytes, Ordering::Relaxed) + bytes;
    PEAK.fetch_max(now, Ordering::Relaxed);
    if now > LIMIT.load(Ordering::Relaxed) {
        // Whatever is done about it must not be bounded itself.
        LIMIT.store(usize::MAX, Ordering::Relaxed);
        let _ = writeln!(
            std::io::stderr(),
            "memory: {now} bytes, beyond the stated bound; the last step was {bytes}"
        );
        std::process::abort();
    }
}

// SAFETY: every call is passed on unchanged to the system's allocator, which keeps the contract; counting allocates nothing.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        grow(layout.size());
        // SAFETY: the caller's promise about `layout` is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        grow(layout.size());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as above; `pointer` came from `System`, as all of ours do.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // While the bytes move both blocks exist.
        grow(size);
        // SAFETY: as above.
        let moved = unsafe { System.realloc(pointer, layout, size) };
        NOW.fetch_sub(if moved.is_null() { size } else { layout.size() }, Ordering::Relaxed);
        moved
    }
}

/// Calls `work`, which may have at most `bytes` more allocated at a time than there are now; gives its result and the most
/// that it had. Beyond the bound the process is aborted, which libFuzzer reports with the input.
pub fn within<T>(bytes: usize, work: impl FnOnce() -> T) -> (T, usize) {
    let before = NOW.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    LIMIT.store(before.saturating_add(bytes), Ordering::Relaxed);
    let done = work();
    LIMIT.store(usize::MAX, Ordering::Relaxed);
    (done, PEAK.load(Ordering::Relaxed).saturating_sub(before))
}
