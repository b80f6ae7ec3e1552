//! The command line: every command and option, defined once.
//!
//! Invariant: what parses here is complete and plausible; only what needs a look at a device is refused later.

mod metadata;
mod shared;
mod stock;
mod stress;
mod values;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

pub(crate) use metadata::{
    MetadataAction, MetadataAnalyzeArgs, MetadataArgs, MetadataCheckArgs, MetadataCompareArgs,
    MetadataDumpArgs, MetadataGenerationsArgs, MetadataRepairArgs, MetadataRestoreArgs, MetadataRollbackArgs,
    Moment,
};
pub(crate) use shared::NewSparesArg;
pub(crate) use stock::{
    StockAction, StockArgs, StockAssembleArgs, StockRemoveArgs, StockServeArgs, StockVolumeArgs,
};
pub(crate) use stress::{StressAction, StressArgs, StressGroup};
pub(crate) use values::{
    DrillArg, DrillTarget, DumpFormat, ExportFormat, IoArg, MapFormat, PolicyArg, Statuses, parse_name,
};

use self::shared::{JsonArg, OutputArg, SparesArg};
use crate::exit;
use crate::open::SpareArg;
use crate::units::{parse_block_size, parse_duration, parse_size};
use crate::wire::TRACE_SECONDS_MAX;

/// Keeps a failing disk in service: remaps bad blocks to a spare
///
/// dm-remap serves a failing disk (the main device) through a thin, crash-safe mapping and keeps the few blocks that went
/// bad on a spare: a partition, a file, another disk. It is put in place without writing to the main device, and taken
/// away again at any time. A sector that no device holds reads as an error until it is overwritten: never as zeroes.
///
/// If you can replace the disk, replace it. This buys time and keeps evidence; it cures nothing.
#[derive(Debug, Parser)]
#[command(
    name = "dm-remap",
    version,
    propagate_version = true,
    after_help = exit::help_text(),
    after_long_help = format!("{EXAMPLES}\n\n{}", exit::help_text()),
    max_term_width = 100
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXAMPLES: &str = "\
Examples:
  See it work, with nothing installed and nothing at risk:
      dm-remap demo
  Put a failing disk behind dm-remap, with a file as spare:
      dm-remap adopt /dev/sdb --spare /var/lib/sdb.spare --create-spare 1G
      dm-remap serve /dev/sdb --spare /var/lib/sdb.spare
  See how it is, and what to do:
      dm-remap status sdb";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Adopt(AdoptArgs),
    Serve(ServeArgs),
    Stock(StockArgs),
    Status(StatusArgs),
    Trace(TraceArgs),
    Message(MessageArgs),
    Map(MapArgs),
    Metadata(MetadataArgs),
    Release(ReleaseArgs),
    Demo(DemoArgs),
    Stress(StressGroup),
    #[command(hide = true)]
    GenerateMan(GenerateManArgs),
    #[command(hide = true)]
    GenerateCompletions(GenerateCompletionsArgs),
    #[command(hide = true)]
    GenerateUnits(GenerateUnitsArgs),
}

/// Make a volume of a main device and its spares
///
/// Writes the metadata to the spares and nothing to the main device: its bytes stay as they are, and it can be used
/// without dm-remap until the first block has moved.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  A file as spare, made here:
      dm-remap adopt /dev/sdb --spare /var/lib/sdb.spare --create-spare 1G
  A part of another disk: 4 GiB from 100 GiB on:
      dm-remap adopt /dev/sdb --spare /dev/sdc@100G+4G
  A disk image rescued with GNU ddrescue: what could not be read is known to be lost:
      dm-remap adopt disk.img --spare spare.img --create-spare 64M --map disk.map
  Only look whether it would work:
      dm-remap adopt /dev/sdb --spare /dev/sdc1 --dry-run")]
pub(crate) struct AdoptArgs {
    /// The failing disk, partition or image
    pub(crate) main: PathBuf,
    /// Where bad blocks go: PATH, or PATH@START[+LENGTH] for a part of it; repeat for more
    #[arg(long = "spare", value_name = "PATH[@START[+LEN]]", required = true)]
    pub(crate) spares: Vec<SpareArg>,
    /// Name of the volume [default: the last part of MAIN]
    #[arg(long, value_parser = parse_name)]
    pub(crate) name: Option<String>,
    /// Unit in which blocks move: a power of two from 512 to 64K
    #[arg(long, value_name = "SIZE", default_value = "4K", value_parser = parse_block_size)]
    pub(crate) block_size: u32,
    /// What to do when a bad block is overwritten
    #[arg(long, value_enum, default_value_t)]
    pub(crate) policy: PolicyArg,
    /// List of sectors known to be lost (ddrescue map, badblocks list or sectors)
    #[arg(long, value_name = "FILE")]
    pub(crate) map: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) map_form: MapForm,
    /// Make spares that do not exist as files of this size
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub(crate) create_spare: Option<u64>,
    /// Overwrite spares that hold something
    #[arg(long)]
    pub(crate) force: bool,
    /// Check everything, write nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// How a list of bad sectors is to be read.
#[derive(Clone, Debug, Args)]
pub(crate) struct MapForm {
    /// Format of the list
    #[arg(long = "map-format", visible_alias = "format", value_enum, default_value_t)]
    pub(crate) format: MapFormat,
    /// Block size that badblocks was run with
    #[arg(long, value_name = "SIZE", value_parser = parse_block_size)]
    pub(crate) map_block_size: Option<u32>,
    /// Statuses of a ddrescue map that mean lost: - bad, * not trimmed, / not scraped, ? not tried
    #[arg(long, default_value = "-*/?", allow_hyphen_values = true)]
    pub(crate) statuses: Statuses,
}

const SERVE_EXAMPLES: &str = "\
Examples:
  Serve, then attach from another terminal (as root, or with any NBD client):
      dm-remap serve /dev/sdb --spare /var/lib/sdb.spare
      nbd-client -unix /run/dm-remap/sdb.nbd /dev/nbd0
      qemu-img convert 'nbd+unix:///sdb?socket=/run/dm-remap/sdb.nbd' copy.img
  Look at what is there without changing anything anywhere:
      dm-remap serve /dev/sdb --spare /var/lib/sdb.spare --read-only
  A drill: a healthy image that behaves like a failing disk:
      dm-remap serve disk.img --spare spare.img --drill 'main:bad=sectors:100-199;4711'

Sockets that a service manager hands over (LISTEN_FDS) take the place of the Unix socket, and
NOTIFY_SOCKET is told when clients may come.";

/// The keys of a drill, from the one place that knows them.
fn drill_help() -> String {
    let mut text = String::from("Drills are DEVICE:KEY=VALUE,KEY=VALUE,... with these keys:");
    for (key, meaning) in remap_io::drill::KEYS {
        text += &format!("\n  {key:<12} {meaning}");
    }
    text
}

/// Serve a volume over NBD, with remapping
///
/// Assembles the volume from its main device and its spares (in any order) and exports it, until SIGTERM or SIGINT. Every
/// acknowledged write survives a crash of the server: just start it again. News go to standard error, one line each.
#[derive(Debug, Args)]
#[command(after_long_help = format!("{SERVE_EXAMPLES}\n\n{}", drill_help()))]
pub(crate) struct ServeArgs {
    /// The main device
    pub(crate) main: PathBuf,
    /// A spare of the volume: PATH, or PATH@START[+LENGTH]; repeat for more
    #[arg(long = "spare", value_name = "PATH[@START[+LEN]]", required = true)]
    pub(crate) spares: Vec<SpareArg>,
    /// Unix socket for clients [default: NAME.nbd in $XDG_RUNTIME_DIR/dm-remap or /run/dm-remap]
    #[arg(long, value_name = "PATH")]
    pub(crate) unix: Option<PathBuf>,
    /// TCP address for clients, on this machine only
    #[arg(long, value_name = "ADDRESS:PORT", num_args = 0..=1, default_missing_value = "127.0.0.1:10809")]
    pub(crate) tcp: Option<SocketAddr>,
    /// Serve the one client on standard input and output
    #[arg(long, conflicts_with_all = ["unix", "tcp"])]
    pub(crate) stdio: bool,
    /// Socket for status and message [default: next to the Unix socket, as NAME.control]
    #[arg(long, value_name = "PATH")]
    pub(crate) control: Option<PathBuf>,
    /// Refuse writes; write nothing anywhere
    #[arg(long)]
    pub(crate) read_only: bool,
    /// Policy of this run, instead of the volume's own
    #[arg(long, value_enum)]
    pub(crate) policy: Option<PolicyArg>,
    /// Make a device misbehave: main:SPEC, or spareN:SPEC (as the spares are given, from 0); repeat for more
    #[arg(long = "drill", value_name = "DEVICE:SPEC")]
    pub(crate) drills: Vec<DrillArg>,
    /// Time that an operation of a device may take
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse_duration)]
    pub(crate) deadline: Duration,
    /// Most blocks that may be remapped [default: as many as fit]
    #[arg(long, value_name = "N")]
    pub(crate) max_remaps: Option<u64>,
    /// How to talk to the kernel
    #[arg(long, value_enum, default_value_t)]
    pub(crate) io: IoArg,
    /// While requests and completions come one soon after the other, look so long for the next before sleeping, at most 1000
    /// (with eight or more requests in flight 20 times as long, to 1000); 0: never
    #[arg(long, value_name = "MICROSECONDS", default_value_t = 50, value_parser = clap::value_parser!(u64).range(0..=1000))]
    pub(crate) busy_poll: u64,
    /// Insist on direct I/O [default: where it is possible]
    #[arg(long)]
    pub(crate) direct: bool,
    /// Take a main device that is not known to be the right one, or a volume that was released
    #[arg(long)]
    pub(crate) force: bool,
}

/// Show how a volume is, and what to do
///
/// Without a name: the volumes that are being served by this user.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
      dm-remap status                     all volumes being served
      dm-remap status sdb                 what happened, and what to do
      dm-remap status sdb --watch 5       again every 5 seconds
      dm-remap status sdb --json          for programs
      dm-remap status sdb --line          one line, in the form of the kernel module's version 2.0
      dm-remap status sdb --exit-code     0 healthy, 1 degraded, 2 lost sectors, exhausted or frozen, 4 unknown")]
pub(crate) struct StatusArgs {
    /// Name of the volume, or path of its control socket
    pub(crate) volume: Option<String>,
    /// JSON, with a schema_version
    #[arg(long, conflicts_with = "line")]
    pub(crate) json: bool,
    /// One line: `0 SECTORS remap v2.0 ...`
    #[arg(long)]
    pub(crate) line: bool,
    /// Show it again every so many seconds, until interrupted
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2", value_parser = parse_duration)]
    pub(crate) watch: Option<Duration>,
    /// Tell the state by the exit code
    #[arg(long)]
    pub(crate) exit_code: bool,
}

/// Show where the time of requests goes
///
/// For each kind of request and each stage: how many, mean, median, 99 of 100, longest, and the share of the whole. Nothing is
/// measured before and after; requests pay nothing for it then.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Stages:
  receive   from the header of a write to the last byte of its data
  device    look-up, kernel and device, all blocks being healthy or on a spare
  owner     the same, where a block is in trouble
  reply     from the end of the request to the last byte of its reply with the kernel
  whole     from the header to then; what the stages leave of it is waiting for the others

Examples:
  dm-remap trace sdb                  for ten seconds
  dm-remap trace sdb --seconds 60 --json")]
pub(crate) struct TraceArgs {
    /// Name of the volume, or path of its control socket
    pub(crate) volume: String,
    /// How long to measure; an interrupt ends it early
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=i64::from(TRACE_SECONDS_MAX)))]
    pub(crate) seconds: u32,
    /// JSON, with a schema_version
    #[arg(long)]
    pub(crate) json: bool,
}

/// Tell a volume that is being served what to do
///
/// Sectors are of 512 bytes, decimal or 0x; ranges are FIRST-LAST (both included) or FIRST+COUNT.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Messages:
  ping                     pong
  remap SECTORS            move their blocks to the spare, as far as they can be read
  verify SECTOR            where the sector is
  verify SECTORS           read them, and keep what is known about them true
  clear [SECTORS]          move blocks back to the main device where it takes them
  health                   one line about the volume's health
  stats, clear_stats       counters since the start, or since they were cleared
  save [FILE]              write all metadata copies anew; with FILE, a dump of them too (in place of an earlier one)
  restore                  compare the copies on the spares with the table in use, and repair them
  suspend, resume          remapping off, and on again
  add-spare SPARE [force]  one more spare: a file or device, or PATH@START+LEN; empty, unless forced
  retire-spare N           move everything off spare N, and let it go
  migrate SPARE [N]        both: a new spare takes the place of the only one (or of number N)
  drill DEVICE on|off      a drill of main or spareN
  heal SECTORS             zeroes on their lost sectors, which read as errors and cannot be overwritten (stock tables only)
  help                     this list
Examples:
      dm-remap message sdb remap 4711
      dm-remap message sdb verify 0x1000-0x1fff
      dm-remap message sdb save /root/sdb-metadata.json")]
pub(crate) struct MessageArgs {
    /// Name of the volume, or path of its control socket
    pub(crate) volume: String,
    /// The message and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) message: Vec<String>,
}

/// List, import and export what is where
#[derive(Debug, Args)]
pub(crate) struct MapArgs {
    #[command(subcommand)]
    pub(crate) action: MapAction,
}

#[derive(Debug, Subcommand)]
pub(crate) enum MapAction {
    List(MapListArgs),
    Import(MapImportArgs),
    Export(MapExportArgs),
}

/// Where a table comes from.
#[derive(Clone, Debug, Args)]
#[group(required = true, multiple = true)]
pub(crate) struct TableSource {
    /// Volume that is being served: its name, or path of its control socket
    #[arg(conflicts_with = "spares")]
    pub(crate) volume: Option<String>,
    /// Spare of a volume that nobody serves; repeat for more
    #[arg(long = "spare", value_name = "PATH[@START[+LEN]]")]
    pub(crate) spares: Vec<SpareArg>,
}

/// List remapped, pending and lost blocks
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
      dm-remap map list sdb
      dm-remap map list --spare /var/lib/sdb.spare --json")]
pub(crate) struct MapListArgs {
    #[command(flatten)]
    pub(crate) source: TableSource,
    #[command(flatten)]
    pub(crate) form: JsonArg,
}

/// Add sectors known to be lost to a volume that nobody serves
///
/// Blocks that are remapped already keep their contents.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  After a copy with GNU ddrescue:
      dm-remap map import --main disk.img --spare spare.img disk.map
  A list of badblocks -b 4096:
      dm-remap map import --main disk.img --spare spare.img --format badblocks --map-block-size 4K bad.txt")]
pub(crate) struct MapImportArgs {
    /// The main device of the volume
    #[arg(long)]
    pub(crate) main: PathBuf,
    #[command(flatten)]
    pub(crate) spares: SparesArg,
    /// The list
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) form: MapForm,
    /// Take a main device that is not known to be the right one
    #[arg(long)]
    pub(crate) force: bool,
}

/// Write what is where in another program's form
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  The lost sectors as a ddrescue map:
      dm-remap map export sdb --format ddrescue --output sdb.map
  The same device without dm-remap, by the kernel's own linear and error targets:
      dm-remap map export --spare /var/lib/sdb.spare --format dmsetup --main-path /dev/sdb --spare-path /dev/loop0 \\
          | dmsetup create sdb-fixed")]
pub(crate) struct MapExportArgs {
    #[command(flatten)]
    pub(crate) source: TableSource,
    /// Form of the output
    #[arg(long, value_enum)]
    pub(crate) format: ExportFormat,
    /// Block size of a badblocks list
    #[arg(long, value_name = "SIZE", default_value = "1K", value_parser = parse_block_size)]
    pub(crate) block_size: u32,
    #[command(flatten)]
    pub(crate) to: OutputArg,
    /// Path of the main device in a dmsetup table [default: as it is served; needed with --spare]
    #[arg(long, value_name = "PATH")]
    pub(crate) main_path: Option<PathBuf>,
    /// Path of a spare in a dmsetup table, in the volume's order; repeat for more [default: as it is served]
    #[arg(long = "spare-path", value_name = "PATH")]
    pub(crate) spare_paths: Vec<PathBuf>,
}

/// Leave dm-remap: back to the main device, or to another one
///
/// Without --to, remapped blocks are written back to MAIN; what it does not take stays on the spares. With --to, the whole
/// volume is copied to DEST, as a client would read it. Exit code 8: sectors are lost; they are listed.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  The disk was reformatted by its vendor's tool, or only a cable was bad:
      dm-remap release /dev/sdb --spare /var/lib/sdb.spare
  A new disk:
      dm-remap release /dev/sdb --spare /var/lib/sdb.spare --to /dev/sdc --lost-map lost.map --yes")]
pub(crate) struct ReleaseArgs {
    /// The main device
    pub(crate) main: PathBuf,
    #[command(flatten)]
    pub(crate) spares: SparesArg,
    /// Copy the volume to this file or device
    #[arg(long, value_name = "DEST")]
    pub(crate) to: Option<PathBuf>,
    /// Write the lost sectors to this file, as a ddrescue map
    #[arg(long, value_name = "FILE")]
    pub(crate) lost_map: Option<PathBuf>,
    /// Do not ask
    #[arg(long)]
    pub(crate) yes: bool,
    /// Say what would be done, write nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Take a main device that is not known to be the right one
    #[arg(long)]
    pub(crate) force: bool,
}

/// Show the whole thing on an image that fails on command
///
/// Makes a disk image with a file system and files, damages it, adopts and serves it, reads and writes, kills the server
/// and starts it again, checks every file, and reports. Needs no root, and e2fsprogs only.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
      dm-remap demo
  With the bad sectors of a real disk:
      dm-remap demo --map rescued-disk.map")]
pub(crate) struct DemoArgs {
    /// Work in this directory [default: a temporary one]
    #[arg(long)]
    pub(crate) dir: Option<PathBuf>,
    /// Keep the files afterwards
    #[arg(long)]
    pub(crate) keep: bool,
    /// Bad sectors from this ddrescue map instead of the model's
    #[arg(long, value_name = "FILE")]
    pub(crate) map: Option<PathBuf>,
    /// Statuses of the map that mean bad
    #[arg(long, default_value = "-*/", allow_hyphen_values = true)]
    pub(crate) statuses: Statuses,
    /// Size of the image, without --map
    #[arg(long, default_value = "64M", value_parser = parse_size)]
    pub(crate) size: u64,
    /// Seed of the model of damage and of the files
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// A small one, in seconds
    #[arg(long)]
    pub(crate) quick: bool,
}

/// Write manual pages, one per command
#[derive(Debug, Args)]
pub(crate) struct GenerateManArgs {
    /// Where to
    pub(crate) dir: PathBuf,
}

/// Write completions for a shell to standard output
#[derive(Debug, Args)]
pub(crate) struct GenerateCompletionsArgs {
    /// Which shell
    pub(crate) shell: clap_complete::Shell,
}

/// Write units for systemd: volumes that come up at boot
///
/// dm-remap-target@NAME serves a volume by the kernel target, dm-remap-stock@NAME by stock tables, dm-remap@NAME over NBD. Each reads
/// /etc/dm-remap/NAME.conf, with lines MAIN=/dev/disk/by-id/..., SPARE=/dev/disk/by-id/..., and OPTIONS=...
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
      dm-remap generate-units /etc/systemd/system
      systemctl daemon-reload
      systemctl enable --now dm-remap-stock@disk")]
pub(crate) struct GenerateUnitsArgs {
    /// Where to
    pub(crate) dir: PathBuf,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_teaches_by_example() {
        fn visit(command: &clap::Command) {
            for sub in command.get_subcommands().filter(|c| !c.is_hide_set() && c.get_name() != "help") {
                if sub.get_subcommands().next().is_some() {
                    visit(sub);
                    continue;
                }
                let help = sub.get_after_long_help().map(ToString::to_string).unwrap_or_default();
                assert!(
                    help.contains(&format!("dm-remap {}", "")) && help.contains("Examples:"),
                    "{}",
                    sub.get_name()
                );
            }
        }
        visit(&Cli::command());
    }
}
