//! Models of a move under fire: one owner, queues that write to the block while it moves, and what the slot holds in the end.
//!
//! Invariant: view, table, handshake and mailboxes are those of the program. The model adds a device (two cells whose loads
//! and stores order nothing), and the loop around them that `queue.rs` and `owner.rs` have, with little in it.
//!
//! What must hold (C11): an acknowledged write is where the table says to look, whenever it began.

use std::sync::Arc;

use remap_core::sync::models::{begin_move, end_move, explore, thread};
use remap_core::sync::{AtomicU64, Edge, Ordering};
use remap_core::table::Table;
use remap_core::units::{Block, Slot};
use remap_core::view::{Placement, View};
use remap_format::{Cause, Entry, EntryFlags, EntryState};

use super::{Calls, Outstanding, Presence};
use crate::mailbox::Mailbox;
use crate::mailbox::models::ModelBell;

const BLOCK: Block = Block(20);
const SLOT: Slot = Slot(200);
const GRACE: u64 = 7;
/// The only part that a queue of the model has out.
const PART: usize = 0;

/// A way to get the handshake wrong.
#[derive(Clone, Copy, PartialEq)]
enum Mistake {
    None,
    /// The owner asks who is busy, and publishes the move then.
    AskedBeforePublished,
    /// The queue looks up a placement, and is busy then.
    LookedUpBeforeBusy,
    /// The queue answers a call although an operation is out.
    AnsweredTooEarly,
    /// The owner copies without waiting for answers.
    DidNotWait,
}

enum ToOwner {
    Write(u64),
    GraceDone(u64),
}

struct ModelQueue {
    /// Grace calls.
    mail: Arc<Mailbox<u64, ModelBell>>,
    presence: Presence,
}

/// Contents of the block and of its slot: a device, which orders nothing for anybody.
struct Device {
    main: AtomicU64,
    slot: AtomicU64,
}

struct Volume {
    view: Arc<View>,
    device: Device,
    owner: Arc<Mailbox<ToOwner, ModelBell>>,
    queues: Vec<ModelQueue>,
}

impl Volume {
    fn answer(&self, grace: u64) {
        assert!(self.owner.post(ToOwner::GraceDone(grace)), "the owner is there");
    }
}

/// Writes `values` one after the other; gives the last one that the fast lane acknowledged, 0 if none.
fn write(volume: &Volume, queue: usize, values: &[u64], mistake: Mistake) -> u64 {
    let ModelQueue { mail, presence } = &volume.queues[queue];
    let mut out = Outstanding::default();
    let mut acknowledged = 0;
    for &value in values {
        let look_up = || volume.view.first(BLOCK, Block(BLOCK.0 + 1)).placement;
        let early = (mistake == Mistake::LookedUpBeforeBusy).then(look_up);
        out.starting(presence);
        let cell = match early.unwrap_or_else(look_up) {
            Placement::Main => &volume.device.main,
            Placement::Settled(slot) => {
                assert_eq!(slot, SLOT);
                &volume.device.slot
            }
            Placement::Slow => {
                assert!(volume.owner.post(ToOwner::Write(value)), "the owner is there");
                out.started(presence);
                continue;
            }
        };
        out.began();
        out.started(presence);
        // The operation is out: calls come in, then it ends.
        for grace in mail.take() {
            let parts = if mistake == Mistake::AnsweredTooEarly { vec![] } else { vec![PART] };
            if out.asked(grace, parts) {
                volume.answer(grace);
            }
        }
        cell.store(value, Ordering::Relaxed);
        out.ended(PART, presence, |grace| volume.answer(grace));
        acknowledged = value;
    }
    for grace in mail.close() {
        volume.answer(grace);
    }
    acknowledged
}

/// The block is on the slot.
fn edit() -> Entry {
    Entry {
        block: BLOCK.0,
        count: 1,
        slot: SLOT.0,
        lost: 0,
        state: EntryState::Remapped,
        cause: Cause::Manual,
        flags: EntryFlags::default(),
        errors: 0,
        time: 0,
    }
}

/// Moves the block to the slot; gives the writes that came by the slow lane.
fn move_block(volume: &Volume, table: &mut Table, mistake: Mistake) -> Vec<u64> {
    let mut calls = Calls::default();
    let mut writes = Vec::new();
    let ask = |queue: &ModelQueue| queue.mail.post(GRACE);
    let mut begin = || calls.begin(GRACE, &volume.queues, |queue| &queue.presence, ask);
    let mut over = if mistake == Mistake::AskedBeforePublished {
        let over = begin();
        begin_move(&volume.view, 0, BLOCK);
        over
    } else {
        begin_move(&volume.view, 0, BLOCK);
        begin()
    };
    while !over && mistake != Mistake::DidNotWait {
        volume.owner.wait();
        for message in volume.owner.take() {
            match message {
                ToOwner::Write(value) => writes.push(value),
                ToOwner::GraceDone(grace) => over = calls.answered(grace),
            }
        }
    }
    let copy = volume.device.main.load(Ordering::Relaxed);
    volume.device.slot.store(copy, Ordering::Relaxed);
    table.apply(&edit()).expect("memory");
    end_move(&volume.view, 0);
    writes
}

/// Each inner list is what one queue writes.
fn run(values: &'static [&'static [u64]], mistake: Mistake) {
    let mut table = Table::create(64, 8).expect("memory");
    table.prepare(&[edit(), edit()]).expect("memory");
    let queue = || ModelQueue { mail: Mailbox::of_model(), presence: Presence::idle() };
    let volume = Arc::new(Volume {
        view: Arc::clone(table.view()),
        device: Device { main: AtomicU64::new(0), slot: AtomicU64::new(0) },
        owner: Mailbox::of_model(),
        queues: values.iter().map(|_| queue()).collect(),
    });
    let writers: Vec<_> = (0..values.len())
        .map(|queue| {
            let volume = Arc::clone(&volume);
            thread::spawn(move || write(&volume, queue, values[queue], mistake))
        })
        .collect();
    let mut slow = move_block(&volume, &mut table, mistake);
    let fast: Vec<u64> = writers.into_iter().map(|writer| writer.join().expect("the writer ends")).collect();
    slow.extend(volume.owner.close().into_iter().filter_map(|message| match message {
        ToOwner::Write(value) => Some(value),
        ToOwner::GraceDone(_) => None,
    }));
    let held = volume.device.slot.load(Ordering::Relaxed);
    // Slow writes are not carried out here: they would come after the move, and find the slot as it is now.
    let acknowledged: Vec<u64> = fast.into_iter().filter(|&value| value != 0).collect();
    let right = if acknowledged.is_empty() { held == 0 } else { acknowledged.contains(&held) };
    assert!(right, "acknowledged {acknowledged:?}, slow {slow:?}, but the slot holds {held}");
}

fn one_write() {
    run(&[&[1]], Mistake::None);
}

fn two_writes() {
    run(&[&[1, 2]], Mistake::None);
}

fn two_queues() {
    run(&[&[1], &[2]], Mistake::None);
}

macro_rules! models {
    ($($test:ident: $model:expr, $preemptions:expr;)*) => {
        $(#[test] fn $test() { explore(stringify!($test), $preemptions, None, $model); })*
    };
}
models! {
    a_write_is_never_left_behind: one_write, 4;
    a_write_after_a_write_is_never_left_behind: two_writes, 3;
    writes_of_two_queues_are_never_left_behind: two_queues, 2;
}

macro_rules! fails {
    ($($test:ident: $model:expr, $edge:expr;)*) => {
        $(
            #[test]
            #[should_panic(expected = "but the slot holds")]
            fn $test() { explore(stringify!($test), 2, $edge, $model); }
        )*
    };
}
fails! {
    asking_before_publishing_is_found: || run(&[&[1]], Mistake::AskedBeforePublished), None;
    looking_up_before_being_busy_is_found: || run(&[&[1]], Mistake::LookedUpBeforeBusy), None;
    answering_too_early_is_found: || run(&[&[1]], Mistake::AnsweredTooEarly), None;
    not_waiting_is_found: || run(&[&[1]], Mistake::DidNotWait), None;
}

/// Orderings, which shuttle does not model.
#[cfg(loom)]
mod orderings {
    use super::{Edge, explore, one_write, two_writes};

    fails! {
        queue_busy_is_needed: one_write, Some(Edge::QueueBusy);
        move_published_is_needed: one_write, Some(Edge::MovePublished);
        queue_idle_is_needed: one_write, Some(Edge::QueueIdle);
        queue_seen_idle_is_needed: one_write, Some(Edge::QueueSeenIdle);
        moving_read_is_needed: two_writes, Some(Edge::MovingRead);
    }
}
