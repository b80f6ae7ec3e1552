//! Every operation of every script failing in turn, in every way, once or from then on.
//!
//! Invariant: whatever failed, everything ends while it lasts; after it has ended the volume comes to rest, each sector is as it may
//! be, all copies agree, and a fault that does not blame the medium has made no entry (C4).

use remap_core::op::Fault;

use super::Finding;
use crate::coverage::Kind;
use crate::script::Script;
use crate::world::{Failing, World};
use crate::{Checked, Rule, Violation};

/// Ways to fail.
pub const FAULTS: [Fault; 8] = [
    Fault::Medium,
    Fault::Protection,
    Fault::Unknown,
    Fault::Transport,
    Fault::Timeout,
    Fault::Gone,
    Fault::NoSpace,
    Fault::Unsupported,
];

/// Times that the driver waits for an adoption that was disturbed.
const PATIENCE: u32 = 5;

/// What a sweep did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Device operations of the scripts, undisturbed.
    pub operations: u64,
    /// Lives in which one of them failed.
    pub lives: u64,
    /// Requests that failed in them.
    pub failed_requests: u64,
    /// Times metadata could not be written.
    pub freezes: u64,
    /// Times remapping was suspended.
    pub trips: u64,
}

impl Tally {
    /// Adds another sweep.
    pub fn add(&mut self, other: &Self) {
        self.operations += other.operations;
        self.lives += other.lives;
        self.failed_requests += other.failed_requests;
        self.freezes += other.freezes;
        self.trips += other.trips;
    }
}

/// Sweeps one script: every `stride`-th operation (1: all).
///
/// # Errors
/// The first violation.
pub fn sweep(script: &Script, stride: usize) -> Result<Tally, Finding> {
    let mut tally = Tally::default();
    let operations = live(script, None, &mut tally)
        .map_err(|violation| Finding { place: format!("script {}, undisturbed", script.name), violation })?;
    tally = Tally { operations, ..Tally::default() };
    for operation in (0..operations).step_by(stride) {
        for fault in FAULTS {
            for lasts in [false, true] {
                let failing = Failing { operation, fault, lasts };
                live(script, Some(failing), &mut tally).map_err(|violation| {
                    let from = if lasts { "from operation" } else { "operation" };
                    let place = format!("script {}, {from} {operation} fails with {fault:?}", script.name);
                    Finding { place, violation }
                })?;
            }
        }
    }
    Ok(tally)
}

/// A life of the script; gives the operations that it had.
fn live(script: &Script, failing: Option<Failing>, tally: &mut Tally) -> Result<u64, Violation> {
    let mut world = World::create(script.scenario.clone());
    world.stage(failing);
    world.assemble()?;
    world.end_all()?;
    for _ in 0..PATIENCE {
        wait_until_live(&mut world)?;
    }
    world.end_all()?;
    if !world.is_live() {
        // Nobody is served by a volume that could not be made.
        world.end_stage();
        wait_until_live(&mut world)?;
    }
    if !world.is_live() {
        return Err(Rule::C6.broken("the volume does not come up"));
    }
    for acts in &script.steps {
        for act in acts {
            world.begin_act(act)?;
        }
        world.end_all()?;
        for _ in 0..PATIENCE {
            wait_until_live(&mut world)?;
        }
    }
    let operations = world.staged_operations();
    world.end_story()?;
    tally.lives += 1;
    tally.failed_requests += world.tally().failed_requests;
    tally.freezes += world.tally().met.count(Kind::Frozen);
    tally.trips += world.tally().met.count(Kind::BreakerOpen);
    if failing.is_some_and(|f| !f.fault.blames_medium()) {
        check_entries(script, &world)?;
    }
    Ok(operations)
}

fn wait_until_live(world: &mut World) -> Checked {
    if !world.is_live() {
        world.wait(1)?;
        world.end_all()?;
    }
    Ok(())
}

fn check_entries(script: &Script, world: &World) -> Checked {
    let marked = script.marked_blocks();
    match world.blocks_with_entries().iter().find(|block| !marked.contains(block)) {
        Some(block) => {
            Err(Rule::C4.broken(format!("block {block} has an entry, but nothing was wrong with it")))
        }
        None => Ok(()),
    }
}
