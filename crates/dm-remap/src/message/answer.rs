//! The serving side of `message`.
//!
//! Invariant: words are taken in any case; numbers are sectors of 512 bytes of the volume; nothing a peer says is done to
//! a volume that is served read-only.

use std::fmt::Write as _;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

use remap_core::engine::{Command, CommandOutcome};
use remap_core::units::{Extent, SECTOR_SIZE, Sector};
use remap_format::{Cause, Entry, newer};
use remap_runtime::{LaneCounters, Volume};
use remap_words::answer::{self, SpareSector};
use remap_words::figures::Asked;
use remap_words::message::{self, Message, MessageError};

use super::spares;
use crate::cli::DrillTarget;
use crate::serve::{Baseline, Service};
use crate::status_json::StatusReport;
use crate::status_line::figures;
use crate::stock;
use crate::units::format_sectors;

/// Commands that the unknown-command reply names.
const KNOWN: &str = "ping, remap, verify, clear, health, stats, save, restore, suspend, resume, add-spare, \
                     retire-spare, migrate, drill, heal, help, metadata_status, sync";
/// Times that a busy volume's metadata are read again until they hold still.
const ATTEMPTS: u32 = 10;

/// Pause between two of them.
const PAUSE: Duration = Duration::from_millis(20);

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

/// Messages that only a server understands.
fn of_a_server(service: &Service, command: &str, args: &[&str]) -> Option<Outcome> {
    Some(match (command, args) {
        ("help", _) => Ok(format!("Commands: {KNOWN}")),
        ("add-spare", [spare]) => spares::add(service, spare, false),
        ("add-spare", [spare, "force"]) => spares::add(service, spare, true),
        ("retire-spare", [number]) => spares::retire(service, number),
        ("migrate", [spare]) => spares::migrate(service, spare, None),
        ("migrate", [spare, number]) => spares::migrate(service, spare, Some(number)),
        ("drill", [device, switch]) => drill(service, device, switch),
        ("heal", [sectors]) => heal(service, sectors),
        ("add-spare" | "retire-spare" | "migrate" | "drill" | "heal", _) => Err(wrong(command)),
        _ => return None,
    })
}

fn wrong(command: &str) -> String {
    format!("error: wrong arguments for '{command}' (see 'dm-remap help message')")
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
        "heal",
    ];
    if changes.contains(&command) && report(service)?.read_only {
        return Err("error: the volume is served read-only".into());
    }
    if let Some(outcome) = of_a_server(service, command, args) {
        return outcome;
    }
    let words: Vec<&str> = std::iter::once(command).chain(args.iter().copied()).collect();
    let sectors = service.volume.superblock().main.size / SECTOR_SIZE;
    let message = message::parse(&words, sectors).map_err(|refusal| match refusal {
        MessageError::Unknown(word) => unknown(word),
        MessageError::Arguments(word) => wrong(word),
        other => other.to_string(),
    })?;
    match message {
        Message::Remap(extent) => remap(service, extent),
        Message::TestRemap(sector) => {
            let (outcome, place) = remap_one(service, sector)?;
            judged(|out| answer::test_remapped(out, sector, &outcome, place))
        }
        Message::Look(sector) => look_up(service, sector),
        Message::Verify(extent) => verify(service, extent),
        Message::Clear(extent) => clear(service, extent),
        Message::Suspend => {
            service.suspended_by_command.store(true, Ordering::Relaxed);
            run(service, Command::Suspend).map(|_| "remapping suspended".into())
        }
        Message::Resume => run(service, Command::Resume).map(|_| "remapping resumed".into()),
        Message::Save => {
            let error = run(service, Command::Save)?.error;
            let good = report(service)?.metadata.copies_in_step.iter().filter(|&&copy| copy).count();
            let good = u8::try_from(good).unwrap_or(5);
            told(error.is_none(), |out| answer::saved(out, error, good))
        }
        Message::Sync => {
            let error = run(service, Command::Save)?.error;
            let entries = report(service)?.table.entries;
            told(error.is_none(), |out| answer::synced(out, error, entries))
        }
        Message::Restore => restore(service),
        plain => say(service, plain),
    }
}

/// What can be said at once.
fn say(service: &Service, message: Message) -> Outcome {
    let report = report(service)?;
    let figures = figures(&report);
    judged(|out| match message {
        Message::Ping => out.write_str("pong"),
        Message::Health => answer::health(out, &figures),
        Message::Status => answer::status(out, &figures),
        Message::CacheStats => answer::cache_stats(out, &figures),
        Message::MetadataStatus => answer::metadata_status(out, &figures, report.metadata.copy_failures),
        Message::Stats => {
            let then = *service.baseline.lock().unwrap_or_else(PoisonError::into_inner);
            let errors = [
                then.lanes.read_errors,
                then.lanes.write_errors,
                then.counters.read_errors,
                then.counters.write_errors,
            ];
            answer::stats(out, &figures, &(asked(&then.lanes), errors.iter().sum()))
        }
        Message::ClearStats => {
            let now = service.volume.status().map_err(|_| std::fmt::Error)?;
            let baseline = Baseline { counters: now.counters, lanes: now.lanes };
            *service.baseline.lock().unwrap_or_else(PoisonError::into_inner) = baseline;
            out.write_str("Statistics cleared")
        }
        _ => out.write_str("error: not a message for a server"),
    })
}

/// What a volume's queues counted, in the words that the kernel uses too.
fn asked(lanes: &LaneCounters) -> Asked {
    Asked {
        reads: lanes.reads,
        writes: lanes.writes,
        fast: lanes.fast,
        slow: lanes.slow,
        remapped: lanes.remapped,
        failed_reads: lanes.failed_reads,
        failed_writes: lanes.failed_writes,
        read_errors: lanes.read_errors,
        write_errors: lanes.write_errors,
    }
}

fn told(good: bool, write: impl FnOnce(&mut String) -> std::fmt::Result) -> Outcome {
    let mut text = String::new();
    write(&mut text).map_err(|_| "error: the volume is not in service any more".to_owned())?;
    if good { Ok(text) } else { Err(text) }
}

/// An answer that says itself whether it was done.
fn judged(write: impl FnOnce(&mut String) -> std::fmt::Result) -> Outcome {
    told(true, write).and_then(|text| if text.starts_with("error:") { Err(text) } else { Ok(text) })
}

fn report(service: &Service) -> Result<StatusReport, String> {
    service.report().map_err(|error| format!("error: {error:#}"))
}

fn run(service: &Service, command: Command) -> Result<CommandOutcome, String> {
    service.volume.command(command).map_err(|error| format!("error: {error}"))
}

fn whole_volume(service: &Service) -> Result<Extent, String> {
    let sectors = service.volume.superblock().main.size / SECTOR_SIZE;
    Extent::new(Sector(0), sectors).ok_or_else(|| "error: the volume has no sectors".into())
}

/// The entry that a sector is in, and where it puts the sector.
fn entry_at(service: &Service, sector: Sector) -> Result<Option<(Entry, Option<SpareSector>)>, String> {
    let per_block = u64::from(service.volume.superblock().block_sectors());
    let here = Extent::new(sector, 1).ok_or("error: no such sector")?;
    let entries = service.volume.entries_in(here).map_err(|error| format!("error: {error}"))?;
    let entry = entries.first().copied().filter(|entry| entry.block <= sector.0 / per_block);
    let several = service.volume.spares().len() > 1;
    Ok(entry.map(|entry| (entry, SpareSector::of(&entry, sector, per_block, several))))
}

fn remap(service: &Service, extent: Extent) -> Outcome {
    if extent.sectors() == 1 {
        let (outcome, place) = remap_one(service, extent.start())?;
        return judged(|out| answer::remapped_one(out, extent.start(), &outcome, place));
    }
    let outcome = run(service, Command::Remap(extent, Cause::Manual))?;
    judged(|out| answer::remapped(out, &outcome, &format_sectors(outcome.lost_sectors)))
}

fn remap_one(service: &Service, sector: Sector) -> Result<(CommandOutcome, Option<SpareSector>), String> {
    let extent = Extent::new(sector, 1).ok_or_else(|| format!("error: invalid sector '{}'", sector.0))?;
    let outcome = run(service, Command::Remap(extent, Cause::Manual))?;
    Ok((outcome, entry_at(service, sector)?.and_then(|(_, place)| place)))
}

fn look_up(service: &Service, sector: Sector) -> Outcome {
    let per_block = u64::from(service.volume.superblock().block_sectors());
    let found = entry_at(service, sector)?;
    let lost = found.is_some_and(|(entry, _)| entry.lost & (1 << (sector.0 % per_block)) != 0);
    judged(|out| answer::looked(out, sector, found.and_then(|(_, place)| place), lost))
}

fn verify(service: &Service, part: Option<Extent>) -> Outcome {
    let extent = part.map_or_else(|| whole_volume(service), Ok)?;
    // While the engine checks a block of a mapped device everything waits: what has no entry is read beside the clients.
    let mapped = service.stock.is_some();
    if let (true, Some(part)) = (mapped, &part) {
        let unread = stock::scrub(&service.volume, part).map_err(|error| format!("error: {error:#}"))?;
        if unread > 0 {
            return told(true, |out| {
                write!(out, "{} cannot be read or are lost (see the log)", format_sectors(unread))
            });
        }
    }
    let outcome = run(service, Command::Verify { extent, all: part.is_some() && !mapped })?;
    judged(|out| answer::verified(out, &outcome, &format_sectors(outcome.lost_sectors)))
}

/// Zeroes for lost sectors: where the kernel carries the requests, no client can overwrite them.
fn heal(service: &Service, sectors: &str) -> Outcome {
    if service.stock.is_none() {
        return Err("error: 'heal' is for stock tables: here, overwrite the sectors".into());
    }
    let size = service.volume.superblock().main.size / SECTOR_SIZE;
    let extent = match message::parse(&["clear", sectors], size) {
        Ok(Message::Clear(Some(extent))) => extent,
        Err(refusal) => return Err(refusal.to_string()),
        Ok(_) => return Err(wrong("heal")),
    };
    let healed = stock::heal(&service.volume, &extent).map_err(|error| format!("error: {error:#}"))?;
    Ok(format!("{} hold zeroes now", format_sectors(healed)))
}

fn clear(service: &Service, part: Option<Extent>) -> Outcome {
    let extent = part.map_or_else(|| whole_volume(service), Ok)?;
    let outcome = run(service, Command::Clear(extent))?;
    judged(|out| answer::cleared(out, &outcome, part.is_none()))
}

/// Compares the copies on the spares with the table in use, and writes them anew if they differ or are damaged.
fn restore(service: &Service) -> Outcome {
    let failed = |why: String| format!("restore failed: {why}");
    let damaged = match differences(&service.volume) {
        Ok(damaged) => damaged,
        Err(why) => return Err(failed(why)),
    };
    if damaged > 0 {
        let error = run(service, Command::Save)?.error;
        if error.is_some() {
            return told(false, |out| answer::restored(out, error, 0, damaged));
        }
        match differences(&service.volume) {
            Ok(0) => {}
            Ok(left) => return Err(failed(format!("{left} of 5 copies still differ; check the spare"))),
            Err(why) => return Err(failed(why)),
        }
    }
    let entries = report(service)?.table.entries;
    told(true, |out| answer::restored(out, None, entries, damaged))
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
        if newer(found.generation, before) {
            // A record that is on its way to the copies, of which the table hears last.
            std::thread::sleep(PAUSE);
            continue;
        }
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
