use super::*;
use crate::stress::faults::Faults;

const FIRST: u64 = 100;

fn model(blank: bool) -> Model {
    Model::of(Run::of(1), FIRST, 64, blank, 64)
}

/// A disk of the model's part.
struct Disk(Vec<u8>);

impl Disk {
    fn blank() -> Self {
        Self(vec![0; 64 * UNIT as usize])
    }

    fn part(&mut self, units: &Units) -> &mut [u8] {
        &mut self.0[units.start as usize * UNIT as usize..units.end as usize * UNIT as usize]
    }

    fn write(&mut self, model: &mut Model, units: Units) {
        model.fill(&units, self.part(&units));
        model.wrote(&units, true);
    }

    fn check(&mut self, model: &Model, units: Units, bad: &[ByteRange]) -> Findings {
        let mut seen = Findings::default();
        model.check(&units, self.part(&units), bad, &Faults::default(), &mut seen);
        seen
    }
}

#[test]
fn what_was_written_is_right_and_the_rest_is_zero() {
    let (mut model, mut disk) = (model(true), Disk::blank());
    disk.write(&mut model, 3..9);
    disk.write(&mut model, 5..6);
    let seen = disk.check(&model, 0..64, &[]);
    assert!(seen.good());
    assert_eq!(seen.verified_bytes, 64 * UNIT);
    assert_eq!(model.written(4), [3..7, 7..9]);
}

#[test]
fn a_wrong_byte_is_found() {
    let (mut model, mut disk) = (model(true), Disk::blank());
    disk.write(&mut model, 0..4);
    disk.part(&(2..3))[700] ^= 0x10;
    let seen = disk.check(&model, 0..64, &[]);
    assert_eq!(seen.wrong_bytes, 512);
    assert_eq!(seen.wrong, ["sector 817: expected version 1, found bytes that nobody wrote"]);
    disk.part(&(50..51))[0] = 1;
    let seen = disk.check(&model, 40..64, &[]);
    assert_eq!(
        seen.wrong,
        ["sector 1200: expected zeroes (nothing was written there), found bytes that nobody wrote"]
    );
}

#[test]
fn a_stale_version_is_found() {
    let (mut model, mut disk) = (model(true), Disk::blank());
    disk.write(&mut model, 7..8);
    let old = disk.part(&(7..8)).to_vec();
    disk.write(&mut model, 7..8);
    disk.part(&(7..8)).copy_from_slice(&old);
    let seen = disk.check(&model, 7..8, &[]);
    assert_eq!(seen.wrong_bytes, UNIT);
    assert_eq!(seen.wrong[0], "sector 856: expected version 2, found sector 856 version 1");
}

#[test]
fn a_write_that_vanished_is_found() {
    let (mut model, mut disk) = (model(true), Disk::blank());
    disk.write(&mut model, 7..8);
    disk.part(&(7..8)).fill(0);
    assert_eq!(disk.check(&model, 7..8, &[]).wrong[0], "sector 856: expected version 1, found zeroes");
}

#[test]
fn a_misplaced_block_is_found() {
    let (mut model, mut disk) = (model(true), Disk::blank());
    disk.write(&mut model, 10..12);
    let other = disk.part(&(10..11)).to_vec();
    disk.part(&(11..12)).copy_from_slice(&other);
    let seen = disk.check(&model, 10..12, &[]);
    assert_eq!(seen.wrong_bytes, UNIT);
    assert_eq!(seen.wrong[0], "sector 888: expected version 1, found sector 880 version 1");
}

#[test]
fn another_run_is_found() {
    let (mut model, mut disk) = (model(true), Disk::blank());
    disk.write(&mut model, 1..2);
    Run::of(99).fill(808, 1, &mut disk.part(&(1..2))[..SECTOR]);
    assert_eq!(
        disk.check(&model, 1..2, &[]).wrong,
        ["sector 808: expected version 1, found sector 808 version 1 of another run"]
    );
}

#[test]
fn a_failed_write_leaves_either_version_in_each_sector() {
    let (mut model, mut disk) = (model(true), Disk::blank());
    disk.write(&mut model, 0..2);
    let old = disk.part(&(0..2)).to_vec();
    model.fill(&(0..2), disk.part(&(0..2)));
    model.wrote(&(0..2), false);
    assert!(disk.check(&model, 0..2, &[]).good(), "the new one");
    disk.part(&(0..2))[..4 * SECTOR].copy_from_slice(&old[..4 * SECTOR]);
    assert!(disk.check(&model, 0..2, &[]).good(), "some of each");
    let all = [ByteRange { start: FIRST * UNIT, len: 2 * UNIT }];
    assert!(disk.check(&model, 0..2, &all).good(), "or neither can be read");
    disk.part(&(0..1)).fill(0);
    assert_eq!(disk.check(&model, 0..2, &[]).wrong_bytes, UNIT, "zeroes were never there");
    disk.write(&mut model, 0..2);
    disk.part(&(0..2)).copy_from_slice(&old);
    assert_eq!(disk.check(&model, 0..2, &[]).wrong_bytes, 2 * UNIT, "the next write ends the doubt");
}

#[test]
fn zeroes_and_discards() {
    let (mut model, mut disk) = (model(true), Disk::blank());
    disk.write(&mut model, 0..3);
    model.discarded(&(0..1));
    model.zeroed(&(1..2), true);
    disk.part(&(1..2)).fill(0);
    assert!(disk.check(&model, 0..3, &[]).good(), "a discard may do nothing");
    disk.part(&(0..1)).fill(0);
    assert!(disk.check(&model, 0..3, &[]).good(), "or leave zeroes");
    disk.part(&(2..3)).fill(0);
    assert!(!disk.check(&model, 2..3, &[]).good(), "elsewhere zeroes are wrong");
    disk.write(&mut model, 0..3);
    assert!(disk.check(&model, 0..3, &[]).good());
}

#[test]
fn an_error_that_no_drill_explains_is_told() {
    let (mut model, mut disk) = (model(true), Disk::blank());
    disk.write(&mut model, 0..1);
    let bad = [ByteRange { start: FIRST * UNIT + 512, len: 512 }];
    let seen = disk.check(&model, 0..1, &bad);
    assert_eq!((seen.unexpected_errors, seen.verified_bytes), (1, UNIT - 512));
    assert_eq!(seen.errors, ["sector 801 cannot be read; expected version 1"]);
}

#[test]
fn of_what_held_data_only_what_was_written_is_judged() {
    let (mut model, mut disk) = (model(false), Disk::blank());
    disk.0.fill(0xee);
    assert!(disk.check(&model, 0..64, &[]).good());
    model.wrote(&(0..1), false);
    assert!(disk.check(&model, 0..1, &[]).good(), "what was there may still be there");
    disk.write(&mut model, 0..1);
    disk.part(&(0..1)).fill(0xee);
    assert_eq!(disk.check(&model, 0..1, &[]).wrong_bytes, UNIT);
}

#[test]
fn no_more_is_remembered_than_was_said() {
    let mut model = Model::of(Run::of(1), 0, 64, true, 4);
    assert!(model.has_room(&(0..4)) && !model.has_room(&(0..5)));
    model.wrote(&(0..4), true);
    assert!(model.has_room(&(1..3)) && !model.has_room(&(3..5)));
    model.wrote(&(4..6), true);
    assert!(model.has_room(&(1..6)), "what is remembered can be written again, however much it is");
}
