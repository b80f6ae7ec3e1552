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
use std::time::Instant;

use anyhow::Context as _;
use remap_sim::rng::Rng;

use crate::groups::{Found, Setting};
use crate::record::Figure;
use crate::stats::median;
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

/// What times of parts are compared with.
const STEP: &str = "step";

/// Measures all parts.
///
/// # Errors
/// Memory, or the run was interrupted.
pub(crate) fn run(setting: &Setting<'_>) -> anyhow::Result<Found> {
    let quick = setting.quick;
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
        setting.go_on()?;
    }
    Ok(Found { figures, missing: Vec::new() })
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
    let figure = Figure::of_events(name, "ns", samples);
    Figure { at: remaps, ratio: Some(figure.p50 / step), to: Some(STEP.to_owned()), ..figure }
}

fn of_samples(name: &str, remaps: Option<u64>, samples: &[f64], step: f64) -> Figure {
    let figure = Figure::of(name, "ns", samples);
    Figure { at: remaps, ratio: Some(figure.p50 / step), to: Some(STEP.to_owned()), ..figure }
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
        spread: None,
        ..Figure::of("memory per remap", "bytes", &[bytes / remaps as f64]).at(remaps)
    })
}

/// Prints by how many bytes this process grows when it makes a table and its view.
///
/// # Errors
/// Memory.
pub(crate) fn resident(remaps: u64) -> anyhow::Result<()> {
    let resident = || proc::resident_of(std::process::id());
    let before = resident();
    let table = scatter::table(remaps)?;
    println!("{}", resident() - before);
    drop(black_box(table));
    Ok(())
}
