//! Deliberately broken worlds: an oracle that does not see these sees nothing.

use remap_sim::scenario::{Canary, Scenario};
use remap_sim::world;

/// The first of `seeds` seeds in which the oracle complains, and what it says.
fn first_complaint(canary: Canary, seeds: u64) -> Option<(u64, String)> {
    (0..seeds).find_map(|seed| {
        let scenario = Scenario { canary: Some(canary), ..Scenario::of_seed(seed, 3000) };
        world::run(&scenario).err().map(|(violation, _)| (seed, violation.to_string()))
    })
}

fn must_be_seen(canary: Canary, seeds: u64) {
    assert!(first_complaint(canary, seeds).is_some(), "{canary:?} was not seen in {seeds} seeds");
}

#[test]
fn acknowledged_early() {
    must_be_seen(Canary::AckEarly, 10);
}

#[test]
fn grace_at_once() {
    must_be_seen(Canary::GraceAtOnce, 400);
}

#[test]
fn engine_flushes_dropped() {
    must_be_seen(Canary::DropEngineFlush, 40);
}

#[test]
fn client_flushes_dropped() {
    must_be_seen(Canary::DropClientFlush, 100);
}

#[test]
fn path_faults_taken_for_medium_errors() {
    must_be_seen(Canary::PathFaultAsMedium, 100);
}
