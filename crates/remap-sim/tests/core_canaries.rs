//! Deliberately broken cores, each of which must be found within a stated number of seeds (about three times the seeds that it took
//! when it was planted).

use remap_core::canary::{Canary, Planted};
use remap_sim::Violation;
use remap_sim::scenario::Scenario;
use remap_sim::shrink;

/// The first of `seeds` seeds in which the core is found broken, and by what.
fn first_complaint(planted: Planted, seeds: u64) -> Option<(u64, Violation)> {
    (0..seeds).find_map(|seed| {
        let scenario = Scenario { planted, ..Scenario::of_seed(seed, 3000) };
        shrink::verdict(&scenario, true).err().map(|failure| (seed, failure.violation))
    })
}

macro_rules! canaries {
    ($($name:ident: $canary:ident within $seeds:literal;)*) => {
        $(#[test]
        fn $name() {
            let found = first_complaint(Planted::with(Canary::$canary), $seeds);
            let Some((seed, violation)) = found else {
                panic!("{:?} was not found in {} seeds", Canary::$canary, $seeds);
            };
            println!("{:?}: seed {seed}: {violation}", Canary::$canary);
        })*

        #[test]
        fn every_canary_is_tried() {
            let tried = [$(Canary::$canary),*];
            assert!(Canary::ALL.iter().all(|canary| tried.contains(canary)), "{tried:?}");
        }

    };
}

canaries! {
    acknowledged_before_the_commit: AckBeforeCommit within 40;
    a_failed_write_acknowledged: AckFailedWrite within 10;
    map_before_data: MapBeforeData within 20;
    a_flush_that_began_too_early: FlushedTooEarly within 300;
    superblock_before_its_pages: NameBeforePages within 200;
    lost_reads_as_good: ZeroesForLost within 10;
    partial_write_heals_all: LostMaskDropped within 80;
    old_bytes_of_main_believed: StaleMainBelieved within 300;
    transport_error_remapped: TransportBlamed within 100;
    a_slot_freed_early: FreedEarly within 300;
    an_order_from_outside: OrderFromOutside within 10;
    a_sector_retried_for_ever: RetryForEver within 10;
    a_write_never_answered: OrphanForgotten within 600;
    oldest_copy_elected: OldestElected within 20;
    a_hole_taken_for_the_end: HoleIgnored within 100;
    a_contradiction_believed: ContradictionIgnored within 100;
    salvage_written_home: SalvageWrittenHome within 10;
    a_repeated_write_skipped: RepeatSkipped within 10;
    a_move_without_grace: NoGrace within 40;
    a_move_without_fence: NoFence within 200;
    look_up_off_by_one: LookupOffByOne within 10;
    first_sector_only: FirstSectorOnly within 10;
}
