//! Costs of the product's parts, each alone: look-ups, changes of the table, checksums, records, recovery, memory.
//!
//! Invariant: a figure is the median of many short measurements, told with their spread, and beside a fixed piece of arithmetic
//! timed just before it, so that runs on different machines can be compared.

mod format;
mod lookup;
mod slow;
mod start;

pub(crate) use format::RECORD;

use std::hint::black_box;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Context as _, ensure};
use remap_sim::rng::Rng;

use crate::record::Figure;
use crate::stats::{median, quantile, spread};
use crate::{needs, proc, scatter};

/// Remaps in the tables.
const SIZES: [u64; 5] = [0, 1_000, 10_000, 100_000, 1_000_000];
/// The same in a short run.
const QUICK_SIZES: [u64; 2] = [0, 100_000];

/// How long to measure.
#[derive(Clone, Copy)]
pub(crate) struct Patience {
    /// Measurements of one figure.
    chunks: usize,
    /// Events that are timed one by one.
    events: usize,
}

/// Measures all parts.
///
/// # Errors
/// Memory, or the run was interrupted.
pub(crate) fn run(quick: bool, stop: &AtomicBool) -> anyhow::Result<Vec<Figure>> {
    let patience =
        if quick { Patience { chunks: 31, events: 500 } } else { Patience { chunks: 101, events: 4000 } };
    let sizes = if quick { &QUICK_SIZES[..] } else { &SIZES };
    let mut figures = format::figures(patience);
    figures.extend(slow::figures(patience)?);
    for &remaps in sizes {
        eprintln!("parts: a table of {remaps} remaps");
        figures.extend(lookup::figures(remaps, patience)?);
        if remaps >= 100_000 {
            figures.push(start::figure(remaps)?);
            figures.push(bytes_per_remap(remaps)?);
        }
        ensure!(!stop.load(Ordering::Relaxed), "interrupted");
    }
    Ok(figures)
}

/// Times `work`, `each` calls at a time, and makes a figure of one call. The first tenth only warms up.
fn timed(
    name: &str,
    remaps: Option<u64>,
    patience: Patience,
    each: usize,
    mut work: impl FnMut(usize),
) -> Figure {
    let step = yardstick();
    let warm = patience.chunks / 10;
    let mut samples = Vec::new();
    for chunk in 0..patience.chunks + warm {
        let begin = Instant::now();
        for at in 0..each {
            work(chunk * each + at);
        }
        if chunk >= warm {
            samples.push(begin.elapsed().as_secs_f64() * 1e9 / each as f64);
        }
    }
    of_samples(name, remaps, &samples, step)
}

/// Makes a figure of events that were timed one by one, in nanoseconds.
fn of_events(name: &str, remaps: Option<u64>, samples: &[f64], step: f64) -> Figure {
    // How much they differ among themselves says nothing about how far to believe their median.
    Figure { p99: quantile(samples, 0.99), spread: None, ..of_samples(name, remaps, samples, step) }
}

fn of_samples(name: &str, remaps: Option<u64>, samples: &[f64], step: f64) -> Figure {
    let p50 = median(samples).unwrap_or(f64::NAN);
    Figure {
        name: name.to_owned(),
        remaps,
        unit: "ns".to_owned(),
        p50,
        p99: None,
        to_yardstick: Some(p50 / step),
        spread: spread(samples),
    }
}

/// Nanoseconds of one step of the simulator's generator of numbers, each of which waits for the one before.
fn yardstick() -> f64 {
    const STEPS: u32 = 10_000;
    let mut rng = Rng::seeded(5);
    let samples: Vec<f64> = (0..31)
        .map(|_| {
            let begin = Instant::now();
            for _ in 0..STEPS {
                rng = Rng::seeded(black_box(rng.next_u64()));
            }
            begin.elapsed().as_secs_f64() * 1e9 / f64::from(STEPS)
        })
        .collect();
    median(&samples).unwrap_or(f64::NAN)
}

/// In a process of its own, whose memory nobody else has used before.
fn bytes_per_remap(remaps: u64) -> anyhow::Result<Figure> {
    let mut command = Command::new(std::env::current_exe().context("where this program is")?);
    command.arg("resident").arg(remaps.to_string());
    let said = needs::output(command)?;
    let bytes: f64 = said.trim().parse().context("a number of bytes")?;
    Ok(Figure {
        name: "memory per remap".to_owned(),
        remaps: Some(remaps),
        unit: "bytes".to_owned(),
        p50: bytes / remaps as f64,
        p99: None,
        to_yardstick: None,
        spread: None,
    })
}

/// Prints by how many bytes this process grows when it makes a table and its view.
///
/// # Errors
/// Memory.
pub(crate) fn resident(remaps: u64) -> anyhow::Result<()> {
    let before = proc::resident();
    let table = scatter::table(remaps)?;
    println!("{}", proc::resident() - before);
    drop(black_box(table));
    Ok(())
}
