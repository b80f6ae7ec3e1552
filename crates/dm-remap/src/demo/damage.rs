//! Where the demo's disk is damaged: a model, or a map of a real disk.
//!
//! The model follows what is known of latent sector errors: they come in clusters (a scratch, a weak spot), a cluster is a
//! few runs of sectors close to each other, and most runs are short. Positions of clusters are random; to show something,
//! half of them begin under files (one under the ledger), and one in free space.
//!
//! Invariant: the model spares the file system's own blocks, so that it can be checked; a map is taken as it is.

use remap_core::units::{Extent, SECTOR_SIZE, Sector};
use remap_io::badmap::{BadMap, Run, Status};

use super::owners::{Owner, Owners};
use super::random::Random;
use super::tools::{FS_BLOCK, FileExtent};

/// Bad sectors.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Damage {
    /// Sorted, merged runs.
    pub extents: Vec<Extent>,
    /// Clusters that the model drew, or runs less than 1 MiB apart.
    pub clusters: u64,
}

/// Runs closer than this belong together.
const CLUSTER_GAP: u64 = (1 << 20) / SECTOR_SIZE;

impl Damage {
    /// Sectors in all.
    pub(crate) fn sectors(&self) -> u64 {
        self.extents.iter().map(Extent::sectors).sum()
    }

    /// The extents of a map that lie on a device of `sectors` sectors.
    pub(crate) fn of_map(map: &BadMap, statuses: &[Status], sectors: u64) -> Self {
        let device = Extent::new(Sector(0), sectors);
        let extents: Vec<Extent> =
            map.extents(statuses).filter_map(|e| device.and_then(|d| e.intersect(&d))).collect();
        let clusters = clusters(&extents);
        Self { extents, clusters }
    }

    /// As a list that a drill reads.
    pub(crate) fn list(&self) -> String {
        let line = |e: &Extent| format!("{}-{}\n", e.start().0, e.end().0 - 1);
        self.extents.iter().map(line).collect()
    }
}

fn clusters(extents: &[Extent]) -> u64 {
    let apart = extents.windows(2).filter(|pair| match pair {
        [a, b] => b.start().0 - a.end().0 >= CLUSTER_GAP,
        _ => false,
    });
    apart.count() as u64 + u64::from(!extents.is_empty())
}

/// Draws damage for a device of `sectors` sectors. `files` are the extents of the files, the first one the ledger's.
pub(crate) fn draw(owners: &Owners, files: &[Vec<FileExtent>], sectors: u64, seed: u64) -> Damage {
    let mut random = Random::seeded(seed, 2);
    let wanted = 6 + random.below(3);
    let mut runs = Vec::new();
    let mut clusters = 0;
    for number in 0..wanted {
        let centre = match number {
            0 => files.first().and_then(|f| within(&mut random, f)),
            n if n % 2 == 0 => {
                let file = usize::try_from(random.below(files.len() as u64)).unwrap_or(0);
                files.get(file).and_then(|f| within(&mut random, f))
            }
            1 => unused(&mut random, owners, sectors),
            _ => None,
        };
        let centre = centre.unwrap_or_else(|| random.below(sectors));
        let drawn = cluster(&mut random, centre, sectors);
        let spared = drawn.into_iter().flat_map(|extent| owners.cut(extent));
        let before = runs.len();
        runs.extend(spared.filter(|(_, owner)| *owner != Owner::Metadata).map(|(extent, _)| extent));
        clusters += u64::from(runs.len() > before);
    }
    let bad = runs.into_iter().map(|extent| Run { extent, status: Status::Bad });
    let extents = BadMap::from_runs(bad).map(|map| map.extents(&[Status::Bad]).collect()).unwrap_or_default();
    Damage { extents, clusters }
}

/// A sector of a file.
fn within(random: &mut Random, file: &[FileExtent]) -> Option<u64> {
    let extent = file.get(usize::try_from(random.below(file.len() as u64)).ok()?)?;
    let block = random.between(extent.blocks.start, extent.blocks.end - 1);
    Some(block * (FS_BLOCK / SECTOR_SIZE) + random.below(FS_BLOCK / SECTOR_SIZE))
}

/// A sector that no file uses, if one is found soon.
fn unused(random: &mut Random, owners: &Owners, sectors: u64) -> Option<u64> {
    const TRIES: usize = 64;
    let mut tries = std::iter::repeat_with(|| random.below(sectors)).take(TRIES);
    tries.find(|sector| owners.at(sector / (FS_BLOCK / SECTOR_SIZE)).0 == Owner::Free)
}

/// One cluster: a few runs from `centre` on.
fn cluster(random: &mut Random, centre: u64, sectors: u64) -> Vec<Extent> {
    let mut at = centre;
    let runs = random.run(75, 12);
    let mut drawn = Vec::new();
    for _ in 0..runs {
        // Most are a few sectors long, some a track's worth.
        let length = if random.below(8) == 0 { random.between(16, 96) } else { random.run(70, 16) };
        drawn.extend(Extent::between(Sector(at), Sector((at + length).min(sectors))));
        // Gaps of all sizes: each doubling is as likely as the next.
        let doublings = random.between(1, 8);
        at += length + random.between(1, 1 << doublings);
    }
    drawn
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::tools::Blocks;
    use remap_io::badmap::Format;

    fn small() -> (Owners, Vec<Vec<FileExtent>>) {
        let blocks = |start, end| Blocks { start, end };
        let files = vec![
            vec![FileExtent { logical: 0, blocks: blocks(100, 200) }],
            vec![FileExtent { logical: 0, blocks: blocks(300, 900) }],
        ];
        (Owners::of(&files, &[blocks(200, 300), blocks(900, 4000)], 4096), files)
    }

    #[test]
    fn the_model_hits_files_and_spares_the_file_system() {
        let (owners, files) = small();
        for seed in 0..200 {
            let damage = draw(&owners, &files, 4096 * 8, seed);
            let tally = owners.tally(&damage.extents);
            assert_eq!(tally.metadata, 0, "seed {seed}");
            assert!(tally.files.contains_key(&0), "seed {seed} spares the ledger");
            assert!(damage.clusters >= 2 && damage.sectors() < 4096, "seed {seed}: {damage:?}");
            assert!(damage.extents.iter().all(|e| e.end().0 <= 4096 * 8));
            assert_eq!(damage, draw(&owners, &files, 4096 * 8, seed), "same seed, same damage");
        }
        assert_ne!(draw(&owners, &files, 4096 * 8, 1), draw(&owners, &files, 4096 * 8, 2));
    }

    #[test]
    fn a_map_is_cut_at_the_end_of_the_device_and_its_list_reads_back() {
        let text =
            "0x0 +\n0x0 0x2000 +\n0x2000 0x400 -\n0x2400 0x200 *\n0x2600 0x800000 +\n0x802600 0x1000 -\n";
        let map = BadMap::parse(text, Format::Ddrescue, None).unwrap();
        let damage = Damage::of_map(&map, &[Status::Bad], 0x80_2800 / 512);
        assert_eq!((damage.sectors(), damage.clusters), (3, 2));
        let list = BadMap::parse(&damage.list(), Format::List, None).unwrap();
        assert_eq!(list.extents(&[Status::Bad]).collect::<Vec<_>>(), damage.extents);
    }
}
