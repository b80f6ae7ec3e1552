//! Deliberately broken worlds: an oracle that does not see these sees nothing.

use remap_sim::scenario::{Canary, Scenario};
use remap_sim::{seed_file, shrink, world};

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

#[test]
fn a_failure_shrinks_to_a_few_steps() {
    let broken = Scenario { canary: Some(Canary::AckEarly), ..Scenario::of_seed(3, 3000) };
    let failure = shrink::verdict(&broken, false).expect_err("a broken world");
    let mut runs = 0;
    let (small, violation) = shrink::shrink(&broken, &failure.violation, &mut || {
        runs += 1;
        runs < 3000
    });
    let kept = small.only.as_ref().map_or(small.steps, |only| only.len() as u64);
    assert_eq!(violation.rule, failure.violation.rule);
    assert!(kept <= 40, "{kept} steps are left after {runs} runs: {small:?}");
    // The file does not say what was planted; else it says all.
    let (read, rule) = seed_file::parse(&seed_file::write(&small, violation.rule, "")).expect("a seed file");
    let again = Scenario { canary: small.canary, ..read };
    assert_eq!(rule, violation.rule);
    assert_eq!(shrink::verdict(&again, false).expect_err("the same run").violation, violation);
}
