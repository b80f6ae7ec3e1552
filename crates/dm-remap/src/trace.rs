//! `trace`: where the time of requests goes.
//!
//! Invariant: the server measures for the time that was asked for and no longer, whatever becomes of this program.

use std::fmt::Write as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use remap_runtime::{Stage, TraceKind};
use serde::Serialize;
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::cli::TraceArgs;
use crate::control::Client;
use crate::exit::Exit;
use crate::wire::{Ask, Reply, WireStage};

/// Version of what `--json` prints.
const SCHEMA_VERSION: u32 = 1;

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'r> {
    schema_version: u32,
    seconds: f64,
    stages: &'r [WireStage],
}

/// Runs the command.
pub(crate) fn run(args: &TraceArgs) -> anyhow::Result<ExitCode> {
    let mut client = Client::connect(&args.volume)?;
    let over = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&over)).context("cannot wait for signals")?;
    }
    let begin = Instant::now();
    ask(&mut client, args, Some(args.seconds))?;
    let span = Duration::from_secs(args.seconds.into());
    while begin.elapsed() < span && !over.load(Ordering::Acquire) {
        std::thread::sleep(Duration::from_millis(20).min(span));
    }
    let stages = ask(&mut client, args, Some(0))?;
    let seconds = begin.elapsed().as_secs_f64();
    if args.json {
        let report = Report { schema_version: SCHEMA_VERSION, seconds, stages: &stages };
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{}", table(&stages, seconds));
    }
    Ok(Exit::Done.into())
}

fn ask(client: &mut Client, args: &TraceArgs, seconds: Option<u32>) -> anyhow::Result<Vec<WireStage>> {
    match client.ask(&Ask::Trace { seconds }, None)? {
        Reply::Trace { stages } => Ok(stages),
        _ => bail!("{}: answered something else", args.volume),
    }
}

fn table(stages: &[WireStage], seconds: f64) -> String {
    if stages.is_empty() {
        return format!("no request ended in {seconds:.1} s\n");
    }
    let mut text =
        format!("{seconds:.1} s; times in microseconds; share: of the time of all requests of the kind\n");
    text.push_str(
        "kind            stage       requests       mean        p50        p99        max  share\n",
    );
    for kind in TraceKind::ALL.map(TraceKind::word) {
        let of_kind = || stages.iter().filter(move |stage| stage.kind == kind);
        let whole = of_kind().find(|stage| stage.stage == Stage::Whole.word());
        let all_ns = whole.map_or(0, |whole| whole.sum_ns).max(1);
        let share = |ns: u64| 100.0 * ns as f64 / all_ns as f64;
        for (n, stage) in of_kind().enumerate() {
            let us = |ns: u64| ns as f64 / 1000.0;
            let mean = us(stage.sum_ns) / stage.count.max(1) as f64;
            let _ = writeln!(
                text,
                "{:<15} {:<9} {:>10} {mean:>10.1} {:>10.1} {:>10.1} {:>10.1} {:>4.0} %",
                if n == 0 { kind } else { "" },
                stage.stage,
                stage.count,
                us(stage.p50_ns),
                us(stage.p99_ns),
                us(stage.max_ns),
                share(stage.sum_ns),
            );
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stage(kind: TraceKind, stage: Stage, sum_ns: u64) -> WireStage {
        let (kind, stage) = (kind.word().to_owned(), stage.word().to_owned());
        WireStage { kind, stage, count: 10, sum_ns, p50_ns: 1500, p99_ns: 9000, max_ns: 12_345 }
    }

    #[test]
    fn a_table_says_which_share_each_stage_has() {
        let stages = [
            stage(TraceKind::Read, Stage::Device, 75_000),
            stage(TraceKind::Read, Stage::Whole, 100_000),
            stage(TraceKind::Flush, Stage::Device, 1_000_000),
        ];
        let text = table(&stages, 10.0);
        let rows: Vec<Vec<&str>> =
            text.lines().skip(2).map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(rows[0], ["read", "device", "10", "7.5", "1.5", "9.0", "12.3", "75", "%"]);
        assert_eq!(rows[1], ["whole", "10", "10.0", "1.5", "9.0", "12.3", "100", "%"]);
        assert_eq!(rows[2][..3], ["flush", "device", "10"]);
        assert_eq!(rows.len(), 3);
        assert_eq!(table(&[], 2.0), "no request ended in 2.0 s\n");
    }
}
