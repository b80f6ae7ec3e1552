//! `remap-chaos`: real servers on real files, killed at random under load, and a log of every sector that says what may be
//! there afterwards. Beside that, what the guest scripts of the kernel target need for the same: logs of writes, cut anywhere, and changes
//! whose every outcome is known.
//!
//! Invariant: the schedule of a run (drills, kills, damage, requests) follows from its seed; a run that finds a violation
//! says what was allowed and keeps its images, and every other run leaves nothing behind.

mod bench;
mod chain;
mod damage;
mod fs;
mod golden;
mod log_writes;
mod model;
mod needs;
mod plan;
mod raw;
mod sectors;
mod server;
mod steps;
mod tool;
mod versions;
mod writer;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::bench::Tally;
use crate::plan::Pace;

#[derive(Parser)]
#[command(about = "Kills dm-remap servers under load and checks every sector", version)]
struct Cli {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Kill and check
    Run(RunArgs),
    /// Logs of device-mapper's log-writes: what a power cut would leave
    #[command(subcommand)]
    LogWrites(log_writes::Task),
    /// Changes in steps, and what may be there after a power cut
    #[command(subcommand)]
    Steps(steps::Task),
    /// Write the spare that the format's tests keep to a device
    Golden {
        /// Device or file, of 3 MiB at least
        device: PathBuf,
    },
}

/// What the server is killed under.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Target {
    /// NBD clients straight on the export
    Raw,
    /// A file system, mounted through nbdkit's retry filter, nbdfuse and a loop device
    Ext4,
    /// The same
    Xfs,
    /// The same
    Btrfs,
}

/// What a kill leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Cache {
    /// Everything that the server had written
    None,
    /// What was flushed; of the rest some, in part and in any order
    Volatile,
}

#[derive(Args)]
struct RunArgs {
    /// What to kill under, one after the other
    #[arg(long, value_enum, value_delimiter = ',', default_value = "raw,ext4,xfs,btrfs")]
    on: Vec<Target>,
    /// With which cache, one after the other
    #[arg(long, value_enum, value_delimiter = ',', default_value = "none,volatile")]
    cache: Vec<Cache>,
    /// Kills of each combination
    #[arg(long, default_value_t = 100)]
    kills: u64,
    /// Fewer kills of a combination if they take longer than so many seconds
    #[arg(long, value_name = "SECONDS")]
    at_most: Option<u64>,
    /// What the schedule follows from
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Load between two kills, in seconds, as A..B
    #[arg(long, value_parser = plan::parse_pace, default_value = "0.2..1.5")]
    seconds_between: Pace,
    /// The binary under test [default: dm-remap beside this program]
    #[arg(long)]
    server: Option<PathBuf>,
    /// Folder for images [default: the system's, for temporary files]
    #[arg(long)]
    folder: Option<PathBuf>,
    /// Say what is done in each life
    #[arg(long, short)]
    verbose: bool,
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Task::Run(args) => run(&args),
        Task::LogWrites(task) => log_writes::run(&task).map(|()| true),
        Task::Steps(task) => steps::run(&task).map(|()| true),
        Task::Golden { device } => golden::write(&device).map(|()| true),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("remap-chaos: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs every combination; false when one found a violation.
fn run(args: &RunArgs) -> anyhow::Result<bool> {
    let program = server::program(args.server.as_deref())?;
    let mut good = true;
    for &target in &args.on {
        if let Some(missing) = fs::Kind::of(target).and_then(|kind| needs::missing(&kind.needs())) {
            good &= needs::skip(target_name(target), &missing)?;
            continue;
        }
        for &cache in &args.cache {
            let setup = bench::Setup {
                program: program.clone(),
                folder: args.folder.clone(),
                volatile: cache == Cache::Volatile,
                kills: args.kills,
                until: args.at_most.map(|seconds| Instant::now() + Duration::from_secs(seconds)),
                seed: args.seed,
                pace: args.seconds_between,
                verbose: args.verbose,
            };
            let begin = Instant::now();
            let outcome = match fs::Kind::of(target) {
                None => raw::run(&setup),
                Some(kind) => fs::run(kind, &setup),
            };
            let name = format!("{}, cache {}", target_name(target), cache_name(cache));
            good &= report(&name, &outcome?, begin.elapsed().as_secs_f64(), &setup);
        }
    }
    Ok(good)
}

fn target_name(target: Target) -> &'static str {
    match target {
        Target::Raw => "raw",
        Target::Ext4 => "ext4",
        Target::Xfs => "xfs",
        Target::Btrfs => "btrfs",
    }
}

fn cache_name(cache: Cache) -> &'static str {
    match cache {
        Cache::None => "none",
        Cache::Volatile => "volatile",
    }
}

fn report(name: &str, outcome: &bench::Outcome, seconds: f64, setup: &bench::Setup) -> bool {
    let Tally { kills, at_start, stops, damaged, troubled, .. } = outcome.tally;
    let Tally { writes, flushes, verified, lost_reads, remapped, lost, checks, .. } = outcome.tally;
    println!(
        "{name}: {kills} kills ({at_start} while starting), {stops} clean stops, {damaged} metadata copies damaged between \
         lives, {troubled} lives with a device in trouble"
    );
    println!(
        "    {writes} writes, {flushes} flushes, {verified} sectors verified ({lost_reads} of them lost), {checks} checks of \
         the whole; {remapped} blocks on the spare and {lost} sectors lost at the end"
    );
    println!(
        "    {} violations, {seconds:.0} s, {:.0} kills a minute, seed {}",
        outcome.violations.len(),
        60.0 * kills as f64 / seconds,
        setup.seed
    );
    for violation in &outcome.violations {
        println!("VIOLATION {violation}");
    }
    if let Some(kept) = &outcome.kept {
        println!("images, lists of bad sectors and the server's log are kept in {}", kept.display());
    }
    outcome.violations.is_empty()
}
