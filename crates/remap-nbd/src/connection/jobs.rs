//! Requests that the queue is working on.
//!
//! Invariant: a token names one job from `insert` to `take`, and is used again only after that.

use std::time::Instant;

use remap_runtime::TraceKind;

use crate::reply::Asked;

/// What is done when a job's request to the queue completes.
#[derive(Debug)]
pub(super) enum Work {
    /// Send the buffer.
    Read {
        /// In one chunk.
        df: bool,
    },
    /// Report: a write or a flush.
    Once(TraceKind),
    /// Go on with the next part, then report.
    Ranged(Ranged),
}

impl Work {
    pub(super) fn kind(&self) -> TraceKind {
        match self {
            Self::Read { .. } => TraceKind::Read,
            Self::Once(kind) => *kind,
            Self::Ranged(_) => TraceKind::Range,
        }
    }
}

/// What a request without payload does to a range that may be longer than one request to the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    Trim,
    Zero { fua: bool, may_unmap: bool },
    Cache,
}

/// The rest of such a range.
#[derive(Debug)]
pub(super) struct Ranged {
    pub(super) effect: Effect,
    pub(super) next: u64,
    pub(super) end: u64,
    /// A flush is still to follow (a trim with FUA).
    pub(super) flush: bool,
}

/// A request of the client in the hands of the queue.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) asked: Asked,
    pub(super) work: Work,
    /// Bytes that it counts against the connection's limit.
    pub(super) cost: usize,
    /// When its header was understood, if that is traced.
    pub(super) begun: Option<Instant>,
}

/// Jobs by token.
#[derive(Debug, Default)]
pub(super) struct Jobs {
    slots: Vec<Option<Job>>,
    free: Vec<usize>,
}

impl Jobs {
    /// Keeps `job`; returns its token.
    pub(super) fn insert(&mut self, job: Job) -> u64 {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        self.slots[slot] = Some(job);
        slot as u64
    }

    /// The job of `token`, which is free again.
    pub(super) fn take(&mut self, token: u64) -> Option<Job> {
        let slot = usize::try_from(token).ok()?;
        let job = self.slots.get_mut(slot)?.take()?;
        self.free.push(slot);
        Some(job)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(cookie: u64) -> Job {
        Job {
            asked: Asked { cookie, offset: 0, read: false },
            work: Work::Once(TraceKind::Write),
            cost: 0,
            begun: None,
        }
    }

    #[test]
    fn tokens_are_reused_only_after_take() {
        let mut jobs = Jobs::default();
        let (a, b) = (jobs.insert(job(1)), jobs.insert(job(2)));
        assert_ne!(a, b);
        assert_eq!(jobs.take(a).unwrap().asked.cookie, 1);
        assert!(jobs.take(a).is_none());
        assert_eq!(jobs.insert(job(3)), a);
        assert_eq!(jobs.take(b).unwrap().asked.cookie, 2);
        assert!(jobs.take(99).is_none());
    }
}
