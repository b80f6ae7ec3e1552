//! A fixed life, crashed at each of its operations in turn.
//!
//! Invariant: the script is the same for every crash point; only what the crash leaves of unflushed writes follows the seed.

use remap_core::engine::Command;
use remap_core::op::{Fault, RequestKind};
use remap_core::units::{Extent, Sector};
use remap_format::{Cause, Policy};

use crate::disk::Bad;
use crate::scenario::{Faults, Scenario};
use crate::world::World;
use crate::{Checked, Violation};

/// One thing that is done, to its end.
#[derive(Clone, Copy, Debug)]
enum Act {
    Request(RequestKind, u64, u64),
    Spoil(u64, u64, Bad),
    Command(Command),
}

const PER_BLOCK: u64 = 8;
const BLOCKS: u64 = 40;

fn extent(start: u64, sectors: u64) -> Extent {
    Extent::new(Sector(start), sectors).expect("the script has no empty extents")
}

/// Adopt, write, go bad, learn, write in part, move, go home, and fill the journal twice.
fn acts() -> Vec<Act> {
    let write = RequestKind::Write { fua: false };
    let durable = RequestKind::Write { fua: true };
    let (until_written, for_ever) = (Bad::UntilWritten(Fault::Medium), Bad::ForEver(Fault::Medium));
    let block = |n: u64| n * PER_BLOCK;
    let mut acts = vec![
        Act::Request(write, 0, 6 * PER_BLOCK),
        Act::Request(RequestKind::Flush, 0, 1),
        Act::Spoil(block(1) + 2, 1, until_written),
        Act::Spoil(block(2) + 3, 2, for_ever),
        Act::Request(RequestKind::Read, 0, 4 * PER_BLOCK),
        Act::Request(write, block(1) + 2, 1),
        Act::Request(write, block(2) + 1, 3),
        Act::Spoil(block(3), 8, for_ever),
        Act::Request(write, block(3) + 4, 2),
        Act::Request(durable, block(3), 1),
        Act::Command(Command::Remap(extent(block(4), 2 * PER_BLOCK), Cause::Manual)),
        Act::Request(write, block(4), PER_BLOCK),
        Act::Command(Command::Clear(extent(block(4), 2 * PER_BLOCK))),
        Act::Request(RequestKind::Read, 0, 8 * PER_BLOCK),
        Act::Command(Command::Save),
    ];
    for n in 8..26 {
        acts.push(Act::Spoil(block(n) + n % PER_BLOCK, 1, if n % 2 == 0 { until_written } else { for_ever }));
        acts.push(Act::Request(write, block(n), 1 + n % PER_BLOCK));
        acts.push(Act::Request(RequestKind::Read, block(n), PER_BLOCK));
    }
    acts.push(Act::Command(Command::Verify { extent: extent(0, BLOCKS * PER_BLOCK), all: true }));
    acts.push(Act::Command(Command::Clear(extent(block(8), 4 * PER_BLOCK))));
    acts.push(Act::Request(
        RequestKind::WriteZeroes { fua: false, may_unmap: true },
        block(9),
        2 * PER_BLOCK,
    ));
    acts
}

fn scenario(seed: u64, policy: Policy) -> Scenario {
    let mut scenario = Scenario::of_seed(seed, 0);
    scenario.block_shift = 12;
    scenario.logical_block = 512;
    scenario.main_sectors = BLOCKS * PER_BLOCK;
    scenario.spares = vec![1 << 20];
    scenario.policy = policy;
    scenario.clients = 4;
    scenario.faults = Faults { crash: true, ..Faults::default() };
    scenario.commands = true;
    scenario
}

/// Runs the script and lets the power fail when `crash_after` operations have ended; then assembles and looks at everything.
/// `true`: the script ended before that.
///
/// # Errors
/// The violation.
pub fn crash_after(seed: u64, policy: Policy, crash_after: u64) -> Result<bool, Violation> {
    let mut world = World::create(scenario(seed, policy));
    let whole = play(&mut world, crash_after)?;
    world.crash()?;
    world.assemble()?;
    world.look_at_everything()?;
    Ok(whole)
}

fn play(world: &mut World, crash_after: u64) -> Result<bool, Violation> {
    let mut left = crash_after;
    world.assemble()?;
    if !world.complete_all(&mut left)? {
        return Ok(false);
    }
    for act in acts() {
        begin(world, act)?;
        if !world.complete_all(&mut left)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn begin(world: &mut World, act: Act) -> Checked {
    match act {
        Act::Request(kind, start, sectors) => world.begin_request(kind, extent(start, sectors)),
        Act::Spoil(start, sectors, bad) => {
            world.spoil_main_at(extent(start, sectors), bad);
            Ok(())
        }
        Act::Command(command) => world.begin_command(command),
    }
}
