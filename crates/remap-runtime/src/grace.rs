//! The handshake before a block moves (C11).
//!
//! Invariant: a queue is busy before it looks up a placement, and stays so until nothing that it began is out; the owner
//! publishes a move before it looks who is busy. With a full fence on both sides either the queue sees the move, or the owner sees
//! the queue busy and asks it; a queue answers once nothing overlaps that it began before it was asked.

use std::collections::HashMap;

use remap_core::sync::{AtomicBool, Edge, Ordering};

#[cfg(all(test, any(loom, shuttle)))]
mod models;

/// What a queue shows to the owner: could it have fast-lane operations out?
#[derive(Debug)]
pub(crate) struct Presence(AtomicBool);

impl Presence {
    /// Of a queue that has begun nothing.
    pub(crate) fn idle() -> Self {
        Self(AtomicBool::new(false))
    }

    fn enter(&self) {
        self.0.store(true, Ordering::Relaxed);
        Edge::QueueBusy.fence(Ordering::SeqCst);
    }

    fn leave(&self) {
        self.0.store(false, Edge::QueueIdle.order(Ordering::Release));
    }

    fn is_busy(&self) -> bool {
        self.0.load(Edge::QueueSeenIdle.order(Ordering::Acquire))
    }
}

/// A call that waits for operations, by the index of their parts.
#[derive(Debug)]
struct Call {
    grace: u64,
    parts: Vec<usize>,
}

/// The queue's half: how many operations are out, and which calls wait for some of them.
#[derive(Debug, Default)]
pub(crate) struct Outstanding {
    /// A request that is being started counts as one.
    operations: usize,
    calls: Vec<Call>,
}

impl Outstanding {
    /// To be called before placements are looked up, and [`Self::started`] after the operations on them were begun: in between the
    /// queue stays busy, even if some of them have ended already.
    pub(crate) fn starting(&mut self, presence: &Presence) {
        if self.operations == 0 {
            presence.enter();
        }
        self.operations += 1;
    }

    /// An operation was begun.
    pub(crate) fn began(&mut self) {
        self.operations += 1;
    }

    /// Whatever was to be begun with the placements looked up is out.
    pub(crate) fn started(&mut self, presence: &Presence) {
        self.operations -= 1;
        if self.operations == 0 {
            presence.leave();
        }
    }

    /// The operation of a part has ended; `answer` is told the calls that waited for nothing else.
    pub(crate) fn ended(&mut self, part: usize, presence: &Presence, mut answer: impl FnMut(u64)) {
        self.started(presence);
        self.calls.retain_mut(|call| {
            call.parts.retain(|&p| p != part);
            if call.parts.is_empty() {
                answer(call.grace);
            }
            !call.parts.is_empty()
        });
    }

    /// The owner waits for these parts, all that are out and overlap its block; `true` if there is nothing to wait for.
    pub(crate) fn asked(&mut self, grace: u64, parts: Vec<usize>) -> bool {
        let none = parts.is_empty();
        if !none {
            self.calls.push(Call { grace, parts });
        }
        none
    }
}

/// The owner's half: calls, and how many queues have not answered each of them yet.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    open: HashMap<u64, usize>,
}

impl Calls {
    /// Asks every queue that is busy, after the move was published; `true` if nobody has to be waited for. `ask` tells whether
    /// there will be an answer: a queue that closed has nothing out any more.
    pub(crate) fn begin<Q>(
        &mut self,
        grace: u64,
        queues: &[Q],
        presence: impl Fn(&Q) -> &Presence,
        ask: impl Fn(&Q) -> bool,
    ) -> bool {
        Edge::MovePublished.fence(Ordering::SeqCst);
        let asked = queues.iter().filter(|queue| presence(queue).is_busy() && ask(queue)).count();
        if asked > 0 {
            self.open.insert(grace, asked);
        }
        asked == 0
    }

    /// A queue answered; `true` if it was the last.
    pub(crate) fn answered(&mut self, grace: u64) -> bool {
        let Some(left) = self.open.get_mut(&grace) else { return false };
        *left -= 1;
        if *left > 0 {
            return false;
        }
        self.open.remove(&grace);
        true
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn a_queue_is_busy_until_it_has_begun_all_that_it_looked_up() {
        let presence = Presence::idle();
        let mut out = Outstanding::default();
        out.starting(&presence);
        out.began();
        out.ended(0, &presence, |_| panic!("nobody asked"));
        assert!(presence.is_busy(), "the next placement is still to be looked up");
        out.began();
        out.started(&presence);
        assert!(presence.is_busy(), "an operation is out");
        out.ended(1, &presence, |_| panic!("nobody asked"));
        assert!(!presence.is_busy());
    }

    #[test]
    fn the_last_answer_ends_a_call() {
        let queues = [Presence::idle(), Presence::idle(), Presence::idle(), Presence::idle()];
        let mut calls = Calls::default();
        assert!(calls.begin(1, &queues, |q| q, |_| true), "nobody is busy");
        queues[1..].iter().for_each(Presence::enter);
        let closed = std::ptr::from_ref(&queues[3]);
        assert!(!calls.begin(2, &queues, |q| q, |q| !std::ptr::eq(q, closed)));
        assert!(!calls.answered(2));
        assert!(!calls.answered(1), "it was over at once");
        assert!(calls.answered(2), "two were busy and open");
        assert!(!calls.answered(2));
    }
}
