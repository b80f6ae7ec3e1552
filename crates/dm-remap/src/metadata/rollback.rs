//! `metadata rollback`: new spares with the table of an earlier moment.
//!
//! Invariant: nothing is written before every block whose placement differs has been found able to go back
//! ([`may_go_back`] decides), and the old spares are only read.

use std::fmt::Write as _;

use remap_core::recovery::Recovered;
use remap_core::recovery::rollback::{Difference, Obstacle, differences, may_go_back};
use remap_format::SuperblockFlags;
use remap_io::Device;

use super::compare::entry_words;
use super::moment::refuse_strangers;
use super::salvage::Salvage;
use crate::exit::{Exit, refusal};
use crate::units::format_count;

/// What stands in the way of a stretch of blocks.
#[derive(Debug)]
struct Blocked {
    difference: Difference,
    obstacle: Obstacle,
}

/// What going back would do.
#[derive(Debug)]
pub(crate) struct Plan {
    /// Blocks that differ and can go back.
    free_blocks: u64,
    blocked: Vec<Blocked>,
}

impl Plan {
    /// Judges every block whose placement differs.
    ///
    /// # Errors
    /// The moments are not of one volume as it is now, or the volume was released since.
    pub(crate) fn of(now: &Recovered, then: &Recovered) -> anyhow::Result<Self> {
        refuse_strangers(&now.superblock, &then.superblock)?;
        if now.superblock.main.size != then.superblock.main.size {
            let text = "the volume had another size then: its blocks cannot be set against those of now";
            return Err(refusal(Exit::Mismatch, text));
        }
        if now.superblock.flags.has(SuperblockFlags::RELEASED) {
            let text = "the volume was released: its main device stands alone, and the slots are of the past";
            return Err(refusal(Exit::Mismatch, text));
        }
        let sectors = now.superblock.block_sectors();
        let mut plan = Self { free_blocks: 0, blocked: Vec::new() };
        for difference in differences(&now.table, &then.table).filter(Difference::matters) {
            match may_go_back(difference.from.as_ref(), difference.to.as_ref(), sectors) {
                Ok(()) => plan.free_blocks += difference.count,
                Err(obstacle) => plan.blocked.push(Blocked { difference, obstacle }),
            }
        }
        Ok(plan)
    }

    /// Can all of it go back?
    pub(crate) fn is_free(&self) -> bool {
        self.blocked.is_empty()
    }

    /// Blocks that cannot go back.
    pub(crate) fn blocked_blocks(&self) -> u64 {
        self.blocked.iter().map(|b| b.difference.count).sum()
    }

    /// For people: what differs, and what stands in the way.
    pub(crate) fn text(&self, now: &Recovered, then: &Recovered) -> String {
        let mut out = String::new();
        let _ = writeln!(
            out,
            "from generation {} back to {}: {} would change and can go back, {} cannot",
            now.generation,
            then.generation,
            format_count(self.free_blocks, "block"),
            format_count(self.blocked_blocks(), "block")
        );
        let per_block = u64::from(now.superblock.block_sectors());
        for Blocked { difference: d, obstacle } in &self.blocked {
            let (first, end) = (d.block * per_block, (d.block + d.count) * per_block);
            let _ = writeln!(
                out,
                "sectors {first}-{}: {obstacle} (now: {}; then: {})",
                end - 1,
                entry_words(d.from.as_ref(), &now.superblock),
                entry_words(d.to.as_ref(), &now.superblock)
            );
        }
        out
    }
}

/// The volume of now with the table of then, to be written to new spares. Slots that went bad belong to the old medium.
pub(crate) fn rolled_back(now: &Recovered, then: &Recovered, spares: &[Device]) -> Salvage {
    let mut superblock = now.superblock.clone();
    superblock.generation = now.generation;
    let devices = now.devices.iter().map(|d| d.and_then(|d| spares.get(d).cloned())).collect();
    Salvage { superblock, entries: then.table.iter().collect(), devices, doubts: Vec::new() }
}
