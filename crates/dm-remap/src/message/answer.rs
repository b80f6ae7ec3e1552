//! The serving side of `message`.
//!
//! Invariant: words are taken in any case; numbers are sectors of 512 bytes of the volume; nothing a peer says is done to
//! a volume that is served read-only.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use remap_core::engine::{Command, CommandOutcome, RequestError};
use remap_core::units::{Block, Extent, SECTOR_SIZE, Sector, Slot};
use remap_format::{Cause, Entry, EntryState};
use remap_runtime::Volume;

use super::spares;
use crate::cli::DrillTarget;
use crate::serve::{Baseline, Service};
use crate::status_json::{StatusReport, fault_word};
use crate::status_line::{health_code, health_percent};
use crate::units::{Sectors, format_count, format_sectors, parse_sector};

/// Commands that the unknown-command reply names.
const KNOWN: &str = "ping, remap, verify, clear, health, stats, save, restore, suspend, resume, add-spare, \
                     retire-spare, migrate, drill, help, metadata_status, sync";
/// A dump or a generation is no answer for a volume in service.
const TABLE_IN_SERVICE_IS_NEWER: &str = "error: the table in service is newer than any dump or generation, and the blocks that moved \
     since would be lost: nothing was changed. 'restore' without arguments repairs the copies on the spares. To go back to an earlier \
     table stop the server; 'dm-remap metadata compare' then shows what differs, 'dm-remap metadata rollback' goes back as far as the \
     data allow it, and 'dm-remap metadata restore' brings back metadata that are gone";
/// Times that a busy volume's metadata are read again until they hold still.
const ATTEMPTS: u32 = 10;

/// A reply, or one that says why not.
type Outcome = Result<String, String>;

/// The reply to a message, and whether it was done.
pub(crate) fn answer(service: &Service, words: &[String]) -> (String, bool) {
    let words: Vec<&str> = words.iter().flat_map(|word| word.split_whitespace()).collect();
    let Some((command, args)) = words.split_first() else {
        return (unknown(""), false);
    };
    match carry_out(service, &command.to_ascii_lowercase(), args) {
        Ok(text) => (text, true),
        Err(text) => (text, false),
    }
}

fn unknown(command: &str) -> String {
    format!("error: unknown command '{command}' (try: {KNOWN})")
}

fn carry_out(service: &Service, command: &str, args: &[&str]) -> Outcome {
    let changes = [
        "remap",
        "test_remap",
        "clear",
        "save",
        "sync",
        "restore",
        "suspend",
        "resume",
        "add-spare",
        "retire-spare",
        "migrate",
    ];
    if changes.contains(&command) && report(service)?.read_only {
        return Err("error: the volume is served read-only".into());
    }
    match (command, args) {
        ("ping", []) => Ok("pong".into()),
        ("help", _) => Ok(format!("Commands: {KNOWN}")),
        ("remap", [sectors]) => remap(service, sectors),
        ("test_remap", [sector, _]) => test_remap(service, sector),
        ("test_remap", _) => Err("Usage: test_remap <bad_sector> <spare_sector>".into()),
        ("verify", []) => verify(service, None),
        ("verify", [sector]) if parse_sector(sector).is_some() => look_up(service, sector),
        ("verify", [sectors]) => verify(service, Some(sectors)),
        ("clear", []) => clear(service, None),
        ("clear", [sectors]) => clear(service, Some(sectors)),
        ("health", []) => report(service).map(|r| health(&r)),
        ("status", []) => report(service).map(|r| {
            let errors = r.events.read_errors + r.events.write_errors;
            format!(
                "mappings={} reads={} writes={} errors={errors} health={}%",
                r.table.entries,
                r.requests.reads,
                r.requests.writes,
                health_percent(&r)
            )
        }),
        ("stats", []) => stats(service),
        ("clear_stats", []) => clear_stats(service),
        ("cache_stats", []) => report(service).map(|r| {
            // There is no cache to hit: looking up costs next to nothing. The fast lane is what there is.
            format!("cache_hits=0 cache_misses=0 hit_rate=0% fast_path={} cache_size=0", r.requests.fast)
        }),
        ("save", []) => {
            save(service).map_err(|why| format!("metadata save failed: {why}"))?;
            let good = report(service)?.metadata.copies_in_step.iter().filter(|&&copy| copy).count();
            Ok(match good {
                5 => "metadata saved successfully".into(),
                _ => {
                    format!("metadata saved, but only {good} of 5 copies could be written: replace the spare")
                }
            })
        }
        ("sync", []) => {
            save(service).map_err(|why| format!("sync failed: {why}"))?;
            Ok(format!("synced {} entries to metadata", report(service)?.table.entries))
        }
        ("restore", []) => restore(service),
        ("restore", _) => Err(TABLE_IN_SERVICE_IS_NEWER.into()),
        ("metadata_status", []) => report(service).map(|r| {
            let saves = r.metadata.commits + r.metadata.checkpoints;
            let active = if r.suspended.is_some() { "inactive" } else { "active" };
            format!(
                "metadata: enabled, autosave: {active}, saves: {saves}/{} (success/fail)",
                r.metadata.copy_failures
            )
        }),
        ("suspend", []) => {
            service.suspended_by_command.store(true, Ordering::Relaxed);
            run(service, Command::Suspend).map(|_| "remapping suspended".into())
        }
        ("resume", []) => run(service, Command::Resume).map(|_| "remapping resumed".into()),
        ("add-spare", [spare]) => spares::add(service, spare, false),
        ("add-spare", [spare, "force"]) => spares::add(service, spare, true),
        ("retire-spare", [number]) => spares::retire(service, number),
        ("migrate", [spare]) => spares::migrate(service, spare, None),
        ("migrate", [spare, number]) => spares::migrate(service, spare, Some(number)),
        ("drill", [device, switch]) => drill(service, device, switch),
        (known, _) if KNOWN.split(", ").any(|word| word == known) => {
            Err(format!("error: wrong arguments for '{known}' (see 'dm-remap help message')"))
        }
        (other, _) => Err(unknown(other)),
    }
}

fn report(service: &Service) -> Result<StatusReport, String> {
    service.report().map_err(|error| format!("error: {error:#}"))
}

fn run(service: &Service, command: Command) -> Result<CommandOutcome, String> {
    service.volume.command(command).map_err(|error| format!("error: {error}"))
}

fn why(error: Option<RequestError>) -> String {
    match error {
        Some(RequestError::NoSpace) => "no spare sectors available".into(),
        Some(RequestError::Io(fault)) => fault_word(fault).into(),
        None => "not done".into(),
    }
}

/// Sectors of the volume; whole blocks are what moves.
fn extent_of(service: &Service, text: &str) -> Result<Extent, String> {
    let sectors = service.volume.superblock().main.size / SECTOR_SIZE;
    let Sectors(extent) = text.parse().map_err(|why| format!("error: {why}"))?;
    if extent.end().0 > sectors {
        return Err(format!("error: invalid sector '{text}': the volume has {}", format_sectors(sectors)));
    }
    Ok(extent)
}

fn whole_volume(service: &Service) -> Result<Extent, String> {
    let sectors = service.volume.superblock().main.size / SECTOR_SIZE;
    Extent::new(Sector(0), sectors).ok_or_else(|| "error: the volume has no sectors".into())
}

/// The entry that a sector is in.
fn entry_at(service: &Service, sector: Sector) -> Result<Option<Entry>, String> {
    let block = sector.0 / u64::from(service.volume.superblock().block_sectors());
    let here = Extent::new(sector, 1).ok_or("error: no such sector")?;
    let entries = service.volume.entries_in(here).map_err(|error| format!("error: {error}"))?;
    Ok(entries.first().copied().filter(|entry| entry.block <= block))
}

/// Where a remapped sector is: the spare, and the sector on it, counted from the start of the spare.
fn spare_sector(service: &Service, entry: &Entry, sector: Sector) -> Option<(u8, u64)> {
    if entry.state != EntryState::Remapped {
        return None;
    }
    let per_block = u64::from(service.volume.superblock().block_sectors());
    let block = Block(sector.0 / per_block);
    let slot = Slot(entry.slot).offset(block.0.checked_sub(entry.block)?);
    Some((slot.spare(), slot.index() * per_block + sector.0 % per_block))
}

/// `4711`, or `4711 of spare1` where there are several.
fn spare_words(service: &Service, (spare, sector): (u8, u64)) -> String {
    if service.volume.spares().len() > 1 { format!("{sector} of spare{spare}") } else { sector.to_string() }
}

fn is_lost(service: &Service, entry: &Entry, sector: Sector) -> bool {
    let per_block = u64::from(service.volume.superblock().block_sectors());
    entry.lost & (1 << (sector.0 % per_block)) != 0
}

fn remap(service: &Service, text: &str) -> Outcome {
    let extent = extent_of(service, text)?;
    if extent.sectors() > 1 {
        let outcome = run(service, Command::Remap(extent, Cause::Manual))?;
        let text = format!(
            "remapped {} of {}: {} remapped already, {} could not be; {} lost",
            format_count(outcome.done, "block"),
            outcome.blocks,
            outcome.already,
            outcome.failed,
            format_sectors(outcome.lost_sectors)
        );
        return if outcome.failed == 0 {
            Ok(text)
        } else {
            Err(format!("error: {text} ({})", why(outcome.error)))
        };
    }
    let place = remap_one(service, extent.start())?;
    Ok(format!("remapped sector {} -> spare sector {}", extent.start().0, spare_words(service, place)))
}

fn remap_one(service: &Service, sector: Sector) -> Result<(u8, u64), String> {
    let already = || format!("error: sector {} already remapped", sector.0);
    if entry_at(service, sector)?.is_some_and(|entry| entry.state == EntryState::Remapped) {
        return Err(already());
    }
    let extent = Extent::new(sector, 1).ok_or_else(|| format!("error: invalid sector '{}'", sector.0))?;
    let outcome = run(service, Command::Remap(extent, Cause::Manual))?;
    if outcome.already > 0 {
        return Err(already());
    }
    let place = entry_at(service, sector)?.and_then(|entry| spare_sector(service, &entry, sector));
    match (place, outcome.error) {
        (Some(place), None) => Ok(place),
        (_, Some(RequestError::NoSpace)) => Err("error: no spare sectors available".into()),
        (_, error) => Err(format!("error: sector {} could not be remapped: {}", sector.0, why(error))),
    }
}

fn test_remap(service: &Service, text: &str) -> Outcome {
    let extent = extent_of(service, text)?;
    if extent.sectors() > 1 {
        return Err("Usage: test_remap <bad_sector> <spare_sector>".into());
    }
    let place = remap_one(service, extent.start())?;
    Ok(format!(
        "Created test remap: bad_sector={} spare_sector={} (dm-remap chooses the spare sector itself)",
        extent.start().0,
        spare_words(service, place)
    ))
}

fn look_up(service: &Service, text: &str) -> Outcome {
    let sector = extent_of(service, text)?.start();
    let entry = entry_at(service, sector)?;
    let place = entry.and_then(|entry| spare_sector(service, &entry, sector));
    let lost = entry.is_some_and(|entry| is_lost(service, &entry, sector));
    let lost = if lost { " (lost: reads fail until it is overwritten)" } else { "" };
    Ok(match place {
        Some(place) => format!("sector {} -> spare {}{lost}", sector.0, spare_words(service, place)),
        None => format!("sector {} not remapped{lost}", sector.0),
    })
}

fn verify(service: &Service, text: Option<&str>) -> Outcome {
    let extent = text.map_or_else(|| whole_volume(service), |text| extent_of(service, text))?;
    let outcome = run(service, Command::Verify { extent, all: text.is_some() })?;
    let text = format!(
        "verified {}: {} as the table says, {} could not be read in full; {} lost",
        format_count(outcome.blocks, "block"),
        outcome.done + outcome.already,
        outcome.failed,
        format_sectors(outcome.lost_sectors)
    );
    if outcome.failed == 0 { Ok(text) } else { Err(format!("error: {text} ({})", why(outcome.error))) }
}

fn clear(service: &Service, text: Option<&str>) -> Outcome {
    let extent = text.map_or_else(|| whole_volume(service), |text| extent_of(service, text))?;
    let outcome = run(service, Command::Clear(extent))?;
    match (outcome.failed, text) {
        (0, None) => Ok("cleared all remap entries".into()),
        (0, Some(_)) => Ok(format!("cleared {}", format_count(outcome.done, "block"))),
        (failed, _) => Err(format!(
            "error: cleared {}; {failed} could not go back to the main device and stay as they are ({})",
            format_count(outcome.done, "block"),
            why(outcome.error)
        )),
    }
}

fn health(r: &StatusReport) -> String {
    format!(
        "health_score={}% health={} state={} lost_sectors={} pending_blocks={} read_errors={} write_errors={} \
         spare_free={}/{} copies={}/5",
        health_percent(r),
        health_code(r),
        r.state,
        r.table.lost_sectors,
        r.table.pending_blocks,
        r.events.read_errors,
        r.events.write_errors,
        r.slots.free,
        r.slots.total,
        r.copies()
    )
}

fn stats(service: &Service) -> Outcome {
    let now = service.volume.status().map_err(|error| format!("error: {error}"))?;
    let then = *service.baseline.lock().unwrap_or_else(PoisonError::into_inner);
    let (lanes, old) = (now.lanes, then.lanes);
    let total = (lanes.reads + lanes.writes).saturating_sub(old.reads + old.writes);
    let remapped = lanes.remapped.saturating_sub(old.remapped);
    let errors = |l: &remap_runtime::LaneCounters, c: &remap_core::engine::Counters| {
        l.read_errors + l.write_errors + c.read_errors + c.write_errors
    };
    let errors = errors(&lanes, &now.counters).saturating_sub(errors(&old, &then.counters));
    let per_block = u64::from(now.block_size) / SECTOR_SIZE;
    Ok(format!(
        "total_ios={total} normal={} remapped={remapped} errors={errors} remapped_sectors={} failed_reads={} \
         failed_writes={} fast={} slow={}",
        total.saturating_sub(remapped),
        now.counts.remapped_blocks.saturating_mul(per_block),
        lanes.failed_reads.saturating_sub(old.failed_reads),
        lanes.failed_writes.saturating_sub(old.failed_writes),
        lanes.fast.saturating_sub(old.fast),
        lanes.slow.saturating_sub(old.slow),
    ))
}

fn clear_stats(service: &Service) -> Outcome {
    let now = service.volume.status().map_err(|error| format!("error: {error}"))?;
    let baseline = Baseline { counters: now.counters, lanes: now.lanes };
    *service.baseline.lock().unwrap_or_else(PoisonError::into_inner) = baseline;
    Ok("Statistics cleared".into())
}

fn save(service: &Service) -> Result<(), String> {
    let outcome = run(service, Command::Save)?;
    if outcome.error.is_some() { Err(why(outcome.error)) } else { Ok(()) }
}

/// Compares the copies on the spares with the table in use, and writes them anew if they differ or are damaged.
fn restore(service: &Service) -> Outcome {
    let failed = |why: String| format!("restore failed: {why}");
    let damaged = match differences(&service.volume) {
        Ok(damaged) => damaged,
        Err(why) => return Err(failed(why)),
    };
    if damaged > 0 {
        save(service).map_err(failed)?;
        match differences(&service.volume) {
            Ok(0) => {}
            Ok(left) => return Err(failed(format!("{left} of 5 copies still differ; check the spare"))),
            Err(why) => return Err(failed(why)),
        }
    }
    let entries = report(service)?.table.entries;
    let repaired =
        if damaged > 0 { format!(" ({damaged} of 5 copies were repaired)") } else { String::new() };
    Ok(format!("restored {entries} remap entries{repaired}"))
}

/// Copies on the spares that are damaged or say something else than the table in use.
///
/// # Errors
/// The volume was stopped, or its table never held still.
pub(crate) fn differences(volume: &Volume) -> Result<usize, String> {
    let stopped = |error: remap_runtime::Stopped| error.to_string();
    for _ in 0..ATTEMPTS {
        let before = volume.status().map_err(stopped)?.generation;
        let entries = volume.entries().map_err(stopped)?;
        let spares: Vec<_> = volume.spares().into_iter().map(|(_, device)| device).collect();
        let found = remap_runtime::examine(&spares, true);
        if volume.status().map_err(stopped)?.generation != before {
            continue;
        }
        let Ok(found) = found else { return Ok(5) };
        let same = found.generation == before && found.table.iter().eq(entries.iter().copied());
        return Ok(if same { found.copies.iter().filter(|copy| copy.flaw.is_some()).count() } else { 5 });
    }
    Err("the table changes too fast to be compared; try again".into())
}

fn drill(service: &Service, device: &str, switch: &str) -> Outcome {
    let target: DrillTarget = device.parse().map_err(|why| format!("error: {why}"))?;
    let on = match switch.to_ascii_lowercase().as_str() {
        "on" => true,
        "off" => false,
        other => return Err(format!("error: '{other}' is neither on nor off")),
    };
    let mut found = 0;
    for running in service.drills.iter().filter(|running| running.target == target) {
        running.drill.set_enabled(on);
        found += 1;
    }
    match found {
        0 => Err(format!("error: no drill of {target}: start the server with --drill {target}:SPEC")),
        _ => Ok(format!("drill {target} {}", if on { "on" } else { "off" })),
    }
}
