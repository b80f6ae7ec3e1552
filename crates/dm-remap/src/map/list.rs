//! `map list`.

use std::fmt::Write as _;
use std::process::ExitCode;

use remap_core::units::{SECTOR_SIZE, Slot};
use remap_format::{Entry, EntryState};
use serde::Serialize;

use crate::cli::MapListArgs;
use crate::control::Snapshot;
use crate::exit::Exit;
use crate::metadata::dump::{EntryPart, SlotPart};
use crate::units::{format_sectors, format_time};
use crate::wire;

/// Runs `map list`.
///
/// # Errors
/// The table is not to be had.
pub(super) fn run(args: &MapListArgs) -> anyhow::Result<ExitCode> {
    let snapshot = super::snapshot(&args.source)?;
    let text = if args.form.json { wire::pretty(&Listing::of(&snapshot))? } else { text(&snapshot) };
    super::deliver(None, text.as_bytes(), false)?;
    Ok(Exit::Done.into())
}

/// The JSON form.
#[derive(Debug, Serialize)]
pub(super) struct Listing {
    schema_version: u32,
    name: String,
    uuid: String,
    generation: u64,
    size: u64,
    block_size: u32,
    entries: Vec<EntryPart>,
    retired: Vec<RetiredRun>,
    /// Lost sectors: first, and how many.
    lost: Vec<SectorRun>,
}

#[derive(Debug, Serialize)]
struct RetiredRun {
    slot: SlotPart,
    count: u32,
}

#[derive(Debug, Serialize)]
struct SectorRun {
    sector: u64,
    count: u64,
}

impl Listing {
    /// Of a table.
    pub(super) fn of(snapshot: &Snapshot) -> Self {
        let head = &snapshot.head;
        let lost = lost(snapshot);
        Self {
            schema_version: 1,
            name: head.name.clone(),
            uuid: head.uuid.clone(),
            generation: head.generation,
            size: head.size,
            block_size: head.block_size,
            entries: snapshot.entries.iter().map(EntryPart::of).collect(),
            retired: snapshot
                .retired
                .iter()
                .map(|e| RetiredRun { slot: SlotPart::of(e.slot), count: e.count })
                .collect(),
            lost: lost.iter().map(|e| SectorRun { sector: e.start().0, count: e.sectors() }).collect(),
        }
    }
}

/// Lost sectors of a table.
pub(super) fn lost(snapshot: &Snapshot) -> Vec<remap_core::units::Extent> {
    let block_sectors = u64::from(snapshot.head.block_size) / SECTOR_SIZE;
    remap_runtime::lost_extents(
        snapshot.entries.iter().copied(),
        block_sectors,
        snapshot.head.size / SECTOR_SIZE,
    )
}

/// The form for people.
pub(super) fn text(snapshot: &Snapshot) -> String {
    let head = &snapshot.head;
    let block_sectors = u64::from(head.block_size) / SECTOR_SIZE;
    let mut out = String::new();
    let lost: u64 = lost(snapshot).iter().map(|e| e.sectors()).sum();
    let _ = writeln!(
        out,
        "volume '{}': {} in blocks of {} bytes, generation {}; {} runs, {} lost",
        head.name,
        format_sectors(head.size / SECTOR_SIZE),
        head.block_size,
        head.generation,
        snapshot.entries.len(),
        format_sectors(lost)
    );
    if snapshot.entries.is_empty() && snapshot.retired.is_empty() {
        out.push_str("every block is on the main device, none is in trouble\n");
        return out;
    }
    let _ = writeln!(
        out,
        "{:<24} {:>8}  {:<9} {:<18} {:<15} {:<12} {:>6}  since",
        "sectors", "blocks", "state", "on", "lost", "cause", "errors"
    );
    for entry in snapshot.entries.iter().chain(&snapshot.retired) {
        let retired = entry.state == EntryState::Retired;
        let (first, end) =
            (entry.block.saturating_mul(block_sectors), entry.end().saturating_mul(block_sectors));
        let sectors = if retired {
            "-".to_owned()
        } else {
            format!("{first}-{}", end.min(head.size / SECTOR_SIZE).saturating_sub(1))
        };
        let _ = writeln!(
            out,
            "{sectors:<24} {:>8}  {:<9} {:<18} {:<15} {:<12} {:>6}  {}",
            entry.count,
            state_word(entry),
            place_words(entry),
            lost_words(entry, block_sectors),
            entry.cause.word(),
            entry.errors,
            format_time(entry.time)
        );
    }
    out
}

fn state_word(entry: &Entry) -> &'static str {
    match entry.state {
        EntryState::Pending => "pending",
        EntryState::Remapped => "remapped",
        EntryState::Retired => "retired",
        EntryState::Absent => "absent",
    }
}

/// `main`, or `spare 0 slot 17`.
pub(crate) fn place_words(entry: &Entry) -> String {
    match entry.state {
        EntryState::Pending | EntryState::Absent => "main".to_owned(),
        EntryState::Remapped | EntryState::Retired => {
            let slot = Slot(entry.slot);
            format!("spare {} slot {}", slot.spare(), slot.index())
        }
    }
}

/// Lost sectors, counted within the block: `0-2,5`; `all`; `none`.
pub(crate) fn lost_words(entry: &Entry, block_sectors: u64) -> String {
    if entry.lost == 0 {
        return "none".to_owned();
    }
    if entry.lost == Entry::full_mask(u32::try_from(block_sectors).unwrap_or(128)) {
        return "all".to_owned();
    }
    let mut words: Vec<String> = Vec::new();
    let mut sector = 0;
    while sector < block_sectors.min(128) {
        if entry.lost >> sector & 1 == 0 {
            sector += 1;
            continue;
        }
        let first = sector;
        while sector < block_sectors.min(128) && entry.lost >> sector & 1 == 1 {
            sector += 1;
        }
        let last = sector - 1;
        words.push(if first == last { first.to_string() } else { format!("{first}-{last}") });
    }
    words.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::map::pieces::tests::entry;

    #[test]
    fn lost_sectors_are_counted_within_the_block() {
        let words = |mask| lost_words(&entry(0, 1, None, mask), 8);
        assert_eq!(words(0), "none");
        assert_eq!(words(0xff), "all");
        assert_eq!(words(0b1010_0111), "0-2,5,7");
        assert_eq!(lost_words(&entry(0, 1, None, u128::MAX), 128), "all");
    }
}
