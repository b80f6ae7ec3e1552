//! What can be believed of metadata that recovery refuses, for `metadata repair`.
//!
//! Invariant: nothing stale is passed off as good. A block of which it is not known where its bytes are becomes lost; a
//! stretch of which not even that is known is named in [`Salvage::doubts`].

use remap_core::recovery::{Recovered, main_blocks};
use remap_core::table::Table;
use remap_core::units::Block;
use remap_format::{
    Cause, CopyRole, Entry, EntryFlags, EntryState, MAX_RECORD_PAGES, NO_SLOT, Superblock, SuperblockFlags,
};
use remap_io::Device;

use super::scan::{self, Copies, Sighting};
use crate::exit::{Exit, refusal};

/// What could be had.
pub(crate) struct Salvage {
    /// A volume to be written anew.
    pub superblock: Superblock,
    /// Its entries.
    pub entries: Vec<Entry>,
    /// The given spares by their numbers in the volume; `None`: not among them.
    pub devices: Vec<Option<Device>>,
    /// What could not be had, a sentence each.
    pub doubts: Vec<String>,
}

/// Collects what can be believed. `None`: there is no whole superblock.
///
/// # Errors
/// The superblocks are of several volumes or contradict each other; out of memory.
pub(crate) fn salvage(spares: &[Device]) -> anyhow::Result<Option<Salvage>> {
    let sightings = scan::superblocks(spares);
    let Some(newest) = scan::newest(&sightings) else { return Ok(None) };
    refuse_contradiction(newest, &sightings)?;
    let copies = Copies::of(newest, spares, &sightings);
    let mut collected = Collected {
        superblock: newest.clone(),
        table: Table::create(main_blocks(newest), newest.block_sectors())?,
        retired: Vec::new(),
        doubts: Vec::new(),
    };
    if newest.flags.has(SuperblockFlags::FENCED) {
        let doubt = "only copies that were taken out of use are left; what changed after that is not known";
        collected.doubts.push(doubt.into());
    }
    for (spare, _) in newest.present().filter(|&(spare, _)| !copies.has(spare)) {
        collected.doubts.push(format!(
            "spare {spare} of the volume was not given, or nothing on it tells that it is: the blocks on it are lost, and \
             the newest changes may be missing"
        ));
    }
    collected.checkpoint(&copies)?;
    let generation = collected.journal(&copies)?;
    let devices = copies.devices().into_iter().map(Option::<&Device>::cloned).collect();
    let entries = collected.consistent()?;
    let Collected { mut superblock, doubts, .. } = collected;
    superblock.generation = generation;
    superblock.flags = SuperblockFlags(superblock.flags.0 & !SuperblockFlags::FENCED.0);
    Ok(Some(Salvage { superblock, entries, devices, doubts }))
}

/// Superblocks of one volume that say different things about one generation leave only guesses.
fn refuse_contradiction(newest: &Superblock, sightings: &[Sighting]) -> anyhow::Result<()> {
    let whole = || sightings.iter().filter_map(|s| s.found.as_ref().ok());
    if let Some(other) = whole().find(|s| s.volume != newest.volume) {
        let text = format!(
            "the spares are of two volumes, '{}' and '{}': give the spares of one volume",
            newest.name, other.name
        );
        return Err(refusal(Exit::Mismatch, text));
    }
    let header = |s: &Superblock| (s.entries, s.area_pages, s.journal_pages);
    let same_generation = whole().filter(|s| s.role != CopyRole::Label && s.generation == newest.generation);
    let fenced = |s: &Superblock| s.flags.has(SuperblockFlags::FENCED);
    if same_generation.clone().any(|s| fenced(s) == fenced(newest) && header(s) != header(newest)) {
        let text = format!(
            "the copies contradict each other about generation {}, and nothing tells which one is right; if there is a \
             dump, 'metadata restore' brings it back",
            newest.generation
        );
        return Err(refusal(Exit::Metadata, text));
    }
    Ok(())
}

struct Collected {
    superblock: Superblock,
    table: Table,
    retired: Vec<Entry>,
    doubts: Vec<String>,
}

/// An entry that says: nobody knows where the bytes of these blocks are.
fn unknown(entry: &Entry, block_sectors: u32) -> Entry {
    Entry {
        slot: NO_SLOT,
        lost: Entry::full_mask(block_sectors),
        state: EntryState::Pending,
        cause: Cause::SlotError,
        flags: EntryFlags::STALE,
        ..*entry
    }
}

impl Collected {
    fn apply(&mut self, entry: &Entry) -> anyhow::Result<()> {
        if entry.state == EntryState::Retired {
            self.retired.push(*entry);
        } else if entry.end() <= main_blocks(&self.superblock) {
            self.table.apply(entry)?;
        } else {
            self.doubts
                .push(format!("an entry at block {} lies behind the end of the main device", entry.block));
        }
        Ok(())
    }

    fn checkpoint(&mut self, copies: &Copies<'_>) -> anyhow::Result<()> {
        let mut missing_from: Option<u64> = None;
        let mut reached = 0;
        for index in 0..copies.checkpoint_pages() {
            let Some(entries) = copies.checkpoint_page(index) else {
                missing_from.get_or_insert(reached);
                continue;
            };
            let first = entries.iter().find(|e| e.state != EntryState::Retired).map(|e| e.block);
            if let Some(from) = missing_from.take() {
                self.doubt_blocks(from, first.unwrap_or(main_blocks(&self.superblock)));
            }
            for entry in &entries {
                self.apply(entry)?;
                if entry.state != EntryState::Retired {
                    reached = entry.end();
                }
            }
        }
        if let Some(from) = missing_from {
            self.doubt_blocks(from, main_blocks(&self.superblock));
        }
        Ok(())
    }

    fn doubt_blocks(&mut self, from: u64, to: u64) {
        self.doubts.push(format!(
            "the entries of blocks {from} to {} are damaged in every copy: which of these blocks had moved to the \
             spare is not known, and the main device may hold old contents of them",
            to.saturating_sub(1)
        ));
    }

    /// Applies the journal; gives the newest generation that it proves.
    fn journal(&mut self, copies: &Copies<'_>) -> anyhow::Result<u64> {
        const LOOK_AHEAD: u32 = 4 * MAX_RECORD_PAGES as u32;
        let mut generation = self.superblock.generation;
        // Pages behind the last record, and where the next one is looked for.
        let (mut end, mut position) = (0, 0);
        let mut holes = false;
        while position < copies.journal_pages().min(end + LOOK_AHEAD) {
            let Some(record) = copies.record(position, generation, u64::from(position - end) + 1) else {
                position += 1;
                continue;
            };
            if record.header.generation != generation.wrapping_add(1) {
                holes = true;
                self.doubts.push(format!(
                    "journal records between generations {generation} and {} are damaged in every copy: which blocks \
                     they changed is not known",
                    record.header.generation
                ));
            }
            for edit in &record.edits {
                // Behind a hole a slot may have changed hands: what is named there is not as it was.
                let doubtful = holes && edit.state != EntryState::Retired;
                let unknown = unknown(edit, self.superblock.block_sectors());
                self.apply(if doubtful { &unknown } else { edit })?;
            }
            generation = record.header.generation;
            end = position + record.pages;
            position = end;
        }
        Ok(generation)
    }

    /// All entries, such that each has slots of its own.
    fn consistent(&mut self) -> anyhow::Result<Vec<Entry>> {
        // As recovery will see it: without the slots that lie under metadata.
        let mut pool = Recovered::fresh(self.superblock.clone(), &[])?.pool;
        let mut entries = Vec::new();
        let mut from = Block(0);
        let mut claimed = Vec::new();
        while let Some(entry) = self.table.next_from(from) {
            from = Block(entry.end());
            claimed.push(entry);
        }
        for entry in claimed {
            if entry.state == EntryState::Remapped && pool.claim(&entry).is_err() {
                self.doubts.push(format!(
                    "the slots of blocks {} to {} are others' too, or lie under metadata: what these blocks hold is not known",
                    entry.block,
                    entry.end() - 1
                ));
                entries.push(unknown(&entry, self.superblock.block_sectors()));
            } else {
                entries.push(entry);
            }
        }
        for entry in &self.retired {
            if pool.claim(entry).is_ok() {
                entries.push(*entry);
            }
        }
        Ok(entries)
    }
}

/// As [`Salvage`], of metadata that recovery believed.
pub(crate) fn believed(recovered: &Recovered, spares: &[Device]) -> Salvage {
    let mut superblock = recovered.superblock.clone();
    superblock.generation = recovered.generation;
    let entries = recovered.table.iter().chain(recovered.pool.retired().iter().copied()).collect();
    let devices = recovered.devices.iter().map(|d| d.and_then(|d| spares.get(d).cloned())).collect();
    Salvage { superblock, entries, devices, doubts: Vec::new() }
}
