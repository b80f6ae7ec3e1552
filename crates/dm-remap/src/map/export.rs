//! `map export`.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use remap_core::units::SECTOR_SIZE;
use remap_io::badmap::{BadMap, Run, Status};

use super::list::{Listing, lost};
use super::pieces::{Place, pieces};
use crate::cli::{ExportFormat, MapExportArgs};
use crate::control::Snapshot;
use crate::dmsetup::{DeviceName, table};
use crate::exit::{Exit, refusal};
use crate::files;
use crate::wire;

/// Runs `map export`.
///
/// # Errors
/// The table is not to be had, a path is missing, or the output cannot be written.
pub(super) fn run(args: &MapExportArgs) -> anyhow::Result<ExitCode> {
    if let Some(output) = &args.to.output {
        files::refuse_existing(output, args.to.force)?;
    }
    let snapshot = super::snapshot(&args.source)?;
    let bytes = match args.format {
        ExportFormat::Ddrescue => {
            lost_map(&lost(&snapshot), snapshot.head.size, &snapshot.head.name)?.into_bytes()
        }
        ExportFormat::Badblocks => {
            let mut out = Vec::new();
            bad(&lost(&snapshot))?.to_badblocks(args.block_size, &mut out)?;
            out
        }
        ExportFormat::List => {
            let lines = lost(&snapshot);
            let line = |e: &remap_core::units::Extent| match e.sectors() {
                1 => format!("{}\n", e.start().0),
                _ => format!("{}-{}\n", e.start().0, e.end().0 - 1),
            };
            lines.iter().map(line).collect::<String>().into_bytes()
        }
        ExportFormat::Json => wire::pretty(&Listing::of(&snapshot))?.into_bytes(),
        ExportFormat::Dmsetup => dmsetup(args, &snapshot)?.into_bytes(),
    };
    super::deliver(args.to.output.as_deref(), &bytes, args.to.force)?;
    Ok(Exit::Done.into())
}

/// Lost sectors as bad runs.
fn bad(lost: &[remap_core::units::Extent]) -> anyhow::Result<BadMap> {
    let runs = lost.iter().map(|&extent| Run { extent, status: Status::Bad });
    BadMap::from_runs(runs).map_err(|n| anyhow::anyhow!("{n} runs of lost sectors are too many for a map"))
}

/// A ddrescue map of a whole volume of `size` bytes: lost sectors `-`, all others `+`.
///
/// # Errors
/// Too many runs.
pub(crate) fn lost_map(lost: &[remap_core::units::Extent], size: u64, name: &str) -> anyhow::Result<String> {
    let comment = format!("Volume {name}: sectors that no device holds (-); all others can be read (+)");
    Ok(bad(lost)?.to_ddrescue(size / SECTOR_SIZE, Status::Finished, &comment))
}

fn dmsetup(args: &MapExportArgs, snapshot: &Snapshot) -> anyhow::Result<String> {
    let head = &snapshot.head;
    let main = match &args.main_path {
        Some(path) => path.display().to_string(),
        None if head.main.is_empty() => {
            let text = "the spares do not know the path of the main device: give it with --main-path";
            return Err(refusal(Exit::Usage, text));
        }
        None => head.main.clone(),
    };
    if args.spare_paths.len() > head.spares.len() {
        let text = format!("the volume has no more than {} spares: too many --spare-path", head.spares.len());
        return Err(refusal(Exit::Usage, text));
    }
    let paths: Vec<String> = head
        .spares
        .iter()
        .enumerate()
        .map(|(number, spare)| {
            args.spare_paths.get(number).map_or_else(|| spare.path.clone(), |p| p.display().to_string())
        })
        .collect();
    let block_sectors =
        u32::try_from(u64::from(head.block_size) / SECTOR_SIZE).context("an impossible block size")?;
    let pieces = pieces(head.size / SECTOR_SIZE, block_sectors, &snapshot.entries);
    let used =
        |number: u8| pieces.iter().any(|p| matches!(p.place, Place::Spare { spare, .. } if spare == number));
    warn_of_file(Path::new(&main));
    for (_, path) in (0u8..).zip(&paths).filter(|(number, _)| used(*number)) {
        warn_of_file(Path::new(path));
    }
    let spares = paths.into_iter().zip(&head.spares);
    let spares: Vec<DeviceName> = spares
        .map(|(path, spare)| DeviceName::of(path, spare.start / SECTOR_SIZE))
        .collect::<anyhow::Result<_>>()?;
    Ok(table(&pieces, &DeviceName::of(main, 0)?, &spares))
}

/// Device-mapper takes block devices only.
fn warn_of_file(path: &Path) {
    if path.is_file() {
        eprintln!(
            "dm-remap: {}: is a file, and dmsetup needs block devices: attach it with 'losetup --find --show' and give \
             that path with --main-path or --spare-path",
            path.display()
        );
    }
}
