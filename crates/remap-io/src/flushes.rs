//! Flushes of a device that failed, and who has heard of them.
//!
//! Invariant: a queue with an [`Audience`] answers a flush well only if those for whom it flushes had been told, when it began, of
//! every flush of the device that has failed, asked for by any queue of the process. A drive that fails a flush may have dropped what
//! others wrote, and its next flush succeeds: each of them hears of it. (A failure counts from the moment in which its own queue takes it from the
//! kernel; a flush that overtakes it there is answered before, and the next one tells.)

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use remap_core::op::Fault;

/// On whose behalf a queue flushes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// The owner of the volume.
    Owner,
    /// Clients: what one of their queues was told counts as told to those that open later.
    Clients,
}

/// Failed flushes of all devices of the process: numbers them.
static FAILURES: AtomicU64 = AtomicU64::new(0);

/// The number of the last flush that failed, on any device.
pub(crate) fn failures() -> u64 {
    FAILURES.load(Ordering::Acquire)
}

/// What is known of one device.
#[derive(Debug, Default)]
pub(crate) struct FailedFlushes {
    /// Number of the last one.
    last: AtomicU64,
    /// Number of the last one that the owner, and that some client, was told.
    told: [AtomicU64; 2],
    fault: Mutex<Option<Fault>>,
}

impl FailedFlushes {
    pub(crate) fn add(&self, fault: Fault) {
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = Some(fault);
        let number = FAILURES.fetch_add(1, Ordering::AcqRel) + 1;
        self.last.fetch_max(number, Ordering::AcqRel);
    }

    /// The last one that a queue need not hear of when it flushes the device for the first time, if it opened when there were
    /// `opened` failures: what came before that and was told.
    pub(crate) fn known_at(&self, audience: Audience, opened: u64) -> u64 {
        self.told[audience as usize].load(Ordering::Acquire).min(opened)
    }

    /// The failure that is owed to a flush that began when all up to number `heard` had been told.
    pub(crate) fn owed(&self, heard: u64) -> Option<Fault> {
        let last = self.last.load(Ordering::Acquire);
        (last > heard).then(|| *self.fault.lock().unwrap_or_else(PoisonError::into_inner)).flatten()
    }

    /// The audience was told of all up to this number.
    pub(crate) fn tell(&self, audience: Audience, number: u64) {
        self.told[audience as usize].fetch_max(number, Ordering::AcqRel);
    }

    /// A device is flushed no more: what nobody was told of its failures is owed to those who flush this one.
    pub(crate) fn take_over(&self, other: &Self) {
        if let Some(fault) = other.owed(0) {
            *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = Some(fault);
            self.last.fetch_max(other.last.load(Ordering::Acquire), Ordering::AcqRel);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_hears_until_told() {
        let flushes = FailedFlushes::default();
        let flush = |audience, opened| flushes.owed(flushes.known_at(audience, opened));
        let before = failures();
        assert_eq!(flush(Audience::Owner, before), None);
        flushes.add(Fault::Unknown);
        let after = failures();
        assert_eq!(flush(Audience::Owner, before), Some(Fault::Unknown));
        flushes.tell(Audience::Owner, after);
        assert_eq!(flush(Audience::Owner, after), None);
        assert_eq!(
            flush(Audience::Clients, after),
            Some(Fault::Unknown),
            "what the owner heard no client did"
        );
        flushes.tell(Audience::Clients, after);
        assert_eq!(flush(Audience::Clients, before), Some(Fault::Unknown), "it was open when it happened");
        assert_eq!(flush(Audience::Clients, after), None);
    }

    #[test]
    fn a_device_that_leaves_hands_its_failures_over() {
        let (leaves, stays) = (FailedFlushes::default(), FailedFlushes::default());
        stays.take_over(&leaves);
        assert_eq!(stays.owed(0), None);
        let before = failures();
        leaves.add(Fault::Medium);
        stays.take_over(&leaves);
        assert_eq!(stays.owed(before), Some(Fault::Medium));
        assert_eq!(stays.owed(failures()), None);
    }
}
