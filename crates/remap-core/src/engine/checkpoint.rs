//! Checkpoints: the whole table into the other area of every copy, then the superblocks that name it.
//!
//! Invariant: the old checkpoint and its journal stay untouched and believable until the superblock that replaces them is
//! durable; a superblock is written only after all that it names is durable; copies that cannot follow are fenced before
//! the journal starts over. The journal starts over where its first page can be read: recovery takes no page that it cannot read
//! for the journal's end. Which area is the other one is each copy's own affair: a copy that was left behind keeps what its
//! superblock names until it has caught up. A checkpoint that failed is repeated with the same generation and the same contents.

use alloc::vec::Vec;

use remap_format::{CheckpointPage, Entry, PAGE_ENTRIES, PAGE_SIZE, PageHeader, Record, RecordHeader};

use super::commit::{ALL_COPIES, CopySet, PerCopy, copies_of};
use super::ops::CommitPart;
use super::{Engine, MIN_COPIES};
use crate::canary::Canary;
use crate::memory::{self, NoMemory};
use crate::recovery::EDITED;
use crate::units::Block;

/// Pages in one write of a checkpoint.
const CHUNK_PAGES: u32 = 16;
/// Chunk writes (to all copies) that are out at a time.
const MAX_OUT: u32 = 20;

/// Where a checkpoint is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Pages,
    PagesFlush,
    Superblocks,
    SuperblocksFlush,
    /// Copies that were out of step get an empty journal.
    Journals,
    JournalsFlush,
}

/// A checkpoint under way.
#[derive(Debug)]
pub(super) struct Checkpoint {
    pub(super) phase: Phase,
    generation: u64,
    entries: u64,
    next_page: u32,
    next_block: Block,
    next_retired: usize,
    pages_done: bool,
    /// Copies whose journal was emptied at its beginning.
    emptied: CopySet,
}

impl Engine {
    pub(super) fn begin_checkpoint(&mut self) {
        self.relayout();
        // Retired slots leave with their spare, and what was written of a change that a crash cut short stays: the checkpoint after the
        // crash is that of another table.
        let distance = if self.commit.changing.is_some() { EDITED } else { 0 };
        let checkpoint = Checkpoint {
            phase: Phase::Pages,
            generation: self.commit.next_generation().wrapping_add(distance),
            entries: self.metadata_entries() - self.retired_that_leave(),
            next_page: 0,
            next_block: Block(0),
            next_retired: 0,
            pages_done: false,
            emptied: 0,
        };
        self.commit.checkpoint_wanted = false;
        self.enter_checkpoint(checkpoint);
        self.commit.trying = ALL_COPIES;
        self.write_all();
    }

    /// From the beginning, to every copy.
    fn write_all(&mut self) {
        self.commit.failed = 0;
        self.commit.to_fence = 0;
        self.commit.fault = None;
        self.commit.starved = false;
        self.prepare_homes();
        self.checkpoint_advance();
    }

    /// Labels where copies are to live from now on, and there and in copies that nobody believes empty journals, so that homes
    /// which take none are known before one of them is named. A label only in the first page: in the other one may be what the spare
    /// is recognised by. Elsewhere, the remains of superblocks are erased.
    fn prepare_homes(&mut self) {
        for copy in copies_of(self.commit.moving) {
            match self.label_page(self.commit.place(copy).spare) {
                Ok(bytes) => self.write_copy(copy, 0, bytes, CommitPart::Copy(copy)),
                Err(NoMemory) => self.commit.starve(),
            }
        }
        let unbelieved = if self.commit.making { 0 } else { self.commit.superblocks.unbelieved() };
        self.write_empty_journals(unbelieved, self.commit.checkpoint_generation);
        self.erase_torn();
    }

    /// It is tried again after a pause; one that was to change the spares is given up if it still can be.
    fn checkpoint_failed(&mut self) {
        if self.relayout_undone() {
            return self.checkpoint_given_up();
        }
        self.freeze();
    }

    pub(super) fn restart_checkpoint(&mut self) {
        if let Some(checkpoint) = self.commit.checkpoint() {
            checkpoint.phase = Phase::Pages;
            checkpoint.next_page = 0;
            checkpoint.next_block = Block(0);
            checkpoint.next_retired = 0;
            checkpoint.pages_done = false;
            checkpoint.emptied = 0;
        }
        self.write_all();
    }

    pub(super) fn checkpoint_advance(&mut self) {
        while self.commit.checkpoint_phase() == Some(Phase::Pages)
            && self.commit.out < MAX_OUT
            && !self.commit.starved
        {
            match self.write_chunk() {
                Ok(true) => {}
                Ok(false) => break,
                Err(NoMemory) => self.commit.starve(),
            }
        }
        if self.commit.out > 0 {
            return;
        }
        if self.commit.starved
            || self.commit.good().count_ones() < MIN_COPIES
            || (self.commit.making && self.commit.failed != 0)
        {
            return self.checkpoint_failed();
        }
        let early = self.planted(Canary::NameBeforePages);
        let Some(checkpoint) = self.commit.checkpoint() else { return };
        match checkpoint.phase {
            Phase::Pages if early => {
                checkpoint.phase = Phase::Superblocks;
                self.begin_superblocks();
            }
            Phase::Pages => {
                checkpoint.phase = Phase::PagesFlush;
                self.flush_copies();
            }
            Phase::PagesFlush => {
                checkpoint.phase = Phase::Superblocks;
                self.begin_superblocks();
            }
            Phase::Superblocks => self.flush_unless_fences(Phase::SuperblocksFlush),
            Phase::SuperblocksFlush => {
                checkpoint.phase = Phase::Journals;
                self.checkpoint_named();
                self.begin_journals();
            }
            Phase::Journals => self.flush_unless_fences(Phase::JournalsFlush),
            Phase::JournalsFlush => {
                let generation = checkpoint.generation;
                self.checkpoint_done(generation);
            }
        }
    }

    /// Copies that could not be written are fenced first.
    fn flush_unless_fences(&mut self, next: Phase) {
        if self.owe_fences() {
            return;
        }
        if self.commit.starved {
            return self.freeze();
        }
        if let Some(checkpoint) = self.commit.checkpoint() {
            checkpoint.phase = next;
        }
        self.flush_copies();
    }

    /// The superblocks that name the checkpoint are durable.
    fn checkpoint_named(&mut self) {
        let Some(checkpoint) = self.commit.checkpoint() else { return };
        let (generation, entries) = (checkpoint.generation, checkpoint.entries);
        for copy in copies_of(self.commit.good()) {
            self.commit.superblocks.named(copy);
            if let Some(area) = self.commit.areas.get_mut(usize::from(copy)) {
                *area = 1 - *area;
            }
        }
        (self.volume.generation, self.volume.base) = (generation, self.commit.base);
        self.volume.entries = entries;
    }

    /// A record without edits: nothing extends the checkpoint yet, which is durable (and recovery shall know that it was).
    fn write_empty_journals(&mut self, copies: CopySet, checkpoint: u64) {
        let volume = self.volume.volume_tag();
        if let Some(checkpoint) = self.commit.checkpoint() {
            checkpoint.emptied |= copies;
        }
        for copy in copies_of(copies) {
            match memory::zeroes(PAGE_SIZE) {
                Ok(mut bytes) => {
                    let header =
                        RecordHeader { volume, copy, position: 0, checkpoint, generation: checkpoint };
                    Record::encode(&header, &[], &mut bytes);
                    self.write_copy(copy, self.commit.shape.journal_at(0), bytes, CommitPart::Copy(copy));
                }
                Err(NoMemory) => self.commit.starve(),
            }
        }
    }

    /// Whether the journal of a copy that was out of step can be read is not known: its first page is written, which heals it or shows
    /// that it cannot be. (Those in step keep what is in theirs: the table's history.) Copies that were fenced may be believed again.
    fn begin_journals(&mut self) {
        let Some(checkpoint) = self.commit.checkpoint() else { return };
        let (emptied, generation) = (checkpoint.emptied, checkpoint.generation);
        let unproven = self.commit.good() & !self.commit.in_step & !emptied;
        self.write_empty_journals(unproven, generation);
        let lifted = self.lift_fences();
        if self.commit.out > 0 {
            return;
        }
        if unproven == 0 && !lifted { self.checkpoint_done(generation) } else { self.checkpoint_advance() }
    }

    /// Writes the next chunk of pages to every copy; `false` when there is none.
    fn write_chunk(&mut self) -> Result<bool, NoMemory> {
        let Some(checkpoint) = self.commit.checkpoint() else { return Ok(false) };
        if checkpoint.pages_done {
            return Ok(false);
        }
        let (first_page, generation) = (checkpoint.next_page, checkpoint.generation);
        let (mut block, mut retired) = (checkpoint.next_block, checkpoint.next_retired);
        let most = CHUNK_PAGES as usize * PAGE_ENTRIES;
        let mut entries: Vec<Entry> = memory::list(most)?;
        while entries.len() < most {
            if let Some(entry) = self.table.next_from(block) {
                block = Block(entry.end());
                memory::push(&mut entries, entry);
            } else if let Some(entry) = self.pool.retired().get(retired) {
                retired += 1;
                if self.stays(entry) {
                    memory::push(&mut entries, *entry);
                }
            } else {
                break;
            }
        }
        let pages = entries.len().div_ceil(PAGE_ENTRIES);
        let mut writes = PerCopy::new();
        for copy in copies_of(self.commit.good()).filter(|_| pages > 0) {
            writes.push((copy, memory::zeroes(pages * PAGE_SIZE)?));
        }
        if let Some(checkpoint) = self.commit.checkpoint() {
            checkpoint.next_page += pages as u32;
            checkpoint.next_block = block;
            checkpoint.next_retired = retired;
            checkpoint.pages_done = pages < CHUNK_PAGES as usize;
        }
        let volume = self.volume.volume_tag();
        for (copy, mut bytes) in writes {
            let chunks = bytes.chunks_exact_mut(PAGE_SIZE).zip(entries.chunks(PAGE_ENTRIES));
            for (index, (page, entries)) in (first_page..).zip(chunks) {
                CheckpointPage::encode(&PageHeader { volume, copy, index, generation }, entries, page);
            }
            let offset = self.commit.shape.page_at(self.commit.idle_area(copy), first_page);
            self.write_copy(copy, offset, bytes, CommitPart::Copy(copy));
        }
        Ok(pages > 0)
    }

    fn begin_superblocks(&mut self) {
        // From here on a copy may name the new homes.
        self.commit.former = None;
        self.commit.moving = 0;
        let good = self.commit.good();
        self.commit.superblocks.erased(good);
        let Some(checkpoint) = self.commit.checkpoint() else { return };
        let (generation, entries) = (checkpoint.generation, checkpoint.entries);
        if self.write_superblocks(generation, entries).is_err() {
            self.commit.starve();
        }
        if self.commit.out == 0 {
            self.checkpoint_advance();
        }
    }
}
