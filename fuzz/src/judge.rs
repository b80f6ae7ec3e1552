//! What must hold for everything that recovery believes, whatever was on the spares.

use std::collections::BTreeSet;

use remap_core::engine::{Command, Engine, EngineConfig};
use remap_core::op::RequestKind;
use remap_core::recovery::{Recovered, RecoveryError, main_blocks, recover, shape_of};
use remap_core::units::{Block, Extent, Sector, Slot};
use remap_core::view::Placement;
use remap_format::layout::{copy_places, kept_slots, metadata_ranges};
use remap_format::{COPIES, Cause, Entry, EntryState, PAGE_SIZE, Superblock};

use crate::disks::{Disks, Driver, START};
use crate::memory;

/// Most memory in bytes that recovery may take for spares of these sizes: what it reads ahead, the readers' summary, and
/// four bytes for each byte on the spares. Real metadata are a small part of a spare, so this is far from tight on large ones.
pub fn recovery_bound(sizes: &[u64]) -> usize {
    let total: u64 = sizes.iter().sum();
    (8 << 20) + 4 * usize::try_from(total).unwrap_or(usize::MAX / 8)
}

/// Most bytes that recovery may read from spares of these sizes: nothing is read over and over without end.
fn read_bound(sizes: &[u64]) -> u64 {
    (1 << 20) + 64 * sizes.iter().sum::<u64>()
}

/// Recovers within the stated bounds, and checks what is believed.
///
/// # Errors
/// The refusal, which is an answer like any other.
pub fn recovered(disks: &mut Disks, released_too: bool) -> Result<Recovered, RecoveryError> {
    let sizes = disks.sizes();
    disks.read = 0;
    let (outcome, _) = memory::within(recovery_bound(&sizes), || recover(disks, &sizes, released_too));
    assert!(disks.read <= read_bound(&sizes), "{} bytes read of spares of {sizes:?}", disks.read);
    match outcome {
        Ok(recovered) => {
            consistent(&recovered, &sizes);
            Ok(recovered)
        }
        Err(error) => {
            let text = error.to_string();
            assert!(!text.is_empty() && text.len() < 4096, "a refusal is a short text");
            Err(error)
        }
    }
}

/// No two entries share a block or a slot, and none lies where it cannot.
pub fn consistent(recovered: &Recovered, sizes: &[u64]) {
    let superblock = &recovered.superblock;
    let (blocks, block_size) = (main_blocks(superblock), u64::from(superblock.block_size()));
    assert_eq!(recovered.devices.len(), superblock.spares.len(), "a device for each spare");
    let present: Vec<usize> = recovered.devices.iter().copied().flatten().collect();
    let distinct: BTreeSet<usize> = present.iter().copied().collect();
    assert_eq!(distinct.len(), present.len(), "no device is two spares");
    assert_eq!(recovered.copies.len(), usize::from(COPIES));

    let mut slots: Vec<(u64, u64, u64)> = Vec::new();
    for (n, (spare, device)) in (0_u64..).zip(superblock.spares.iter().zip(&recovered.devices)) {
        assert_eq!(spare.is_present(), device.is_some(), "who has left is not there");
        let Some(device) = device else { continue };
        assert!(spare.size <= sizes[*device] && spare.slots <= spare.size / block_size);
        for (start, len) in metadata_ranges(spare) {
            assert!(
                start + len <= spare.size,
                "{len} bytes reserved at {start} of a spare of {}",
                spare.size
            );
        }
        slots.extend(kept_slots(spare, block_size).into_iter().map(|(first, end)| (n, first, end)));
    }
    for place in copy_places(&superblock.spares, &superblock.homes) {
        let spare = superblock.spares[usize::from(place.spare)];
        let reserved = metadata_ranges(&spare)
            .any(|(start, len)| start == place.start && shape_of(superblock).bytes() <= len);
        assert!(reserved, "a copy lies where room is reserved for it: {place:?}");
    }
    let mut at = 0;
    for entry in recovered.table.iter() {
        assert!(entry.block >= at && entry.count > 0, "sorted and apart: {entry:?} after block {at}");
        at = entry.end();
        assert!(at <= blocks, "within the main device of {blocks} blocks: {entry:?}");
        assert!(matches!(entry.state, EntryState::Pending | EntryState::Remapped), "{entry:?}");
        assert_eq!(entry.lost & !Entry::full_mask(superblock.block_sectors()), 0, "{entry:?}");
        seen_by_readers(recovered, &entry);
    }
    let remapped = recovered.table.iter().filter(|entry| entry.state == EntryState::Remapped);
    for entry in remapped.chain(recovered.pool.retired().iter().copied()) {
        let first = Slot(entry.slot);
        let end = first.index() + u64::from(entry.count);
        let spare = superblock.spares.get(usize::from(first.spare()));
        assert!(spare.is_some_and(|spare| end <= spare.slots), "a slot of this volume: {entry:?}");
        slots.push((u64::from(first.spare()), first.index(), end));
    }
    slots.sort_unstable();
    for pair in slots.windows(2) {
        assert!(pair[0].0 != pair[1].0 || pair[0].2 <= pair[1].1, "one owner for each slot: {pair:?}");
    }
    let counts = recovered.pool.counts(None);
    assert!(counts.free <= counts.total, "{counts:?}");
}

fn seen_by_readers(recovered: &Recovered, entry: &Entry) {
    let mut at = entry.block;
    while at < entry.end() {
        let stretch = recovered.table.view().first(Block(at), Block(entry.end()));
        let placement = match entry.state {
            EntryState::Remapped if entry.lost == 0 => {
                Placement::Settled(Slot(entry.slot).offset(at - entry.block))
            }
            _ => Placement::Slow,
        };
        assert_eq!(stretch.placement, placement, "block {at} of {entry:?}");
        at += stretch.blocks;
    }
    assert_eq!(at, entry.end(), "{entry:?}");
}

/// What a volume says, apart from where it is written.
#[derive(Debug, PartialEq, Eq)]
pub struct Says {
    entries: Vec<Entry>,
    retired: BTreeSet<u64>,
}

impl Says {
    fn of(entries: impl Iterator<Item = Entry>, retired: &[Entry]) -> Self {
        let slots = retired.iter().flat_map(|run| (0..u64::from(run.count)).map(|n| run.slot + n));
        Self { entries: entries.collect(), retired: slots.collect() }
    }

    /// What recovery believes.
    pub fn recovered(recovered: &Recovered) -> Self {
        Self::of(recovered.table.iter(), recovered.pool.retired())
    }
}

/// Serves the volume for a moment (`anew`: after all copies are written), and recovers what the engine says then.
pub fn serve(mut recovered: Recovered, disks: &mut Disks, anew: bool) {
    let before = Says::recovered(&recovered);
    let fits =
        before.entries.len() + before.retired.len() <= shape_of(&recovered.superblock).capacity() as usize;
    let (blocks, sectors) =
        (main_blocks(&recovered.superblock), u64::from(recovered.superblock.block_sectors()));
    let main_sectors = recovered.superblock.main.size / 512;
    let devices = recovered.devices.clone();
    recovered.needs_repair |= anew;
    let engine = Engine::start(recovered, EngineConfig::default(), START).expect("memory");
    let mut driver = Driver::of(engine, disks, devices);
    driver.settle();
    if !driver.engine.is_live() {
        assert!(!fits, "nothing failed, and the volume did not go live");
        return;
    }
    assert_eq!(
        before,
        Says::of(driver.engine.table().iter(), driver.engine.retired()),
        "going live changes nothing"
    );
    if anew {
        agree(&mut driver, true);
    }
    // A few changes behind what was found.
    driver.bad = vec![(blocks / 2) * sectors];
    for block in [0, blocks / 2, blocks - 1] {
        let count = sectors.min(main_sectors.saturating_sub(block * sectors));
        if let Some(extent) = Extent::new(Sector(block * sectors), count) {
            driver.request(RequestKind::Write { fua: true }, extent.start().0, count);
            driver.command(Command::Remap(extent, Cause::Manual));
        }
    }
    agree(&mut driver, false);
}

/// Is there a page of the journal that can be read in no copy? Where the journal has come to it, its end is not known.
fn journal_has_blind_page(driver: &mut Driver<'_>) -> bool {
    let superblock = driver.engine.volume().clone();
    let (shape, places) = (shape_of(&superblock), copy_places(&superblock.spares, &superblock.homes));
    (0..shape.journal_pages).any(|page| {
        places.iter().all(|place| driver.is_blind(place.spare, place.start + shape.journal_at(page)))
    })
}

/// Is there a superblock, sealed by a forger, about half of all generations away from this one? What is older than a generation
/// there may be newer than the next one: generations are compared around the circle, and no volume lives to see that.
fn half_a_range_away(disks: &Disks, generation: u64) -> bool {
    let pages = disks.spares.iter().flat_map(|spare| spare.chunks_exact(PAGE_SIZE));
    pages.filter_map(|page| Superblock::decode(page).ok()).any(|found| {
        let ahead = found.generation.wrapping_sub(generation);
        ahead.min(ahead.wrapping_neg()) > 1 << 62
    })
}

/// What the engine says is what recovery would find now.
fn agree(driver: &mut Driver<'_>, in_step: bool) {
    let says = Says::of(driver.engine.table().iter(), driver.engine.retired());
    let generation = driver.engine.generation();
    let disks = driver.disks();
    if half_a_range_away(disks, generation) {
        return;
    }
    let healthy = disks.faults.is_empty();
    let again = match recovered(disks, true) {
        Ok(again) => again,
        // A page that recovery had no need of before the journal grew.
        Err(RecoveryError::Unreachable { .. }) if !healthy => return,
        Err(RecoveryError::JournalHole { .. }) if journal_has_blind_page(driver) => return,
        // A forged record that extends a later checkpoint lies where the journal has not come to.
        Err(RecoveryError::CheckpointLost { .. }) => return,
        Err(error) => panic!("what the engine wrote is refused: {error}"),
    };
    assert_eq!(again.generation, generation, "the engine's generation is the durable one");
    assert_eq!(says, Says::recovered(&again), "the engine and its spares say the same");
    if in_step && healthy {
        assert!(!again.needs_repair && again.good_copies() == COPIES, "{:?}", again.copies);
    }
}
