//! `stress`: a volume under load, with every byte verified that comes back.
//!
//! Invariant: whatever ends a run (its time, a signal, a wrong byte), what was seen is reported, and a volume that the run made goes
//! away, unless it is evidence.

mod draw;
mod drift;
mod engine;
mod faults;
mod findings;
mod folder;
mod ground;
mod halt;
mod meter;
mod mix;
mod model;
mod mover;
mod phase;
mod plan;
mod progress;
mod report;
mod resources;
mod stamp;
mod worker;

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::cli::{StressArgs, StressGroup};
use crate::files;
use crate::wire;
use engine::Engine;
use ground::Ground;
use halt::Halt;
use plan::Plan;
use progress::Progress;
use report::Report;

/// Standard output, in place of a file.
const STDOUT: &str = "-";

/// Runs a `stress` command.
///
/// # Errors
/// The volume cannot be opened or made, or the report cannot be written.
pub(crate) fn run(args: &StressGroup) -> anyhow::Result<ExitCode> {
    let (plan, args) = Plan::of(&args.action);
    let json = args.json.as_deref().filter(|path| *path != Path::new(STDOUT));
    if let Some(path) = json {
        files::refuse_existing(path, args.force)?;
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let seed = args.seed.unwrap_or(u64::try_from(now.as_nanos() % u128::from(u32::MAX)).unwrap_or(0));
    let halt = Halt::on_signals()?;
    let mut ground = Ground::prepare(args, &plan, seed)?;
    let mut progress = Progress::of(args.quiet, plan.duration);
    let outcome =
        Engine { plan: &plan, ground: &ground, seed, moves: args.moves, halt: &halt }.run(&mut progress);
    progress.end();
    let tally = outcome?;
    let mut report = Report::of(&plan, &ground, args, seed, tally);
    if halt.has_evidence() {
        report.evidence = ground.keep().map(|path| path.display().to_string());
    }
    tell(args, json, &report)?;
    Ok(report.exit().into())
}

/// The report goes where it was asked for; whoever was to read it may have gone.
fn tell(args: &StressArgs, json: Option<&Path>, report: &Report) -> anyhow::Result<()> {
    let in_place_of_text = args.json.is_some() && json.is_none();
    let text = if in_place_of_text { wire::pretty(report)? } else { report.text() };
    let _ = std::io::stdout().write_all(text.as_bytes());
    match json {
        Some(path) => files::write(path, wire::pretty(report)?.as_bytes(), args.force),
        None => Ok(()),
    }
}
