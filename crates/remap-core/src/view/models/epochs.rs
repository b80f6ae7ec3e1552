//! A model of the handshake that the kernel target has before a block moves (C11): epochs, counters on each processor, and RCU.
//!
//! Invariant: the view and the table are those of the program. What `kernel/module/lane.c` does beside them stands here a second time, step
//! by step; RCU is what it promises: a section of a reader is over before a grace period ends, or it begins after that has begun (a lock for
//! each reader, which the owner takes in turn, promises just that).
//!
//! What must hold (C11): an acknowledged write is where the table says to look, whenever it began. Reads of the main device are not counted: what
//! they read is what was there at some time between their begin and their end, wherever the block is by then.

use alloc::sync::Arc;
use alloc::vec::Vec;

#[cfg(loom)]
use loom::sync::Mutex;
#[cfg(all(shuttle, not(loom)))]
use shuttle::sync::Mutex;

use remap_format::{Cause, Entry, EntryFlags, EntryState};

use crate::sync::models::{explore, thread};
use crate::sync::{AtomicU64, AtomicUsize, Edge, Ordering};
use crate::table::Table;
use crate::units::{Block, Slot};
use crate::view::{Placement, View};

const BLOCK: Block = Block(20);
const OTHER: Block = Block(40);
const SLOT: u64 = 200;

/// A way to get the handshake wrong.
#[derive(Clone, Copy, PartialEq)]
enum Mistake {
    None,
    /// Who looks up is no section of RCU.
    NoSection,
    /// The owner does not wait for sections.
    NoGracePeriod,
    /// The owner does not wait for bios.
    DidNotWait,
    /// The epoch changes before the move is published.
    EpochFirst,
    /// A look-up comes before the count.
    LookedUpFirst,
}

struct Cpu {
    /// Held by a reader from its count to its look-up.
    section: Mutex<()>,
    out: [AtomicUsize; 2],
}

struct Volume {
    view: Arc<View>,
    epoch: AtomicUsize,
    cpus: Vec<Cpu>,
    main: AtomicU64,
    slot: AtomicU64,
}

/// A bio that writes `value`, looked up on the first cpu given and ended on the second; the value if it was acknowledged.
fn write(volume: &Volume, (begun, ended): (usize, usize), value: u64, mistake: Mistake) -> u64 {
    let look_up = || volume.view.first(BLOCK, Block(BLOCK.0 + 1)).placement;
    let early = (mistake == Mistake::LookedUpFirst).then(look_up);
    let section = (mistake != Mistake::NoSection).then(|| volume.cpus[begun].section.lock().expect("whole"));
    let epoch = volume.epoch.load(Edge::EpochSeen.order(Ordering::Acquire));
    volume.cpus[begun].out[epoch].fetch_add(1, Ordering::Relaxed);
    let placement = early.unwrap_or_else(look_up);
    drop(section);
    let cell = match placement {
        Placement::Main => Some(&volume.main),
        Placement::Settled(slot) => {
            assert_eq!(slot, Slot(SLOT));
            Some(&volume.slot)
        }
        Placement::Slow => None,
    };
    if let Some(cell) = cell {
        cell.store(value, Ordering::Relaxed);
    }
    volume.cpus[ended].out[epoch].fetch_sub(1, Edge::BioEnded.order(Ordering::Release));
    if cell.is_some() { value } else { 0 }
}

fn under_way(volume: &Volume, epoch: usize) -> usize {
    let out = volume.cpus.iter().map(|cpu| cpu.out[epoch].load(Edge::BioSeenEnded.order(Ordering::Acquire)));
    out.fold(0, usize::wrapping_add)
}

/// Waits for the bios that began before; all moves must have been published.
fn grace(volume: &Volume, mistake: Mistake) {
    let old = volume.epoch.load(Ordering::Relaxed);
    if mistake != Mistake::EpochFirst {
        volume.epoch.store(1 - old, Edge::EpochBegun.order(Ordering::Release));
    }
    if mistake != Mistake::NoGracePeriod {
        volume.cpus.iter().for_each(|cpu| drop(cpu.section.lock().expect("whole")));
    }
    let old = if mistake == Mistake::EpochFirst { 1 - old } else { old };
    while mistake != Mistake::DidNotWait && under_way(volume, old) != 0 {
        thread::yield_now();
    }
}

fn entry() -> Entry {
    Entry {
        block: BLOCK.0,
        count: 1,
        slot: SLOT,
        lost: 0,
        state: EntryState::Remapped,
        cause: Cause::Manual,
        flags: EntryFlags::default(),
        errors: 0,
        time: 0,
    }
}

/// Each bio: where it is looked up, where it ends. `moves_before`: another block was waited for just before.
fn run(bios: &'static [(usize, usize)], moves_before: bool, mistake: Mistake) {
    let mut table = Table::create(64, 8).expect("memory");
    table.prepare(&[entry(), entry()]).expect("memory");
    let cpu = || Cpu { section: Mutex::new(()), out: [AtomicUsize::new(0), AtomicUsize::new(0)] };
    let volume = Arc::new(Volume {
        view: Arc::clone(table.view()),
        epoch: AtomicUsize::new(0),
        cpus: (0..2).map(|_| cpu()).collect(),
        main: AtomicU64::new(0),
        slot: AtomicU64::new(0),
    });
    let bio = |(at, cpus): (usize, (usize, usize))| {
        let volume = Arc::clone(&volume);
        thread::spawn(move || write(&volume, cpus, at as u64 + 1, mistake))
    };
    let writers: Vec<_> = bios.iter().copied().enumerate().map(bio).collect();
    if moves_before {
        volume.view.begin_move(1, OTHER);
        grace(&volume, mistake);
        volume.view.end_move(1);
    }
    if mistake == Mistake::EpochFirst {
        volume.epoch.store(1 - volume.epoch.load(Ordering::Relaxed), Ordering::Release);
    }
    volume.view.begin_move(0, BLOCK);
    grace(&volume, mistake);
    volume.slot.store(volume.main.load(Ordering::Relaxed), Ordering::Relaxed);
    table.apply(&entry()).expect("memory");
    volume.view.end_move(0);
    let ended: Vec<u64> = writers.into_iter().map(|writer| writer.join().expect("the writer ends")).collect();
    let held = volume.slot.load(Ordering::Relaxed);
    let acknowledged: Vec<u64> = ended.into_iter().filter(|&value| value != 0).collect();
    let right = if acknowledged.is_empty() { held == 0 } else { acknowledged.contains(&held) };
    assert!(right, "acknowledged {acknowledged:?}, but the slot holds {held}");
}

fn one_bio() {
    run(&[(0, 1)], false, Mistake::None);
}

fn a_bio_after_another_move() {
    run(&[(0, 1)], true, Mistake::None);
}

fn two_bios() {
    run(&[(0, 1), (1, 0)], false, Mistake::None);
}

macro_rules! holds {
    ($($test:ident: $model:expr, $preemptions:expr;)*) => {
        $(#[test] fn $test() { explore(stringify!($test), $preemptions, None, $model); })*
    };
}
holds! {
    a_write_is_never_left_behind: one_bio, 3;
    a_write_is_never_left_behind_by_a_second_move: a_bio_after_another_move, 3;
    two_writes_are_never_left_behind: two_bios, 2;
}

macro_rules! fails {
    ($($test:ident: $model:expr, $edge:expr;)*) => {
        $(
            #[test]
            #[should_panic(expected = "but the slot holds")]
            fn $test() { explore(stringify!($test), 3, $edge, $model); }
        )*
    };
}
fails! {
    not_waiting_for_bios_is_found: || run(&[(0, 1)], false, Mistake::DidNotWait), None;
    an_epoch_before_the_move_is_found: || run(&[(0, 1)], false, Mistake::EpochFirst), None;
    looking_up_before_counting_is_found: || run(&[(0, 1)], false, Mistake::LookedUpFirst), None;
}

/// Orderings, and what RCU makes up for, which shuttle does not model.
#[cfg(loom)]
mod orderings {
    use super::{Edge, Mistake, explore, one_bio, run};

    fails! {
        a_look_up_outside_of_a_section_is_found: || run(&[(0, 1)], false, Mistake::NoSection), None;
        no_grace_period_is_found: || run(&[(0, 1)], false, Mistake::NoGracePeriod), None;
        epoch_begun_is_needed: one_bio, Some(Edge::EpochBegun);
        epoch_seen_is_needed: one_bio, Some(Edge::EpochSeen);
        bio_ended_is_needed: one_bio, Some(Edge::BioEnded);
        bio_seen_ended_is_needed: one_bio, Some(Edge::BioSeenEnded);
    }
}
