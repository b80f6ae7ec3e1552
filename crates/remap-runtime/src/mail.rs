//! Messages between the owner of a volume and its queues, and a queue's counters.
//!
//! Invariant: a queue's counters are written by its own thread only.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Sender;

use remap_core::engine::{Command, CommandOutcome, Engine};
use remap_core::op::{DeviceId, Fault, RequestKind};
use remap_core::units::{Block, Extent};
use remap_io::BufSlice;

use crate::front::FrontError;
use crate::grace::Presence;
use crate::mailbox::Mailbox;
use crate::pattern::Recent;
use crate::status::LaneCounters;

/// To the owner.
pub(crate) enum ToOwner {
    /// Part of a client's request that needs the slow lane.
    Submit { reply: Arc<QueueMail>, part: u64, kind: RequestKind, extent: Extent, buf: Option<BufSlice> },
    /// All fast-lane operations of a queue that overlapped a moving extent have ended.
    GraceDone { grace: u64 },
    /// A fast-lane operation failed with a fault that does not blame the medium.
    Report { device: DeviceId, fault: Fault },
    /// A command, and where its outcome goes.
    Command { command: Command, reply: Sender<CommandOutcome> },
    /// Something to be asked of the engine.
    Query(Box<dyn FnOnce(&Engine) + Send>),
    /// The mapped device is suspended, or could not be.
    Suspended(std::io::Result<()>),
    /// The mapped device carries the table that was asked for, or does not.
    Carries(std::io::Result<()>),
    /// Keep blocks from clients until they are released; tell when they cannot reach them.
    Hold { id: u64, blocks: Vec<Block>, granted: Sender<()> },
    /// The hold is over.
    Release { id: u64 },
    /// Finish what is under way and end.
    Stop,
}

/// To a queue.
#[derive(Debug)]
pub(crate) enum ToQueue {
    /// A slow part ended.
    Done { part: u64, result: Result<(), FrontError>, bad: Vec<Extent> },
    /// Say so once no fast-lane operation on the extent that began before now is left.
    Grace { grace: u64, extent: Extent },
    /// Spares joined or left: let go of those that are gone.
    SparesChanged,
}

/// A queue as the owner sees it.
#[derive(Debug)]
pub(crate) struct QueueMail {
    pub(crate) mail: Mailbox<ToQueue>,
    pub(crate) presence: Presence,
    pub(crate) counters: LaneAtomics,
    pub(crate) recent: Recent,
}

/// One thread's counters: only its queue adds, anybody reads.
#[derive(Debug, Default)]
pub(crate) struct LaneAtomics {
    values: [AtomicU64; Self::COUNT],
}

/// Names of the counters.
#[derive(Clone, Copy)]
pub(crate) enum Lane {
    Reads,
    Writes,
    Flushes,
    ReadBytes,
    WrittenBytes,
    Fast,
    Slow,
    Remapped,
    FailedReads,
    FailedWrites,
    ReadErrors,
    WriteErrors,
}

impl LaneAtomics {
    const COUNT: usize = 12;

    pub(crate) fn add(&self, lane: Lane, by: u64) {
        if let Some(value) = self.values.get(lane as usize) {
            // One writer: no read-modify-write cycle is needed.
            value.store(value.load(Ordering::Relaxed).wrapping_add(by), Ordering::Relaxed);
        }
    }

    pub(crate) fn add_to(&self, sum: &mut LaneCounters) {
        let [reads, writes, flushes, read_bytes, written_bytes, fast, slow, remapped, fr, fw, re, we] =
            std::array::from_fn(|i| self.values.get(i).map_or(0, |v| v.load(Ordering::Relaxed)));
        sum.reads += reads;
        sum.writes += writes;
        sum.flushes += flushes;
        sum.read_bytes += read_bytes;
        sum.written_bytes += written_bytes;
        sum.fast += fast;
        sum.slow += slow;
        sum.remapped += remapped;
        sum.failed_reads += fr;
        sum.failed_writes += fw;
        sum.read_errors += re;
        sum.write_errors += we;
    }
}
