//! Tables of single blocks scattered over a large device, in an order that has nothing to do with their place.
//!
//! Invariant: the same number of remaps gives the same table, on every machine.

use anyhow::ensure;
use remap_core::table::Table;
use remap_core::units::Block;
use remap_core::view::{Placement, View};
use remap_format::layout::kept_slots;
use remap_format::{Cause, Entry, EntryFlags, EntryState, Superblock};
use remap_sim::rng::Rng;

/// Blocks of the device: 1 TiB of 4 KiB.
pub(crate) const BLOCKS: u64 = 1 << 28;
/// Sectors of a block.
pub(crate) const BLOCK_SECTORS: u32 = 8;
/// A prime: steps of it visit every place once.
const STEP: u64 = 1_000_003;

/// A block on the spare.
pub(crate) fn entry(block: u64, slot: u64) -> Entry {
    Entry {
        block,
        count: 1,
        slot,
        lost: 0,
        state: EntryState::Remapped,
        cause: Cause::WriteError,
        flags: EntryFlags::default(),
        errors: 1,
        time: 1_800_000_000,
    }
}

/// One block in each of `remaps` equal stretches of the device.
pub(crate) fn entries(remaps: u64) -> impl Iterator<Item = Entry> {
    entries_over(BLOCKS, remaps)
}

/// The same on a device of so many blocks.
pub(crate) fn entries_over(blocks: u64, remaps: u64) -> impl Iterator<Item = Entry> {
    let stretch = blocks / remaps.max(1);
    (0..remaps).map(move |slot| {
        let at = slot * STEP % remaps;
        entry(at * stretch + Rng::seeded(at).below(stretch), slot)
    })
}

/// The same entries, with slots of the only spare that do not lie under metadata.
pub(crate) fn placed(superblock: &Superblock, entries: impl Iterator<Item = Entry>) -> Vec<Entry> {
    let block = u64::from(superblock.block_size());
    let kept = superblock.spares.first().map(|spare| kept_slots(spare, block)).unwrap_or_default();
    let under = |slot: &u64| kept.iter().any(|(first, end)| (*first..*end).contains(slot));
    let slots = (0..).filter(|slot| !under(slot));
    entries.zip(slots).map(|(entry, slot)| Entry { slot, ..entry }).collect()
}

/// A table of them.
///
/// # Errors
/// Memory, or an order that visits a place twice.
pub(crate) fn table(remaps: u64) -> anyhow::Result<Table> {
    let mut table = Table::create(BLOCKS, BLOCK_SECTORS)?;
    for entry in entries(remaps) {
        table.apply(&entry)?;
    }
    ensure!(table.counts().remapped_blocks == remaps, "{remaps} remaps do not scatter");
    Ok(table)
}

/// `count` places at random where `blocks` blocks without entries begin.
pub(crate) fn misses(view: &View, blocks: u64, count: usize) -> Vec<u64> {
    let mut rng = Rng::seeded(3);
    let places = std::iter::repeat_with(|| rng.below(BLOCKS - blocks));
    places.filter(|block| is_miss(view, *block, *block + blocks)).take(count).collect()
}

/// Are all of these blocks on the main device? Looked up as a request would: stretch by stretch.
pub(crate) fn is_miss(view: &View, block: u64, end: u64) -> bool {
    let mut at = block;
    while at < end {
        let stretch = view.first(Block(at), Block(end));
        if stretch.placement != Placement::Main {
            return false;
        }
        at += stretch.blocks;
    }
    true
}

/// `count` blocks with entries at random.
pub(crate) fn hits(remaps: u64, count: usize) -> Vec<u64> {
    let all: Vec<u64> = entries(remaps).map(|entry| entry.block).collect();
    let mut rng = Rng::seeded(4);
    (0..count).map(|_| all[rng.index(all.len())]).collect()
}
