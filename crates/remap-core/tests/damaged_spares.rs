//! Damage to the metadata of one copy, and of all: what is believed, what is said of it, and what is refused (C8).

use remap_core::elect::ElectionError;
use remap_core::engine::{Command, CommandId, Engine, EngineConfig};
use remap_core::op::{Buffer, Fault, OpKind};
use remap_core::recovery::history::generations;
use remap_core::recovery::{Flaw, Recovered, RecoveryError, SpareReader, SuperblockPage, recover, shape_of};
use remap_core::units::{Extent, Now, Sector};
use remap_format::layout::{CopyPlace, CopyShape, copy_places, first_homes, plan};
use remap_format::{
    Cause, DecodeError, Entry, EntryState, MainIdentity, PAGE_SIZE, Policy, Record, RecordHeader, Superblock,
};

const SPARE: u64 = 1 << 20;
const NOW: Now = Now { mono_ns: 0, unix_s: 1_700_000_000 };

/// A spare in memory. Pages that begin at one of these bytes cannot be read.
#[derive(Clone)]
struct Spare {
    bytes: Vec<u8>,
    unreadable: Vec<u64>,
}

impl SpareReader for Spare {
    fn read(&mut self, _: usize, offset: u64, into: &mut [u8]) -> Result<(), Fault> {
        let range = offset..offset + into.len() as u64;
        if self.unreadable.iter().any(|page| range.contains(page)) {
            return Err(Fault::Medium);
        }
        into.copy_from_slice(&self.bytes[offset as usize..][..into.len()]);
        Ok(())
    }
}

impl Spare {
    fn recover(&self) -> Result<Recovered, RecoveryError> {
        recover(&mut self.clone(), &[SPARE], false)
    }

    /// Damages the page at this offset in the first copies.
    fn smash(&self, copies: usize, offset: u64) -> Self {
        let mut spare = self.clone();
        for CopyPlace { start, .. } in places().iter().take(copies) {
            spare.bytes[(start + offset) as usize..][..PAGE_SIZE].fill(0x5a);
        }
        spare
    }
}

fn superblock() -> Superblock {
    let shape = plan(&[SPARE], 4096).expect("large enough");
    let main = MainIdentity { size: 1 << 30, logical_block: 512, ..Default::default() };
    Superblock {
        policy: Policy::RemapOnly,
        ..Superblock::new([1; 16], "damage", 4096, &shape, &[([2; 16], SPARE)], main)
    }
}

fn places() -> [CopyPlace; 5] {
    copy_places(&superblock().spares, &first_homes(1))
}

fn shape() -> CopyShape {
    shape_of(&superblock())
}

fn remap(block: u64) -> Command {
    Command::Remap(Extent::new(Sector(block * 8), 8).expect("a block"), Cause::Manual)
}

/// What is on the spare after these commands. The volume's first checkpoint has generation 1 and lies in area 0.
fn spare(commands: &[Command]) -> Spare {
    let recovered = Recovered::fresh(superblock(), &[]).expect("fresh");
    let unused = Spare { bytes: vec![0; SPARE as usize], unreadable: Vec::new() };
    unused.lives(recovered, commands)
}

impl Spare {
    /// What is on it after a life that begins with what was recovered.
    fn lives(mut self, recovered: Recovered, commands: &[Command]) -> Self {
        let mut engine = Engine::start(recovered, EngineConfig::default(), NOW).expect("memory");
        for command in [None].into_iter().chain(commands.iter().map(Some)) {
            if let Some(command) = command {
                engine.command(NOW, CommandId(1), *command).expect("taken");
            }
            while let Some(op) = engine.poll_op() {
                if let OpKind::Write { from: Buffer::Owned(from), .. } = op.kind {
                    self.bytes[op.extent.start().0 as usize * 512..][..from.len()].copy_from_slice(&from);
                }
                engine.handle_completion(NOW, op.id, Ok(()));
            }
            while engine.poll_event().is_some() {}
        }
        self
    }

    /// Pages at this offset cannot be read in the first copies.
    fn hide(&self, copies: usize, offset: u64) -> Self {
        let mut spare = self.clone();
        spare.unreadable.extend(places().iter().take(copies).map(|place| place.start + offset));
        spare
    }

    /// With these copies as `later` has them.
    fn with_copies(&self, copies: std::ops::Range<usize>, later: &Self) -> Self {
        let mut mixed = self.clone();
        for CopyPlace { start, .. } in &places()[copies] {
            let copy = *start as usize..*start as usize + shape().bytes() as usize;
            mixed.bytes[copy.clone()].copy_from_slice(&later.bytes[copy]);
        }
        mixed
    }
}

fn blocks(recovered: &Recovered) -> Vec<u64> {
    recovered.table.iter().map(|entry| entry.block).collect()
}

/// Damage in any copy but one changes nothing, and is said with its place.
#[test]
fn one_whole_copy_of_a_page_is_enough() {
    let whole = spare(&[remap(1), Command::Save, remap(3), remap(5)]);
    assert!(whole.recover().is_ok_and(|found| found.good_copies() == 5 && !found.needs_repair));
    let pages = [shape().page_at(1, 0), shape().journal_at(0), shape().journal_at(1)];
    for (offset, copies) in pages.into_iter().flat_map(|page| (1..5).map(move |copies| (page, copies))) {
        let found = whole.smash(copies, offset).recover().expect("another copy is whole");
        assert_eq!((blocks(&found), found.generation, found.journal_position), (vec![1, 3, 5], 5, 2));
        assert!(found.needs_repair);
        for (copy, place) in found.copies.iter().zip(places()) {
            let expected = (usize::from(place.copy) < copies).then_some(place.start + offset);
            assert_eq!(copy.flaw.map(|(_, at)| at), expected, "{offset}");
            assert!(matches!(copy.flaw, None | Some((Flaw::Damaged(_), _))));
        }
        let mut unreadable = whole.clone();
        unreadable.unreadable = places().iter().take(copies).map(|place| place.start + offset).collect();
        let found = unreadable.recover().expect("another copy can be read");
        assert_eq!((blocks(&found), found.needs_repair), (vec![1, 3, 5], true));
        let said: Vec<_> = found.copies.iter().filter_map(|copy| copy.flaw).collect();
        let expected = unreadable.unreadable.iter().map(|at| (Flaw::Unreadable(Fault::Medium), *at));
        assert_eq!(said, expected.collect::<Vec<_>>());
    }
}

#[test]
fn a_superblock_that_is_damaged_gives_way_to_its_other_page_only_where_all_are() {
    let whole = spare(&[remap(1), Command::Save]);
    // Area 1 is named by the second page of each copy.
    let found = whole.smash(4, shape().superblock_at(1)).recover().expect("the fifth is whole");
    assert_eq!((found.generation, found.good_copies()), (3, 1));
    assert!(found.copies[0].flaw.is_some_and(|(flaw, _)| flaw == Flaw::Stale));
    // Both pages of one: it has none.
    let none = whole.smash(1, 0).smash(1, 4096).recover().expect("the others are whole");
    let flaw = none.copies[0].flaw.map(|(flaw, _)| flaw);
    assert_eq!(flaw, Some(Flaw::Damaged(DecodeError::Magic("superblock"))));
}

/// The checkpoint cannot be read anywhere. What it was made of says the same, as long as nothing came after it.
#[test]
fn a_table_that_is_lost_is_made_again_from_what_was_before_it() {
    let lost = shape().page_at(1, 0);
    let saved = spare(&[remap(1), remap(3), Command::Save]).smash(5, lost);
    let found = saved.recover().expect("the journal before it is whole");
    assert_eq!((blocks(&found), found.generation, found.needs_repair), (vec![1, 3], 4, true));
    assert_eq!(
        saved.smash(5, shape().journal_at(1)).recover().err(),
        Some(RecoveryError::TableLost { page: 0 })
    );
    let later = spare(&[remap(1), remap(3), Command::Save, remap(5)]).smash(5, lost);
    assert_eq!(later.recover().err(), Some(RecoveryError::TableLost { page: 0 }));
    // The same where the journal before it is empty, and so is whole whatever was written since.
    let again = spare(&[remap(1), Command::Save, Command::Save]).smash(5, shape().page_at(0, 0));
    assert!(again.recover().is_ok_and(|found| blocks(&found) == [1] && found.generation == 4));
    let later = spare(&[remap(1), Command::Save, Command::Save, remap(5)]).smash(5, shape().page_at(0, 0));
    assert_eq!(later.recover().err(), Some(RecoveryError::TableLost { page: 0 }));
    // A record that cannot be read might be one.
    for doubtful in [saved, again] {
        let doubtful = doubtful.hide(5, shape().journal_at(0));
        assert_eq!(doubtful.recover().err(), Some(RecoveryError::TableLost { page: 0 }));
    }
}

/// Each repair was cut short by a crash, and its pages were lost: what the first one was made of is still all there.
#[test]
fn a_repair_that_is_lost_as_well_was_made_of_the_same_table() {
    let mut spare = spare(&[remap(1), remap(3), Command::Save]);
    let lost = shape().page_at(1, 0);
    for repairs in 0..20 {
        spare = spare.smash(5, lost);
        let found = spare.recover().expect("the journal before the first one is whole");
        assert_eq!((blocks(&found), found.generation, found.base), (vec![1, 3], 4 + repairs, 3));
        let later = spare.clone().lives(found, &[]);
        let newer = later.recover().expect("whole");
        assert_eq!((newer.generation, newer.needs_repair), (5 + repairs, false));
        // Some copies name the repair, the others what it was to replace.
        let between = spare.with_copies(0..2, &later).smash(5, lost).recover().expect("as before");
        assert_eq!((blocks(&between), between.generation, between.base), (vec![1, 3], 5 + repairs, 3));
        spare = later;
    }
    let mut over = spare.clone();
    let found = over.recover().expect("whole");
    over = over.lives(found, &[remap(5)]).smash(5, lost);
    assert_eq!(over.recover().err(), Some(RecoveryError::TableLost { page: 0 }));
}

/// Two checkpoints in a row with the same table, the second one cut short, and neither can be read.
#[test]
fn what_a_lost_table_was_made_of_may_be_lost_and_made_again_as_well() {
    let once = spare(&[remap(1), remap(3), Command::Save]);
    let found = once.recover().expect("whole");
    let twice = once.clone().lives(found, &[Command::Save]);
    let cut_short = once.with_copies(3..4, &twice);
    assert_eq!(cut_short.recover().expect("whole").generation, 5);
    let lost = cut_short.smash(5, shape().page_at(0, 0)).smash(5, shape().page_at(1, 0));
    let found = lost.recover().expect("the journal before both is whole");
    assert_eq!((blocks(&found), found.generation, found.base), (vec![1, 3], 5, 3));
    let shorter = lost.smash(5, shape().journal_at(1));
    assert_eq!(shorter.recover().err(), Some(RecoveryError::TableLost { page: 0 }));
}

/// It was made of a record, and the checkpoint that this record extends is lost as well: nothing that is older will do.
#[test]
fn a_lost_table_is_not_made_again_without_its_last_records() {
    let whole = spare(&[remap(1), Command::Save, Command::Save, remap(3)]);
    let later = whole.clone().lives(whole.recover().expect("whole"), &[Command::Save]);
    let cut_short = whole.with_copies(0..1, &later).smash(1, shape().page_at(1, 0));
    let found = cut_short.recover().expect("made again");
    assert_eq!((blocks(&found), found.generation, found.base), (vec![1, 3], 6, 5));
    // The checkpoint of generation 3 is whole, and nothing shows that another one was in use.
    let lost = cut_short.smash(5, shape().page_at(0, 0)).smash(5, shape().journal_at(0));
    assert_eq!(lost.recover().err(), Some(RecoveryError::TableLost { page: 0 }));
}

/// Copies that were left behind one after the other name ten checkpoints, and only the oldest one can be read.
#[test]
fn what_a_lost_table_was_made_of_is_found_behind_all_that_superblocks_can_name() {
    let lives = |saves: usize| {
        let commands = [remap(1), remap(3)].into_iter().chain(std::iter::repeat_n(Command::Save, saves));
        spare(&commands.collect::<Vec<_>>())
    };
    let mut spare = lives(1);
    for copy in 0..4 {
        spare = spare.with_copies(copy..copy + 1, &lives(9 - 2 * copy));
    }
    let lost = spare.smash(5, shape().page_at(0, 0)).smash(5, shape().page_at(1, 0));
    let found = lost.recover().expect("the first one had no page, and its journal is whole");
    assert_eq!((blocks(&found), found.generation, found.base), (vec![1, 3], 12, 3));
    let listed = generations(&mut lost.clone(), &[SPARE]).expect("believed");
    assert_eq!(listed.iter().map(|g| g.generation).collect::<Vec<_>>(), [12, 3, 2, 1]);
}

/// Edited while nobody served it (a dump that is restored): if what was written then is lost, what was there before is another table.
#[test]
fn a_table_that_was_edited_is_not_made_again_from_what_was_before_it() {
    let before = spare(&[remap(1), remap(3)]);
    let mut edited = before.recover().expect("whole");
    let dropped = Entry { state: EntryState::Absent, ..edited.table.iter().nth(1).expect("two entries") };
    edited.table.apply(&dropped).expect("memory");
    edited.mark_edited();
    let after = before.lives(edited, &[]);
    assert_eq!(after.recover().map(|found| blocks(&found)), Ok(vec![1]));
    let lost = after.smash(5, shape().page_at(1, 0));
    assert_eq!(lost.recover().err(), Some(RecoveryError::TableLost { page: 0 }));
}

/// A record may lie where the journal of no copy can be read, unless another copy shows that the checkpoint was never complete: that one
/// nothing extends.
#[test]
fn an_end_of_the_journal_that_nobody_sees_is_no_end() {
    let first = spare(&[remap(1)]);
    let saved = first.clone().lives(first.recover().expect("whole"), &[Command::Save]);
    let later = first.clone().lives(first.recover().expect("whole"), &[Command::Save, remap(3)]);
    // Of a checkpoint with a record, which was complete, two copies were left behind.
    let behind = first.with_copies(0..3, &later);
    for (whole, position, generation) in [(&first, 1, 3), (&saved, 0, 4), (&later, 1, 5), (&behind, 1, 5)] {
        let end = shape().journal_at(position);
        assert!(whole.hide(2, end).recover().is_ok_and(|found| found.generation == generation - 1));
        let hidden = whole.hide(5, end).recover().err();
        assert_eq!(hidden, Some(RecoveryError::JournalHole { generation }));
    }
    let cut_short = first.with_copies(0..3, &saved).hide(5, shape().journal_at(0)).recover();
    assert_eq!(cut_short.map(|found| (blocks(&found), found.generation)), Ok((vec![1], 3)));
}

/// No copy is more right than another.
#[test]
fn whole_copies_of_one_generation_that_differ_are_refused() {
    let one = spare(&[remap(1), Command::Save, remap(3)]);
    let contradiction = |generation| Some(ElectionError::Contradiction { generation }.into());
    let table = spare(&[remap(2), Command::Save, remap(3)]);
    assert_eq!(one.with_copies(4..5, &table).recover().err(), contradiction(3));
    let record = spare(&[remap(1), Command::Save, remap(4)]);
    assert_eq!(one.with_copies(4..5, &record).recover().err(), contradiction(4));
}

/// A write of a superblock that went astray, to the place of another copy: what it names was never complete.
#[test]
fn a_superblock_in_the_place_of_another_copy_is_not_believed() {
    let whole = spare(&[remap(1)]);
    let later = spare(&[remap(1), Command::Save]);
    let [first, second, ..] = places().map(|place| (place.start + shape().superblock_at(1)) as usize);
    let mut astray = whole.clone();
    astray.bytes[first..][..PAGE_SIZE].copy_from_slice(&later.bytes[second..][..PAGE_SIZE]);
    let found = astray.recover().expect("what was there before");
    assert_eq!((found.generation, found.copies[0].superblock_page), (2, Some(0)));
    let found = astray.smash(1, shape().superblock_at(0)).recover().expect("what was there before");
    assert_eq!((found.generation, found.copies[0].superblock_page), (2, None));
}

/// Another one that is written over it could, torn, make it whole: it must be known, to be erased before.
#[test]
fn remains_of_a_superblock_are_known_by_their_page() {
    let whole = spare(&[remap(1), Command::Save]);
    for page in 0..2 {
        let mut torn = whole.clone();
        let at = (places()[3].start + shape().superblock_at(page)) as usize;
        torn.bytes[at + PAGE_SIZE / 2..at + PAGE_SIZE].fill(0x5a);
        let found = torn.recover().expect("the others are whole");
        let torn = |copy: usize| found.copies[copy].pages.map(|lies| lies == SuperblockPage::Torn);
        let expected = |copy: usize| [copy == 3 && page == 0, copy == 3 && page == 1];
        assert!((0..5).all(|copy| torn(copy) == expected(copy)));
        assert!(found.needs_repair);
    }
}

#[test]
fn a_hole_in_the_journal_is_no_end() {
    let whole = spare(&[remap(1), remap(3), remap(5)]);
    for (position, generation) in [(0, 2), (1, 3)] {
        let hole = whole.smash(5, shape().journal_at(position)).recover().err();
        assert_eq!(hole, Some(RecoveryError::JournalHole { generation }));
    }
    // Behind the last one nothing is missed: it was never acknowledged, or every copy lost it.
    let shorter = whole.smash(5, shape().journal_at(2)).recover().expect("its end");
    assert_eq!(blocks(&shorter), [1, 3]);
}

/// Records that extend a newer checkpoint than any superblock names prove that it was in use.
#[test]
fn a_checkpoint_that_was_in_use_is_not_forgotten() {
    let newest = shape().superblock_at(1);
    let used = spare(&[remap(1), Command::Save, remap(3)]).smash(5, newest);
    assert_eq!(used.recover().err(), Some(RecoveryError::CheckpointLost { generation: 3 }));
    // Without a record nobody knows; what it was made of is there.
    let unused = spare(&[remap(1), Command::Save]).smash(5, newest);
    assert!(unused.recover().is_ok_and(|found| blocks(&found) == [1] && found.generation == 2));
    // One copy's record is enough.
    let one = used.smash(4, shape().journal_at(0));
    assert_eq!(one.recover().err(), Some(RecoveryError::CheckpointLost { generation: 3 }));
    // The one before it cannot be read either, and a copy that was left behind has what that was made of: too old.
    let before = spare(&[remap(1), Command::Save]);
    let later = spare(&[remap(1), Command::Save, Command::Save, remap(5)]).smash(4, shape().superblock_at(0));
    let lost = later.with_copies(4..5, &before).smash(5, shape().page_at(1, 0));
    assert_eq!(lost.recover().err(), Some(RecoveryError::TableLost { page: 0 }));
    let unused = lost.smash(4, shape().journal_at(0)).recover().expect("nothing shows that there was more");
    assert_eq!((blocks(&unused), unused.generation, unused.base), (vec![1], 3, 2));
}

/// A whole record proves that only where it belongs: elsewhere it is a write that went astray.
#[test]
fn a_record_in_a_wrong_place_proves_nothing() {
    let whole = spare(&[remap(1), Command::Save]);
    let newer = spare(&[remap(1), Command::Save, Command::Save, remap(3)]);
    let [first, second, ..] = places().map(|place| (place.start + shape().journal_at(0)) as usize);
    let record = newer.bytes[first..first + PAGE_SIZE].to_vec();
    let put = |record: &[u8], at: usize| {
        let mut spare = whole.clone();
        spare.bytes[at..at + PAGE_SIZE].copy_from_slice(record);
        spare.recover().map(|found| blocks(&found))
    };
    assert_eq!(put(&record, first), Err(RecoveryError::CheckpointLost { generation: 4 }));
    assert_eq!(put(&record, second), Ok(vec![1]));
    assert_eq!(put(&record, first + PAGE_SIZE), Ok(vec![1]));
    let mut of_another = record;
    let header = Record::claimed(&of_another).expect("a record");
    let edits = Record::decode(&of_another, &header, 8).expect("whole").edits;
    Record::encode(&RecordHeader { volume: [9; 8], ..header }, &edits, &mut of_another);
    assert_eq!(put(&of_another, first), Ok(vec![1]));
}

/// A record that was begun in every copy and is whole in none was never acknowledged; the journal starts over.
#[test]
fn a_record_that_was_begun_is_not_written_over() {
    let whole = spare(&[remap(1), remap(3)]);
    let mut torn = whole.clone();
    for CopyPlace { start, .. } in places() {
        torn.bytes[(start + shape().journal_at(1)) as usize..][512..PAGE_SIZE].fill(0x5a);
    }
    let found = torn.recover().expect("the first is whole");
    assert_eq!((blocks(&found), found.needs_repair, found.good_copies()), (vec![1], true, 5));
}
