//! Which operation is out for what.
//!
//! Invariant: an [`OpId`] is given once; its low 16 bits are its place here, the rest a sequence number. The places are reserved
//! when the engine starts: [`most_out`] says why they are enough.

use alloc::vec::Vec;

use remap_format::MAX_SPARES;

use super::spares::MAX_STRAYS;
use super::{MAX_FLUSHES, MAX_JOBS, MAX_REQUESTS};
use crate::memory::{self, NoMemory};
use crate::op::OpId;

/// Operations of a commit or checkpoint that are out at a time: chunks of pages for every copy, or flushes, or labels and
/// superblocks of all spares.
const COMMIT_OPS: usize = 64;

/// Operations that can be out at a time, for blocks of `block_sectors` sectors: a piece of each request, a flush of every
/// device for some of them, a job's operations (at most one for each sector of its block), the commit's, the shared flush of
/// the main device, the breaker's probe, a label, and superblocks that are being erased.
pub(super) fn most_out(block_sectors: u64) -> usize {
    let in_job = usize::try_from(block_sectors).unwrap_or(1).max(1);
    MAX_REQUESTS + MAX_FLUSHES * (MAX_SPARES + 1) + MAX_JOBS * in_job + COMMIT_OPS + MAX_STRAYS + 3
}

/// Why an operation is out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// The current piece of a request.
    Piece { request: usize },
    /// One device's part of a flush request.
    RequestFlush { request: usize },
    /// Part of a job's step; `sectors` of its block are meant.
    Job { job: usize, sectors: u128 },
    /// A flush of the main device that jobs share.
    MainFlush,
    /// Part of a commit or checkpoint.
    Commit(CommitPart),
    /// Is the device back?
    CoolDownProbe,
    /// The label of a spare that is to join.
    JoinLabel { command: usize },
    /// Erases a superblock that is nobody's.
    Wipe { spare: u8, next: Option<u64> },
}

/// What a commit operation is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CommitPart {
    /// Makes slot or main contents durable before the record is written.
    DataFlush,
    /// A copy's record or page.
    Copy(u8),
    /// A copy's superblock, and in which of its pages.
    Superblock(u8, u8),
    /// A copy's fence, and in which of its superblock pages.
    Fence(u8, u8),
    /// A label.
    Label,
    /// Makes a spare's copies durable.
    Flush(u8),
}

#[derive(Debug)]
pub(super) struct OpTable {
    places: Vec<Option<(OpId, Purpose)>>,
    sequence: u64,
    out: usize,
}

impl OpTable {
    const INDEX_BITS: u32 = 16;

    pub(super) fn with_room(room: usize) -> Result<Self, NoMemory> {
        Ok(Self { places: memory::list(room)?, sequence: 0, out: 0 })
    }

    pub(super) fn add(&mut self, purpose: Purpose) -> OpId {
        let free = self.places.iter().position(Option::is_none);
        let index = free.unwrap_or_else(|| {
            memory::push(&mut self.places, None);
            self.places.len() - 1
        });
        assert!(index < 1 << Self::INDEX_BITS, "requests, jobs and copies bound the operations that are out");
        self.sequence += 1;
        let id = OpId((self.sequence << Self::INDEX_BITS) | index as u64);
        if let Some(place) = self.places.get_mut(index) {
            *place = Some((id, purpose));
        }
        self.out += 1;
        id
    }

    pub(super) fn take(&mut self, id: OpId) -> Option<Purpose> {
        let index = (id.0 & ((1 << Self::INDEX_BITS) - 1)) as usize;
        let place = self.places.get_mut(index)?;
        let purpose = place.filter(|(known, _)| *known == id).map(|(_, purpose)| purpose)?;
        *place = None;
        self.out -= 1;
        Some(purpose)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.out == 0
    }
}
