//! When the kernel carries the clients' requests itself (stock tables): which of the engine's operations may run now, and when the
//! device has to stand still.
//!
//! Invariant: an operation on clients' data runs only while no request of a client can reach its block: the device is suspended, or
//! the table that it carries has the block as an error. So what the kernel carries never meets a move (C11), and a table comes into
//! service only when all that it says is durable. Nothing stands still for longer than [`SUSPENDED_MAX_NS`] plus the time of the
//! calls themselves (C6): blocks whose work takes longer become errors until it has ended.
//!
//! ```text
//! Idle -> Resuming -> Carrying -> Suspending -> Suspended -> Resuming -> Carrying
//! ```

use std::collections::VecDeque;
use std::sync::mpsc::Sender;

use remap_core::engine::{MAX_BOUNCES, MAX_JOBS};
use remap_core::op::{Buffer, Op, OpKind};
use remap_core::units::Block;

/// Work that comes within this time after the suspension shares it, in nanoseconds.
const BATCH_NS: u64 = 50_000_000;
/// Longest suspension before blocks become errors, in nanoseconds.
pub(crate) const SUSPENDED_MAX_NS: u64 = 10_000_000_000;
/// Shortest time between two suspensions, in nanoseconds; longer ones are followed by a time as long as they were.
const REST_NS: u64 = 5_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// It was not asked to carry anything yet, or could not.
    Idle,
    Carrying,
    Suspending,
    Suspended,
    Resuming,
}

/// What is to be done with the device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    /// Suspend it.
    Suspend,
    /// Have it carry the durable table, with these blocks as errors.
    Carry(Vec<Block>),
}

/// Somebody outside of the engine works on some blocks.
#[derive(Debug)]
struct Hold {
    id: u64,
    blocks: Vec<Block>,
    /// Told when it may begin.
    granted: Option<Sender<()>>,
}

impl Hold {
    fn grant(&mut self) {
        if let Some(granted) = self.granted.take() {
            // Who waited may have given up.
            let _ = granted.send(());
        }
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Gate {
    phase: Phase,
    /// Since when, in nanoseconds.
    since: u64,
    /// Time to carry before the next suspension.
    rest: u64,
    held: VecDeque<Op>,
    /// Blocks whose jobs have begun.
    begun: Vec<Block>,
    holds: Vec<Hold>,
    /// Errors in the table that is carried, or is about to be.
    closed: Vec<Block>,
}

/// The block of an operation on clients' data by a job; `None`: it may always run (metadata, flushes, probes, clients' reads).
/// `moving`: the block of a job.
pub(crate) fn gated_block(
    op: &Op,
    moving: impl Fn(usize) -> Option<Block>,
    block_sectors: u64,
) -> Option<Block> {
    let buffer = match &op.kind {
        OpKind::Grace => return Some(Block(op.extent.start().0 / block_sectors)),
        OpKind::Read(buffer) => buffer,
        OpKind::Write { from, .. } => from,
        OpKind::WriteZeroes { .. } | OpKind::Discard | OpKind::Flush => return None,
    };
    match buffer {
        Buffer::Bounce { index, .. } if usize::from(*index) + 1 < MAX_BOUNCES => {
            let job = usize::from(*index) / 2;
            debug_assert!(job < MAX_JOBS, "two bounce buffers for each job");
            moving(job)
        }
        _ => None,
    }
}

impl Gate {
    /// Of a device that carries nothing of this volume yet.
    pub(crate) fn idle() -> Self {
        Self {
            phase: Phase::Idle,
            since: 0,
            rest: REST_NS,
            held: VecDeque::new(),
            begun: Vec::new(),
            holds: Vec::new(),
            closed: Vec::new(),
        }
    }

    /// The device is asked to carry the durable table for the first time.
    pub(crate) fn start(&mut self) {
        self.phase = Phase::Resuming;
    }

    /// May an operation on this block run now? If it may, its job has begun.
    pub(crate) fn admit(&mut self, block: Block, now: u64) -> bool {
        if self.begun.contains(&block) {
            return true;
        }
        let held_open = self.is_held(block);
        let open = self.takes_in(now);
        if open || held_open {
            self.begun.push(block);
        }
        open || held_open
    }

    /// Keeps an operation that may not run yet.
    pub(crate) fn keep(&mut self, op: Op) {
        self.held.push_back(op);
    }

    /// Somebody wants to work on some blocks; `granted` is told when he may, or dropped if it cannot be.
    pub(crate) fn hold(&mut self, id: u64, blocks: Vec<Block>, granted: Sender<()>, now: u64) {
        let mut hold = Hold { id, blocks, granted: Some(granted) };
        if self.takes_in(now) {
            hold.grant();
        }
        self.holds.push(hold);
    }

    /// That work is over.
    pub(crate) fn release(&mut self, id: u64) {
        self.holds.retain(|hold| hold.id != id);
    }

    /// May work that comes now join the suspension?
    fn takes_in(&self, now: u64) -> bool {
        self.phase == Phase::Suspended && now.saturating_sub(self.since) < BATCH_NS
    }

    fn waits(&self) -> bool {
        !self.held.is_empty() || self.holds.iter().any(|hold| hold.granted.is_some())
    }

    /// What has to be done now, given the blocks that jobs work on.
    pub(crate) fn next(&mut self, now: u64, moving: &[Block]) -> Option<Act> {
        self.begun.retain(|block| moving.contains(block));
        match self.phase {
            Phase::Carrying => {
                // A closed block whose work is over can be opened again.
                let over = self.closed.iter().any(|block| !self.is_worked_on(*block));
                if !(self.waits() || over) || now < self.since.saturating_add(self.rest) {
                    return None;
                }
                self.phase = Phase::Suspending;
                Some(Act::Suspend)
            }
            Phase::Suspended => {
                let worked_on = self.worked_on();
                let long = now.saturating_sub(self.since) >= SUSPENDED_MAX_NS;
                if !long && !worked_on.is_empty() {
                    return None;
                }
                self.phase = Phase::Resuming;
                self.closed.clone_from(&worked_on);
                Some(Act::Carry(worked_on))
            }
            Phase::Idle | Phase::Suspending | Phase::Resuming => None,
        }
    }

    fn is_worked_on(&self, block: Block) -> bool {
        self.begun.contains(&block) || self.is_held(block)
    }

    fn granted(&self) -> impl Iterator<Item = &Hold> {
        self.holds.iter().filter(|hold| hold.granted.is_none())
    }

    fn is_held(&self, block: Block) -> bool {
        self.granted().any(|hold| hold.blocks.contains(&block))
    }

    fn worked_on(&self) -> Vec<Block> {
        let held = self.granted().flat_map(|hold| &hold.blocks);
        let mut blocks: Vec<Block> = self.begun.iter().chain(held).copied().collect();
        blocks.sort_unstable();
        blocks.dedup();
        blocks
    }

    /// When [`Self::next`] may have something that it has not now.
    pub(crate) fn timeout(&self) -> Option<u64> {
        match self.phase {
            Phase::Carrying => {
                let over = self.closed.iter().any(|block| !self.is_worked_on(*block));
                (self.waits() || over).then(|| self.since.saturating_add(self.rest))
            }
            Phase::Suspended => Some(self.since.saturating_add(SUSPENDED_MAX_NS)),
            Phase::Idle | Phase::Suspending | Phase::Resuming => None,
        }
    }

    /// The device is suspended: gives the operations that were kept, to be asked about again.
    pub(crate) fn suspended(&mut self, now: u64) -> VecDeque<Op> {
        self.phase = Phase::Suspended;
        self.since = now;
        self.holds.iter_mut().for_each(Hold::grant);
        std::mem::take(&mut self.held)
    }

    /// The device could not be suspended: gives the operations that cannot be.
    pub(crate) fn not_suspended(&mut self, now: u64) -> VecDeque<Op> {
        self.phase = Phase::Carrying;
        self.since = now;
        self.rest = REST_NS;
        self.holds.retain(|hold| hold.granted.is_none());
        std::mem::take(&mut self.held)
    }

    /// The device carries the table that [`Act::Carry`] asked for.
    pub(crate) fn carries(&mut self, now: u64) {
        self.rest = now.saturating_sub(self.since).max(REST_NS);
        self.phase = Phase::Carrying;
        self.since = now;
    }

    /// The device could not be made to carry anything.
    pub(crate) fn gives_up(&mut self) {
        self.phase = Phase::Idle;
    }

    /// Is nothing to be waited for?
    pub(crate) fn is_settled(&self) -> bool {
        match self.phase {
            Phase::Idle => true,
            Phase::Carrying => self.held.is_empty(),
            Phase::Suspending | Phase::Suspended | Phase::Resuming => false,
        }
    }

    /// Could a request of a client be waiting for us?
    pub(crate) fn stands_still(&self) -> bool {
        matches!(self.phase, Phase::Suspended | Phase::Resuming | Phase::Suspending)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use remap_core::op::{DeviceId, OpId, RequestId};
    use remap_core::units::{Extent, Sector};

    use super::*;

    const MS: u64 = 1_000_000;

    fn grace(block: u64) -> Op {
        let extent = Extent::new(Sector(block * 8), 8).unwrap();
        Op { id: OpId(block), device: DeviceId::Main, extent, kind: OpKind::Grace }
    }

    /// A device that carries, long rested.
    fn carrying() -> Gate {
        let mut gate = Gate::idle();
        assert!(gate.is_settled(), "nothing was begun");
        gate.start();
        assert!(!gate.is_settled() && !gate.admit(Block(1), 0));
        gate.carries(0);
        gate
    }

    fn suspended_with(gate: &mut Gate, blocks: &[u64], now: u64) -> Vec<Block> {
        for &block in blocks {
            assert!(!gate.admit(Block(block), now), "the device carries");
            gate.keep(grace(block));
        }
        let moving: Vec<Block> = blocks.iter().map(|&block| Block(block)).collect();
        assert_eq!(gate.next(now, &moving), Some(Act::Suspend));
        for op in gate.suspended(now) {
            assert!(gate.admit(Block(op.extent.start().0 / 8), now));
        }
        moving
    }

    #[test]
    fn what_a_job_does_with_clients_data_is_gated_and_nothing_else() {
        let gated = |kind| gated_block(&Op { kind, ..grace(3) }, |job| Some(Block(100 + job as u64)), 8);
        let bounce = |index: usize| Buffer::Bounce { index: index as u16, offset: 0 };
        let of_a_client = Buffer::Request { id: RequestId(1), offset: 0 };
        assert_eq!(gated(OpKind::Grace), Some(Block(3)));
        for index in [10, 11] {
            assert_eq!(gated(OpKind::Read(bounce(index))), Some(Block(105)));
            assert_eq!(gated(OpKind::Write { from: bounce(index), fua: false }), Some(Block(105)));
        }
        let last = Some(Block(100 + MAX_JOBS as u64 - 1));
        assert_eq!(gated(OpKind::Read(bounce(2 * MAX_JOBS - 1))), last);
        // The buffer of probes has no block, and belongs to no job.
        assert_eq!(gated(OpKind::Read(bounce(MAX_BOUNCES - 1))), None);
        assert_eq!(gated(OpKind::Read(of_a_client.clone())), None);
        assert_eq!(gated(OpKind::Write { from: of_a_client, fua: true }), None);
        assert_eq!(gated(OpKind::Flush), None);
    }

    #[test]
    fn nothing_runs_while_the_device_carries_and_jobs_share_a_suspension() {
        let mut gate = carrying();
        assert_eq!(gate.next(10 * MS, &[]), None);
        let moving = suspended_with(&mut gate, &[3, 4], 10 * MS);
        assert_eq!(gate.next(20 * MS, &moving), None, "jobs are under way");
        assert!(gate.admit(Block(9), 60 * MS - 1), "one more joins");
        assert!(!gate.admit(Block(10), 60 * MS), "and this one does not");
        let more = [Block(3), Block(4), Block(9)];
        assert_eq!(gate.next(30 * MS, &more), None);
        assert!(!gate.admit(Block(10), 61 * MS), "too late for this one");
        gate.keep(grace(10));
        assert!(gate.admit(Block(3), 62 * MS), "what has begun goes on");
        assert_eq!(gate.next(63 * MS, &[Block(9), Block(10)]), None);
        assert_eq!(gate.next(64 * MS, &[Block(10)]), Some(Act::Carry(vec![])));
        gate.carries(65 * MS);
        assert_eq!(gate.next(66 * MS, &[Block(10)]), None, "clients have their time, too");
        assert_eq!(gate.timeout(), Some((65 + 55) * MS));
        assert_eq!(gate.next(120 * MS, &[Block(10)]), Some(Act::Suspend));
    }

    #[test]
    fn work_that_takes_too_long_becomes_errors_and_is_opened_when_it_has_ended() {
        let mut gate = carrying();
        let start = 10 * MS;
        let moving = suspended_with(&mut gate, &[3, 4], start);
        assert_eq!(gate.timeout(), Some(start + SUSPENDED_MAX_NS));
        assert_eq!(gate.next(start + SUSPENDED_MAX_NS - 1, &moving), None);
        let late = start + SUSPENDED_MAX_NS;
        assert_eq!(gate.next(late, &[Block(4)]), Some(Act::Carry(vec![Block(4)])), "block 3 has ended");
        assert!(gate.admit(Block(4), late), "it is an error, or nothing is carried");
        gate.carries(late);
        assert!(gate.admit(Block(4), late), "no client can reach it");
        assert!(!gate.admit(Block(3), late), "but others");
        let rested = late + SUSPENDED_MAX_NS;
        assert_eq!(gate.next(rested, &[Block(4)]), None, "it still works");
        assert_eq!(gate.timeout(), None);
        assert_eq!(gate.next(rested - 1, &[]), None, "it has ended, and clients have their time");
        assert_eq!(gate.timeout(), Some(rested));
        assert_eq!(gate.next(rested, &[]), Some(Act::Suspend));
        assert!(gate.suspended(rested).is_empty());
        assert_eq!(gate.next(rested, &[]), Some(Act::Carry(vec![])));
        gate.carries(rested);
        assert!(gate.is_settled());
        assert_eq!(gate.next(rested + SUSPENDED_MAX_NS, &[]), None);
    }

    #[test]
    fn a_device_that_cannot_be_suspended_gives_the_work_back() {
        let mut gate = carrying();
        gate.keep(grace(3));
        let (granted, told) = mpsc::channel();
        gate.hold(1, vec![Block(7)], granted, 5 * MS);
        assert_eq!(gate.next(10 * MS, &[Block(3)]), Some(Act::Suspend));
        assert_eq!(gate.next(11 * MS, &[Block(3)]), None, "one call at a time");
        assert_eq!(gate.not_suspended(12 * MS).len(), 1);
        assert!(told.recv().is_err(), "the hold was refused");
        assert!(gate.is_settled());
        assert_eq!(gate.next(12 * MS, &[]), None);
    }

    #[test]
    fn a_hold_keeps_the_device_still_and_lets_its_block_be_worked_on() {
        let mut gate = carrying();
        let (granted, told) = mpsc::channel();
        gate.hold(1, vec![Block(7)], granted, 5 * MS);
        assert!(!gate.admit(Block(7), 10 * MS), "nobody was told that it may");
        assert_eq!(gate.next(10 * MS, &[]), Some(Act::Suspend));
        assert!(told.try_recv().is_err() && !gate.admit(Block(7), 11 * MS));
        gate.suspended(20 * MS);
        assert!(told.try_recv().is_ok());
        assert_eq!(gate.next(21 * MS, &[]), None);
        assert!(gate.admit(Block(7), 90 * MS), "however late it begins");
        assert_eq!(gate.next(91 * MS, &[Block(7)]), None);
        gate.release(1);
        assert_eq!(gate.next(92 * MS, &[Block(7)]), None, "the job has not ended");
        assert_eq!(gate.next(93 * MS, &[]), Some(Act::Carry(vec![])));
    }

    #[test]
    fn a_second_job_on_a_block_waits_for_the_next_suspension() {
        let mut gate = carrying();
        suspended_with(&mut gate, &[3], 10 * MS);
        assert_eq!(gate.next(70 * MS, &[]), Some(Act::Carry(vec![])));
        assert!(!gate.admit(Block(3), 70 * MS), "its table is on the way");
        gate.carries(71 * MS);
        assert!(!gate.admit(Block(3), 71 * MS));
    }

    #[test]
    fn nothing_begins_in_the_calls_that_stop_and_resume_the_device() {
        let mut gate = carrying();
        assert!(!gate.stands_still() && gate.is_settled());
        gate.keep(grace(3));
        assert!(!gate.is_settled(), "somebody waits");
        assert_eq!(gate.next(10 * MS, &[Block(3)]), Some(Act::Suspend));
        assert!(!gate.admit(Block(3), 11 * MS), "requests are in flight");
        assert!(gate.stands_still() && !gate.is_settled());
        assert_eq!(gate.suspended(12 * MS).len(), 1);
        assert!(gate.admit(Block(3), 12 * MS));
        assert!(gate.stands_still() && !gate.is_settled());
        assert_eq!(gate.next(13 * MS, &[]), Some(Act::Carry(vec![])));
        assert!(!gate.admit(Block(4), 13 * MS), "the table has it where it was");
        assert!(gate.stands_still() && !gate.is_settled());
        gate.carries(14 * MS);
        assert!(!gate.stands_still() && gate.is_settled());
        gate.keep(grace(4));
        assert_eq!(gate.timeout(), Some(19 * MS), "the least time between two");
    }

    #[test]
    fn a_device_that_carries_nothing_waits_for_nobody() {
        let mut gate = Gate::idle();
        gate.start();
        gate.keep(grace(3));
        gate.gives_up();
        assert!(gate.is_settled() && !gate.stands_still() && !gate.admit(Block(3), MS));
        assert_eq!((gate.next(SUSPENDED_MAX_NS, &[Block(3)]), gate.timeout()), (None, None));
    }

    #[test]
    fn work_that_comes_too_late_looks_again_when_there_is_something_to_do() {
        let mut gate = carrying();
        let moving = suspended_with(&mut gate, &[3], 10 * MS);
        assert!(!gate.admit(Block(4), 60 * MS));
        gate.keep(grace(4));
        assert_eq!(gate.next(61 * MS, &moving), None);
        assert_eq!(gate.timeout(), Some(10 * MS + SUSPENDED_MAX_NS), "a job's end comes by itself");
    }

    #[test]
    fn holds_and_jobs_that_take_long_are_errors_together_and_end_one_by_one() {
        let mut gate = carrying();
        let (granted, told) = mpsc::channel();
        gate.hold(1, vec![Block(9), Block(7)], granted.clone(), 5 * MS);
        gate.hold(2, vec![Block(5)], granted, 5 * MS);
        suspended_with(&mut gate, &[7, 3], 10 * MS);
        assert_eq!(told.try_iter().count(), 2);
        let late = 10 * MS + SUSPENDED_MAX_NS;
        let moving = [Block(3), Block(7)];
        assert_eq!(gate.next(late - 1, &moving), None);
        let closed = [3, 5, 7, 9].map(Block).to_vec();
        assert_eq!(gate.next(late, &moving), Some(Act::Carry(closed)), "each once");
        gate.carries(late);
        let rested = late + SUSPENDED_MAX_NS;
        assert_eq!(gate.next(rested, &moving), None, "what was granted waits for nothing");
        gate.release(2);
        assert!(!gate.admit(Block(5), rested) && gate.admit(Block(9), rested));
        assert_eq!(gate.next(rested, &moving), Some(Act::Suspend));
        assert!(gate.not_suspended(rested).is_empty());
        assert!(gate.admit(Block(9), rested), "a hold that was granted stays");
        assert_eq!(gate.timeout(), Some(rested + REST_NS));
        assert_eq!(gate.next(rested + REST_NS - 1, &moving), None);
        assert_eq!(gate.next(rested + REST_NS, &moving), Some(Act::Suspend), "it is tried again");
    }

    #[test]
    fn a_hold_joins_a_device_that_stands_still() {
        let mut gate = carrying();
        let moving = suspended_with(&mut gate, &[3], 10 * MS);
        let (granted, told) = mpsc::channel();
        gate.hold(1, vec![Block(7)], granted, 60 * MS - 1);
        assert!(told.try_recv().is_ok(), "it need not wait for the next");
        assert!(gate.admit(Block(7), 60 * MS));
        let (granted, told) = mpsc::channel();
        gate.hold(2, vec![Block(8)], granted, 60 * MS);
        assert!(told.try_recv().is_err(), "too late for this one");
        assert_eq!(gate.next(61 * MS, &moving), None);
        gate.release(1);
        assert_eq!(gate.next(62 * MS, &[]), Some(Act::Carry(vec![])), "and nobody waits for it");
        gate.carries(62 * MS);
        assert_eq!(gate.next(114 * MS, &[]), Some(Act::Suspend));
        gate.suspended(114 * MS);
        assert!(told.try_recv().is_ok());
    }
}
