//! From whatever is on the spares to a table that can be trusted, or to a refusal that says why (C8).
//!
//! Invariant: recovery only reads. It believes the newest generation that any copy proves, page by page and record by
//! record from any copy in which it is whole, and nothing else; two whole copies that say different things about one
//! generation are a refusal. [`Recovered`] is the only way to an engine.

use alloc::string::String;
use alloc::vec::Vec;

use remap_format::layout::{self, CopyShape};
use remap_format::{
    COPIES, CheckpointPage, CopyRole, DecodeError, Entry, EntryState, MAX_RECORD_PAGES, PAGE_SIZE,
    PageHeader, Record, RecordHeader, Superblock, SuperblockFlags, newer,
};

use crate::elect::{CopyHeader, ElectionError, elect};
use crate::op::Fault;
use crate::pool::{ClaimError, SparePool};
use crate::table::{NoMemory, Table};
use crate::units::Block;

/// How recovery reads the spares. Blocking; the caller classifies faults and bounds the time of each call.
pub trait SpareReader {
    /// Bytes of spare device number `spare`, in the order in which the devices were given.
    ///
    /// # Errors
    /// The device's fault.
    fn read(&mut self, spare: usize, offset: u64, into: &mut [u8]) -> Result<(), Fault>;
}

/// What was wrong with a place on a spare.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// It could not be read.
    #[error("cannot be read ({0:?})")]
    Unreadable(Fault),
    /// It is not what it should be.
    #[error(transparent)]
    Damaged(DecodeError),
    /// It is whole, but older than the newest generation.
    #[error("is out of date")]
    Stale,
    /// It was marked as not to be believed when it could not be kept in step.
    #[error("was taken out of use after a write error")]
    Fenced,
}

/// What recovery found in one of the five copies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyReport {
    /// Copy number.
    pub copy: u8,
    /// On which spare of the volume.
    pub spare: u8,
    /// First byte on that spare.
    pub start: u64,
    /// Generation it proves, with its journal, if it has a whole superblock.
    pub generation: Option<u64>,
    /// The first flaw, and the byte offset of it on the spare; `None`: in step.
    pub flaw: Option<(Flaw, u64)>,
    /// Which superblock page (0 or 1) holds the current superblock, if one does.
    pub superblock_page: Option<u8>,
}

/// Why a volume cannot be assembled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecoveryError {
    /// Nothing on these devices is ours.
    #[error("no dm-remap metadata on spare {spare}: {flaw}")]
    NoMetadata {
        /// Which of the given devices.
        spare: usize,
        /// What was there instead.
        flaw: Flaw,
    },
    /// Two volumes' spares were given together.
    #[error("spare {spare} belongs to volume '{name}', not to the same volume as the first one")]
    MixedVolumes {
        /// Which of the given devices.
        spare: usize,
        /// The other volume's name.
        name: String,
    },
    /// A spare of the volume was not given.
    #[error("the volume has {expected} spares; number {missing} was not given")]
    MissingSpare {
        /// Its number in the volume.
        missing: u8,
        /// Spares of the volume.
        expected: usize,
    },
    /// A device was given twice or a spare was cloned.
    #[error("spares {first} and {second} are the same spare or copies of each other")]
    DuplicateSpare {
        /// One.
        first: usize,
        /// The other.
        second: usize,
    },
    /// A spare is smaller than it was.
    #[error("spare {spare} has {found} bytes, {expected} when it was added; nothing was changed")]
    SpareShrank {
        /// Its number in the volume.
        spare: u8,
        /// Bytes now.
        found: u64,
        /// Bytes then.
        expected: u64,
    },
    /// The volume was given up on purpose.
    #[error(
        "volume '{name}' was released: its main device stands alone again; use --force to open it all the same"
    )]
    Released {
        /// Its name.
        name: String,
    },
    /// See [`ElectionError`].
    #[error(transparent)]
    Election(#[from] ElectionError),
    /// A page of the table is whole in no copy.
    #[error("page {page} of the table is damaged in every copy; nothing was changed (see 'metadata repair')")]
    TableLost {
        /// Its number.
        page: u32,
    },
    /// A record of the journal is whole in no copy, but later ones are.
    #[error(
        "journal record {generation} is damaged in every copy; nothing was changed (see 'metadata repair')"
    )]
    JournalHole {
        /// Its generation.
        generation: u64,
    },
    /// The table contradicts itself.
    #[error("the table is not consistent: {0}")]
    Inconsistent(String),
    /// Out of memory.
    #[error(transparent)]
    Memory(#[from] NoMemory),
}

/// A volume whose metadata were read and believed.
#[derive(Debug)]
pub struct Recovered {
    /// The volume as its newest superblock describes it (role, area and generation are those of the checkpoint).
    pub superblock: Superblock,
    /// For each spare of the volume, which of the given devices it is.
    pub devices: Vec<usize>,
    /// The table.
    pub table: Table,
    /// Its slots.
    pub pool: SparePool,
    /// Generation of the table.
    pub generation: u64,
    /// Next free journal page.
    pub journal_position: u32,
    /// What was found in each copy.
    pub copies: Vec<CopyReport>,
    /// Must all copies be written anew before the volume is served?
    pub needs_repair: bool,
}

impl Recovered {
    /// Copies in step.
    #[must_use]
    pub fn good_copies(&self) -> u8 {
        self.copies.iter().filter(|c| c.flaw.is_none()).count() as u8
    }

    /// A volume that has never been written: `superblock` describes it, `entries` are in its table from the start.
    ///
    /// # Errors
    /// Memory, or entries that contradict each other.
    pub fn fresh(superblock: Superblock, entries: &[Entry]) -> Result<Self, RecoveryError> {
        let sizes: Vec<u64> = superblock.spares.iter().map(|s| s.size).collect();
        let copies = layout::copy_places(&sizes)
            .iter()
            .map(|place| CopyReport {
                copy: place.copy,
                spare: place.spare,
                start: place.start,
                generation: None,
                flaw: Some((Flaw::Damaged(DecodeError::Magic("superblock")), place.start)),
                superblock_page: None,
            })
            .collect();
        let mut table = Table::create(main_blocks(&superblock))?;
        let mut pool = empty_pool(&superblock)?;
        for entry in entries {
            install(&superblock, &mut table, &mut pool, entry)?;
        }
        let generation = superblock.generation;
        let devices = (0..superblock.spares.len()).collect();
        Ok(Self {
            superblock,
            devices,
            table,
            pool,
            generation,
            journal_position: 0,
            copies,
            needs_repair: true,
        })
    }
}

/// Blocks of the main device; a last one may be cut short by the device's end.
#[must_use]
pub fn main_blocks(superblock: &Superblock) -> u64 {
    superblock.main.size.div_ceil(u64::from(superblock.block_size()))
}

/// The shape of the volume's copies.
#[must_use]
pub fn shape_of(superblock: &Superblock) -> CopyShape {
    CopyShape { area_pages: superblock.area_pages, journal_pages: superblock.journal_pages }
}

pub(crate) fn empty_pool(superblock: &Superblock) -> Result<SparePool, NoMemory> {
    let sizes: Vec<u64> = superblock.spares.iter().map(|s| s.size).collect();
    let block_size = u64::from(superblock.block_size());
    let mut pool = SparePool::default();
    for (index, spare) in (0u8..).zip(&superblock.spares) {
        let metadata: Vec<(u64, u64)> = layout::metadata_ranges(&sizes, index, &shape_of(superblock))
            .iter()
            .map(|(start, len)| (start / block_size, (start + len).div_ceil(block_size)))
            .collect();
        pool.add_spare(spare.slots, &metadata)?;
    }
    Ok(pool)
}

/// Puts an entry read from disk (or given at creation) into table and pool.
fn install(
    superblock: &Superblock,
    table: &mut Table,
    pool: &mut SparePool,
    entry: &Entry,
) -> Result<(), RecoveryError> {
    let wrong = |why: &dyn core::fmt::Display| {
        RecoveryError::Inconsistent(alloc::format!("entry at block {}: {why}", entry.block))
    };
    if matches!(entry.state, EntryState::Remapped | EntryState::Retired) {
        pool.claim(entry).map_err(|error| match error {
            ClaimError::Memory(no_memory) => RecoveryError::Memory(no_memory),
            other => wrong(&other),
        })?;
    }
    match entry.state {
        EntryState::Retired => return Ok(()),
        EntryState::Absent => return Err(wrong(&"an absent entry in a table")),
        EntryState::Pending | EntryState::Remapped => {}
    }
    if entry.end() > main_blocks(superblock) {
        return Err(wrong(&"lies behind the end of the main device"));
    }
    if table.next_from(Block(entry.block)).is_some_and(|e| e.block < entry.end()) {
        return Err(wrong(&"overlaps another entry"));
    }
    table.apply(entry)?;
    Ok(())
}

/// A superblock that was found, and where.
struct Found {
    device: usize,
    superblock: Superblock,
}

/// Reads the metadata on `sizes.len()` spare devices of these sizes (bytes), in any order.
///
/// `released_too`: open a volume that was released.
///
/// # Errors
/// [`RecoveryError`]; nothing was written.
pub fn recover(
    reader: &mut dyn SpareReader,
    sizes: &[u64],
    released_too: bool,
) -> Result<Recovered, RecoveryError> {
    let superblock = newest_superblock(reader, sizes)?;
    let devices = match_devices(reader, sizes, &superblock)?;
    if superblock.flags.has(SuperblockFlags::RELEASED) && !released_too {
        return Err(RecoveryError::Released { name: superblock.name });
    }
    for (spare, record) in (0u8..).zip(&superblock.spares) {
        let found = devices.get(usize::from(spare)).and_then(|&d| sizes.get(d)).copied().unwrap_or(0);
        if found < record.size {
            return Err(RecoveryError::SpareShrank { spare, found, expected: record.size });
        }
    }
    let mut session = Session::begin(reader, devices, superblock)?;
    let entries = session.read_checkpoint()?;
    let (table, pool) = session.build(&entries)?;
    session.replay(table, pool)
}

/// The newest believable superblock on any device; every device must hold one of the same volume.
fn newest_superblock(reader: &mut dyn SpareReader, sizes: &[u64]) -> Result<Superblock, RecoveryError> {
    let mut best: Option<Superblock> = None;
    for device in 0..sizes.len() {
        let found = scan_device(reader, device, sizes)?;
        for candidate in found {
            let superblock = candidate.superblock;
            match &best {
                Some(b) if b.volume != superblock.volume => {
                    return Err(RecoveryError::MixedVolumes { spare: device, name: superblock.name });
                }
                Some(b) if !newer(superblock.generation, b.generation) => {}
                _ => best = Some(superblock),
            }
        }
    }
    best.ok_or(RecoveryError::NoMetadata { spare: 0, flaw: Flaw::Damaged(DecodeError::Magic("superblock")) })
}

/// All whole, unfenced superblocks on a device.
fn scan_device(
    reader: &mut dyn SpareReader,
    device: usize,
    sizes: &[u64],
) -> Result<Vec<Found>, RecoveryError> {
    let size = sizes.get(device).copied().unwrap_or(0);
    let mut found: Vec<Found> = Vec::new();
    let mut flaw = None;
    let mut fenced = false;
    let mut places = layout::search_places(size);
    let mut next = 0;
    while let Some(&place) = places.get(next) {
        next += 1;
        for page in 0..layout::SUPERBLOCK_PAGES {
            match read_superblock(reader, device, place + page * PAGE_SIZE as u64, size) {
                Ok(superblock) if superblock.flags.has(SuperblockFlags::FENCED) => fenced = true,
                Ok(superblock) => {
                    // A device that has grown keeps its anchors where its recorded size puts them.
                    let recorded =
                        superblock.spares.get(usize::from(superblock.spare_index)).map_or(0, |s| s.size);
                    for old in layout::search_places(recorded) {
                        if !places.contains(&old) {
                            places.push(old);
                        }
                    }
                    found.push(Found { device, superblock });
                }
                Err(Flaw::Damaged(e @ (DecodeError::Version { .. } | DecodeError::Incompatible { .. }))) => {
                    return Err(RecoveryError::NoMetadata { spare: device, flaw: Flaw::Damaged(e) });
                }
                Err(other) => match (flaw, other) {
                    (None | Some(Flaw::Damaged(DecodeError::Magic(_))), other) => flaw = Some(other),
                    _ => {}
                },
            }
        }
    }
    if found.is_empty() {
        let flaw = if fenced {
            Flaw::Fenced
        } else {
            flaw.unwrap_or(Flaw::Damaged(DecodeError::Magic("superblock")))
        };
        return Err(RecoveryError::NoMetadata { spare: device, flaw });
    }
    Ok(found)
}

fn read_superblock(
    reader: &mut dyn SpareReader,
    device: usize,
    at: u64,
    size: u64,
) -> Result<Superblock, Flaw> {
    let mut page = [0; PAGE_SIZE];
    if at.checked_add(PAGE_SIZE as u64).is_none_or(|end| end > size) {
        return Err(Flaw::Damaged(DecodeError::Magic("superblock")));
    }
    reader.read(device, at, &mut page).map_err(Flaw::Unreadable)?;
    Superblock::decode(&page).map_err(Flaw::Damaged)
}

/// Which given device is which spare of the volume.
fn match_devices(
    reader: &mut dyn SpareReader,
    sizes: &[u64],
    best: &Superblock,
) -> Result<Vec<usize>, RecoveryError> {
    let expected = best.spares.len();
    let mut devices: Vec<Option<usize>> = alloc::vec![None; expected];
    for device in 0..sizes.len() {
        let found = scan_device(reader, device, sizes)?;
        let Some(first) = found.first() else { continue };
        let index = usize::from(first.superblock.spare_index);
        match devices.get_mut(index) {
            Some(place @ None) => *place = Some(first.device),
            Some(Some(other)) => {
                return Err(RecoveryError::DuplicateSpare { first: *other, second: device });
            }
            None => {
                return Err(RecoveryError::MixedVolumes {
                    spare: device,
                    name: first.superblock.name.clone(),
                });
            }
        }
    }
    let mut out = Vec::new();
    for (missing, device) in (0u8..).zip(devices) {
        out.push(device.ok_or(RecoveryError::MissingSpare { missing, expected })?);
    }
    Ok(out)
}

/// Recovery once it is known which volume and which devices.
struct Session<'r> {
    reader: &'r mut dyn SpareReader,
    devices: Vec<usize>,
    superblock: Superblock,
    shape: CopyShape,
    copies: Vec<CopyReport>,
    /// Copies that name the elected checkpoint.
    members: [bool; COPIES as usize],
}

impl<'r> Session<'r> {
    fn begin(
        reader: &'r mut dyn SpareReader,
        devices: Vec<usize>,
        newest: Superblock,
    ) -> Result<Self, RecoveryError> {
        let sizes: Vec<u64> = newest.spares.iter().map(|s| s.size).collect();
        let mut copies = Vec::new();
        let mut headers: [Option<CopyHeader>; COPIES as usize] = [None; COPIES as usize];
        let mut superblocks: Vec<Option<Superblock>> = Vec::new();
        for (place, header) in layout::copy_places(&sizes).iter().zip(&mut headers) {
            let device = devices.get(usize::from(place.spare)).copied().unwrap_or(0);
            let size = sizes.get(usize::from(place.spare)).copied().unwrap_or(0);
            let (report, found) = read_copy_superblock(reader, device, size, place, &newest);
            *header = found.as_ref().map(CopyHeader::of);
            superblocks.push(found);
            copies.push(report);
        }
        let election = elect(&headers)?;
        let chosen =
            superblocks.into_iter().zip(election.members).find_map(|(s, member)| s.filter(|_| member));
        // An election has at least one member, and members have superblocks.
        let superblock = chosen.unwrap_or(newest);
        for (report, member) in copies.iter_mut().zip(election.members) {
            if !member && report.flaw.is_none() {
                report.flaw = Some((Flaw::Stale, report.start));
            }
        }
        let shape = shape_of(&superblock);
        Ok(Self { reader, devices, superblock, shape, copies, members: election.members })
    }

    fn read(&mut self, copy: usize, offset: u64, into: &mut [u8]) -> Result<(), (Flaw, u64)> {
        let (spare, start) = self.copies.get(copy).map_or((0, 0), |c| (c.spare, c.start));
        let device = self.devices.get(usize::from(spare)).copied().unwrap_or(0);
        self.reader
            .read(device, start + offset, into)
            .map_err(|fault| (Flaw::Unreadable(fault), start + offset))
    }

    fn note(&mut self, copy: usize, flaw: (Flaw, u64)) {
        if let Some(report) = self.copies.get_mut(copy) {
            report.flaw.get_or_insert(flaw);
        }
    }

    /// Every page of the elected checkpoint, each from the first copy in which it is whole; all members are checked.
    fn read_checkpoint(&mut self) -> Result<Vec<Entry>, RecoveryError> {
        let total = self.superblock.entries;
        let pages = u32::try_from(total.div_ceil(remap_format::PAGE_ENTRIES as u64)).unwrap_or(u32::MAX);
        let mut whole: Vec<Option<Vec<Entry>>> = Vec::new();
        whole.try_reserve_exact(pages as usize).map_err(|_| NoMemory)?;
        whole.resize_with(pages as usize, || None);
        for copy in 0..usize::from(COPIES) {
            if self.members.get(copy).copied().unwrap_or(false) {
                self.read_copy_pages(copy, &mut whole)?;
            }
        }
        let mut entries = Vec::new();
        entries.try_reserve_exact(usize::try_from(total).map_err(|_| NoMemory)?).map_err(|_| NoMemory)?;
        for (page, found) in (0..pages).zip(whole) {
            entries.extend(found.ok_or(RecoveryError::TableLost { page })?);
        }
        if entries.len() as u64 != total {
            let why = alloc::format!("{} entries where the superblock says {total}", entries.len());
            return Err(RecoveryError::Inconsistent(why));
        }
        Ok(entries)
    }

    fn read_copy_pages(
        &mut self,
        copy: usize,
        whole: &mut [Option<Vec<Entry>>],
    ) -> Result<(), RecoveryError> {
        const BATCH: usize = 256;
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(BATCH.min(whole.len()) * PAGE_SIZE).map_err(|_| NoMemory)?;
        for (batch, places) in (0u32..).zip(whole.chunks_mut(BATCH)) {
            let first = batch * BATCH as u32;
            let offset = self.shape.page_at(self.superblock.area, first);
            bytes.clear();
            bytes.resize(places.len() * PAGE_SIZE, 0);
            let batch_read = self.read(copy, offset, &mut bytes);
            for ((index, place), page) in (first..).zip(places).zip(bytes.chunks_exact_mut(PAGE_SIZE)) {
                let at = self.shape.page_at(self.superblock.area, index);
                if batch_read.is_err() {
                    // One bad sector must not take the whole batch.
                    if let Err(flaw) = self.read(copy, at, page) {
                        self.note(copy, flaw);
                        continue;
                    }
                }
                match self.decode_page(copy, index, page) {
                    Err(error) => {
                        let start = self.copies.get(copy).map_or(0, |c| c.start);
                        self.note(copy, (Flaw::Damaged(error), start + at));
                    }
                    Ok(entries) => match place {
                        None => *place = Some(entries),
                        Some(known) if *known == entries => {}
                        Some(_) => {
                            return Err(ElectionError::Contradiction {
                                generation: self.superblock.generation,
                            }
                            .into());
                        }
                    },
                }
            }
        }
        Ok(())
    }

    fn decode_page(&self, copy: usize, index: u32, page: &[u8]) -> Result<Vec<Entry>, DecodeError> {
        let expected = PageHeader {
            volume: self.superblock.volume_tag(),
            copy: copy as u8,
            index,
            generation: self.superblock.generation,
        };
        CheckpointPage::decode(page, &expected, self.superblock.block_sectors()).map(|p| p.entries)
    }

    fn build(&self, entries: &[Entry]) -> Result<(Table, SparePool), RecoveryError> {
        let mut table = Table::create(main_blocks(&self.superblock))?;
        let mut pool = empty_pool(&self.superblock)?;
        for entry in entries {
            install(&self.superblock, &mut table, &mut pool, entry)?;
        }
        Ok((table, pool))
    }

    /// Applies the journal, record by record, each from any copy in which it is whole.
    fn replay(mut self, table: Table, pool: SparePool) -> Result<Recovered, RecoveryError> {
        let mut state =
            Replay { table, pool, generation: self.superblock.generation, position: 0, dirty: false };
        let mut windows: Vec<Window> = (0..COPIES).map(|_| Window::default()).collect();
        loop {
            let expected_generation = state.generation.wrapping_add(1);
            let record = self.read_record(&mut windows, state.position, expected_generation)?;
            let Some(record) = record else { break };
            state.position += record.pages;
            state.generation = expected_generation;
            for edit in &record.edits {
                state.apply(edit)?;
            }
        }
        self.refuse_hole(&mut windows, &state)?;
        if state.dirty {
            state.pool = rebuild_pool(&self.superblock, &state)?;
        }
        let generation = state.generation;
        for report in &mut self.copies {
            if report.flaw.is_none() {
                report.generation = Some(generation);
            }
        }
        let needs_repair = self.copies.iter().any(|c| c.flaw.is_some());
        Ok(Recovered {
            superblock: self.superblock,
            devices: self.devices,
            table: state.table,
            pool: state.pool,
            generation,
            journal_position: state.position,
            copies: self.copies,
            needs_repair,
        })
    }

    fn read_record(
        &mut self,
        windows: &mut [Window],
        position: u32,
        generation: u64,
    ) -> Result<Option<Record>, RecoveryError> {
        if position >= self.shape.journal_pages {
            return Ok(None);
        }
        let mut record: Option<Record> = None;
        let mut failed: [Option<(Flaw, u64)>; COPIES as usize] = [None; COPIES as usize];
        for (copy, window) in windows.iter_mut().enumerate() {
            if !self.members.get(copy).copied().unwrap_or(false) {
                continue;
            }
            match self.decode_record(copy, window, position, generation) {
                Ok(found) => match &record {
                    Some(known) if known.edits != found.edits => {
                        return Err(ElectionError::Contradiction { generation }.into());
                    }
                    _ => record = Some(found),
                },
                Err(flaw) => {
                    if let Some(place) = failed.get_mut(copy) {
                        *place = Some(flaw);
                    }
                }
            }
        }
        if record.is_some() {
            // The record is real; a copy without it is damaged or was left behind by a crash.
            for (copy, flaw) in failed.into_iter().enumerate() {
                if let Some(flaw) = flaw {
                    self.note(copy, flaw);
                }
            }
        } else {
            // Nobody has it: the journal ends here. What cannot even be read there is damage all the same.
            for (copy, flaw) in failed.into_iter().enumerate() {
                if let Some(flaw @ (Flaw::Unreadable(_), _)) = flaw {
                    self.note(copy, flaw);
                }
            }
        }
        Ok(record)
    }

    fn decode_record(
        &mut self,
        copy: usize,
        window: &mut Window,
        position: u32,
        generation: u64,
    ) -> Result<Record, (Flaw, u64)> {
        let bytes = window.at(self, copy, position)?;
        let expected = RecordHeader {
            volume: self.superblock.volume_tag(),
            copy: copy as u8,
            position,
            checkpoint: self.superblock.generation,
            generation,
        };
        Record::decode(bytes, &expected, self.superblock.block_sectors()).map_err(|error| {
            let start = self.copies.get(copy).map_or(0, |c| c.start);
            (Flaw::Damaged(error), start + self.shape.journal_at(position))
        })
    }

    /// A whole record *behind* the end of the journal proves that the end is a hole in every copy.
    fn refuse_hole(&mut self, windows: &mut [Window], end: &Replay) -> Result<(), RecoveryError> {
        const LOOK_AHEAD: u32 = 4 * MAX_RECORD_PAGES as u32;
        let missing = end.generation.wrapping_add(1);
        let last = end.position.saturating_add(LOOK_AHEAD).min(self.shape.journal_pages);
        for position in end.position..last {
            for (copy, window) in windows.iter_mut().enumerate() {
                if !self.members.get(copy).copied().unwrap_or(false) {
                    continue;
                }
                for generation in 2..=u64::from(position - end.position) + 1 {
                    let later = end.generation.wrapping_add(generation);
                    if self.decode_record(copy, window, position, later).is_ok() {
                        return Err(RecoveryError::JournalHole { generation: missing });
                    }
                }
            }
        }
        Ok(())
    }
}

/// The journal around a position, read ahead.
#[derive(Default)]
struct Window {
    first: u32,
    bytes: Vec<u8>,
}

impl Window {
    const PAGES: u32 = 128;

    /// The journal's bytes from `position` on: a whole record, or up to the journal's end.
    fn at(&mut self, session: &mut Session<'_>, copy: usize, position: u32) -> Result<&[u8], (Flaw, u64)> {
        let journal_end = session.shape.journal_pages;
        let need_end = position.saturating_add(MAX_RECORD_PAGES as u32).min(journal_end);
        let have_end = self.first + (self.bytes.len() / PAGE_SIZE) as u32;
        if position < self.first || need_end > have_end {
            self.bytes.clear();
            let pages = Self::PAGES.min(journal_end.saturating_sub(position));
            let offset = session.shape.journal_at(position);
            self.bytes.resize(pages as usize * PAGE_SIZE, 0);
            self.first = position;
            if session.read(copy, offset, &mut self.bytes).is_err() {
                // Page by page: an unreadable page reads as nothing, unless it is the one that is wanted.
                for (page, bytes) in (0u64..).zip(self.bytes.chunks_exact_mut(PAGE_SIZE)) {
                    let outcome = session.read(copy, offset + page * PAGE_SIZE as u64, bytes);
                    match outcome {
                        Err(flaw) if page == 0 => {
                            self.bytes.clear();
                            return Err(flaw);
                        }
                        Err(_) => bytes.fill(0),
                        Ok(()) => {}
                    }
                }
            }
        }
        Ok(self.bytes.get((position - self.first) as usize * PAGE_SIZE..).unwrap_or(&[]))
    }
}

struct Replay {
    table: Table,
    pool: SparePool,
    generation: u64,
    position: u32,
    /// Did a record change anything (so that the slots must be counted anew)?
    dirty: bool,
}

impl Replay {
    fn apply(&mut self, edit: &Entry) -> Result<(), RecoveryError> {
        self.dirty = true;
        if edit.state == EntryState::Retired {
            self.pool.retire(edit);
            return Ok(());
        }
        Ok(self.table.apply(edit)?)
    }
}

/// The slots as the final table names them: also proves that no two entries share one.
fn rebuild_pool(superblock: &Superblock, state: &Replay) -> Result<SparePool, RecoveryError> {
    let mut pool = empty_pool(superblock)?;
    let claim = |pool: &mut SparePool, entry: &Entry| {
        pool.claim(entry).map_err(|error| {
            RecoveryError::Inconsistent(alloc::format!("entry at block {}: {error}", entry.block))
        })
    };
    for entry in state.table.iter() {
        if entry.end() > main_blocks(superblock) {
            let why = alloc::format!("entry at block {} lies behind the end of the main device", entry.block);
            return Err(RecoveryError::Inconsistent(why));
        }
        if entry.state == EntryState::Remapped {
            claim(&mut pool, entry)?;
        }
    }
    for entry in state.pool.retired() {
        claim(&mut pool, entry)?;
    }
    Ok(pool)
}

/// The current superblock of one copy: the newer of its two pages.
fn read_copy_superblock(
    reader: &mut dyn SpareReader,
    device: usize,
    size: u64,
    place: &layout::CopyPlace,
    newest: &Superblock,
) -> (CopyReport, Option<Superblock>) {
    let mut report = CopyReport {
        copy: place.copy,
        spare: place.spare,
        start: place.start,
        generation: None,
        flaw: None,
        superblock_page: None,
    };
    let mut current: Option<Superblock> = None;
    let mut flaw = None;
    let mut fenced = false;
    for page in 0..2u8 {
        let at = place.start + u64::from(page) * PAGE_SIZE as u64;
        match read_superblock(reader, device, at, size) {
            Ok(s) if s.volume != newest.volume || s.role != CopyRole::Copy(place.copy) => {
                flaw = Some((Flaw::Damaged(DecodeError::Magic("superblock of this copy")), at));
            }
            Ok(s) if s.flags.has(SuperblockFlags::FENCED) => fenced = true,
            Ok(s) => {
                if current.as_ref().is_none_or(|c| newer(s.generation, c.generation)) {
                    report.superblock_page = Some(page);
                    current = Some(s);
                }
            }
            Err(other) => flaw = Some((other, at)),
        }
    }
    if fenced {
        report.flaw = Some((Flaw::Fenced, place.start));
        report.superblock_page = None;
        return (report, None);
    }
    if let Some(found) = &current {
        report.generation = Some(found.generation);
        // A torn older page is normal after a crash; a page that cannot be read is damage.
        report.flaw = flaw.filter(|(f, _)| matches!(f, Flaw::Unreadable(_)));
    } else {
        report.flaw = Some(flaw.unwrap_or((Flaw::Stale, place.start)));
    }
    (report, current)
}
