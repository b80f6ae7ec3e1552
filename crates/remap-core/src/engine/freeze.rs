//! Metadata that cannot be written: the volume freezes, tries again, and thaws.
//!
//! Invariant: while it is frozen no edit is applied and nobody waits for one; a record that may be on a disk is written again byte for
//! byte, or a checkpoint with a later generation makes it dead.

use super::commit::Phase;
use super::{COMMIT_RETRY_NS, Engine, Notice};
use crate::op::Fault;

/// Times that a record is tried before a checkpoint to all copies takes its place.
const RECORD_TRIES: u32 = 3;

impl Engine {
    /// Metadata cannot be written now. What is staged keeps its blocks; clients are told at once (C6).
    pub(super) fn freeze(&mut self) {
        let fault = self.commit.fault.unwrap_or(Fault::Unknown);
        let retry_at = self.now.mono_ns.saturating_add(COMMIT_RETRY_NS);
        if self.commit.frozen_until.replace(retry_at).is_none() {
            self.notice(Notice::Frozen { fault });
        }
        for jobs in [self.commit.batch.jobs.clone(), self.commit.staged.jobs.clone()] {
            for job in jobs {
                self.orphan_job(job);
            }
        }
        self.wake = true;
    }

    pub(super) fn thaw(&mut self) {
        self.commit.record_failures = 0;
        if self.commit.frozen_until.take().is_some() {
            self.notice(Notice::Thawed);
            self.wake = true;
        }
    }

    /// Tries the same thing again, byte for byte. When copies keep refusing a record, a checkpoint to all of them takes its place, and
    /// the journal starts over: with a later generation, so that the record is dead whatever became of it.
    pub(super) fn retry_frozen(&mut self) {
        match self.commit.phase {
            Phase::Checkpoint(_) => self.restart_checkpoint(),
            _ => {
                self.commit.record_failures += 1;
                if self.commit.record_failures > RECORD_TRIES {
                    self.begin_checkpoint();
                } else {
                    self.begin_record();
                }
            }
        }
    }
}
