//! Where the parts of a volume lie on its spares: pure arithmetic, the same when writing and when searching.
//!
//! Invariant: copies of one spare never overlap, start at an anchor that follows from the spare's size alone, and lie
//! as far from each other as the spare allows, so that local damage takes one.

use alloc::vec::Vec;

use crate::{COPIES, MAX_SPARES, PAGE_ENTRIES, PAGE_SIZE};

const PAGE: u64 = PAGE_SIZE as u64;
/// Superblock pages at the front of a copy, written in turn.
pub const SUPERBLOCK_PAGES: u64 = 2;
const MIN_JOURNAL_PAGES: u64 = 8;
const MAX_JOURNAL_PAGES: u64 = 4096;
/// Entries for which room is made even if that takes more than a fiftieth of a small spare.
const FLOOR_ENTRIES: u64 = 4096;
/// Most entries a checkpoint can hold: bounds memory at assembly (about 1 GiB at this count).
pub const MAX_ENTRIES: u64 = 1 << 24;

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
    /// Bytes of a copy.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        (SUPERBLOCK_PAGES + 2 * u64::from(self.area_pages) + u64::from(self.journal_pages)) * PAGE
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
    let at = u128::from(size) * u128::from(index) / u128::from(count.max(1));
    let at = u64::try_from(at).unwrap_or(0);
    at - at % step
}

/// Every place where a copy can start on a spare of `size` bytes, in the order to search.
#[must_use]
pub fn search_places(size: u64) -> Vec<u64> {
    let mut places = Vec::new();
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

/// Where the five copies lie on spares of these sizes.
#[must_use]
pub fn copy_places(sizes: &[u64]) -> Vec<CopyPlace> {
    let mut places = Vec::new();
    for copy in 0..COPIES {
        let spare = usize::from(copy) % sizes.len().max(1);
        let Some(&size) = sizes.get(spare) else { continue };
        let spare = spare as u8;
        let count = copies_on(spare, sizes.len());
        let index = copy / u8::try_from(sizes.len()).unwrap_or(COPIES);
        places.push(CopyPlace { copy, spare, start: anchor(size, index, count) });
    }
    places
}

/// Bytes at the front of a spare that holds only a label.
pub const LABEL_BYTES: u64 = SUPERBLOCK_PAGES * PAGE;

/// Byte ranges `(start, len)` of spare `spare` that hold metadata and therefore no slot.
#[must_use]
pub fn metadata_ranges(sizes: &[u64], spare: u8, shape: &CopyShape) -> Vec<(u64, u64)> {
    let mut ranges: Vec<_> =
        copy_places(sizes).iter().filter(|p| p.spare == spare).map(|p| (p.start, shape.bytes())).collect();
    if ranges.is_empty() {
        ranges.push((0, LABEL_BYTES));
    }
    ranges
}

/// Slots of a spare that no metadata touches.
fn usable_slots(sizes: &[u64], spare: u8, shape: &CopyShape, block_size: u64) -> u64 {
    let Some(&size) = sizes.get(usize::from(spare)) else { return 0 };
    let taken: u64 = metadata_ranges(sizes, spare, shape)
        .iter()
        .map(|(start, len)| (start + len).div_ceil(block_size) - start / block_size)
        .sum();
    (size / block_size).saturating_sub(taken)
}

fn fits(sizes: &[u64], shape: &CopyShape, block_size: u64) -> Result<(), u8> {
    for spare in 0..sizes.len().min(MAX_SPARES) as u8 {
        let size = sizes.get(usize::from(spare)).copied().unwrap_or(0);
        let count = copies_on(spare, sizes.len());
        let gap_ok = (0..count).all(|i| {
            let end = if i + 1 == count { size } else { anchor(size, i + 1, count) };
            anchor(size, i, count) + shape.bytes() <= end
        });
        let label_ok = count > 0 || size >= LABEL_BYTES;
        if !gap_ok || !label_ok || usable_slots(sizes, spare, shape, block_size) == 0 {
            return Err(spare);
        }
    }
    Ok(())
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
        match fits(sizes, &shape, block_size) {
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
    let mut sizes: Vec<u64> = sizes.to_vec();
    let step = block_size.max(PAGE);
    let mut least = step;
    while least < 64 << 20 {
        if let Some(size) = sizes.get_mut(usize::from(spare)) {
            *size = least;
        }
        if fits(&sizes, &shape, block_size) != Err(spare) {
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
                let sizes = vec![size; count];
                let Ok(shape) = plan(&sizes, 4096) else { continue };
                let places = copy_places(&sizes);
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
    fn large_spares_give_about_a_fiftieth_to_metadata() {
        let size = 50u64 << 30;
        let shape = plan(&[size], 4096).expect("fits");
        let share = 5 * shape.bytes() * 1000 / size;
        assert!((10..=21).contains(&share), "{share} per mille");
        assert!(shape.capacity() > 1_000_000);
    }
}
