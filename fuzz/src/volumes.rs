//! Small volumes to damage, made by the engine itself, each at several moments of its life.
//!
//! Invariant: at every moment recovery believes all five copies.

use remap_core::engine::{Command, Engine, EngineConfig};
use remap_core::op::RequestKind;
use remap_core::recovery::Recovered;
use remap_core::units::{Extent, Sector};
use remap_format::layout;
use remap_format::{
    Cause, CopyRole, Entry, EntryFlags, EntryState, MainIdentity, NO_SLOT, Policy, Superblock,
    SuperblockFlags,
};

use crate::disks::{Disks, Driver, START};

/// A volume and what was on its spares at several moments, the last one last.
pub struct Volume {
    /// What it is; generation and area are those of its beginning.
    pub superblock: Superblock,
    /// The spares' bytes.
    pub moments: Vec<Disks>,
}

struct Plan {
    sizes: &'static [u64],
    block_shift: u8,
    main_size: u64,
    policy: Policy,
    generation: u64,
}

const PLANS: [Plan; 5] = [
    // One small spare; the generation wraps.
    Plan {
        sizes: &[320 << 10],
        block_shift: 12,
        main_size: 1 << 20,
        policy: Policy::RewriteThenRemap,
        generation: u64::MAX - 20,
    },
    // Sectors as blocks.
    Plan {
        sizes: &[400 << 10],
        block_shift: 9,
        main_size: (1 << 20) + 512,
        policy: Policy::RemapOnly,
        generation: 7,
    },
    // Copies on two spares.
    Plan {
        sizes: &[256 << 10, 320 << 10],
        block_shift: 12,
        main_size: 16 << 40,
        policy: Policy::RemapOnly,
        generation: 1 << 40,
    },
    // More spares than copies: the last ones hold labels.
    Plan {
        sizes: &[128 << 10, 128 << 10, 128 << 10, 128 << 10, 128 << 10, 64 << 10, 64 << 10],
        block_shift: 13,
        main_size: 1 << 30,
        policy: Policy::RemapOnly,
        generation: 0,
    },
    // Large blocks on a main device that ends within one.
    Plan {
        sizes: &[1 << 20],
        block_shift: 16,
        main_size: (8 << 20) + 4096,
        policy: Policy::RewriteThenRemap,
        generation: u64::MAX - 1000,
    },
];

/// All volumes.
pub fn all() -> Vec<Volume> {
    PLANS.iter().enumerate().map(|(number, plan)| live(number as u8, plan)).collect()
}

fn superblock(number: u8, plan: &Plan) -> Superblock {
    let block_size = 1_u64 << plan.block_shift;
    let shape = layout::plan(plan.sizes, block_size).expect("the plans fit");
    let sizes: Vec<([u8; 16], u64)> =
        (1..).zip(plan.sizes).map(|(n, &size)| ([16 * number + n; 16], size)).collect();
    let main = MainIdentity {
        size: plan.main_size,
        logical_block: 512,
        wwn: "naa.5000c500a1b2c3d4".into(),
        serial: "S1".into(),
        ..MainIdentity::default()
    };
    Superblock {
        policy: plan.policy,
        generation: plan.generation,
        created: START.unix_s,
        written: START.unix_s,
        ..Superblock::new([number + 1; 16], "fuzzed", 1 << plan.block_shift, &shape, &sizes, main)
    }
}

/// Adopts, serves trouble, checkpoints, and takes a picture after each.
fn live(number: u8, plan: &Plan) -> Volume {
    let superblock = superblock(number, plan);
    let mut disks = Disks::default();
    disks.spares = plan.sizes.iter().map(|&size| vec![0; size as usize]).collect();
    let mut moments = Vec::new();

    let lost = Entry {
        block: 3,
        count: 2,
        slot: NO_SLOT,
        lost: Entry::full_mask(superblock.block_sectors()),
        state: EntryState::Pending,
        cause: Cause::Imported,
        flags: EntryFlags::STALE,
        errors: 0,
        time: START.unix_s,
    };
    let fresh = Recovered::fresh(superblock.clone(), &[lost]).expect("a fresh volume");
    let devices = fresh.devices.clone();
    for stage in 0..6_u64 {
        let recovered = if stage == 0 {
            Recovered::fresh(superblock.clone(), &[lost]).expect("a fresh volume")
        } else {
            let sizes = disks.sizes();
            remap_core::recovery::recover(&mut disks, &sizes, true).expect("a whole volume")
        };
        let engine = Engine::start(recovered, EngineConfig::default(), START).expect("memory");
        let mut driver = Driver::of(engine, &mut disks, devices.clone());
        driver.settle();
        assert!(driver.engine.is_live(), "a whole volume goes live");
        trouble(&mut driver, stage, u64::from(superblock.block_sectors()));
        let picture = disks.clone();
        moments.push(picture);
    }
    Volume { superblock, moments }
}

fn trouble(driver: &mut Driver<'_>, stage: u64, block: u64) {
    let extent =
        |first: u64, blocks: u64| Extent::new(Sector(first * block), blocks * block).expect("blocks");
    driver.bad = vec![20 * block + 1, 31 * block];
    match stage {
        1 => driver.command(Command::Remap(extent(8, 3), Cause::Manual)),
        2 => {
            driver.request(RequestKind::Read, 20 * block, block);
            driver.request(RequestKind::Write { fua: true }, 3 * block, block);
        }
        3 => {
            driver.request(RequestKind::Write { fua: false }, 20 * block, block);
            driver.command(Command::Clear(extent(9, 1)));
        }
        4 => driver.command(Command::Save),
        5 => {
            driver.command(Command::Remap(extent(40, 2), Cause::Predicted));
            driver.request(RequestKind::Read, 31 * block, 1);
        }
        _ => {}
    }
}
