//! Atomics, and by name the orderings that the lock-free code cannot do without.
//!
//! Invariant: in a program these are the atomics of `core` and an [`Edge`] costs nothing. Built with `--cfg loom` or
//! `--cfg shuttle` they are the model checker's, and a model can weaken one edge to show that the check would see it. The code
//! that uses them is the same.

#[cfg(not(any(loom, shuttle)))]
pub use core::{
    hint::spin_loop,
    sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence},
};
#[cfg(loom)]
pub use loom::{
    hint::spin_loop,
    sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence},
};
#[cfg(all(shuttle, not(loom)))]
pub use shuttle::{
    hint::spin_loop,
    sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence},
};

#[cfg(any(loom, shuttle))]
pub mod models;

/// One end of a happens-before edge between threads. For each there is a model that fails when it is weakened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edge {
    /// The view's version is odd before anything else of it changes.
    ChangeBegun,
    /// Everything has changed before the version is even again.
    ChangeEnded,
    /// A reader sees all that was changed before the version that it starts with.
    LookupBegun,
    /// What a reader saw is older than the version that it ends with.
    LookupEnded,
    /// The table shows what became of a block before the block's place in the list of moving blocks is given up.
    MoveEnded,
    /// The same, for a reader that sees that nothing moves any more.
    LastMoveEnded,
    /// A reader that does not find its block in the list sees what became of it.
    MovingRead,
    /// The same, for a reader that sees that nothing moves.
    MovingCounted,
    /// A queue is busy before it looks up a placement.
    QueueBusy,
    /// A block is published as moving before the owner looks for busy queues.
    MovePublished,
    /// Whatever a queue did is over before it is no longer busy.
    QueueIdle,
    /// An owner that sees a queue idle sees what it did.
    QueueSeenIdle,
    /// In the kernel: moves are published before the epoch that begins with them.
    EpochBegun,
    /// In the kernel: a reader that is counted in an epoch sees the moves with which it began.
    EpochSeen,
    /// In the kernel: whatever a bio did is over before it is no longer counted.
    BioEnded,
    /// In the kernel: an owner that counts no bio sees what they did.
    BioSeenEnded,
}

impl Edge {
    /// The ordering of this end, `Relaxed` in a model that weakens it.
    #[inline]
    #[must_use]
    pub fn order(self, needed: Ordering) -> Ordering {
        #[cfg(any(loom, shuttle))]
        if models::is_weak(self) {
            return Ordering::Relaxed;
        }
        needed
    }

    /// A fence that is this end, none in a model that weakens it.
    #[inline]
    pub fn fence(self, needed: Ordering) {
        #[cfg(any(loom, shuttle))]
        if models::is_weak(self) {
            return;
        }
        fence(needed);
    }
}
