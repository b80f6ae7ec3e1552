//! The command line of `stock`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::{IoArg, PolicyArg};
use crate::open::SpareArg;
use crate::units::parse_duration;

/// A volume as /dev/mapper/NAME by the kernel's own device-mapper, without a module
///
/// The volume becomes a device-mapper table of plain `linear` and `error` segments: full speed, and nothing of ours between the file
/// system and the disk. Its limit: errors are only heard of afterwards. The first write that fails on a bad block reaches the file system
/// (its block is moved for the next one), and a lost sector cannot be overwritten but by the message 'heal'. 'dm-remap serve' and the
/// kernel module hide write errors. All three use the same spare; nothing needs converting.
#[derive(Debug, Args)]
pub(crate) struct StockArgs {
    #[command(subcommand)]
    pub(crate) action: StockAction,
}

#[derive(Debug, Subcommand)]
pub(crate) enum StockAction {
    Serve(StockServeArgs),
    Assemble(StockAssembleArgs),
    Remove(StockRemoveArgs),
}

/// A volume and its mapped device.
#[derive(Clone, Debug, Args)]
pub(crate) struct StockVolumeArgs {
    /// The main device
    pub(crate) main: PathBuf,
    /// A spare of the volume: PATH, or PATH@START[+LENGTH]; repeat for more
    #[arg(long = "spare", value_name = "PATH[@START[+LEN]]", required = true)]
    pub(crate) spares: Vec<SpareArg>,
    /// Name below /dev/mapper [default: the volume's]
    #[arg(long, value_name = "NAME")]
    pub(crate) mapper: Option<String>,
    /// Socket for status and message [default: NAME.control in $XDG_RUNTIME_DIR/dm-remap or /run/dm-remap]
    #[arg(long, value_name = "PATH")]
    pub(crate) control: Option<PathBuf>,
    /// Refuse writes; write nothing anywhere
    #[arg(long)]
    pub(crate) read_only: bool,
    /// Policy of this run, instead of the volume's own
    #[arg(long, value_enum)]
    pub(crate) policy: Option<PolicyArg>,
    /// Time that an operation of a device may take
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse_duration)]
    pub(crate) deadline: Duration,
    /// Most blocks that may be remapped [default: as many as fit]
    #[arg(long, value_name = "N")]
    pub(crate) max_remaps: Option<u64>,
    /// How to talk to the kernel
    #[arg(long, value_enum, default_value_t)]
    pub(crate) io: IoArg,
    /// Take a main device that is not known to be the right one, or a volume that was released
    #[arg(long)]
    pub(crate) force: bool,
}

/// Set the table up, and act on errors until SIGTERM or SIGINT
///
/// Listens for failed requests (tracepoint block:block_rq_error, else the kernel's log), confirms them by reading, moves blocks and puts
/// the new table into service; answers 'dm-remap status' and 'dm-remap message'. When it ends the device stays, with its last table;
/// 'stock remove' takes it away. A process that dies is replaced at once. For systemd: 'dm-remap generate-units'.
///
/// What it cannot do: the first write that fails on a bad block reaches the file system; a lost sector stays an error until 'dm-remap
/// message NAME heal SECTORS' puts zeroes there; while a block moves the whole device waits (milliseconds, longer where a bad block must be read).
#[derive(Clone, Debug, Args)]
#[command(after_long_help = "\
Examples:
      dm-remap stock serve /dev/sdb --spare /dev/sdc1
      mount /dev/mapper/sdb /mnt
      dm-remap status sdb
      dm-remap message sdb remap 4711")]
pub(crate) struct StockServeArgs {
    #[command(flatten)]
    pub(crate) volume: StockVolumeArgs,
}

/// Set the table up, and exit: for boot scripts
///
/// Nobody acts on errors until 'stock serve' is started, which takes the device over as it is. A device that is there already is resumed if it
/// stands still, by a table made from the metadata.
#[derive(Clone, Debug, Args)]
#[command(after_long_help = "\
Examples:
  Before the service starts:
      dm-remap stock assemble /dev/sdb --spare /dev/sdc1
      mount /dev/mapper/sdb /mnt")]
pub(crate) struct StockAssembleArgs {
    #[command(flatten)]
    pub(crate) volume: StockVolumeArgs,
}

/// Take the mapped device away; the volume stays on its devices
#[derive(Clone, Debug, Args)]
#[command(after_long_help = "\
Examples:
      umount /mnt
      dm-remap stock remove sdb")]
pub(crate) struct StockRemoveArgs {
    /// Its name below /dev/mapper
    pub(crate) name: String,
}
