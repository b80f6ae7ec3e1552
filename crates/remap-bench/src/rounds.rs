//! Interleaved rounds, and what they come to.
//!
//! Invariant: in each round every contender runs every cell once, in an order that the next round rotates, and only the one that is
//! measured is running; ratios are taken within a round, so that a machine that is slow for a while is slow for both.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, ensure};

use crate::contender::{CLEAN, Contender, FLOOR, Part};
use crate::ground::Ground;
use crate::load::{self, Cell, Sample};
use crate::record::{PlaceResult, Row};
use crate::stats::{median, range, spread};

/// How much.
#[derive(Clone, Copy)]
pub(crate) struct Effort {
    pub(crate) rounds: u32,
    /// Length of one run, in seconds.
    pub(crate) seconds: u32,
}

/// One contender in one cell, round by round.
type Samples = Vec<Option<Sample>>;

/// Measures everybody in every cell.
///
/// # Errors
/// A server or a client fails, or the run was interrupted.
pub(crate) fn run(
    ground: &Ground,
    contenders: &[Contender],
    cells: &[&Cell],
    effort: Effort,
    stop: &AtomicBool,
) -> anyhow::Result<PlaceResult> {
    let mut all: BTreeMap<(usize, usize), Samples> = BTreeMap::new();
    for round in 0..effort.rounds as usize {
        for (at, cell) in cells.iter().enumerate() {
            eprintln!("{}: round {} of {}, {}", ground.place.name(), round + 1, effort.rounds, cell.name);
            for turn in 0..contenders.len() {
                // The cell shifts the order too, so that few rounds already vary it.
                let who = (turn + round + at) % contenders.len();
                let sample = one(ground, &contenders[who], cell, effort.seconds);
                ensure!(!stop.load(Ordering::Relaxed), "interrupted");
                let name = || format!("{} with {}", cell.name, contenders[who].name);
                all.entry((at, who)).or_default().push(sample.with_context(name)?);
            }
        }
    }
    let mut rows = Vec::new();
    for (at, cell) in cells.iter().enumerate() {
        let samples: Vec<Samples> =
            (0..contenders.len()).map(|who| all.remove(&(at, who)).unwrap_or_default()).collect();
        rows.extend(rows_of(cell, contenders, &samples));
    }
    let Effort { rounds, seconds } = effort;
    Ok(PlaceResult { name: ground.place.name().to_owned(), size_bytes: ground.size, rounds, seconds, rows })
}

fn one(ground: &Ground, contender: &Contender, cell: &Cell, seconds: u32) -> anyhow::Result<Option<Sample>> {
    ground.settle()?;
    let server = contender.serve.map(|serve| ground.start(serve(ground)?)).transpose()?;
    load::run(cell, ground, server.as_ref(), seconds)
}

fn rows_of(cell: &Cell, contenders: &[Contender], samples: &[Samples]) -> Vec<Row> {
    let rate = |s: &Sample| if cell.counts_requests() { s.iops } else { s.mb_s };
    let rates = |who: usize| -> Vec<f64> { samples[who].iter().flatten().map(rate).collect() };
    let middle = |who: usize| median(&rates(who)).unwrap_or(0.0);
    let rivals = (0..contenders.len()).filter(|who| contenders[*who].part == Part::Rival);
    let best = rivals.max_by(|a, b| middle(*a).total_cmp(&middle(*b)));
    let named = |name: &str| contenders.iter().position(|contender| contender.name == name);
    // Round by round, in terms of another one.
    let against = |who: usize, other: Option<usize>| -> Vec<f64> {
        let pairs = samples[who].iter().zip(other.map_or(&[][..], |other| &samples[other]));
        pairs.filter_map(|(a, b)| Some(rate(a.as_ref()?) / rate(b.as_ref()?))).collect()
    };
    let row = |(who, contender): (usize, &Contender)| {
        let of = |field: fn(&Sample) -> f64| {
            median(&samples[who].iter().flatten().map(field).collect::<Vec<_>>()).unwrap_or(0.0)
        };
        let rounds = rates(who).len();
        let to_floor = against(who, named(FLOOR));
        (rounds > 0).then(|| Row {
            cell: cell.name.to_owned(),
            contender: contender.name.clone(),
            part: format!("{:?}", contender.part).to_lowercase(),
            counts_requests: cell.counts_requests(),
            iops: of(|s| s.iops),
            mb_s: of(|s| s.mb_s),
            p50_us: of(|s| s.p50_us),
            p99_us: of(|s| s.p99_us),
            cpu_us_per_io: of(|s| s.cpu_us_per_io),
            cpu_s_per_gib: of(|s| s.cpu_s_per_gib),
            foreign_cores: of(|s| s.foreign),
            start_ms: of(|s| s.start_ms),
            best_rival: best.map(|best| contenders[best].name.clone()),
            to_rival: median(&against(who, best)),
            to_floor: median(&to_floor),
            to_floor_spread: spread(&to_floor),
            to_clean: median(&against(who, named(CLEAN))).filter(|_| contender.part == Part::Ours),
            range: range(&rates(who)).unwrap_or(0.0),
            rounds,
        })
    };
    contenders.iter().enumerate().filter_map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_taken_within_a_round() {
        let contender = |name: &str, part| Contender { name: name.to_owned(), part, serve: None };
        let contenders =
            [contender(CLEAN, Part::Ours), contender("slow", Part::Rival), contender("quick", Part::Rival)];
        let of = |rates: [f64; 3]| -> Samples {
            rates.into_iter().map(|iops| Some(Sample { iops, ..Sample::default() })).collect()
        };
        // The second round was slow for everybody.
        let samples = [of([20.0, 2.0, 22.0]), of([5.0, 0.5, 5.0]), of([10.0, 1.0, 11.0])];
        let rows = rows_of(&load::CELLS[0], &contenders, &samples);
        assert_eq!(rows[0].best_rival.as_deref(), Some("quick"));
        assert_eq!(rows[0].to_rival, Some(2.0));
        assert_eq!(rows[1].to_rival, Some(0.5));
        assert_eq!((rows[0].to_clean, rows[1].to_clean, rows[0].to_floor), (Some(1.0), None, None));
    }
}
