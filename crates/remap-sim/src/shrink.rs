//! From a run that breaks a rule to a small one that breaks the same rule.
//!
//! Invariant: what is returned was run and broke the rule. Three things are tried, as long as one of them helps: fewer steps, a
//! simpler scenario (with the same seed, then with a few others), and fewer of its steps (delta debugging: each step has dice of
//! its own, so the others mean the same without it).

use std::panic::{AssertUnwindSafe, catch_unwind};

use remap_format::layout;

use crate::scenario::{Scenario, spare_sizes};
use crate::world::{self, Failure, Tally};
use crate::{Rule, Violation};

/// Other seeds tried with each simpler scenario.
const OTHER_SEEDS: u64 = 24;
/// Blocks of the smallest main device.
const FEWEST_BLOCKS: u64 = 4;

/// Runs a scenario; a panic is a violation too (C6: no input ends the core).
///
/// # Errors
/// The violation.
pub fn verdict(scenario: &Scenario, twice: bool) -> Result<Tally, Failure> {
    let run = if twice { world::run_twice } else { world::run_once };
    catch_unwind(AssertUnwindSafe(|| run(scenario))).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("of unknown kind");
        let violation = Rule::C6.broken(format!("panic: {text}"));
        Err(Failure { violation, step: scenario.steps, transcript: Vec::new() })
    })
}

/// Shrinks a scenario that breaks a rule, as long as `more` says so.
pub fn shrink(
    from: &Scenario,
    violation: &Violation,
    more: &mut dyn FnMut() -> bool,
) -> (Scenario, Violation) {
    let mut hunt = Hunt { best: from.clone(), violation: violation.clone(), more };
    hunt.cut_tail();
    while hunt.simplify(OTHER_SEEDS) {}
    loop {
        hunt.leave_out_steps();
        if !hunt.simplify(0) {
            return (hunt.best, hunt.violation);
        }
    }
}

struct Hunt<'m> {
    best: Scenario,
    violation: Violation,
    more: &'m mut dyn FnMut() -> bool,
}

impl Hunt<'_> {
    /// Takes the scenario if it breaks the same rule.
    fn accept(&mut self, mut scenario: Scenario) -> bool {
        if !(self.more)() {
            return false;
        }
        match verdict(&scenario, self.violation.rule == Rule::C7) {
            Err(failure) if failure.violation.rule == self.violation.rule => {
                scenario.steps = scenario.steps.min(failure.step);
                if let Some(only) = &mut scenario.only {
                    only.retain(|&step| step <= scenario.steps);
                }
                self.best = scenario;
                self.violation = failure.violation;
                true
            }
            _ => false,
        }
    }

    /// The story ends where it failed; or earlier, if the look at everything in the end sees it.
    fn cut_tail(&mut self) {
        self.accept(self.best.clone());
        let mut cut = self.best.steps / 2;
        while cut > 0 {
            let steps = self.best.steps - cut.min(self.best.steps);
            if !self.accept(Scenario { steps, ..self.best.clone() }) {
                cut /= 2;
            }
            cut = cut.min(self.best.steps);
        }
    }

    /// One simpler scenario; `false` when there is none.
    fn simplify(&mut self, other_seeds: u64) -> bool {
        simpler(&self.best).into_iter().any(|candidate| {
            let seeds = (0..=other_seeds).map(|n| candidate.seed.wrapping_add(n << 40));
            seeds.into_iter().any(|seed| self.accept(Scenario { seed, ..candidate.clone() }))
        })
    }

    /// Leaves out as many steps as it can, large pieces first.
    fn leave_out_steps(&mut self) {
        let mut kept: Vec<u64> = self.best.only.clone().unwrap_or_else(|| (1..=self.best.steps).collect());
        let mut piece = kept.len();
        while piece > 0 {
            let mut at = 0;
            while at < kept.len() {
                let end = (at + piece).min(kept.len());
                let only: Vec<u64> = kept[..at].iter().chain(&kept[end..]).copied().collect();
                if self.accept(Scenario { only: Some(only), ..self.best.clone() }) {
                    kept = self.best.only.clone().unwrap_or_default();
                } else {
                    at = end;
                }
            }
            piece /= 2;
        }
    }
}

/// Scenarios with one thing less, the most helpful first.
fn simpler(scenario: &Scenario) -> Vec<Scenario> {
    let mut all = Vec::new();
    let mut with = |change: &dyn Fn(&mut Scenario)| {
        let mut changed = scenario.clone();
        change(&mut changed);
        let possible = changed.shape().is_ok() && changed.main_sectors > 0;
        if possible && format!("{changed:?}") != format!("{scenario:?}") {
            all.push(changed);
        }
    };
    let kinds = { scenario.faults }.kinds().len();
    for kind in 0..kinds {
        with(&|s| *s.faults.kinds()[kind].1 = false);
    }
    with(&|s| (s.commands, s.busy) = (false, false));
    with(&|s| s.busy = false);
    with(&|s| s.clients = 1);
    with(&|s| s.clients = s.clients.div_ceil(2));
    with(&|s| s.logical_block = 512);
    with(&|s| resize(s, s.block_shift, blocks(s), 1));
    with(&|s| resize(s, s.block_shift, blocks(s), s.spares.len().div_ceil(2)));
    with(&|s| resize(s, 12, blocks(s), s.spares.len()));
    with(&|s| resize(s, s.block_shift, (blocks(s) / 2).max(FEWEST_BLOCKS).min(blocks(s)), s.spares.len()));
    with(&|s| s.spoil_every = s.spoil_every.max(200));
    // Another seed may tell it in half the time.
    with(&|s| s.steps = if s.only.is_none() { s.steps / 2 } else { s.steps });
    all
}

fn blocks(scenario: &Scenario) -> u64 {
    scenario.main_sectors.div_ceil((1 << scenario.block_shift) / 512)
}

/// Another size of the main device or its blocks, with as many slots as there were.
fn resize(scenario: &mut Scenario, block_shift: u8, blocks: u64, spares: usize) {
    if (block_shift, blocks, spares) == (scenario.block_shift, self::blocks(scenario), scenario.spares.len())
    {
        return;
    }
    let metadata = |s: &Scenario| -> u64 {
        let Ok(shape) = s.shape() else { return 0 };
        let sizes: Vec<_> = s.spares.iter().map(|&size| ([0; 16], size)).collect();
        let records = layout::first_spares(&sizes, &shape, 1 << s.block_shift);
        records.iter().flat_map(layout::metadata_ranges).map(|(_, len)| len).sum()
    };
    let free = scenario.spares.iter().sum::<u64>().saturating_sub(metadata(scenario));
    let slots = (free >> scenario.block_shift).max(1);
    if (block_shift, blocks) != (scenario.block_shift, self::blocks(scenario)) {
        scenario.main_sectors = blocks << block_shift >> 9;
    }
    scenario.block_shift = block_shift;
    scenario.spares = spare_sizes(spares, 1 << block_shift, slots);
}
