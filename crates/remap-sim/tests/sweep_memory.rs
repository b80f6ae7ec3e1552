//! The core without memory: every allocation that it makes in a scripted life is refused in turn, alone and with those that follow.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use remap_sim::inside;
use remap_sim::scenario::Scenario;
use remap_sim::script::{self, Script};
use remap_sim::sweep::memory;
use remap_sim::world;

/// Which allocations of the core are refused on this thread.
#[derive(Clone, Copy)]
enum Plan {
    None,
    /// These, counted from 0.
    Stretch(u64, u64),
    /// One in so many, by lot, as long as memory is short: a quarter of the time.
    Lot(u64),
}

/// Allocations between two changes of the weather.
const SEASON: u64 = 200;

thread_local! {
    static PLAN: Cell<Plan> = const { Cell::new(Plan::None) };
    /// Allocations asked for so far.
    static ASKED: Cell<u64> = const { Cell::new(0) };
    /// Bytes of the block that the core gave back last, if nothing was asked for since.
    static GIVEN_BACK: Cell<usize> = const { Cell::new(0) };
}

/// Refuses the core what the plan says. A block of the size that was given back just before is given again, as an allocator does.
struct Refusing;

impl Refusing {
    fn refuses(bytes: usize) -> bool {
        if !inside::is_core() || GIVEN_BACK.replace(0) == bytes {
            return false;
        }
        let asked = ASKED.get();
        ASKED.set(asked + 1);
        let refused = match PLAN.get() {
            Plan::None => false,
            Plan::Stretch(from, until) => (from..until).contains(&asked),
            Plan::Lot(one_in) => {
                let short = asked / SEASON % 4 == 1;
                let mixed = (asked + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                (mixed ^ (mixed >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 33 < (1 << 31) / one_in
                    && short
            }
        };
        if refused {
            inside::note_refusal();
        }
        refused
    }
}

// SAFETY: every call is handed to the system's allocator as it came, or answered with a null pointer, which is how an allocator refuses.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Refusing {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if Self::refuses(layout.size()) {
            return core::ptr::null_mut();
        }
        // SAFETY: the caller's promise is the one that is asked for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if inside::is_core() {
            GIVEN_BACK.set(layout.size());
        }
        // SAFETY: the block came from the system's allocator, with this layout.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        if Self::refuses(bytes) {
            return core::ptr::null_mut();
        }
        // SAFETY: the block came from the system's allocator, with this layout, and the size is the caller's promise.
        unsafe { System.realloc(block, layout, bytes) }
    }
}

#[global_allocator]
static ALLOCATOR: Refusing = Refusing;

/// Runs something under a plan; gives the allocations that it asked for as well.
fn under<T>(plan: Plan, run: impl FnOnce() -> T) -> (T, u64) {
    ASKED.set(0);
    GIVEN_BACK.set(0);
    PLAN.set(plan);
    let result = run();
    PLAN.set(Plan::None);
    (result, ASKED.get())
}

/// Refuses each stretch of `length` allocations that begins at a multiple of `step`; gives the stretches.
fn sweep(script: &Script, length: u64, step: u64) -> u64 {
    let (result, all) = under(Plan::None, || memory::live(script));
    assert!(result.is_ok(), "{}: {result:?}", script.name);
    let mut stretches = 0;
    for from in (0..all).step_by(step as usize) {
        let before = inside::refusals();
        let (result, _) = under(Plan::Stretch(from, from + length), || memory::live(script));
        assert!(inside::refusals() > before, "{}: nothing was refused from {from} on", script.name);
        if let Err(violation) = result {
            panic!("{}: {length} allocations refused from number {from} on: {violation}", script.name);
        }
        stretches += 1;
    }
    stretches
}

#[test]
fn every_allocation_of_every_script_may_be_refused() {
    let stretches: u64 = script::all().iter().map(|script| sweep(script, 1, 1)).sum();
    println!("{stretches} lives");
}

#[test]
fn memory_may_be_short_for_a_while() {
    let stretches: u64 = [(7, 5), (50, 17)]
        .iter()
        .flat_map(|&(length, step)| script::all().into_iter().map(move |s| sweep(&s, length, step)))
        .sum();
    println!("{stretches} lives");
}

#[test]
fn memory_may_be_refused_at_random() {
    for seed in 0..40 {
        let scenario = Scenario::of_seed(seed, 1000);
        let one_in = [3, 10, 40, 200][seed as usize % 4];
        let (outcome, _) = under(Plan::Lot(one_in), || world::run(&scenario));
        if let Err((violation, _)) = outcome {
            panic!("seed {seed}, one in {one_in}: {violation}");
        }
    }
    let refused = inside::refusals();
    println!("{refused} allocations refused");
    assert!(refused > 200, "only {refused} allocations were refused");
}
