//! `metadata generations`: the tables of the past that the spares still prove.
//!
//! Invariant: what is listed can be compared with and asked to roll back to, as long as nobody serves the volume meanwhile.

use std::fmt::Write as _;

use remap_core::recovery::history::Generation;
use remap_format::Superblock;
use serde::Serialize;
use uuid::Uuid;

use crate::units::{format_count, format_time};

/// The list.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct List {
    schema_version: u32,
    name: String,
    uuid: String,
    /// Newest first.
    generations: Vec<Line>,
}

#[derive(Clone, Debug, Serialize)]
struct Line {
    generation: u64,
    current: bool,
    /// The checkpoint it builds upon.
    checkpoint: u64,
    /// Edits of the commit that made it; absent: it is a checkpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    edits: Option<u32>,
    /// Seconds since 1970.
    time: u64,
    runs: u64,
    remapped_blocks: u64,
    pending_blocks: u64,
    lost_sectors: u64,
    retired_slots: u64,
}

impl List {
    /// Of what the spares prove.
    pub(crate) fn of(superblock: &Superblock, generations: &[Generation]) -> Self {
        let line = |g: &Generation| Line {
            generation: g.generation,
            current: g.current,
            checkpoint: g.checkpoint,
            edits: g.edits,
            time: g.time,
            runs: g.counts.entries,
            remapped_blocks: g.counts.remapped_blocks,
            pending_blocks: g.counts.pending_blocks,
            lost_sectors: g.counts.lost_sectors,
            retired_slots: g.retired_slots,
        };
        Self {
            schema_version: 1,
            name: superblock.name.clone(),
            uuid: Uuid::from_bytes(superblock.volume).to_string(),
            generations: generations.iter().map(line).collect(),
        }
    }

    /// For people.
    pub(crate) fn text(&self) -> String {
        let mut out = String::new();
        let count = format_count(self.generations.len() as u64, "generation");
        let _ = writeln!(out, "volume '{}' ({}): {count} of the table can be had", self.name, self.uuid);
        let _ = writeln!(
            out,
            "{:>20}  {:<20}  {:<14} {:>9} {:>9} {:>9} {:>12} {:>8}",
            "generation", "made", "by", "runs", "remapped", "pending", "lost sectors", "retired"
        );
        for g in &self.generations {
            let by = match g.edits {
                None => "checkpoint".to_owned(),
                Some(edits) => format_count(u64::from(edits), "edit"),
            };
            let _ = writeln!(
                out,
                "{:>20}  {:<20}  {by:<14} {:>9} {:>9} {:>9} {:>12} {:>8}{}",
                g.generation,
                format_time(g.time),
                g.runs,
                g.remapped_blocks,
                g.pending_blocks,
                g.lost_sectors,
                g.retired_slots,
                if g.current { "  now" } else { "" }
            );
        }
        out
    }
}
