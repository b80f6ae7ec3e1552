//! Operations that were answered with a time-out while the kernel still works on them.
//!
//! Invariant: from the moment a changing operation is answered `Timeout` until the kernel is done with it, no operation
//! that overlaps its range is started on the device, on any queue of the process: a late write never meets newer bytes.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Zombies that one device may have; beyond it every operation is answered `Timeout` at once (C6: memory is bounded).
pub(crate) const ZOMBIES_MAX: usize = 256;

/// All zombies of one device.
#[derive(Debug, Default)]
pub(crate) struct Graveyard {
    /// Zombies of any kind; the only thing that a healthy device's operations look at.
    count: AtomicUsize,
    /// Byte ranges of those that may still change something, with their identity.
    changing: Mutex<Vec<(u64, Range<u64>)>>,
}

impl Graveyard {
    /// Must an operation on the range be refused?
    ///
    /// The relaxed load is enough: whoever submits because of a time-out has synchronised with the thread that counted it.
    pub(crate) fn blocks(&self, range: &Range<u64>) -> bool {
        match self.count.load(Ordering::Relaxed) {
            0 => false,
            count if count >= ZOMBIES_MAX => true,
            _ => self.ranges().iter().any(|(_, r)| r.start < range.end && range.start < r.end),
        }
    }

    /// Registers a zombie; it lives until the returned value is dropped.
    pub(crate) fn bury(self: &Arc<Self>, range: Range<u64>, changes: bool) -> Zombie {
        let id = changes.then(|| {
            let mut ranges = self.ranges();
            let id = ranges.iter().map(|(id, _)| id + 1).max().unwrap_or(0);
            ranges.push((id, range));
            id
        });
        self.count.fetch_add(1, Ordering::Release);
        Zombie { graveyard: Arc::clone(self), id }
    }

    fn ranges(&self) -> MutexGuard<'_, Vec<(u64, Range<u64>)>> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A registered zombie.
#[derive(Debug)]
pub(crate) struct Zombie {
    graveyard: Arc<Graveyard>,
    id: Option<u64>,
}

impl Drop for Zombie {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.graveyard.ranges().retain(|(other, _)| *other != id);
        }
        self.graveyard.count.fetch_sub(1, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_changing_zombies_block_and_only_their_range() {
        let graveyard = Arc::new(Graveyard::default());
        assert!(!graveyard.blocks(&(0..u64::MAX)));
        let read = graveyard.bury(0..4096, false);
        assert!(!graveyard.blocks(&(0..4096)));
        let write = graveyard.bury(4096..8192, true);
        let other = graveyard.bury(4096..6144, true);
        assert!(graveyard.blocks(&(8191..9000)));
        assert!(!graveyard.blocks(&(8192..9000)));
        assert!(!graveyard.blocks(&(0..4096)));
        drop(write);
        assert!(graveyard.blocks(&(4096..4097)));
        assert!(!graveyard.blocks(&(6144..8192)));
        drop((read, other));
        assert!(!graveyard.blocks(&(0..u64::MAX)));
        assert_eq!(graveyard.count.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_device_that_answers_nothing_is_cut_off() {
        let graveyard = Arc::new(Graveyard::default());
        let zombies: Vec<_> = (0..ZOMBIES_MAX).map(|_| graveyard.bury(0..1, false)).collect();
        assert!(graveyard.blocks(&(1 << 40..1 << 41)));
        drop(zombies);
        assert!(!graveyard.blocks(&(0..1)));
    }
}
