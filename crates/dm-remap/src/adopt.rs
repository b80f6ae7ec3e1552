//! `adopt`: a volume of a main device and its spares.
//!
//! Invariant: nothing is ever written to the main device; spares that this command made are removed again when it fails.

use std::path::Path;
use std::process::ExitCode;

use remap_core::units::{Extent, SECTOR_SIZE, Sector};
use remap_format::{COPIES, TEXT_LEN};
use remap_io::Device;
use remap_io::badmap::BadMap;
use remap_runtime::{AdoptOptions, AdoptReport};

use crate::cli::{AdoptArgs, MapForm};
use crate::exit::{Exit, refusal};
use crate::files::{self, Made};
use crate::open::{Access, Opener, SpareArg, adopt_refusal};
use crate::units::{format_count, format_sectors, format_size};

/// Largest list of bad sectors that is read, in bytes.
pub(crate) const LIST_MAX: u64 = 1 << 30;

/// Runs the command.
pub(crate) fn run(args: &AdoptArgs) -> anyhow::Result<ExitCode> {
    let mut opener = Opener::auto();
    let main = opener.whole(&args.main, Access::Read)?;
    let name = args.name.clone().unwrap_or_else(|| default_name(&args.main));
    let lost = match &args.map {
        Some(path) => lost_sectors(path, &args.map_form, &main)?,
        None => Vec::new(),
    };
    let mut made = Vec::new();
    for spare in &args.spares {
        made.extend(make_missing(spare, args.create_spare)?);
    }
    let spares = opener.spares(&args.spares, Access::Write)?;
    let known = Known::of(&lost, args.block_size);
    let options = AdoptOptions {
        name,
        block_size: args.block_size,
        policy: args.policy.into(),
        lost,
        force: args.force,
    };
    if args.dry_run {
        let report =
            remap_runtime::rehearse(&main, &spares, &options).map_err(|e| adopt_refusal(e, &spares))?;
        println!("dry run: {} can be adopted; nothing was written", main.path().display());
        print_spare(&report, args.block_size, &known);
        return Ok(Exit::Done.into());
    }
    let report = remap_runtime::adopt(&main, &spares, &options).map_err(|e| adopt_refusal(e, &spares))?;
    made.into_iter().for_each(Made::keep);
    println!(
        "adopted {} as volume '{}' ({}); nothing was written to it",
        main.path().display(),
        report.superblock.name,
        format_size(main.size())
    );
    print_spare(&report, args.block_size, &known);
    let spare_words: String = args.spares.iter().map(|s| format!(" --spare {}", spare_word(s))).collect();
    println!("next: dm-remap serve {}{spare_words}", args.main.display());
    Ok(Exit::Done.into())
}

/// How much a list of lost sectors says.
struct Known {
    sectors: u64,
    /// Blocks with lost sectors.
    blocks: u64,
}

impl Known {
    fn of(lost: &[Extent], block_size: u32) -> Self {
        let per_block = u64::from(block_size) / SECTOR_SIZE;
        let (mut blocks, mut reached) = (0, 0);
        for extent in lost {
            let first = (extent.start().0 / per_block).max(reached);
            reached = extent.end().0.div_ceil(per_block);
            blocks += reached.saturating_sub(first);
        }
        Self { sectors: lost.iter().map(Extent::sectors).sum(), blocks }
    }
}

fn print_spare(report: &AdoptReport, block_size: u32, known: &Known) {
    println!(
        "spare: {} slots of {} free for bad blocks; {COPIES} copies of the metadata take {}",
        report.slots.free,
        format_size(u64::from(block_size)),
        format_size(report.metadata_bytes)
    );
    if known.sectors == 0 {
        return;
    }
    println!(
        "{} in {} known to be lost: reads of them fail until they are overwritten",
        format_sectors(known.sectors),
        format_count(known.blocks, "block")
    );
    if known.blocks > report.slots.free {
        println!(
            "note: the spare cannot take all of these blocks; those that the disk does not rewrite itself need a larger one"
        );
    }
}

fn spare_word(spare: &SpareArg) -> String {
    match (spare.start, spare.len) {
        (0, None) => spare.path.display().to_string(),
        (start, None) => format!("{}@{start}", spare.path.display()),
        (start, Some(len)) => format!("{}@{start}+{len}", spare.path.display()),
    }
}

/// A name from the last part of the path.
fn default_name(main: &Path) -> String {
    plain_name(&main.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default())
}

/// The text with only the characters that a name, as part of a file name, may have.
pub(crate) fn plain_name(text: &str) -> String {
    let plain: String = text
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' })
        .skip_while(|c| !c.is_ascii_alphanumeric())
        .take(TEXT_LEN - 1)
        .collect();
    if plain.is_empty() { "volume".to_owned() } else { plain }
}

/// The sectors that a list calls lost, on this device.
///
/// # Errors
/// The list cannot be read or understood (the line is named), or is about a larger device.
pub(crate) fn lost_sectors(path: &Path, form: &MapForm, main: &Device) -> anyhow::Result<Vec<Extent>> {
    let text = files::read_text(path, LIST_MAX)?;
    let map = BadMap::parse(&text, form.format.into(), form.map_block_size)
        .map_err(|error| refusal(Exit::Failure, format!("{}: {error}", path.display())))?;
    let sectors = main.size() / SECTOR_SIZE;
    let lost: Vec<Extent> = map.extents(&form.statuses.0).collect();
    match lost.last() {
        // A map in bytes may end within the last block of the device; more than that is about another device.
        Some(last) if last.end().0 > sectors.next_multiple_of(8) => Err(refusal(
            Exit::Mismatch,
            format!(
                "{}: names sector {}, but {} has only {sectors}: is it the map of another device, or is the block \
                 size wrong (--map-block-size)?",
                path.display(),
                last.end().0 - 1,
                main.path().display()
            ),
        )),
        _ => {
            Ok(lost.iter().filter_map(|e| Extent::between(e.start(), e.end().min(Sector(sectors)))).collect())
        }
    }
}

/// Makes the file of a spare if there is none and a size was given.
fn make_missing(spare: &SpareArg, size: Option<u64>) -> anyhow::Result<Option<Made>> {
    if spare.path.exists() {
        return Ok(None);
    }
    let Some(size) = size else {
        let text = format!(
            "{}: there is no such file or device: check the path, or add --create-spare SIZE to make a file",
            spare.path.display()
        );
        return Err(refusal(Exit::NotFound, text));
    };
    let end = spare.len.map_or(size, |len| spare.start.saturating_add(len).max(size));
    Made::spare(&spare.path, end).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_with_lost_sectors_count_once() {
        let extent = |start, end| Extent::between(Sector(start), Sector(end)).unwrap();
        let known = Known::of(&[extent(0, 1), extent(2, 9), extent(15, 33), extent(39, 40)], 4096);
        assert_eq!((known.sectors, known.blocks), (27, 5));
        assert_eq!(Known::of(&[], 512).blocks, 0);
    }

    #[test]
    fn default_names_fit_a_file_name() {
        assert_eq!(default_name(Path::new("/dev/sdb")), "sdb");
        assert_eq!(default_name(Path::new("/x/my disk (1).img")), "my_disk__1_.img");
        assert_eq!(default_name(Path::new("/x/-_")), "volume");
        assert_eq!(default_name(Path::new("/")), "volume");
        assert!(default_name(Path::new(&"y".repeat(200))).len() < TEXT_LEN);
    }
}
