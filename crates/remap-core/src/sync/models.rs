//! How a model is explored: exhaustively within a bound by loom, at random by shuttle.
//!
//! Invariant: both run all of a model's threads on one thread of the system, so what is weakened here is weakened for one
//! model only, whatever other tests run beside it.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

#[cfg(loom)]
pub use loom::thread;
#[cfg(all(shuttle, not(loom)))]
pub use shuttle::thread;

use super::Edge;
use crate::units::Block;
use crate::view::View;

std::thread_local! {
    static WEAK: Cell<Option<Edge>> = const { Cell::new(None) };
}

pub(super) fn is_weak(edge: Edge) -> bool {
    WEAK.with(|weak| weak.get() == Some(edge))
}

/// Edges are whole again when this is dropped.
struct Weakened;

impl Drop for Weakened {
    fn drop(&mut self) {
        WEAK.with(|weak| weak.set(None));
    }
}

/// What the engine does before it moves a block, for models of the handshake outside of this crate.
pub fn begin_move(view: &View, index: usize, block: Block) {
    view.begin_move(index, block);
}

/// What the engine does when a block has moved.
pub fn end_move(view: &View, index: usize) {
    view.end_move(index);
}

/// Random schedules that shuttle tries of one model.
pub const SCHEDULES: usize = 20_000;

/// Runs `model` in every interleaving that the checker finds, and prints how many those were. loom switches threads at most `preemptions`
/// times where it need not. With `weak`, one edge is not kept: the model must then panic.
pub fn explore(name: &str, preemptions: usize, weak: Option<Edge>, model: fn()) {
    let executions = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&executions);
    WEAK.with(|cell| cell.set(weak));
    let _whole_again = Weakened;
    run(preemptions, move || {
        count.fetch_add(1, Ordering::Relaxed);
        model();
    });
    std::println!("model {name}: {} executions", executions.load(Ordering::Relaxed));
}

#[cfg(loom)]
fn run(preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    let mut checker = loom::model::Builder::new();
    checker.preemption_bound = checker.preemption_bound.or(Some(preemptions));
    checker.max_branches = 20_000;
    checker.check(model);
}

#[cfg(all(shuttle, not(loom)))]
fn run(_: usize, model: impl Fn() + Send + Sync + 'static) {
    let mut config = shuttle::Config::new();
    // It warns of relaxed orderings, which are loom's part.
    config.silence_warnings = true;
    let model = Arc::new(model);
    for depth in [None, Some(2), Some(3)] {
        let model = Arc::clone(&model);
        let schedules = SCHEDULES / 3;
        match depth {
            None => {
                let random = shuttle::scheduler::RandomScheduler::new_from_seed(1, schedules);
                shuttle::Runner::new(random, config.clone()).run(move || model());
            }
            Some(depth) => {
                let pct = shuttle::scheduler::PctScheduler::new_from_seed(1, depth, schedules);
                shuttle::Runner::new(pct, config.clone()).run(move || model());
            }
        }
    }
}
