//! Any image, of any age or damage: every command that reads it ends with a report, within a bound of memory, and leaves it as it was.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;

use remap_format::layout::{CopyShape, copy_places, search_places};
use remap_format::{
    COPIES, Cause, CheckpointPage, CopyRole, Entry, EntryFlags, EntryState, MainIdentity, NO_SLOT, PAGE_SIZE,
    PageHeader, Policy, SpareRecord, Superblock,
};

use crate::world::{NEW, World};

/// Address space that a command may take, in KiB: the bound that docs/recovery.md states, with room for what the system
/// reserves for each thread and never touches.
const MEMORY_KIB: u32 = 1 << 20;

/// Everything that reads metadata of spares that may be damaged.
const READERS: [&str; 11] = [
    "metadata check --spare image",
    "metadata check --spare image --json",
    "metadata dump --spare image",
    "metadata dump --spare image --format text",
    "metadata analyze --spare image",
    "metadata generations --spare image",
    "metadata compare --spare image --from 1",
    "metadata rollback --spare image --to 1 --dry-run",
    "map list --spare image",
    "map export --spare image --format ddrescue",
    "release main --spare image --dry-run",
];

fn bounded(world: &World, line: &str) -> crate::program::Said {
    let script = format!("ulimit -v {MEMORY_KIB}; exec \"$0\" \"$@\"");
    let inner = world.command(&line.split(' ').collect::<Vec<_>>());
    let mut command = Command::new("sh");
    command.args(["-c", &script]).arg(inner.get_program()).args(inner.get_args());
    let said = World::finish(world.inside(command));
    assert!(said.code == Some(0) || !said.err.is_empty() || !said.out.is_empty(), "{line}: {said:?}");
    said
}

/// Goes through all readers; the image is checked by its owner.
fn read_by_all(world: &World) {
    for line in READERS {
        bounded(world, line);
    }
    bounded(world, "serve main --spare image --stdio --read-only");
}

/// With an image in `world`: all readers leave it alone, a repair writes a new one or nothing, and serving ends.
fn survives(world: &mut World, image: &[u8]) {
    let path = world.bench.path("image");
    std::fs::write(&path, image).expect("an image");
    world.note();
    read_by_all(world);
    world.unchanged();
    let said = bounded(world, &format!("metadata repair --spare image --output {NEW}"));
    match said.code {
        Some(0 | 8) => bounded(world, &format!("metadata check --spare {NEW}")).done(),
        _ => said,
    };
    let _ = std::fs::remove_file(world.bench.path(NEW));
    world.unchanged();
    // A dump must not be written over what is whole; over what is not, it may.
    bounded(world, "metadata restore dump --spare image");
    bounded(world, "serve main --spare image --stdio");
}

struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).expect("31 bits") % limit
    }
}

#[test]
fn garbage_and_nothing() {
    let mut world = World::create();
    let garbage = world.bench.disk("image", 1 << 20);
    survives(&mut world, &garbage);
    survives(&mut world, &vec![0; 1 << 20]);
    survives(&mut world, &vec![0xff; 100_000]);
    for len in [1, 511, 512, 4096, 8191, 65_536] {
        survives(&mut world, &garbage[..len]);
    }
}

#[test]
fn a_spare_that_was_cut_off() {
    let mut world = World::create();
    let whole = world.bench.bytes("spare");
    for len in
        [4096, whole.len() / 5, whole.len() / 2, whole.len() - 4096, whole.len() - 512, whole.len() - 1]
    {
        survives(&mut world, &whole[..len]);
    }
}

#[test]
fn rot_all_over_the_metadata() {
    let mut world = World::create();
    let whole = world.bench.bytes("spare");
    let places = search_places(whole.len() as u64);
    for seed in 0..12 {
        let mut dice = Dice(seed);
        let mut image = whole.clone();
        // From a few bytes in one copy to thousands in all.
        for _ in 0..1 << seed {
            let place = usize::try_from(places[dice.below(places.len())]).expect("small");
            let at = (place + dice.below(64 << 10)).min(image.len() - 1);
            image[at] = image[at].wrapping_add(1 + u8::try_from(dice.below(255)).expect("a byte"));
        }
        survives(&mut world, &image);
    }
}

/// Bytes of the sparse images: as many as many a disk has.
const HUGE: u64 = 1 << 40;
const SHAPE: CopyShape = CopyShape { area_pages: 1, journal_pages: 8 };

fn huge_superblock() -> Superblock {
    let main = MainIdentity { size: (1 << 63) - 512, logical_block: 512, ..MainIdentity::default() };
    Superblock {
        policy: Policy::RemapOnly,
        generation: 5,
        area: 0,
        created: 1_700_000_000,
        written: 1_700_000_000,
        ..Superblock::new([7; 16], "huge", 512, &SHAPE, &[([9; 16], HUGE)], main)
    }
}

fn starts() -> Vec<u64> {
    let good = huge_superblock();
    copy_places(&good.spares, &good.homes).iter().map(|place| place.start).collect()
}

/// Writes five copies whose checksums are right, with these entries in the one page of the checkpoint.
fn write_huge(path: &Path, superblock: &Superblock, entries: &[Entry]) {
    let file = File::create(path).expect("an image");
    file.set_len(HUGE).expect("a file system that knows holes");
    for (copy, start) in (0..COPIES).zip(starts()) {
        let mut page = vec![0; PAGE_SIZE];
        let own = Superblock { role: CopyRole::Copy(copy), ..superblock.clone() };
        own.encode(&mut page);
        file.write_all_at(&page, start).expect("a superblock");
        let header =
            PageHeader { volume: superblock.volume_tag(), copy, index: 0, generation: superblock.generation };
        CheckpointPage::encode(&header, entries, &mut page);
        file.write_all_at(&page, start + 2 * PAGE_SIZE as u64).expect("a page");
    }
}

#[test]
fn absurd_counts_behind_good_checksums() {
    let world = World::create();
    let path = world.bench.path("image");
    let good = huge_superblock;
    let spare = |size, slots| vec![SpareRecord { size, slots, ..good().spares[0] }];
    let CopyShape { area_pages, journal_pages } = CopyShape::MAX;
    let reserved = |reserve_pages| vec![SpareRecord { reserve_pages, ..good().spares[0] }];
    let images = [
        good(),
        // More pages than the spare has, more than memory holds, and as many as there can be (of which none is whole).
        Superblock { area_pages: u32::MAX, entries: u64::from(u32::MAX) * 84, ..good() },
        Superblock { area_pages: 20_000_000, entries: 20_000_000 * 84, ..good() },
        Superblock {
            area_pages,
            journal_pages,
            entries: 1 << 24,
            spares: reserved(CopyShape::MAX.pages()),
            ..good()
        },
        Superblock { spares: reserved(40_000_000), ..good() },
        Superblock { journal_pages: u32::MAX, ..good() },
        Superblock { journal_pages: 20_000_000, ..good() },
        Superblock { spares: spare(1 << 62, 1 << 53), ..good() },
        Superblock { spares: spare(HUGE, 1), ..good() },
        Superblock { generation: u64::MAX, created: u64::MAX, written: u64::MAX, ..good() },
        Superblock { block_shift: 16, spares: spare(HUGE, HUGE >> 16), ..good() },
    ];
    for superblock in images {
        write_huge(&path, &superblock, &[]);
        read_by_all(&world);
    }
}

#[test]
fn absurd_runs_behind_good_checksums() {
    let world = World::create();
    let path = world.bench.path("image");
    let run = |block, count, slot, lost| Entry {
        block,
        count,
        slot,
        lost,
        state: if slot == NO_SLOT { EntryState::Pending } else { EntryState::Remapped },
        cause: Cause::ReadError,
        flags: EntryFlags::default(),
        errors: u16::MAX,
        time: 1_700_000_000,
    };
    // All slots between the first two copies, runs that are longer than anything, and blocks at the far end.
    let between = u32::try_from(starts()[1] / 512 - 4096).expect("fits");
    let tables = [
        vec![run(0, between, 4096, 0)],
        vec![run(0, u32::MAX, NO_SLOT, 1), run(1 << 40, u32::MAX, NO_SLOT, 1)],
        vec![run((1 << 54) - 2, 1, 4096, 1)],
        vec![run(u64::MAX - 7, 1, NO_SLOT, 1)],
        vec![run(5, u32::MAX, 4096, 0)],
        vec![run(9, 2, 4096, 0), run(3, 9, 4096, 0)],
    ];
    for entries in tables {
        let superblock = Superblock { entries: entries.len() as u64, ..huge_superblock() };
        write_huge(&path, &superblock, &entries);
        read_by_all(&world);
    }
}
