//! The answers to messages.
//!
//! Invariant: an answer that begins with `error:` or says that something failed is to something that was not done.

use core::fmt::{self, Display, Formatter, Write};

use remap_core::engine::{CommandOutcome, RequestError};
use remap_core::op::{DeviceId, Fault};
use remap_core::units::{Block, Sector, Slot};
use remap_format::{Entry, EntryState};

use crate::figures::{Asked, Figures};

/// The word for a fault.
#[must_use]
pub fn fault_word(fault: Fault) -> &'static str {
    match fault {
        Fault::Medium => "medium error",
        Fault::Protection => "protection error",
        Fault::Transport => "transport error",
        Fault::Timeout => "no answer in time",
        Fault::Gone => "device gone",
        Fault::NoSpace => "no space",
        Fault::Unsupported => "not supported",
        Fault::NoMemory => "out of memory",
        Fault::Unknown => "unspecified I/O error",
    }
}

/// `main`, or `spareN`.
#[derive(Clone, Copy, Debug)]
pub struct DeviceWord(pub DeviceId);

impl Display for DeviceWord {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.0 {
            DeviceId::Main => f.write_str("main"),
            DeviceId::Spare(n) => write!(f, "spare{n}"),
        }
    }
}

/// Why a command did not do everything.
#[must_use]
pub fn why(error: Option<RequestError>) -> &'static str {
    match error {
        Some(RequestError::NoSpace) => "no spare sectors available",
        Some(RequestError::Io(fault)) => fault_word(fault),
        None => "not done",
    }
}

/// A number of things: `1 block`, `2 blocks`.
#[derive(Clone, Copy, Debug)]
pub struct Count(pub u64, pub &'static str);

impl Display for Count {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}{}", self.0, self.1, if self.0 == 1 { "" } else { "s" })
    }
}

/// Where a sector of a spare is: `4711`, or `4711 of spare1` where there are several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpareSector {
    /// Sector of the spare, counted from the start of its slice.
    pub sector: u64,
    /// The spare's number.
    pub spare: u8,
    /// Has the volume several?
    pub several: bool,
}

impl SpareSector {
    /// Of a sector of the volume, as its entry places it; `None`: it is on the main device.
    #[must_use]
    pub fn of(entry: &Entry, sector: Sector, block_sectors: u64, several: bool) -> Option<Self> {
        let block = Block(sector.0.checked_div(block_sectors)?);
        let here = (entry.block..entry.end()).contains(&block.0) && entry.state == EntryState::Remapped;
        let slot = Slot(entry.slot);
        let index = slot.index().checked_add(block.0.checked_sub(entry.block)?)?;
        let sector = index.checked_mul(block_sectors)?.checked_add(sector.0.checked_rem(block_sectors)?)?;
        here.then_some(Self { sector, spare: slot.spare(), several })
    }
}

impl Display for SpareSector {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.sector)?;
        if self.several { write!(f, " of spare{}", self.spare) } else { Ok(()) }
    }
}

/// To `remap` of a single sector.
///
/// # Errors
/// `out` took no more; so with all of these.
pub fn remapped_one(
    out: &mut dyn Write,
    sector: Sector,
    outcome: &CommandOutcome,
    place: Option<SpareSector>,
) -> fmt::Result {
    match (place, outcome.error) {
        _ if outcome.already > 0 => write!(out, "error: sector {} already remapped", sector.0),
        (Some(place), None) => write!(out, "remapped sector {} -> spare sector {place}", sector.0),
        (_, Some(RequestError::NoSpace)) => out.write_str("error: no spare sectors available"),
        (_, error) => write!(out, "error: sector {} could not be remapped: {}", sector.0, why(error)),
    }
}

/// To `test_remap`.
///
/// # Errors
/// See [`remapped_one`].
pub fn test_remapped(
    out: &mut dyn Write,
    sector: Sector,
    outcome: &CommandOutcome,
    place: Option<SpareSector>,
) -> fmt::Result {
    match place.filter(|_| outcome.error.is_none() && outcome.already == 0) {
        Some(place) => write!(
            out,
            "Created test remap: bad_sector={} spare_sector={place} (dm-remap chooses the spare sector itself)",
            sector.0
        ),
        None => remapped_one(out, sector, outcome, place),
    }
}

/// To `remap` of several sectors. `lost` says how many are lost.
///
/// # Errors
/// See [`remapped_one`].
pub fn remapped(out: &mut dyn Write, outcome: &CommandOutcome, lost: &dyn Display) -> fmt::Result {
    let error = if outcome.failed == 0 { "" } else { "error: " };
    write!(
        out,
        "{error}remapped {} of {}: {} remapped already, {} could not be; {lost} lost",
        Count(outcome.done, "block"),
        outcome.blocks,
        outcome.already,
        outcome.failed,
    )?;
    if outcome.failed == 0 { Ok(()) } else { write!(out, " ({})", why(outcome.error)) }
}

/// To `verify` of one sector.
///
/// # Errors
/// See [`remapped_one`].
pub fn looked(out: &mut dyn Write, sector: Sector, place: Option<SpareSector>, lost: bool) -> fmt::Result {
    match place {
        Some(place) => write!(out, "sector {} -> spare {place}", sector.0)?,
        None => write!(out, "sector {} not remapped", sector.0)?,
    }
    if lost { out.write_str(" (lost: reads fail until it is overwritten)") } else { Ok(()) }
}

/// To `verify`.
///
/// # Errors
/// See [`remapped_one`].
pub fn verified(out: &mut dyn Write, outcome: &CommandOutcome, lost: &dyn Display) -> fmt::Result {
    let error = if outcome.failed == 0 { "" } else { "error: " };
    write!(
        out,
        "{error}verified {}: {} as the table says, {} could not be read in full; {lost} lost",
        Count(outcome.blocks, "block"),
        outcome.done.saturating_add(outcome.already),
        outcome.failed,
    )?;
    if outcome.failed == 0 { Ok(()) } else { write!(out, " ({})", why(outcome.error)) }
}

/// To `clear`; `all`: of the whole volume.
///
/// # Errors
/// See [`remapped_one`].
pub fn cleared(out: &mut dyn Write, outcome: &CommandOutcome, all: bool) -> fmt::Result {
    let done = Count(outcome.done, "block");
    match (outcome.failed, all) {
        (0, true) => out.write_str("cleared all remap entries"),
        (0, false) => write!(out, "cleared {done}"),
        (failed, _) => write!(
            out,
            "error: cleared {done}; {failed} could not go back to the main device and stay as they are ({})",
            why(outcome.error)
        ),
    }
}

/// To `save`.
///
/// # Errors
/// See [`remapped_one`].
pub fn saved(out: &mut dyn Write, error: Option<RequestError>, copies: u8) -> fmt::Result {
    match (error, copies) {
        (Some(_), _) => write!(out, "metadata save failed: {}", why(error)),
        (None, 5..) => out.write_str("metadata saved successfully"),
        (None, good) => {
            write!(out, "metadata saved, but only {good} of 5 copies could be written: replace the spare")
        }
    }
}

/// To `sync`.
///
/// # Errors
/// See [`remapped_one`].
pub fn synced(out: &mut dyn Write, error: Option<RequestError>, entries: u64) -> fmt::Result {
    match error {
        Some(_) => write!(out, "sync failed: {}", why(error)),
        None => write!(out, "synced {entries} entries to metadata"),
    }
}

/// To `restore`; `repaired` copies were not in step before.
///
/// # Errors
/// See [`remapped_one`].
pub fn restored(
    out: &mut dyn Write,
    error: Option<RequestError>,
    entries: u64,
    repaired: usize,
) -> fmt::Result {
    match (error, repaired) {
        (Some(_), _) => write!(out, "restore failed: {}", why(error)),
        (None, 0) => write!(out, "restored {entries} remap entries"),
        (None, n) => write!(out, "restored {entries} remap entries ({n} of 5 copies were repaired)"),
    }
}

/// To `health`.
///
/// # Errors
/// See [`remapped_one`].
pub fn health(out: &mut dyn Write, f: &Figures) -> fmt::Result {
    write!(
        out,
        "health_score={}% health={} state={} lost_sectors={} pending_blocks={} read_errors={} write_errors={} \
         spare_free={}/{} copies={}/5",
        f.health_percent(),
        f.health_code(),
        f.state.word(),
        f.counts.lost_sectors,
        f.counts.pending_blocks,
        f.read_errors(),
        f.write_errors(),
        f.free_slots,
        f.slots,
        f.copies,
    )
}

/// To `status`.
///
/// # Errors
/// See [`remapped_one`].
pub fn status(out: &mut dyn Write, f: &Figures) -> fmt::Result {
    let errors = f.read_errors().saturating_add(f.write_errors());
    write!(
        out,
        "mappings={} reads={} writes={} errors={errors} health={}%",
        f.counts.entries,
        f.asked.reads,
        f.asked.writes,
        f.health_percent()
    )
}

/// To `stats`: since `then`, when they were cleared.
///
/// # Errors
/// See [`remapped_one`].
pub fn stats(out: &mut dyn Write, f: &Figures, then: &(Asked, u64)) -> fmt::Result {
    let (now, old, errors_then) = (&f.asked, &then.0, then.1);
    let total = f.requests().saturating_sub(old.reads.saturating_add(old.writes));
    let remapped = now.remapped.saturating_sub(old.remapped);
    let errors = f.read_errors().saturating_add(f.write_errors()).saturating_sub(errors_then);
    write!(
        out,
        "total_ios={total} normal={} remapped={remapped} errors={errors} remapped_sectors={} failed_reads={} \
         failed_writes={} fast={} slow={}",
        total.saturating_sub(remapped),
        f.remapped_sectors(),
        now.failed_reads.saturating_sub(old.failed_reads),
        now.failed_writes.saturating_sub(old.failed_writes),
        now.fast.saturating_sub(old.fast),
        now.slow.saturating_sub(old.slow),
    )
}

/// To `cache_stats`: there is no cache to hit, looking up costs next to nothing. The fast lane is what there is.
///
/// # Errors
/// See [`remapped_one`].
pub fn cache_stats(out: &mut dyn Write, f: &Figures) -> fmt::Result {
    write!(out, "cache_hits=0 cache_misses=0 hit_rate=0% fast_path={} cache_size=0", f.asked.fast)
}

/// To `metadata_status`.
///
/// # Errors
/// See [`remapped_one`].
pub fn metadata_status(out: &mut dyn Write, f: &Figures, failures: u64) -> fmt::Result {
    let saves = f.counters.commits.saturating_add(f.counters.checkpoints);
    let active = if f.suspended { "inactive" } else { "active" };
    write!(out, "metadata: enabled, autosave: {active}, saves: {saves}/{failures} (success/fail)")
}

#[cfg(test)]
mod tests {
    use super::*;
    use remap_format::{Cause, EntryFlags};
    use std::string::String;

    fn text(write: impl FnOnce(&mut dyn Write) -> fmt::Result) -> String {
        let mut out = String::new();
        write(&mut out).expect("a string takes all");
        out
    }

    #[test]
    fn a_remap_is_told_with_its_place() {
        let entry = Entry {
            block: 5,
            count: 2,
            slot: Slot::new(1, 30).0,
            lost: 0,
            state: EntryState::Remapped,
            cause: Cause::Manual,
            flags: EntryFlags::default(),
            errors: 0,
            time: 0,
        };
        let place = |sector, several| SpareSector::of(&entry, Sector(sector), 8, several);
        assert_eq!(place(39, false), None);
        assert_eq!(place(56, false), None);
        let done = CommandOutcome { blocks: 1, done: 1, ..CommandOutcome::default() };
        assert_eq!(
            text(|out| remapped_one(out, Sector(51), &done, place(51, true))),
            "remapped sector 51 -> spare sector 251 of spare1"
        );
        assert_eq!(
            text(|out| looked(out, Sector(40), place(40, false), true)),
            "sector 40 -> spare 240 (lost: reads fail until it is overwritten)"
        );
        assert_eq!(text(|out| looked(out, Sector(4), None, false)), "sector 4 not remapped");
        let again = CommandOutcome { blocks: 1, already: 1, ..CommandOutcome::default() };
        assert_eq!(
            text(|out| test_remapped(out, Sector(51), &again, place(51, true))),
            "error: sector 51 already remapped"
        );
        let full = CommandOutcome { blocks: 1, failed: 1, error: Some(RequestError::NoSpace), ..done };
        assert_eq!(
            text(|out| remapped_one(out, Sector(51), &full, None)),
            "error: no spare sectors available"
        );
    }

    #[test]
    fn what_was_not_done_is_an_error() {
        let part = CommandOutcome {
            blocks: 3,
            done: 1,
            already: 1,
            failed: 1,
            error: Some(RequestError::Io(Fault::Medium)),
            lost_sectors: 8,
        };
        let lost = Count(8, "sector");
        assert_eq!(
            text(|out| remapped(out, &part, &lost)),
            "error: remapped 1 block of 3: 1 remapped already, 1 could not be; 8 sectors lost (medium error)"
        );
        assert!(
            text(|out| verified(out, &part, &lost))
                .starts_with("error: verified 3 blocks: 2 as the table says")
        );
        assert!(text(|out| cleared(out, &part, true)).starts_with("error: cleared 1 block; 1 could not"));
        let all = CommandOutcome { failed: 0, error: None, ..part };
        assert_eq!(text(|out| cleared(out, &all, true)), "cleared all remap entries");
        assert_eq!(text(|out| saved(out, None, 5)), "metadata saved successfully");
        assert!(text(|out| saved(out, part.error, 5)).starts_with("metadata save failed: medium"));
        assert_eq!(
            text(|out| restored(out, None, 7, 2)),
            "restored 7 remap entries (2 of 5 copies were repaired)"
        );
    }

    #[test]
    fn figures_are_told_since_they_were_cleared() {
        let mut f = Figures::sample();
        f.asked = Asked {
            reads: 10,
            writes: 6,
            remapped: 3,
            fast: 15,
            slow: 1,
            read_errors: 2,
            ..Asked::default()
        };
        let then = (Asked { reads: 4, writes: 1, ..Asked::default() }, 1);
        assert_eq!(
            text(|out| stats(out, &f, &then)),
            "total_ios=11 normal=8 remapped=3 errors=1 remapped_sectors=0 failed_reads=0 failed_writes=0 fast=15 slow=1"
        );
        assert_eq!(text(|out| status(out, &f)), "mappings=0 reads=10 writes=6 errors=2 health=100%");
        assert!(
            text(|out| health(out, &f))
                .starts_with("health_score=100% health=0 state=healthy lost_sectors=0")
        );
        assert_eq!(
            text(|out| metadata_status(out, &f, 0)),
            "metadata: enabled, autosave: active, saves: 0/0 (success/fail)"
        );
    }
}
