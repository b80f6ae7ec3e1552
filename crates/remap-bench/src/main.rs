//! `remap-bench`: what dm-remap costs, beside what a user would pick instead. Started by `cargo xtask bench`.
//!
//! Invariant: it writes to files of its own and to nothing else; what it could not measure it names; no figure stands
//! without the load of the machine at that time.

mod check;
mod contender;
mod floor;
mod ground;
mod instructions;
mod load;
mod machine;
mod micro;
mod needs;
mod plots;
mod proc;
mod record;
mod report;
mod rounds;
mod scatter;
mod server;
mod stats;
mod svg;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Context as _, bail};
use clap::{Args, Parser, Subcommand};

use crate::ground::{Ground, Place};
use crate::load::{CELLS, Cell};
use crate::record::{Results, SCHEMA_VERSION};
use crate::rounds::Effort;

/// What stands for the parts of the product where cells are named.
const PARTS: &str = "parts";
/// Where files in memory are.
const MEMORY: &str = "/dev/shm";

#[derive(Parser)]
#[command(name = "cargo xtask bench", about = "Measure dm-remap against what a user would pick instead")]
#[command(args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(flatten)]
    bench: BenchArgs,
    #[command(subcommand)]
    part: Option<Part>,
}

#[derive(Args)]
struct BenchArgs {
    /// Few cells, short runs, a small device: to see that everything works
    #[arg(long)]
    quick: bool,
    /// Only these cells; `parts` is the parts of the product, each alone
    #[arg(long, value_delimiter = ',', value_name = "CELL")]
    only: Vec<String>,
    /// Rounds [default: 5, or 2 if quick]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: Option<u32>,
    /// Seconds of each run of fio [default: 3, or 1 if quick]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=3600))]
    seconds: Option<u32>,
    /// Size of the main device, in MiB [default: 4096, or 512 if quick]
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(16..=1 << 20))]
    size: Option<u64>,
    /// Scattered remaps of our second volume [default: 100000, or 10000 if quick]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=1 << 24))]
    remaps: Option<u64>,
    /// Measure on a disk too, past the page cache: in this folder, which must have room
    #[arg(long, value_name = "FOLDER")]
    disk: Option<PathBuf>,
    /// Write everything to this file too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Draw charts into this folder
    #[arg(long, value_name = "FOLDER")]
    plots: Option<PathBuf>,
    /// Compare the ratios with those of an earlier run (what its --json wrote); fail if one is worse by more than the noise
    #[arg(long, value_name = "BASELINE.json")]
    check: Option<PathBuf>,
    /// Only count the instructions of small pieces, and compare with the counts in the tree
    #[arg(long)]
    instructions: bool,
    /// Put the counts of this run in their place
    #[arg(long, requires = "instructions")]
    bless: bool,
}

#[derive(Subcommand)]
enum Part {
    /// Serve a file by the server that does nothing else, until killed
    #[command(hide = true)]
    Floor { socket: PathBuf, file: PathBuf },
    /// Print by how many bytes a process grows that makes a table
    #[command(hide = true)]
    Resident { remaps: u64 },
    /// Run a piece of the product a number of times, for its instructions to be counted
    #[command(hide = true)]
    Piece { name: String, turns: u64 },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match &cli.part {
        Some(Part::Floor { socket, file }) => floor::serve(socket, file).map(|()| true),
        Some(Part::Resident { remaps }) => micro::resident(*remaps).map(|()| true),
        Some(Part::Piece { name, turns }) => instructions::piece(name, *turns).map(|()| true),
        None if cli.bench.instructions => instructions::check(cli.bench.bless),
        None => bench(&cli.bench),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("remap-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Measures and reports; false when something is worse than it was.
fn bench(args: &BenchArgs) -> anyhow::Result<bool> {
    let cells = cells(args)?;
    // Read first: a file that is not there must not be found missing after an hour.
    let baseline = args.check.as_deref().map(baseline).transpose()?;
    // An interrupt must not leave gigabytes in memory: the run ends after the measurement under way.
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop)).context("signals")?;
    }
    let mut results = Results {
        schema_version: SCHEMA_VERSION,
        command: command_line(),
        machine: machine::describe(),
        ..Results::default()
    };
    let places = [(Place::Tmpfs, Some(Path::new(MEMORY))), (Place::Disk, args.disk.as_deref())];
    for (place, folder) in places {
        let Some(folder) = folder.filter(|_| !cells.is_empty()) else { continue };
        measure(place, folder, &cells, args, &stop, &mut results)?;
    }
    if args.only.is_empty() || args.only.iter().any(|name| name == PARTS) {
        results.micro = micro::run(args.quick, &stop)?;
    }
    results.machine.load_after = proc::load();
    print!("{}", report::text(&results));
    if let Some(path) = &args.json {
        let text = serde_json::to_string_pretty(&results).context("the results as JSON")?;
        fs::write(path, text + "\n").with_context(|| format!("writing {}", path.display()))?;
    }
    if let Some(folder) = &args.plots {
        plots::write(&results, folder)?;
    }
    Ok(baseline.is_none_or(|before| not_worse(&before, &results)))
}

fn baseline(path: &Path) -> anyhow::Result<Results> {
    let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    let before: Results = serde_json::from_str(&text).with_context(|| format!("{}", path.display()))?;
    if before.schema_version != SCHEMA_VERSION {
        bail!("{}: version {}, not {SCHEMA_VERSION}", path.display(), before.schema_version);
    }
    Ok(before)
}

/// Compares and says so; false when something is worse, or nothing could be compared.
fn not_worse(before: &Results, now: &Results) -> bool {
    let verdict = check::compare(before, now);
    verdict.unjudged.iter().for_each(|line| println!("not judged: {line}"));
    verdict.worse.iter().for_each(|line| println!("WORSE: {line}"));
    let (good, worse) = (verdict.good, verdict.worse.len());
    println!(
        "against the baseline: {good} within bounds, {worse} worse, {} not judged",
        verdict.unjudged.len()
    );
    good > 0 && worse == 0
}

fn measure(
    place: Place,
    folder: &Path,
    cells: &[&Cell],
    args: &BenchArgs,
    stop: &AtomicBool,
    results: &mut Results,
) -> anyhow::Result<()> {
    let or = |given: Option<u32>, short, long| given.unwrap_or(if args.quick { short } else { long });
    let size = args.size.unwrap_or(if args.quick { 512 } else { 4096 }) << 20;
    let remaps = args.remaps.unwrap_or(if args.quick { 10_000 } else { 100_000 });
    eprintln!("{}: making the files, moving {remaps} blocks", place.name());
    let ground = Ground::lay(place, folder, size, remaps)?;
    let (contenders, missing) = contender::all(&ground);
    results.missing = missing.iter().map(|m| (m.name.to_owned(), m.package.to_owned())).collect();
    let effort = Effort { rounds: or(args.rounds, 2, 5), seconds: or(args.seconds, 1, 3) };
    results.places.push(rounds::run(&ground, &contenders, cells, effort, stop)?);
    Ok(())
}

/// The cells that were asked for.
fn cells(args: &BenchArgs) -> anyhow::Result<Vec<&'static Cell>> {
    let known = |name: &&String| **name == PARTS || CELLS.iter().any(|cell| cell.name == **name);
    if let Some(unknown) = args.only.iter().find(|name| !known(name)) {
        bail!("no cell `{unknown}`; there are {}, {PARTS}", CELLS.map(|cell| cell.name).join(", "));
    }
    let wanted = |cell: &&Cell| match args.only.as_slice() {
        [] => cell.quick || !args.quick,
        only => only.iter().any(|name| name == cell.name),
    };
    Ok(CELLS.iter().filter(wanted).collect())
}

/// As a person typed it.
fn command_line() -> String {
    let args: Vec<String> = std::env::args().skip(1).collect();
    ["cargo xtask bench", &args.join(" ")].join(" ").trim().to_owned()
}
