//! Scripted lives of a volume, with the power failing at each of their operations.

use remap_sim::coverage::Kind;
use remap_sim::scenario::Canary;
use remap_sim::script::{self, Script};
use remap_sim::sweep::crash::{self, Bounds};
use remap_sim::world::World;

fn named(name: &str) -> Script {
    script::all().into_iter().find(|s| s.name == name).expect("there is such a script")
}

/// Every script, as far as a test of all can go; `remap-sim sweep` goes further.
#[test]
fn no_persisted_state_of_any_script_breaks_the_contract() {
    let bounds = Bounds { states: 32, drawn: 8, again_every: 500, again_states: 16 };
    let mut total = crash::Tally::default();
    for script in script::all() {
        match crash::sweep(&script, &bounds) {
            Ok(tally) => total.add(&tally),
            Err(finding) => panic!("{finding}"),
        }
    }
    assert!(total.cuts > 2000 && total.different > 4000 && total.again_cuts > 20, "{total:?}");
}

/// A life without a cut, to see what a script reaches.
fn live(script: &Script) -> World {
    let mut world = World::create(script.scenario.clone());
    world.assemble().expect("a fresh volume");
    world.end_all().expect("no violation");
    for act in script.steps.iter().flatten() {
        world.begin_act(act).expect("no violation");
        world.end_all().expect("no violation");
    }
    world
}

/// A script that no longer does what it is named for proves nothing.
#[test]
fn scripts_reach_what_they_are_for() {
    type Reached = fn(&dyn Fn(Kind) -> u64) -> bool;
    let cases: [(&str, Reached); 21] = [
        ("write-on-bad", |t| t(Kind::Remapped) == 1),
        ("write-on-bad-remap-only", |t| t(Kind::Remapped) == 1),
        ("partial-write", |t| t(Kind::Pending) == 2 && t(Kind::Remapped) > 0 && t(Kind::Healed) > 0),
        ("heal", |t| t(Kind::Pending) == 1 && t(Kind::Healed) == 2 && t(Kind::Remapped) == 0),
        ("remap-and-clear", |t| t(Kind::Remapped) == 4 && t(Kind::Evacuated) == 1 && t(Kind::Cleared) >= 4),
        ("verify", |t| t(Kind::Pending) == 2 && t(Kind::SlotRetired) == 1),
        ("journal-wrap", |t| t(Kind::Checkpoint) >= 3),
        ("slot-fails", |t| t(Kind::SlotRetired) == 3),
        ("copy-fails", |t| t(Kind::CopyFenced) + t(Kind::CopyBehind) >= 2 && t(Kind::Checkpoint) >= 4),
        ("copies-fail-at-the-checkpoint", |t| t(Kind::CopyFenced) + t(Kind::CopyBehind) == 3),
        ("journals-fail", |t| t(Kind::Frozen) == 1 && t(Kind::Checkpoint) == 2 && t(Kind::Remapped) == 2),
        ("import", |t| t(Kind::Checkpoint) == 3 && t(Kind::Healed) == 2),
        ("release", |t| {
            t(Kind::Released) == 1
                && t(Kind::TakenBack) == 1
                && t(Kind::Remapped) == 4
                && t(Kind::Healed) == 1
        }),
        ("power-cuts", |t| t(Kind::PowerCut) == 3 && t(Kind::Remapped) == 3),
        ("churn", |t| t(Kind::Remapped) == 12 && t(Kind::Cleared) == 12 && t(Kind::Checkpoint) > 2),
        ("spare-joins", |t| t(Kind::SpareJoined) == 2 && t(Kind::Remapped) == 3),
        ("larger-spare-joins", |t| t(Kind::SpareJoined) == 2 && t(Kind::Remapped) == 3),
        ("spare-leaves", |t| t(Kind::SpareLeft) == 1 && t(Kind::SpareJoined) == 2 && t(Kind::PowerCut) == 1),
        ("spare-takes-anothers-place", |t| t(Kind::SpareJoined) == 1 && t(Kind::SpareLeft) == 1),
        ("spare-without-journals", |t| {
            t(Kind::SpareJoined) == 1 && t(Kind::SpareLeft) == 0 && t(Kind::Remapped) == 5
        }),
        ("large-table", |t| t(Kind::Remapped) == 60 && t(Kind::Cleared) == 15),
    ];
    for (name, reached) in cases {
        let world = live(&named(name));
        let met = world.tally().met;
        assert!(reached(&|kind| met.count(kind)), "{name}:\n{met}");
    }
    let world = live(&named("generation-wrap"));
    assert!(world.generation().is_some_and(|g| g < 100), "{:?}", world.generation());
    let full = named("table-full");
    let world = live(&full);
    let capacity = full.scenario.shape().expect("a volume").capacity();
    assert_eq!(world.blocks_with_entries().len() as u64, capacity - 10 + 1, "of {capacity}");
    let world = live(&named("spare-full"));
    assert!(world.tally().failed_requests > 0, "{:?}", world.tally());
}

/// A sweep that finds nothing in a broken world would find nothing anywhere.
#[test]
fn a_flush_that_does_nothing_is_found() {
    let mut script = named("remap-and-clear");
    script.scenario.canary = Some(Canary::DropEngineFlush);
    let bounds = Bounds { again_every: 0, ..Bounds::SHORT };
    assert!(crash::sweep(&script, &bounds).is_err());
}

#[test]
fn a_sweep_is_the_same_every_time() {
    let once = || crash::sweep(&named("together"), &Bounds { states: 16, ..Bounds::SHORT }).ok();
    let (first, second) = (once(), once());
    assert!(first.is_some());
    assert_eq!(first, second);
}
