// SPDX-License-Identifier: GPL-2.0
//! The fast lane's look-up: where a run of sectors is.
//!
//! Invariant: it takes no lock, allocates nothing and cannot panic; it may run in any context while the engine changes the table.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicU64, AtomicUsize};

use remap_core::units::Block;
use remap_core::view::{Placement, View};

/// What is asked of sectors, as far as it matters where they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// Their contents.
    Read,
    /// Other contents.
    Write,
    /// Nothing: they are not needed any more.
    Discard,
}

/// Who is to do it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// The main device.
    Main,
    /// This spare.
    Spare(u8),
    /// The owner of the volume.
    Owner,
    /// Nobody: it is done.
    Nobody,
}

/// Where the first sectors of a run are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Who serves them.
    pub lane: Lane,
    /// The first one, on that device.
    pub sector: u64,
    /// How many lie there together.
    pub sectors: u32,
}

/// What look-ups need of a volume.
#[derive(Debug)]
pub struct Lookup {
    view: Arc<View>,
    /// A block has 2 to this power sectors.
    shift: u32,
}

impl Lookup {
    /// Of a volume whose blocks have 2 to the power of `shift` sectors.
    #[must_use]
    pub fn new(view: Arc<View>, shift: u32) -> Self {
        Self { view, shift: shift & 63 }
    }

    /// What a driver looks at before it asks [`Lookup::place`]: see [`View::summary`]; a region in sectors, as a power of two.
    #[must_use]
    pub fn summary(&self) -> (&[AtomicU64], &AtomicUsize, u32) {
        let (summary, moving, blocks_shift) = self.view.summary();
        (summary, moving, blocks_shift + self.shift)
    }

    /// Where `sectors` sectors from `sector` on are, as far as they lie together.
    #[inline]
    #[must_use]
    pub fn place(&self, sector: u64, sectors: u32, asked: Asked) -> Place {
        let shift = self.shift;
        let mask = (1 << shift) - 1;
        let (block, within) = (sector >> shift, sector & mask);
        let behind = sector.wrapping_add(u64::from(sectors)).wrapping_add(mask) >> shift;
        let stretch = self.view.first(Block(block), Block(behind));
        let together = |blocks: u64| {
            let reach = (blocks << shift).wrapping_sub(within);
            u32::try_from(reach).unwrap_or(u32::MAX).min(sectors)
        };
        let all = together(stretch.blocks);
        match stretch.placement {
            Placement::Main => Place { lane: Lane::Main, sector, sectors: all },
            // A hint: what a spare or the owner has stays there.
            _ if asked == Asked::Discard => Place { lane: Lane::Nobody, sector, sectors: all },
            Placement::Settled(slot) => {
                let sector = (slot.index() << shift) | within;
                Place { lane: Lane::Spare(slot.spare()), sector, sectors: all }
            }
            // Blocks that are written one by one share commits.
            Placement::Slow if asked == Asked::Write => {
                Place { lane: Lane::Owner, sector, sectors: together(1) }
            }
            Placement::Slow => Place { lane: Lane::Owner, sector, sectors: all },
        }
    }
}
