//! `remap-chaos log-writes sweep`: every moment of a log of a volume's two devices, read by the core's own recovery, and compared.
//!
//! Invariant: what is compared is what a reader would get: a sector that the table calls lost, or that lies on a bad one of the main device,
//! cannot be read; every other is where the table says.

use std::fs::File;
use std::ops::Range;
use std::path::PathBuf;

use anyhow::{Context as _, anyhow, ensure};
use remap_core::op::Fault;
use remap_core::recovery::{SpareReader, recover};
use remap_core::table::Table;
use remap_core::units::{Block, Slot};
use remap_format::EntryState;

use super::cut::{self, Cut, Moment};
use super::log::Entry;
use super::{Replay, Run, parse_run};
use crate::bench::SECTOR;
use crate::sectors::{SECTORS, Sectors};
use crate::steps::LONGEST;

/// The main device, in bytes; the spare comes behind it.
const MAIN: usize = SECTORS * SECTOR as usize;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Device or file
    pub(super) log: PathBuf,
    /// File with the contents of both devices from before the log: 2 MiB of main device, then the spare
    base: PathBuf,
    /// What the steps follow from
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// States of each moment in which what could have been lost is lost or kept by chance
    #[arg(long, default_value_t = 2)]
    torn: u64,
    /// Sectors of the main device that cannot be read
    #[arg(long, value_name = "FIRST+COUNT", value_parser = parse_run)]
    bad: Vec<Run>,
    /// Sectors that are durable as they are written
    #[arg(long, value_name = "FIRST+COUNT", value_parser = parse_run, default_value = "0+0")]
    no_cache: Run,
}

/// Of so many moments one at most may be left out, because the log does not tell what was durable.
const UNKNOWN_IS_ONE_OF: usize = 20;

/// A spare in memory.
struct Spare<'b>(&'b [u8]);

impl SpareReader for Spare<'_> {
    fn read(&mut self, _spare: usize, offset: u64, into: &mut [u8]) -> Result<(), Fault> {
        let from = usize::try_from(offset).ok().and_then(|offset| self.0.get(offset..offset + into.len()));
        into.copy_from_slice(from.ok_or(Fault::Gone)?);
        Ok(())
    }
}

/// Compares all states. Gives what was done.
///
/// # Errors
/// A state is not what it may be; the log cannot be read.
pub(super) fn run(args: &Args, mut log: File, entries: &[Entry]) -> anyhow::Result<String> {
    let mut replay = Replay::begin(&args.base)?;
    ensure!(replay.sure.len() > MAIN, "{}: no spare behind {MAIN} bytes", args.base.display());
    let bad: Vec<Range<u64>> = args.bad.iter().map(|run| run.sectors.clone()).collect();
    let models = models(args.seed)?;
    let (mut states, mut moments, mut unknown, mut most_remapped) = (0, 0, 0, 0);
    for Moment { entries: place, mark, mark_torn, known } in cut::moments(entries, &args.no_cache.bytes()) {
        // Before the first step there may be no volume yet.
        let Some(step) = step_of(mark.as_deref()) else { continue };
        moments += 1;
        if !known {
            unknown += 1;
            continue;
        }
        for seed in (0..=args.torn).map(|n| n.checked_sub(1)) {
            let torn = seed.map(|seed| (place as u64) << 8 | seed);
            let cut = Cut { entries: place, torn, atomic: SECTOR, no_cache: args.no_cache.bytes() };
            let late = if torn.is_some() && args.no_cache.sectors.is_empty() { &mark_torn } else { &mark };
            let model =
                models.get(step_of(late.as_deref()).unwrap_or(step)).context("a step that was never made")?;
            let kept = cut::survivors(entries, &cut)?;
            let devices = replay.state(&mut log, entries, &kept)?;
            let remapped = compare(&devices, model.clone(), &bad)
                .map_err(|wrong| anyhow!("after {place} entries, torn {torn:?}, step {step}: {wrong}"))?;
            most_remapped = remapped.max(most_remapped);
            states += 1;
        }
    }
    let seen = format!(
        "{moments} moments, of {unknown} it is not known what was durable; {states} states compared, up to {most_remapped} blocks on the spare"
    );
    ensure!(unknown * UNKNOWN_IS_ONE_OF <= moments, "{seen}: too many that nobody looked at");
    Ok(seen)
}

/// What may be there after each number of steps.
fn models(seed: u64) -> anyhow::Result<Vec<Sectors>> {
    let mut model = Sectors::begin(seed);
    let mut models = Vec::new();
    for _ in 0..=LONGEST {
        let mut next = model.clone();
        next.cut = true;
        next.step(None)?;
        models.push(next);
        model.step(None)?;
    }
    Ok(models)
}

/// Marks are numbers of steps; at the end of the log the last step is over.
fn step_of(mark: Option<&str>) -> Option<usize> {
    mark?.parse().ok()
}

/// Reads the metadata and every sector. Gives the number of blocks on the spare.
fn compare(devices: &[u8], mut model: Sectors, bad: &[Range<u64>]) -> Result<u64, String> {
    let (main, spare) = devices.split_at(MAIN);
    let recovered =
        recover(&mut Spare(spare), &[spare.len() as u64], false).map_err(|error| error.to_string())?;
    let block_sectors = u64::from(recovered.superblock.block_size()) / SECTOR;
    for index in 0..SECTORS {
        let found = find(&recovered.table, index as u64, block_sectors, bad);
        let bytes = match found {
            Some(Place::Main(sector)) => Some(sector_of(main, sector)?),
            Some(Place::Spare(sector)) => Some(sector_of(spare, sector)?),
            None => None,
        };
        model.see(index, bytes, bad)?;
    }
    Ok(recovered.table.counts().remapped_blocks)
}

fn sector_of(device: &[u8], sector: u64) -> Result<&[u8], String> {
    let at = (sector * SECTOR) as usize;
    device.get(at..at + SECTOR as usize).ok_or(format!("sector {sector} is behind the device's end"))
}

/// Where a sector is.
enum Place {
    Main(u64),
    Spare(u64),
}

/// Where a reader finds a sector; `None`: nowhere.
fn find(table: &Table, sector: u64, block_sectors: u64, bad: &[Range<u64>]) -> Option<Place> {
    let (block, within) = (sector / block_sectors, sector % block_sectors);
    let on_main = || (!bad.iter().any(|run| run.contains(&sector))).then_some(Place::Main(sector));
    let Some(entry) = table.get(Block(block)).filter(|entry| entry.state != EntryState::Absent) else {
        return on_main();
    };
    if entry.lost >> within & 1 == 1 {
        return None;
    }
    if entry.state == EntryState::Pending {
        return on_main();
    }
    let slot = Slot(entry.slot).index() + (block - entry.block);
    Some(Place::Spare(slot * block_sectors + within))
}
