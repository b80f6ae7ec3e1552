//! A disk with a volatile cache, bad sectors and bad days.
//!
//! Invariant: `durable` is what a crash that drops every unflushed write leaves; `newest` is what a read sees; the two differ
//! only in sectors named by `unflushed`, which is in the order in which the writes took effect.

mod persisted;

use remap_core::op::Fault;
use remap_core::units::Extent;

use crate::rng::Rng;
use crate::stamp::SECTOR;

pub use persisted::InDoubt;

/// What is wrong with a sector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bad {
    /// Reads fail until it is overwritten (the drive then takes a sector from its own reserve).
    UntilWritten(Fault),
    /// Reads and writes fail, for ever.
    ForEver(Fault),
}

#[derive(Clone, Debug)]
struct Unflushed {
    /// Number of the write it belongs to.
    write: u64,
    sector: u64,
    bytes: Box<[u8; SECTOR]>,
    /// It is read back, but a flush that failed gave it up: it never reaches the medium.
    given_up: bool,
}

/// What a flush that fails does to the writes that it was to make durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlushLoss {
    /// Nothing: they are still in the cache.
    Nothing,
    /// Some are gone, and the sectors read as they did before (a drive's cache).
    Forgotten,
    /// Some are given up, but read back until the power fails (a page cache that marks them clean).
    GivenUp,
}

/// What becomes of unflushed writes in a crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// All reached the medium.
    None,
    /// None did.
    All,
    /// Those before some point did.
    Suffix,
    /// Each write by itself, in any order.
    Writes,
    /// Each sector by itself (torn writes), in any order.
    Sectors,
}

/// The disk.
#[derive(Clone, Debug)]
pub struct SimDisk {
    newest: Vec<u8>,
    durable: Vec<u8>,
    unflushed: Vec<Unflushed>,
    /// Unflushed writes per sector.
    cached: Vec<u16>,
    bad: Vec<Option<Bad>>,
    writes: u64,
    /// Every operation fails so, for now.
    pub fault: Option<Fault>,
    /// Every write fails so, for now.
    pub write_fault: Option<Fault>,
}

fn at(sector: u64) -> core::ops::Range<usize> {
    let start = sector as usize * SECTOR;
    start..start + SECTOR
}

fn sectors(extent: &Extent) -> core::ops::Range<u64> {
    extent.start().0..extent.end().0
}

impl SimDisk {
    /// All zeroes.
    #[must_use]
    pub fn blank(sectors: u64) -> Self {
        let bytes = sectors as usize * SECTOR;
        Self {
            newest: vec![0; bytes],
            durable: vec![0; bytes],
            unflushed: Vec::new(),
            cached: vec![0; sectors as usize],
            bad: vec![None; sectors as usize],
            writes: 0,
            fault: None,
            write_fault: None,
        }
    }

    /// Its size in sectors.
    #[must_use]
    pub fn sectors(&self) -> u64 {
        self.bad.len() as u64
    }

    /// Number of the next write: a flush makes durable what is below the number taken when it began.
    #[must_use]
    pub fn mark(&self) -> u64 {
        self.writes
    }

    /// Sets contents and durable contents at once (before the story begins).
    pub fn preset(&mut self, sector: u64, bytes: &[u8]) {
        self.newest[at(sector)].copy_from_slice(bytes);
        self.durable[at(sector)].copy_from_slice(bytes);
    }

    /// What is wrong with a sector.
    #[must_use]
    pub fn bad(&self, sector: u64) -> Option<Bad> {
        self.bad[sector as usize]
    }

    /// Makes the extent go bad; `false` if a write to it is still in the cache (such a sector is not read from the medium).
    pub fn spoil(&mut self, extent: &Extent, bad: Bad) -> bool {
        if extent.end().0 > self.sectors() || sectors(extent).any(|s| self.cached[s as usize] > 0) {
            return false;
        }
        for sector in sectors(extent) {
            self.bad[sector as usize] = Some(bad);
        }
        true
    }

    /// The sectors of the extent are good again, with what they held.
    pub fn mend(&mut self, extent: &Extent) {
        self.bad[extent.start().0 as usize..extent.end().0 as usize].fill(None);
    }

    /// Flips bits of what is durable: rot, or a misdirected write of somebody else. A sector that is to be written is spared.
    pub fn rot(&mut self, sector: u64, byte: usize, mask: u8) {
        if self.cached[sector as usize] > 0 {
            return;
        }
        self.newest[sector as usize * SECTOR + byte % SECTOR] ^= mask;
        self.durable[sector as usize * SECTOR + byte % SECTOR] ^= mask;
    }

    /// Reads; what a failed read leaves in the buffer is garbage.
    ///
    /// # Errors
    /// The first bad sector's fault, or the device's.
    pub fn read(&self, extent: &Extent, into: &mut [u8]) -> Result<(), Fault> {
        let unreadable = |s: u64| match self.bad[s as usize] {
            Some(Bad::UntilWritten(fault) | Bad::ForEver(fault)) if self.cached[s as usize] == 0 => {
                Some(fault)
            }
            _ => None,
        };
        let outside = (extent.end().0 > self.sectors()).then_some(Fault::Gone);
        if let Some(fault) = self.fault.or(outside).or_else(|| sectors(extent).find_map(unreadable)) {
            into.fill(0xee);
            return Err(fault);
        }
        let start = extent.start().0 as usize * SECTOR;
        into.copy_from_slice(&self.newest[start..start + into.len()]);
        Ok(())
    }

    /// Writes. A write that fails has reached any of its sectors.
    ///
    /// # Errors
    /// The first unwritable sector's fault, or the device's.
    pub fn write(&mut self, extent: &Extent, bytes: &[u8], fua: bool, rng: &mut Rng) -> Result<(), Fault> {
        if extent.end().0 > self.sectors() {
            return Err(Fault::Gone);
        }
        let unwritable = |s: u64| match self.bad[s as usize] {
            Some(Bad::ForEver(fault)) => Some(fault),
            _ => None,
        };
        let failure = self.fault.or(self.write_fault).or_else(|| sectors(extent).find_map(unwritable));
        let write = self.writes;
        self.writes += 1;
        for (sector, bytes) in sectors(extent).zip(bytes.chunks_exact(SECTOR)) {
            if unwritable(sector).is_some() || (failure.is_some() && rng.chance(1, 2)) {
                continue;
            }
            self.newest[at(sector)].copy_from_slice(bytes);
            let bytes: [u8; SECTOR] = bytes.try_into().expect("a chunk is a sector");
            self.unflushed.push(Unflushed { write, sector, bytes: Box::new(bytes), given_up: false });
            self.cached[sector as usize] += 1;
        }
        match failure {
            Some(fault) => Err(fault),
            None => {
                if fua {
                    self.settle(|u| extent.contains(remap_core::units::Sector(u.sector)));
                }
                Ok(())
            }
        }
    }

    /// Makes durable what was written before `mark`.
    ///
    /// # Errors
    /// The device's fault; then nothing was made durable.
    pub fn flush(&mut self, mark: u64) -> Result<(), Fault> {
        match self.fault {
            Some(fault) => Err(fault),
            None => {
                self.settle(|u| u.write < mark);
                Ok(())
            }
        }
    }

    /// A flush of what was written before `mark` fails; gives the sectors of the writes that it drops, by logical blocks of `unit`
    /// sectors: a drive has no smaller piece.
    pub fn flush_fails(&mut self, mark: u64, loss: FlushLoss, unit: u64, rng: &mut Rng) -> Vec<u64> {
        let mut dropped = Vec::new();
        let salt = rng.next_u64();
        for entry in self.unflushed.iter_mut().filter(|u| u.write < mark && !u.given_up) {
            let piece = (entry.write << 32) | (entry.sector / unit);
            if loss != FlushLoss::Nothing && Rng::seeded(salt ^ piece).chance(2, 3) {
                entry.given_up = true;
                dropped.push(entry.sector);
            }
        }
        if loss == FlushLoss::Forgotten {
            for entry in self.unflushed.extract_if(.., |u| u.given_up) {
                self.cached[entry.sector as usize] -= 1;
            }
            for &sector in &dropped {
                let left = self.unflushed.iter().rev().find(|u| u.sector == sector);
                let bytes = left.map_or(&self.durable[at(sector)], |u| &u.bytes[..]);
                self.newest[at(sector)].copy_from_slice(bytes);
            }
        }
        dropped
    }

    /// Moves the chosen unflushed writes to the medium, in order.
    fn settle(&mut self, chosen: impl Fn(&Unflushed) -> bool) {
        let unflushed = core::mem::take(&mut self.unflushed);
        for entry in unflushed {
            if chosen(&entry) && !entry.given_up {
                self.cached[entry.sector as usize] -= 1;
                self.land(&entry);
            } else {
                self.unflushed.push(entry);
            }
        }
    }

    fn land(&mut self, entry: &Unflushed) {
        self.durable[at(entry.sector)].copy_from_slice(&entry.bytes[..]);
        if let Some(Bad::UntilWritten(_)) = self.bad[entry.sector as usize] {
            self.bad[entry.sector as usize] = None;
        }
    }

    /// The power fails.
    pub fn crash(&mut self, loss: Loss, rng: &mut Rng) {
        let mut lost = core::mem::take(&mut self.unflushed);
        let touched: Vec<u64> = lost.iter().map(|u| u.sector).collect();
        lost.retain(|u| !u.given_up);
        match loss {
            Loss::None => {}
            Loss::All => lost.clear(),
            Loss::Suffix => lost.truncate(rng.index(lost.len() + 1)),
            Loss::Writes => {
                let salt = rng.next_u64();
                let fate = |write: u64| Rng::seeded(salt ^ write).next_u64();
                lost.retain(|u| fate(u.write) & 1 == 0);
                lost.sort_by_key(|u| fate(u.write));
            }
            Loss::Sectors => {
                lost.retain(|_| rng.chance(1, 2));
                rng.shuffle(&mut lost);
            }
        }
        for entry in &lost {
            self.land(entry);
        }
        for sector in touched {
            self.cached[sector as usize] = 0;
            let range = at(sector);
            self.newest[range.clone()].copy_from_slice(&self.durable[range]);
        }
        self.fault = None;
        self.write_fault = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use remap_core::units::Sector;

    fn extent(start: u64, sectors: u64) -> Extent {
        Extent::new(Sector(start), sectors).expect("not empty")
    }

    fn first_byte(disk: &SimDisk, sector: u64) -> Result<u8, Fault> {
        let mut bytes = [0; SECTOR];
        disk.read(&extent(sector, 1), &mut bytes).map(|()| bytes[0])
    }

    #[test]
    fn a_crash_keeps_what_was_flushed_and_may_drop_the_rest() {
        let mut rng = Rng::seeded(1);
        let mut disk = SimDisk::blank(8);
        disk.write(&extent(0, 2), &[1; 2 * SECTOR], false, &mut rng).expect("a good disk");
        let mark = disk.mark();
        disk.write(&extent(1, 2), &[2; 2 * SECTOR], false, &mut rng).expect("a good disk");
        disk.flush(mark).expect("a good disk");
        assert_eq!(first_byte(&disk, 1), Ok(2));
        disk.crash(Loss::All, &mut rng);
        assert_eq!([0, 1, 2].map(|s| first_byte(&disk, s)), [Ok(1), Ok(1), Ok(0)]);
    }

    #[test]
    fn fua_outlives_a_crash_and_is_not_undone_by_older_writes() {
        for seed in 0..50 {
            let mut rng = Rng::seeded(seed);
            let mut disk = SimDisk::blank(4);
            disk.write(&extent(0, 1), &[1; SECTOR], false, &mut rng).expect("a good disk");
            disk.write(&extent(0, 1), &[2; SECTOR], true, &mut rng).expect("a good disk");
            disk.crash(Loss::Sectors, &mut rng);
            assert_eq!(first_byte(&disk, 0), Ok(2));
        }
    }

    #[test]
    fn a_flush_that_fails_drops_what_it_drops() {
        for (loss, read, crashed) in
            [(FlushLoss::Nothing, 2, 2), (FlushLoss::Forgotten, 1, 1), (FlushLoss::GivenUp, 2, 1)]
        {
            let mut rng = Rng::seeded(1);
            let mut disk = SimDisk::blank(1);
            disk.write(&extent(0, 1), &[1; SECTOR], true, &mut rng).expect("a good disk");
            disk.write(&extent(0, 1), &[2; SECTOR], false, &mut rng).expect("a good disk");
            // Until it is among the two thirds that are dropped.
            while disk.flush_fails(disk.mark(), loss, 1, &mut rng).is_empty() && loss != FlushLoss::Nothing {}
            assert_eq!(first_byte(&disk, 0), Ok(read), "{loss:?}");
            disk.flush(disk.mark()).expect("a good disk");
            disk.crash(Loss::None, &mut rng);
            assert_eq!(first_byte(&disk, 0), Ok(crashed), "{loss:?}");
        }
    }

    #[test]
    fn a_bad_sector_heals_only_when_the_write_lands() {
        let mut rng = Rng::seeded(1);
        let mut disk = SimDisk::blank(4);
        assert!(disk.spoil(&extent(1, 1), Bad::UntilWritten(Fault::Medium)));
        assert_eq!(first_byte(&disk, 1), Err(Fault::Medium));
        disk.write(&extent(1, 1), &[3; SECTOR], false, &mut rng).expect("heals");
        assert_eq!(first_byte(&disk, 1), Ok(3));
        disk.crash(Loss::All, &mut rng);
        assert_eq!(first_byte(&disk, 1), Err(Fault::Medium));
        disk.write(&extent(1, 1), &[3; SECTOR], true, &mut rng).expect("heals");
        disk.crash(Loss::All, &mut rng);
        assert_eq!(first_byte(&disk, 1), Ok(3));
    }
}
