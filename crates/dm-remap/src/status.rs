//! `status`: what happened, what to do, and what it means.
//!
//! Invariant: what is said is only what the report says; the advice never promises more than the contract does.

use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;

use remap_core::engine::VolumeState;
use remap_core::units::SECTOR_SIZE;

use crate::cli::StatusArgs;
use crate::control::{self, Client};
use crate::exit::{Exit, exit_of};
use crate::status_json::{BY_COMMAND, MapperReport, RegionReport, SlotsReport, StatusReport};
use crate::units::{format_count, format_duration, format_sectors, format_size, format_time};
use crate::{status_line, wire};

/// Slots that are left when it is time to say so: one in this many.
const FEW_SLOTS: u64 = 10;

/// Codes of `--exit-code`.
const HEALTHY: u8 = 0;
const DEGRADED: u8 = 1;
const BAD: u8 = 2;
const UNKNOWN: u8 = 4;

/// Runs the command.
pub(crate) fn run(args: &StatusArgs) -> anyhow::Result<ExitCode> {
    loop {
        let outcome = once(args);
        let Some(pause) = args.watch else {
            return match outcome {
                Err(error) if args.exit_code => {
                    eprintln!("dm-remap: {error:#}");
                    Ok(UNKNOWN.into())
                }
                other => other,
            };
        };
        match outcome {
            Ok(_) => {}
            // The volume may come back: whoever watches wants to see that.
            Err(error) if exit_of(&error) == Exit::NotFound => println!("{error:#}"),
            Err(error) => return Err(error),
        }
        std::thread::sleep(pause);
        let mut out = std::io::stdout();
        if out.is_terminal() {
            // Home, and clear what is below.
            write!(out, "\x1b[H\x1b[2J")?;
            out.flush()?;
        } else if !args.json && !args.line {
            println!();
        }
    }
}

fn once(args: &StatusArgs) -> anyhow::Result<ExitCode> {
    let Some(volume) = &args.volume else { return all(args) };
    let report = Client::connect(volume)?.status()?;
    print(args, &report)?;
    Ok(code(args, &report).into())
}

/// Every volume that is served by this user; the worst decides the code.
fn all(args: &StatusArgs) -> anyhow::Result<ExitCode> {
    let mut worst = HEALTHY;
    let mut reports = Vec::new();
    let mut served = 0_usize;
    for socket in control::sockets()? {
        let path = socket.display().to_string();
        match Client::connect(&path).and_then(|mut client| client.status()) {
            Ok(report) => {
                served += 1;
                worst = worst.max(code(args, &report));
                if args.json {
                    reports.push(report);
                } else if args.line || args.watch.is_some() {
                    print(args, &report)?;
                } else {
                    println!("{}", summary(&report));
                }
            }
            Err(error) if exit_of(&error) == Exit::NotFound => {
                println!("{path}: left behind by a server that is no more; serve the volume again");
            }
            Err(error) => {
                eprintln!("dm-remap: {error:#}");
                worst = worst.max(if args.exit_code { UNKNOWN } else { Exit::Failure as u8 });
            }
        }
    }
    if args.json {
        print!("{}", wire::pretty(&reports)?);
    } else if served == 0 {
        println!("no volume is being served from {}", control::runtime_dir().display());
    }
    Ok(worst.into())
}

fn print(args: &StatusArgs, report: &StatusReport) -> anyhow::Result<()> {
    if args.json {
        print!("{}", wire::pretty(report)?);
    } else if args.line {
        println!("{}", status_line::line(report));
    } else {
        print!("{}", text(report));
    }
    Ok(())
}

fn code(args: &StatusArgs, report: &StatusReport) -> u8 {
    if args.exit_code { exit_code(report) } else { Exit::Done as u8 }
}

/// 0 healthy, 1 degraded, 2 lost sectors, exhausted or frozen, 4 unknown.
pub(crate) fn exit_code(report: &StatusReport) -> u8 {
    if report.table.lost_sectors > 0 {
        return BAD;
    }
    match report.volume_state() {
        Some(VolumeState::Healthy) => HEALTHY,
        Some(VolumeState::Degraded) => DEGRADED,
        // Suspended because it is read-only: what the table says counts.
        Some(VolumeState::Frozen) if report.read_only => {
            if report.table.entries > 0 {
                DEGRADED
            } else {
                HEALTHY
            }
        }
        Some(VolumeState::Exhausted | VolumeState::Frozen) => BAD,
        None => UNKNOWN,
    }
}

/// One line about a volume.
fn summary(report: &StatusReport) -> String {
    format!(
        "{}: {}, {} remapped, {} lost; {} of {} slots free; {}",
        report.name,
        state_word(report),
        format_count(report.table.remapped_blocks, "block"),
        format_sectors(report.table.lost_sectors),
        report.slots.free,
        report.slots.total,
        format_count(u64::try_from(report.clients.len()).unwrap_or(u64::MAX), "client")
    )
}

fn state_word(report: &StatusReport) -> String {
    if report.read_only { "served read-only".to_owned() } else { report.state.clone() }
}

/// The whole story, for people.
pub(crate) fn text(report: &StatusReport) -> String {
    let mut text = String::new();
    let mut row = |what: &str, value: &str| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{what:>9}: {value}");
    };
    row("volume", &format!("{} ({})", report.name, report.uuid));
    row("state", &state_word(report));
    for line in happened(report) {
        row("happened", &line);
    }
    for line in advice(report) {
        row("do", &line);
    }
    for line in meaning(report) {
        row("means", &line);
    }
    let io = if report.main.direct { "direct I/O" } else { "through the page cache" };
    row("main", &format!("{} ({}, {io})", report.main.path, format_size(report.size)));
    for spare in &report.spares {
        let at = if spare.start > 0 { format!(" from {}", format_size(spare.start)) } else { String::new() };
        row(
            &format!("spare {}", spare.number),
            &format!("{}{at} ({}): {}", spare.path, format_size(spare.size), slot_words(&spare.slots)),
        );
    }
    row(
        "table",
        &format!(
            "{} remapped, {} pending; {} lost; blocks of {}, policy {}",
            format_count(report.table.remapped_blocks, "block"),
            report.table.pending_blocks,
            format_sectors(report.table.lost_sectors),
            format_size(u64::from(report.block_size)),
            report.policy
        ),
    );
    if let Some(line) = where_words(report) {
        row("where", &line);
    }
    row(
        "metadata",
        &format!("{} of 5 copies in step, generation {}", report.copies(), report.metadata.generation),
    );
    let r = &report.requests;
    row(
        "requests",
        &format!(
            "{} reads ({}), {} writes ({}), {} flushes; failed: {} reads, {} writes{}",
            r.reads,
            format_size(r.read_bytes),
            r.writes,
            format_size(r.written_bytes),
            r.flushes,
            r.failed_reads,
            r.failed_writes,
            lately(&r.pattern),
        ),
    );
    if let Some(mapper) = &report.mapper {
        row("mapper", &mapper_words(mapper));
    }
    for drill in &report.drills {
        let on = if drill.enabled { "on" } else { "off" };
        row(
            "drill",
            &format!(
                "{} {on}: {} of {} operations failed on purpose",
                drill.device, drill.failed, drill.operations
            ),
        );
    }
    for uri in &report.exports {
        row("serves", uri);
    }
    for client in &report.clients {
        row("client", &format!("{}: {} requests", client.peer, client.requests));
    }
    let uptime = format_duration(std::time::Duration::from_secs(report.uptime));
    row("since", &format!("{uptime}, process {}; adopted {}", report.pid, format_time(report.created)));
    text
}

/// What clients have been doing lately, where that is known.
fn lately(pattern: &str) -> String {
    match pattern {
        "" | "unknown" => String::new(),
        known => format!("; lately {known}"),
    }
}

/// Where on the main device most of the trouble is.
fn where_words(report: &StatusReport) -> Option<String> {
    let blocks = |r: &RegionReport| r.remapped_blocks + r.pending_blocks;
    let worst = report.regions.iter().max_by_key(|r| blocks(r))?;
    let all = report.table.remapped_blocks + report.table.pending_blocks;
    Some(format!(
        "most in sectors {}-{}: {} of {}",
        worst.first_sector,
        worst.first_sector + worst.sectors - 1,
        blocks(worst),
        format_count(all, "block")
    ))
}

fn slot_words(slots: &SlotsReport) -> String {
    let retired = if slots.retired > 0 { format!(", {} went bad", slots.retired) } else { String::new() };
    format!("{} of {} slots free{retired}", slots.free, slots.total)
}

fn happened(report: &StatusReport) -> Vec<String> {
    let mut lines = Vec::new();
    let (table, events) = (&report.table, &report.events);
    if let Some(suspended) = report.suspended.as_ref().filter(|_| !report.read_only) {
        lines.push(match suspended.fault.as_str() {
            BY_COMMAND => "remapping is suspended, by command".to_owned(),
            fault => format!("remapping is suspended: {} ({fault})", suspended.device),
        });
    }
    if table.lost_sectors > 0 {
        lines.push(format!("{} cannot be read from any device", format_sectors(table.lost_sectors)));
    }
    if table.remapped_blocks > 0 {
        let bytes = table.remapped_blocks.saturating_mul(u64::from(report.block_size));
        lines.push(format!(
            "{} ({}) moved to the spare",
            format_count(table.remapped_blocks, "block"),
            format_size(bytes)
        ));
    }
    if events.read_errors + events.write_errors > 0 {
        lines.push(format!(
            "since the start the devices failed {} and {}",
            format_count(events.read_errors, "read"),
            format_count(events.write_errors, "write")
        ));
    }
    if report.copies() < 5 {
        lines.push(format!("only {} of 5 metadata copies are in step", report.copies()));
    }
    if report.slots.retired > 0 {
        lines.push(format!("{} of the spare went bad", format_count(report.slots.retired, "slot")));
    }
    if lines.is_empty() {
        lines.push("nothing: no block has failed".to_owned());
    }
    lines
}

/// The mapped device of stock tables.
fn mapper_words(mapper: &MapperReport) -> String {
    format!(
        "{} ({}): {}, {} loaded; stood still {} times, at most {} ms; errors heard of: {} reads, {} writes (from {}); {} unreadable left to main",
        mapper.path,
        mapper.device,
        format_count(mapper.segments, "segment"),
        format_count(mapper.reloads, "table"),
        mapper.suspensions,
        mapper.suspended_us_max.div_ceil(1000),
        mapper.read_errors,
        mapper.write_errors,
        mapper.errors_from,
        format_sectors(mapper.left_to_main),
    )
}

fn advice(report: &StatusReport) -> Vec<String> {
    let mut lines = Vec::new();
    let name = &report.name;
    match report.suspended.as_ref().filter(|_| !report.read_only) {
        None => {}
        Some(suspended) if suspended.fault == BY_COMMAND => {
            lines.push(format!("'dm-remap message {name} resume', when you are done"));
        }
        Some(_) => lines.push(format!(
            "check cable, power and controller; remapping goes on by itself, or with 'dm-remap message {name} resume'"
        )),
    }
    if report.volume_state() == Some(VolumeState::Exhausted) {
        lines.push("copy what you need and replace the disk: the next bad block cannot be moved".to_owned());
    } else if report.slots.total > 0 && report.slots.free < report.slots.total / FEW_SLOTS {
        lines.push("plan the replacement of the disk: the spare is nearly full".to_owned());
    }
    if report.table.lost_sectors > 0 {
        lines.push(format!(
            "find them with 'dm-remap map list {name}', and restore the files there from a backup: a sector that is \
             overwritten is good again"
        ));
    }
    if report.copies() < 5 && !report.read_only {
        lines.push(format!("check the spare, then 'dm-remap message {name} save'"));
    }
    if lines.is_empty() {
        lines.push(match report.table.entries {
            0 => "nothing".to_owned(),
            _ => "keep a backup; replace the disk when you can".to_owned(),
        });
    }
    lines
}

fn meaning(report: &StatusReport) -> Vec<String> {
    let mut lines = Vec::new();
    if report.read_only {
        lines.push("nothing is written anywhere; clients cannot write".to_owned());
    }
    lines.extend(match report.volume_state() {
        Some(VolumeState::Healthy) => vec!["every block is on the main device".to_owned()],
        Some(VolumeState::Frozen) if report.read_only => Vec::new(),
        Some(VolumeState::Frozen) => {
            vec!["good blocks are served as ever; no block moves until the trouble is over".to_owned()]
        }
        Some(VolumeState::Exhausted) => {
            vec!["what moved stays safe; a write to the next bad block fails".to_owned()]
        }
        Some(VolumeState::Degraded) => {
            vec!["the volume needs its spare: do not use the main device alone".to_owned()]
        }
        None => vec![format!("this state is not known to dm-remap {}", env!("CARGO_PKG_VERSION"))],
    });
    if report.table.lost_sectors > 0 {
        lines.push(format!(
            "reads of lost sectors ({} bytes each) fail; they never return zeroes or old contents",
            SECTOR_SIZE
        ));
    }
    lines
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::status_json::{
        EventsReport, MainReport, MetadataReport, RequestsReport, SCHEMA_VERSION, SpareReport,
        SuspendedReport, TableReport,
    };

    /// A healthy volume of 100 MiB with 1000 slots.
    pub(crate) fn report() -> StatusReport {
        let slots = SlotsReport { total: 1000, used: 0, free: 1000, retired: 0 };
        StatusReport {
            schema_version: SCHEMA_VERSION,
            program_version: "0".into(),
            pid: 1,
            name: "disk".into(),
            uuid: "u".into(),
            state: "healthy".into(),
            read_only: false,
            size: 100 << 20,
            block_size: 4096,
            policy: "rewrite-then-remap".into(),
            created: 0,
            uptime: 61,
            main: MainReport { path: "/dev/sdb".into(), logical_block: 512, direct: true },
            spares: vec![SpareReport { number: 0, path: "/spare".into(), start: 0, size: 5 << 20, slots }],
            slots,
            max_remaps: None,
            table: TableReport { entries: 0, remapped_blocks: 0, pending_blocks: 0, lost_sectors: 0 },
            regions: Vec::new(),
            metadata: MetadataReport {
                generation: 1,
                copies_in_step: [true; 5],
                commits: 0,
                checkpoints: 1,
                copy_failures: 0,
            },
            suspended: None,
            requests: RequestsReport::default(),
            events: EventsReport::default(),
            drills: Vec::new(),
            exports: Vec::new(),
            clients: Vec::new(),
            mapper: None,
        }
    }

    #[test]
    fn each_state_says_what_to_do_and_has_its_code() {
        let mut report = report();
        assert_eq!(exit_code(&report), 0);
        assert!(text(&report).contains("do: nothing"), "{}", text(&report));
        report.state = "degraded".into();
        report.table.entries = 1;
        report.table.remapped_blocks = 1;
        assert_eq!(exit_code(&report), 1);
        assert!(text(&report).contains("keep a backup"));
        report.table.lost_sectors = 2;
        assert_eq!(exit_code(&report), 2);
        assert!(text(&report).contains("2 sectors (1.0 KiB) cannot be read"), "{}", text(&report));
        report.table.lost_sectors = 0;
        report.state = "frozen".into();
        report.suspended = Some(SuspendedReport { device: "main".into(), fault: "device gone".into() });
        assert_eq!(exit_code(&report), 2);
        assert!(text(&report).contains("message disk resume"));
        report.read_only = true;
        assert_eq!(exit_code(&report), 1, "suspended because it is read-only");
        report.state = "splendid".into();
        assert_eq!(exit_code(&report), 4);
    }

    #[test]
    fn json_has_its_version_and_round_trips() {
        let report = report();
        let json = wire::pretty(&report).unwrap();
        assert!(json.starts_with("{\n  \"schema_version\": 1,"), "{json}");
        let line = wire::encode(&report).unwrap();
        assert_eq!(wire::decode::<StatusReport>(&line).unwrap(), report);
    }
}
