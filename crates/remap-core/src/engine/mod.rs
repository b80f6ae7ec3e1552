//! The slow lane of one volume: everything that changes its state.
//!
//! Invariant (the one sentence): every call applies one event and then restores the rest (starts what can start), so that
//! between calls nothing that could run is waiting for anything but an operation that is out or a time that was named.
//!
//! How to drive it: start from a [`Recovered`] volume; call `submit`, `command`, [`Engine::handle_completion`] and
//! [`Engine::handle_timeout`] in any order; after each, carry out what [`Engine::poll_op`] gives, in any order, and take the
//! events of [`Engine::poll_event`]; call `handle_timeout` when [`Engine::poll_timeout`] says. Same calls, same answers (C7).

mod batch;
mod breaker;
mod checkpoint;
mod command;
mod commit;
mod doubt;
mod events;
mod freeze;
mod job;
mod ops;
mod place;
mod request;
mod spares;
mod step;
mod superblocks;

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;

use remap_format::{COPIES, Entry, MAX_SPARES, Policy, Superblock};

pub use breaker::{BREAKER_BUDGET, BREAKER_COOL_DOWN_NS, BREAKER_WINDOW_NS};
pub use command::{Command, CommandId, CommandOutcome, MAX_COMMANDS};
pub use events::MAX_NOTICES;
pub use request::{MAX_FLUSHES, MAX_REQUESTS, SubmitError};

use crate::canary::{self, Canary, Planted};
use crate::memory::{self, NoMemory};
use crate::op::{DeviceId, Fault, Op, OpId, RequestId};
use crate::pool::{SlotCounts, SparePool};
use crate::recovery::Recovered;
use crate::table::{Table, TableCounts};
use crate::units::{Block, Extent, Now, Sector, Slot};
use crate::view::{MAX_MOVING, View};

/// Blocks that can be worked on at the same time; the driver keeps [`MAX_BOUNCES`] bounce buffers of one block each.
pub const MAX_JOBS: usize = MAX_MOVING;
/// Bounce buffers: for each job one for its salvage and one as scratch; one for the breaker's probe.
pub const MAX_BOUNCES: usize = 2 * MAX_JOBS + 1;
const PROBE_BOUNCE: u16 = 2 * MAX_JOBS as u16;
/// Blocks waiting to be examined; beyond, and when there is no memory for one more, a suspicion is dropped (the next read raises
/// it again).
pub const MAX_SUSPICIONS: usize = 1 << 16;
/// Of these, the ones that have memory from the start.
const RESERVED_SUSPICIONS: usize = 1 << 10;
/// Copies that must be in step for a commit to be acknowledged.
pub const MIN_COPIES: u32 = 2;
/// Pause before a commit that failed is tried again.
pub const COMMIT_RETRY_NS: u64 = 1_000_000_000;

/// Something the driver must know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A request ended. For a read that failed, `bad` lists the sectors without contents; the others are in the buffer. An
    /// empty list: there was no memory for it, and nothing in the buffer is to be believed.
    RequestDone {
        /// Which.
        id: RequestId,
        /// How.
        result: Result<(), RequestError>,
        /// Sectors that a read could not give, sorted. Short of memory it may name some between them as well.
        bad: Vec<Extent>,
    },
    /// A command ended.
    CommandDone {
        /// Which.
        id: CommandId,
        /// What it did.
        outcome: CommandOutcome,
    },
    /// Something happened that the log should say.
    Notice(Notice),
}

/// Why a request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestError {
    /// The bytes are not to be had, or cannot be stored now.
    Io(Fault),
    /// No slot is left for a block that went bad.
    NoSpace,
}

/// News for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// All copies are in step; the volume may be served.
    Live,
    /// Sectors of a block cannot be read.
    Pending {
        /// The block.
        block: Block,
        /// Its unreadable sectors.
        lost: u128,
    },
    /// A block moved to the spare.
    Remapped {
        /// The block.
        block: Block,
        /// Where it is now.
        to: Slot,
        /// Its lost sectors.
        lost: u128,
        /// Why it moved.
        cause: remap_format::Cause,
    },
    /// Lost sectors were overwritten, or read again; `lost` are left.
    Healed {
        /// The block.
        block: Block,
        /// What is still lost.
        lost: u128,
    },
    /// A block is back on the main device.
    Cleared {
        /// The block.
        block: Block,
    },
    /// A slot went bad.
    SlotRetired {
        /// The slot.
        slot: Slot,
    },
    /// A metadata copy could not be kept in step.
    CopyFailed {
        /// Which.
        copy: u8,
        /// Why.
        fault: Fault,
        /// Could it be marked as not to be believed?
        fenced: bool,
    },
    /// Remapping is suspended (C4).
    BreakerTripped {
        /// The device that behaved so.
        device: DeviceId,
        /// How.
        fault: Fault,
    },
    /// Remapping goes on.
    BreakerReset,
    /// No slot, or no room for an entry, is left.
    Exhausted,
    /// Metadata cannot be written; nothing that needs them can change.
    Frozen {
        /// Why.
        fault: Fault,
    },
    /// Metadata can be written again.
    Thawed,
    /// A spare joined the volume.
    SpareJoined {
        /// Its number.
        spare: u8,
    },
    /// A spare left the volume: nothing on it is needed any more.
    SpareLeft {
        /// Its number.
        spare: u8,
    },
    /// A superblock that is nobody's could not be erased: a spare that left could be taken for one of the volume's, if all that is newer were lost.
    NotErased {
        /// How it failed.
        fault: Fault,
    },
    /// All copies hold a fresh checkpoint.
    Checkpointed {
        /// Its generation.
        generation: u64,
        /// Copies in step.
        copies: u8,
    },
}

/// The state shown to people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VolumeState {
    /// Nothing was ever wrong.
    Healthy,
    /// In service, with entries in the table or copies out of step.
    Degraded,
    /// No room for another bad block.
    Exhausted,
    /// The table cannot change now (breaker or metadata trouble).
    Frozen,
}

impl VolumeState {
    /// The word used in status and JSON.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::Exhausted => "exhausted",
            Self::Frozen => "frozen",
        }
    }
}

/// Counters since the engine started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Requests handled by the slow lane.
    pub slow_requests: u64,
    /// Device reads that failed, by the slow lane's own operations.
    pub read_errors: u64,
    /// Device writes that failed, likewise.
    pub write_errors: u64,
    /// Blocks remapped because of an error.
    pub auto_remaps: u64,
    /// Blocks remapped by command.
    pub manual_remaps: u64,
    /// Blocks healed in place.
    pub heals: u64,
    /// Commits.
    pub commits: u64,
    /// Checkpoints.
    pub checkpoints: u64,
    /// Flushes issued for commits.
    pub commit_flushes: u64,
    /// Times the breaker tripped.
    pub breaker_trips: u64,
    /// Suspicions dropped because too many waited.
    pub dropped_suspicions: u64,
    /// Notices dropped because too many waited.
    pub dropped_notices: u64,
}

/// What an operator may choose when a volume is opened.
#[derive(Clone, Copy, Debug)]
pub struct EngineConfig {
    /// Overrides the volume's own policy.
    pub policy: Option<Policy>,
    /// Blocks blamed on errors that say nothing (bare EIO) per window before the breaker trips.
    pub breaker_budget: u32,
    /// Most blocks that may be remapped; `None`: as many as there are slots.
    pub max_remaps: Option<u64>,
    /// A way to break the contract on purpose; nothing, unless the simulator says so.
    pub planted: Planted,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self { policy: None, breaker_budget: BREAKER_BUDGET, max_remaps: None, planted: Planted::default() }
    }
}

/// The engine of one volume.
#[derive(Debug)]
pub struct Engine {
    volume: Superblock,
    policy: Policy,
    config: EngineConfig,
    table: Table,
    pool: SparePool,
    requests: Vec<Option<request::SlowRequest>>,
    jobs: Vec<Option<job::Job>>,
    ops: ops::OpTable,
    outgoing: VecDeque<Op>,
    events: events::Events,
    commit: commit::Commit,
    breaker: breaker::Breaker,
    main_flush: step::MainFlush,
    suspicions: VecDeque<job::Suspicion>,
    commands: Vec<command::Running>,
    counters: Counters,
    now: Now,
    last_good: Option<Sector>,
    /// Spares that left since the start (bit n: spare n): their numbers are not given again.
    left: u32,
    live: bool,
    exhausted_said: bool,
    /// A block was unlocked or a job ended: waiting requests are to be looked at again.
    wake: bool,
}

impl Engine {
    /// Starts the engine of a recovered volume. If copies were not in step, the first thing it does is to write them all
    /// anew; [`Engine::is_live`] says when that is durable and requests may be taken.
    ///
    /// It takes the memory for all that has a limit (about 1 MiB with blocks of 4 KiB); from then on `submit`, `command` and the
    /// completions need none but what their lists of bad sectors, the table and metadata on their way to the spares take, and
    /// where that is refused something fails or waits.
    ///
    /// # Errors
    /// [`NoMemory`]: nothing was begun; recover again.
    pub fn start(recovered: Recovered, config: EngineConfig, now: Now) -> Result<Self, NoMemory> {
        let policy = config.policy.unwrap_or(recovered.superblock.policy);
        let commit = commit::Commit::begin(&recovered)?;
        let mut volume = recovered.superblock;
        volume.policy = policy;
        // Spares may join.
        volume
            .spares
            .try_reserve_exact(MAX_SPARES.saturating_sub(volume.spares.len()))
            .map_err(|_| NoMemory)?;
        let ops_out = ops::most_out(u64::from(volume.block_sectors()));
        let mut jobs = memory::list(MAX_JOBS)?;
        (0..MAX_JOBS).for_each(|_| memory::push(&mut jobs, None));
        let mut engine = Self {
            volume,
            policy,
            config,
            table: recovered.table,
            pool: recovered.pool,
            requests: memory::list(MAX_REQUESTS)?,
            jobs,
            ops: ops::OpTable::with_room(ops_out)?,
            outgoing: memory::queue(ops_out)?,
            events: events::Events::with_room()?,
            commit,
            breaker: breaker::Breaker::default(),
            main_flush: step::MainFlush::default(),
            suspicions: memory::queue(RESERVED_SUSPICIONS)?,
            commands: memory::list(MAX_COMMANDS)?,
            counters: Counters::default(),
            now,
            last_good: None,
            left: 0,
            live: !recovered.needs_repair,
            exhausted_said: false,
            wake: false,
        };
        if engine.live {
            engine.notice(Notice::Live);
        }
        engine.advance();
        Ok(engine)
    }

    /// An operation ended. Every operation that `poll_op` gave is completed exactly once.
    pub fn handle_completion(&mut self, now: Now, op: OpId, outcome: Result<(), Fault>) {
        self.now = now;
        let purpose = self.ops.take(op).expect("the driver completes each operation once");
        let blamed = outcome == Err(Fault::Transport) && self.planted(Canary::TransportBlamed);
        let outcome = if blamed { Err(Fault::Medium) } else { outcome };
        match purpose {
            ops::Purpose::Piece { request } => self.piece_done(request, outcome),
            ops::Purpose::RequestFlush { request } => self.request_flush_done(request, outcome),
            ops::Purpose::Job { job, sectors } => self.job_op_done(job, sectors, outcome),
            ops::Purpose::MainFlush => self.main_flushed(outcome),
            ops::Purpose::Commit(part) => self.commit_op_done(part, outcome),
            ops::Purpose::CoolDownProbe => self.breaker_probe_done(outcome),
            ops::Purpose::JoinLabel { command } => self.label_written(command, outcome),
            ops::Purpose::Wipe { spare, next } => self.wiped(spare, next, outcome),
        }
        self.advance();
    }

    /// Time passed.
    pub fn handle_timeout(&mut self, now: Now) {
        self.now = now;
        self.advance();
    }

    /// When to call [`Self::handle_timeout`], in monotonic nanoseconds.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<u64> {
        [self.breaker.next_probe(), self.commit.retry_at()].into_iter().flatten().min()
    }

    /// The next operation to carry out.
    #[must_use]
    pub fn poll_op(&mut self) -> Option<Op> {
        if self.planted(Canary::OrderFromOutside) && canary::coin_from_outside() {
            return self.outgoing.pop_back();
        }
        self.outgoing.pop_front()
    }

    /// The next event.
    #[must_use]
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.take()
    }

    /// May requests be taken?
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.live
    }

    /// Is nothing under way: no request, job, command, commit or operation?
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.requests.iter().all(Option::is_none)
            && self.jobs.iter().all(Option::is_none)
            && self.commands.is_empty()
            && self.suspicions.is_empty()
            && self.commit.is_idle()
            && self.commit.strays.is_empty()
            && self.commit.relayout.is_none()
            && self.ops.is_empty()
    }

    /// The volume, its policy as in force; role, area and generation are those of the last checkpoint.
    #[must_use]
    pub fn volume(&self) -> &Superblock {
        &self.volume
    }

    /// The durable table.
    #[must_use]
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// What fast-lane readers use.
    #[must_use]
    pub fn view(&self) -> Arc<View> {
        Arc::clone(self.table.view())
    }

    /// Totals of the table.
    #[must_use]
    pub fn counts(&self) -> TableCounts {
        self.table.counts()
    }

    /// Slots of one spare or of all.
    #[must_use]
    pub fn slots(&self, spare: Option<u8>) -> SlotCounts {
        self.pool.counts(spare)
    }

    /// Slots that went bad.
    #[must_use]
    pub fn retired(&self) -> &[Entry] {
        self.pool.retired()
    }

    /// Counters since the start.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Generation of the durable table.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.commit.generation()
    }

    /// Copies in step, of [`COPIES`].
    #[must_use]
    pub fn copies_in_step(&self) -> [bool; COPIES as usize] {
        self.commit.in_step()
    }

    /// What is done with a bad block from now on; jobs that are under way go on with it.
    #[must_use]
    pub fn policy(&self) -> Policy {
        self.policy
    }

    /// Another policy than the one that the volume was opened with. It is not noted on the spares.
    pub fn set_policy(&mut self, policy: Policy) {
        self.policy = policy;
    }

    /// Most blocks that may be remapped from now on; what is remapped stays so.
    pub fn set_max_remaps(&mut self, most: Option<u64>) {
        self.config.max_remaps = most;
        self.advance();
    }

    /// Is remapping suspended, and since which fault?
    #[must_use]
    pub fn breaker(&self) -> Option<(DeviceId, Fault)> {
        self.breaker.open()
    }

    /// The state shown to people.
    #[must_use]
    pub fn state(&self) -> VolumeState {
        let all_in_step = self.copies_in_step().iter().all(|&c| c);
        if self.breaker.open().is_some() || self.commit.is_frozen() {
            VolumeState::Frozen
        } else if self.is_exhausted() {
            VolumeState::Exhausted
        } else if self.counts().entries > 0 || !all_in_step || !self.pool.retired().is_empty() {
            VolumeState::Degraded
        } else {
            VolumeState::Healthy
        }
    }

    /// The least run of sectors that can be read or written (the main device's logical block).
    #[must_use]
    pub fn unit_sectors(&self) -> u64 {
        u64::from(self.volume.main.logical_block / 512).max(1)
    }

    fn planted(&self, canary: Canary) -> bool {
        self.config.planted.has(canary)
    }

    fn notice(&mut self, notice: Notice) {
        self.counters.dropped_notices += u64::from(!self.events.notice(notice));
    }

    fn is_exhausted(&self) -> bool {
        let full = self.config.max_remaps.is_some_and(|max| self.counts().remapped_blocks >= max);
        full || self.pool.counts(None).free == 0 || self.metadata_entries() >= self.commit.shape.capacity()
    }

    /// Starts whatever can start. Ends because every step either waits for an operation or consumes what it worked on.
    fn advance(&mut self) {
        loop {
            self.wake = false;
            self.breaker_advance();
            self.commit_advance();
            self.wipe_advance();
            self.requests_advance();
            self.suspicions_advance();
            self.commands_advance();
            if !self.wake {
                break;
            }
        }
        if self.exhausted_said && !self.is_exhausted() {
            self.exhausted_said = false;
        }
    }
}
