//! Five copies of the metadata, each good, damaged, stale or ahead: all sets of them.

use remap_sim::script::volume_on;
use remap_sim::sweep::copies::{self, Bounds, Tally};

fn sweep(spares: usize, bounds: &Bounds) -> Tally {
    match copies::sweep(&volume_on(spares), bounds) {
        Ok(tally) => tally,
        Err(finding) => panic!("{finding}"),
    }
}

#[test]
fn every_set_of_copies_gives_what_the_rules_say() {
    let tally = sweep(1, &Bounds { back: 0, ..Bounds::SHORT });
    assert!(tally.newest > 10_000 && tally.refused > 100 && tally.older > 100, "{tally:?}");
}

#[test]
fn also_on_several_spares() {
    for spares in [2, 3, 6] {
        let tally = sweep(spares, &Bounds { back: 0, ..Bounds::MIXED });
        assert!(tally.newest > 1000 && tally.refused > 100, "{spares} spares: {tally:?}");
    }
}
