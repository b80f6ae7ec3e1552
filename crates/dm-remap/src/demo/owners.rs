//! What each block of the file system belongs to: a file, nothing, or the file system itself.
//!
//! Invariant: the answer comes from what debugfs and dumpe2fs say about the image before it was damaged.

use std::collections::BTreeMap;

use remap_core::units::{Extent, SECTOR_SIZE};

use super::tools::{Blocks, FS_BLOCK, FileExtent};

/// Sectors in a file-system block.
const PER_BLOCK: u64 = FS_BLOCK / SECTOR_SIZE;

/// Who uses a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// File number n; the block is this far (in bytes) from the file's start.
    File(usize, u64),
    /// Nobody.
    Free,
    /// The file system: superblocks, bitmaps, inode tables, directories, the journal.
    Metadata,
    /// Behind the end of the file system.
    Outside,
}

/// A run of blocks with one owner.
#[derive(Clone, Copy, Debug)]
struct Run {
    blocks: Blocks,
    owner: Owner,
}

/// Who uses what.
#[derive(Debug)]
pub(crate) struct Owners {
    runs: Vec<Run>,
    blocks: u64,
}

/// Sectors by owner.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Sectors under each file, by its number.
    pub files: BTreeMap<usize, u64>,
    /// Sectors that no file uses.
    pub free: u64,
    /// Sectors of the file system itself.
    pub metadata: u64,
}

impl Owners {
    /// From the extents of each file and the free blocks of a file system of `blocks` blocks.
    pub(crate) fn of(files: &[Vec<FileExtent>], free: &[Blocks], blocks: u64) -> Self {
        let mut runs: Vec<Run> = free.iter().map(|&blocks| Run { blocks, owner: Owner::Free }).collect();
        for (number, extents) in files.iter().enumerate() {
            runs.extend(extents.iter().map(|extent| Run {
                blocks: extent.blocks,
                owner: Owner::File(number, extent.logical * FS_BLOCK),
            }));
        }
        runs.sort_unstable_by_key(|run| run.blocks);
        Self { runs, blocks }
    }

    /// The owner of a block, and one past the last block of the run with that owner.
    pub(crate) fn at(&self, block: u64) -> (Owner, u64) {
        let next = self.runs.partition_point(|run| run.blocks.end <= block);
        match self.runs.get(next) {
            _ if block >= self.blocks => (Owner::Outside, u64::MAX),
            Some(run) if run.blocks.start <= block => {
                let owner = match run.owner {
                    Owner::File(file, offset) => {
                        Owner::File(file, offset + (block - run.blocks.start) * FS_BLOCK)
                    }
                    other => other,
                };
                (owner, run.blocks.end)
            }
            Some(run) => (Owner::Metadata, run.blocks.start),
            None => (Owner::Metadata, self.blocks),
        }
    }

    /// Cuts a run of sectors by owner.
    pub(crate) fn cut(&self, extent: Extent) -> Vec<(Extent, Owner)> {
        let mut parts = Vec::new();
        let mut at = extent.start();
        while at < extent.end() {
            let (owner, until) = self.at(at.0 / PER_BLOCK);
            let end = extent.end().0.min(until.saturating_mul(PER_BLOCK));
            let owner = match owner {
                Owner::File(file, offset) => Owner::File(file, offset + at.0 % PER_BLOCK * SECTOR_SIZE),
                other => other,
            };
            let Some(part) = Extent::between(at, remap_core::units::Sector(end)) else { break };
            parts.push((part, owner));
            at = part.end();
        }
        parts
    }

    /// Counts sectors by owner.
    pub(crate) fn tally(&self, extents: &[Extent]) -> Tally {
        let mut tally = Tally::default();
        for (part, owner) in extents.iter().flat_map(|&e| self.cut(e)) {
            match owner {
                Owner::File(file, _) => *tally.files.entry(file).or_default() += part.sectors(),
                Owner::Free | Owner::Outside => tally.free += part.sectors(),
                Owner::Metadata => tally.metadata += part.sectors(),
            }
        }
        tally
    }

    /// The sectors of one file, in the order of the device, each with its byte offset in the file.
    pub(crate) fn of_file(&self, extents: &[Extent], file: usize) -> Vec<(Extent, u64)> {
        let parts = extents.iter().flat_map(|&e| self.cut(e));
        parts
            .filter_map(|(part, owner)| match owner {
                Owner::File(number, offset) if number == file => Some((part, offset)),
                _ => None,
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use remap_core::units::Sector;

    fn owners() -> Owners {
        let blocks = |start, end| Blocks { start, end };
        let files = vec![
            vec![
                FileExtent { logical: 0, blocks: blocks(20, 22) },
                FileExtent { logical: 2, blocks: blocks(30, 31) },
            ],
            vec![FileExtent { logical: 0, blocks: blocks(22, 24) }],
        ];
        Owners::of(&files, &[blocks(24, 30), blocks(31, 50)], 50)
    }

    #[test]
    fn every_sector_has_the_owner_of_its_block() {
        let owners = owners();
        let parts = owners.cut(Extent::new(Sector(19 * 8 + 7), 12 * 8).unwrap());
        let words: Vec<String> = parts.iter().map(|(e, o)| format!("{e} {o:?}")).collect();
        assert_eq!(
            words,
            [
                "[159,160) Metadata",
                "[160,176) File(0, 0)",
                "[176,192) File(1, 0)",
                "[192,240) Free",
                "[240,248) File(0, 8192)",
                "[248,255) Free"
            ]
        );
        assert_eq!(owners.cut(Extent::new(Sector(399), 9).unwrap())[1].1, Owner::Outside);
    }

    #[test]
    fn a_file_offset_counts_from_the_first_sector_of_the_part() {
        let owners = owners();
        let bad =
            [Extent::new(Sector(21 * 8 + 3), 2).unwrap(), Extent::new(Sector(30 * 8 + 1), 100).unwrap()];
        assert_eq!(
            owners.of_file(&bad, 0),
            [
                (Extent::new(Sector(171), 2).unwrap(), 4096 + 3 * 512),
                (Extent::new(Sector(241), 7).unwrap(), 8192 + 512)
            ]
        );
        assert_eq!(owners.tally(&bad), Tally { files: BTreeMap::from([(0, 9)]), free: 93, metadata: 0 });
    }
}
