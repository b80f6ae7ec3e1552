//! `remap-sim`: runs seeds and says what they did, or what they broke.

mod report;
mod soak;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Args, Parser, Subcommand};
use remap_sim::scenario::Scenario;
use remap_sim::world::{Failure, Tally};
use remap_sim::{Rule, seed_file, shrink, sweep};

use report::{Found, say};

/// Each so many seeds are run twice (C7).
const TWICE_EVERY: u64 = 16;

#[derive(Parser)]
#[command(about = "Deterministic simulation of dm-remap", version)]
struct Cli {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Run random scenarios; shrink the first that fails
    Run(RunOptions),
    /// Run fresh seeds until stopped, and write those that fail where they become tests
    Soak(soak::Options),
    /// Try all that can go wrong in short scripted lives, within stated bounds
    Sweep(sweep::Options),
}

#[derive(Args)]
struct RunOptions {
    /// First seed and one past the last, as A..B
    #[arg(long, value_parser = parse_range, default_value = "0..1000", conflicts_with = "seed")]
    seeds: (u64, u64),
    /// Only this seed
    #[arg(long)]
    seed: Option<u64>,
    /// Only the run that this file describes
    #[arg(long, value_name = "FILE", conflicts_with_all = ["seed", "seeds", "steps"])]
    file: Option<PathBuf>,
    /// Steps in each scenario
    #[arg(long, default_value_t = 3000)]
    steps: u64,
    /// Fail if there were fewer crashes than this
    #[arg(long, value_name = "N", default_value_t = 0)]
    least_crashes: u64,
    /// Print each seed's scenario
    #[arg(long, short)]
    verbose: bool,
    /// Events in the transcript of a failure
    #[arg(long, default_value_t = 400)]
    transcript: usize,
    /// Time spent on shrinking a failure; 0s: none
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "60s")]
    shrink_for: Duration,
    /// Write the failing run, shrunk, into this folder
    #[arg(long, value_name = "DIR")]
    into: Option<PathBuf>,
    /// Break the core so (a name from remap-core's canary.rs)
    #[cfg(feature = "canaries")]
    #[arg(long, value_name = "CANARY", value_parser = parse_canary)]
    plant: Option<remap_core::canary::Canary>,
}

#[cfg(feature = "canaries")]
fn parse_canary(text: &str) -> Result<remap_core::canary::Canary, String> {
    let named = |canary: &remap_core::canary::Canary| format!("{canary:?}").eq_ignore_ascii_case(text);
    remap_core::canary::Canary::ALL.into_iter().find(named).ok_or_else(|| "no such canary".into())
}

fn parse_range(text: &str) -> Result<(u64, u64), String> {
    let (from, to) = text.split_once("..").ok_or("write a range of seeds as A..B")?;
    let number = |s: &str| s.parse::<u64>().map_err(|e| format!("'{s}': {e}"));
    let range = (number(from)?, number(to)?);
    if range.0 < range.1 { Ok(range) } else { Err("the range is empty".into()) }
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    let unit = text.trim_start_matches(|c: char| c.is_ascii_digit());
    let number: u64 = text[..text.len() - unit.len()].parse().map_err(|e| format!("'{text}': {e}"))?;
    let seconds = match unit {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return Err("write a duration as 90s, 15m or 8h".into()),
    };
    number.checked_mul(seconds).map(Duration::from_secs).ok_or_else(|| "that is too long".into())
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Task::Run(options) => {
            report::panics_are_findings();
            run(&options)
        }
        Task::Soak(options) => {
            report::panics_are_findings();
            soak::soak(&options)
        }
        Task::Sweep(options) => sweep(&options),
    }
}

fn run(options: &RunOptions) -> ExitCode {
    if let Some(file) = &options.file {
        let text = std::fs::read_to_string(file).map_err(|error| error.to_string());
        return match text.and_then(|text| seed_file::parse(&text)) {
            Ok((scenario, rule)) => run_all(options, &mut core::iter::once(scenario), rule == Rule::C7),
            Err(error) => {
                say!("{}: {error}", file.display());
                ExitCode::FAILURE
            }
        };
    }
    let (from, to) = options.seed.map_or(options.seeds, |seed| (seed, seed.saturating_add(1)));
    run_all(options, &mut (from..to).map(|seed| Scenario::of_seed(seed, options.steps)), false)
}

fn run_all(options: &RunOptions, scenarios: &mut dyn Iterator<Item = Scenario>, twice: bool) -> ExitCode {
    let start = Instant::now();
    let mut total = Tally::default();
    let mut runs = 0;
    for scenario in scenarios {
        #[cfg(feature = "canaries")]
        let scenario = Scenario {
            planted: options.plant.map(remap_core::canary::Planted::with).unwrap_or_default(),
            ..scenario
        };
        if options.verbose {
            say!("{scenario:?}");
        }
        match shrink::verdict(&scenario, twice || scenario.seed.is_multiple_of(TWICE_EVERY)) {
            Ok(tally) => total.add(&tally),
            Err(failure) => return failed(options, &scenario, &failure),
        }
        runs += 1;
    }
    let seconds = start.elapsed().as_secs_f64();
    say!("{runs} seeds, {} steps each, {seconds:.1} s, no violation", options.steps);
    report::tell_tally(&total, seconds);
    if total.crashes() < options.least_crashes {
        say!("fewer than {} crashes", options.least_crashes);
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn failed(options: &RunOptions, scenario: &Scenario, failure: &Failure) -> ExitCode {
    say!("seed {}: {}", scenario.seed, failure.violation);
    let found = Found::shrink(scenario, failure, options.shrink_for);
    found.tell(options.transcript);
    say!("\nThis run as a file, for `remap-sim run --file` and for crates/remap-sim/tests/seeds:\n");
    say!("{}", found.text());
    match options.into.as_deref().map(|into| found.save(into)) {
        Some(Ok(path)) => say!("written to {}", path.display()),
        Some(Err(error)) => say!("not written: {error}"),
        None => {}
    }
    ExitCode::FAILURE
}

fn sweep(options: &sweep::Options) -> ExitCode {
    match options.run(&mut std::io::stdout()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(finding) => {
            say!("{finding}");
            ExitCode::FAILURE
        }
    }
}
