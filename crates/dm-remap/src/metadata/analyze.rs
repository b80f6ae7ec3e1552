//! `metadata analyze`: how the table, the slots and the metadata are used.
//!
//! Invariant: everything is derived from what recovery believes; nothing is written, and no clock is asked.

mod slots;
mod text;

use std::collections::BTreeMap;

use remap_core::recovery::{Recovered, shape_of};
use remap_core::units::SECTOR_SIZE;
use remap_format::{COPIES, Cause, Entry, EntryState};
use remap_runtime::worst_regions;
use serde::Serialize;
use uuid::Uuid;

use crate::units::format_time;
use slots::SparePart;

/// Bad blocks no further apart than so many bytes are one cluster.
const CLUSTER_GAP: u64 = 1 << 20;
/// Clusters that are reported, at the most.
const CLUSTERS: usize = 32;

/// The analysis.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Analysis {
    schema_version: u32,
    name: String,
    uuid: String,
    generation: u64,
    block_size: u32,
    metadata: MetadataPart,
    runs: RunsPart,
    spares: Vec<SparePart>,
    causes: Vec<CausePart>,
    /// By the month (UTC) in which runs were made.
    months: Vec<MonthPart>,
    /// The regions of the main device with the most blocks in trouble, in order.
    hotspots: Vec<HotspotPart>,
    /// The largest clusters of bad blocks, largest first.
    clusters: Vec<ClusterPart>,
    /// How many clusters there are.
    clusters_total: u64,
}

#[derive(Clone, Debug, Serialize)]
struct MetadataPart {
    copies: u8,
    copies_in_step: u8,
    /// Entries that a checkpoint would have now, retired slots included.
    entries: u64,
    entries_max: u64,
    journal_pages_used: u32,
    journal_pages: u32,
    /// Commits since the last checkpoint.
    records: u64,
}

/// How the blocks in trouble fall into runs.
#[derive(Clone, Debug, Default, Serialize)]
struct RunsPart {
    remapped: Kind,
    pending: Kind,
    /// By length, in steps of powers of two.
    lengths: Vec<LengthPart>,
    /// Neighbouring blocks, both remapped, whose slots do not follow each other: what a sequential read must seek for.
    torn_neighbours: u64,
    /// Neighbouring blocks that are both remapped.
    neighbours: u64,
}

#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Kind {
    runs: u64,
    blocks: u64,
    longest: u64,
    lost_sectors: u64,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct LengthPart {
    from: u64,
    to: u64,
    runs: u64,
    blocks: u64,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct CausePart {
    cause: &'static str,
    runs: u64,
    blocks: u64,
    errors: u64,
}

#[derive(Clone, Debug, Serialize)]
struct MonthPart {
    month: String,
    runs: u64,
    blocks: u64,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct HotspotPart {
    sector: u64,
    sectors: u64,
    remapped_blocks: u64,
    pending_blocks: u64,
    lost_sectors: u64,
    errors: u64,
}

/// Bad blocks that lie near each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
struct ClusterPart {
    /// First sector, and sectors up to the last bad one.
    sector: u64,
    sectors: u64,
    /// Bad blocks in it, and runs.
    blocks: u64,
    runs: u64,
}

impl Analysis {
    /// Of what recovery believes.
    pub(crate) fn of(recovered: &Recovered) -> Self {
        let superblock = &recovered.superblock;
        let block_sectors = u64::from(superblock.block_sectors());
        let shape = shape_of(superblock);
        let entries = || recovered.table.iter();
        let retired = || recovered.pool.retired().iter().copied();
        let mut clusters = clusters(entries(), block_sectors);
        let clusters_total = clusters.len() as u64;
        clusters.sort_by_key(|c| (std::cmp::Reverse(c.blocks), c.sector));
        clusters.truncate(CLUSTERS);
        let hotspots = worst_regions(entries(), block_sectors, superblock.main.size / SECTOR_SIZE);
        let hotspot = |r: &remap_runtime::Region| HotspotPart {
            sector: r.extent.start().0,
            sectors: r.extent.sectors(),
            remapped_blocks: r.remapped_blocks,
            pending_blocks: r.pending_blocks,
            lost_sectors: r.lost_sectors,
            errors: r.errors,
        };
        Self {
            schema_version: 1,
            name: superblock.name.clone(),
            uuid: Uuid::from_bytes(superblock.volume).to_string(),
            generation: recovered.generation,
            block_size: superblock.block_size(),
            metadata: MetadataPart {
                copies: COPIES,
                copies_in_step: recovered.good_copies(),
                entries: recovered.table.counts().entries + recovered.pool.retired().len() as u64,
                entries_max: shape.capacity(),
                journal_pages_used: recovered.journal_position,
                journal_pages: shape.journal_pages,
                records: recovered.generation.wrapping_sub(superblock.generation),
            },
            runs: runs(entries()),
            spares: slots::spares(recovered),
            causes: causes(entries().chain(retired())),
            months: months(entries().chain(retired())),
            hotspots: hotspots.iter().map(hotspot).collect(),
            clusters,
            clusters_total,
        }
    }
}

fn runs(entries: impl Iterator<Item = Entry>) -> RunsPart {
    let mut part = RunsPart::default();
    let mut lengths: BTreeMap<u32, (u64, u64)> = BTreeMap::new();
    let mut last: Option<Entry> = None;
    for entry in entries {
        let count = u64::from(entry.count);
        let remapped = entry.state == EntryState::Remapped;
        let kind = if remapped { &mut part.remapped } else { &mut part.pending };
        kind.runs += 1;
        kind.blocks += count;
        kind.longest = kind.longest.max(count);
        kind.lost_sectors += count * u64::from(entry.lost.count_ones());
        let (runs, blocks) = lengths.entry(count.max(1).ilog2()).or_default();
        *runs += 1;
        *blocks += count;
        if remapped {
            part.neighbours += count - 1;
            if let Some(before) = last.filter(|l| l.state == entry.state && l.end() == entry.block) {
                part.neighbours += 1;
                part.torn_neighbours += u64::from(before.slot + u64::from(before.count) != entry.slot);
            }
        }
        last = Some(entry);
    }
    let length = |(power, (runs, blocks)): (u32, (u64, u64))| LengthPart {
        from: 1 << power,
        to: (1 << (power + 1)) - 1,
        runs,
        blocks,
    };
    part.lengths = lengths.into_iter().map(length).collect();
    part
}

fn causes(entries: impl Iterator<Item = Entry>) -> Vec<CausePart> {
    let mut parts = Cause::ALL.map(|cause| CausePart { cause: cause.word(), runs: 0, blocks: 0, errors: 0 });
    for entry in entries {
        if let Some(part) = parts.iter_mut().find(|part| part.cause == entry.cause.word()) {
            part.runs += 1;
            part.blocks += u64::from(entry.count);
            part.errors += u64::from(entry.errors);
        }
    }
    parts.into_iter().filter(|part| part.runs > 0).collect()
}

fn months(entries: impl Iterator<Item = Entry>) -> Vec<MonthPart> {
    let mut months: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for entry in entries {
        let month = format_time(entry.time).chars().take("2026-11".len()).collect();
        let (runs, blocks) = months.entry(month).or_default();
        *runs += 1;
        *blocks += u64::from(entry.count);
    }
    months.into_iter().map(|(month, (runs, blocks))| MonthPart { month, runs, blocks }).collect()
}

fn clusters(entries: impl Iterator<Item = Entry>, block_sectors: u64) -> Vec<ClusterPart> {
    let mut clusters: Vec<ClusterPart> = Vec::new();
    for entry in entries {
        let (first, end) = (entry.block * block_sectors, entry.end() * block_sectors);
        let near = |c: &&mut ClusterPart| first - (c.sector + c.sectors) <= CLUSTER_GAP / SECTOR_SIZE;
        if let Some(cluster) = clusters.last_mut().filter(near) {
            cluster.sectors = end - cluster.sector;
            cluster.blocks += u64::from(entry.count);
            cluster.runs += 1;
        } else {
            clusters.push(ClusterPart {
                sector: first,
                sectors: end - first,
                blocks: u64::from(entry.count),
                runs: 1,
            });
        }
    }
    clusters
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::map::pieces::tests::entry;
    use remap_core::units::Slot;

    #[test]
    fn neighbours_whose_slots_do_not_follow_are_torn() {
        let entries = [
            entry(10, 4, Some(Slot::new(0, 100)), 0),
            entry(14, 1, Some(Slot::new(0, 104)), 1),
            entry(15, 2, Some(Slot::new(0, 300)), 0),
            entry(17, 1, None, 1),
            entry(30, 1, Some(Slot::new(1, 302)), 0),
        ];
        let part = runs(entries.into_iter());
        assert_eq!((part.neighbours, part.torn_neighbours), (6, 1));
        assert_eq!((part.remapped.runs, part.remapped.blocks, part.remapped.longest), (4, 8, 4));
        assert_eq!((part.pending.runs, part.pending.lost_sectors), (1, 1));
        let lengths: Vec<_> = part.lengths.iter().map(|l| (l.from, l.to, l.runs, l.blocks)).collect();
        assert_eq!(lengths, [(1, 1, 3, 3), (2, 3, 1, 2), (4, 7, 1, 4)]);
    }

    #[test]
    fn clusters_end_where_a_mebibyte_is_good() {
        let gap = CLUSTER_GAP / 4096;
        let entries =
            [entry(100, 2, None, 1), entry(102 + gap, 1, None, 1), entry(104 + 2 * gap, 1, None, 1)];
        let found = clusters(entries.into_iter(), 8);
        let cluster = |block: u64, span: u64, blocks, runs| ClusterPart {
            sector: block * 8,
            sectors: span * 8,
            blocks,
            runs,
        };
        assert_eq!(found, [cluster(100, 3 + gap, 3, 2), cluster(104 + 2 * gap, 1, 1, 1)]);
    }

    #[test]
    fn months_and_causes_add_up() {
        let entries = [entry(1, 3, None, 1), entry(9, 1, None, 1)];
        let by_month = months(entries.into_iter());
        assert_eq!(by_month.iter().map(|m| m.blocks).sum::<u64>(), 4);
        assert!(by_month.iter().all(|m| m.month.len() == 7));
        assert_eq!(causes(entries.into_iter()).iter().map(|c| c.blocks).sum::<u64>(), 4);
    }
}
