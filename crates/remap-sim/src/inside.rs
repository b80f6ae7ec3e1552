//! Is this thread in the core now? An allocator that refuses memory on purpose must know: only the core's memory is in question.
//!
//! Invariant: between [`core()`] and what it calls back ([`outside`]) the answer is exact, also when either unwinds.

use core::cell::Cell;

thread_local! {
    static IN_CORE: Cell<bool> = const { Cell::new(false) };
    static REFUSALS: Cell<u64> = const { Cell::new(0) };
}

/// Sets the answer back when it goes away.
struct Back(bool);

impl Drop for Back {
    fn drop(&mut self) {
        IN_CORE.set(self.0);
    }
}

/// Runs the core's code.
pub fn core<T>(call: impl FnOnce() -> T) -> T {
    let _back = Back(IN_CORE.replace(true));
    call()
}

/// Runs ours, called back by the core.
pub fn outside<T>(call: impl FnOnce() -> T) -> T {
    let _back = Back(IN_CORE.replace(false));
    call()
}

/// Is the core running on this thread?
#[must_use]
pub fn is_core() -> bool {
    IN_CORE.get()
}

/// The allocator refused the core memory.
pub fn note_refusal() {
    REFUSALS.set(REFUSALS.get() + 1);
}

/// How often it did, on this thread.
#[must_use]
pub fn refusals() -> u64 {
    REFUSALS.get()
}
