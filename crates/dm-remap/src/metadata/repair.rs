//! `metadata repair`: a new, complete spare from what can be believed of a damaged one.
//!
//! Invariant: the damaged spares are only read; a slot whose bytes cannot be read becomes lost sectors, never zeroes.

use anyhow::{Context as _, ensure};
use remap_core::op::Fault;
use remap_core::recovery::{Flaw, RecoveryError};
use remap_core::units::{SECTOR_SIZE, Slot};
use remap_format::{DecodeError, Entry, EntryFlags, EntryState};
use remap_io::{Buf, Device};
use remap_runtime::{examine, rewrite};

use super::assembled;
use super::salvage::{Salvage, believed, salvage};
use crate::open::recovery_refusal;

/// Bytes copied at a time.
const CHUNK: u64 = 1 << 20;

/// What a repair did.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// Blocks whose contents were copied.
    pub blocks: u64,
    /// Sectors of them that could not be read.
    pub lost_sectors: u64,
    /// Entries in the new metadata.
    pub entries: u64,
    /// What could not be had, a sentence each.
    pub doubts: Vec<String>,
}

/// What can be had of the volume on these spares; `None`: nothing.
///
/// # Errors
/// The spares are not of one volume, are of a newer format, or contradict each other; out of memory.
pub(crate) fn gather(spares: &[Device]) -> anyhow::Result<Option<Salvage>> {
    match examine(spares, true) {
        Ok(recovered) => Ok(Some(believed(&recovered, spares))),
        Err(
            error @ (RecoveryError::MixedVolumes { .. }
            | RecoveryError::DuplicateSpare { .. }
            | RecoveryError::NoMetadata {
                flaw: Flaw::Damaged(DecodeError::Version { .. } | DecodeError::Incompatible { .. }),
                ..
            }),
        ) => Err(recovery_refusal(&error, spares)),
        Err(_) => salvage(spares),
    }
}

/// Writes what was gathered to `outputs`, one for each spare that is part of the volume, in its order; calls `progress` with blocks done and in all.
///
/// # Errors
/// What was gathered is no volume, or the outputs do not fit: nothing was written. Or they cannot be written.
pub(crate) fn repair(
    gathered: Salvage,
    outputs: &[Device],
    progress: &dyn Fn(u64, u64),
) -> anyhow::Result<Outcome> {
    let Salvage { superblock, entries, devices, doubts } = gathered;
    ensure!(
        outputs.len() == superblock.present().count(),
        "the volume has {} spares: give as many --output, in their order",
        superblock.present().count()
    );
    for (output, (_, record)) in outputs.iter().zip(superblock.present()) {
        let path = output.path().display();
        ensure!(
            output.size() >= record.size,
            "{path}: has {} bytes; the new spare needs at least {}",
            output.size(),
            record.size
        );
    }
    // Slots that went bad belong to the old medium.
    let entries: Vec<Entry> = entries.into_iter().filter(|e| e.state != EntryState::Retired).collect();
    assembled(superblock.clone(), &entries)?;
    let remapped = || entries.iter().filter(|e| e.state == EntryState::Remapped);
    let total = remapped().map(|e| u64::from(e.count)).sum();
    let mut given = outputs.iter();
    let numbered: Vec<Option<&Device>> =
        superblock.spares.iter().map(|s| if s.is_present() { given.next() } else { None }).collect();
    let mut copier = Copier {
        devices: &devices,
        outputs: &numbered,
        block_size: u64::from(superblock.block_size()),
        block_sectors: superblock.block_sectors(),
        entries: Vec::new(),
        lost_sectors: 0,
    };
    let mut done = 0;
    for entry in &entries {
        if entry.state == EntryState::Remapped {
            copier.copy(entry)?;
            done += u64::from(entry.count);
            progress(done, total);
        } else {
            copier.entries.push(*entry);
        }
    }
    let Copier { entries, lost_sectors, .. } = copier;
    for output in outputs {
        let why = || format!("{}: cannot be flushed", output.path().display());
        output.flush().map_err(fault_error).with_context(why)?;
    }
    let fresh = assembled(superblock, &entries)?;
    rewrite(outputs, fresh)?;
    let checked = examine(outputs, true).context("the new spare, read back")?;
    Ok(Outcome { blocks: total, lost_sectors, entries: checked.table.counts().entries, doubts })
}

fn fault_error(fault: Fault) -> anyhow::Error {
    anyhow::anyhow!("the device reports {fault:?}")
}

struct Copier<'d> {
    devices: &'d [Option<Device>],
    /// By their numbers in the volume.
    outputs: &'d [Option<&'d Device>],
    block_size: u64,
    block_sectors: u32,
    entries: Vec<Entry>,
    lost_sectors: u64,
}

impl Copier<'_> {
    /// Copies the slots of an entry and keeps the entry, cut where sectors turned out to be lost.
    fn copy(&mut self, entry: &Entry) -> anyhow::Result<()> {
        let step = (CHUNK / self.block_size).max(1);
        let mut at = 0;
        while at < u64::from(entry.count) {
            let count = step.min(u64::from(entry.count) - at);
            let part = Entry {
                block: entry.block + at,
                slot: entry.slot + at,
                count: u32::try_from(count).unwrap_or(1),
                ..*entry
            };
            if count > 1 && !self.copy_whole(&part)? {
                for n in 0..count {
                    self.copy_block(&Entry { block: part.block + n, slot: part.slot + n, count: 1, ..part })?;
                }
            } else if count == 1 {
                self.copy_block(&part)?;
            } else {
                self.entries.push(part);
            }
            at += count;
        }
        Ok(())
    }

    fn source(&self, slot: Slot) -> Option<&Device> {
        self.devices.get(usize::from(slot.spare())).and_then(Option::as_ref)
    }

    fn write(&self, slot: Slot, within: u64, buf: &Buf) -> anyhow::Result<()> {
        let output = self
            .outputs
            .get(usize::from(slot.spare()))
            .copied()
            .flatten()
            .context("an entry names a spare that is not there")?;
        let written = output.write_at(slot.index() * self.block_size + within, buf);
        written
            .map_err(fault_error)
            .with_context(|| format!("{}: cannot be written", output.path().display()))
    }

    /// A run in one piece; `false`: it cannot be read so.
    fn copy_whole(&self, part: &Entry) -> anyhow::Result<bool> {
        let slot = Slot(part.slot);
        let bytes = u64::from(part.count) * self.block_size;
        let mut buf = Buf::alloc(usize::try_from(bytes)?)?;
        let read =
            self.source(slot).is_some_and(|d| d.read_at(slot.index() * self.block_size, &mut buf).is_ok());
        if read {
            self.write(slot, 0, &buf)?;
        }
        Ok(read)
    }

    /// One block, unit by unit if need be.
    fn copy_block(&mut self, part: &Entry) -> anyhow::Result<()> {
        if self.copy_whole(part)? {
            self.entries.push(*part);
            return Ok(());
        }
        let slot = Slot(part.slot);
        let unit = self.source(slot).map_or(SECTOR_SIZE, |d| u64::from(d.limits().logical_block));
        let mut buf = Buf::alloc(usize::try_from(unit)?)?;
        let mut lost = part.lost;
        for within in (0..self.block_size).step_by(usize::try_from(unit)?) {
            let at = slot.index() * self.block_size + within;
            if self.source(slot).is_some_and(|d| d.read_at(at, &mut buf).is_ok()) {
                self.write(slot, within, &buf)?;
            } else {
                for sector in within / SECTOR_SIZE..(within + unit) / SECTOR_SIZE {
                    lost |= 1 << sector;
                }
            }
        }
        self.lost_sectors += u64::from(lost.count_ones() - part.lost.count_ones());
        let entry = Entry { lost, flags: EntryFlags(part.flags.0 | EntryFlags::STALE.0), ..*part };
        debug_assert_eq!(lost & !Entry::full_mask(self.block_sectors), 0, "a block has no more sectors");
        self.entries.push(entry);
        Ok(())
    }
}
