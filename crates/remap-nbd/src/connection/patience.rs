//! Busy polling: looking for the next request or completion for a moment before going to sleep.
//!
//! Invariant: no look outlasts the limit, and looks that find nothing become rare: a connection at rest costs nothing, and one whose
//! requests come further apart than the limit next to nothing.
//!
//! A client that waits for each answer before it asks again pays for a sleeping server with every request: on a virtual machine, where
//! a processor that sleeps must be woken by the host, some 30 us. (QEMU polls for the same reason: `poll-max-ns`.)

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::thread::sched_yield;

/// Short sleeps that are asked for after a look that found nothing; twice as many after each further one.
const REST: u32 = 8;
const MOST_MISSES: u32 = 10;

/// Connections of this process that look now: at most one for every two processors, for clients need some, too.
static LOOKING: AtomicUsize = AtomicUsize::new(0);

/// When a connection looks, and for how long.
#[derive(Debug)]
pub(super) struct Patience {
    limit: Duration,
    /// Most connections that look at a time.
    together: usize,
    /// Short sleeps before the next look.
    rest: u32,
    /// Looks in a row that found nothing.
    misses: u32,
}

impl Patience {
    /// `limit`: for how long at most; zero: never.
    pub(super) fn new(limit: Duration) -> Self {
        let together = std::thread::available_parallelism().map_or(0, |processors| processors.get() / 2);
        Self { limit, together, rest: 1, misses: 0 }
    }

    /// Is it time to look?
    pub(super) fn may_look(&self) -> bool {
        !self.limit.is_zero() && self.rest == 0
    }

    /// Looks until it is `ready`; `false` when it is time to sleep.
    pub(super) fn look(&mut self, ready: impl FnMut() -> bool) -> bool {
        if !self.may_look() {
            return false;
        }
        let may = LOOKING.fetch_add(1, Ordering::Relaxed) < self.together;
        let found = may && self.look_on(ready);
        LOOKING.fetch_sub(1, Ordering::Relaxed);
        found
    }

    fn look_on(&mut self, mut ready: impl FnMut() -> bool) -> bool {
        let begun = Instant::now();
        loop {
            if ready() {
                self.misses = 0;
                return true;
            }
            if begun.elapsed() >= self.limit {
                break;
            }
            // Whoever else wants this processor goes first: it may be the client.
            sched_yield();
        }
        self.misses = (self.misses + 1).min(MOST_MISSES);
        self.rest = REST << self.misses;
        false
    }

    /// A sleep for the next request took so long, with the time that it takes to be woken.
    pub(super) fn slept(&mut self, time: Duration) {
        self.rest = if time < self.limit * 2 { self.rest.saturating_sub(1) } else { self.rest.max(1) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_micros(20);
    const SHORT: Duration = Duration::from_micros(39);
    const LONG: Duration = Duration::from_micros(40);

    fn patience() -> Patience {
        Patience { limit: LIMIT, together: usize::MAX, rest: 1, misses: 0 }
    }

    #[test]
    fn a_short_sleep_is_followed_by_looks() {
        let mut patience = patience();
        assert!(!patience.look(|| panic!("nothing says that requests come soon")));
        patience.slept(LONG);
        assert!(!patience.look(|| panic!("still nothing")));
        patience.slept(SHORT);
        assert!((0..3).all(|_| patience.look(|| true)));
        patience.slept(LONG);
        assert!(!patience.look(|| panic!("they came to an end")));
    }

    #[test]
    fn looks_in_vain_become_rare() {
        let mut patience = patience();
        for misses in 1..=MOST_MISSES + 2 {
            patience.slept(SHORT);
            assert!(!patience.look(|| false));
            let rest = REST << misses.min(MOST_MISSES);
            for _ in 1..rest {
                patience.slept(SHORT);
                assert!(!patience.look(|| panic!("{misses} in vain")));
            }
        }
        patience.slept(SHORT);
        assert!(patience.look(|| true));
        assert!(!patience.look(|| false));
        assert_eq!(patience.rest, REST << 1);
    }

    #[test]
    fn a_single_processor_is_left_to_the_client() {
        let mut patience = Patience { together: 0, rest: 0, ..patience() };
        assert!(!patience.look(|| panic!("it could not come")));
    }

    #[test]
    fn without_a_limit_nobody_looks() {
        let mut patience = Patience::new(Duration::ZERO);
        patience.slept(Duration::ZERO);
        patience.slept(Duration::ZERO);
        assert!(!patience.look(|| panic!("there is no time for it")));
    }
}
