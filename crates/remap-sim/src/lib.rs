//! A deterministic world for the core of dm-remap: disks that lie, clients, crashes, and an oracle that knows for each
//! sector which contents are allowed now.
//!
//! Invariant: a run is a function of its [`scenario::Scenario`] alone (no clock, no hash map, no address), so a failing seed
//! fails again with its transcript switched on.
//!
//! Read in this order: [`disk`] (what a device may do to us), [`oracle`] (what a client may see), [`scenario`] (which faults
//! a seed brings), [`coverage`] (what they are called), [`world`] (engine, fast lane and clients on top of them), [`script`] and
//! [`sweep`] (short lives, and all that can go wrong in them).

#![forbid(unsafe_code)]

pub mod coverage;
pub mod disk;
pub mod inside;
pub mod oracle;
pub mod rng;
pub mod rule;
pub mod scenario;
pub mod script;
pub mod seed_file;
pub mod shrink;
pub mod stamp;
pub mod sweep;
pub mod world;

pub use rule::{Rule, Violation};

/// What every step of the world gives.
pub type Checked = Result<(), Violation>;
