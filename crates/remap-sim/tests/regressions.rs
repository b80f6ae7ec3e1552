//! Seeds that once found a bug, each named for it. A seed keeps its meaning as long as the scenario and the world draw the
//! same numbers; where they change, the scripted tests of the core keep the behaviour.

use remap_sim::scenario::Scenario;
use remap_sim::world;

fn passes(seed: u64) {
    if let Err((violation, _)) = world::run(&Scenario::of_seed(seed, 3000)) {
        panic!("seed {seed}: {violation}");
    }
}

/// Neighbours with the same partial lost mask became one entry, which no decoder accepts: the checkpoint was lost.
#[test]
fn neighbours_lost_in_part_stay_apart() {
    passes(0);
}

/// A read that met a lost sector and then a path fault gave garbage for the sectors it never read.
#[test]
fn what_was_never_read_is_bad_too() {
    passes(21);
}

/// A checkpoint left the fence on one superblock page: the copy counted as in step, but no recovery believed it.
#[test]
fn a_checkpoint_takes_the_fence_off() {
    passes(30);
}

/// A write piece that failed under a move started a second job on the same block, and the move lost the write.
#[test]
fn one_block_one_job() {
    passes(69);
}

/// Slots given up by relocations were not counted: a checkpoint grew past its area.
#[test]
fn retired_slots_take_room_in_the_checkpoint() {
    passes(226);
}

/// A label was rewritten, both pages at once, at each checkpoint; and a volume went live although a spare had no copy.
#[test]
fn every_spare_is_recognised_after_a_crash() {
    passes(251);
}

/// A suspension by command ended when a path fault was over.
#[test]
fn suspended_stays_suspended() {
    passes(1601);
}
