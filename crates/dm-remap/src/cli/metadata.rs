//! The command line of `metadata`.

use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Subcommand};

use super::DumpFormat;
use super::shared::{JsonArg, NewSparesArg, OutputArg, SparesArg};

/// Look at, repair and bring back the metadata on spares that nobody serves
///
/// check, dump, analyze, generations and compare only read. repair and rollback write new spares, never the old ones. restore
/// writes metadata over what is left of them.
#[derive(Debug, Args)]
pub(crate) struct MetadataArgs {
    #[command(subcommand)]
    pub(crate) action: MetadataAction,
}

#[derive(Debug, Subcommand)]
pub(crate) enum MetadataAction {
    Check(MetadataCheckArgs),
    Dump(MetadataDumpArgs),
    Analyze(MetadataAnalyzeArgs),
    Generations(MetadataGenerationsArgs),
    Compare(MetadataCompareArgs),
    Repair(MetadataRepairArgs),
    Rollback(MetadataRollbackArgs),
    Restore(MetadataRestoreArgs),
}

/// Say how each metadata copy is; reads only
///
/// Exit code 0: all well; 1: damaged, and serving the volume repairs it; 6: damaged so that it cannot be served.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
      dm-remap metadata check --spare /var/lib/sdb.spare")]
pub(crate) struct MetadataCheckArgs {
    #[command(flatten)]
    pub(crate) spares: SparesArg,
    #[command(flatten)]
    pub(crate) form: JsonArg,
}

/// Write all that the metadata say; reads the spares only
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  A backup that 'metadata restore' takes back:
      dm-remap metadata dump --spare /var/lib/sdb.spare --output sdb-metadata.json
  For people:
      dm-remap metadata dump --spare /var/lib/sdb.spare --format text")]
pub(crate) struct MetadataDumpArgs {
    #[command(flatten)]
    pub(crate) spares: SparesArg,
    /// Form of the output
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: DumpFormat,
    #[command(flatten)]
    pub(crate) to: OutputArg,
}

/// Say how the table, the slots and the metadata are used: fragments, wear, hotspots, causes; reads only
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
      dm-remap metadata analyze --spare /var/lib/sdb.spare
      dm-remap metadata analyze --spare /var/lib/sdb.spare --json")]
pub(crate) struct MetadataAnalyzeArgs {
    #[command(flatten)]
    pub(crate) spares: SparesArg,
    #[command(flatten)]
    pub(crate) form: JsonArg,
}

/// List the tables of the past that the spares still hold; reads only
///
/// Every commit makes a generation of the table. The spares prove those since the last checkpoint, the checkpoint before it, and,
/// until the next commit, all that lay between the two.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
      dm-remap metadata generations --spare /var/lib/sdb.spare")]
pub(crate) struct MetadataGenerationsArgs {
    #[command(flatten)]
    pub(crate) spares: SparesArg,
    #[command(flatten)]
    pub(crate) form: JsonArg,
}

/// Say what changed between two moments of the table; reads only
///
/// A moment is the number of a generation, the word 'now', or a dump. (A dump whose name is a number or 'now': ./NAME.)
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  Since yesterday's dump:
      dm-remap metadata compare --spare /var/lib/sdb.spare --from yesterday.json
  Between two generations:
      dm-remap metadata compare --spare /var/lib/sdb.spare --from 41 --to 44
  Between two dumps, without the spares:
      dm-remap metadata compare --from monday.json --to tuesday.json")]
#[command(mut_arg("spares", |spares| spares
    .required(false)
    .help("A spare of the volume, unless two dumps are compared; repeat for more")))]
pub(crate) struct MetadataCompareArgs {
    #[command(flatten)]
    pub(crate) spares: SparesArg,
    /// The earlier moment
    #[arg(long, value_name = "GENERATION|now|DUMP")]
    pub(crate) from: Moment,
    /// The later moment
    #[arg(long, value_name = "GENERATION|now|DUMP", default_value = "now")]
    pub(crate) to: Moment,
    #[command(flatten)]
    pub(crate) form: JsonArg,
}

/// Make new spares with the table of an earlier moment, if the data still allow it
///
/// The old spares are only read. Refused, with a list of blocks and reasons, if any sector that holds data now would be lost or
/// read as older, or any lost one read as something. Exit code 8: done, but slots could not be read.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  What could go back, and what stands in the way:
      dm-remap metadata rollback --spare /var/lib/sdb.spare --to 41 --dry-run
  Do it:
      dm-remap metadata rollback --spare /var/lib/sdb.spare --to 41 --output /var/lib/sdb.back")]
#[command(
    mut_arg("outputs", |outputs| outputs.required(false).required_unless_present("dry_run")),
    mut_arg("force", |force| force.help("Overwrite outputs that hold something (never blocks that cannot go back)"))
)]
pub(crate) struct MetadataRollbackArgs {
    #[command(flatten)]
    pub(crate) spares: SparesArg,
    /// The moment to go back to
    #[arg(long, value_name = "GENERATION|DUMP")]
    pub(crate) to: Moment,
    #[command(flatten)]
    pub(crate) outputs: NewSparesArg,
    /// Only say what would be done
    #[arg(long, conflicts_with_all = ["outputs", "force"])]
    pub(crate) dry_run: bool,
}

/// A moment of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    /// As the spares say now.
    Now,
    /// A generation.
    Generation(u64),
    /// A dump.
    Dump(PathBuf),
}

impl FromStr for Moment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "" => Err("give the number of a generation, 'now', or a dump".into()),
            "now" => Ok(Self::Now),
            number if number.bytes().all(|b| b.is_ascii_digit()) => {
                number.parse().map(Self::Generation).map_err(|_| format!("'{number}': no such generation"))
            }
            file => Ok(Self::Dump(file.into())),
        }
    }
}

/// Make new spares from what can be believed of damaged ones
///
/// The damaged spares are only read. The new ones hold the metadata and the contents of all slots, and can be served.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
      dm-remap metadata repair --spare damaged.spare --output repaired.spare")]
#[command(mut_arg("spares", |spares| spares.help("A damaged spare of the volume; repeat for more")))]
pub(crate) struct MetadataRepairArgs {
    #[command(flatten)]
    pub(crate) spares: SparesArg,
    #[command(flatten)]
    pub(crate) outputs: NewSparesArg,
}

/// Write the metadata of a dump back to spares whose slots are whole
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
      dm-remap metadata restore sdb-metadata.json --spare /var/lib/sdb.spare --main /dev/sdb")]
#[command(mut_arg("spares", |spares| spares.help("A spare of the volume, in the volume's order; repeat for more")))]
pub(crate) struct MetadataRestoreArgs {
    /// The dump, as 'metadata dump' writes it
    pub(crate) dump: PathBuf,
    #[command(flatten)]
    pub(crate) spares: SparesArg,
    /// The main device, to check that the dump is about it
    #[arg(long)]
    pub(crate) main: Option<PathBuf>,
    /// Overwrite metadata that are whole, or newer than the dump
    #[arg(long)]
    pub(crate) force: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments() {
        let moment = |text: &str| text.parse::<Moment>();
        assert_eq!(moment("41"), Ok(Moment::Generation(41)));
        assert_eq!(moment("now"), Ok(Moment::Now));
        assert_eq!(moment("./41"), Ok(Moment::Dump("./41".into())));
        assert_eq!(moment("a.json"), Ok(Moment::Dump("a.json".into())));
        assert!(moment("").is_err() && moment("99999999999999999999").is_err());
    }
}
