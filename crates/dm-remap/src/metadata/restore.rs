//! `metadata restore`: the five copies on the spares, from a dump.
//!
//! Invariant: only metadata are written, never a slot, and only after everything that could be refused has been.

use anyhow::Context as _;
use remap_core::recovery::Recovered;
use remap_format::layout::{self, SUPERBLOCK_PAGES};
use remap_format::{Entry, PAGE_SIZE, Superblock, newer};
use remap_io::{Buf, Device};
use remap_runtime::{examine, main_identity, rewrite};

use super::scan::{self, Sighting};
use crate::exit::{Exit, refusal};

/// Writes the metadata of `superblock` and `entries` to `spares`; gives the new generation. `force`: also over metadata
/// that are whole, or of another volume, and for another main device.
///
/// # Errors
/// What does not fit, and what would do; nothing was written unless writing failed.
pub(crate) fn restore(
    mut superblock: Superblock,
    entries: &[Entry],
    spares: &[Device],
    main: Option<&Device>,
    force: bool,
) -> anyhow::Result<u64> {
    let sightings = scan::superblocks(spares);
    if !force {
        refuse_good(&superblock, spares, &sightings)?;
    }
    if let Some(main) = main {
        check_main(&superblock, main, force)?;
    }
    let ordered = in_order(&superblock, spares, &sightings)?;
    // Whatever a copy held before must be older than what is written now.
    let of_volume = sightings.iter().filter_map(|s| s.found.as_ref().ok());
    for found in of_volume.filter(|s| s.volume == superblock.volume) {
        if newer(found.generation, superblock.generation) {
            superblock.generation = found.generation;
        }
    }
    let recovered = super::assembled(superblock, entries)?;
    wipe_superblocks(&recovered, &ordered)?;
    Ok(rewrite(&ordered, recovered)?)
}

/// Metadata that are whole need no dump; those of another volume are not ours to overwrite.
fn refuse_good(superblock: &Superblock, spares: &[Device], sightings: &[Sighting]) -> anyhow::Result<()> {
    for sighting in sightings {
        if let Ok(found) = &sighting.found
            && found.volume != superblock.volume
        {
            let spare =
                spares.get(sighting.device).map(|d| d.path().display().to_string()).unwrap_or_default();
            let text = format!(
                "{spare}: belongs to volume '{}', the dump is of '{}'; use --force to overwrite it",
                found.name, superblock.name
            );
            return Err(refusal(Exit::Mismatch, text));
        }
    }
    if let Ok(recovered) = examine(spares, true) {
        let text = format!(
            "the metadata on the spare are whole (generation {}, the dump has {}): there is nothing to restore; use \
             --force to go back to the dump all the same, and lose what changed since",
            recovered.generation, superblock.generation
        );
        return Err(refusal(Exit::Failure, text));
    }
    Ok(())
}

fn check_main(superblock: &Superblock, main: &Device, force: bool) -> anyhow::Result<()> {
    let (then, now) = (&superblock.main, main_identity(main));
    let path = main.path().display();
    if now.size < then.size {
        let text = format!("{path}: has {} bytes, the dump is of a main device of {}", now.size, then.size);
        return Err(refusal(Exit::Mismatch, text));
    }
    let named = [(&then.wwn, &now.wwn), (&then.serial, &now.serial), (&then.content_uuid, &now.content_uuid)];
    let differs = named.into_iter().find(|(then, _)| !then.is_empty()).filter(|(then, now)| then != now);
    if let Some((then, now)) = differs
        && !force
    {
        let now = if now.is_empty() { "nothing" } else { now };
        let text = format!(
            "{path}: is not the main device of the dump ({now} where '{then}' is expected); use --force if it is"
        );
        return Err(refusal(Exit::Mismatch, text));
    }
    Ok(())
}

/// The spares in the volume's order: as their own labels say, the others as they were given.
fn in_order(
    superblock: &Superblock,
    spares: &[Device],
    sightings: &[Sighting],
) -> anyhow::Result<Vec<Device>> {
    let expected = superblock.present().count();
    if spares.len() != expected {
        let text = format!(
            "the dump is of a volume with {expected} spares, {} were given: give all of them, in the order of the dump",
            spares.len()
        );
        return Err(refusal(Exit::Mismatch, text));
    }
    let mut places: Vec<Option<usize>> = vec![None; superblock.spares.len()];
    let mut placed = vec![false; spares.len()];
    for sighting in sightings {
        let Ok(found) = &sighting.found else { continue };
        if found.volume != superblock.volume || placed.get(sighting.device).copied().unwrap_or(true) {
            continue;
        }
        if let Some(place @ None) = places.get_mut(usize::from(found.spare_index)) {
            *place = Some(sighting.device);
            if let Some(placed) = placed.get_mut(sighting.device) {
                *placed = true;
            }
        }
    }
    let mut rest = (0..spares.len()).filter(|&d| !placed.get(d).copied().unwrap_or(true));
    let mut ordered = Vec::new();
    for (spare, record) in superblock.present() {
        let place = places.get(usize::from(spare)).copied().flatten();
        let device = place.or_else(|| rest.next()).and_then(|d| spares.get(d)).context("too few spares")?;
        if device.size() < record.size {
            let (path, size) = (device.path().display(), device.size());
            let text = format!("{path}: has {size} bytes, the dump needs {} here", record.size);
            return Err(refusal(Exit::Mismatch, text));
        }
        ordered.push(device.clone());
    }
    Ok(ordered)
}

/// Makes sure that no copy's other superblock page speaks against what is written now.
fn wipe_superblocks(recovered: &Recovered, spares: &[Device]) -> anyhow::Result<()> {
    let zeroes = Buf::alloc(PAGE_SIZE * usize::try_from(SUPERBLOCK_PAGES)?)?;
    let volume = &recovered.superblock;
    for place in layout::copy_places(&volume.spares, &volume.homes) {
        let device = recovered.devices.get(usize::from(place.spare)).copied().flatten();
        let Some(spare) = device.and_then(|device| spares.get(device)) else { continue };
        let written = spare.write_at(place.start, &zeroes);
        written.map_err(|fault| {
            anyhow::anyhow!(
                "{}: cannot be written at byte {} ({fault:?})",
                spare.path().display(),
                place.start
            )
        })?;
    }
    Ok(())
}
