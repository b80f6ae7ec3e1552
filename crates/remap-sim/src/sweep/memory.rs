//! A script without memory: whatever the core is refused, it neither dies nor breaks the contract, and goes on once there is
//! some again.
//!
//! Invariant: who refuses is the allocator of the program that calls this (it asks [`crate::inside`]); a life is the same in
//! every run with the same refusals.

use crate::Checked;
use crate::script::Script;
use crate::world::World;

/// Lives through a script, resting after every step; then the power fails, and everything is looked at in another life.
///
/// # Errors
/// The violation.
pub fn live(script: &Script) -> Checked {
    let mut world = World::create(script.scenario.clone());
    world.assemble()?;
    world.settle()?;
    for step in &script.steps {
        for act in step {
            // What failed for want of memory may leave nothing to spoil.
            world.begin_act(act)?;
        }
        world.settle()?;
    }
    world.crash()?;
    world.assemble()?;
    world.look_at_everything()
}
