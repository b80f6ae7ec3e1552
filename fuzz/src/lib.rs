//! What the fuzz targets share: bytes to choices, checksums that hold, a bound on memory, small volumes and damage to them.
//!
//! Invariant: a target is a pure function of its input, so that every input file repeats what it did.

pub mod damage;
pub mod disks;
pub mod files;
pub mod input;
pub mod judge;
pub mod ledger;
pub mod memory;
pub mod peer;
pub mod seal;
pub mod tools;
pub mod volumes;
