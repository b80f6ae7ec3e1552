//! `metadata compare`: what changed between two moments of the table, stretch by stretch.

use std::fmt::Write as _;

use remap_core::recovery::Recovered;
use remap_core::recovery::rollback::{Difference, differences};
use remap_format::{Entry, EntryState, Superblock};
use serde::Serialize;
use uuid::Uuid;

use super::dump::EntryPart;
use crate::map::{lost_words, place_words};
use crate::units::{format_count, format_time};

/// What became of a stretch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Change {
    /// Sectors became unreadable, or were called so.
    Pending,
    /// Moved to the spare.
    Remapped,
    /// Moved to another slot.
    Moved,
    /// Moved back to the main device.
    Back,
    /// No sector is in trouble any more.
    Good,
    /// Where it was, with more lost sectors.
    LostMore,
    /// Where it was, with fewer lost sectors, or others.
    LostOthers,
    /// Only cause, time, errors or the stale mark.
    Noted,
}

impl Change {
    /// Of a difference.
    pub(crate) fn of(difference: &Difference) -> Self {
        let remapped = |e: &Entry| e.state == EntryState::Remapped;
        match (difference.from.as_ref(), difference.to.as_ref()) {
            (Some(a), Some(b)) if remapped(a) && remapped(b) && a.slot != b.slot => Self::Moved,
            (Some(a), to) if remapped(a) && !to.is_some_and(remapped) => Self::Back,
            (_, Some(b)) if remapped(b) && !difference.from.as_ref().is_some_and(remapped) => Self::Remapped,
            (Some(a), Some(b)) if a.lost == b.lost => Self::Noted,
            (Some(a), Some(b)) if a.lost & !b.lost == 0 => Self::LostMore,
            (Some(_), Some(_)) => Self::LostOthers,
            (None, _) => Self::Pending,
            (Some(_), None) => Self::Good,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Remapped => "remapped",
            Self::Moved => "moved",
            Self::Back => "back",
            Self::Good => "good",
            Self::LostMore => "lost-more",
            Self::LostOthers => "lost-others",
            Self::Noted => "noted",
        }
    }
}

/// A comparison.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Comparison {
    schema_version: u32,
    name: String,
    uuid: String,
    block_size: u32,
    from: Side,
    to: Side,
    changes: Vec<Line>,
    /// Slots that are retired in one of the two only.
    retired_since: u64,
    retired_no_more: u64,
}

#[derive(Clone, Debug, Serialize)]
struct Side {
    generation: u64,
    runs: u64,
    remapped_blocks: u64,
    pending_blocks: u64,
    lost_sectors: u64,
}

#[derive(Clone, Debug, Serialize)]
struct Line {
    block: u64,
    count: u64,
    change: Change,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<EntryPart>,
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<EntryPart>,
    #[serde(skip)]
    words: (String, String),
}

impl Comparison {
    /// Of two moments of one volume.
    pub(crate) fn of(from: &Recovered, to: &Recovered) -> Self {
        let superblock = &to.superblock;
        let side = |r: &Recovered| {
            let counts = r.table.counts();
            Side {
                generation: r.generation,
                runs: counts.entries,
                remapped_blocks: counts.remapped_blocks,
                pending_blocks: counts.pending_blocks,
                lost_sectors: counts.lost_sectors,
            }
        };
        let line = |d: Difference| Line {
            block: d.block,
            count: d.count,
            change: Change::of(&d),
            from: d.from.as_ref().map(EntryPart::of),
            to: d.to.as_ref().map(EntryPart::of),
            words: (entry_words(d.from.as_ref(), superblock), entry_words(d.to.as_ref(), superblock)),
        };
        let slots = |r: &Recovered| r.pool.retired().iter().map(|e| u64::from(e.count)).sum::<u64>();
        let (then, now) = (slots(from), slots(to));
        Self {
            schema_version: 1,
            name: superblock.name.clone(),
            uuid: Uuid::from_bytes(superblock.volume).to_string(),
            block_size: superblock.block_size(),
            from: side(from),
            to: side(to),
            changes: differences(&from.table, &to.table).map(line).collect(),
            retired_since: now.saturating_sub(then),
            retired_no_more: then.saturating_sub(now),
        }
    }

    /// For people.
    pub(crate) fn text(&self) -> String {
        let mut out = String::new();
        let _ = writeln!(out, "volume '{}' ({}), blocks of {} bytes", self.name, self.uuid, self.block_size);
        for (word, side) in [("from", &self.from), ("to", &self.to)] {
            let _ = writeln!(
                out,
                "{word:<5} generation {}: {}, {} remapped, {} pending, {} lost sectors",
                side.generation,
                format_count(side.runs, "run"),
                side.remapped_blocks,
                side.pending_blocks,
                side.lost_sectors
            );
        }
        if self.changes.is_empty() {
            out.push_str("the two tables say the same\n");
        } else {
            let per_block = u64::from(self.block_size) / 512;
            let _ = writeln!(out, "{:<24} {:>8}  {:<12} {:<44} to", "sectors", "blocks", "change", "from");
            for c in &self.changes {
                let sectors = format!("{}-{}", c.block * per_block, (c.block + c.count) * per_block - 1);
                let _ = writeln!(
                    out,
                    "{sectors:<24} {:>8}  {:<12} {:<44} {}",
                    c.count,
                    c.change.word(),
                    c.words.0,
                    c.words.1
                );
            }
        }
        for (count, what) in [(self.retired_since, "more"), (self.retired_no_more, "fewer")] {
            if count > 0 {
                let _ = writeln!(out, "{} retired {what}", format_count(count, "slot"));
            }
        }
        out
    }
}

/// `main`; `main, lost 0-2, since ...`; `spare 0 slot 17`.
pub(crate) fn entry_words(entry: Option<&Entry>, superblock: &Superblock) -> String {
    let Some(entry) = entry else { return "main".to_owned() };
    let mut words = place_words(entry);
    if entry.lost != 0 {
        let lost = lost_words(entry, u64::from(superblock.block_sectors()));
        let stale = if entry.flags.stale() { " (stale)" } else { "" };
        let _ = write!(words, ", lost {lost}{stale}");
    }
    let _ = write!(words, ", since {}", format_time(entry.time));
    words
}
