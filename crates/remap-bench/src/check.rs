//! This run against an earlier one: only ratios, because another day or machine has other absolute figures.
//!
//! Invariant: what is compared, and what cannot be, is counted; a figure too noisy to judge is named, not passed.

use crate::record::{Figure, GroupResult, PlaceResult, Results, Row};

/// Least difference that counts, as a share, between servers: two runs of the same program on a quiet machine differ by less.
const SERVERS: f64 = 0.10;
/// The same between parts timed in nanoseconds.
const PARTS: f64 = 0.25;
/// The same for memory, which does not vary.
const MEMORY: f64 = 0.05;
/// So many times the distance of the quartiles counts too, where that is more.
const NOISE: f64 = 2.0;
/// A bound above this would let everything pass.
const TOO_NOISY: f64 = 0.5;

/// What a comparison found.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    /// Figures within their bounds.
    pub(crate) good: usize,
    /// One line for each that is not.
    pub(crate) worse: Vec<String>,
    /// One line for each that nothing can be said of.
    pub(crate) unjudged: Vec<String>,
}

impl Verdict {
    /// `gain`: this run in terms of the earlier one, above 1 is better; `spread`: the larger distance of quartiles.
    fn judge(&mut self, name: String, gain: f64, least: f64, spread: Option<f64>) {
        let bound = least.max(NOISE * spread.unwrap_or(0.0));
        if !gain.is_finite() || bound > TOO_NOISY {
            self.unjudged
                .push(format!("{name}: too noisy (quartiles {:.0} % apart)", spread.unwrap_or(0.0) * 100.0));
        } else if gain < 1.0 - bound {
            let bound = bound * 100.0;
            self.worse.push(format!("{name}: {gain:.2} of what it was; {bound:.0} % is the bound"));
        } else {
            self.good += 1;
        }
    }
}

/// Compares all that both runs measured.
pub(crate) fn compare(before: &Results, now: &Results) -> Verdict {
    let mut verdict = Verdict::default();
    for place in &before.places {
        match now.places.iter().find(|other| other.name == place.name) {
            Some(other) if other.size_bytes == place.size_bytes => places(place, other, &mut verdict),
            Some(_) => verdict.unjudged.push(format!("{}: another size of the device", place.name)),
            None => verdict.unjudged.push(format!("{}: not measured now", place.name)),
        }
    }
    for group in &before.groups {
        let same = |other: &&GroupResult| other.name == group.name && other.place == group.place;
        match now.groups.iter().find(same) {
            Some(other) => figures(group, other, &mut verdict),
            None => verdict.unjudged.push(format!("{} on {}: not measured now", group.name, group.place)),
        }
    }
    verdict
}

/// Of ours; figures that are neither a ratio nor memory are another day's or machine's: they are shown, and compared with nothing.
fn figures(before: &GroupResult, now: &GroupResult, verdict: &mut Verdict) {
    let judged = |figure: &&Figure| !figure.beside && (figure.ratio.is_some() || is_memory(figure));
    for figure in before.figures.iter().filter(judged) {
        let size = figure.at.map_or(String::new(), |at| format!(", {at}"));
        let who = if figure.who.is_empty() { String::new() } else { format!(", {}", figure.who) };
        let name = format!("{} on {}, {}{size}{who}", before.name, before.place, figure.name);
        let same =
            |other: &&Figure| other.name == figure.name && other.at == figure.at && other.who == figure.who;
        match now.figures.iter().find(same) {
            Some(other) => parts(name, figure, other, verdict),
            None => verdict.unjudged.push(format!("{name}: not measured now")),
        }
    }
}

fn is_memory(figure: &Figure) -> bool {
    figure.unit == "bytes"
}

fn places(before: &PlaceResult, now: &PlaceResult, verdict: &mut Verdict) {
    for row in before.rows.iter().filter(|row| row.part == "ours") {
        let name = format!("{} {}, {}", before.name, row.cell, row.contender);
        let same = |other: &&Row| other.cell == row.cell && other.contender == row.contender;
        let Some(other) = now.rows.iter().find(same) else {
            verdict.unjudged.push(format!("{name}: not measured now"));
            continue;
        };
        // The floor is always there; which rival is the best may change.
        let ratios = match (row.to_floor, other.to_floor) {
            (Some(then), Some(now)) => Some((then, now)),
            _ if row.best_rival == other.best_rival => row.to_rival.zip(other.to_rival),
            _ => None,
        };
        match ratios {
            Some((then, now)) => {
                let spread = row.to_floor_spread.into_iter().chain(other.to_floor_spread).reduce(f64::max);
                verdict.judge(name, now / then, SERVERS, spread);
            }
            None => verdict.unjudged.push(format!("{name}: nothing that both runs compare it with")),
        }
    }
}

fn parts(name: String, before: &Figure, now: &Figure, verdict: &mut Verdict) {
    match before.ratio.zip(now.ratio) {
        Some((then, ratio)) => {
            let spread = before.spread.into_iter().chain(now.spread).reduce(f64::max);
            let gain = if before.more_is_better() { ratio / then } else { then / ratio };
            verdict.judge(name, gain, PARTS, spread);
        }
        None => verdict.judge(name, before.p50 / now.p50, MEMORY, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(unit: &str, ratio: f64, spread: f64) -> Results {
        let figure =
            Figure { unit: unit.into(), ratio: Some(ratio), spread: Some(spread), ..Figure::default() };
        let (name, place) = ("parts".into(), "memory".into());
        let group = GroupResult { name, place, figures: vec![figure], missing: Vec::new() };
        Results { groups: vec![group], ..Results::default() }
    }

    #[test]
    fn worse_than_the_bound_fails_and_noise_widens_it() {
        let found = |then, now, spread| {
            let verdict = compare(&figure("ns", then, 0.0), &figure("ns", now, spread));
            (verdict.good, verdict.worse.len(), verdict.unjudged.len())
        };
        assert_eq!(found(1.0, 1.2, 0.0), (1, 0, 0));
        assert_eq!(found(1.0, 1.5, 0.0), (0, 1, 0));
        assert_eq!(found(1.0, 1.5, 0.2), (1, 0, 0));
        assert_eq!(found(1.0, 9.0, 0.4), (0, 0, 1));
        assert_eq!(found(1.0, 0.5, 0.0), (1, 0, 0));
        assert_eq!(compare(&figure("ns", 1.0, 0.0), &Results::default()).unjudged.len(), 1);
        let mut rival = figure("ns", 1.0, 0.0);
        rival.groups[0].figures[0].beside = true;
        assert_eq!(compare(&rival, &figure("ns", 9.0, 0.0)).worse.len(), 0);
        // Of a rate, more is better.
        assert_eq!(compare(&figure("MB/s", 1.0, 0.0), &figure("MB/s", 0.5, 0.0)).worse.len(), 1);
    }
}
