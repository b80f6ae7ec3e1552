//! A device of 2 MiB that is overwritten sector by sector, in steps that follow from a seed.
//!
//! Invariant: every sector of the device carries the stamp of the write that it is from; the model knows of a write before the device does,
//! and of its durability only after a flush.

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

use remap_sim::rng::Rng;
use rustix::fs::OFlags;

use crate::bench::SECTOR;
use crate::model::{Pages, contents};

/// Of the device; stamps of a file have room for as many.
pub(crate) const SECTORS: usize = 4096;
/// The most that one write covers.
const RUN: usize = 24;
const SECTOR_LEN: usize = SECTOR as usize;
/// Sectors that a read asks for.
const READ: usize = 64;

/// Where direct I/O can come from and go to.
#[repr(C, align(4096))]
struct Aligned([u8; READ * SECTOR_LEN]);

/// The device and what may be on it.
#[derive(Clone, Debug)]
pub(crate) struct Sectors {
    rng: Rng,
    version: u32,
    model: Pages,
    /// Nothing proves that anything became durable: the power fails within the step.
    pub(crate) cut: bool,
    pub(crate) lost: u64,
}

impl Sectors {
    /// Version 0 is everywhere.
    pub(crate) fn begin(seed: u64) -> Self {
        Self { rng: Rng::seeded(seed), version: 0, model: Pages::durable(0, SECTORS), cut: false, lost: 0 }
    }

    /// Writes version 0 everywhere.
    pub(crate) fn fill(device: &Path) -> io::Result<()> {
        let file = OpenOptions::new().write(true).open(device)?;
        file.write_all_at(&contents(0, 0, SECTORS, 0), 0)?;
        file.sync_all()
    }

    /// A few writes, and mostly a flush. Without a device it only happens in the model.
    pub(crate) fn step(&mut self, device: Option<&File>) -> io::Result<()> {
        self.version += 1;
        let mut buffer = Box::new(Aligned([0; READ * SECTOR_LEN]));
        for _ in 0..=self.rng.below(3) {
            let first = self.rng.index(SECTORS);
            let count = (1 + self.rng.index(RUN)).min(SECTORS - first);
            self.model.begin(first, count, self.version);
            let bytes = &mut buffer.0[..count * SECTOR_LEN];
            bytes.copy_from_slice(&contents(0, first, count, self.version));
            device.map_or(Ok(()), |device| device.write_all_at(bytes, first as u64 * SECTOR))?;
        }
        if self.rng.chance(2, 3) {
            device.map_or(Ok(()), File::sync_data)?;
            if !self.cut {
                self.model.synced();
            }
        }
        Ok(())
    }

    /// Opens the device for steps and comparisons.
    pub(crate) fn open(device: &Path) -> io::Result<File> {
        let direct = OFlags::DIRECT.bits().cast_signed();
        OpenOptions::new().read(true).write(true).custom_flags(direct).open(device)
    }

    /// Compares every sector with what may be there. Those that are bad below may be lost until they are overwritten.
    ///
    /// # Errors
    /// The violation.
    pub(crate) fn compare(&mut self, device: &File, bad: &[Range<u64>]) -> Result<(), String> {
        let mut buffer = Box::new(Aligned([0; READ * SECTOR_LEN]));
        for first in (0..SECTORS).step_by(READ) {
            if device.read_exact_at(&mut buffer.0, first as u64 * SECTOR).is_ok() {
                for (index, sector) in buffer.0.chunks(SECTOR_LEN).enumerate() {
                    self.model.check_sector(first + index, sector)?;
                }
                continue;
            }
            for index in first..first + READ {
                let sector = &mut buffer.0[..SECTOR_LEN];
                let read = device.read_exact_at(sector, index as u64 * SECTOR).is_ok();
                self.see(index, read.then_some(&*sector), bad)?;
            }
        }
        Ok(())
    }

    /// Compares a sector with what may be there; `None`: it cannot be read.
    ///
    /// # Errors
    /// The violation.
    pub(crate) fn see(
        &mut self,
        index: usize,
        sector: Option<&[u8]>,
        bad: &[Range<u64>],
    ) -> Result<(), String> {
        if let Some(sector) = sector {
            return self.model.check_sector(index, sector);
        }
        if !bad.iter().any(|run| run.contains(&(index as u64))) {
            return Err(format!("sector {index} cannot be read, and is not a bad one"));
        }
        if !self.model.may_hold_first(index) {
            return Err(format!("sector {index} cannot be read, and was overwritten"));
        }
        self.lost += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_device_is_what_the_model_says_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("device");
        fs::write(&path, vec![0; SECTORS * SECTOR_LEN]).unwrap();
        Sectors::fill(&path).unwrap();
        let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let after = |steps: u32, cut: bool| {
            let mut model = Sectors::begin(7);
            (0..steps).for_each(|_| model.step(None).unwrap());
            model.cut = cut;
            model.step(None).unwrap();
            model
        };
        let mut real = Sectors::begin(7);
        for done in 0..20 {
            assert_eq!(after(done, true).compare(&file, &[]), Ok(()), "before step {done}");
            real.step(Some(&file)).unwrap();
            assert_eq!(after(done, true).compare(&file, &[]), Ok(()), "after step {done}");
        }
        assert_eq!(after(19, false).compare(&file, &[]), Ok(()));
        Sectors::fill(&path).unwrap();
        assert!(after(19, false).compare(&file, &[]).unwrap_err().contains("write 0; allowed: versions"));
        let bad = 0..SECTORS as u64;
        let mut model = after(19, false);
        let see = |model: &mut Sectors, index| model.see(index, None, std::slice::from_ref(&bad));
        let lost = (0..SECTORS).filter(|&index| see(&mut model, index).is_ok()).count();
        assert!((1..SECTORS).contains(&lost), "{lost}");
        assert!(model.see(0, None, &[]).unwrap_err().contains("not a bad one"));
    }
}
