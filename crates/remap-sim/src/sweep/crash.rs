//! A script with the power cut at each of its device operations, and every persisted state that the cut can leave.
//!
//! Invariant: where a cut leaves at most [`Bounds::states`] states, all are looked at; where it leaves more, those of
//! `Bounds`. States that cannot be told apart by what comes after are looked at once.

use std::collections::HashSet;

use super::Finding;
use crate::rng::Rng;
use crate::script::{Act, Script};
use crate::world::{Cut, State, World};
use crate::{Checked, Rule, Violation};

/// How far a sweep goes.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Most states of one cut that are all looked at.
    pub states: u64,
    /// Where there are more: states drawn by lot, beside the chosen ones.
    pub drawn: u64,
    /// Of the states, one in so many is cut again, at each operation of its recovery; 0: none.
    pub again_every: u64,
    /// As `states`, for cuts of a recovery.
    pub again_states: u64,
}

impl Bounds {
    /// What every run of the tests can afford.
    pub const SHORT: Self = Self { states: 256, drawn: 32, again_every: 64, again_states: 32 };
    /// For machines with time.
    pub const DEEP: Self = Self { states: 1 << 16, drawn: 4096, again_every: 1, again_states: 256 };
}

/// What a sweep did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Device operations of the scripts.
    pub operations: u64,
    /// Cuts.
    pub cuts: u64,
    /// Cuts of which every state was looked at.
    pub whole_cuts: u64,
    /// States.
    pub states: u64,
    /// Of these, different ones: each was recovered, brought to rest and read.
    pub different: u64,
    /// Recoveries that were cut again.
    pub recoveries: u64,
    /// Cuts of recoveries.
    pub again_cuts: u64,
}

impl Tally {
    /// Adds another sweep.
    pub fn add(&mut self, other: &Self) {
        self.operations += other.operations;
        self.cuts += other.cuts;
        self.whole_cuts += other.whole_cuts;
        self.states += other.states;
        self.different += other.different;
        self.recoveries += other.recoveries;
        self.again_cuts += other.again_cuts;
    }
}

/// Sweeps one script.
///
/// # Errors
/// The first violation.
pub fn sweep(script: &Script, bounds: &Bounds) -> Result<Tally, Finding> {
    let mut sweep = Sweep { bounds, seen: HashSet::new(), tally: Tally::default(), place: String::new() };
    match sweep.play(script) {
        Ok(()) => Ok(sweep.tally),
        Err(violation) => {
            Err(Finding { place: format!("script {}, {}", script.name, sweep.place), violation })
        }
    }
}

struct Sweep<'b> {
    bounds: &'b Bounds,
    seen: HashSet<u128>,
    tally: Tally,
    place: String,
}

impl Sweep<'_> {
    fn play(&mut self, script: &Script) -> Checked {
        let mut world = World::create(script.scenario.clone());
        world.stage(None);
        self.place = "while it is adopted".into();
        world.assemble()?;
        self.run_out(&mut world, None, 0)?;
        for (step, acts) in script.steps.iter().enumerate() {
            for act in acts {
                self.place = format!("step {step}, as it begins");
                if !world.begin_act(act)? {
                    return Err(Rule::C7.broken(format!("the script cannot do {act:?} here")));
                }
            }
            self.run_out(&mut world, Some(acts), step)?;
        }
        self.place = "at its end".into();
        world.look_at_everything()
    }

    /// Ends the operations that are out, one after another, with a cut before each and one when all have ended.
    fn run_out(&mut self, world: &mut World, acts: Option<&[Act]>, step: usize) -> Checked {
        for operation in 0.. {
            let place = match acts {
                Some(_) => format!("step {step}, cut before operation {operation} of it ends"),
                None => format!("cut before operation {operation} of the adoption ends"),
            };
            self.look_into(&world.cut(), &place, true)?;
            self.place = place;
            if !world.is_busy() {
                break;
            }
            self.tally.operations += 1;
            world.end_one()?;
        }
        Ok(())
    }

    /// Looks at the states of a cut.
    fn look_into(&mut self, cut: &Cut, place: &str, first: bool) -> Checked {
        let choices = cut.choices();
        let limit = if first { self.bounds.states } else { self.bounds.again_states };
        let all = product(&choices).filter(|&n| n <= limit);
        if first {
            self.tally.cuts += 1;
            self.tally.whole_cuts += u64::from(all.is_some());
        } else {
            self.tally.again_cuts += 1;
        }
        match all {
            Some(_) => {
                let mut state: State = vec![0; choices.len()];
                loop {
                    self.look_at(cut, &state, place, first)?;
                    if !next(&mut state, &choices) {
                        return Ok(());
                    }
                }
            }
            None => {
                let drawn = if first { self.bounds.drawn } else { self.bounds.drawn.min(8) };
                for state in chosen(cut, &choices, limit, drawn) {
                    self.look_at(cut, &state, place, first)?;
                }
                Ok(())
            }
        }
    }

    fn look_at(&mut self, cut: &Cut, state: &[u8], place: &str, first: bool) -> Checked {
        self.tally.states += 1;
        let print = cut.print(state);
        if !self.seen.insert(print) {
            return Ok(());
        }
        self.tally.different += 1;
        self.place = format!("{place}, state {state:?}");
        let mut world = cut.open(state);
        world.assemble()?;
        world.look_at_everything()?;
        let again = self.bounds.again_every;
        if first && again > 0 && ((print >> 64) as u64).is_multiple_of(again) {
            self.cut_again(cut, state, place)?;
        }
        Ok(())
    }

    /// The same state once more, with the power cut at each operation of its recovery.
    fn cut_again(&mut self, cut: &Cut, state: &[u8], place: &str) -> Result<(), Violation> {
        self.tally.recoveries += 1;
        let mut world = cut.open(state);
        world.stage(None);
        world.assemble()?;
        for operation in 0.. {
            let place = format!("{place}, state {state:?}, cut again before operation {operation} ends");
            self.look_into(&world.cut(), &place, false)?;
            if !world.is_busy() {
                break;
            }
            world.end_one()?;
        }
        Ok(())
    }
}

fn product(choices: &[u8]) -> Option<u64> {
    choices.iter().try_fold(1u64, |product, &n| product.checked_mul(u64::from(n)))
}

/// Counts up; `false` after the last state.
fn next(state: &mut [u8], choices: &[u8]) -> bool {
    for (answer, &count) in state.iter_mut().zip(choices) {
        *answer += 1;
        if *answer < count {
            return true;
        }
        *answer = 0;
    }
    false
}

/// States of a cut that has too many: those in which whole writes happened or did not (all of them if they are few enough);
/// those that differ from "nothing happened" and from "everything happened" in one question, or in two; those in which the
/// writes up to some point happened; and some by lot.
fn chosen(cut: &Cut, choices: &[u8], limit: u64, drawn: u64) -> Vec<State> {
    let writes = cut.writes();
    let mut groups = writes.clone();
    groups.sort_unstable();
    groups.dedup();
    let newest: State = choices.iter().map(|&n| n - 1).collect();
    let whole = |happened: &dyn Fn(usize) -> bool| -> State {
        let group_of = |write: (usize, u64)| groups.iter().position(|&g| g == write).unwrap_or(0);
        let answers = writes.iter().zip(&newest);
        answers.map(|(&write, &answer)| if happened(group_of(write)) { answer } else { 0 }).collect()
    };
    let mut states: Vec<State> = (0..=groups.len()).map(|end| whole(&|group| group < end)).collect();
    if groups.len() < 63 && 1 << groups.len() <= limit {
        states.extend((0u64..1 << groups.len()).map(|set| whole(&|group| set & (1 << group) != 0)));
    }
    let nothing = vec![0; choices.len()];
    let pairs = (choices.len() as u64).pow(2) <= 2 * limit;
    for base in [&nothing, &newest] {
        for (at, &count) in choices.iter().enumerate() {
            for answer in 0..count {
                let mut state = base.clone();
                state[at] = answer;
                if pairs {
                    states.extend((at + 1..choices.len()).map(|second| {
                        let mut state = state.clone();
                        state[second] = newest[second] - state[second].min(newest[second]);
                        state
                    }));
                }
                states.push(state);
            }
        }
    }
    let mut rng = Rng::seeded(choices.len() as u64);
    states.extend((0..drawn).map(|_| choices.iter().map(|&n| rng.below(u64::from(n)) as u8).collect()));
    states
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counting_up_reaches_every_state_once() {
        let choices = [2, 3, 2];
        let mut state = vec![0; 3];
        let mut all = vec![state.clone()];
        while next(&mut state, &choices) {
            all.push(state.clone());
        }
        assert_eq!(Some(all.len() as u64), product(&choices));
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 12);
    }
}
