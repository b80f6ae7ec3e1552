//! The command line of `stress`.
//!
//! Invariant: a number that is out of range is refused with the range and the number.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::{DrillArg, IoArg, PolicyArg, drill_help};
use crate::open::SpareArg;
use crate::units::{parse_block_size, parse_size};

/// Load a volume, and verify every byte that comes back
///
/// Requests go through the same queues that serve clients, many at a time; each block that is written names itself and its version, so that one
/// that is stale, misplaced, torn or gone is found. While the load runs, blocks move to the spare and back. At the end all that was written is
/// read again, the volume is closed and opened, a sample is read once more, and the metadata are checked.
///
/// Without --main and --spare the commands make a sparse volume of their own and remove it afterwards. Exit code 9: a wrong byte, or an
/// error that no drill explains.
#[derive(Debug, Args)]
pub(crate) struct StressGroup {
    #[command(subcommand)]
    pub(crate) action: StressAction,
}

#[derive(Debug, Subcommand)]
pub(crate) enum StressAction {
    HighConcurrency(ConcurrencyArgs),
    TbScale(TbScaleArgs),
    Endurance(EnduranceArgs),
    Production(ProductionArgs),
}

/// Keep up to 10,000 operations in flight
///
/// 4 KiB at random, seven reads to three writes, shared by workers as the machine has processors for.
#[derive(Debug, Args)]
#[command(after_long_help = format!("\
Examples:
      dm-remap stress high-concurrency 5000 60
  With 50 bad places on the disk:
      dm-remap stress high-concurrency 1000 30 --bad 50 --json report.json

{}", drill_help()))]
pub(crate) struct ConcurrencyArgs {
    /// Operations in flight: 1 to 10000
    #[arg(value_parser = operations, allow_negative_numbers = true)]
    pub(crate) operations: u64,
    /// How long, in seconds: 1 to 86400
    #[arg(value_name = "SECONDS", value_parser = seconds, allow_negative_numbers = true)]
    pub(crate) seconds: u64,
    #[command(flatten)]
    pub(crate) area: AreaArg,
    #[command(flatten)]
    pub(crate) common: StressArgs,
}

/// Work on a data set of terabytes, and watch for regressions
///
/// The volume is sparse: of the data set only so much is written as there is room for (--room). Latency and throughput at the end are compared with
/// those at the beginning.
#[derive(Debug, Args)]
#[command(after_long_help = format!("\
Examples:
      dm-remap stress tb-scale 2000 10
  Fail if anything became worse by more than half:
      dm-remap stress tb-scale 500 5 --fail-above 50

{}", drill_help()))]
pub(crate) struct TbScaleArgs {
    /// Size of the data set in GiB: 1 to 16000
    #[arg(value_name = "DATASET-GB", value_parser = dataset, allow_negative_numbers = true)]
    pub(crate) dataset_gb: u64,
    /// How long, in minutes: up to 10080; 0.5 is half a minute
    #[arg(value_name = "MINUTES", value_parser = minutes, allow_negative_numbers = true)]
    pub(crate) minutes: Duration,
    #[command(flatten)]
    pub(crate) common: StressArgs,
}

/// Run for hours, and watch what must not grow
///
/// A mixed load. Memory, file descriptors, processor time for a request, slots of the spare in use: all are measured along the way, and in each of
/// twenty windows the metadata on the spare are compared with the table in use.
#[derive(Debug, Args)]
#[command(after_long_help = format!("\
Examples:
  Over night, as hard as it goes:
      dm-remap stress endurance 8 4 --bad 100
  Three minutes:
      dm-remap stress endurance 0.05 2

{}", drill_help()))]
pub(crate) struct EnduranceArgs {
    /// How long, in hours: up to 8760; 0.05 is three minutes
    #[arg(value_parser = hours, allow_negative_numbers = true)]
    pub(crate) hours: Duration,
    /// 1 light, 2 moderate, 3 heavy, 4 extreme
    #[arg(value_parser = intensity, allow_negative_numbers = true)]
    pub(crate) intensity: u32,
    #[command(flatten)]
    pub(crate) area: AreaArg,
    #[command(flatten)]
    pub(crate) common: StressArgs,
}

/// Work like a database, a file server, a host of virtual machines, or all of them
#[derive(Debug, Args)]
#[command(after_long_help = format!("\
Examples:
  A database, heavy, for two minutes:
      dm-remap stress production 0 3 2
  All of it, for half a minute, on a volume that holds nothing of use:
      dm-remap stress production 3 4 0.5 --main /dev/sdX --spare /dev/sdY1 --destroy

{}", drill_help()))]
pub(crate) struct ProductionArgs {
    /// 0 database, 1 file server, 2 virtualization, 3 mixed
    #[arg(value_parser = workload, allow_negative_numbers = true)]
    pub(crate) workload: u32,
    /// 1 light, 2 moderate, 3 heavy, 4 extreme
    #[arg(value_parser = intensity, allow_negative_numbers = true)]
    pub(crate) intensity: u32,
    /// How long, in minutes: up to 10080; 0.5 is half a minute
    #[arg(value_name = "MINUTES", value_parser = minutes, allow_negative_numbers = true)]
    pub(crate) minutes: Duration,
    #[command(flatten)]
    pub(crate) area: AreaArg,
    #[command(flatten)]
    pub(crate) common: StressArgs,
}

/// How much of a volume is used.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct AreaArg {
    /// Size of the volume that is made, or of the part of MAIN that is used
    #[arg(long, value_name = "SIZE", value_parser = area)]
    pub(crate) size: Option<u64>,
}

/// What all stress commands take.
#[derive(Clone, Debug, Args)]
pub(crate) struct StressArgs {
    /// The main device of a volume to use [default: a sparse file made for the run]
    #[arg(long, requires = "spares")]
    pub(crate) main: Option<PathBuf>,
    /// A spare of that volume; repeat for more
    #[arg(long = "spare", value_name = "PATH[@START[+LEN]]", requires = "main")]
    pub(crate) spares: Vec<SpareArg>,
    /// Write to the volume even if it holds data: all of it is lost
    #[arg(long, requires = "main")]
    pub(crate) destroy: bool,
    /// Make the volume in this folder [default: the system's temporary files]
    #[arg(long, value_name = "DIR", conflicts_with = "main")]
    pub(crate) folder: Option<PathBuf>,
    /// Most bytes that are written to different places [default: half of what is free, at most 8G]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub(crate) room: Option<u64>,
    /// Block size of the volume that is made: a power of two from 512 to 64K
    #[arg(long, value_name = "SIZE", default_value = "4K", value_parser = parse_block_size, conflicts_with = "main")]
    pub(crate) block_size: u32,
    /// Bad runs of 1 to 16 sectors on the main device: 1 to 10000
    #[arg(long, value_name = "N", value_parser = bad)]
    pub(crate) bad: Option<u32>,
    /// Make a device misbehave, as with `serve`: main:SPEC or spareN:SPEC; repeat for more
    #[arg(long = "drill", value_name = "DEVICE:SPEC")]
    pub(crate) drills: Vec<DrillArg>,
    /// Times a second that blocks are moved to the spare or back meanwhile: 0 to 1000
    #[arg(long, value_name = "N", default_value = "10", value_parser = moves)]
    pub(crate) moves: u32,
    /// Fail if latency or throughput became worse by more than so many percent
    #[arg(long, value_name = "PERCENT", value_parser = percent)]
    pub(crate) fail_above: Option<f64>,
    /// Seed of all that is drawn [default: the time]
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// Policy of this run, instead of the volume's own
    #[arg(long, value_enum)]
    pub(crate) policy: Option<PolicyArg>,
    /// How to talk to the kernel
    #[arg(long, value_enum, default_value_t)]
    pub(crate) io: IoArg,
    /// Write the report as JSON, too; `-`: to standard output, in place of the text
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Replace a JSON report that exists
    #[arg(long, requires = "json")]
    pub(crate) force: bool,
    /// Show no progress
    #[arg(long)]
    pub(crate) quiet: bool,
}

/// A whole number from `least` to `most`.
fn whole(text: &str, name: &str, least: u64, most: u64) -> Result<u64, String> {
    let number = text.parse().ok().filter(|number| (least..=most).contains(number));
    number.ok_or_else(|| format!("{name}: {least} to {most}, not {text}"))
}

fn operations(text: &str) -> Result<u64, String> {
    whole(text, "operations", 1, 10_000)
}

fn seconds(text: &str) -> Result<u64, String> {
    whole(text, "seconds", 1, 86_400)
}

fn dataset(text: &str) -> Result<u64, String> {
    whole(text, "dataset-gb", 1, 16_000)
}

/// Four choices are few enough for 32 bits.
fn choice(text: &str, name: &str, first: u32, words: &str) -> Result<u32, String> {
    let number = text.parse().ok().filter(|number| (first..first + 4).contains(number));
    number.ok_or_else(|| format!("{name}: {first} to {} ({words}), not {text}", first + 3))
}

fn workload(text: &str) -> Result<u32, String> {
    choice(text, "workload", 0, "database, file server, virtualization, mixed")
}

fn intensity(text: &str) -> Result<u32, String> {
    choice(text, "intensity", 1, "light, moderate, heavy, extreme")
}

fn bad(text: &str) -> Result<u32, String> {
    whole(text, "bad runs", 1, 10_000).map(|number| u32::try_from(number).unwrap_or(1))
}

fn moves(text: &str) -> Result<u32, String> {
    whole(text, "moves", 0, 1000).map(|number| u32::try_from(number).unwrap_or(0))
}

/// A time in units of so many seconds, of at least a second.
fn span(text: &str, name: &str, unit_s: f64, most: f64) -> Result<Duration, String> {
    let number = text.parse().ok().filter(|number: &f64| (1.0 / unit_s..=most).contains(number));
    let seconds = number.map(|number| Duration::from_secs_f64(number * unit_s));
    seconds.ok_or_else(|| format!("{name}: a second to {most} {name}, not {text}"))
}

fn minutes(text: &str) -> Result<Duration, String> {
    span(text, "minutes", 60.0, 10_080.0)
}

fn hours(text: &str) -> Result<Duration, String> {
    span(text, "hours", 3600.0, 8760.0)
}

fn percent(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number| (1.0..=1000.0).contains(number));
    number.ok_or_else(|| format!("percent: 1 to 1000, not {text}"))
}

fn area(text: &str) -> Result<u64, String> {
    let size = parse_size(text)?;
    if (16 << 20..=16_000 << 30).contains(&size) {
        Ok(size)
    } else {
        Err(format!("size: 16M to 16000G, not {text}"))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::super::{Cli, Command};
    use super::*;

    fn parse(line: &str) -> Result<StressAction, String> {
        let words = ["dm-remap", "stress"].into_iter().chain(line.split_whitespace());
        match Cli::try_parse_from(words) {
            Ok(Cli { command: Command::Stress(group) }) => Ok(group.action),
            Ok(other) => panic!("{other:?}"),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn every_bad_argument_is_told_with_its_range() {
        for (line, text) in [
            ("high-concurrency 20000 60", "operations: 1 to 10000, not 20000"),
            ("high-concurrency 0 60", "operations: 1 to 10000, not 0"),
            ("high-concurrency -5 60", "operations: 1 to 10000, not -5"),
            ("high-concurrency many 60", "operations: 1 to 10000, not many"),
            ("high-concurrency 10 0", "seconds: 1 to 86400, not 0"),
            ("high-concurrency 10 86401", "seconds: 1 to 86400, not 86401"),
            ("high-concurrency 10 1.5", "seconds: 1 to 86400, not 1.5"),
            ("tb-scale 0 1", "dataset-gb: 1 to 16000, not 0"),
            ("tb-scale 16001 1", "dataset-gb: 1 to 16000, not 16001"),
            ("tb-scale 1 0", "minutes: a second to 10080 minutes, not 0"),
            ("tb-scale 1 0.01", "minutes: a second to 10080 minutes, not 0.01"),
            ("tb-scale 1 nan", "minutes: a second to 10080 minutes, not nan"),
            ("endurance 0 1", "hours: a second to 8760 hours, not 0"),
            ("endurance -1 1", "hours: a second to 8760 hours, not -1"),
            ("endurance 9000 1", "hours: a second to 8760 hours, not 9000"),
            ("endurance 1 0", "intensity: 1 to 4 (light, moderate, heavy, extreme), not 0"),
            ("endurance 1 5", "intensity: 1 to 4 (light, moderate, heavy, extreme), not 5"),
            ("production 4 1 1", "workload: 0 to 3 (database, file server, virtualization, mixed), not 4"),
            ("production -1 1 1", "not -1"),
            ("production 0 0 1", "intensity: 1 to 4 (light, moderate, heavy, extreme), not 0"),
            ("production 0 1 20000", "minutes: a second to 10080 minutes, not 20000"),
            ("production 0 1 1 --bad 0", "bad runs: 1 to 10000, not 0"),
            ("production 0 1 1 --bad 10001", "bad runs: 1 to 10000, not 10001"),
            ("production 0 1 1 --moves 1001", "moves: 0 to 1000, not 1001"),
            ("production 0 1 1 --fail-above 0", "percent: 1 to 1000, not 0"),
            ("production 0 1 1 --size 1M", "size: 16M to 16000G, not 1M"),
            ("production 0 1 1 --drill disk:rate=1", "'disk' is not a device for a drill"),
            ("production 0 1 1 --main a", "--spare"),
            ("production 0 1 1 --spare a", "--main"),
            ("production 0 1 1 --destroy", "--main"),
            ("production 0 1 1 --main a --spare b --folder c", "--folder"),
            ("production 0 1 1 --force", "--json"),
            ("production 0 1", "<MINUTES>"),
            ("high-concurrency", "<OPERATIONS>"),
        ] {
            let error = parse(line).expect_err(line);
            assert!(error.contains(text), "{line}: {error}");
        }
    }

    #[test]
    fn fractions_of_hours_and_minutes() {
        let Ok(StressAction::Endurance(args)) = parse("endurance 0.05 4") else { panic!("it parses") };
        assert_eq!((args.hours, args.intensity), (Duration::from_secs(180), 4));
        let Ok(StressAction::Production(args)) = parse("production 3 3 0.5 --bad 50") else {
            panic!("it parses")
        };
        assert_eq!((args.minutes, args.common.bad), (Duration::from_secs(30), Some(50)));
        let Ok(StressAction::TbScale(args)) = parse("tb-scale 16000 10080 --json -") else {
            panic!("it parses")
        };
        assert_eq!(args.common.json, Some(PathBuf::from("-")));
        assert!(parse("high-concurrency 10000 86400").is_ok());
    }
}
