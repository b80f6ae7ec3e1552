//! What a run found, as it is written to JSON and read back to be compared.
//!
//! Invariant: the unit of a number is the last word of its name; times the same figure of something else have none.

use serde::{Deserialize, Serialize};

use crate::stats::{median, quantile, spread};

/// Changes when a field changes its meaning.
pub(crate) const SCHEMA_VERSION: u32 = 2;

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
    pub(crate) groups: Vec<GroupResult>,
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

/// All figures of a group in one place.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct GroupResult {
    pub(crate) name: String,
    /// `tmpfs`, `disk`, or `memory` where there are no files.
    pub(crate) place: String,
    pub(crate) figures: Vec<Figure>,
    /// What could not be measured, and what it would take.
    pub(crate) missing: Vec<String>,
}

/// One figure of a group.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Figure {
    /// What was measured.
    pub(crate) name: String,
    /// Of whom; empty where only the product is measured.
    pub(crate) who: String,
    /// That is somebody else, measured to compare with.
    pub(crate) beside: bool,
    /// What the group varies: remaps in the table, volumes, or terabytes.
    pub(crate) at: Option<u64>,
    /// More is better where it ends with `/s`, else less.
    pub(crate) unit: String,
    /// Median.
    pub(crate) p50: f64,
    /// Of single events where they are timed one by one.
    pub(crate) p99: Option<f64>,
    /// The median in terms of the same of `to`, taken in one round.
    pub(crate) ratio: Option<f64>,
    pub(crate) to: Option<String>,
    /// Distance of the quartiles (of the ratio where there is one) as a share of the median.
    pub(crate) spread: Option<f64>,
    pub(crate) goal: Option<Goal>,
}

/// What a figure is to be.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Goal {
    /// `median` or `ratio`.
    pub(crate) of: String,
    pub(crate) at_most: f64,
    pub(crate) met: bool,
}

impl Figure {
    /// The median of these samples, with their spread.
    pub(crate) fn of(name: &str, unit: &str, samples: &[f64]) -> Self {
        Self {
            name: name.to_owned(),
            unit: unit.to_owned(),
            p50: median(samples).unwrap_or(f64::NAN),
            spread: spread(samples),
            ..Self::default()
        }
    }

    /// The median of events that were timed one by one, and the time that one in a hundred exceeds.
    pub(crate) fn of_events(name: &str, unit: &str, samples: &[f64]) -> Self {
        // How much they differ among themselves says nothing about how far to believe their median.
        Self { p99: quantile(samples, 0.99), spread: None, ..Self::of(name, unit, samples) }
    }

    /// Whose it is.
    pub(crate) fn by(self, who: &str) -> Self {
        Self { who: who.to_owned(), ..self }
    }

    /// Whose it is: somebody else's.
    pub(crate) fn beside(self, who: &str) -> Self {
        Self { beside: true, ..self.by(who) }
    }

    /// Where on the axis.
    pub(crate) fn at(self, at: u64) -> Self {
        Self { at: Some(at), ..self }
    }

    /// In terms of somebody else's, round by round.
    pub(crate) fn against(self, to: &str, ratios: &[f64]) -> Self {
        let ratio = median(ratios);
        Self { ratio, to: ratio.map(|_| to.to_owned()), spread: spread(ratios), ..self }
    }

    /// The ratio is to be at most this much.
    pub(crate) fn ratio_at_most(self, at_most: f64) -> Self {
        let found = self.ratio;
        self.goal("ratio", at_most, found)
    }

    /// The median is to be at most this much.
    pub(crate) fn at_most(self, at_most: f64) -> Self {
        let found = Some(self.p50);
        self.goal("median", at_most, found)
    }

    fn goal(self, of: &str, at_most: f64, found: Option<f64>) -> Self {
        let met = found.is_some_and(|found| found <= at_most);
        Self { goal: Some(Goal { of: of.to_owned(), at_most, met }), ..self }
    }

    /// More of it is better.
    pub(crate) fn more_is_better(&self) -> bool {
        self.unit.ends_with("/s")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goal_is_met_or_missed() {
        let figure = || Figure::of("commit", "us", &[3.0, 1.0, 2.0]).against("bare", &[1.1, 1.3, 1.2]);
        assert_eq!((figure().p50, figure().ratio), (2.0, Some(1.2)));
        let met = |figure: Figure| figure.goal.map(|goal| goal.met);
        assert_eq!(met(figure().ratio_at_most(1.2)), Some(true));
        assert_eq!(met(figure().at_most(1.9)), Some(false));
        // What was not measured has met nothing.
        assert_eq!(met(Figure::of("commit", "us", &[]).at_most(1.0)), Some(false));
        assert!(Figure::of("x", "MB/s", &[]).more_is_better() && !figure().more_is_better());
    }
}
