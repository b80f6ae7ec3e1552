//! A power cut that is thought through instead of rolled: every persisted state that it could leave, and the world after each.
//!
//! Invariant: a [`Cut`] is made without touching the world that it is taken from, and the world of a state depends on the cut
//! and the state alone.

use std::collections::BTreeMap;

use remap_core::units::Now;
use remap_format::Superblock;
use remap_format::layout;

use super::devices::Work;
use super::release::Release;
use super::{Out, World};
use crate::disk::{InDoubt, Loss, SimDisk};
use crate::oracle::Oracle;
use crate::rng::Rng;
use crate::scenario::Scenario;

/// Sectors of one disk that reach the medium together or not at all, in the states that are looked at.
#[derive(Debug)]
struct Landing {
    disk: usize,
    doubts: Vec<InDoubt>,
}

/// One question that the power cut leaves open: none of these landings happened, or one of them (the older of two that touch
/// the same sector is as good as the newer).
#[derive(Debug)]
struct Question {
    answers: Vec<Landing>,
}

/// What a power cut now would find, and all that is open about it.
pub struct Cut {
    scenario: Scenario,
    volume: Superblock,
    adopted: bool,
    /// As if nothing that is in doubt had reached the medium.
    disks: Vec<SimDisk>,
    oracle: Oracle,
    release: Release,
    clearing: Vec<bool>,
    written: Vec<bool>,
    zeroed: Vec<bool>,
    next_id: u64,
    next_write: u32,
    now: Now,
    tick: u64,
    questions: Vec<Question>,
    /// Hash of the media and of what the oracle allows after the cut.
    print: u128,
}

/// An answer to each question of a cut: 0 for "it did not happen", else the number of the landing.
pub type State = Vec<u8>;

impl World {
    /// What a power cut at this moment would find. Operations that are out may have happened or not.
    #[must_use]
    pub fn cut(&self) -> Cut {
        let mut rng = self.rng.clone();
        let mut disks = self.disks.clone();
        for Out { disk, extent, work, effect, .. } in &self.outs {
            if let (None, Work::Write { bytes, .. }) = (effect, work) {
                // One that fails has reached some of its sectors all the same: which is in doubt too.
                let _ = disks[*disk].write(extent, bytes, false, &mut rng);
            }
        }
        let doubts: Vec<Vec<InDoubt>> = disks.iter().map(SimDisk::in_doubt).collect();
        for disk in &mut disks {
            disk.crash(Loss::All, &mut rng);
        }
        let mut questions = Vec::new();
        for (disk, doubts) in doubts.into_iter().enumerate() {
            let changes: Vec<InDoubt> =
                doubts.into_iter().filter(|d| disks[disk].would_change(d.sector, &d.bytes)).collect();
            ask(disk, changes, &self.metadata_sectors(disk), &mut questions);
        }
        let mut oracle = self.oracle.clone();
        let tick = self.tick + 1;
        oracle.crash(tick);
        let media = (0u32..).zip(&disks).fold(0, |sum, (n, disk)| sum ^ disk.print().rotate_left(17 * n));
        Cut {
            scenario: self.scenario.clone(),
            volume: self.volume.clone(),
            adopted: self.adopted,
            print: media ^ u128::from(oracle.print()) ^ u128::from(self.adopted) << 127,
            disks,
            oracle,
            release: self.release.after_power_cut(),
            clearing: self.clearing.clone(),
            written: self.written.clone(),
            zeroed: self.zeroed.clone(),
            next_id: self.next_id,
            next_write: self.next_write,
            now: Now { mono_ns: self.now.mono_ns + 1_000_000_000, unix_s: self.now.unix_s + 1 },
            tick,
            questions,
        }
    }

    /// Sectors of a disk that hold metadata, as `(first, end)`.
    fn metadata_sectors(&self, disk: usize) -> Vec<(u64, u64)> {
        let spare_of = |life: &super::Life| life.spare_disks.iter().position(|&d| d == disk);
        let spare = match &self.life {
            Some(life) => spare_of(life),
            None => disk.checked_sub(1),
        };
        let Some(spare) = spare else { return Vec::new() };
        match self.volume.spares.get(spare).filter(|record| record.is_present()) {
            Some(record) => layout::metadata_ranges(record)
                .map(|(start, len)| (start / 512, (start + len) / 512))
                .collect(),
            // It is about to join, and holds nothing else.
            None => vec![(0, self.disks[disk].sectors())],
        }
    }
}

/// Metadata are in doubt sector by sector, and so is data that was written twice; a single write of data as a whole: recovery
/// does not read data, and the oracle judges each sector for itself.
fn ask(disk: usize, doubts: Vec<InDoubt>, metadata: &[(u64, u64)], questions: &mut Vec<Question>) {
    let mut versions: BTreeMap<u64, usize> = BTreeMap::new();
    for doubt in &doubts {
        *versions.entry(doubt.sector).or_default() += 1;
    }
    let alone = |d: &InDoubt| {
        versions.get(&d.sector) == Some(&1)
            && !metadata.iter().any(|&(from, to)| (from..to).contains(&d.sector))
    };
    let (mut by_write, mut by_sector): (BTreeMap<u64, Vec<InDoubt>>, BTreeMap<u64, Vec<Landing>>) =
        Default::default();
    for doubt in doubts {
        if alone(&doubt) {
            by_write.entry(doubt.write).or_default().push(doubt);
        } else {
            let answers = by_sector.entry(doubt.sector).or_default();
            if !answers.iter().any(|a| a.doubts.iter().any(|known| known.bytes == doubt.bytes)) {
                answers.push(Landing { disk, doubts: vec![doubt] });
            }
        }
    }
    questions
        .extend(by_write.into_values().map(|doubts| Question { answers: vec![Landing { disk, doubts }] }));
    questions.extend(by_sector.into_values().map(|answers| Question { answers }));
}

impl Cut {
    /// How many answers each open question has, "it did not happen" among them.
    #[must_use]
    pub fn choices(&self) -> Vec<u8> {
        let count = |q: &Question| u8::try_from(q.answers.len() + 1).unwrap_or(u8::MAX);
        self.questions.iter().map(count).collect()
    }

    /// The write that each question is about (the first, if several wrote the sector): those of one write belong together.
    #[must_use]
    pub fn writes(&self) -> Vec<(usize, u64)> {
        let first = |q: &Question| {
            let landing = q.answers.first();
            landing.and_then(|l| l.doubts.first().map(|d| (l.disk, d.write))).unwrap_or_default()
        };
        self.questions.iter().map(first).collect()
    }

    fn landings<'c>(&'c self, state: &'c [u8]) -> impl Iterator<Item = &'c Landing> {
        self.questions
            .iter()
            .zip(state)
            .filter_map(|(q, &answer)| q.answers.get(usize::from(answer).checked_sub(1)?))
    }

    /// A hash of a state: two equal ones cannot be told apart by what comes after the cut.
    #[must_use]
    pub fn print(&self, state: &[u8]) -> u128 {
        let mut sum = self.print;
        for Landing { disk, doubts } in self.landings(state) {
            for InDoubt { sector, bytes, .. } in doubts {
                let medium = &self.disks[*disk];
                let change = medium.print_of(*sector) ^ medium.print_after(*sector, bytes);
                sum ^= change.rotate_left(17 * *disk as u32);
            }
        }
        sum
    }

    /// The world after the cut, with the power back.
    #[must_use]
    pub fn open(&self, state: &[u8]) -> World {
        let mut world = World::create(self.scenario.clone());
        world.rng = Rng::seeded(self.scenario.seed);
        world.volume = self.volume.clone();
        world.adopted = self.adopted;
        world.disks = self.disks.clone();
        world.oracle = self.oracle.clone();
        world.release = self.release;
        world.clearing = self.clearing.clone();
        world.written = self.written.clone();
        world.zeroed = self.zeroed.clone();
        (world.next_id, world.next_write) = (self.next_id, self.next_write);
        (world.now, world.tick) = (self.now, self.tick);
        for Landing { disk, doubts } in self.landings(state) {
            for InDoubt { sector, bytes, .. } in doubts {
                world.disks[*disk].persist(*sector, bytes);
            }
        }
        world
    }
}
