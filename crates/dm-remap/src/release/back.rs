//! `release` without `--to`: every remapped block goes back to the main device.
//!
//! Invariant: an entry is dropped only when the main device holds its bytes durably; what could not be written back stays
//! on the spare, and then the volume is not marked as released.

use anyhow::{Context as _, ensure};
use remap_core::engine::{Command, RequestError};
use remap_core::units::{Extent, Sector};
use remap_format::{Entry, EntryState};
use remap_runtime::Volume;

/// Blocks per command, so that progress can be shown.
const STEP: u64 = 1024;

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct Back {
    /// Blocks that were on a spare and are back on the main device.
    pub moved: u64,
    /// Entries that still name slots: the main device did not take them.
    pub kept: Vec<Entry>,
    /// The first reason for that.
    pub error: Option<RequestError>,
    /// Sectors that no device holds.
    pub lost: Vec<Extent>,
    /// The spares are marked as released.
    pub released: bool,
}

/// Blocks on a spare.
pub(crate) fn remapped_blocks(entries: &[Entry]) -> u64 {
    entries.iter().filter(|e| e.state == EntryState::Remapped).map(|e| u64::from(e.count)).sum()
}

/// Copies everything back and, if nothing was left behind, marks the spares as released. `progress` gets the blocks done.
///
/// # Errors
/// The volume stopped, or the mark could not be written.
pub(crate) fn copy_back(volume: &Volume, progress: &dyn Fn(u64)) -> anyhow::Result<Back> {
    let before = volume.entries()?;
    let block_sectors = u64::from(volume.superblock().block_sectors());
    let mut back = Back::default();
    let mut done = 0;
    for entry in before.iter().filter(|e| e.state == EntryState::Remapped) {
        for first in (entry.block..entry.end()).step_by(usize::try_from(STEP)?) {
            let end = (first + STEP).min(entry.end());
            let extent = Extent::between(Sector(first * block_sectors), Sector(end * block_sectors));
            let extent = extent.context("a run of blocks is not empty")?;
            let outcome = volume.command(Command::Clear(extent))?;
            if back.error.is_none() {
                back.error = outcome.error;
            }
            done += end - first;
            progress(done);
        }
    }
    let after = volume.entries()?;
    back.kept = after.iter().filter(|e| e.state == EntryState::Remapped).copied().collect();
    back.moved = remapped_blocks(&before) - remapped_blocks(&back.kept).min(remapped_blocks(&before));
    back.lost = volume.lost()?;
    if back.kept.is_empty() {
        let outcome = volume.command(Command::Release)?;
        ensure!(
            outcome.error.is_none(),
            "the spares could not be marked as released: their metadata cannot be written; all blocks are back on the main \
             device"
        );
        back.released = true;
    }
    Ok(back)
}
