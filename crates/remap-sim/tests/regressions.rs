//! Seeds that find a bug when its fix is taken out, each named for it. A seed keeps its meaning as long as the scenario and the world draw the
//! same numbers; where they change, the scripted tests of the core keep the behaviour.

use std::fs;
use std::path::Path;

use remap_sim::scenario::Scenario;
use remap_sim::{Rule, seed_file, shrink, world};

/// Each file in `seeds` is a run that broke a rule once; its name says what the bug was. `remap-sim soak` writes such files.
#[test]
fn what_failed_once_does_not_fail_again() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/seeds");
    let files = fs::read_dir(&folder).into_iter().flatten().flatten().map(|file| file.path());
    let mut files: Vec<_> = files.filter(|file| file.extension().is_some_and(|e| e == "seed")).collect();
    files.sort();
    let outcome = |file: &Path| {
        let text = fs::read_to_string(file).map_err(|error| error.to_string())?;
        let (scenario, rule) = seed_file::parse(&text)?;
        shrink::verdict(&scenario, rule == Rule::C7).map_err(|failure| failure.violation.to_string())
    };
    let failed = |file: &std::path::PathBuf| {
        let name = file.file_stem().unwrap_or_default().to_string_lossy().replace('-', " ");
        outcome(file).err().map(|error| format!("{name}: {error}"))
    };
    let failures: Vec<String> = files.iter().filter_map(failed).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

fn passes(seed: u64) {
    if let Err((violation, _)) = world::run(&Scenario::of_seed(seed, 3000)) {
        panic!("seed {seed}: {violation}");
    }
}

/// Neighbours with the same partial lost mask became one entry, which no decoder accepts: the checkpoint was lost.
#[test]
fn neighbours_lost_in_part_stay_apart() {
    passes(128);
}

/// A read that met a lost sector and then a path fault gave garbage for the sectors it never read.
#[test]
fn what_was_never_read_is_bad_too() {
    passes(19);
}

/// A checkpoint left the fence on one superblock page: the copy counted as in step, but no recovery believed it.
#[test]
fn a_checkpoint_takes_the_fence_off() {
    passes(58);
}

/// A write piece that failed under a move started a second job on the same block, and the move lost the write.
#[test]
fn one_block_one_job() {
    passes(225);
}

/// Slots given up by relocations were not counted: a checkpoint grew past its area.
#[test]
fn retired_slots_take_room_in_the_checkpoint() {
    passes(276);
}

/// A label was rewritten, both pages at once, at each checkpoint; and a volume went live although a spare had no copy.
#[test]
fn every_spare_is_recognised_after_a_crash() {
    passes(251);
}

/// The breaker's probe always asked the same sector; if that was bad, it never closed.
#[test]
fn probes_go_round() {
    passes(1733);
}

/// The torn remains of a record became whole when another life wrote, torn, to the same place: the table named a slot that
/// held another block's bytes.
#[test]
fn a_record_never_finished_stays_dead() {
    let outcome = world::run(&Scenario::of_seed(106_230, 2000));
    assert!(outcome.is_ok(), "{:?}", outcome.err().map(|(violation, _)| violation));
}

/// A slot went bad on a full spare: what it lost was not noted, and old contents came back when it read again.
#[test]
fn a_slot_that_went_bad_on_a_full_spare_stays_lost() {
    passes(305_580);
}

/// A crash left the new superblock in one copy alone, and the page that it names was bad there: the table was called lost although
/// the checkpoint and journal that it was made of lay whole in the other copies.
#[test]
fn a_checkpoint_that_cannot_be_read_falls_back_on_what_it_was_made_of() {
    passes(438_064);
}

/// A journal page that could not be read, behind others that could, passed for the journal's end: its copy was not written anew, and
/// when the sector read again the record in it contradicted the one that had taken its place.
#[test]
fn a_journal_page_that_cannot_be_read_is_damage() {
    passes(459_534);
}
