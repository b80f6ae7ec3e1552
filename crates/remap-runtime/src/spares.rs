//! Spares while nobody serves them: examine, adopt, rewrite.
//!
//! Invariant: examining only reads. Adopting and rewriting write to the spares alone, and only after everything that could
//! be refused has been.

use remap_core::engine::{Engine, EngineConfig, Event, Notice};
use remap_core::memory::NoMemory;
use remap_core::op::{Buffer, DeviceId, Fault, Op, OpKind};
use remap_core::pool::SlotCounts;
use remap_core::recovery::history::{self, Generation};
use remap_core::recovery::{Recovered, RecoveryError, SpareReader, recover};
use remap_core::units::{Extent, SECTOR_SIZE};
use remap_format::layout::{self, LayoutError};
use remap_format::{
    Cause, Entry, EntryFlags, EntryState, MainIdentity, NO_SLOT, PAGE_SIZE, Policy, Superblock,
    SuperblockFlags,
};
use remap_io::{AllocError, Buf, Device, Identity};

use crate::clock::{Clock, unix_seconds};

/// What adopting needs to know.
#[derive(Clone, Debug)]
pub struct AdoptOptions {
    /// Name of the volume, for people; not empty.
    pub name: String,
    /// Block size in bytes: a power of two from 512 to 65536.
    pub block_size: u32,
    /// Policy.
    pub policy: Policy,
    /// Sectors of the main device that are known to hold nothing (from a rescue map): sorted, not overlapping.
    pub lost: Vec<Extent>,
    /// Overwrite spares that hold something.
    pub force: bool,
}

/// What adopting did.
#[derive(Clone, Debug)]
pub struct AdoptReport {
    /// The new volume.
    pub superblock: Superblock,
    /// Its slots.
    pub slots: SlotCounts,
    /// Bytes that the metadata take, all copies together.
    pub metadata_bytes: u64,
}

/// Why a volume was not made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdoptError {
    /// See [`LayoutError`].
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The block size cannot be.
    #[error("block size {block_size} does not work: it must be a power of two from {least} to 65536 bytes")]
    BlockSize {
        /// What was asked.
        block_size: u32,
        /// The least that works with this main device.
        least: u32,
    },
    /// The spare cannot be written in units as small as the main device's.
    #[error(
        "{spare}: its logical block is {spare_block} bytes, larger than the main device's {main_block}; use a spare with {main_block}-byte blocks (a file will do)"
    )]
    LogicalBlock {
        /// Path of the spare.
        spare: String,
        /// Its logical block in bytes.
        spare_block: u32,
        /// The main device's.
        main_block: u32,
    },
    /// The spare holds a volume.
    #[error(
        "{spare}: already belongs to volume '{name}'; release that volume first, or use --force to overwrite it"
    )]
    InUse {
        /// Path of the spare.
        spare: String,
        /// The volume's name.
        name: String,
    },
    /// The spare holds something else.
    #[error("{spare}: holds something ({found}); choose an empty spare, or use --force to overwrite it")]
    NotEmpty {
        /// Path of the spare.
        spare: String,
        /// What was found.
        found: String,
    },
    /// The main device has no whole block.
    #[error(
        "{main}: {size} bytes are too few; the main device needs at least one block of {block_size} bytes"
    )]
    MainTooSmall {
        /// Path of the main device.
        main: String,
        /// Its size in bytes.
        size: u64,
        /// Block size in bytes.
        block_size: u32,
    },
    /// A device must be writable.
    #[error("{0}: is read-only; the spare must be writable")]
    ReadOnly(String),
    /// The list of lost sectors does not fit.
    #[error("the list of lost sectors: {0}")]
    Lost(String),
    /// See [`RecoveryError`].
    #[error(transparent)]
    Metadata(#[from] RecoveryError),
    /// See [`RewriteError`].
    #[error(transparent)]
    Write(#[from] RewriteError),
}

/// Why metadata could not be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RewriteError {
    /// A device failed.
    #[error(
        "cannot write metadata to the spare ({0:?}); nothing was acknowledged; check the spare and try again"
    )]
    Device(Fault),
    /// No memory for a buffer.
    #[error(transparent)]
    Memory(#[from] AllocError),
    /// No memory for the engine.
    #[error(transparent)]
    Engine(#[from] NoMemory),
}

/// Reads spares for recovery.
pub(crate) struct Reader<'d> {
    spares: &'d [Device],
    buf: Option<Buf>,
}

impl<'d> Reader<'d> {
    pub(crate) fn over(spares: &'d [Device]) -> Self {
        Self { spares, buf: None }
    }
}

impl SpareReader for Reader<'_> {
    fn read(&mut self, spare: usize, offset: u64, into: &mut [u8]) -> Result<(), Fault> {
        let device = self.spares.get(spare).ok_or(Fault::Gone)?;
        let mut buf = match self.buf.take() {
            Some(buf) if buf.capacity() >= into.len() && buf.is_unique() => buf,
            _ => Buf::alloc(into.len().max(1 << 20)).map_err(|_| Fault::NoMemory)?,
        };
        buf.set_len(into.len());
        let outcome = device.read_at(offset, &mut buf);
        if outcome.is_ok() {
            into.copy_from_slice(buf.bytes());
        }
        // After a time-out the kernel may still write to the buffer: it is not used again.
        self.buf = buf.is_unique().then_some(buf);
        outcome
    }
}

/// Reads the metadata on these spares (any order) without changing anything.
///
/// # Errors
/// [`RecoveryError`].
pub fn examine(spares: &[Device], released_too: bool) -> Result<Recovered, RecoveryError> {
    let sizes: Vec<u64> = spares.iter().map(Device::size).collect();
    recover(&mut Reader::over(spares), &sizes, released_too)
}

/// Every generation of the table that these spares prove, newest first.
///
/// # Errors
/// As [`examine`].
pub fn generations(spares: &[Device]) -> Result<Vec<Generation>, RecoveryError> {
    let sizes: Vec<u64> = spares.iter().map(Device::size).collect();
    history::generations(&mut Reader::over(spares), &sizes)
}

/// The metadata on these spares as of a generation; `None`: they do not prove it (any more).
///
/// # Errors
/// As [`examine`].
pub fn examine_at(spares: &[Device], generation: u64) -> Result<Option<Recovered>, RecoveryError> {
    let sizes: Vec<u64> = spares.iter().map(Device::size).collect();
    history::recover_at(&mut Reader::over(spares), &sizes, generation)
}

/// The main device's identity as the superblock keeps it.
#[must_use]
pub fn main_identity(main: &Device) -> MainIdentity {
    let Identity { size, logical_block, wwn, serial, model, content_uuid } = main.identity().clone();
    let clip = |text: Option<String>| Superblock::clip_text(&text.unwrap_or_default());
    MainIdentity {
        size,
        logical_block,
        wwn: clip(wwn),
        serial: clip(serial),
        model: clip(model),
        content_uuid: clip(content_uuid),
    }
}

/// Turns lost sectors into entries: whole blocks as runs, partly lost blocks one by one.
///
/// # Errors
/// What does not fit, in words.
pub fn lost_entries(
    lost: &[Extent],
    main_size: u64,
    block_size: u32,
    time: u64,
) -> Result<Vec<Entry>, String> {
    let per_block = u64::from(block_size) / SECTOR_SIZE;
    let main_sectors = main_size / SECTOR_SIZE;
    let full = Entry::full_mask(u32::try_from(per_block).unwrap_or(128));
    let mut entries: Vec<Entry> = Vec::new();
    let entry = |block, count, lost| Entry {
        block,
        count,
        slot: NO_SLOT,
        lost,
        state: EntryState::Pending,
        cause: Cause::Imported,
        flags: EntryFlags::STALE,
        errors: 0,
        time,
    };
    let partial = |entries: &mut Vec<Entry>, block: u64, mask: u128| match entries.last_mut() {
        Some(last) if last.block == block && last.count == 1 => last.lost |= mask,
        _ => entries.push(entry(block, 1, mask)),
    };
    let mut reached = 0;
    for extent in lost {
        let (start, end) = (extent.start().0, extent.end().0);
        if start < reached {
            return Err(format!("{extent}: overlaps the one before"));
        }
        if end > main_sectors {
            return Err(format!("{extent}: lies behind the end of the main device ({main_sectors} sectors)"));
        }
        reached = end;
        let mut at = start;
        while at < end {
            let (block, within) = (at / per_block, at % per_block);
            let whole = (end - at) / per_block;
            if within == 0 && whole > 0 {
                let count = u32::try_from(whole).unwrap_or(u32::MAX);
                entries.push(entry(block, count, full));
                at += u64::from(count) * per_block;
            } else {
                let here = (per_block - within).min(end - at);
                let ones = if here >= 128 { u128::MAX } else { (1 << here) - 1 };
                partial(&mut entries, block, ones << within);
                at += here;
            }
        }
    }
    Ok(entries)
}

/// Makes a volume of `main` and `spares`. Writes nothing to `main`.
///
/// # Errors
/// [`AdoptError`]; unless it is [`AdoptError::Write`], nothing was written.
pub fn adopt(main: &Device, spares: &[Device], options: &AdoptOptions) -> Result<AdoptReport, AdoptError> {
    let (recovered, report) = prepare(main, spares, options)?;
    for spare in spares {
        wipe(spare)?;
    }
    rewrite(spares, recovered)?;
    Ok(report)
}

/// Everything that [`adopt`] does before it writes.
///
/// # Errors
/// As [`adopt`], but for [`AdoptError::Write`].
pub fn rehearse(main: &Device, spares: &[Device], options: &AdoptOptions) -> Result<AdoptReport, AdoptError> {
    Ok(prepare(main, spares, options)?.1)
}

fn prepare(
    main: &Device,
    spares: &[Device],
    options: &AdoptOptions,
) -> Result<(Recovered, AdoptReport), AdoptError> {
    check_devices(main, spares, options)?;
    let block_size = u64::from(options.block_size);
    let sizes: Vec<u64> = spares.iter().map(|s| s.size() - s.size() % block_size).collect();
    let shape = layout::plan(&sizes, block_size)?;
    let time = unix_seconds();
    let records: Vec<_> = sizes.iter().map(|&size| (*uuid::Uuid::new_v4().as_bytes(), size)).collect();
    let volume = *uuid::Uuid::new_v4().as_bytes();
    let superblock = Superblock {
        policy: options.policy,
        created: time,
        written: time,
        ..Superblock::new(volume, &options.name, options.block_size, &shape, &records, main_identity(main))
    };
    let entries =
        lost_entries(&options.lost, main.size(), options.block_size, time).map_err(AdoptError::Lost)?;
    if entries.len() as u64 > shape.capacity() {
        let why = format!(
            "{} runs; this spare has room for {}: use a larger spare",
            entries.len(),
            shape.capacity()
        );
        return Err(AdoptError::Lost(why));
    }
    let recovered = Recovered::fresh(superblock.clone(), &entries)?;
    let slots = recovered.pool.counts(None);
    let metadata_bytes = u64::from(remap_format::COPIES) * shape.bytes();
    Ok((recovered, AdoptReport { superblock, slots, metadata_bytes }))
}

fn check_devices(main: &Device, spares: &[Device], options: &AdoptOptions) -> Result<(), AdoptError> {
    let main_block = main.limits().logical_block;
    let least = main_block.max(512);
    if !options.block_size.is_power_of_two() || options.block_size < least || options.block_size > 65536 {
        return Err(AdoptError::BlockSize { block_size: options.block_size, least });
    }
    if main.size() < u64::from(options.block_size) {
        let main_path = main.path().display().to_string();
        return Err(AdoptError::MainTooSmall {
            main: main_path,
            size: main.size(),
            block_size: options.block_size,
        });
    }
    spares.iter().try_for_each(|spare| check_spare(spare, main_block, options.force))
}

/// May this device become a spare, over whatever is on it with `force`?
pub(crate) fn check_spare(device: &Device, main_block: u32, force: bool) -> Result<(), AdoptError> {
    let spare = device.path().display().to_string();
    if device.limits().read_only {
        return Err(AdoptError::ReadOnly(spare));
    }
    let spare_block = device.limits().logical_block;
    if spare_block > main_block {
        return Err(AdoptError::LogicalBlock { spare, spare_block, main_block });
    }
    if !force {
        match examine(std::slice::from_ref(device), true) {
            Ok(found) if found.superblock.flags.has(SuperblockFlags::RELEASED) => {}
            Ok(found) => return Err(AdoptError::InUse { spare, name: found.superblock.name }),
            Err(RecoveryError::NoMetadata { .. }) => {
                if let Some(found) = contents(device) {
                    return Err(AdoptError::NotEmpty { spare, found });
                }
            }
            Err(RecoveryError::MissingSpare { expected, .. }) => {
                let name = format!("one of {expected} spares of a volume");
                return Err(AdoptError::InUse { spare, name });
            }
            Err(other) => return Err(AdoptError::NotEmpty { spare, found: other.to_string() }),
        }
    }
    Ok(())
}

/// What a device that is no spare holds, as far as can be told: something with an identity, or, of a regular file, bytes at its
/// front. (A disk that nobody uses any more is seldom blank.)
#[must_use]
pub fn contents(device: &Device) -> Option<String> {
    const FRONT: u64 = 64 << 10;
    if let Some(found) = &device.identity().content_uuid {
        return Some(found.clone());
    }
    let unit = u64::from(device.limits().logical_block);
    let len = FRONT.min(device.size() - device.size() % unit);
    let mut buf = Buf::alloc(usize::try_from(len).ok()?).ok()?;
    let front = device.read_at(0, &mut buf).map(|()| buf.bytes());
    let used = !device.is_block_device() && front.is_ok_and(|bytes| bytes.iter().any(|&b| b != 0));
    used.then(|| "a file that is not blank".to_owned())
}

/// Makes sure that no superblock of an earlier life is found on the spare.
pub(crate) fn wipe(spare: &Device) -> Result<(), RewriteError> {
    let pages = (layout::SUPERBLOCK_PAGES as usize) * PAGE_SIZE;
    let zeroes = Buf::alloc(pages)?;
    for place in layout::search_places(spare.size()) {
        if place + pages as u64 <= spare.size() {
            spare.write_at(place, &zeroes).map_err(RewriteError::Device)?;
        }
    }
    spare.flush().map_err(RewriteError::Device)
}

/// Writes all metadata copies of a volume from `recovered` (whose table may have been edited); gives the generation.
/// The spares may come in any order if `recovered` came from [`examine`] of the same slice.
///
/// # Errors
/// [`RewriteError`]: the spares hold either the old state or the new one.
pub fn rewrite(spares: &[Device], mut recovered: Recovered) -> Result<u64, RewriteError> {
    recovered.mark_edited();
    write_copies(spares, recovered)
}

/// See [`rewrite`].
fn write_copies(spares: &[Device], mut recovered: Recovered) -> Result<u64, RewriteError> {
    recovered.needs_repair = true;
    let devices = recovered.devices.clone();
    let clock = Clock::start();
    let mut engine = Engine::start(recovered, EngineConfig::default(), clock.now())?;
    loop {
        while let Some(event) = engine.poll_event() {
            match event {
                Event::Notice(Notice::Live) => return Ok(engine.generation()),
                Event::Notice(Notice::Frozen { fault }) => return Err(RewriteError::Device(fault)),
                _ => {}
            }
        }
        let Some(op) = engine.poll_op() else { return Err(RewriteError::Device(Fault::Unknown)) };
        let id = op.id;
        let outcome = perform(spares, &devices, op);
        engine.handle_completion(clock.now(), id, outcome);
    }
}

/// Carries out one operation of an engine that only writes metadata.
fn perform(spares: &[Device], devices: &[Option<usize>], op: Op) -> Result<(), Fault> {
    let DeviceId::Spare(n) = op.device else { return Err(Fault::Unsupported) };
    let device = devices.get(usize::from(n)).copied().flatten();
    let device = device.and_then(|d| spares.get(d)).ok_or(Fault::Gone)?;
    match op.kind {
        OpKind::Write { from: Buffer::Owned(bytes), fua } => {
            let mut buf = Buf::alloc(bytes.len()).map_err(|_| Fault::NoMemory)?;
            buf.bytes_mut().copy_from_slice(&bytes);
            device.write_at(op.extent.start().0 * SECTOR_SIZE, &buf)?;
            if fua { device.flush() } else { Ok(()) }
        }
        OpKind::Flush => device.flush(),
        _ => Err(Fault::Unsupported),
    }
}
