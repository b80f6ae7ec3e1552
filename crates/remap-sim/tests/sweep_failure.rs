//! Operations that fail, one after another, in scripted lives.

use remap_sim::scenario::Canary;
use remap_sim::script;
use remap_sim::sweep::failure;

/// `remap-sim sweep failures` takes every operation of every script.
#[test]
fn an_operation_that_fails_breaks_nothing() {
    let mut total = failure::Tally::default();
    for (nth, script) in script::all().iter().enumerate() {
        match failure::sweep(script, 7 + nth % 3) {
            Ok(tally) => total.add(&tally),
            Err(finding) => panic!("{finding}"),
        }
    }
    assert!(total.lives > 4000 && total.freezes > 500 && total.trips > 500, "{total:?}");
}

#[test]
fn a_path_fault_that_moves_a_block_is_found() {
    let mut script = script::all().swap_remove(0);
    script.scenario.canary = Some(Canary::PathFaultAsMedium);
    assert!(failure::sweep(&script, 1).is_err());
}
