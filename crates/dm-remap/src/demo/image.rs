//! The demo's disk: an image with an ext4 file system, files in it, and knowledge of what lies where.
//!
//! Invariant: e2fsck finds nothing wrong with the image before it is damaged.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use remap_core::units::{Extent, SECTOR_SIZE, Sector};
use remap_io::badmap::{BadMap, Run, Status};
use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};

use super::damage::Damage;
use super::files::{FileSet, LEDGER, noise};
use super::owners::Owners;
use super::random::Random;
use super::tools::{Blocks, FS_BLOCK, FileExtent, Tools};

/// The image and what is known of it.
#[derive(Debug)]
pub(crate) struct Image {
    /// Where it is.
    pub path: PathBuf,
    /// Its size in sectors.
    pub sectors: u64,
    /// Its files.
    pub files: FileSet,
    /// Where they lie, in the order of `files`.
    pub extents: Vec<Vec<FileExtent>>,
    /// What lies where.
    pub owners: Owners,
}

/// Files laid over bad areas of a map, at most.
const PLACED_FILES: usize = 24;
/// Smallest and largest of them, in blocks.
const PLACED_BLOCKS: (u64, u64) = (256, 1024);

impl Image {
    /// An image of `size` bytes, half full.
    ///
    /// # Errors
    /// A program of e2fsprogs failed, or the directory cannot be written.
    pub(crate) fn make(tools: &Tools, dir: &Path, size: u64, seed: u64) -> anyhow::Result<Self> {
        let size = size - size % FS_BLOCK;
        let ledger = (size / 32 - size / 32 % FS_BLOCK).clamp(64 << 10, 4 << 20);
        let files = FileSet::make(dir.join("files"), size / 2, ledger, seed)?;
        let path = blank(dir, size)?;
        tools.make(&path, &files.backup, seed)?;
        Self::known(tools, dir, path, size, files)
    }

    /// An image as large as the disk of a map, with files on its bad areas as far as these are free.
    ///
    /// # Errors
    /// As [`Self::make`].
    pub(crate) fn make_for(
        tools: &Tools,
        dir: &Path,
        size: u64,
        damage: &Damage,
        seed: u64,
    ) -> anyhow::Result<Self> {
        let mut files = FileSet::make(dir.join("files"), 16 << 20, 0, seed)?;
        let path = blank(dir, size)?;
        let names: Vec<String> = std::iter::once(LEDGER.to_owned())
            .chain((1..PLACED_FILES).map(|n| format!("videos/film-{n:02}.mkv")))
            .collect();
        for name in &names {
            files.add(name, &[])?;
        }
        tools.make(&path, &files.backup, seed)?;
        let free = tools.free_blocks(&path)?;
        let places = places(&free, damage, names.len(), seed);
        let script: String =
            names.iter().zip(&places).map(|(name, place)| placing_script(name, *place)).collect();
        tools.script(&path, true, &script, dir)?;
        tools.settle(&path)?;
        let image = OpenOptions::new().write(true).open(&path).context("the image")?;
        let mut random = Random::seeded(seed, 3);
        for (name, place) in names.iter().zip(&places) {
            let contents = noise(&mut random, (place.end - place.start) * FS_BLOCK);
            image.write_all_at(&contents, place.start * FS_BLOCK).context("writing to the image")?;
            files.add(name, &contents)?;
        }
        Self::known(tools, dir, path, size, files)
    }

    fn known(
        tools: &Tools,
        dir: &Path,
        path: PathBuf,
        size: u64,
        mut files: FileSet,
    ) -> anyhow::Result<Self> {
        // The ledger is file number 0.
        files.files.sort_by_key(|f| f.path != LEDGER);
        let names: Vec<String> = files.files.iter().map(|f| f.path.clone()).collect();
        let extents = tools.extents(&path, &names, dir)?;
        let free = tools.free_blocks(&path)?;
        let owners = Owners::of(&extents, &free, size / FS_BLOCK);
        let verdict = tools.check(&path)?;
        ensure!(verdict.clean, "the image is not clean before it is used:\n{}", verdict.text);
        Ok(Self { path, sectors: size / SECTOR_SIZE, files, extents, owners })
    }

    /// Parts of the image that hold something, in units of 4 KiB, and `more`.
    ///
    /// # Errors
    /// The image cannot be read.
    pub(crate) fn interesting(&self, more: &[Extent]) -> anyhow::Result<Vec<Extent>> {
        let per_block = FS_BLOCK / SECTOR_SIZE;
        let widened = |e: &Extent| {
            let end = e.end().0.next_multiple_of(per_block).min(self.sectors);
            Extent::between(Sector(e.start().0 - e.start().0 % per_block), Sector(end))
        };
        let all = allocated(&self.path)?;
        let runs = all.iter().chain(more).filter_map(widened);
        let runs = runs.map(|extent| Run { extent, status: Status::Bad });
        let map = BadMap::from_runs(runs).map_err(|n| anyhow::anyhow!("{n} pieces are too many"))?;
        Ok(map.extents(&[Status::Bad]).collect())
    }

    /// SHA-256 over everything that the image holds (holes are left out).
    ///
    /// # Errors
    /// The image cannot be read.
    pub(crate) fn sha256(&self) -> anyhow::Result<[u8; 32]> {
        let file = File::open(&self.path).context("the image")?;
        let mut hash = Sha256::new();
        for extent in allocated(&self.path)? {
            hash.update(extent.start().0.to_le_bytes());
            let (mut at, end) = (extent.start().0 * SECTOR_SIZE, extent.end().0 * SECTOR_SIZE);
            while at < end {
                let mut bytes = vec![0; usize::try_from((end - at).min(1 << 20))?];
                file.read_exact_at(&mut bytes, at).context("the image")?;
                hash.update(&bytes);
                at += bytes.len() as u64;
            }
        }
        Ok(hash.finalize().into())
    }
}

/// A sparse file.
fn blank(dir: &Path, size: u64) -> anyhow::Result<PathBuf> {
    let path = dir.join("disk.img");
    let file = File::create(&path).with_context(|| format!("{}", path.display()))?;
    file.set_len(size).with_context(|| format!("{}: cannot be {size} bytes large", path.display()))?;
    Ok(path)
}

/// The parts of a sparse file that are not holes.
fn allocated(path: &Path) -> anyhow::Result<Vec<Extent>> {
    let file = File::open(path).with_context(|| format!("{}", path.display()))?;
    let size = file.metadata()?.len();
    let mut found = Vec::new();
    let mut at = 0;
    while at < size {
        let start = match seek(&file, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(Errno::NXIO) => break,
            Err(error) => return Err(error).with_context(|| format!("{}", path.display())),
        };
        at = seek(&file, SeekFrom::Hole(start)).with_context(|| format!("{}", path.display()))?;
        found.extend(Extent::between(Sector(start / SECTOR_SIZE), Sector(at.div_ceil(SECTOR_SIZE))));
    }
    Ok(found)
}

/// Free places with bad areas in them, spread over all of the damage; the first one is as large as they get.
fn places(free: &[Blocks], damage: &Damage, most: usize, seed: u64) -> Vec<Blocks> {
    let per_block = FS_BLOCK / SECTOR_SIZE;
    let mut random = Random::seeded(seed, 4);
    let count = damage.extents.len();
    let step = (count / (2 * most)).max(1);
    let mut places: Vec<Blocks> = Vec::new();
    for spot in damage.extents.iter().step_by(step) {
        if places.len() == most {
            break;
        }
        let block = spot.start().0 / per_block;
        let length = if places.is_empty() {
            PLACED_BLOCKS.1
        } else {
            random.between(PLACED_BLOCKS.0, PLACED_BLOCKS.1)
        };
        let Some(run) = free.iter().find(|run| run.start <= block && block < run.end) else { continue };
        let start = block.saturating_sub(random.below(length / 2)).max(run.start);
        let place = Blocks { start, end: (start + length).min(run.end) };
        let large_enough = place.end - place.start >= PLACED_BLOCKS.0;
        let overlaps = places.iter().any(|p| p.start < place.end && place.start < p.end);
        if large_enough && !overlaps {
            places.push(place);
        }
    }
    if places.is_empty() {
        // All the damage is where the file system itself is: the ledger goes to the largest free run.
        let largest = free.iter().max_by_key(|run| run.end - run.start);
        places.extend(
            largest.map(|run| Blocks { start: run.start, end: run.end.min(run.start + PLACED_BLOCKS.1) }),
        );
    }
    places
}

/// What debugfs must do to give an empty file these blocks.
fn placing_script(name: &str, place: Blocks) -> String {
    let length = place.end - place.start;
    format!(
        "set_inode_field /{name} size {}\nextent_open /{name}\ninsert_node 0 {length} {}\nextent_close\n\
         setb {} {length}\nset_inode_field /{name} blocks {}\n",
        length * FS_BLOCK,
        place.start,
        place.start,
        length * (FS_BLOCK / SECTOR_SIZE)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_free_apart_and_hold_a_bad_area() {
        let bad = |start: u64, len| Extent::new(Sector(start * 8), len).unwrap();
        let damage = Damage {
            extents: vec![bad(50, 8), bad(2000, 3), bad(2010, 8), bad(9000, 80), bad(20_000, 1)],
            clusters: 4,
        };
        let free = [Blocks { start: 1000, end: 10_000 }, Blocks { start: 19_900, end: 20_001 }];
        let places = places(&free, &damage, 24, 7);
        assert_eq!(places.len(), 2, "{places:?}");
        for place in &places {
            assert!(free[0].start <= place.start && place.end <= free[0].end);
            let hit = damage.extents.iter().any(|e| (place.start..place.end).contains(&(e.start().0 / 8)));
            assert!(hit, "{place:?}");
        }
    }
}
