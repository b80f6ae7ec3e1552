//! The slots of each spare: used, free, retired, and how they are spread.

use remap_core::recovery::Recovered;
use remap_core::units::Slot;
use remap_format::layout::kept_slots;
use remap_format::{Entry, EntryState};
use serde::Serialize;
use uuid::Uuid;

/// Stretches of equal length that a spare is cut into to show how its slots are spread.
const STRETCHES: u64 = 16;

/// A spare.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct SparePart {
    pub(super) spare: u8,
    pub(super) uuid: String,
    pub(super) size: u64,
    /// Slots under metadata.
    pub(super) metadata_slots: u64,
    pub(super) used_slots: u64,
    pub(super) free_slots: u64,
    pub(super) retired_slots: u64,
    /// Runs that the free slots fall into, and the longest.
    pub(super) free_runs: u64,
    pub(super) longest_free_run: u64,
    /// Slots used or retired in each sixteenth of the spare, in order.
    pub(super) spread: Vec<u64>,
    /// The same, retired ones only: where the spare itself wears out.
    pub(super) retired_spread: Vec<u64>,
}

/// A run of slots of one spare, half open.
type Run = (u64, u64);

/// Every spare of the volume.
pub(super) fn spares(recovered: &Recovered) -> Vec<SparePart> {
    let superblock = &recovered.superblock;
    let block_size = u64::from(superblock.block_size());
    let mut parts = Vec::new();
    for (spare, record) in superblock.present() {
        let runs = |entries: &mut dyn Iterator<Item = Entry>| {
            let here = entries.filter(|e| Slot(e.slot).spare() == spare);
            here.map(|e| (Slot(e.slot).index(), Slot(e.slot).index() + u64::from(e.count)))
                .collect::<Vec<Run>>()
        };
        let used = runs(&mut recovered.table.iter().filter(|e| e.state == EntryState::Remapped));
        let retired = runs(&mut recovered.pool.retired().iter().copied());
        let kept = kept_slots(record, block_size);
        let metadata: Vec<Run> = kept.iter().map(|&(first, end)| (first, end.min(record.slots))).collect();
        let free = gaps([&used[..], &retired, &metadata].concat(), record.slots);
        let taken: Vec<Run> = [&used[..], &retired].concat();
        parts.push(SparePart {
            spare,
            uuid: Uuid::from_bytes(record.uuid).to_string(),
            size: record.size,
            metadata_slots: total(&metadata),
            used_slots: total(&used),
            free_slots: total(&free),
            retired_slots: total(&retired),
            free_runs: free.len() as u64,
            longest_free_run: free.iter().map(|(first, end)| end - first).max().unwrap_or(0),
            spread: spread(&taken, record.slots),
            retired_spread: spread(&retired, record.slots),
        });
    }
    parts
}

fn total(runs: &[Run]) -> u64 {
    runs.iter().map(|(first, end)| end.saturating_sub(*first)).sum()
}

/// What `taken` leaves of `slots` slots.
fn gaps(mut taken: Vec<Run>, slots: u64) -> Vec<Run> {
    taken.sort_unstable();
    let mut gaps = Vec::new();
    let mut reached = 0;
    for (first, end) in taken {
        if first > reached {
            gaps.push((reached, first));
        }
        reached = reached.max(end);
    }
    if reached < slots {
        gaps.push((reached, slots));
    }
    gaps
}

/// Slots of `runs` in each stretch.
fn spread(runs: &[Run], slots: u64) -> Vec<u64> {
    let step = slots.div_ceil(STRETCHES).max(1);
    let mut counts = vec![0; usize::try_from(STRETCHES).unwrap_or(0)];
    for &(first, end) in runs {
        let mut at = first;
        while at < end {
            let stretch = at / step;
            let until = ((stretch + 1) * step).min(end);
            if let Some(count) = usize::try_from(stretch).ok().and_then(|s| counts.get_mut(s)) {
                *count += until - at;
            }
            at = until;
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_runs_are_what_is_left() {
        assert_eq!(gaps(vec![(5, 7), (0, 2), (7, 8)], 10), [(2, 5), (8, 10)]);
        assert_eq!(gaps(vec![], 3), [(0, 3)]);
        assert_eq!(gaps(vec![(0, 3)], 3), []);
    }

    #[test]
    fn a_run_is_spread_over_the_stretches_that_it_crosses() {
        let found = spread(&[(9, 31), (159, 160)], 160);
        assert_eq!(found.iter().sum::<u64>(), 23);
        assert_eq!((found[0], found[1], found[2], found[3], found[15]), (1, 10, 10, 1, 1));
    }
}
