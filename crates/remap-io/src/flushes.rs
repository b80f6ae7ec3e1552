//! Flushes of a device that failed, and who has heard of them.
//!
//! Invariant: a queue with an [`Audience`] answers a flush well only if no flush of the device, asked for by any queue of the
//! process, failed since the queue last said so. A drive that fails a flush may have dropped what others wrote, and its next
//! flush succeeds: each of them hears of it once. (A failure counts from the moment in which its own queue takes it from the
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

    /// The failure that a queue has yet to hear of that heard of all up to number `heard`; afterwards it has heard of all.
    pub(crate) fn owed(&self, audience: Audience, heard: &mut u64) -> Option<Fault> {
        let last = self.last.load(Ordering::Acquire);
        if core::mem::replace(heard, last) >= last {
            return None;
        }
        self.told[audience as usize].fetch_max(last, Ordering::AcqRel);
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_hears_once() {
        let flushes = FailedFlushes::default();
        let first_flush = |audience, opened| {
            let mut heard = flushes.known_at(audience, opened);
            (flushes.owed(audience, &mut heard), flushes.owed(audience, &mut heard))
        };
        let before = failures();
        assert_eq!(first_flush(Audience::Owner, before), (None, None));
        flushes.add(Fault::Unknown);
        let after = failures();
        let once = (Some(Fault::Unknown), None);
        assert_eq!(first_flush(Audience::Owner, before), once);
        assert_eq!(first_flush(Audience::Clients, after), once, "what the owner heard no client did");
        assert_eq!(first_flush(Audience::Clients, before), once, "it was open when it happened");
        assert_eq!(first_flush(Audience::Clients, after), (None, None));
    }
}
