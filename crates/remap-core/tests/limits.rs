//! What has a limit keeps it (C6): at the limit, and one beyond.

use std::collections::BTreeSet;

use remap_core::engine::{
    BREAKER_COOL_DOWN_NS, Command, CommandId, Engine, EngineConfig, Event, MAX_COMMANDS, MAX_JOBS,
    MAX_NOTICES, MAX_REQUESTS, MAX_SUSPICIONS, RequestError, SubmitError,
};
use remap_core::op::{DeviceId, Fault, Op, OpKind, Request, RequestId, RequestKind};
use remap_core::recovery::Recovered;
use remap_core::units::{Block, Extent, Now, Sector, Slot};
use remap_core::view::Placement;
use remap_format::layout::plan;
use remap_format::{Cause, MainIdentity, Policy, SpareRecord, Superblock};

const SPARE: u64 = 16 << 20;
/// More blocks than suspicions can wait.
const BLOCKS: u64 = 2 * MAX_SUSPICIONS as u64;
const NOW: Now = Now { mono_ns: 0, unix_s: 1_700_000_000 };

fn superblock(policy: Policy) -> Superblock {
    let shape = plan(&[SPARE], 4096).expect("16 MiB are enough");
    let main = MainIdentity { size: BLOCKS * 4096, logical_block: 512, ..Default::default() };
    Superblock { policy, ..Superblock::new([1; 16], "limits", 4096, &shape, &[([2; 16], SPARE)], main) }
}

fn engine(policy: Policy) -> Engine {
    start(superblock(policy))
}

fn start(superblock: Superblock) -> Engine {
    let recovered = Recovered::fresh(superblock, &[]).expect("fresh");
    let mut engine = Engine::start(recovered, EngineConfig::default(), NOW).expect("memory");
    settle(&mut engine, |_| Ok(()));
    events(&mut engine);
    engine
}

fn ops(engine: &mut Engine) -> Vec<Op> {
    std::iter::from_fn(|| engine.poll_op()).collect()
}

fn events(engine: &mut Engine) -> Vec<Event> {
    std::iter::from_fn(|| engine.poll_event()).collect()
}

/// Carries out everything.
fn settle(engine: &mut Engine, outcome: impl Fn(&Op) -> Result<(), Fault>) {
    while let Some(op) = engine.poll_op() {
        engine.handle_completion(NOW, op.id, outcome(&op));
    }
}

fn blocks(first: u64, count: u64) -> Extent {
    Extent::new(Sector(first * 8), count * 8).expect("not empty")
}

fn request(id: u64, kind: RequestKind, extent: Extent) -> Request {
    Request { id: RequestId(id), kind, extent }
}

fn read(engine: &mut Engine, id: u64, extent: Extent) -> Result<(), SubmitError> {
    engine.submit(NOW, request(id, RequestKind::Read, extent))
}

fn graces(ops: &[Op]) -> usize {
    ops.iter().filter(|op| op.kind == OpKind::Grace).count()
}

#[test]
fn requests_that_ended_count_until_their_end_is_taken() {
    let mut engine = engine(Policy::RemapOnly);
    for id in 0..MAX_REQUESTS as u64 {
        read(&mut engine, id, blocks(id, 1)).expect("there is room");
    }
    assert_eq!(read(&mut engine, 9999, blocks(0, 1)), Err(SubmitError::Full));
    settle(&mut engine, |_| Ok(()));
    assert_eq!(read(&mut engine, 9999, blocks(0, 1)), Err(SubmitError::Full));
    assert!(engine.poll_event().is_some());
    assert_eq!(read(&mut engine, 9999, blocks(0, 1)), Ok(()));
    assert_eq!(read(&mut engine, 10_000, blocks(0, 1)), Err(SubmitError::Full));
    settle(&mut engine, |_| Ok(()));
    assert_eq!(events(&mut engine).len(), MAX_REQUESTS);
    assert!(engine.is_idle());
}

#[test]
fn a_request_ends_at_the_end_of_the_volume() {
    let mut engine = engine(Policy::RemapOnly);
    assert_eq!(read(&mut engine, 1, blocks(BLOCKS - 1, 1)), Ok(()));
    assert_eq!(read(&mut engine, 2, blocks(BLOCKS - 1, 2)), Err(SubmitError::OutOfRange));
    let flush = request(3, RequestKind::Flush, blocks(BLOCKS, 1));
    assert_eq!(engine.submit(NOW, flush), Ok(()), "the extent of a flush says nothing");
}

#[test]
fn commands_that_ended_count_until_their_end_is_taken() {
    let mut engine = engine(Policy::RemapOnly);
    let mut command = |id| engine.command(NOW, CommandId(id), Command::Resume);
    for id in 0..MAX_COMMANDS as u64 {
        command(id).expect("there is room");
    }
    assert_eq!(command(9999), Err(SubmitError::Full));
    assert!(engine.poll_event().is_some());
    assert_eq!(engine.command(NOW, CommandId(9999), Command::Resume), Ok(()));
    assert_eq!(engine.command(NOW, CommandId(10_000), Command::Resume), Err(SubmitError::Full));
}

/// A quarter of the jobs is kept for clients that write.
#[test]
fn commands_leave_jobs_for_writes() {
    let mut engine = engine(Policy::RemapOnly);
    engine.command(NOW, CommandId(1), Command::Remap(blocks(0, 100), Cause::Manual)).expect("taken");
    let background = ops(&mut engine);
    assert_eq!((graces(&background), background.len()), (MAX_JOBS - MAX_JOBS / 4, MAX_JOBS - MAX_JOBS / 4));
    for id in 0..MAX_JOBS as u64 {
        let write = request(id, RequestKind::Write { fua: false }, blocks(200 + id, 1));
        engine.submit(NOW, write).expect("taken");
    }
    let writes = ops(&mut engine);
    assert_eq!(writes.len(), MAX_JOBS);
    let mut fences = Vec::new();
    for op in writes {
        engine.handle_completion(NOW, op.id, Err(Fault::Medium));
        fences.extend(ops(&mut engine));
    }
    assert_eq!((graces(&fences), fences.len()), (MAX_JOBS / 4, MAX_JOBS / 4), "the others wait for a job");
    for op in background.iter().chain(&fences) {
        engine.handle_completion(NOW, op.id, Ok(()));
    }
    settle(&mut engine, |_| Ok(()));
    let ended = events(&mut engine).into_iter().filter(|event| !matches!(event, Event::Notice(_))).count();
    assert_eq!(ended, MAX_JOBS + 1);
    assert!(engine.is_idle());
    assert_eq!(engine.counts().remapped_blocks, 100 + MAX_JOBS as u64);
}

#[test]
fn notices_beyond_the_limit_are_counted() {
    let mut engine = engine(Policy::RemapOnly);
    let mut now = NOW;
    // The path fails and comes back: two notices.
    let mut turn = |engine: &mut Engine| {
        engine.report(now, DeviceId::Main, Fault::Gone);
        now.mono_ns += BREAKER_COOL_DOWN_NS;
        engine.handle_timeout(now);
        settle(engine, |_| Ok(()));
    };
    (0..MAX_NOTICES / 2).for_each(|_| turn(&mut engine));
    assert_eq!(engine.counters().dropped_notices, 0);
    turn(&mut engine);
    assert_eq!(engine.counters().dropped_notices, 2);
    assert_eq!(events(&mut engine).len(), MAX_NOTICES);
    turn(&mut engine);
    assert_eq!(events(&mut engine).len(), 2, "there is room again");
}

/// Blocks that cannot be read wait to be examined; beyond the limit the next read raises them again.
#[test]
fn suspicions_beyond_the_limit_are_counted() {
    let mut engine = engine(Policy::RewriteThenRemap);
    let reading = |op: &Op| if matches!(op.kind, OpKind::Read(_)) { Err(Fault::Medium) } else { Ok(()) };
    // One block more than fits, read while a command keeps every job that may examine them.
    engine
        .command(
            NOW,
            CommandId(1),
            Command::Remap(blocks(0, (MAX_JOBS - MAX_JOBS / 4) as u64), Cause::Manual),
        )
        .expect("taken");
    let held = ops(&mut engine);
    assert_eq!(held.len(), MAX_JOBS - MAX_JOBS / 4);
    let mut next = 1000;
    while next <= 1000 + MAX_SUSPICIONS as u64 {
        let extent = Extent::new(Sector(next * 8), 1).expect("a sector");
        read(&mut engine, next, extent).expect("taken");
        settle(&mut engine, reading);
        events(&mut engine);
        next += 1;
    }
    assert_eq!(engine.counters().dropped_suspicions, 1);
    // What is known to be in doubt is not noted twice.
    read(&mut engine, 1, Extent::new(Sector((next - 2) * 8), 1).expect("a sector")).expect("taken");
    settle(&mut engine, reading);
    assert_eq!(engine.counters().dropped_suspicions, 1);
}

/// A volume of so many spares, the first with all copies, the others with a label; those in `gone` have left it.
fn with_spares(count: u8, gone: &[u8]) -> Engine {
    let mut superblock = superblock(Policy::RemapOnly);
    let first = superblock.spares[0];
    superblock.spares.extend((1..count).map(|n| SpareRecord { uuid: [n + 2; 16], anchors: 0, ..first }));
    gone.iter().for_each(|n| superblock.spares[usize::from(*n)] = SpareRecord::GONE);
    start(superblock)
}

#[test]
fn a_spare_gets_a_number_that_no_other_has_had_since_the_start() {
    assert_eq!(with_spares(2, &[]).next_spare(), Some(2));
    assert_eq!(with_spares(15, &[3]).next_spare(), Some(15));
    assert_eq!(with_spares(16, &[]).next_spare(), None);
    let mut engine = with_spares(16, &[3, 5]);
    for (number, next) in [(3, Some(5)), (5, None)] {
        assert_eq!(engine.next_spare(), Some(number));
        let record = SpareRecord { uuid: [99; 16], ..engine.volume().spares[1] };
        change(&mut engine, Command::AddSpare { spare: number, record, copies: false }, Ok(1));
        change(&mut engine, Command::RetireSpare { spare: number }, Ok(0));
        assert_eq!(engine.next_spare(), next);
    }
}

#[test]
fn a_spare_that_cannot_be_is_refused() {
    let mut engine = with_spares(2, &[]);
    let good = SpareRecord { uuid: [99; 16], ..engine.volume().spares[1] };
    let refused = Err(RequestError::Io(Fault::Unsupported));
    for (spare, record) in [
        (1, good),
        (3, good),
        (2, SpareRecord::GONE),
        (2, SpareRecord { size: 8192, ..good }),
        (2, SpareRecord { anchors: 5, reserve_pages: 1 << 20, ..good }),
    ] {
        change(&mut engine, Command::AddSpare { spare, record, copies: false }, refused);
    }
    change(&mut engine, Command::AddSpare { spare: 2, record: good, copies: false }, Ok(1));
    // The first one holds the copies, and no other has a place for them.
    assert_eq!([0, 1, 2].map(|spare| engine.can_leave(spare)), [false, true, true]);
    change(&mut engine, Command::RetireSpare { spare: 0 }, refused);
    change(&mut engine, Command::RetireSpare { spare: 1 }, Ok(0));
    for none in [1, 3, 200] {
        change(&mut engine, Command::RetireSpare { spare: none }, refused);
    }
}

fn change(engine: &mut Engine, command: Command, expected: Result<u64, RequestError>) {
    engine.command(NOW, CommandId(7), command).expect("taken");
    settle(engine, |_| Ok(()));
    let outcome = events(engine).into_iter().find_map(|event| match event {
        Event::CommandDone { outcome, .. } => Some(outcome),
        _ => None,
    });
    let outcome = outcome.expect("it ends");
    assert_eq!(outcome.error.map_or(Ok(outcome.done), Err), expected, "{command:?}");
}

#[test]
fn before_its_copies_are_in_step_a_volume_is_not_served() {
    let recovered = Recovered::fresh(superblock(Policy::RemapOnly), &[]).expect("fresh");
    let mut engine = Engine::start(recovered, EngineConfig::default(), NOW).expect("memory");
    assert!(!engine.is_live() && !engine.is_idle());
    settle(&mut engine, |_| Ok(()));
    assert!(engine.is_live() && engine.is_idle());
}

/// No end of a request or command is lost because others, or notices, were not taken.
#[test]
fn there_is_a_place_for_every_end_and_notice_at_once() {
    let mut engine = engine(Policy::RemapOnly);
    let mut now = NOW;
    while engine.counters().dropped_notices == 0 {
        engine.report(now, DeviceId::Main, Fault::Gone);
        now.mono_ns += BREAKER_COOL_DOWN_NS;
        engine.handle_timeout(now);
        settle(&mut engine, |_| Ok(()));
    }
    for id in 0..MAX_COMMANDS as u64 {
        engine.command(now, CommandId(id), Command::Resume).expect("there is room");
    }
    for id in 0..MAX_REQUESTS as u64 {
        read(&mut engine, id, blocks(id, 1)).expect("there is room");
    }
    settle(&mut engine, |_| Ok(()));
    assert_eq!(events(&mut engine).len(), MAX_NOTICES + MAX_COMMANDS + MAX_REQUESTS);
}

#[test]
fn no_operation_has_the_name_of_another() {
    let mut engine = engine(Policy::RemapOnly);
    let mut names = BTreeSet::new();
    for id in 0..100 {
        read(&mut engine, id, blocks(id, 1)).expect("taken");
        for op in ops(&mut engine) {
            assert!(names.insert(op.id), "{:?} once more", op.id);
            engine.handle_completion(NOW, op.id, Ok(()));
        }
    }
}

/// What readers of the fast lane see while a block moves, and how far it reaches.
#[test]
fn a_block_that_moves_is_left_to_the_owner() {
    let mut engine = engine(Policy::RemapOnly);
    let view = engine.view();
    let at = |first, end| {
        let stretch = view.first(Block(first), Block(end));
        (stretch.blocks, stretch.placement)
    };
    assert_eq!(at(0, 10), (10, Placement::Main));
    engine.command(NOW, CommandId(1), Command::Remap(blocks(4, 1), Cause::Manual)).expect("taken");
    assert_eq!(
        [at(0, 10), at(4, 10), at(5, 10)],
        [(4, Placement::Main), (1, Placement::Slow), (5, Placement::Main)]
    );
    settle(&mut engine, |_| Ok(()));
    let slot = engine.table().get(Block(4)).map(|entry| Placement::Settled(Slot(entry.slot)));
    assert_eq!([at(0, 10), at(5, 10)], [(4, Placement::Main), (5, Placement::Main)]);
    assert_eq!(Some(at(4, 10)), slot.map(|slot| (1, slot)));
}

/// Commits are shared: blocks that fail side by side cost few flushes, whatever their number.
#[test]
fn a_thousand_blocks_that_fail_at_once_share_their_flushes() {
    let mut engine = engine(Policy::RemapOnly);
    for id in 0..1000 {
        let write = request(id, RequestKind::Write { fua: false }, blocks(2 * id, 1));
        engine.submit(NOW, write).expect("there is room");
    }
    let (mut flushes, mut ended) = (0, 0);
    while ended < 1000 {
        // All that is out ends side by side.
        for op in ops(&mut engine) {
            let fails = op.device == DeviceId::Main && matches!(op.kind, OpKind::Write { .. });
            flushes += usize::from(op.kind == OpKind::Flush);
            engine.handle_completion(NOW, op.id, if fails { Err(Fault::Medium) } else { Ok(()) });
        }
        ended += events(&mut engine).into_iter().filter(|event| !matches!(event, Event::Notice(_))).count();
    }
    assert_eq!(engine.counts().remapped_blocks, 1000);
    assert!(flushes < 20, "{flushes}");
}

/// A commit that waits for others is nothing to be woken for once there is nothing to commit.
#[test]
fn nobody_is_woken_for_a_commit_that_was_given_up() {
    let mut engine = engine(Policy::RemapOnly);
    for id in 0..2 {
        let write = request(id, RequestKind::Write { fua: false }, blocks(2 * id, 1));
        engine.submit(NOW, write).expect("there is room");
    }
    // Both fail, both move, and the first one is in its slot.
    let mut slots = Vec::new();
    while slots.len() < 2 {
        for op in ops(&mut engine) {
            match (op.device, &op.kind) {
                (DeviceId::Main, OpKind::Write { .. }) => {
                    engine.handle_completion(NOW, op.id, Err(Fault::Medium))
                }
                (DeviceId::Spare(_), OpKind::Write { .. }) => slots.push(op),
                _ => engine.handle_completion(NOW, op.id, Ok(())),
            }
        }
    }
    engine.handle_completion(NOW, slots[0].id, Ok(()));
    assert!(ops(&mut engine).is_empty() && engine.poll_timeout().is_some(), "it waits for the other one");
    engine.submit(NOW, request(9, RequestKind::Flush, blocks(0, 1))).expect("there is room");
    for op in ops(&mut engine) {
        engine.handle_completion(NOW, op.id, Err(Fault::Unknown));
    }
    engine.handle_completion(NOW, slots[1].id, Ok(()));
    let ended =
        events(&mut engine).into_iter().filter(|event| matches!(event, Event::RequestDone { .. })).count();
    assert_eq!(ended, 3);
    assert_eq!(engine.counts().remapped_blocks, 0);
    let later = Now { mono_ns: NOW.mono_ns + 2_000_000, ..NOW };
    engine.handle_timeout(later);
    assert!(engine.poll_timeout().is_none_or(|at| at > later.mono_ns), "{:?}", engine.poll_timeout());
}
