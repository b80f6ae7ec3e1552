//! Bits of the metadata that flip.

use remap_sim::script::volume_on;
use remap_sim::sweep::flips::{self, Bounds};

/// `remap-sim sweep flips --deep` takes every bit of every copy.
#[test]
fn no_flip_changes_what_is_believed() {
    let bounds = Bounds { counting: 61, unused: 203, alone: 211, pairs: 500 };
    match flips::sweep(&volume_on(1), &bounds) {
        Ok(tally) => {
            assert!(tally.noticed > 5000 && tally.flips > tally.noticed + 2000, "{tally:?}");
            assert!(tally.refused > 500 && tally.shorter > 100, "{tally:?}");
        }
        Err(finding) => panic!("{finding}"),
    }
}
