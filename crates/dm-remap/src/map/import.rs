//! `map import`: sectors known to be lost become entries of a volume that nobody serves.
//!
//! Invariant: a remapped block keeps its contents, whatever the list says about the main device under it; a sector that is
//! lost already stays so.

use std::process::ExitCode;

use anyhow::Context as _;
use remap_core::recovery::Recovered;
use remap_core::table::Table;
use remap_core::units::Block;
use remap_format::{Entry, EntryFlags, EntryState};
use remap_io::badmap::BadMap;
use remap_runtime::{lost_entries, main_identity, rewrite};

use crate::adopt::LIST_MAX;
use crate::cli::MapImportArgs;
use crate::exit::{Exit, refusal};
use crate::files;
use crate::open::{Access, Opener, examine};
use crate::units::format_sectors;

/// Runs `map import`.
///
/// # Errors
/// The list cannot be read or does not fit, or the spares cannot be read or written.
pub(super) fn run(args: &MapImportArgs) -> anyhow::Result<ExitCode> {
    let file = args.file.display();
    let text = files::read_text(&args.file, LIST_MAX)?;
    let map = BadMap::parse(&text, args.form.format.into(), args.form.map_block_size)
        .with_context(|| format!("{file}"))?;
    let lost: Vec<_> = map.extents(&args.form.statuses.0).collect();
    let mut opener = Opener::auto();
    let main = opener.whole(&args.main, Access::Read)?;
    let spares = opener.spares(&args.spares.spares, Access::Write)?;
    let mut recovered = examine(&spares, false)?;
    check_main(&main, &recovered, args.force)?;
    let superblock = &recovered.superblock;
    let time = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let imported = lost_entries(&lost, superblock.main.size, superblock.block_size(), time)
        .map_err(|why| refusal(Exit::Mismatch, format!("{file}: {why}")))?;
    let before = recovered.table.counts();
    merge(&mut recovered.table, &imported, superblock.block_sectors())?;
    let after = recovered.table.counts();
    let shape = remap_core::recovery::shape_of(superblock);
    let room = shape.capacity();
    let needed = after.entries + recovered.pool.retired().len() as u64;
    if needed > room {
        let text = format!(
            "{file}: the table would have {needed} runs, and the metadata on these spares have room for {room}; \
             nothing was changed; adopt with a larger spare"
        );
        return Err(refusal(Exit::Mismatch, text));
    }
    rewrite(&spares, recovered)?;
    println!(
        "{} in the list; {} are lost now, {} before",
        format_sectors(lost.iter().map(|e| e.sectors()).sum()),
        format_sectors(after.lost_sectors),
        format_sectors(before.lost_sectors)
    );
    Ok(Exit::Done.into())
}

/// Is it the volume's main device?
fn check_main(main: &remap_io::Device, recovered: &Recovered, force: bool) -> anyhow::Result<()> {
    let (then, now) = (&recovered.superblock.main, main_identity(main));
    let path = main.path().display();
    let named = [(&then.wwn, &now.wwn), (&then.serial, &now.serial), (&then.content_uuid, &now.content_uuid)];
    let differs = named.into_iter().find(|(then, _)| !then.is_empty()).is_some_and(|(then, now)| then != now);
    if (differs || now.size != then.size) && !force {
        let text = format!(
            "{path}: is not the main device of volume '{}' (size {} bytes, {} expected{}); use --force if it is",
            recovered.superblock.name,
            now.size,
            then.size,
            if differs { ", another identity" } else { "" }
        );
        return Err(refusal(Exit::Mismatch, text));
    }
    Ok(())
}

/// Adds imported entries to a table.
fn merge(table: &mut Table, imported: &[Entry], block_sectors: u32) -> anyhow::Result<()> {
    for entry in imported {
        let mut at = entry.block;
        while at < entry.end() {
            let known = table.next_from(Block(at)).filter(|known| known.block < entry.end());
            let free_until = known.map_or(entry.end(), |known| known.block.max(at));
            if at < free_until {
                let count = u32::try_from(free_until - at).context("a part is no longer than the run")?;
                table.apply(&Entry { block: at, count, ..*entry })?;
            }
            let Some(known) = known else { break };
            let known_end = known.end().min(entry.end());
            if known.state == EntryState::Pending {
                pend(table, entry, free_until, known_end, block_sectors)?;
            }
            at = known_end;
        }
    }
    Ok(())
}

/// Blocks that are pending already lose the imported sectors too.
fn pend(table: &mut Table, entry: &Entry, from: u64, to: u64, block_sectors: u32) -> anyhow::Result<()> {
    let full = Entry::full_mask(block_sectors);
    for block in from..to {
        let Some(known) = table.get(Block(block)) else { continue };
        let lost = (known.lost | entry.lost) & full;
        let flags = EntryFlags(known.flags.0 | EntryFlags::STALE.0);
        if lost != known.lost || flags != known.flags {
            table.apply(&Entry { lost, flags, ..known })?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::map::pieces::tests::entry;
    use remap_core::units::{Extent, Sector, Slot};

    fn imported(extents: &[(u64, u64)]) -> Vec<Entry> {
        let lost: Vec<Extent> =
            extents.iter().map(|&(start, len)| Extent::new(Sector(start), len).unwrap()).collect();
        lost_entries(&lost, 1 << 20, 4096, 1_700_000_000).unwrap()
    }

    fn table(entries: &[Entry]) -> Table {
        let mut table = Table::create(256, 8).unwrap();
        for entry in entries {
            table.apply(entry).unwrap();
        }
        table
    }

    #[test]
    fn remapped_blocks_are_not_touched_and_runs_stay_runs() {
        let moved = entry(3, 2, Some(Slot::new(0, 9)), 0);
        let mut table = table(&[moved]);
        merge(&mut table, &imported(&[(0, 80)]), 8).unwrap();
        let found: Vec<Entry> = table.iter().collect();
        assert_eq!(found.len(), 3, "{found:?}");
        assert_eq!((found[0].block, found[0].count, found[0].lost), (0, 3, 0xff));
        assert_eq!(found[1], moved);
        assert_eq!((found[2].block, found[2].count), (5, 5));
        assert!(found[0].flags.stale() && found[2].flags.stale());
    }

    #[test]
    fn pending_blocks_lose_what_either_says() {
        let mut table = table(&[entry(1, 1, None, 0b0011)]);
        merge(&mut table, &imported(&[(8 + 1, 4)]), 8).unwrap();
        let found = table.get(Block(1)).unwrap();
        assert_eq!((found.lost, found.flags.stale()), (0b1_1111, true));
        let before = table.counts();
        merge(&mut table, &imported(&[(8 + 1, 4)]), 8).unwrap();
        assert_eq!(table.counts(), before, "importing twice changes nothing");
    }
}
