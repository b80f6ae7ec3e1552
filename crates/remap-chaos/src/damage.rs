//! Damage to copies of the metadata while no server runs.
//!
//! Invariant: what is damaged lies inside of the chosen copies; slots and the other copies are not touched.

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use remap_format::layout::{self, CopyShape};
use remap_format::{COPIES, PAGE_SIZE};
use remap_sim::rng::Rng;

use crate::bench::SECTOR;

/// Blocks of every volume here, in bytes.
const BLOCK: u64 = 4096;
const PAGE: u64 = PAGE_SIZE as u64;

/// Where the five copies are.
pub(crate) struct Metadata {
    spare: PathBuf,
    size: u64,
    shape: CopyShape,
    /// First byte of each.
    starts: Vec<u64>,
}

impl Metadata {
    /// Of a spare of this size.
    ///
    /// # Errors
    /// It is too small.
    pub(crate) fn of(spare: PathBuf, size: u64) -> anyhow::Result<Self> {
        let shape = layout::plan(&[size], BLOCK).context("a spare")?;
        let spares = layout::first_spares(&[([0; 16], size)], &shape, BLOCK);
        let places = layout::copy_places(&spares, &layout::first_homes(1));
        let starts = places.iter().map(|place| place.start).collect();
        Ok(Self { spare, size, shape, starts })
    }

    /// Writes the lists that the drills of the spare name: slots that take no write (`slots.txt`), and the journals of so
    /// many copies (`journals-1.txt` to `journals-3.txt`).
    ///
    /// # Errors
    /// They cannot be written.
    pub(crate) fn write_lists(&self, folder: &Path) -> anyhow::Result<()> {
        let sectors = |bytes: Range<u64>| format!("{}-{}\n", bytes.start / SECTOR, bytes.end / SECTOR - 1);
        let mut slots = String::new();
        let mut rng = Rng::seeded(self.size);
        while slots.lines().count() < 40 {
            let slot = rng.below(self.size / BLOCK) * BLOCK;
            if self.starts.iter().all(|&start| slot + BLOCK <= start || slot >= start + self.shape.bytes()) {
                slots += &sectors(slot..slot + BLOCK);
            }
        }
        let mut sorted: Vec<&str> = slots.lines().collect();
        sorted.sort_unstable();
        sorted.dedup();
        fs::write(folder.join("slots.txt"), sorted.join("\n") + "\n")?;
        for count in 1..=3 {
            let journals = self
                .starts
                .iter()
                .take(count)
                .map(|start| sectors(start + self.shape.journal_at(0)..start + self.shape.bytes()));
            fs::write(folder.join(format!("journals-{count}.txt")), journals.collect::<String>())?;
        }
        Ok(())
    }

    /// Damages so many copies; says how.
    ///
    /// # Errors
    /// The spare cannot be written.
    pub(crate) fn damage(&self, copies: u8, rng: &mut Rng) -> anyhow::Result<String> {
        let spare = OpenOptions::new().read(true).write(true).open(&self.spare).context("the spare")?;
        let mut order: Vec<u8> = (0..COPIES).collect();
        rng.shuffle(&mut order);
        let mut how = String::new();
        for &copy in order.iter().take(usize::from(copies.min(COPIES - 1))) {
            let start = self.starts[usize::from(copy)];
            let kind = self.damage_one(&spare, start..start + self.shape.bytes(), rng)?;
            write!(how, "copy {copy} {kind}; ")?;
        }
        spare.sync_all().context("the spare")?;
        Ok(how)
    }

    fn damage_one(&self, spare: &File, copy: Range<u64>, rng: &mut Rng) -> anyhow::Result<&'static str> {
        let pages = (copy.end - copy.start) / PAGE;
        let kind =
            rng.pick(&["flipped", "torn", "rotten", "superblocks gone", "gone", "one superblock gone"]);
        match kind {
            "flipped" => {
                for _ in 0..=rng.below(64) {
                    let at = copy.start + rng.below(copy.end - copy.start);
                    change(spare, at..at + 1, |bytes| bytes[0] ^= 1 << rng.below(8))?;
                }
            }
            "torn" => {
                for _ in 0..=rng.below(8) {
                    // The superblocks are where it hurts.
                    let page =
                        copy.start + PAGE * if rng.chance(1, 2) { rng.below(2) } else { rng.below(pages) };
                    let cut = page + SECTOR * (1 + rng.below(PAGE / SECTOR - 1));
                    let half = if rng.chance(1, 2) { page..cut } else { cut..page + PAGE };
                    change(spare, half, |bytes| bytes.fill(0))?;
                }
            }
            "rotten" => {
                let from = copy.start + rng.below(pages) * PAGE;
                change(spare, from..copy.end, |bytes| {
                    bytes.iter_mut().for_each(|b| *b = rng.below(256) as u8)
                })?;
            }
            "superblocks gone" => change(spare, copy.start..copy.start + 2 * PAGE, |bytes| bytes.fill(0xff))?,
            "gone" => change(spare, copy, |bytes| bytes.fill(0))?,
            _ => {
                let page = copy.start + rng.below(2) * PAGE;
                change(spare, page..page + PAGE, |bytes| bytes.fill(0))?;
            }
        }
        Ok(kind)
    }
}

fn change(spare: &File, range: Range<u64>, change: impl FnOnce(&mut [u8])) -> anyhow::Result<()> {
    let mut bytes = vec![0; usize::try_from(range.end - range.start)?];
    spare.read_exact_at(&mut bytes, range.start)?;
    change(&mut bytes);
    spare.write_all_at(&bytes, range.start)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_stays_inside_of_the_chosen_copies() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("spare");
        let size = 2 << 20;
        let metadata = Metadata::of(path.clone(), size).expect("room");
        for seed in 0..30 {
            fs::write(&path, vec![0x5a; size as usize]).expect("an image");
            let copies = 1 + (seed % 4) as u8;
            metadata.damage(copies, &mut Rng::seeded(seed)).expect("damage");
            let bytes = fs::read(&path).expect("an image");
            let hit = |range: Range<u64>| {
                bytes[range.start as usize..range.end as usize].iter().any(|&b| b != 0x5a)
            };
            let len = metadata.shape.bytes();
            let damaged = metadata.starts.iter().filter(|&&start| hit(start..start + len)).count();
            assert_eq!(damaged, usize::from(copies), "seed {seed}");
            let mut at = 0;
            for &start in &metadata.starts {
                assert!(!hit(at..start), "seed {seed}: a slot was hit");
                at = start + len;
            }
            assert!(!hit(at..size), "seed {seed}: a slot was hit");
        }
    }
}
