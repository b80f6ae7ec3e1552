//! Superblocks: in which page of a copy the next one is written, and how a copy that cannot follow is fenced and believed again.
//!
//! Invariant: a spare is recognised by its superblocks, so that among them a whole one stays untouched, whatever becomes of those
//! that are being written. One page that carries a fence is enough: a copy is not believed until its other page holds a new
//! superblock durably, and only then the fence is lifted.

use alloc::vec::Vec;

use arrayvec::ArrayVec;
use remap_format::layout::LABEL_BYTES;
use remap_format::{COPIES, CopyRole, MAX_SPARES, PAGE_SIZE, Superblock, SuperblockFlags};

use super::commit::{CopySet, PerCopy, copies_of};
use super::ops::CommitPart;
use super::spares::label_write;
use super::{Engine, MIN_COPIES, Notice};
use crate::memory::{self, NoMemory};
use crate::op::{DeviceId, Fault};
use crate::recovery::{CopyReport, SuperblockPage, copy_of};

/// The superblock pages of one copy.
#[derive(Clone, Copy, Debug, Default)]
struct Pair {
    pages: [SuperblockPage; 2],
    /// The page that is not in use.
    idle: u8,
    /// A page may carry a fence.
    fenced: bool,
}

impl Pair {
    fn page(&self, page: u8) -> SuperblockPage {
        self.pages.get(usize::from(page)).copied().unwrap_or_default()
    }

    fn is_whole(&self, page: u8) -> bool {
        matches!(self.page(page), SuperblockPage::Whole | SuperblockPage::Fence)
    }

    /// Where a superblock goes: not over the fence, which holds until the superblock is durable.
    fn for_superblock(&self) -> u8 {
        let other = 1 - self.idle;
        let fence_is_there = self.page(self.idle) == SuperblockPage::Fence;
        if fence_is_there && self.page(other) != SuperblockPage::Fence { other } else { self.idle }
    }
}

/// What lies in the superblock pages of each copy.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Superblocks([Pair; COPIES as usize]);

impl Superblocks {
    pub(super) fn found(reports: &[CopyReport]) -> Self {
        let mut found = Self::default();
        for report in reports {
            if let Some(pair) = found.pair_mut(report.copy) {
                pair.pages = report.pages;
                pair.idle = report.superblock_page.map_or(0, |page| 1 - page);
                pair.fenced = report.pages.contains(&SuperblockPage::Fence);
            }
        }
        found
    }

    fn pair(&self, copy: u8) -> Pair {
        self.0.get(usize::from(copy)).copied().unwrap_or_default()
    }

    fn pair_mut(&mut self, copy: u8) -> Option<&mut Pair> {
        self.0.get_mut(usize::from(copy))
    }

    /// Copies that nobody believes: a page may carry a fence, or none holds a superblock.
    pub(super) fn unbelieved(&self) -> CopySet {
        let unbelieved = |pair: Pair| pair.fenced || !(pair.is_whole(0) || pair.is_whole(1));
        (0..COPIES).filter(|&copy| unbelieved(self.pair(copy))).fold(0, |set, copy| set | 1 << copy)
    }

    /// These are believed again.
    pub(super) fn unfenced(&mut self, copies: CopySet) {
        self.each(copies, |pair| pair.fenced = false);
    }

    /// Pages with remains are blank now.
    pub(super) fn erased(&mut self, copies: CopySet) {
        let blank = |page: &mut SuperblockPage| {
            if *page == SuperblockPage::Torn {
                *page = SuperblockPage::Nothing;
            }
        };
        self.each(copies, |pair| pair.pages.iter_mut().for_each(blank));
    }

    /// The superblock of a copy is durable: the other page is the next.
    pub(super) fn named(&mut self, copy: u8) {
        self.each(1 << copy, |pair| pair.idle = 1 - pair.for_superblock());
    }

    /// The copy has a home in which nothing of it lies yet.
    pub(super) fn moved_home(&mut self, copy: u8) {
        self.each(1 << copy, |pair| *pair = Pair::default());
    }

    pub(super) fn written(&mut self, copy: u8, page: u8, lies: SuperblockPage) {
        self.each(1 << copy, |pair| {
            if let Some(place) = pair.pages.get_mut(usize::from(page)) {
                *place = lies;
            }
        });
    }

    fn each(&mut self, copies: CopySet, change: impl Fn(&mut Pair)) {
        copies_of(copies).for_each(|copy| {
            if let Some(pair) = self.pair_mut(copy) {
                change(pair);
            }
        });
    }
}

impl Engine {
    /// What all superblocks written now have in common.
    pub(super) fn superblock(&self) -> Result<Superblock, NoMemory> {
        let mut superblock = copy_of(&self.volume)?;
        superblock.flags = SuperblockFlags(self.volume.flags.0 | self.commit.set_flags);
        superblock.written = self.now.unix_s;
        Ok(superblock)
    }

    /// What is in use now, as a copy's own.
    fn superblock_of(&self, copy: u8) -> Result<Superblock, NoMemory> {
        let mut superblock = self.superblock()?;
        (superblock.role, superblock.spare_index) = (CopyRole::Copy(copy), self.commit.place(copy).spare);
        Ok(superblock)
    }

    /// A page that says which spare it is on.
    pub(super) fn label_page(&self, spare: u8) -> Result<Vec<u8>, NoMemory> {
        let mut bytes = memory::zeroes(PAGE_SIZE)?;
        let mut label = self.superblock()?;
        (label.role, label.spare_index) = (CopyRole::Label, spare);
        label.encode(&mut bytes);
        Ok(bytes)
    }

    /// Erases what began like a superblock and is not whole.
    pub(super) fn erase_torn(&mut self) {
        for copy in 0..COPIES {
            let pair = self.commit.superblocks.pair(copy);
            for page in (0..2).filter(|&page| pair.page(page) == SuperblockPage::Torn) {
                let offset = self.commit.shape.superblock_at(page);
                match memory::zeroes(PAGE_SIZE) {
                    Ok(blank) => self.write_copy(copy, offset, blank, CommitPart::Copy(copy)),
                    Err(NoMemory) => self.commit.starve(),
                }
            }
        }
    }

    /// One that names the checkpoint under way, in each copy that can follow. Asks for all memory first: with some superblocks written and
    /// others not, the volume would wait between two checkpoints.
    pub(super) fn write_superblocks(&mut self, generation: u64, entries: u64) -> Result<(), NoMemory> {
        let mut writes = PerCopy::new();
        for copy in copies_of(self.commit.good()) {
            writes.push((copy, memory::zeroes(PAGE_SIZE)?));
        }
        let mut labels: ArrayVec<(u8, Vec<u8>), MAX_SPARES> = ArrayVec::new();
        let labelled = if self.commit.making { self.volume.spares.len() as u8 } else { 0 };
        let homes = self.volume.homes;
        for spare in (0..labelled).filter(|&spare| homes.iter().all(|home| home.spare != spare)) {
            labels.push((spare, memory::zeroes(LABEL_BYTES as usize)?));
        }
        let mut superblock = self.superblock()?;
        (superblock.generation, superblock.base) = (generation, self.commit.base);
        for (copy, mut bytes) in writes {
            superblock.role = CopyRole::Copy(copy);
            superblock.spare_index = self.commit.place(copy).spare;
            superblock.area = self.commit.idle_area(copy);
            superblock.entries = entries;
            superblock.encode(&mut bytes);
            let page = self.commit.superblocks.pair(copy).for_superblock();
            self.write_superblock(copy, page, bytes, CommitPart::Superblock(copy, page));
        }
        for (spare, mut bytes) in labels {
            superblock.role = CopyRole::Label;
            superblock.spare_index = spare;
            superblock.area = self.volume.area;
            superblock.entries = self.volume.entries;
            encode_pages(&superblock, &mut bytes);
            let (extent, kind) = label_write(bytes);
            self.emit_commit(DeviceId::Spare(spare), extent, kind, CommitPart::Label);
        }
        Ok(())
    }

    /// A write that fails may leave remains.
    fn write_superblock(&mut self, copy: u8, page: u8, bytes: Vec<u8>, part: CommitPart) {
        self.commit.superblocks.written(copy, page, SuperblockPage::Torn);
        self.write_copy(copy, self.commit.shape.superblock_at(page), bytes, part);
    }

    /// The new superblock of copies that were fenced is durable: it takes the place of the fence, too. `true` if there are such copies.
    pub(super) fn lift_fences(&mut self) -> bool {
        let mut lifted = false;
        for copy in copies_of(self.commit.good()) {
            let pair = self.commit.superblocks.pair(copy);
            if pair.page(pair.idle) != SuperblockPage::Fence {
                continue;
            }
            lifted = true;
            let page = self.superblock_of(copy).and_then(|mut superblock| {
                superblock.area = 1 - self.commit.idle_area(copy);
                one_page(&superblock)
            });
            match page {
                Ok(bytes) => {
                    self.write_superblock(copy, pair.idle, bytes, CommitPart::Superblock(copy, pair.idle));
                }
                Err(NoMemory) => self.commit.starve(),
            }
        }
        lifted
    }

    /// Writes the fences that are owed; `true` if some are on their way.
    pub(super) fn owe_fences(&mut self) -> bool {
        let owed = core::mem::take(&mut self.commit.to_fence);
        if self.commit.good().count_ones() < MIN_COPIES {
            // Never make unbelievable what may be all there is.
            return false;
        }
        let fault = self.commit.fault.unwrap_or(Fault::Medium);
        let mut fences = PerCopy::new();
        for copy in copies_of(owed) {
            match self.fence(copy) {
                Ok(bytes) => fences.push((copy, bytes)),
                Err(NoMemory) => {
                    self.commit.starve();
                    return false;
                }
            }
        }
        let mut on_their_way = false;
        for (copy, bytes) in fences {
            match self.page_for_fence(copy) {
                Some(page) => {
                    self.write_fence(copy, page, bytes);
                    on_their_way = true;
                }
                // It has no superblock in use that could be believed, and what else lies there says which spare this is.
                None => self.notice(Notice::CopyFailed { copy, fault, fenced: true }),
            }
        }
        on_their_way
    }

    fn fence(&self, copy: u8) -> Result<Vec<u8>, NoMemory> {
        let mut superblock = self.superblock_of(copy)?;
        superblock.flags = SuperblockFlags(superblock.flags.0 | SuperblockFlags::FENCED.0);
        one_page(&superblock)
    }

    fn write_fence(&mut self, copy: u8, page: u8, bytes: Vec<u8>) {
        self.commit.superblocks.each(1 << copy, |pair| pair.fenced = true);
        self.write_superblock(copy, page, bytes, CommitPart::Fence(copy, page));
    }

    /// The page that carries a fence already, or else the idle one, unless it could not be written just now.
    fn page_for_fence(&self, copy: u8) -> Option<u8> {
        let pair = self.commit.superblocks.pair(copy);
        let other = 1 - pair.idle;
        let in_doubt = pair.page(pair.idle) == SuperblockPage::Torn && self.may_overwrite(copy, other);
        let page = if pair.page(other) == SuperblockPage::Fence || in_doubt { other } else { pair.idle };
        self.may_overwrite(copy, page).then_some(page)
    }

    /// Would the spare still be recognised, by the other page or by another copy, if nothing whole were left in this one?
    fn may_overwrite(&self, copy: u8, page: u8) -> bool {
        let spare = self.commit.place(copy).spare;
        self.commit.superblocks.pair(copy).is_whole(1 - page)
            || copies_of(self.commit.good()).any(|neighbour| {
                let pair = self.commit.superblocks.pair(neighbour);
                self.commit.place(neighbour).spare == spare && (pair.is_whole(0) || pair.is_whole(1))
            })
    }

    /// The page did not take the fence: the other one may.
    pub(super) fn fence_failed(&mut self, copy: u8, page: u8, fault: Fault) {
        if fault == Fault::NoMemory {
            return self.commit.starve();
        }
        let other = 1 - page;
        let untried = self.commit.superblocks.pair(copy).page(other) != SuperblockPage::Torn;
        if !(fault.blames_medium() && untried && self.may_overwrite(copy, other)) {
            return self.notice(Notice::CopyFailed { copy, fault, fenced: false });
        }
        match self.fence(copy) {
            Ok(bytes) => self.write_fence(copy, other, bytes),
            Err(NoMemory) => self.commit.starve(),
        }
    }
}

fn one_page(superblock: &Superblock) -> Result<Vec<u8>, NoMemory> {
    let mut bytes = memory::zeroes(PAGE_SIZE)?;
    superblock.encode(&mut bytes);
    Ok(bytes)
}

pub(super) fn encode_pages(superblock: &Superblock, bytes: &mut [u8]) {
    bytes.chunks_exact_mut(PAGE_SIZE).for_each(|page| superblock.encode(page));
}
