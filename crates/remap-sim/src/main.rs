//! `remap-sim`: runs seeds and says what they did, or what they broke.

use std::process::ExitCode;
use std::time::Instant;

use clap::{Parser, Subcommand};
use remap_sim::scenario::Scenario;
use remap_sim::sweep;
use remap_sim::world::{self, Tally};

#[derive(Parser)]
#[command(about = "Deterministic simulation of dm-remap", version)]
struct Cli {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Run random scenarios
    Run {
        /// First seed and one past the last, as A..B
        #[arg(long, value_parser = parse_range, default_value = "0..1000", conflicts_with = "seed")]
        seeds: (u64, u64),
        /// Only this seed
        #[arg(long)]
        seed: Option<u64>,
        /// Steps in each scenario
        #[arg(long, default_value_t = 3000)]
        steps: u64,
        /// Print each seed's scenario
        #[arg(long, short)]
        verbose: bool,
        /// Events in the transcript of a failure
        #[arg(long, default_value_t = 100)]
        transcript: usize,
    },
    /// Try all that can go wrong in short scripted lives, within stated bounds
    Sweep(sweep::Options),
}

fn parse_range(text: &str) -> Result<(u64, u64), String> {
    let (from, to) = text.split_once("..").ok_or("write a range of seeds as A..B")?;
    let number = |s: &str| s.parse::<u64>().map_err(|e| format!("'{s}': {e}"));
    let range = (number(from)?, number(to)?);
    if range.0 < range.1 { Ok(range) } else { Err("the range is empty".into()) }
}

/// Prints a line; a reader that went away wants no more of them.
macro_rules! say {
    ($($line:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stdout(), $($line)*);
    }};
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Task::Run { seeds, seed, steps, verbose, transcript } => {
            let (from, to) = seed.map_or(seeds, |seed| (seed, seed.saturating_add(1)));
            run(from, to, steps, verbose, transcript)
        }
        Task::Sweep(options) => sweep(&options),
    }
}

fn run(from: u64, to: u64, steps: u64, verbose: bool, transcript: usize) -> ExitCode {
    let start = Instant::now();
    let mut total = Tally::default();
    for seed in from..to {
        let mut scenario = Scenario::of_seed(seed, steps);
        if verbose {
            say!("{scenario:?}");
        }
        let outcome = world::run(&scenario);
        match outcome {
            Ok(tally) => total.add(&tally),
            Err((violation, _)) => {
                scenario.transcript = transcript;
                // The same seed is the same run: this time with words.
                let lines = world::run(&scenario).err().map(|(_, lines)| lines).unwrap_or_default();
                for line in lines {
                    say!("{line}");
                }
                say!("seed {seed}: {violation}");
                say!("repeat with: remap-sim run --seed {seed} --steps {steps}");
                return ExitCode::FAILURE;
            }
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    say!("{} seeds, {steps} steps each, {seconds:.1} s, no violation", to - from);
    say!(
        "{} crashes ({:.0}/s), {} operations ({:.0}/s), {} sectors checked",
        total.crashes,
        total.crashes as f64 / seconds,
        total.operations,
        total.operations as f64 / seconds,
        total.sectors_checked
    );
    say!(
        "{} requests ({} failed), {} pending, {} remapped, {} healed, {} cleared, {} slots retired",
        total.requests,
        total.failed_requests,
        total.pendings,
        total.remaps,
        total.heals,
        total.clears,
        total.retired
    );
    say!(
        "{} checkpoints, {} breaker trips, {} freezes, {} copy failures, {} copies rotten, hash {:016x}",
        total.checkpoints,
        total.trips,
        total.freezes,
        total.copy_failures,
        total.rotten,
        total.hash
    );
    ExitCode::SUCCESS
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
