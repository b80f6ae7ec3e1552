//! What a run says at its end, for people and for programs.
//!
//! Invariant: every figure was counted or measured in this run; whatever is not as it should be is said in words, and decides the exit code.

mod text;

use serde::Serialize;

use super::drift::{Drift, Window};
use super::engine::Outcome;
use super::ground::Ground;
use super::meter::{KINDS, Latencies};
use super::plan::Plan;
use crate::cli::StressArgs;
use crate::exit::Exit;
use crate::metadata::Verdict;
use crate::status_json::{SlotsReport, TableReport};
use crate::units::format_count;

/// Version of the fields below: they are only ever added to.
const SCHEMA_VERSION: u32 = 1;

/// Latencies of one kind of requests, in microseconds.
#[derive(Clone, Copy, Debug, Serialize)]
struct LatencyPart {
    kind: &'static str,
    count: u64,
    mean_us: f64,
    p50_us: f64,
    p90_us: f64,
    p99_us: f64,
    p999_us: f64,
    max_us: f64,
}

impl LatencyPart {
    fn of(kind: &'static str, latencies: &Latencies) -> Self {
        Self {
            kind,
            count: latencies.count(),
            mean_us: latencies.mean_us(),
            p50_us: latencies.quantile_us(0.5),
            p90_us: latencies.quantile_us(0.9),
            p99_us: latencies.quantile_us(0.99),
            p999_us: latencies.quantile_us(0.999),
            max_us: latencies.max_us(),
        }
    }
}

#[derive(Clone, Debug, Serialize)]
struct VolumePart {
    main: String,
    /// Made for the run, and removed.
    made: bool,
    size: u64,
    block_size: u32,
    /// Bytes from its start that were used.
    used: u64,
    direct: bool,
    state: String,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct ErrorsPart {
    expected: u64,
    unexpected: u64,
    /// Times that remapping was suspended because of a device.
    breaker_trips: u64,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct RemapsPart {
    /// Blocks moved because of an error, and healed in place.
    automatic: u64,
    healed: u64,
    /// Commands that moved blocks to the spare or back, and those that failed in part.
    commands: u64,
    commands_failed: u64,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct MetadataPart {
    compared_in_service: u64,
    differed_in_service: u64,
    /// The table kept changing.
    undecided_in_service: u64,
    /// By 'metadata check' after the volume was closed, and after it was closed again.
    closed: [Option<Verdict>; 2],
    commits: u64,
    checkpoints: u64,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct VerifiedPart {
    /// All that was compared, in the load and afterwards.
    bytes: u64,
    wrong_bytes: u64,
    read_back_bytes: u64,
    /// After the volume was closed and opened.
    read_again_bytes: u64,
}

/// See the module. Sizes in bytes, MB of 10^6 bytes.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    schema_version: u32,
    program_version: &'static str,
    command: &'static str,
    about: String,
    /// `good` or `failed`.
    verdict: &'static str,
    /// What is not as it should be.
    problems: Vec<String>,
    exit_code: u8,
    interrupted: bool,
    seed: u64,
    workers: usize,
    in_flight_asked: usize,
    in_flight_max: usize,
    elapsed_s: f64,
    operations: u64,
    iops: f64,
    mb_s: f64,
    read_bytes: u64,
    written_bytes: u64,
    latency: Vec<LatencyPart>,
    verified: VerifiedPart,
    /// The first wrong sectors.
    wrong: Vec<String>,
    errors: ErrorsPart,
    /// The first errors that are not expected.
    unexpected: Vec<String>,
    remaps: RemapsPart,
    table: TableReport,
    slots: SlotsReport,
    metadata: MetadataPart,
    drift: Option<Drift>,
    windows: Vec<Window>,
    volume: VolumePart,
    /// Where the files of a volume with wrong bytes were kept.
    pub evidence: Option<String>,
}

impl Report {
    /// Of a run.
    pub(crate) fn of(plan: &Plan, ground: &Ground, args: &StressArgs, seed: u64, outcome: Outcome) -> Self {
        let drift = Drift::of(&outcome.windows);
        let (exit, problems) = judge(plan, ground, args, drift.as_ref(), &outcome);
        let Outcome { tally, status, elapsed, checks, .. } = outcome;
        let (meter, findings, counters) = (tally.meter, tally.findings, status.counters);
        let seconds = elapsed.as_secs_f64().max(1e-9);
        let all = ("all", meter.all());
        let kinds = KINDS.map(|(kind, name)| (name, meter.of(kind).clone()));
        let used = kinds.into_iter().chain([all]).filter(|(_, latencies)| latencies.count() > 0);
        Self {
            schema_version: SCHEMA_VERSION,
            program_version: env!("CARGO_PKG_VERSION"),
            command: plan.command,
            about: plan.about.clone(),
            verdict: if exit == Exit::Done { "good" } else { "failed" },
            problems,
            exit_code: exit as u8,
            interrupted: outcome.interrupted,
            seed,
            workers: outcome.workers,
            in_flight_asked: plan.in_flight,
            in_flight_max: tally.in_flight,
            elapsed_s: seconds,
            operations: meter.requests(),
            iops: meter.requests() as f64 / seconds,
            mb_s: meter.bytes() as f64 / 1e6 / seconds,
            read_bytes: meter.read_bytes,
            written_bytes: meter.written_bytes,
            latency: used.map(|(name, latencies)| LatencyPart::of(name, &latencies)).collect(),
            verified: VerifiedPart {
                bytes: findings.verified_bytes,
                wrong_bytes: findings.wrong_bytes,
                read_back_bytes: outcome.read_back[0],
                read_again_bytes: outcome.read_back[1],
            },
            wrong: findings.wrong,
            errors: ErrorsPart {
                expected: findings.expected_errors,
                unexpected: findings.unexpected_errors,
                breaker_trips: outcome.breaker_trips,
            },
            unexpected: findings.errors,
            remaps: RemapsPart {
                automatic: counters.auto_remaps,
                healed: counters.heals,
                commands: outcome.moved.done,
                commands_failed: outcome.moved.failed,
            },
            table: TableReport {
                entries: status.counts.entries,
                remapped_blocks: status.counts.remapped_blocks,
                pending_blocks: status.counts.pending_blocks,
                lost_sectors: status.counts.lost_sectors,
            },
            slots: status.slots.into(),
            metadata: MetadataPart {
                compared_in_service: checks.in_service,
                differed_in_service: checks.differed,
                undecided_in_service: checks.undecided,
                closed: checks.closed,
                commits: counters.commits,
                checkpoints: counters.checkpoints,
            },
            drift,
            windows: outcome.windows,
            volume: VolumePart {
                main: ground.main.display().to_string(),
                made: ground.is_made(),
                size: status.size,
                block_size: status.block_size,
                used: ground.area,
                direct: status.direct,
                state: format!("{:?}", status.state).to_lowercase(),
            },
            evidence: None,
        }
    }

    /// What to end with.
    pub(crate) fn exit(&self) -> Exit {
        [Exit::Wrong, Exit::Metadata, Exit::Failure]
            .into_iter()
            .find(|exit| *exit as u8 == self.exit_code)
            .unwrap_or(Exit::Done)
    }
}

fn verdict_word(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Good => "all copies are good",
        Verdict::Repairable => "damaged, can be repaired in service",
        Verdict::Refused => "cannot be believed",
    }
}

/// The exit code, and what is not as it should be.
fn judge(
    plan: &Plan,
    ground: &Ground,
    args: &StressArgs,
    drift: Option<&Drift>,
    outcome: &Outcome,
) -> (Exit, Vec<String>) {
    let (findings, checks) = (&outcome.tally.findings, &outcome.checks);
    let mut data = Vec::new();
    if findings.wrong_bytes > 0 {
        data.push(format!("{} wrong bytes: the run ended at once, and wrote no more", findings.wrong_bytes));
    }
    if findings.unexpected_errors > 0 {
        data.push(format!("{} that no drill explains", format_count(findings.unexpected_errors, "error")));
    }
    if outcome.moved.stuck {
        data.push("a command that moves blocks did not come back".to_owned());
    }
    let mut metadata = Vec::new();
    for verdict in checks.closed.into_iter().flatten() {
        // A copy on a spare that fails on command may be behind.
        let bearable = verdict == Verdict::Good || (ground.drills_spares() && verdict == Verdict::Repairable);
        if !bearable {
            metadata.push(format!(
                "the metadata are not good after the volume was closed: {}",
                verdict_word(&verdict)
            ));
        }
    }
    if checks.differed > 0 && !ground.drills_spares() {
        let times = format_count(checks.differed, "time");
        metadata.push(format!("a copy of the metadata differed from the table in use {times}"));
    }
    let mut growth = Vec::new();
    if plan.endurance {
        growth.extend(drift.map(Drift::leaks).unwrap_or_default());
    }
    match (args.fail_above, drift) {
        (Some(percent), Some(drift)) => growth.extend(drift.worse_than(percent)),
        (Some(_), None) => {
            growth.push("the run was too short to compare its end with its beginning".to_owned())
        }
        (None, _) => {}
    }
    let kinds = [(Exit::Wrong, data), (Exit::Metadata, metadata), (Exit::Failure, growth)];
    let exit = kinds.iter().find(|(_, problems)| !problems.is_empty()).map_or(Exit::Done, |(exit, _)| *exit);
    (exit, kinds.into_iter().flat_map(|(_, problems)| problems).collect())
}
