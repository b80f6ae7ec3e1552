//! What a run found, as it is written to JSON and read back to be compared.
//!
//! Invariant: the unit of a number is the last word of its name; times the same figure of something else have none.

use serde::{Deserialize, Serialize};

/// Changes when a field changes its meaning.
pub(crate) const SCHEMA_VERSION: u32 = 1;

/// A run of this program.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Results {
    pub(crate) schema_version: u32,
    /// The command that made it.
    pub(crate) command: String,
    pub(crate) machine: Machine,
    /// Who was not measured, and the package that brings it.
    pub(crate) missing: Vec<(String, String)>,
    pub(crate) places: Vec<PlaceResult>,
    pub(crate) micro: Vec<Figure>,
}

/// What it ran on.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Machine {
    pub(crate) processor: String,
    pub(crate) cores: usize,
    pub(crate) memory_mib: u64,
    pub(crate) kernel: String,
    pub(crate) compiler: String,
    /// Load average before and after the run: above about 1 the figures say more about the others.
    pub(crate) load_before: f64,
    pub(crate) load_after: f64,
}

/// All cells of one place.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct PlaceResult {
    /// `tmpfs` or `disk`.
    pub(crate) name: String,
    pub(crate) size_bytes: u64,
    pub(crate) rounds: u32,
    pub(crate) seconds: u32,
    pub(crate) rows: Vec<Row>,
}

/// One contender in one cell: medians over the rounds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) cell: String,
    pub(crate) contender: String,
    /// `ours`, `rival`, `cached` (shown, not compared), `bar`.
    pub(crate) part: String,
    /// Requests are what counts in this cell; else bytes.
    pub(crate) counts_requests: bool,
    pub(crate) iops: f64,
    pub(crate) mb_s: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) cpu_us_per_io: f64,
    pub(crate) cpu_s_per_gib: f64,
    /// Processors that others kept busy meanwhile.
    pub(crate) foreign_cores: f64,
    pub(crate) start_ms: f64,
    /// Best rival of the cell, and the median over the rounds of this one's rate in terms of that one's.
    pub(crate) best_rival: Option<String>,
    pub(crate) to_rival: Option<f64>,
    /// In terms of the floor, and the distance of the quartiles of that as a share of it.
    pub(crate) to_floor: Option<f64>,
    pub(crate) to_floor_spread: Option<f64>,
    /// In terms of dm-remap without remaps.
    pub(crate) to_clean: Option<f64>,
    /// Distance of the slowest round from the fastest, as a share of the median.
    pub(crate) range: f64,
    pub(crate) rounds: usize,
}

/// One figure of a part of the product.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Figure {
    pub(crate) name: String,
    /// Remaps in the table, where it depends on one.
    pub(crate) remaps: Option<u64>,
    /// `ns`, `ms` or `bytes`.
    pub(crate) unit: String,
    /// Median.
    pub(crate) p50: f64,
    /// Of single events where they are timed one by one.
    pub(crate) p99: Option<f64>,
    /// The median in terms of a fixed piece of arithmetic timed just before and after; times only.
    pub(crate) to_yardstick: Option<f64>,
    /// Distance of the quartiles as a share of the median.
    pub(crate) spread: Option<f64>,
}
