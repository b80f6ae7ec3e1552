//! What recovery refuses (C8), each with the reason that a person can act upon; what it takes, though it looks odd; and how an engine
//! starts from what was recovered.

use remap_core::engine::{Command, CommandId, Engine, EngineConfig};
use remap_core::op::{Buffer, DeviceId, Fault, Op, OpKind};
use remap_core::recovery::{Flaw, Inconsistency, Recovered, RecoveryError, SpareReader, recover, shape_of};
use remap_core::units::{Extent, Now, Sector};
use remap_format::layout::{copy_places, first_homes, joining_spare, kept_slots, plan, search_places};
use remap_format::{
    Cause, CopyRole, DecodeError, Entry, EntryFlags, EntryState, MainIdentity, NO_SLOT, Policy, Superblock,
    SuperblockFlags,
};

const SPARE: u64 = 1 << 20;
const NOW: Now = Now { mono_ns: 0, unix_s: 1_700_000_000 };

/// Spares in memory. A read at or behind `fails.0` bytes of device `fails.1` ends with the fault.
struct Devices<'a> {
    bytes: &'a [&'a Vec<u8>],
    fails: Option<(u64, usize, Fault)>,
}

impl SpareReader for Devices<'_> {
    fn read(&mut self, spare: usize, offset: u64, into: &mut [u8]) -> Result<(), Fault> {
        if let Some((_, _, fault)) =
            self.fails.filter(|(from, device, _)| *device == spare && *from <= offset)
        {
            return Err(fault);
        }
        let at = usize::try_from(offset).expect("small");
        into.copy_from_slice(&self.bytes[spare][at..at + into.len()]);
        Ok(())
    }
}

fn read(devices: &[&Vec<u8>]) -> Result<Recovered, RecoveryError> {
    read_with(devices, None, false)
}

fn read_with(
    devices: &[&Vec<u8>],
    fails: Option<(u64, usize, Fault)>,
    released_too: bool,
) -> Result<Recovered, RecoveryError> {
    let sizes: Vec<u64> = devices.iter().map(|bytes| bytes.len() as u64).collect();
    recover(&mut Devices { bytes: devices, fails }, &sizes, released_too)
}

/// The spares of a volume on which a block moved, and the commands were carried out.
fn spares(volume: u8, count: u8, commands: &[Command]) -> Vec<Vec<u8>> {
    let superblock = superblock(volume, count, SPARE);
    let recovered = Recovered::fresh(superblock, &[]).expect("fresh");
    let mut engine = Engine::start(recovered, EngineConfig::default(), NOW).expect("memory");
    let mut bytes = vec![vec![0; SPARE as usize]; count.into()];
    settle(&mut engine, &mut bytes);
    let remap = Command::Remap(Extent::new(Sector(8), 8).expect("a block"), Cause::Manual);
    for (id, command) in [remap].iter().chain(commands).enumerate() {
        engine.command(NOW, CommandId(id as u64), *command).expect("taken");
        settle(&mut engine, &mut bytes);
    }
    bytes
}

fn superblock(volume: u8, count: u8, size: u64) -> Superblock {
    let shape = plan(&vec![size; count.into()], 4096).expect("large enough");
    let uuids: Vec<_> = (0..count).map(|n| ([volume + 1 + n; 16], size)).collect();
    let main = MainIdentity { size: 1 << 30, logical_block: 512, ..Default::default() };
    Superblock {
        policy: Policy::RemapOnly,
        ..Superblock::new([volume; 16], &format!("volume {volume}"), 4096, &shape, &uuids, main)
    }
}

/// Carries out everything; gives first byte and length of all metadata that were written.
fn settle(engine: &mut Engine, spares: &mut [Vec<u8>]) -> Vec<(u64, usize)> {
    let mut written = Vec::new();
    while let Some(op) = engine.poll_op() {
        if let (DeviceId::Spare(n), OpKind::Write { from: Buffer::Owned(bytes), .. }) = (op.device, &op.kind)
        {
            let at = op.extent.start().0 as usize * 512;
            spares[usize::from(n)][at..at + bytes.len()].copy_from_slice(bytes);
            written.push((at as u64, bytes.len()));
        }
        engine.handle_completion(NOW, op.id, Ok(()));
    }
    while engine.poll_event().is_some() {}
    written
}

/// Stores what an operation writes of the metadata; gives first byte and length.
fn store(op: &Op, spares: &mut [Vec<u8>]) -> Option<(u64, usize)> {
    let (DeviceId::Spare(n), OpKind::Write { from: Buffer::Owned(bytes), .. }) = (op.device, &op.kind) else {
        return None;
    };
    let at = op.extent.start().0 as usize * 512;
    spares[usize::from(n)][at..at + bytes.len()].copy_from_slice(bytes);
    Some((at as u64, bytes.len()))
}

#[test]
fn spares_are_known_by_what_is_on_them() {
    let pair = spares(1, 2, &[]);
    let [a, b] = [&pair[0], &pair[1]];
    for (given, devices) in [([a, b], [0, 1]), ([b, a], [1, 0])] {
        let found = read(&given).expect("both are there");
        assert_eq!(found.devices, devices.map(Some));
        assert_eq!((found.table.counts().remapped_blocks, found.good_copies()), (1, 5));
        assert!(!found.needs_repair);
    }
    let missing = |missing| Some(RecoveryError::MissingSpare { missing, expected: 2 });
    assert_eq!(read(&[a]).err(), missing(1));
    assert_eq!(read(&[b]).err(), missing(0));
    let twice = Some(RecoveryError::DuplicateSpare { first: 1, second: 2 });
    assert_eq!(read(&[b, a, a]).err(), twice);
}

#[test]
fn what_belongs_to_another_volume_is_refused() {
    let (one, other) = (spares(1, 1, &[]), spares(7, 1, &[]));
    let mixed = |name: &str| Some(RecoveryError::MixedVolumes { spare: 1, name: name.into() });
    assert_eq!(read(&[&one[0], &other[0]]).err(), mixed("volume 7"));
    assert_eq!(read(&[&other[0], &one[0]]).err(), mixed("volume 1"));
    let blank = vec![0; SPARE as usize];
    let nothing = |spare| {
        let flaw = Flaw::Damaged(DecodeError::Magic("superblock"));
        Some(RecoveryError::NoMetadata { spare, flaw })
    };
    assert_eq!(read(&[&blank]).err(), nothing(0));
    assert_eq!(read(&[&one[0], &blank]).err(), nothing(1));
    assert_eq!(read(&[&Vec::new()]).err(), nothing(0));
}

#[test]
fn a_spare_may_have_grown_but_not_shrunk() {
    let one = &spares(1, 1, &[])[0];
    let mut grown = one.clone();
    grown.resize(SPARE as usize + 4096, 0);
    assert!(read(&[&grown]).is_ok_and(|found| found.good_copies() == 5));
    let mut shrunk = one.clone();
    shrunk.truncate(SPARE as usize - 4096);
    let expected = RecoveryError::SpareShrank { spare: 0, found: SPARE - 4096, expected: SPARE };
    assert_eq!(read(&[&shrunk]).err(), Some(expected));
    // One superblock is all that is left of it.
    shrunk.truncate(4096);
    let expected = RecoveryError::SpareShrank { spare: 0, found: 4096, expected: SPARE };
    assert_eq!(read(&[&shrunk]).err(), Some(expected));
}

#[test]
fn a_released_volume_is_opened_only_on_request() {
    let one = &spares(1, 1, &[Command::Release])[0];
    assert_eq!(read(&[one]).err(), Some(RecoveryError::Released { name: "volume 1".into() }));
    assert!(read_with(&[one], None, true).is_ok_and(|found| found.table.counts().entries == 1));
}

/// What cannot be read for another reason than the medium may be newer than what can.
#[test]
fn a_path_that_fails_is_no_damage() {
    let pair = spares(1, 2, &[]);
    let given = [&pair[0], &pair[1]];
    for fault in [Fault::Transport, Fault::Gone] {
        for (from, device) in [(0, 0), (0, 1), (SPARE / 2, 1), (SPARE / 2, 0)] {
            let found = read_with(&given, Some((from, device, fault)), false).err();
            assert_eq!(found, Some(RecoveryError::Unreachable { spare: device, fault }), "{from}");
        }
    }
    let starved = read_with(&given, Some((SPARE / 2, 1, Fault::NoMemory)), false).err();
    assert!(matches!(starved, Some(RecoveryError::Memory(_))));
    // A drive that does not give up on a bad sector in time: the copies before it are enough.
    for fault in [Fault::Timeout, Fault::Medium, Fault::Unknown] {
        let found = read_with(&given, Some((SPARE / 2, 1, fault)), false).expect("other copies are whole");
        assert!(found.needs_repair && found.good_copies() == 4, "{fault:?}");
        let flaws: Vec<_> = found.copies.iter().filter_map(|copy| copy.flaw).map(|(flaw, _)| flaw).collect();
        assert_eq!(flaws, [Flaw::Unreadable(fault)]);
    }
}

/// Another life of the volume on these spares, with these commands; gives the first byte of everything it wrote.
fn live_again(spares: &mut [Vec<u8>], commands: &[Command]) -> (Engine, Vec<(u64, usize)>) {
    let given: Vec<&Vec<u8>> = spares.iter().collect();
    let recovered = read_with(&given, None, true).expect("believed");
    let mut engine = Engine::start(recovered, EngineConfig::default(), NOW).expect("memory");
    let mut written = settle(&mut engine, spares);
    for (id, command) in commands.iter().enumerate() {
        engine.command(NOW, CommandId(id as u64), *command).expect("taken");
        written.extend(settle(&mut engine, spares));
    }
    (engine, written)
}

fn table(engine: &Engine) -> Vec<u64> {
    engine.table().iter().map(|entry| entry.block).collect()
}

#[test]
fn whole_copies_are_served_as_they_are() {
    let mut one = spares(1, 1, &[]);
    let (engine, written) = live_again(&mut one, &[]);
    assert_eq!((table(&engine), written.len(), engine.is_live()), (vec![1], 0, true));
    assert_eq!((engine.copies_in_step(), engine.generation()), ([true; 5], 2));
    // The journal goes on behind its last record.
    let another = Command::Remap(Extent::new(Sector(32), 8).expect("a block"), Cause::Manual);
    let (engine, written) = live_again(&mut one, &[another]);
    assert_eq!((table(&engine), engine.generation(), written.len()), (vec![1, 4], 3, 5));
    assert_eq!(read(&[&one[0]]).map(|found| found.journal_position).ok(), Some(2));
}

#[test]
fn a_copy_that_is_damaged_is_written_before_anything_is_served() {
    let mut one = spares(1, 1, &[]);
    let whole = one.clone();
    let places = copy_places(&read(&[&one[0]]).expect("whole").superblock.spares, &first_homes(1));
    for place in places {
        one.clone_from(&whole);
        one[0][place.start as usize..][..8192].fill(0x5a);
        let found = read(&[&one[0]]).expect("the others are whole");
        let flawed: Vec<u8> = found.copies.iter().filter(|c| c.flaw.is_some()).map(|c| c.copy).collect();
        assert_eq!((found.needs_repair, flawed), (true, vec![place.copy]));
        let (engine, _) = live_again(&mut one, &[]);
        assert_eq!((table(&engine), engine.copies_in_step()), (vec![1], [true; 5]));
        assert!(read(&[&one[0]]).is_ok_and(|found| found.good_copies() == 5 && !found.needs_repair));
    }
}

/// A fence is on both superblock pages; so is what takes it off.
#[test]
fn a_fence_is_lifted_last() {
    for fenced in [&[0][..], &[1], &[0, 1]] {
        let mut one = spares(1, 1, &[]);
        let start = fence(&mut one[0], 3, fenced);
        let found = read(&[&one[0]]).expect("the others are whole");
        assert_eq!(found.copies[3].flaw.map(|(flaw, _)| flaw), Some(Flaw::Fenced));
        assert_eq!(found.good_copies(), 4);
        let (_, written) = live_again(&mut one, &[]);
        let pages = written.iter().filter(|(at, _)| (start..start + 8192).contains(at));
        let pages: Vec<(u64, usize)> = pages.map(|(at, bytes)| (at - start, *bytes)).collect();
        let expected = if fenced == [0] { [(4096, 4096), (0, 4096)] } else { [(0, 4096), (4096, 4096)] };
        assert_eq!(pages, expected, "fence on {fenced:?}");
        assert!(read(&[&one[0]]).is_ok_and(|found| found.good_copies() == 5));
    }
}

/// Writes a fence on these superblock pages of a copy; gives the copy's first byte.
fn fence(spare: &mut [u8], copy: u8, pages: &[usize]) -> u64 {
    let bytes = spare.to_vec();
    let found = read(&[&bytes]).expect("whole");
    let start = found.copies[usize::from(copy)].start;
    let flags = SuperblockFlags::FENCED;
    let superblock = Superblock { role: CopyRole::Copy(copy), flags, ..found.superblock };
    pages.iter().for_each(|page| superblock.encode(&mut spare[start as usize + page * 4096..][..4096]));
    start
}

#[test]
fn a_volume_can_be_released_twice() {
    let mut one = spares(1, 1, &[Command::Release]);
    live_again(&mut one, &[Command::Release]);
    assert_eq!(read(&[&one[0]]).err(), Some(RecoveryError::Released { name: "volume 1".into() }));
}

#[test]
fn a_table_of_many_pages_is_read_as_it_was_written() {
    const SIZE: u64 = 1 << 30;
    let superblock = superblock(1, 1, SIZE);
    let chunk = 16 * 84;
    for count in [1, 84, 85, chunk - 1, chunk, chunk + 1, 2 * chunk, 8 * chunk + 5, 257 * 84 + 1] {
        let entries: Vec<Entry> = (0..count).map(|n| pending(2 * n)).collect();
        let recovered = Recovered::fresh(superblock.clone(), &entries).expect("there is room");
        let mut engine = Engine::start(recovered, EngineConfig::default(), NOW).expect("memory");
        let mut bytes = vec![0; SIZE as usize];
        let mut out = Vec::new();
        loop {
            out.extend(std::iter::from_fn(|| engine.poll_op()));
            assert!(out.len() < 25, "{} operations are out", out.len());
            let Some(op) = out.pop() else { break };
            if let OpKind::Write { from: Buffer::Owned(from), .. } = op.kind {
                bytes[op.extent.start().0 as usize * 512..][..from.len()].copy_from_slice(&from);
            }
            engine.handle_completion(NOW, op.id, Ok(()));
        }
        let found = read(&[&bytes]).expect("whole");
        assert!(found.table.iter().eq(entries), "{count} entries");
        assert_eq!((found.good_copies(), found.superblock.entries), (5, count));
    }
}

/// More than is read at once; and a hole as long as is looked behind for whole records.
#[test]
fn a_journal_of_many_records_is_read_as_it_was_written() {
    const SIZE: u64 = 1 << 30;
    let superblock = superblock(1, 1, SIZE);
    let (shape, places) = (shape_of(&superblock), copy_places(&superblock.spares, &superblock.homes));
    let recovered = Recovered::fresh(superblock, &[]).expect("fresh");
    let mut engine = Engine::start(recovered, EngineConfig::default(), NOW).expect("memory");
    let mut bytes = vec![vec![0; SIZE as usize]];
    settle(&mut engine, &mut bytes);
    let blocks: Vec<u64> = (0..300).map(|n| 2 * n).collect();
    for block in &blocks {
        let extent = Extent::new(Sector(block * 8), 8).expect("a block");
        engine.command(NOW, CommandId(1), Command::Remap(extent, Cause::Manual)).expect("taken");
        settle(&mut engine, &mut bytes);
    }
    let found = read(&[&bytes[0]]).expect("whole");
    assert_eq!((found.journal_position, found.good_copies()), (300, 5));
    assert!(found.table.iter().map(|entry| entry.block).eq(blocks));
    let lost = 300 - 64..300 - 1;
    for (place, position) in places.iter().flat_map(|place| lost.clone().map(move |at| (place, at))) {
        bytes[0][(place.start + shape.journal_at(position)) as usize..][..4096].fill(0x5a);
    }
    assert_eq!(read(&[&bytes[0]]).err(), Some(RecoveryError::JournalHole { generation: 2 + 300 - 64 }));
}

fn pending(block: u64) -> Entry {
    Entry {
        block,
        count: 1,
        slot: NO_SLOT,
        lost: 1,
        state: EntryState::Pending,
        cause: Cause::Imported,
        flags: EntryFlags::STALE,
        errors: 0,
        time: NOW.unix_s,
    }
}

/// A volume of one spare, and a larger one.
fn one_and_a_larger() -> [Vec<u8>; 2] {
    [spares(1, 1, &[]).swap_remove(0), vec![0; 4 << 20]]
}

/// The larger spare joins, as far as what is written is `durable`.
fn joins(pair: &mut [Vec<u8>; 2], copies: bool, durable: impl Fn(&Op) -> bool) -> Engine {
    let (mut engine, _) = live_again(&mut pair[..1], &[]);
    let record = joining_spare([9; 16], 4 << 20, 1, &shape_of(engine.volume()), 4096).expect("large enough");
    engine.command(NOW, CommandId(1), Command::AddSpare { spare: 1, record, copies }).expect("taken");
    while let Some(op) = engine.poll_op() {
        if durable(&op) {
            store(&op, pair);
        }
        engine.handle_completion(NOW, op.id, Ok(()));
    }
    engine
}

/// Superblocks are erased (and labels written) at once, all others with a flush after them.
fn erases(op: &Op) -> bool {
    matches!(op.kind, OpKind::Write { fua: true, .. })
}

/// The power failed after copies moved to a spare that joined, before what they left behind was erased: that is done first, and only then
/// may the spares change again.
#[test]
fn what_copies_left_behind_is_erased_before_the_next_change() {
    let mut pair = one_and_a_larger();
    joins(&mut pair, true, |op| op.device != DeviceId::Spare(0) || !erases(op));
    let recovered = read(&[&pair[0], &pair[1]]).expect("both are there");
    assert_eq!((recovered.strays.len(), recovered.needs_repair), (2, true));
    let mut engine = Engine::start(recovered, EngineConfig::default(), NOW).expect("memory");
    let another = joining_spare([8; 16], 4 << 20, 2, &shape_of(engine.volume()), 4096).expect("large enough");
    let join = Command::AddSpare { spare: 2, record: another, copies: false };
    engine.command(NOW, CommandId(1), join).expect("taken");
    let (mut erased, mut out) = (0, Vec::new());
    loop {
        out.extend(std::iter::from_fn(|| engine.poll_op()));
        let erasing =
            |op: &Op| op.device == DeviceId::Spare(0) && matches!(op.kind, OpKind::Write { fua: true, .. });
        if out.iter().any(|op| op.device == DeviceId::Spare(2)) {
            assert!(erased == 4 && !out.iter().any(erasing), "{erased} pages of two superblocks are erased");
        }
        // The oldest last: what could overtake does.
        let Some(op) = out.pop() else { break };
        erased += u32::from(erasing(&op));
        engine.handle_completion(NOW, op.id, Ok(()));
    }
    assert_eq!(engine.volume().spares.len(), 3);
}

/// It is older than what names the spares now, and recovery looks at all of it.
#[test]
fn what_copies_left_behind_is_known_in_whatever_order_it_is_read() {
    let mut pair = one_and_a_larger();
    joins(&mut pair, true, |op| op.device != DeviceId::Spare(0) || !erases(op));
    let places: Vec<u64> =
        copy_places(&superblock(1, 1, SPARE).spares, &first_homes(1)).map(|p| p.start).into();
    let left = [(0, places[3]), (0, places[4])];
    // Where superblocks are looked for on a spare that has grown, its old places are not.
    for grown in [0, 300 * 4096] {
        pair[0].resize(SPARE as usize + grown, 0);
        let [one, larger] = &pair;
        for (given, devices) in [([one, larger], [0, 1]), ([larger, one], [1, 0])] {
            let found = read(&given).expect("both are there");
            assert_eq!((found.devices, found.superblock.spares.len()), (devices.map(Some).into(), 2));
            assert_eq!((found.strays, found.needs_repair), (left.into(), true));
        }
    }
}

/// A spare that was to join and did not, one that left and could not be erased: what lies on it may be anything by now.
#[test]
fn a_spare_that_has_not_joined_or_has_left_is_refused() {
    let refused = Some(RecoveryError::NotAMember { spare: 1, name: "volume 1".into() });
    let mut pair = one_and_a_larger();
    joins(&mut pair, false, |op| op.device == DeviceId::Spare(1));
    assert_eq!(read(&[&pair[0], &pair[1]]).err(), refused);
    assert!(read(&[&pair[0]]).is_ok_and(|found| found.superblock.spares.len() == 1));
    let mut engine = joins(&mut pair, false, |_| true);
    assert!(read(&[&pair[0], &pair[1]]).is_ok_and(|found| found.superblock.spares.len() == 2));
    engine.command(NOW, CommandId(2), Command::RetireSpare { spare: 1 }).expect("taken");
    while let Some(op) = engine.poll_op() {
        if !erases(&op) {
            store(&op, &mut pair);
        }
        engine.handle_completion(NOW, op.id, Ok(()));
    }
    assert_eq!(read(&[&pair[0], &pair[1]]).err(), refused);
    assert!(read(&[&pair[0]]).is_ok_and(|found| found.table.counts().remapped_blocks == 1));
}

/// The table that it joined with is lost, and no slot of it was named since: the volume is what it was before.
#[test]
fn a_spare_that_joined_with_a_table_that_is_lost_has_not_joined() {
    let mut pair = one_and_a_larger();
    let engine = joins(&mut pair, false, |_| true);
    let (homes, shape) = (first_homes(1), shape_of(engine.volume()));
    for place in copy_places(&engine.volume().spares, &homes) {
        pair[0][(place.start + shape.page_at(1, 0)) as usize..][..4096].fill(0x5a);
    }
    for (given, device) in [([&pair[0], &pair[1]], 0), ([&pair[1], &pair[0]], 1)] {
        let found = read(&given).expect("the journal before it is whole");
        assert_eq!((found.devices, found.superblock.spares.len()), (vec![Some(device)], 1));
        assert_eq!((found.table.counts().remapped_blocks, found.generation), (1, 19));
    }
}

/// A write of a superblock that went astray: the checkpoint that it names may never have been complete.
#[test]
fn a_superblock_that_does_not_lie_at_home_says_nothing() {
    let mut pair = one_and_a_larger();
    let before = pair[0].clone();
    joins(&mut pair, true, |_| true);
    let found = read(&[&pair[0], &pair[1]]).expect("joined");
    let page = usize::from(found.copies[0].superblock_page.expect("in step")) * 4096;
    let homes = copy_places(&superblock(1, 1, SPARE).spares, &first_homes(1)).map(|place| place.start);
    for place in search_places(SPARE).into_iter().filter(|place| !homes.contains(place)) {
        let mut astray = before.clone();
        astray[place as usize..][..4096].copy_from_slice(&pair[0][page..page + 4096]);
        let found = read(&[&astray]).expect("the volume as it was");
        assert_eq!((found.superblock.spares.len(), found.generation, found.needs_repair), (1, 2, false));
    }
}

/// A client may have written anything to a slot, an old superblock of this volume too: it is not to be erased.
#[test]
fn a_superblock_in_a_slot_was_not_left_behind() {
    let mut spare = spares(1, 1, &[]).swap_remove(0);
    let kept = kept_slots(&superblock(1, 1, SPARE).spares[0], 4096);
    let page = spare[..4096].to_vec();
    spare.resize(SPARE as usize + 300 * 4096, 0);
    let in_slot =
        |place: &u64| *place < SPARE && !kept.iter().any(|(a, b)| (a * 4096..b * 4096).contains(place));
    let places: Vec<u64> = search_places(spare.len() as u64).into_iter().filter(in_slot).collect();
    assert!(!places.is_empty(), "a spare that has grown is searched where it has slots");
    for place in places {
        spare[place as usize..][..4096].copy_from_slice(&page);
    }
    let found = read(&[&spare]).expect("whole");
    assert_eq!((found.good_copies(), found.needs_repair, found.strays), (5, false, vec![]));
}

/// Counts reads of single pages.
struct Counting<'a>(&'a [u8], usize);

impl SpareReader for Counting<'_> {
    fn read(&mut self, _: usize, offset: u64, into: &mut [u8]) -> Result<(), Fault> {
        self.1 += usize::from(into.len() == 4096);
        into.copy_from_slice(&self.0[offset as usize..][..into.len()]);
        Ok(())
    }
}

/// Superblocks name the size that their spare had, and with it places where others may lie.
#[test]
fn superblocks_that_lead_to_ever_more_places_are_not_followed_for_ever() {
    let reads = |spare: &[u8]| {
        let mut counting = Counting(spare, 0);
        recover(&mut counting, &[spare.len() as u64], false).expect("whole");
        counting.1
    };
    // Two pages at each place, to find the newest one and to know the spare by; and those of the five copies.
    let of_places = |places: usize| 2 * 2 * places + 2 * 5;
    let mut spare = spares(1, 1, &[]).swap_remove(0);
    let places = search_places(SPARE);
    assert_eq!(reads(&spare), of_places(places.len()));
    let copies = copy_places(&superblock(1, 1, SPARE).spares, &first_homes(1)).map(|place| place.start);
    for (n, place) in (1..).zip(places.into_iter().filter(|place| !copies.contains(place))) {
        for page in 0..2 {
            let of_another_size = superblock(1, 1, SPARE - (4 * n + 2 * page) * 8192);
            of_another_size.encode(&mut spare[(place + page * 4096) as usize..][..4096]);
        }
    }
    assert_eq!(reads(&spare), of_places(64));
}

/// In whatever order they come, as in a dump that is restored.
#[test]
fn entries_may_touch_each_other_but_not_overlap() {
    let made = |entries: &[Entry]| Recovered::fresh(superblock(1, 1, SPARE), entries).map(|made| made.table);
    let run = Entry { count: 4, ..pending(4) };
    for entries in [[pending(3), run, pending(8)], [pending(8), run, pending(3)]] {
        assert_eq!(made(&entries).map(|table| table.counts().pending_blocks), Ok(6));
    }
    for block in 4..8 {
        for (entries, refused) in [([run, pending(block)], block), ([pending(block), run], 4)] {
            let overlap = RecoveryError::Inconsistent(Inconsistency::Overlap { block: refused });
            assert_eq!(made(&entries).err(), Some(overlap));
        }
    }
}

#[test]
fn slots_that_went_bad_stay_so() {
    let mut one = spares(1, 1, &[]);
    let (mut engine, _) = live_again(&mut one, &[]);
    let remap = Command::Remap(Extent::new(Sector(32), 8).expect("a block"), Cause::Manual);
    let mut bad = 0;
    for command in [remap, Command::Save] {
        engine.command(NOW, CommandId(1), command).expect("taken");
        while let Some(op) = engine.poll_op() {
            let to_slot = matches!(op.kind, OpKind::Write { from: Buffer::Bounce { .. }, .. });
            let outcome = if to_slot && bad < 2 { Err(Fault::Medium) } else { Ok(()) };
            bad += u32::from(outcome.is_err());
            store(&op, &mut one);
            engine.handle_completion(NOW, op.id, outcome);
        }
        let found = read(&[&one[0]]).expect("whole");
        assert_eq!((found.pool.retired(), found.pool.counts(None).retired), (engine.retired(), 2));
    }
}
