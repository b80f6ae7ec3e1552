//! Scripted lives of a volume, with the power failing at each of their operations.

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
    type Reached = fn(&remap_sim::world::Tally) -> bool;
    let cases: [(&str, Reached); 20] = [
        ("write-on-bad", |t| t.remaps == 1),
        ("write-on-bad-remap-only", |t| t.remaps == 1),
        ("partial-write", |t| t.pendings == 2 && t.remaps > 0 && t.heals > 0),
        ("heal", |t| t.pendings == 1 && t.heals == 2 && t.remaps == 0),
        ("remap-and-clear", |t| t.remaps == 5 && t.clears >= 4),
        ("verify", |t| t.pendings == 2 && t.retired == 1),
        ("journal-wrap", |t| t.checkpoints >= 3),
        ("slot-fails", |t| t.retired == 3),
        ("copy-fails", |t| t.copy_failures >= 2 && t.checkpoints >= 4),
        ("copies-fail-at-the-checkpoint", |t| t.copy_failures == 3),
        ("journals-fail", |t| t.freezes == 1 && t.checkpoints == 2 && t.remaps == 2),
        ("import", |t| t.checkpoints == 3 && t.heals == 2),
        ("power-cuts", |t| t.crashes == 3 && t.remaps == 3),
        ("churn", |t| t.remaps == 12 && t.clears == 12 && t.checkpoints > 2),
        ("spare-joins", |t| t.joined == 2 && t.remaps == 3),
        ("larger-spare-joins", |t| t.joined == 2 && t.remaps == 3),
        ("spare-leaves", |t| t.left == 1 && t.joined == 2 && t.crashes == 1),
        ("spare-takes-anothers-place", |t| t.joined == 1 && t.left == 1),
        ("spare-without-journals", |t| t.joined == 1 && t.left == 0 && t.remaps == 5),
        ("large-table", |t| t.remaps == 60 && t.clears == 15),
    ];
    for (name, reached) in cases {
        let world = live(&named(name));
        let tally = world.tally();
        assert!(reached(&tally), "{name}: {tally:?}");
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
