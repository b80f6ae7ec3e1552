//! `remap-sim soak`: fresh seeds until somebody stops it (part of the command, not of the library: it has threads and a clock).
//!
//! Invariant: no seed is tried twice, in this run or, as long as clocks go forward, in any other; a failure costs its own seed only.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use clap::Args;
use remap_sim::scenario::Scenario;
use remap_sim::shrink;
use remap_sim::world::Tally;

use crate::report::{Found, say, tell_tally};
use crate::{TWICE_EVERY, parse_duration};

/// Pause between two lines of progress.
const PROGRESS: Duration = Duration::from_secs(60);

#[derive(Args)]
pub(crate) struct Options {
    /// Runs at a time (default: one per core)
    #[arg(long)]
    jobs: Option<usize>,
    /// How long, as 90s, 15m, 8h (default: until stopped)
    #[arg(long = "for", value_name = "DURATION", value_parser = parse_duration)]
    limit: Option<Duration>,
    /// First seed (default: from the clock, so that none is tried twice)
    #[arg(long)]
    from: Option<u64>,
    /// Steps in each scenario
    #[arg(long, default_value_t = 3000)]
    steps: u64,
    /// Where failing runs are written, shrunk
    #[arg(long, value_name = "DIR", default_value = "crates/remap-sim/tests/seeds")]
    into: PathBuf,
    /// Time spent on shrinking each failure
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "60s")]
    shrink_for: Duration,
}

struct Progress {
    total: Tally,
    seeds: u64,
    failures: u64,
    told: Instant,
}

pub(crate) fn soak(options: &Options) -> ExitCode {
    // Room for 2^24 seeds in each second: far more than can be run.
    let clock = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |t| t.as_secs());
    let from = options.from.unwrap_or(clock << 24);
    let jobs = options.jobs.unwrap_or_else(|| thread::available_parallelism().map_or(1, usize::from));
    say!("from seed {from} on, {jobs} at a time, {} steps each", options.steps);
    let next = AtomicU64::new(from);
    let start = Instant::now();
    let progress = Mutex::new(Progress { total: Tally::default(), seeds: 0, failures: 0, told: start });
    thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                while options.limit.is_none_or(|limit| start.elapsed() < limit) {
                    one(options, next.fetch_add(1, Ordering::Relaxed), start, &progress);
                }
            });
        }
    });
    let progress = progress.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    let seconds = start.elapsed().as_secs_f64();
    say!("{} seeds, {seconds:.1} s, {} failed", progress.seeds, progress.failures);
    tell_tally(&progress.total, seconds);
    if progress.failures == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn one(options: &Options, seed: u64, start: Instant, progress: &Mutex<Progress>) {
    let scenario = Scenario::of_seed(seed, options.steps);
    let outcome = shrink::verdict(&scenario, seed.is_multiple_of(TWICE_EVERY));
    if let Err(failure) = &outcome {
        say!("seed {seed}: {}", failure.violation);
        let found = Found::shrink(&scenario, failure, options.shrink_for);
        match found.save(&options.into) {
            Ok(path) => say!("seed {seed}: written to {}", path.display()),
            Err(error) => say!("seed {seed}: {}: {error}\n{}", options.into.display(), found.text()),
        }
    }
    let Ok(mut progress) = progress.lock() else { return };
    progress.seeds += 1;
    match &outcome {
        Ok(tally) => progress.total.add(tally),
        Err(_) => progress.failures += 1,
    }
    if progress.told.elapsed() >= PROGRESS {
        progress.told = Instant::now();
        let (seconds, crashes) = (start.elapsed().as_secs_f64(), progress.total.crashes());
        let per_hour = crashes as f64 / seconds * 3600.0;
        say!(
            "{seconds:>7.0} s  {:>9} seeds  {crashes:>11} crashes  {per_hour:>11.0}/h  {} failed",
            progress.seeds,
            progress.failures
        );
    }
}
