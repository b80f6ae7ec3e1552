//! `remap-bench`: what dm-remap costs, beside what a user would pick instead. Started by `cargo xtask bench`.
//!
//! Invariant: it writes to files of its own and to nothing else; what it could not measure it names; no figure stands
//! without the load of the machine at that time.

mod check;
mod contender;
mod fio;
mod floor;
mod ground;
mod groups;
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
use crate::groups::{Common, GROUPS, Group};
use crate::load::{CELLS, Cell, SETS};
use crate::record::{Results, SCHEMA_VERSION};
use crate::rounds::Effort;

/// What stands for all cells where names are given.
const TABLE: &str = "table";
/// Where files in memory are.
const MEMORY: &str = "/dev/shm";

#[derive(Parser)]
#[command(name = "cargo xtask bench", about = "Measure dm-remap against what a user would pick instead")]
#[command(args_conflicts_with_subcommands = true, after_long_help = names())]
struct Cli {
    #[command(flatten)]
    bench: BenchArgs,
    #[command(subcommand)]
    part: Option<Part>,
}

#[derive(Args)]
struct BenchArgs {
    /// Fewer cells, short runs, a small device: to see that everything works
    #[arg(long)]
    quick: bool,
    /// Only these cells, sets of cells and groups [default: all]; `--help` lists them
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    only: Vec<String>,
    /// Rounds [default: 5, or 2 if quick]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: Option<u32>,
    /// Seconds of each run of a load [default: 2, or 1 if quick]
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
    /// Serve so many volumes of a folder in one process, until killed
    #[command(hide = true)]
    Host { folder: PathBuf, volumes: usize },
    /// Run a piece of the product a number of times, for its instructions to be counted
    #[command(hide = true)]
    Piece { name: String, turns: u64 },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match &cli.part {
        Some(Part::Floor { socket, file }) => floor::serve(socket, file).map(|()| true),
        Some(Part::Resident { remaps }) => micro::resident(*remaps).map(|()| true),
        Some(Part::Host { folder, volumes }) => groups::host(folder, *volumes).map(|()| true),
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

/// All that `--only` takes, as the help lists it.
fn names() -> String {
    let list = |out: &mut String, name: &str, about: &str| *out += &format!("  {name:<14} {about}\n");
    let mut out = "Cells, in turns with every rival that is installed:\n".to_owned();
    CELLS.iter().for_each(|cell| list(&mut out, cell.name, cell.about));
    out += "\nSets of them:\n";
    list(&mut out, TABLE, "all of them");
    for set in SETS {
        let of = CELLS.iter().filter(|cell| cell.belongs_to(set)).map(|cell| cell.name);
        list(&mut out, set, &of.collect::<Vec<_>>().join(", "));
    }
    out += "\nGroups:\n";
    GROUPS.iter().for_each(|group| list(&mut out, group.name, group.about));
    out
}

/// Measures and reports; false when something is worse than it was.
fn bench(args: &BenchArgs) -> anyhow::Result<bool> {
    let choice = Choice::of(args)?;
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
    let product = ground::product()?;
    let places = [(Place::Tmpfs, Some(Path::new(MEMORY))), (Place::Disk, args.disk.as_deref())];
    for (place, folder) in places {
        let Some(folder) = folder.filter(|_| !choice.cells.is_empty()) else { continue };
        measure(place, folder, &choice.cells, args, &stop, &mut results)?;
    }
    let effort = effort(args);
    let common = Common {
        quick: args.quick,
        rounds: effort.rounds,
        seconds: effort.seconds,
        memory: Path::new(MEMORY),
        disk: args.disk.as_deref(),
        product: &product,
        stop: &stop,
    };
    // What was measured is not lost with what could not be.
    let mut failed = false;
    for group in &choice.groups {
        match groups::measure(group, &common) {
            Ok(measured) => results.groups.extend(measured),
            Err(error) => {
                eprintln!("remap-bench: {error:#}");
                failed = true;
            }
        }
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
    Ok(baseline.is_none_or(|before| not_worse(&before, &results)) && !failed)
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
    let size = args.size.unwrap_or(if args.quick { 512 } else { 4096 }) << 20;
    let remaps = args.remaps.unwrap_or(if args.quick { 10_000 } else { 100_000 });
    eprintln!("{}: making the files, moving {remaps} blocks", place.name());
    let ground = Ground::lay(place, folder, size, remaps)?;
    let (contenders, missing) = contender::all(&ground);
    results.missing = missing.iter().map(|m| (m.name.to_owned(), m.package.to_owned())).collect();
    results.places.push(rounds::run(&ground, &contenders, cells, effort(args), stop)?);
    Ok(())
}

fn effort(args: &BenchArgs) -> Effort {
    let or = |given: Option<u32>, short, long| given.unwrap_or(if args.quick { short } else { long });
    Effort { rounds: or(args.rounds, 2, 5), seconds: or(args.seconds, 1, 2) }
}

/// What was asked for.
struct Choice {
    cells: Vec<&'static Cell>,
    groups: Vec<&'static Group>,
}

impl Choice {
    /// # Errors
    /// A name that there is not.
    fn of(args: &BenchArgs) -> anyhow::Result<Self> {
        let only = |name: &str| args.only.iter().any(|wanted| wanted == name);
        let known = |name: &str| {
            let cell = CELLS.iter().any(|cell| cell.name == name);
            cell || name == TABLE || SETS.contains(&name) || GROUPS.iter().any(|group| group.name == name)
        };
        if let Some(unknown) = args.only.iter().find(|name| !known(name)) {
            let cells = CELLS.iter().map(|cell| cell.name);
            let groups = GROUPS.iter().map(|group| group.name);
            let all: Vec<&str> = cells.chain([TABLE]).chain(SETS).chain(groups).collect();
            bail!("nothing is called `{unknown}`; there are {}", all.join(", "));
        }
        let all = args.only.is_empty();
        let wanted = |cell: &&Cell| {
            let in_set = SETS.into_iter().any(|set| only(set) && cell.belongs_to(set));
            (only(cell.name) || in_set) || ((all || only(TABLE)) && (cell.quick || !args.quick))
        };
        Ok(Self {
            cells: CELLS.iter().filter(wanted).collect(),
            groups: GROUPS.iter().filter(|group| all || only(group.name)).collect(),
        })
    }
}

/// As a person typed it.
fn command_line() -> String {
    let args: Vec<String> = std::env::args().skip(1).collect();
    ["cargo xtask bench", &args.join(" ")].join(" ").trim().to_owned()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn choice(args: &[&str]) -> anyhow::Result<Choice> {
        let cli = Cli::try_parse_from([&["bench"], args].concat())?;
        Choice::of(&cli.bench)
    }

    fn found(args: &[&str]) -> Vec<&'static str> {
        let choice = choice(args).expect("names that there are");
        choice.cells.iter().map(|c| c.name).chain(choice.groups.iter().map(|g| g.name)).collect()
    }

    #[test]
    fn every_name_stands_for_itself_and_is_in_the_help() {
        let help = Cli::command().render_long_help().to_string();
        let cells = CELLS.iter().map(|cell| cell.name);
        for name in cells.chain(GROUPS.iter().map(|group| group.name)) {
            assert_eq!(found(&["--only", name]), [name]);
            assert!(help.contains(&format!("\n  {name} ")), "{name} is not in the help");
        }
        for set in SETS.into_iter().chain([TABLE]) {
            assert!(found(&["--only", set]).len() > 1);
            assert!(help.contains(&format!("\n  {set} ")), "{set} is not in the help");
        }
    }

    #[test]
    fn without_names_it_is_all_and_a_short_run_leaves_no_group_out() {
        assert_eq!(found(&[]).len(), CELLS.len() + GROUPS.len());
        let quick = choice(&["--quick"]).expect("all");
        assert_eq!(quick.groups.len(), GROUPS.len());
        assert!(quick.cells.len() > 5 && quick.cells.len() < CELLS.len());
        assert_eq!(found(&["--quick", "--only", "rw-q1,commit"]), ["rw-q1", "commit"]);
    }

    #[test]
    fn an_unknown_name_is_told_with_those_that_there_are() {
        let error = choice(&["--only", "rr-q2"]).err().expect("no such cell").to_string();
        assert!(error.contains("`rr-q2`") && error.contains("rr-q1,") && error.contains("storm"), "{error}");
    }
}
