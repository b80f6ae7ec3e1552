//! From the elected copies to the table: every page and every record from any copy in which it is whole.

use alloc::vec::Vec;

use arrayvec::ArrayVec;
use remap_format::layout::{self, CopyShape};
use remap_format::{
    COPIES, CheckpointPage, DecodeError, Entry, EntryState, MAX_RECORD_PAGES, PAGE_SIZE, PageHeader, Record,
    RecordHeader, Superblock,
};

use super::geometry;
use super::scan::read_copy_superblock;
use super::{
    CopyReport, Flaw, Inconsistency, Recovered, RecoveryError, SpareReader, SuperblockPage, empty_pool,
    install, main_blocks, shape_of,
};
use crate::canary::{self, Canary};
use crate::elect::{CopyHeader, ElectionError, elect};
use crate::memory::{self, NoMemory};
use crate::pool::SparePool;
use crate::table::Table;

/// How far behind the end of a journal records are looked for that should not be there.
pub(super) const LOOK_AHEAD: u32 = 4 * MAX_RECORD_PAGES as u32;

/// Recovery once it is known which volume and which devices.
pub(super) struct Session<'r> {
    reader: &'r mut dyn SpareReader,
    devices: Vec<Option<usize>>,
    superblock: Superblock,
    shape: CopyShape,
    copies: Vec<CopyReport>,
    /// Copies that name the elected checkpoint.
    members: [bool; COPIES as usize],
    /// The remains of a record that was begun and never finished lie at the end of the journal. Writing another one over them
    /// could, torn, make the first one whole: the journal must start over.
    unfinished: bool,
}

impl<'r> Session<'r> {
    pub(super) fn begin(
        reader: &'r mut dyn SpareReader,
        devices: Vec<Option<usize>>,
        newest: Superblock,
        before: Option<u64>,
    ) -> Result<Self, RecoveryError> {
        let mut copies = memory::list(usize::from(COPIES))?;
        let mut headers: [Option<CopyHeader>; COPIES as usize] = [None; COPIES as usize];
        let mut superblocks: ArrayVec<Option<Superblock>, { COPIES as usize }> = ArrayVec::new();
        for (place, header) in layout::copy_places(&newest.spares, &newest.homes).iter().zip(&mut headers) {
            // A copy's home is on a spare that is there: the superblock's decoder and `match_devices` saw to that.
            let device = devices.get(usize::from(place.spare)).copied().flatten().unwrap_or(0);
            let size = newest.spares.get(usize::from(place.spare)).map_or(0, |s| s.size);
            let (report, found) = read_copy_superblock(reader, device, size, place, &newest, before);
            *header = found.as_ref().map(CopyHeader::of);
            superblocks.push(found);
            memory::push(&mut copies, report);
        }
        if reader.planted().has(Canary::OldestElected) {
            canary::keep_oldest(&mut headers);
        }
        let election = elect(&headers)?;
        geometry::check(&newest, &superblocks, &election)?;
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
        Ok(Self { reader, devices, superblock, shape, copies, members: election.members, unfinished: false })
    }

    /// Generation of the elected checkpoint.
    pub(super) fn generation(&self) -> u64 {
        self.superblock.generation
    }

    /// What the elected copies say of the volume.
    pub(super) fn superblock(&self) -> &Superblock {
        &self.superblock
    }

    /// Is it sure that no record extends the elected checkpoint?
    pub(super) fn journal_is_empty(&mut self) -> bool {
        let mut windows = Windows::default();
        let generation = self.superblock.generation;
        let last = LOOK_AHEAD.min(self.shape.journal_pages);
        for position in 0..last {
            for (copy, window) in windows.iter_mut().enumerate() {
                if !self.members.get(copy).copied().unwrap_or(false) {
                    continue;
                }
                for record in 1..=u64::from(position) + 1 {
                    match self.decode_record(copy, window, position, generation.wrapping_add(record)) {
                        Ok(_) | Err((Flaw::Unreadable(_), _)) => return false,
                        Err(_) => {}
                    }
                }
            }
        }
        true
    }

    fn read(&mut self, copy: usize, offset: u64, into: &mut [u8]) -> Result<(), (Flaw, u64)> {
        let (spare, start) = self.copies.get(copy).map_or((0, 0), |c| (c.spare, c.start));
        let device = self.devices.get(usize::from(spare)).copied().flatten().unwrap_or(0);
        self.reader
            .read(device, start + offset, into)
            .map_err(|fault| (Flaw::Unreadable(fault), start + offset))
    }

    /// Byte offset of a page of the checkpoint in a copy: each copy names its own area.
    fn page_at(&self, copy: usize, index: u32) -> u64 {
        let area = self.copies.get(copy).and_then(|c| c.area).unwrap_or(self.superblock.area);
        self.shape.page_at(area, index)
    }

    fn note(&mut self, copy: usize, flaw: (Flaw, u64)) {
        if let Some(report) = self.copies.get_mut(copy) {
            report.flaw.get_or_insert(flaw);
        }
    }

    /// Every page of the elected checkpoint, each from the first copy in which it is whole; all members are checked.
    pub(super) fn read_checkpoint(&mut self) -> Result<Vec<Entry>, RecoveryError> {
        let total = self.superblock.entries;
        let pages = u32::try_from(total.div_ceil(remap_format::PAGE_ENTRIES as u64)).unwrap_or(u32::MAX);
        let mut whole: Vec<Option<Vec<Entry>>> = memory::list(pages as usize)?;
        memory::resize(&mut whole, pages as usize, None);
        for copy in 0..usize::from(COPIES) {
            if self.members.get(copy).copied().unwrap_or(false) {
                self.read_copy_pages(copy, &mut whole)?;
            }
        }
        let mut found = 0;
        for (page, entries) in (0..pages).zip(&whole) {
            found += entries.as_ref().ok_or(RecoveryError::TableLost { page })?.len() as u64;
        }
        if found != total {
            return Err(Inconsistency::Count { found, expected: total }.into());
        }
        let mut entries = memory::list(usize::try_from(total).map_err(|_| NoMemory)?)?;
        for page in whole.into_iter().flatten() {
            memory::extend(&mut entries, page.len(), page.into_iter());
        }
        Ok(entries)
    }

    fn read_copy_pages(
        &mut self,
        copy: usize,
        whole: &mut [Option<Vec<Entry>>],
    ) -> Result<(), RecoveryError> {
        const BATCH: usize = 256;
        let mut bytes = memory::list(BATCH.min(whole.len()) * PAGE_SIZE)?;
        for (batch, places) in (0u32..).zip(whole.chunks_mut(BATCH)) {
            let first = batch * BATCH as u32;
            let offset = self.page_at(copy, first);
            bytes.clear();
            memory::resize(&mut bytes, places.len() * PAGE_SIZE, 0);
            let batch_read = self.read(copy, offset, &mut bytes);
            for ((index, place), page) in (first..).zip(places).zip(bytes.chunks_exact_mut(PAGE_SIZE)) {
                let at = self.page_at(copy, index);
                if batch_read.is_err() {
                    // One bad sector must not take the whole batch.
                    if let Err(flaw) = self.read(copy, at, page) {
                        self.note(copy, flaw);
                        continue;
                    }
                }
                match self.decode_page(copy, index, page) {
                    Err(DecodeError::Memory(_)) => return Err(NoMemory.into()),
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

    pub(super) fn build(&self, entries: &[Entry]) -> Result<(Table, SparePool), RecoveryError> {
        let mut table = Table::create(main_blocks(&self.superblock), self.superblock.block_sectors())?;
        let mut pool = empty_pool(&self.superblock)?;
        for entry in entries {
            install(&self.superblock, &mut table, &mut pool, entry)?;
        }
        Ok((table, pool))
    }

    /// Applies the journal, record by record, each from any copy in which it is whole.
    pub(super) fn replay(mut self, table: Table, pool: SparePool) -> Result<Recovered, RecoveryError> {
        let mut walk = self.walk(table, pool);
        while self.step(&mut walk)?.is_some() {}
        self.refuse_hole(&mut walk.windows, &walk.state)?;
        self.refuse_newer()?;
        self.finish(walk)
    }

    /// Applies the journal up to this generation; `None`: it does not lead there.
    pub(super) fn replay_to(
        mut self,
        table: Table,
        pool: SparePool,
        generation: u64,
    ) -> Result<Option<Recovered>, RecoveryError> {
        let mut walk = self.walk(table, pool);
        while walk.generation() != generation {
            if self.step(&mut walk)?.is_none() {
                return Ok(None);
            }
        }
        self.refuse_newer()?;
        self.finish(walk).map(Some)
    }

    /// Stands at the checkpoint, before the first record.
    pub(super) fn walk(&self, table: Table, pool: SparePool) -> Walk {
        let generation = self.superblock.generation;
        let blocks = main_blocks(&self.superblock);
        let state = Replay { table, pool, generation, position: 0, dirty: false, blocks, behind_end: None };
        Walk { state, windows: Windows::default() }
    }

    /// Applies the next record; `None` at the end of the journal.
    pub(super) fn step(&mut self, walk: &mut Walk) -> Result<Option<Record>, RecoveryError> {
        let Walk { state, windows } = walk;
        let expected_generation = state.generation.wrapping_add(1);
        let Some(record) = self.read_record(windows, state.position, expected_generation)? else {
            return Ok(None);
        };
        state.position += record.pages;
        state.generation = expected_generation;
        for edit in &record.edits {
            state.apply(edit)?;
        }
        Ok(Some(record))
    }

    /// The volume as of where the walk stands.
    pub(super) fn finish(mut self, walk: Walk) -> Result<Recovered, RecoveryError> {
        let mut state = walk.state;
        if state.dirty {
            state.pool = rebuild_pool(&self.superblock, &state)?;
        }
        let generation = state.generation;
        for report in &mut self.copies {
            if report.flaw.is_none() {
                report.generation = Some(generation);
            }
        }
        let needs_repair = self.unfinished
            || self.copies.iter().any(|c| c.flaw.is_some() || c.pages.contains(&SuperblockPage::Torn));
        Ok(Recovered {
            superblock: self.superblock,
            devices: self.devices,
            table: state.table,
            pool: state.pool,
            generation,
            base: generation,
            journal_position: state.position,
            copies: self.copies,
            strays: Vec::new(),
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
        let believing = self.reader.planted().has(Canary::ContradictionIgnored);
        let mut record: Option<Record> = None;
        let mut failed: [Option<(Flaw, u64)>; COPIES as usize] = [None; COPIES as usize];
        for (copy, window) in windows.iter_mut().enumerate() {
            if !self.members.get(copy).copied().unwrap_or(false) {
                continue;
            }
            match self.decode_record(copy, window, position, generation) {
                Ok(found) => match &record {
                    Some(known) if known.edits != found.edits && !believing => {
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
        let decoded = Record::decode(bytes, &expected, self.superblock.block_sectors());
        let begun = Record::begun(bytes, &expected);
        if matches!(decoded, Err(DecodeError::Memory(_))) {
            self.reader.starve();
        }
        decoded.map_err(|error| {
            self.unfinished |= begun.is_some();
            // What is missing of a record that was begun may be what cannot be read.
            if let Some(flaw) = begun.and_then(|pages| window.unreadable_in(position, pages)) {
                return flaw;
            }
            let start = self.copies.get(copy).map_or(0, |c| c.start);
            (Flaw::Damaged(error), start + self.shape.journal_at(position))
        })
    }

    /// Is it known that no record lies where the journal ends? It is if a copy shows that place; or if a whole copy is still of the
    /// checkpoint before: then this one was not complete, and no record can extend it.
    fn end_is_seen(&mut self, windows: &mut [Window], position: u32, generation: u64) -> bool {
        let behind = self.copies.iter().any(|copy| matches!(copy.flaw, Some((Flaw::Stale, _))));
        behind && position == 0
            || windows.iter_mut().enumerate().any(|(copy, window)| {
                self.members.get(copy).copied().unwrap_or(false)
                    && !matches!(
                        self.decode_record(copy, window, position, generation),
                        Err((Flaw::Unreadable(_), _))
                    )
            })
    }

    /// A whole record *behind* the end of the journal proves that the end is a hole in every copy; if the end can be read in none, there
    /// may be one.
    fn refuse_hole(&mut self, windows: &mut [Window], end: &Replay) -> Result<(), RecoveryError> {
        let missing = end.generation.wrapping_add(1);
        if self.reader.planted().has(Canary::HoleIgnored) {
            return Ok(());
        }
        let last = end.position.saturating_add(LOOK_AHEAD).min(self.shape.journal_pages);
        if end.position < last && !self.end_is_seen(windows, end.position, missing) {
            return Err(RecoveryError::JournalHole { generation: missing });
        }
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

/// One for each copy.
type Windows = [Window; COPIES as usize];

/// The journal around a position, read ahead.
#[derive(Default)]
pub(super) struct Window {
    first: u32,
    bytes: Vec<u8>,
    /// Pages that could not be read; their bytes are zero.
    unreadable: Vec<(u32, (Flaw, u64))>,
}

impl Window {
    const PAGES: u32 = 128;

    /// The journal's bytes from `position` on: a whole record, or up to the journal's end.
    pub(super) fn at(
        &mut self,
        session: &mut Session<'_>,
        copy: usize,
        position: u32,
    ) -> Result<&[u8], (Flaw, u64)> {
        let journal_end = session.shape.journal_pages;
        let need_end = position.saturating_add(MAX_RECORD_PAGES as u32).min(journal_end);
        let have_end = self.first + (self.bytes.len() / PAGE_SIZE) as u32;
        if position < self.first || need_end > have_end {
            self.bytes.clear();
            self.unreadable.clear();
            let pages = Self::PAGES.min(journal_end.saturating_sub(position));
            let offset = session.shape.journal_at(position);
            if self.bytes.try_reserve_exact(pages as usize * PAGE_SIZE).is_err() {
                session.reader.starve();
                return Err((Flaw::Damaged(DecodeError::Memory("journal")), offset));
            }
            memory::resize(&mut self.bytes, pages as usize * PAGE_SIZE, 0);
            self.first = position;
            if session.read(copy, offset, &mut self.bytes).is_err() {
                for (page, bytes) in (0u32..).zip(self.bytes.chunks_exact_mut(PAGE_SIZE)) {
                    if let Err(flaw) = session.read(copy, offset + u64::from(page) * PAGE_SIZE as u64, bytes)
                    {
                        bytes.fill(0);
                        if memory::try_push(&mut self.unreadable, (position + page, flaw)).is_err() {
                            session.reader.starve();
                        }
                    }
                }
            }
        }
        if let Some(flaw) = self.unreadable_in(position, 1) {
            return Err(flaw);
        }
        Ok(self.bytes.get((position - self.first) as usize * PAGE_SIZE..).unwrap_or(&[]))
    }

    /// The first of these pages that could not be read.
    fn unreadable_in(&self, position: u32, pages: u32) -> Option<(Flaw, u64)> {
        let wanted = position..position.saturating_add(pages);
        self.unreadable.iter().find(|(page, _)| wanted.contains(page)).map(|(_, flaw)| *flaw)
    }
}

/// A checkpoint's journal, applied up to a record.
pub(super) struct Walk {
    state: Replay,
    windows: Windows,
}

impl Walk {
    /// Generation of the table here.
    pub(super) fn generation(&self) -> u64 {
        self.state.generation
    }

    /// The table here.
    pub(super) fn table(&self) -> &Table {
        &self.state.table
    }

    /// Slots that went bad so far.
    pub(super) fn retired_slots(&self) -> u64 {
        self.state.pool.retired().iter().map(|e| u64::from(e.count)).sum()
    }
}

struct Replay {
    table: Table,
    pool: SparePool,
    generation: u64,
    position: u32,
    /// Did a record change anything (so that the slots must be counted anew)?
    dirty: bool,
    /// Blocks of the main device.
    blocks: u64,
    /// The first block that a record named and that the device does not have.
    behind_end: Option<u64>,
}

impl Replay {
    fn apply(&mut self, edit: &Entry) -> Result<(), RecoveryError> {
        self.dirty = true;
        if edit.state == EntryState::Retired {
            self.pool.prepare_to_retire(1)?;
            self.pool.retire(edit);
            return Ok(());
        }
        if edit.state != EntryState::Absent && edit.end() > self.blocks {
            self.behind_end.get_or_insert(edit.block);
            return Ok(());
        }
        Ok(self.table.apply(edit)?)
    }
}

/// The slots as the final table names them: also proves that no two entries share one.
fn rebuild_pool(superblock: &Superblock, state: &Replay) -> Result<SparePool, RecoveryError> {
    let mut pool = empty_pool(superblock)?;
    let claim = |pool: &mut SparePool, entry: &Entry| {
        pool.claim(entry).map_err(|error| Inconsistency::Slots { block: entry.block, error })
    };
    if let Some(block) = state.behind_end {
        return Err(Inconsistency::BehindEnd { block }.into());
    }
    for entry in state.table.iter().filter(|entry| entry.state == EntryState::Remapped) {
        claim(&mut pool, &entry)?;
    }
    for entry in state.pool.retired() {
        claim(&mut pool, entry)?;
    }
    Ok(pool)
}
