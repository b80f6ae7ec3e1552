//! A scripted life, with the power failing after each of its operations.

use remap_format::Policy;
use remap_sim::script;

fn sweep(policy: Policy) {
    for seed in 0..2 {
        let mut points = 0;
        for after in 0.. {
            match script::crash_after(seed, policy, after) {
                Ok(true) => break,
                Ok(false) => points += 1,
                Err(violation) => panic!("seed {seed}, crash after {after} operations: {violation}"),
            }
        }
        assert!(points > 300, "the script has {points} operations only");
    }
}

#[test]
fn crash_at_every_operation_when_blocks_are_rewritten_first() {
    sweep(Policy::RewriteThenRemap);
}

#[test]
fn crash_at_every_operation_when_blocks_are_remapped_at_once() {
    sweep(Policy::RemapOnly);
}
