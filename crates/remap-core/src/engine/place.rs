//! Arithmetic between blocks, slots, sectors and masks.

use remap_format::{Entry, EntryState};

use super::Engine;
use super::ops::Purpose;
use crate::memory;
use crate::op::{DeviceId, Op, OpKind};
use crate::units::{Block, Extent, Sector, Slot};

/// Runs of set bits in a mask: first bit and length.
pub(super) fn runs(mask: u128) -> impl Iterator<Item = (u32, u32)> {
    let mut rest = mask;
    core::iter::from_fn(move || {
        if rest == 0 {
            return None;
        }
        let start = rest.trailing_zeros();
        let len = (!(rest >> start)).trailing_zeros().min(128 - start);
        rest &= !bits(start, len);
        Some((start, len))
    })
}

/// `len` bits from bit `start` on.
pub(super) fn bits(start: u32, len: u32) -> u128 {
    let ones = if len >= 128 { u128::MAX } else { (1 << len) - 1 };
    ones.checked_shl(start).unwrap_or(0)
}

impl Engine {
    pub(super) fn block_sectors(&self) -> u64 {
        u64::from(self.volume.block_sectors())
    }

    pub(super) fn main_sectors(&self) -> u64 {
        self.volume.main.size / 512
    }

    pub(super) fn block_of(&self, sector: Sector) -> Block {
        Block(sector.0 / self.block_sectors())
    }

    /// The sectors of a block on the main device; the last block may be cut short.
    pub(super) fn block_extent(&self, block: Block) -> Extent {
        let start = block.0 * self.block_sectors();
        let end = (start + self.block_sectors()).min(self.main_sectors());
        Extent::between(Sector(start), Sector(end)).expect("a block of the volume has sectors")
    }

    /// The mask of the sectors that the block has.
    pub(super) fn valid_mask(&self, block: Block) -> u128 {
        bits(0, u32::try_from(self.block_extent(block).sectors()).unwrap_or(128))
    }

    /// The mask of the sectors of `block` that `extent` covers.
    pub(super) fn mask_in(&self, block: Block, extent: &Extent) -> u128 {
        let whole = self.block_extent(block);
        extent.intersect(&whole).map_or(0, |part| {
            let first = part.start().0 - whole.start().0;
            bits(u32::try_from(first).unwrap_or(0), u32::try_from(part.sectors()).unwrap_or(128))
        })
    }

    /// Device and extent of a run of sectors of a block as `entry` places it.
    pub(super) fn locate(&self, block: Block, entry: Option<&Entry>, run: (u32, u32)) -> (DeviceId, Extent) {
        match entry.filter(|e| e.state == EntryState::Remapped) {
            Some(entry) => self.in_slot(Slot(entry.slot), run),
            None => (DeviceId::Main, sub_extent(self.block_extent(block).start().0, run)),
        }
    }

    pub(super) fn in_slot(&self, slot: Slot, run: (u32, u32)) -> (DeviceId, Extent) {
        (DeviceId::Spare(slot.spare()), sub_extent(slot.index() * self.block_sectors(), run))
    }

    /// Does a job work on this block?
    pub(super) fn is_locked(&self, block: Block) -> bool {
        self.jobs.iter().flatten().any(|job| job.block == block)
    }

    /// The first block in `[block, end)` that a job works on.
    pub(super) fn next_locked(&self, block: Block, end: Block) -> Option<Block> {
        self.jobs.iter().flatten().map(|job| job.block).filter(|b| (block..end).contains(b)).min()
    }

    pub(super) fn emit(&mut self, device: DeviceId, extent: Extent, kind: OpKind, purpose: Purpose) {
        let id = self.ops.add(purpose);
        memory::push_back(&mut self.outgoing, Op { id, device, extent, kind });
    }
}

fn sub_extent(first_sector: u64, (start, len): (u32, u32)) -> Extent {
    Extent::new(Sector(first_sector + u64::from(start)), u64::from(len))
        .expect("a run of a block is not empty")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    #[test]
    fn runs_of_masks() {
        let all = |mask| runs(mask).collect::<Vec<_>>();
        assert_eq!(all(0), []);
        assert_eq!(all(0b1011_0001), [(0, 1), (4, 2), (7, 1)]);
        assert_eq!(all(u128::MAX), [(0, 128)]);
        assert_eq!(all(1 << 127), [(127, 1)]);
        assert_eq!(all(u128::MAX << 1), [(1, 127)]);
    }
}
