//! Where on the main device the trouble is: entries summed up by region.
//!
//! Invariant: the regions given are disjoint, in order, and the worst ones; a device has at most [`REGIONS`] of them.

use remap_core::units::{Extent, Sector};
use remap_format::{Entry, EntryState};

/// Regions that a main device is cut into, at the most.
pub const REGIONS: u64 = 1024;
/// Regions that are reported, at the most.
pub const WORST: usize = 32;

/// What the table says about a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// Its sectors.
    pub extent: Extent,
    /// Blocks of it on a spare.
    pub remapped_blocks: u64,
    /// Blocks of it on the main device with unreadable sectors.
    pub pending_blocks: u64,
    /// Sectors of it that no device holds.
    pub lost_sectors: u64,
    /// Errors noted in its entries.
    pub errors: u64,
}

impl Region {
    fn blocks(&self) -> u64 {
        self.remapped_blocks + self.pending_blocks
    }
}

/// The regions with the most blocks in trouble, in the order of the device. A region is a power of two of blocks, so that
/// there are at most [`REGIONS`].
pub fn worst_regions(
    entries: impl Iterator<Item = Entry>,
    block_sectors: u64,
    main_sectors: u64,
) -> Vec<Region> {
    let blocks = main_sectors.div_ceil(block_sectors);
    let per_region = blocks.div_ceil(REGIONS).next_power_of_two();
    let mut regions: Vec<Region> = Vec::new();
    for entry in entries {
        let mut at = entry.block;
        while at < entry.end() {
            let number = at / per_region;
            let until = ((number + 1) * per_region).min(entry.end());
            let first = Sector(number * per_region * block_sectors);
            let last = Sector(((number + 1) * per_region * block_sectors).min(main_sectors));
            let Some(extent) = Extent::between(first, last) else { break };
            if regions.last().is_none_or(|r| r.extent != extent) {
                regions.push(Region {
                    extent,
                    remapped_blocks: 0,
                    pending_blocks: 0,
                    lost_sectors: 0,
                    errors: 0,
                });
            }
            if let Some(region) = regions.last_mut() {
                let count = until - at;
                match entry.state {
                    EntryState::Remapped => region.remapped_blocks += count,
                    _ => region.pending_blocks += count,
                }
                region.lost_sectors += count * u64::from(entry.lost.count_ones());
                region.errors += u64::from(entry.errors);
            }
            at = until;
        }
    }
    if regions.len() > WORST {
        regions.sort_by_key(|r| std::cmp::Reverse((r.lost_sectors, r.blocks())));
        regions.truncate(WORST);
        regions.sort_by_key(|r| r.extent.start());
    }
    regions
}

#[cfg(test)]
mod tests {
    use super::*;
    use remap_format::{Cause, EntryFlags, NO_SLOT};

    fn pending(block: u64, count: u32, lost: u128) -> Entry {
        Entry {
            block,
            count,
            slot: NO_SLOT,
            lost,
            state: EntryState::Pending,
            cause: Cause::ReadError,
            flags: EntryFlags::default(),
            errors: 1,
            time: 0,
        }
    }

    #[test]
    fn a_run_counts_in_every_region_that_it_crosses() {
        // 4096 blocks: regions of 4 blocks, 32 sectors.
        let entries = [
            pending(1, 1, 0b11),
            pending(2, 8, 0xff),
            Entry { state: EntryState::Remapped, slot: 5, lost: 0, ..pending(4095, 1, 0) },
        ];
        let regions = worst_regions(entries.into_iter(), 8, 4096 * 8 - 3);
        let short: Vec<_> = regions
            .iter()
            .map(|r| (r.extent.start().0, r.blocks(), r.lost_sectors, r.remapped_blocks))
            .collect();
        assert_eq!(short, [(0, 3, 18, 0), (32, 4, 32, 0), (64, 2, 16, 0), (4092 * 8, 1, 0, 1)]);
        assert_eq!(regions[3].extent.end().0, 4096 * 8 - 3);
    }

    #[test]
    fn only_the_worst_are_given_in_order() {
        let entries: Vec<Entry> = (0..100).map(|n| pending(n * 10, 1, ((1 << (n % 8)) - 1) | 1)).collect();
        let regions = worst_regions(entries.into_iter(), 8, 1000 * 8);
        assert_eq!(regions.len(), WORST);
        assert!(regions.windows(2).all(|w| w[0].extent.end() <= w[1].extent.start()));
        assert!(regions.iter().all(|r| r.lost_sectors >= 5));
    }
}
