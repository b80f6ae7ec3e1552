//! Sweeps: not a sample of what can go wrong but all of it, within bounds that are stated.
//!
//! Invariant: a sweep is the same in every run; it ends at the first violation and says how to see it again.

pub mod copies;
pub mod crash;
pub mod failure;
pub mod flips;
pub mod image;
pub mod memory;
pub mod model;
mod options;

use crate::Violation;

pub use options::Options;

/// What a sweep stumbled over.
#[derive(Clone, Debug)]
pub struct Finding {
    /// Where.
    pub place: String,
    /// What was seen there.
    pub violation: Violation,
}

impl core::fmt::Display for Finding {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}: {}", self.place, self.violation)
    }
}

impl std::error::Error for Finding {}
