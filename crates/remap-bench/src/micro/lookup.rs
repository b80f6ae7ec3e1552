//! The table: look-ups by readers, changes by the owner, and both at once.

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use remap_core::table::Table;
use remap_core::units::Block;
use remap_core::view::View;
use remap_format::{Entry, EntryState, NO_SLOT};

use super::{Patience, of_events, of_samples, timed, yardstick};
use crate::record::Figure;
use crate::scatter;
use crate::stats::median;

/// Places that are looked up in turn: more than a processor's nearest cache holds, in a power of two.
const PLACES: usize = 1 << 16;
/// Blocks of a 1 MiB request.
const RANGE: u64 = 256;
/// Look-ups of one measurement.
const EACH: usize = 4096;
/// Readers while the owner inserts.
const READERS: usize = 2;
/// Pause between inserts while others read: about a thousand a second.
const PAUSE: Duration = Duration::from_millis(1);

/// All figures of a table of that size.
///
/// # Errors
/// Memory.
pub(crate) fn figures(remaps: u64, patience: Patience) -> anyhow::Result<Vec<Figure>> {
    let mut table = scatter::table(remaps)?;
    let view = table.view().clone();
    let size = Some(remaps);
    let misses = scatter::misses(&view, 1, PLACES);
    let ranges = scatter::misses(&view, RANGE, PLACES / 16);
    let mut all = vec![
        timed("look-up, miss", size, patience, EACH, |n| {
            let block = misses[n % misses.len()];
            black_box(view.first(Block(block), Block(block + 1)));
        }),
        timed("look-up, miss of 256 blocks", size, patience, EACH, |n| {
            let block = ranges[n % ranges.len()];
            black_box(scatter::is_miss(&view, block, block + RANGE));
        }),
    ];
    if remaps > 0 {
        let hits = scatter::hits(remaps, PLACES);
        let mut before = 0;
        all.push(timed("look-up, hit after hit", size, patience, EACH, |n| {
            // Which place is next depends on the last answer, so that look-ups cannot overlap.
            let block = hits[(n + before) % hits.len()];
            before = view.first(Block(block), Block(block + 1)).blocks as usize;
        }));
    }
    let step = yardstick();
    let inserts = insert(&mut table, &misses, patience.events, Duration::ZERO)?;
    all.push(of_events("insert", size, &inserts, step));
    all.extend(with_readers(&mut table, &view, &misses, remaps, patience)?);
    Ok(all)
}

/// Nanoseconds of each of `count` inserts at such places; the table is as before in the end.
fn insert(table: &mut Table, places: &[u64], count: usize, pause: Duration) -> anyhow::Result<Vec<f64>> {
    let mut took = Vec::with_capacity(count);
    for (slot, &block) in (1 << 30..).step_by(2).zip(places.iter().cycle()).take(count) {
        let entry = scatter::entry(block, slot);
        let begin = Instant::now();
        table.apply(&entry)?;
        took.push(begin.elapsed().as_secs_f64() * 1e9);
        table.apply(&Entry { state: EntryState::Absent, slot: NO_SLOT, ..entry })?;
        if !pause.is_zero() {
            thread::sleep(pause);
        }
    }
    Ok(took)
}

/// What an insert costs while others read, and what their look-ups cost.
fn with_readers(
    table: &mut Table,
    view: &View,
    misses: &[u64],
    remaps: u64,
    patience: Patience,
) -> anyhow::Result<Vec<Figure>> {
    let step = yardstick();
    let over = AtomicBool::new(false);
    let (inserts, reads) = thread::scope(|scope| {
        let readers: Vec<_> = (0..READERS).map(|_| scope.spawn(|| read_until(view, misses, &over))).collect();
        let inserts = insert(table, misses, patience.events / 4, PAUSE);
        over.store(true, Ordering::Relaxed);
        let reads = readers.into_iter().filter_map(|reader| reader.join().ok()).flatten();
        (inserts, reads.collect::<Vec<f64>>())
    });
    Ok(vec![
        of_events("insert, two readers", Some(remaps), &inserts?, step),
        of_samples("look-up, miss, while another inserts", Some(remaps), &reads, step),
    ])
}

/// Nanoseconds of a look-up, in stretches, until it is over.
fn read_until(view: &View, misses: &[u64], over: &AtomicBool) -> Option<f64> {
    let mut samples = Vec::new();
    let mut places = misses.iter().cycle();
    while !over.load(Ordering::Relaxed) {
        let begin = Instant::now();
        for &block in places.by_ref().take(EACH) {
            black_box(view.first(Block(block), Block(block + 1)));
        }
        samples.push(begin.elapsed().as_secs_f64() * 1e9 / EACH as f64);
    }
    median(&samples)
}
