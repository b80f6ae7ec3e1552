//! Which volume a seed builds and which faults it brings: everything that a run depends on.
//!
//! Invariant: [`Scenario::of_seed`] is a function of the seed.

use remap_core::canary::Planted;
use remap_format::Policy;
use remap_format::layout::{self, CopyShape, LayoutError};

use crate::rng::Rng;

/// A way to break what drives the core, so that it is known that the oracle sees it. Broken cores are
/// [`remap_core::canary::Canary`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Canary {
    /// Writes are acknowledged when they are submitted (C1).
    AckEarly,
    /// A grace period ends at once (C11).
    GraceAtOnce,
    /// Flushes that the engine asks for do nothing (C2).
    DropEngineFlush,
    /// Flushes that a client asks for do nothing.
    DropClientFlush,
    /// The engine is told that path faults are medium errors (C4).
    PathFaultAsMedium,
}

/// Which kinds of trouble there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Sectors of the main device go bad.
    pub main_medium: bool,
    /// Slots go bad.
    pub slot_medium: bool,
    /// Sectors of metadata copies go bad.
    pub metadata_medium: bool,
    /// Some bad sectors answer with a bare EIO.
    pub unknown: bool,
    /// Whole devices fail for a while.
    pub path: bool,
    /// Flushes fail.
    pub flush: bool,
    /// Metadata copies rot between lives, as far as the budget allows.
    pub rot: bool,
    /// The power fails.
    pub crash: bool,
    /// Bad sectors read again by themselves.
    pub heal: bool,
    /// Operations are slow or get no answer in time, and writes that got none land late.
    pub hang: bool,
    /// A flush that fails loses what it was to make durable.
    pub flush_drops: bool,
    /// The flushes of a device that failed one fail until the volume is assembled anew (a page cache).
    pub page_cache: bool,
    /// Metadata writes vanish or go astray, and copies rot in service.
    pub silent: bool,
    /// Reads fail for a moment while recovering.
    pub flaky: bool,
    /// Devices take no writes for a while: no room, or read-only.
    pub no_room: bool,
    /// The clock jumps.
    pub clock: bool,
    /// Requests are sent again after a restart.
    pub replay: bool,
    /// A person works on the volume: releases it and takes it back, restores its table, lets a spare take another's place.
    pub maintenance: bool,
    /// What fails now and then fails most of the time: every flush, every eighth operation gets no answer.
    pub often: bool,
}

impl Faults {
    /// Draws those that came later from a sequence of their own: without them a seed means what it always meant.
    fn with_later_ones(self, seed: u64) -> Self {
        let mut rng = Rng::seeded(seed ^ 0xa71a5);
        let calm = self == Self::default();
        let mut on = |n, of| rng.chance(n, of) && !calm;
        Self {
            heal: on(1, 3),
            hang: on(1, 3),
            flush_drops: on(1, 2),
            page_cache: on(1, 4),
            silent: on(1, 2),
            flaky: on(1, 3),
            no_room: on(1, 4),
            clock: on(1, 2),
            replay: on(1, 2),
            maintenance: on(1, 4),
            often: on(1, 8),
            ..self
        }
    }
}

impl Faults {
    /// Each kind by name.
    pub fn kinds(&mut self) -> [(&'static str, &mut bool); 19] {
        // No `..`: a kind that is not named here cannot be shrunk away or written down.
        let Self {
            main_medium,
            slot_medium,
            metadata_medium,
            unknown,
            path,
            flush,
            rot,
            crash,
            heal,
            hang,
            flush_drops,
            page_cache,
            silent,
            flaky,
            no_room,
            clock,
            replay,
            maintenance,
            often,
        } = self;
        [
            ("main_medium", main_medium),
            ("slot_medium", slot_medium),
            ("metadata_medium", metadata_medium),
            ("unknown", unknown),
            ("path", path),
            ("flush", flush),
            ("rot", rot),
            ("crash", crash),
            ("heal", heal),
            ("hang", hang),
            ("flush_drops", flush_drops),
            ("page_cache", page_cache),
            ("silent", silent),
            ("flaky", flaky),
            ("no_room", no_room),
            ("clock", clock),
            ("replay", replay),
            ("maintenance", maintenance),
            ("often", often),
        ]
    }
}

/// A run.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// The seed.
    pub seed: u64,
    /// Steps, over all lives.
    pub steps: u64,
    /// Block size is 2^shift bytes.
    pub block_shift: u8,
    /// The main device's logical block in bytes.
    pub logical_block: u32,
    /// Sectors of the main device.
    pub main_sectors: u64,
    /// Bytes of each spare.
    pub spares: Vec<u64>,
    /// What to do with blocks that fail.
    pub policy: Policy,
    /// Requests under way at a time, at most.
    pub clients: usize,
    /// Trouble.
    pub faults: Faults,
    /// Steps between two sectors going bad, on average.
    pub spoil_every: u64,
    /// Steps in a life, on average.
    pub life_steps: u64,
    /// Commands are given.
    pub commands: bool,
    /// Six times as many as else.
    pub busy: bool,
    /// The steps that happen, sorted; `None`: all of them.
    pub only: Option<Vec<u64>>,
    /// The driver is broken on purpose.
    pub canary: Option<Canary>,
    /// The core is.
    pub planted: Planted,
    /// Events kept for the transcript; 0: none.
    pub transcript: usize,
}

impl Scenario {
    /// What a seed means.
    #[must_use]
    pub fn of_seed(seed: u64, steps: u64) -> Self {
        let mut rng = Rng::seeded(seed ^ 0x5eed);
        let block_shift = rng.pick(&[9, 12, 12, 12, 13, 16]);
        let block_sectors = (1u64 << block_shift) / 512;
        let logical_block = if block_shift >= 12 && rng.chance(1, 4) { 4096 } else { 512 };
        let unit = u64::from(logical_block / 512);
        let blocks = if block_shift == 16 { 6 + rng.below(10) } else { 12 + rng.below(60) };
        let cut = rng.below(block_sectors) / unit * unit;
        let spare_count = rng.pick(&[1, 1, 1, 1, 2, 2, 3, 6]);
        let calm = rng.chance(1, 12);
        let mut on = |n, of| !calm && rng.chance(n, of);
        let faults = Faults {
            main_medium: on(5, 6),
            slot_medium: on(1, 2),
            metadata_medium: on(1, 3),
            unknown: on(1, 3),
            path: on(1, 3),
            flush: on(1, 3),
            rot: on(1, 2),
            crash: on(9, 10),
            ..Faults::default()
        };
        let faults = Faults {
            // Not both: a flush that fails takes all copies of a spare out of step, and a bad sector in one of the others then
            // leaves too few (a freeze that only a restart ends).
            metadata_medium: faults.metadata_medium && !faults.path && !faults.flush,
            ..faults
        }
        .with_later_ones(seed);
        let slots = 1 + if rng.chance(1, 4) { rng.below(6) } else { blocks + rng.below(blocks) };
        Self {
            seed,
            steps,
            block_shift,
            logical_block,
            main_sectors: blocks * block_sectors - cut,
            spares: spare_sizes(spare_count, 1 << block_shift, slots),
            policy: rng.pick(&[Policy::RewriteThenRemap, Policy::RewriteThenRemap, Policy::RemapOnly]),
            clients: rng.pick(&[1, 2, 4, 8]),
            faults,
            spoil_every: rng.pick(&[10, 40, 200]),
            life_steps: rng.pick(&[15, 60, 250, 800]),
            commands: rng.chance(2, 3),
            busy: rng.chance(1, 5),
            only: None,
            canary: None,
            planted: Planted::default(),
            transcript: 0,
        }
    }

    /// What happens once in so many times, or more often.
    #[must_use]
    pub fn one_in(&self, times: u64) -> u64 {
        if self.faults.often { (times / 25).max(1) } else { times }
    }

    /// Does anything happen in this step?
    #[must_use]
    pub fn happens(&self, step: u64) -> bool {
        self.only.as_ref().is_none_or(|only| only.binary_search(&step).is_ok())
    }

    /// The shape of the volume's metadata copies.
    ///
    /// # Errors
    /// The spares are too small.
    pub fn shape(&self) -> Result<CopyShape, LayoutError> {
        layout::plan(&self.spares, 1 << self.block_shift)
    }
}

/// Spares that are just large enough for `slots` slots or a few more.
pub(crate) fn spare_sizes(count: usize, block: u64, slots: u64) -> Vec<u64> {
    let page = block.max(4096);
    let mut sizes = vec![page; count];
    while let Err(LayoutError::TooSmall { spare, least, .. }) = layout::plan(&sizes, block) {
        let size = &mut sizes[usize::from(spare)];
        *size = least.max(*size + page).next_multiple_of(page);
    }
    for size in &mut sizes {
        *size += (slots * block / count as u64).next_multiple_of(page);
    }
    sizes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_seed_gives_a_volume_that_can_be_made() {
        for seed in 0..500 {
            let scenario = Scenario::of_seed(seed, 100);
            assert!(scenario.shape().is_ok(), "{scenario:?}");
            assert!(scenario.main_sectors > 0);
        }
    }
}
