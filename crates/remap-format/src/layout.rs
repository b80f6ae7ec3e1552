//! Where the parts of a volume lie on its spares: pure arithmetic, the same when writing and when searching.
//!
//! Invariant: a copy starts at an anchor, which follows from its spare's size and number of anchors alone; what is reserved
//! behind an anchor never overlaps another's, and anchors lie as far from each other as the spare allows, so that local
//! damage takes one copy. Which copy lives at which anchor (its home) is in the superblock, for spares come and go. No slot lies
//! where a superblock is looked for: nothing that a client wrote can be taken for one.

use alloc::vec::Vec;
use core::ops::RangeInclusive;

use arrayvec::ArrayVec;

use crate::{COPIES, CopyHome, MAX_SPARES, PAGE_ENTRIES, PAGE_SIZE, SpareRecord};

const PAGE: u64 = PAGE_SIZE as u64;
/// Superblock pages at the front of a copy, written in turn.
pub const SUPERBLOCK_PAGES: u64 = 2;
const MIN_JOURNAL_PAGES: u64 = 8;
const MAX_JOURNAL_PAGES: u64 = 4096;
/// Entries for which room is made even if that takes more than a fiftieth of a small spare.
const FLOOR_ENTRIES: u64 = 4096;
/// Most entries a checkpoint can hold: bounds memory at assembly (about 1 GiB at this count).
pub const MAX_ENTRIES: u64 = 1 << 24;
/// Pages that a checkpoint area can have.
pub const AREA_PAGES: RangeInclusive<u32> = 1..=CopyShape::MAX.area_pages;
/// Pages that a journal can have; with none, nothing could ever be committed.
pub const JOURNAL_PAGES: RangeInclusive<u32> = MIN_JOURNAL_PAGES as u32..=CopyShape::MAX.journal_pages;

/// Places where copies can start on one spare: those of one copy there, of two, and so on.
const MAX_ANCHORS: usize = COPIES as usize * (COPIES as usize + 1) / 2;

/// Slot ranges of a spare that hold no data, at most.
pub const MAX_KEPT: usize = MAX_ANCHORS + COPIES as usize;

/// Sizes of the parts of every copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyShape {
    /// Pages in each of the two checkpoint areas.
    pub area_pages: u32,
    /// Pages in the journal.
    pub journal_pages: u32,
}

/// A copy's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyPlace {
    /// Copy number, 0 to 4.
    pub copy: u8,
    /// On which spare.
    pub spare: u8,
    /// First byte on that spare.
    pub start: u64,
}

/// No room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// A spare is too small.
    #[error(
        "spare {spare} has {size} bytes; with blocks of {block_size} bytes the least that works is {least} bytes"
    )]
    TooSmall {
        /// Which one.
        spare: u8,
        /// Its size in bytes.
        size: u64,
        /// The volume's block size in bytes.
        block_size: u64,
        /// The least size in bytes that would do.
        least: u64,
    },
    /// The number of spares is not between 1 and 16.
    #[error("a volume has 1 to 16 spares, not {0}")]
    SpareCount(usize),
}

impl CopyShape {
    /// The largest there is: what claims more was not made by us, and nobody shall look for its pages.
    pub const MAX: Self = Self {
        area_pages: MAX_ENTRIES.div_ceil(PAGE_ENTRIES as u64) as u32,
        journal_pages: MAX_JOURNAL_PAGES as u32,
    };

    /// Bytes of a copy.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        (SUPERBLOCK_PAGES + 2 * u64::from(self.area_pages) + u64::from(self.journal_pages)) * PAGE
    }

    /// Pages of a copy.
    #[must_use]
    pub fn pages(&self) -> u32 {
        u32::try_from(self.bytes() / PAGE).unwrap_or(u32::MAX)
    }

    /// Entries that a checkpoint can hold.
    #[must_use]
    pub fn capacity(&self) -> u64 {
        u64::from(self.area_pages) * PAGE_ENTRIES as u64
    }

    /// Byte offset of superblock page 0 or 1 in a copy.
    #[must_use]
    pub fn superblock_at(&self, which: u8) -> u64 {
        u64::from(which & 1) * PAGE
    }

    /// Byte offset of a checkpoint page in a copy.
    #[must_use]
    pub fn page_at(&self, area: u8, index: u32) -> u64 {
        (SUPERBLOCK_PAGES + u64::from(area & 1) * u64::from(self.area_pages) + u64::from(index)) * PAGE
    }

    /// Byte offset of a journal page in a copy.
    #[must_use]
    pub fn journal_at(&self, position: u32) -> u64 {
        (SUPERBLOCK_PAGES + 2 * u64::from(self.area_pages) + u64::from(position)) * PAGE
    }

    /// The largest copy that `pages` pages can hold; `None` if that is none.
    #[must_use]
    pub fn within(pages: u32) -> Option<Self> {
        let (mut fits, mut too_many) = (0, u64::from(pages));
        while too_many - fits > 1 {
            let area = u64::midpoint(fits, too_many);
            let shape = Self::for_capacity(area * PAGE_ENTRIES as u64);
            if shape.bytes() <= u64::from(pages) * PAGE { fits = area } else { too_many = area }
        }
        (fits > 0).then(|| Self::for_capacity((fits * PAGE_ENTRIES as u64).min(MAX_ENTRIES)))
    }

    fn for_capacity(entries: u64) -> Self {
        let area = entries.div_ceil(PAGE_ENTRIES as u64).max(1);
        let journal = area.clamp(MIN_JOURNAL_PAGES, MAX_JOURNAL_PAGES);
        Self {
            area_pages: u32::try_from(area).unwrap_or(u32::MAX),
            journal_pages: u32::try_from(journal).unwrap_or(u32::MAX),
        }
    }
}

/// Copies that spare `spare` of `spares` holds: copy n lies on spare n modulo the number of spares.
#[must_use]
pub fn copies_on(spare: u8, spares: usize) -> u8 {
    (0..COPIES).filter(|&copy| usize::from(copy) % spares.max(1) == usize::from(spare)).count() as u8
}

/// Start of the `index`-th of `count` copies on a spare of `size` bytes.
#[must_use]
pub fn anchor(size: u64, index: u8, count: u8) -> u64 {
    // Coarse steps keep copies aligned for every block size; small spares cannot afford them.
    let step = if size >= 2 << 20 { 64 << 10 } else { PAGE };
    // size * index / count, rounded down, within 64 bits (a kernel divides no larger numbers).
    let (index, count) = (u64::from(index), u64::from(count.max(1)));
    let at = (size / count) * index + size % count * index / count;
    at - at % step
}

/// Every place where a copy can start on a spare of `size` bytes, in the order to search.
#[must_use]
pub fn search_places(size: u64) -> ArrayVec<u64, MAX_ANCHORS> {
    let mut places = ArrayVec::new();
    for count in 1..=COPIES {
        for index in 0..count {
            let at = anchor(size, index, count);
            if !places.contains(&at) {
                places.push(at);
            }
        }
    }
    places
}

/// Where the copies of a volume live that is made of `spares` spares: spread over all of them.
#[must_use]
pub fn first_homes(spares: usize) -> [CopyHome; COPIES as usize] {
    let spares = u8::try_from(spares.max(1)).unwrap_or(COPIES);
    core::array::from_fn(|copy| {
        let copy = copy as u8;
        CopyHome { spare: copy % spares, anchor: copy / spares }
    })
}

/// The spares of a volume that is made of these (UUID, size in bytes), with room for their share of the copies.
#[must_use]
pub fn first_spares(spares: &[([u8; 16], u64)], shape: &CopyShape, block_size: u64) -> Vec<SpareRecord> {
    let share = shares(spares.iter().map(|&(_, size)| size), shape, block_size);
    spares.iter().zip(share).map(|(&(uuid, _), share)| SpareRecord { uuid, ..share }).collect()
}

/// Spares of these sizes, each with its share of the copies.
fn shares(
    sizes: impl ExactSizeIterator<Item = u64>,
    shape: &CopyShape,
    block_size: u64,
) -> impl Iterator<Item = SpareRecord> {
    let (spares, reserve_pages) = (sizes.len(), shape.pages());
    sizes.enumerate().map(move |(index, size)| {
        let anchors = u8::try_from(index).map_or(0, |index| copies_on(index, spares));
        SpareRecord { size, slots: size / block_size, anchors, reserve_pages, ..SpareRecord::GONE }
    })
}

/// A spare that joins a volume whose copies have this shape. It gets anchors for all five copies, so that every other spare
/// can leave; as large as would befit a volume of its own, if it is the larger one.
///
/// # Errors
/// [`LayoutError`] with the least size that would do (`spare` is its number in the error).
pub fn joining_spare(
    uuid: [u8; 16],
    size: u64,
    spare: u8,
    shape: &CopyShape,
    block_size: u64,
) -> Result<SpareRecord, LayoutError> {
    let own = plan(&[size], block_size).map_or(0, |own| own.pages());
    let record =
        |anchors, reserve_pages| SpareRecord { uuid, size, slots: size / block_size, anchors, reserve_pages };
    let wishes = [(COPIES, own.max(shape.pages()))];
    let fewer = (0..=COPIES).rev().map(|anchors| (anchors, shape.pages()));
    wishes
        .into_iter()
        .chain(fewer)
        .map(|(anchors, pages)| record(anchors, pages))
        .find(|record| spare_fits(record, block_size))
        .ok_or_else(|| LayoutError::TooSmall { spare, size, block_size, least: least_joining(block_size) })
}

/// The least size in bytes of a spare that holds nothing but a label and slots.
fn least_joining(block_size: u64) -> u64 {
    let label = |size| SpareRecord { size, slots: size / block_size, anchors: 0, ..SpareRecord::GONE };
    let mut sizes = (1..).map(|n| n * block_size.max(PAGE));
    sizes.find(|&size| spare_fits(&label(size), block_size) || size > 64 << 20).unwrap_or(0)
}

/// Where copies live on these spares, in the order of the copies.
#[must_use]
pub fn copy_places(
    spares: &[SpareRecord],
    homes: &[CopyHome; COPIES as usize],
) -> [CopyPlace; COPIES as usize] {
    let mut copy = 0;
    homes.map(|CopyHome { spare, anchor: index }| {
        let start = spares.get(usize::from(spare)).map_or(0, |s| anchor(s.size, index, s.anchors));
        copy += 1;
        CopyPlace { copy: copy - 1, spare, start }
    })
}

/// Bytes at the front of a spare that holds only a label.
pub const LABEL_BYTES: u64 = SUPERBLOCK_PAGES * PAGE;

/// Byte ranges `(start, len)` of a spare that are kept for metadata and therefore hold no slot.
pub fn metadata_ranges(spare: &SpareRecord) -> impl Iterator<Item = (u64, u64)> + Clone + use<> {
    let SpareRecord { size, anchors, reserve_pages, .. } = *spare;
    let len = if anchors == 0 { LABEL_BYTES } else { u64::from(reserve_pages) * PAGE };
    (0..anchors.max(1)).map(move |index| (anchor(size, index, anchors), len))
}

/// Slot ranges `(first, end)`, in order and apart, that hold no data: those that touch what is kept for metadata, or a place where
/// superblocks are looked for.
#[must_use]
pub fn kept_slots(spare: &SpareRecord, block_size: u64) -> ArrayVec<(u64, u64), MAX_KEPT> {
    let searched = search_places(spare.size).into_iter().map(|place| (place, LABEL_BYTES));
    let mut ranges: ArrayVec<(u64, u64), MAX_KEPT> = metadata_ranges(spare).chain(searched).collect();
    for (start, len) in &mut ranges {
        (*start, *len) = (*start / block_size, (*start + *len).div_ceil(block_size));
    }
    ranges.sort_unstable();
    let mut kept: ArrayVec<(u64, u64), MAX_KEPT> = ArrayVec::new();
    for (first, end) in ranges {
        match kept.last_mut() {
            Some(last) if first <= last.1 => last.1 = last.1.max(end),
            _ => kept.push((first, end)),
        }
    }
    kept
}

/// Does what is reserved on a spare fit on it, side by side, and leave a slot?
#[must_use]
pub fn spare_fits(spare: &SpareRecord, block_size: u64) -> bool {
    let ranges = metadata_ranges(spare);
    let ends = ranges.clone().skip(1).map(|(start, _)| start).chain([spare.size]);
    let apart = ranges.zip(ends).all(|((start, len), end)| start + len <= end);
    let slots = spare.size / block_size;
    let kept = kept_slots(spare, block_size);
    let taken: u64 = kept.iter().map(|&(first, end)| end.min(slots).saturating_sub(first)).sum();
    apart && slots > taken
}

/// The first spare on which a share of copies of this shape does not fit.
fn fits(sizes: impl ExactSizeIterator<Item = u64>, shape: &CopyShape, block_size: u64) -> Result<(), u8> {
    let misfit = shares(sizes, shape, block_size).position(|s| !spare_fits(&s, block_size));
    misfit.map_or(Ok(()), |spare| Err(spare as u8))
}

/// Chooses the shape of the copies for spares of these sizes (bytes): room for an entry per slot on small spares, about
/// a fiftieth of the space on large ones.
///
/// # Errors
/// [`LayoutError`] with the least size that would do.
pub fn plan(sizes: &[u64], block_size: u64) -> Result<CopyShape, LayoutError> {
    if sizes.is_empty() || sizes.len() > MAX_SPARES {
        return Err(LayoutError::SpareCount(sizes.len()));
    }
    let total = sizes.iter().fold(0u64, |sum, &s| sum.saturating_add(s));
    let slots = total / block_size;
    let per_entry = 3 * u64::from(COPIES) * PAGE / PAGE_ENTRIES as u64;
    let mut entries = slots.min((total / 50 / per_entry).max(FLOOR_ENTRIES)).clamp(1, MAX_ENTRIES);
    loop {
        let shape = CopyShape::for_capacity(entries);
        let metadata = u64::from(COPIES) * shape.bytes();
        let modest = metadata <= total / 4 || shape.area_pages == 1;
        match fits(sizes.iter().copied(), &shape, block_size) {
            Ok(()) if modest => return Ok(shape),
            Err(spare) if shape.area_pages == 1 => {
                let size = sizes.get(usize::from(spare)).copied().unwrap_or(0);
                let least = least_size(sizes, spare, block_size);
                return Err(LayoutError::TooSmall { spare, size, block_size, least });
            }
            _ => entries /= 2,
        }
    }
}

/// The least size in bytes for spare `spare`, the others as they are.
fn least_size(sizes: &[u64], spare: u8, block_size: u64) -> u64 {
    let shape = CopyShape::for_capacity(1);
    let step = block_size.max(PAGE);
    let mut least = step;
    while least < 64 << 20 {
        let tried = |(index, &size)| if index == usize::from(spare) { least } else { size };
        if fits(sizes.iter().enumerate().map(tried), &shape, block_size) != Err(spare) {
            break;
        }
        least += step;
    }
    least
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec;

    #[test]
    fn copies_never_overlap_and_lie_apart() {
        for size in [300 << 10, 1 << 20, 5 << 20, 64 << 20, 1 << 30, 50 << 30, 1 << 40] {
            for count in 1..=7usize {
                let Ok(shape) = plan(&vec![size; count], 4096) else { continue };
                let spares = first_spares(&vec![([0; 16], size); count], &shape, 4096);
                let places = copy_places(&spares, &first_homes(count));
                assert_eq!(places.len(), 5);
                for a in &places {
                    assert!(a.start + shape.bytes() <= size, "{size} {count} {a:?}");
                    assert!(search_places(size).contains(&a.start));
                    for b in places.iter().filter(|b| b.copy > a.copy && b.spare == a.spare) {
                        assert!(a.start + shape.bytes() <= b.start, "{size} {count} {a:?} {b:?} {shape:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn no_slot_lies_where_a_superblock_is_looked_for() {
        for size in [1u64 << 20, 5 << 20, 64 << 20, (1 << 30) + 4096] {
            for (block_size, anchors) in [(512, 0), (512, 5), (4096, 1), (65536, 2)] {
                let spare =
                    SpareRecord { uuid: [1; 16], size, slots: size / block_size, anchors, reserve_pages: 12 };
                let kept = kept_slots(&spare, block_size);
                assert!(kept.is_sorted_by(|a, b| a.1 < b.0), "{kept:?}");
                let inside =
                    |at: u64| kept.iter().any(|&(first, end)| (first..end).contains(&(at / block_size)));
                for place in search_places(size) {
                    assert!(inside(place) && inside(place + LABEL_BYTES - 1), "{place} of {spare:?}");
                }
            }
        }
    }

    #[test]
    fn too_small_names_a_size_that_works() {
        for block_size in [512, 4096, 65536] {
            let Err(LayoutError::TooSmall { least, .. }) = plan(&[512], block_size) else {
                panic!("one sector is never enough")
            };
            assert!(plan(&[least], block_size).is_ok(), "{block_size}: {least}");
            assert!(
                plan(&[least - block_size.max(4096)], block_size).is_err(),
                "{block_size}: {least} is the least"
            );
        }
    }

    #[test]
    fn the_largest_copy_within_some_pages() {
        assert_eq!(CopyShape::within(11), None);
        for pages in [12, 13, 100, 4096, 1 << 18] {
            let shape = CopyShape::within(pages).expect("twelve pages hold the least copy");
            assert!(shape.pages() <= pages && (shape.pages() + 3 > pages), "{pages}: {shape:?}");
        }
    }

    #[test]
    fn a_spare_that_joins_takes_all_copies_if_it_can() {
        let shape = plan(&[64 << 20], 4096).expect("fits");
        let Err(LayoutError::TooSmall { least, .. }) = joining_spare([1; 16], 8192, 1, &shape, 4096) else {
            panic!("room for a label and no slot")
        };
        assert!(joining_spare([1; 16], least - 4096, 1, &shape, 4096).is_err());
        for size in [least, 64 << 10, 1 << 20, 64 << 20, 50 << 30] {
            let joined = joining_spare([1; 16], size, 1, &shape, 4096).expect("fits");
            assert!(spare_fits(&joined, 4096), "{joined:?}");
            assert!(joined.reserve_pages >= shape.pages());
            assert_eq!(joined.anchors == COPIES, size >= 64 << 20, "{joined:?}");
        }
        let large = joining_spare([1; 16], 50 << 30, 1, &shape, 4096).expect("fits");
        assert!(CopyShape::within(large.reserve_pages).is_some_and(|s| s.capacity() > 1_000_000));
    }

    #[test]
    fn large_spares_give_about_a_fiftieth_to_metadata() {
        let size = 50u64 << 30;
        let shape = plan(&[size], 4096).expect("fits");
        let share = 5 * shape.bytes() * 1000 / size;
        assert!((10..=21).contains(&share), "{share} per mille");
        assert!(shape.capacity() > 1_000_000);
    }
}
