//! Busy polling: looking for the next request or completion for a moment before going to sleep.
//!
//! Invariant: no look outlasts its limit, and looks that find nothing become rare: a connection at rest costs nothing, and one whose
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

/// With so many requests in the queue the next completion is never far, and who sleeps keeps the devices waiting: worth a longer look.
const MANY: usize = 8;
/// So many times as long, but not beyond this.
const LONGER: u32 = 20;
const LONGEST: Duration = Duration::from_millis(1);

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

    /// For how long to look while so many requests are in the queue.
    fn limit(&self, in_flight: usize) -> Duration {
        if in_flight < MANY { self.limit } else { (self.limit * LONGER).min(LONGEST).max(self.limit) }
    }

    /// Is it time to look?
    pub(super) fn may_look(&self) -> bool {
        !self.limit.is_zero() && self.rest == 0
    }

    /// Looks until it is `ready`, with so many requests in the queue; `false` when it is time to sleep.
    pub(super) fn look(&mut self, in_flight: usize, ready: impl FnMut() -> bool) -> bool {
        if !self.may_look() {
            return false;
        }
        let may = LOOKING.fetch_add(1, Ordering::Relaxed) < self.together;
        let found = may && self.look_on(self.limit(in_flight), ready);
        LOOKING.fetch_sub(1, Ordering::Relaxed);
        found
    }

    fn look_on(&mut self, limit: Duration, mut ready: impl FnMut() -> bool) -> bool {
        let begun = Instant::now();
        loop {
            if ready() {
                self.misses = 0;
                return true;
            }
            if begun.elapsed() >= limit {
                break;
            }
            // Whoever else wants this processor goes first: it may be the client.
            sched_yield();
        }
        self.misses = (self.misses + 1).min(MOST_MISSES);
        self.rest = REST << self.misses;
        false
    }

    /// A sleep took so long, with the time that it takes to be woken; so many requests were in the queue.
    pub(super) fn slept(&mut self, in_flight: usize, time: Duration) {
        self.rest =
            if time < self.limit(in_flight) * 2 { self.rest.saturating_sub(1) } else { self.rest.max(1) };
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
        assert!(!patience.look(0, || panic!("nothing says that requests come soon")));
        patience.slept(0, LONG);
        assert!(!patience.look(0, || panic!("still nothing")));
        patience.slept(0, SHORT);
        assert!((0..3).all(|_| patience.look(0, || true)));
        patience.slept(0, LONG);
        assert!(!patience.look(0, || panic!("they came to an end")));
    }

    #[test]
    fn with_many_in_flight_looks_are_longer() {
        let patience = patience();
        assert_eq!(patience.limit(MANY - 1), LIMIT);
        assert_eq!(patience.limit(MANY), LIMIT * LONGER);
        assert_eq!(Patience { limit: LONGEST / 2, ..self::patience() }.limit(MANY), LONGEST);
        assert_eq!(Patience { limit: LONGEST * 2, ..self::patience() }.limit(MANY), LONGEST * 2);
        let mut patience = patience;
        patience.slept(MANY, LIMIT * LONGER);
        assert!(patience.may_look(), "soon, for so many");
        let begun = Instant::now();
        assert!(!patience.look(MANY, || false));
        assert!(begun.elapsed() >= LIMIT * LONGER);
    }

    #[test]
    fn looks_in_vain_become_rare() {
        let mut patience = patience();
        for misses in 1..=MOST_MISSES + 2 {
            patience.slept(0, SHORT);
            assert!(!patience.look(0, || false));
            let rest = REST << misses.min(MOST_MISSES);
            for _ in 1..rest {
                patience.slept(0, SHORT);
                assert!(!patience.look(0, || panic!("{misses} in vain")));
            }
        }
        patience.slept(0, SHORT);
        assert!(patience.look(0, || true));
        assert!(!patience.look(0, || false));
        assert_eq!(patience.rest, REST << 1);
    }

    #[test]
    fn a_single_processor_is_left_to_the_client() {
        let mut patience = Patience { together: 0, rest: 0, ..patience() };
        assert!(!patience.look(0, || panic!("it could not come")));
    }

    #[test]
    fn without_a_limit_nobody_looks() {
        let mut patience = Patience::new(Duration::ZERO);
        patience.slept(0, Duration::ZERO);
        patience.slept(0, Duration::ZERO);
        assert!(!patience.look(0, || panic!("there is no time for it")));
    }
}
