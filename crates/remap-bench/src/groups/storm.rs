//! A thousand blocks fail under load: what requests to healthy blocks feel of it.
//!
//! Invariant: the load goes on before and during the storm, on blocks that are healthy; every block that fails is on the spare in the end.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use remap_format::Policy;
use remap_io::Drill;
use remap_runtime::Volume;
use remap_sim::rng::Rng;

use super::client::{Client, Timed};
use super::made::{BLOCK, Made, Shape};
use super::{Found, Setting};
use crate::record::Figure;
use crate::stats::quantile;

/// Blocks that fail.
const BAD: u64 = 1000;
/// Blocks from one that fails to the next.
const APART: u64 = 16;
/// Healthy requests in flight.
const DEPTH: usize = 32;
/// In ten of those, writes.
const WRITES: u64 = 3;
/// What a storm may make of the 99th percentile of healthy requests.
const GOAL: f64 = 2.0;
/// Flushes that a storm may cost when all blocks fail at once.
const FLUSHES: f64 = 19.0;

const BEFORE: &str = "before";

/// How hard it blows: writes to failing blocks in flight.
const CASES: [(&str, usize); 2] =
    [("1000 bad blocks at once", BAD as usize), ("1000 bad blocks, 8 at a time", 8)];

/// All figures.
///
/// # Errors
/// Files, volumes; a healthy request fails, or a bad block does not move.
pub(super) fn run(setting: &Setting<'_>) -> anyhow::Result<Found> {
    let samples = setting.in_turns(CASES.len(), |case| storm(setting, CASES[case].1))?;
    let mut figures = Vec::new();
    for ((name, at_once), rounds) in CASES.iter().zip(samples) {
        let of = |field: fn(&Round) -> f64| rounds.iter().map(field).collect::<Vec<f64>>();
        let ratios = of(|round| round.during / round.before);
        let figure =
            |what: &str, unit: &str, samples: &[f64]| Figure::of(&format!("{what}, {name}"), unit, samples);
        let healthy = "p99 of healthy requests";
        figures.push(figure(healthy, "us", &of(|round| round.before)).beside(BEFORE));
        let during = figure(healthy, "us", &of(|round| round.during)).by("during");
        figures.push(during.against(BEFORE, &ratios).ratio_at_most(GOAL));
        figures.push(figure("length of the storm", "ms", &of(|round| round.ms)));
        let flushes = figure("flushes of the storm", "count", &of(|round| round.flushes));
        figures.push(if *at_once as u64 == BAD { flushes.at_most(FLUSHES) } else { flushes });
    }
    Ok(Found { figures, missing: Vec::new() })
}

/// One storm.
struct Round {
    /// 99th percentile of healthy requests, in microseconds.
    before: f64,
    during: f64,
    ms: f64,
    flushes: f64,
}

fn storm(setting: &Setting<'_>, at_once: usize) -> anyhow::Result<Round> {
    // The first half is healthy.
    let half = BAD * APART;
    let shape =
        Shape { size: 2 * half * BLOCK, remaps: 0, spares: 1, written: true, policy: Policy::RemapOnly };
    let made = Made::make(setting.folder, "storm", shape)?;
    let mut list = String::new();
    for n in 0..BAD {
        let sector = (half + n * APART) * (BLOCK / 512);
        write!(list, "{sector}-{};", sector + 7).context("a list")?;
    }
    let drill = Drill::parse(&format!("bad=sectors:{},errno=ENODATA", list.trim_end_matches(';')))?;
    let volume = made.open(Some(Arc::new(drill)), None)?;
    let (healthy, from, to) = under_load(&volume, setting.seconds, half, at_once)?;
    ensure!(healthy.iter().all(|request| request.good), "a request to a healthy block failed");
    let p99 = |begin: Instant, end: Instant| {
        let within = healthy.iter().filter(|request| (begin..end).contains(&request.ended));
        quantile(&within.map(|request| request.us).collect::<Vec<_>>(), 0.99)
    };
    let status = volume.status().context("the volume's status")?;
    let moved = status.counts.remapped_blocks;
    ensure!(moved == BAD, "{moved} blocks are on the spare, not {BAD}");
    // The first requests find caches cold.
    let begin = from - Duration::from_secs(u64::from(setting.seconds)).mul_f64(0.8);
    let round = Round {
        before: p99(begin, from).context("requests before the storm")?,
        during: p99(from, to).context("requests during the storm")?,
        ms: (to - from).as_secs_f64() * 1e3,
        flushes: status.counters.commit_flushes as f64,
    };
    drop(volume);
    made.remove();
    Ok(round)
}

/// The healthy requests, and when the storm began and ended.
fn under_load(
    volume: &Volume,
    seconds: u32,
    healthy_blocks: u64,
    at_once: usize,
) -> anyhow::Result<(Vec<Timed>, Instant, Instant)> {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let load = scope.spawn(|| {
            let mut rng = Rng::seeded(6);
            let mut all = Vec::new();
            let mut client = Client::over(volume, DEPTH)?;
            let next = || {
                let request = (rng.below(healthy_blocks), rng.below(10) < WRITES);
                (!over.load(Ordering::Relaxed)).then_some(request)
            };
            client.run(next, |done| all.push(done)).map(|()| all)
        });
        thread::sleep(Duration::from_secs(u64::from(seconds)));
        let from = Instant::now();
        let outcome = Client::over(volume, at_once).and_then(|mut client| {
            let mut blocks = (0..BAD).map(|n| (healthy_blocks + n * APART, true));
            let mut failed = 0;
            client.run(|| blocks.next(), |done| failed += u64::from(!done.good))?;
            ensure!(failed == 0, "{failed} writes to bad blocks failed");
            Ok(Instant::now())
        });
        over.store(true, Ordering::Relaxed);
        let healthy = load.join().map_err(|_| anyhow::anyhow!("the load panicked"))??;
        Ok((healthy, from, outcome?))
    })
}
