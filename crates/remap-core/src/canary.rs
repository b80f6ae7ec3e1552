//! Deliberately broken cores: the simulator must find each of them, or it proves nothing.
//!
//! Invariant: without the feature `canaries` nothing can be planted ([`Planted`] is empty, every question is answered `false` by a
//! constant, and the compiler drops what hangs on it); with it, an engine or a recovery for which nothing was planted behaves
//! like one without. What is planted belongs to one engine, never to the process.

use remap_format::{COPIES, newer};

use crate::elect::CopyHeader;

/// A way to break one rule of the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Canary {
    /// C1: a write is acknowledged when its edit is staged, before the record is durable.
    AckBeforeCommit,
    /// C1: a write that failed is acknowledged.
    AckFailedWrite,
    /// C2: a record is written before the slots that it names were flushed.
    MapBeforeData,
    /// C2: a flush counts for what was written after it had begun.
    FlushedTooEarly,
    /// C2: superblocks are written before the checkpoint that they name was flushed.
    NameBeforePages,
    /// C3: a read of lost sectors ends well, with whatever was in the buffer.
    ZeroesForLost,
    /// C3: a partial write heals the whole block.
    LostMaskDropped,
    /// C3: the main device's bytes of a block that once moved are believed.
    StaleMainBelieved,
    /// C4: a transport error counts as a medium error.
    TransportBlamed,
    /// C5: a slot is free again before the record that stops naming it is durable.
    FreedEarly,
    /// C6: a sector that cannot be read is read again, for ever.
    RetryForEver,
    /// C6: a write whose commit cannot be written is never answered.
    OrphanForgotten,
    /// C7: the order of operations depends on something outside of the engine.
    OrderFromOutside,
    /// C8: the oldest copy is elected.
    OldestElected,
    /// C8: a hole in the journal is taken for its end.
    HoleIgnored,
    /// C8: of two whole copies of a record that contradict each other one is believed.
    ContradictionIgnored,
    /// C9: what was salvaged is written to the main device too.
    SalvageWrittenHome,
    /// C10: a write to sectors that were written before is taken to be done.
    RepeatSkipped,
    /// C11: a block moves without waiting for the fast lane.
    NoGrace,
    /// C11: a block moves without waiting for the slow lane's own pieces.
    NoFence,
    /// The first block of an entry is looked up as if it had none.
    LookupOffByOne,
    /// Of what a read wants of a slot, the first sector only is read.
    FirstSectorOnly,
}

impl Canary {
    /// All of them.
    pub const ALL: [Self; 22] = [
        Self::AckBeforeCommit,
        Self::AckFailedWrite,
        Self::MapBeforeData,
        Self::FlushedTooEarly,
        Self::NameBeforePages,
        Self::ZeroesForLost,
        Self::LostMaskDropped,
        Self::StaleMainBelieved,
        Self::TransportBlamed,
        Self::FreedEarly,
        Self::RetryForEver,
        Self::OrphanForgotten,
        Self::OrderFromOutside,
        Self::OldestElected,
        Self::HoleIgnored,
        Self::ContradictionIgnored,
        Self::SalvageWrittenHome,
        Self::RepeatSkipped,
        Self::NoGrace,
        Self::NoFence,
        Self::LookupOffByOne,
        Self::FirstSectorOnly,
    ];
}

/// What was planted in an engine or a recovery: nothing, unless the feature `canaries` is on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Planted(#[cfg(feature = "canaries")] Option<Canary>);

impl Planted {
    /// Breaks it so.
    #[cfg(feature = "canaries")]
    #[must_use]
    pub const fn with(canary: Canary) -> Self {
        Self(Some(canary))
    }

    #[cfg(feature = "canaries")]
    pub(crate) fn has(self, canary: Canary) -> bool {
        self.0 == Some(canary)
    }

    #[cfg(not(feature = "canaries"))]
    pub(crate) const fn has(self, _: Canary) -> bool {
        false
    }
}

/// Something that no input decides ([`Canary::OrderFromOutside`]).
#[cfg(feature = "canaries")]
pub(crate) fn coin_from_outside() -> bool {
    use core::sync::atomic::{AtomicU32, Ordering};
    static TOSSED: AtomicU32 = AtomicU32::new(0);
    (TOSSED.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9e37_79b9) >> 16) & 1 == 1
}

#[cfg(not(feature = "canaries"))]
pub(crate) const fn coin_from_outside() -> bool {
    false
}

/// Hides all copies but the oldest from the election ([`Canary::OldestElected`]).
pub(crate) fn keep_oldest(copies: &mut [Option<CopyHeader>; COPIES as usize]) {
    let older = |a: u64, b: u64| if newer(a, b) { b } else { a };
    let oldest = copies.iter().flatten().map(|h| h.generation).reduce(older);
    for copy in copies.iter_mut() {
        *copy = copy.filter(|h| Some(h.generation) == oldest);
    }
}
