//! Metadata as they lie on the spares, without asking whether they can be believed: for `metadata check` on spares that
//! recovery refuses, and for `metadata repair`.
//!
//! Invariant: scanning only reads, and every place is looked at by itself: damage in one never hides another.

use remap_core::op::Fault;
use remap_core::recovery::{Flaw, shape_of};
use remap_format::layout::{self, CopyPlace, CopyShape};
use remap_format::{
    COPIES, CheckpointPage, CopyRole, DecodeError, Entry, MAX_RECORD_PAGES, PAGE_ENTRIES, PAGE_SIZE,
    PageHeader, Record, RecordHeader, Superblock, SuperblockFlags, newer,
};
use remap_io::{Buf, Device};

const PAGE: u64 = PAGE_SIZE as u64;

/// What lies at a place where a superblock can be.
#[derive(Clone, Debug)]
pub(crate) struct Sighting {
    /// Which of the given spares.
    pub device: usize,
    /// Byte offset on it.
    pub offset: u64,
    /// What is there.
    pub found: Result<Superblock, Flaw>,
}

/// Reads bytes of a spare.
pub(crate) fn read(device: &Device, offset: u64, len: usize) -> Result<Vec<u8>, Fault> {
    let inside = offset.checked_add(len as u64).is_some_and(|end| end <= device.size());
    if !inside {
        return Err(Fault::Gone);
    }
    let mut buf = Buf::alloc(len).map_err(|_| Fault::Unknown)?;
    device.read_at(offset, &mut buf)?;
    Ok(buf.bytes().to_vec())
}

/// Every place on these spares where a superblock can be, with what is there.
pub(crate) fn superblocks(spares: &[Device]) -> Vec<Sighting> {
    let mut sightings = Vec::new();
    for (device, spare) in spares.iter().enumerate() {
        let mut places = layout::search_places(spare.size()).to_vec();
        let mut next = 0;
        while let Some(&place) = places.get(next) {
            next += 1;
            for page in 0..layout::SUPERBLOCK_PAGES {
                let offset = place + page * PAGE;
                if offset + PAGE > spare.size() {
                    continue;
                }
                let found = read(spare, offset, PAGE_SIZE)
                    .map_err(Flaw::Unreadable)
                    .and_then(|bytes| Superblock::decode(&bytes).map_err(Flaw::Damaged));
                if let Ok(superblock) = &found {
                    // A spare that has grown since keeps its copies where its recorded size puts them.
                    let own = superblock.spares.get(usize::from(superblock.spare_index));
                    for old in own.into_iter().flat_map(|s| layout::search_places(s.size)) {
                        if !places.contains(&old) {
                            places.push(old);
                        }
                    }
                }
                sightings.push(Sighting { device, offset, found });
            }
        }
    }
    sightings
}

/// The newest whole superblock of all; fenced ones only if there is no other.
pub(crate) fn newest(sightings: &[Sighting]) -> Option<&Superblock> {
    let mut best: Option<&Superblock> = None;
    for superblock in sightings.iter().filter_map(|s| s.found.as_ref().ok()) {
        let fenced = |s: &Superblock| s.flags.has(SuperblockFlags::FENCED);
        let better = best.is_none_or(|b| match (fenced(b), fenced(superblock)) {
            (true, false) => true,
            (false, true) => false,
            _ => newer(superblock.generation, b.generation),
        });
        if better {
            best = Some(superblock);
        }
    }
    best
}

/// A volume's five copies on the spares that were given.
pub(crate) struct Copies<'d> {
    spares: &'d [Device],
    /// For each spare of the volume, which of the given ones it is.
    devices: Vec<Option<usize>>,
    places: Vec<CopyPlace>,
    shape: CopyShape,
    superblock: &'d Superblock,
}

impl<'d> Copies<'d> {
    /// The copies of the volume that `superblock` describes.
    pub(crate) fn of(superblock: &'d Superblock, spares: &'d [Device], sightings: &[Sighting]) -> Self {
        let mut devices = vec![None; superblock.spares.len()];
        for sighting in sightings {
            let Ok(found) = &sighting.found else { continue };
            if found.volume != superblock.volume {
                continue;
            }
            if let Some(place) = devices.get_mut(usize::from(found.spare_index)) {
                place.get_or_insert(sighting.device);
            }
        }
        // One volume with one spare whose superblocks are all gone but one: there is nothing to mix up.
        Self {
            spares,
            devices,
            places: layout::copy_places(&superblock.spares, &superblock.homes).to_vec(),
            shape: shape_of(superblock),
            superblock,
        }
    }

    /// For each spare of the volume, the device that it is on.
    pub(crate) fn devices(&self) -> Vec<Option<&'d Device>> {
        self.devices.iter().map(|d| d.and_then(|d| self.spares.get(d))).collect()
    }

    /// Is the spare of the volume among those that were given?
    pub(crate) fn has(&self, spare: u8) -> bool {
        self.devices.get(usize::from(spare)).is_some_and(Option::is_some)
    }

    /// Where the copies lie.
    pub(crate) fn places(&self) -> &[CopyPlace] {
        &self.places
    }

    fn read(&self, copy: u8, offset: u64, len: usize) -> Result<Vec<u8>, Flaw> {
        let place = self.places.get(usize::from(copy)).ok_or(Flaw::Unreadable(Fault::Gone))?;
        let device = self.devices.get(usize::from(place.spare)).copied().flatten();
        let device = device.and_then(|d| self.spares.get(d)).ok_or(Flaw::Unreadable(Fault::Gone))?;
        read(device, place.start + offset, len).map_err(Flaw::Unreadable)
    }

    /// What a copy's two superblock pages hold.
    pub(crate) fn superblock_pages(&self, copy: u8) -> [Result<Superblock, Flaw>; 2] {
        [0, 1].map(|page| {
            let bytes = self.read(copy, self.shape.superblock_at(page), PAGE_SIZE)?;
            match Superblock::decode(&bytes) {
                Ok(s) if s.volume != self.superblock.volume || s.role != CopyRole::Copy(copy) => {
                    Err(Flaw::Damaged(DecodeError::Magic("superblock of this copy")))
                }
                Ok(s) if s.flags.has(SuperblockFlags::FENCED) => Err(Flaw::Fenced),
                other => other.map_err(Flaw::Damaged),
            }
        })
    }

    /// A page of the superblock's checkpoint, from whichever copy has it whole. Two copies that differ give nothing.
    pub(crate) fn checkpoint_page(&self, index: u32) -> Option<Vec<Entry>> {
        let mut whole: Option<Vec<Entry>> = None;
        // Each copy has its own area in use; the generation in the page tells them apart.
        for (copy, area) in (0..COPIES).flat_map(|copy| [(copy, 0), (copy, 1)]) {
            let Ok(bytes) = self.read(copy, self.shape.page_at(area, index), PAGE_SIZE) else { continue };
            let header = PageHeader {
                volume: self.superblock.volume_tag(),
                copy,
                index,
                generation: self.superblock.generation,
            };
            let page = CheckpointPage::decode(&bytes, &header, self.superblock.block_sectors());
            let Ok(page) = page else { continue };
            match &whole {
                Some(known) if *known != page.entries => return None,
                _ => whole = Some(page.entries),
            }
        }
        whole
    }

    /// Pages of the superblock's checkpoint.
    pub(crate) fn checkpoint_pages(&self) -> u32 {
        let pages = self.superblock.entries.div_ceil(PAGE_ENTRIES as u64);
        u32::try_from(pages).unwrap_or(u32::MAX).min(self.shape.area_pages)
    }

    /// The journal record at a position, if any copy has one there whole that is 1 to `ahead` generations after `after`.
    pub(crate) fn record(&self, position: u32, after: u64, ahead: u64) -> Option<Record> {
        let pages = self.shape.journal_pages.checked_sub(position)?.min(MAX_RECORD_PAGES as u32);
        let at = self.shape.journal_at(position);
        (0..COPIES).find_map(|copy| {
            let decode = |bytes: &[u8], generation| {
                let header = RecordHeader {
                    volume: self.superblock.volume_tag(),
                    copy,
                    position,
                    checkpoint: self.superblock.generation,
                    generation,
                };
                Record::decode(bytes, &header, self.superblock.block_sectors()).ok()
            };
            // One page may be readable where sixteen are not; most records are one page long.
            let whole = self.read(copy, at, pages as usize * PAGE_SIZE);
            let bytes = whole.or_else(|_| self.read(copy, at, PAGE_SIZE)).ok()?;
            (1..=ahead).find_map(|n| decode(&bytes, after.wrapping_add(n)))
        })
    }

    /// Pages in the journal.
    pub(crate) fn journal_pages(&self) -> u32 {
        self.shape.journal_pages
    }
}
