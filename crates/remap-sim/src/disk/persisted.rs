//! What a power cut can leave on a disk, laid open instead of drawn by lot.
//!
//! Invariant: a sector holds its durable contents or those of one write that was not flushed; sectors are whole, and neither
//! the order of writes nor their being one write binds them. [`SimDisk::crash`] draws from the same states.

use remap_core::units::Extent;

use super::{Bad, SimDisk, at};
use crate::stamp::SECTOR;

/// A write that may or may not have reached a sector.
#[derive(Clone, Debug)]
pub struct InDoubt {
    /// Number of the write on its disk.
    pub write: u64,
    /// Which sector.
    pub sector: u64,
    /// What it would hold.
    pub bytes: Box<[u8; SECTOR]>,
}

impl SimDisk {
    /// All that was written and is not durable, in the order in which it was written.
    #[must_use]
    pub fn in_doubt(&self) -> Vec<InDoubt> {
        let one = |u: &super::Unflushed| InDoubt { write: u.write, sector: u.sector, bytes: u.bytes.clone() };
        self.unflushed.iter().map(one).collect()
    }

    /// These bytes reached the sector before the power went.
    pub fn persist(&mut self, sector: u64, bytes: &[u8; SECTOR]) {
        self.preset(sector, bytes);
        if let Some(Bad::UntilWritten(_)) = self.bad[sector as usize] {
            self.bad[sector as usize] = None;
        }
    }

    /// Would these bytes change anything in the sector?
    #[must_use]
    pub fn would_change(&self, sector: u64, bytes: &[u8; SECTOR]) -> bool {
        matches!(self.bad[sector as usize], Some(Bad::UntilWritten(_)))
            || self.durable[at(sector)] != bytes[..]
    }

    /// A hash of what the medium holds in this sector.
    #[must_use]
    pub fn print_of(&self, sector: u64) -> u128 {
        print(sector, &self.durable[at(sector)], self.bad[sector as usize])
    }

    /// A hash of what the medium would hold in this sector after these bytes reached it.
    #[must_use]
    pub fn print_after(&self, sector: u64, bytes: &[u8; SECTOR]) -> u128 {
        let bad = self.bad[sector as usize].filter(|b| matches!(b, Bad::ForEver(_)));
        print(sector, bytes, bad)
    }

    /// A hash of the whole medium: the hashes of its sectors, exclusive-ored, so that it can be told for each change.
    #[must_use]
    pub fn print(&self) -> u128 {
        (0..self.sectors()).fold(0, |sum, sector| sum ^ self.print_of(sector))
    }

    /// The durable bytes of an extent.
    #[must_use]
    pub fn durable(&self, extent: &Extent) -> &[u8] {
        &self.durable[extent.start().0 as usize * SECTOR..extent.end().0 as usize * SECTOR]
    }
}

fn print(sector: u64, bytes: &[u8], bad: Option<Bad>) -> u128 {
    const FACTOR: u128 = 0x2360_ed05_1fc6_5da4_4385_df64_9fcc_f645;
    let bad = match bad {
        None => 0,
        Some(Bad::UntilWritten(fault)) => 1 + fault as u64,
        Some(Bad::ForEver(fault)) => 0x101 + fault as u64,
    };
    let mut sum = (u128::from(sector) << 64 | u128::from(bad)).wrapping_mul(FACTOR);
    for chunk in bytes.chunks_exact(16) {
        let word = u128::from_le_bytes(chunk.try_into().expect("a chunk has 16 bytes"));
        sum = (sum ^ word).wrapping_mul(FACTOR);
        sum ^= sum >> 67;
    }
    sum
}

#[cfg(test)]
mod tests {
    use remap_core::op::Fault;
    use remap_core::units::Sector;

    use super::*;
    use crate::disk::Loss;
    use crate::rng::Rng;

    #[test]
    fn the_print_of_a_state_can_be_told_before_it_is_made() {
        let mut rng = Rng::seeded(1);
        let extent = |start, len| Extent::new(Sector(start), len).expect("not empty");
        let mut disk = SimDisk::blank(8);
        assert!(disk.spoil(&extent(3, 1), Bad::UntilWritten(Fault::Medium)));
        disk.write(&extent(2, 2), &[7; 2 * SECTOR], false, &mut rng).expect("a good disk");
        let doubts = disk.in_doubt();
        disk.crash(Loss::All, &mut rng);
        let before = disk.print();
        assert_eq!(doubts.len(), 2);
        for doubt in &doubts {
            assert!(disk.would_change(doubt.sector, &doubt.bytes));
            let foretold =
                disk.print() ^ disk.print_of(doubt.sector) ^ disk.print_after(doubt.sector, &doubt.bytes);
            disk.persist(doubt.sector, &doubt.bytes);
            assert_eq!(disk.print(), foretold);
            assert!(!disk.would_change(doubt.sector, &doubt.bytes));
        }
        assert_ne!(disk.print(), before);
    }
}
