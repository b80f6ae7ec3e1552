//! `metadata`: what the spares hold, while nobody serves them: checked, shown, compared, repaired, brought back.

mod analyze;
mod check;
mod compare;
pub(crate) mod dump;
mod generations;
mod moment;
mod outputs;
mod repair;
mod restore;
mod rollback;
mod salvage;
mod scan;

use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::{Context as _, ensure};
use remap_core::recovery::{Recovered, shape_of};
use remap_format::{COPIES, Entry, Superblock};
use remap_io::Device;
use uuid::Uuid;

use crate::cli::{
    DumpFormat, MetadataAction, MetadataAnalyzeArgs, MetadataArgs, MetadataCheckArgs, MetadataCompareArgs,
    MetadataDumpArgs, MetadataGenerationsArgs, MetadataRepairArgs, MetadataRestoreArgs, MetadataRollbackArgs,
};
use crate::exit::{Exit, refusal};
use crate::files;
use crate::map::{self, deliver};
use crate::open::{Access, Opener, SpareArg, examine};
use crate::units::{format_count, format_sectors, format_size, format_time};
use crate::wire;
use analyze::Analysis;
pub(crate) use check::{Verdict, check};
use dump::Dump;
pub(crate) use moment::read_dump;
use outputs::Outputs;
use repair::Outcome;

/// The volume of these entries, to be written.
///
/// # Errors
/// The entries contradict each other, or are more than the metadata have room for.
fn assembled(superblock: Superblock, entries: &[Entry]) -> anyhow::Result<Recovered> {
    let recovered = Recovered::fresh(superblock, entries)?;
    let runs = recovered.table.counts().entries + recovered.pool.retired().len() as u64;
    let room = shape_of(&recovered.superblock).capacity();
    ensure!(runs <= room, "the table has {runs} runs, and the metadata have room for {room}");
    Ok(recovered)
}

/// Runs a `metadata` command.
///
/// # Errors
/// What stood in the way, with the exit code that goes with it.
pub(crate) fn run(args: &MetadataArgs) -> anyhow::Result<ExitCode> {
    match &args.action {
        MetadataAction::Check(args) => run_check(args),
        MetadataAction::Dump(args) => run_dump(args),
        MetadataAction::Analyze(args) => run_analyze(args),
        MetadataAction::Generations(args) => run_generations(args),
        MetadataAction::Compare(args) => run_compare(args),
        MetadataAction::Repair(args) => run_repair(args),
        MetadataAction::Rollback(args) => run_rollback(args),
        MetadataAction::Restore(args) => run_restore(args),
    }
}

fn run_check(args: &MetadataCheckArgs) -> anyhow::Result<ExitCode> {
    let spares = Opener::auto().spares(&args.spares.spares, Access::Read)?;
    let report = check(&spares);
    let text = if args.form.json { wire::pretty(&report)? } else { report.text() };
    deliver(None, text.as_bytes(), false)?;
    let exit = match report.verdict {
        Verdict::Good => Exit::Done,
        Verdict::Repairable => Exit::Failure,
        Verdict::Refused => Exit::Metadata,
    };
    Ok(exit.into())
}

fn run_dump(args: &MetadataDumpArgs) -> anyhow::Result<ExitCode> {
    if let Some(output) = &args.to.output {
        files::refuse_existing(output, args.to.force)?;
    }
    let spares = Opener::auto().spares(&args.spares.spares, Access::Read)?;
    let recovered = examine(&spares, true)?;
    let text = match args.format {
        DumpFormat::Json => Dump::of(&recovered).to_json()?,
        DumpFormat::Text => text(&recovered, &args.spares.spares, &spares),
    };
    deliver(args.to.output.as_deref(), text.as_bytes(), args.to.force)?;
    Ok(Exit::Done.into())
}

/// The metadata for people.
fn text(recovered: &Recovered, args: &[SpareArg], spares: &[Device]) -> String {
    let s = &recovered.superblock;
    let mut out = String::new();
    let or_none = |text: &str| if text.is_empty() { "none".to_owned() } else { text.to_owned() };
    let rows = [
        ("uuid", Uuid::from_bytes(s.volume).to_string()),
        ("adopted", format_time(s.created)),
        ("policy", s.policy.word().to_owned()),
        ("main size", format!("{} bytes ({})", s.main.size, format_size(s.main.size))),
        ("main block", format!("{} bytes", s.main.logical_block)),
        ("main wwn", or_none(&s.main.wwn)),
        ("main serial", or_none(&s.main.serial)),
        ("main model", or_none(&s.main.model)),
        ("main content", or_none(&s.main.content_uuid)),
        ("copies", format!("{} of {COPIES} in step", recovered.good_copies())),
        ("room", format!("{} runs in the table", shape_of(s).capacity())),
    ];
    for (name, value) in rows {
        let _ = writeln!(out, "{name:<13} {value}");
    }
    for (number, record) in s.spares.iter().enumerate() {
        let uuid = Uuid::from_bytes(record.uuid);
        let _ = writeln!(out, "spare {number:<7} {uuid}, {} bytes, {} slots", record.size, record.slots);
    }
    out.push_str(&map::listing(&map::table_of(recovered, args, spares)));
    out
}

fn run_repair(args: &MetadataRepairArgs) -> anyhow::Result<ExitCode> {
    let mut opener = Opener::auto();
    let spares = opener.spares(&args.spares.spares, Access::Read)?;
    let Some(gathered) = repair::gather(&spares)? else {
        let text = "no copy has a whole superblock: nothing can be believed, and nothing was written; if there is a \
                    dump, 'metadata restore' brings it back";
        return Err(refusal(Exit::Metadata, text));
    };
    let mut outputs = Outputs::open(&args.outputs, &gathered.superblock, &mut opener)?;
    let outcome = outputs.write(gathered)?;
    Ok(say_written(&outcome, &outputs).into())
}

fn say_written(outcome: &Outcome, outputs: &Outputs) -> Exit {
    println!("{} blocks and {} runs were copied to {}", outcome.blocks, outcome.entries, outputs.names());
    if outcome.lost_sectors > 0 {
        println!("{} of them could not be read and are lost", format_sectors(outcome.lost_sectors));
    }
    for doubt in &outcome.doubts {
        println!("not to be had: {doubt}");
    }
    println!("serve the volume with the new spare, and never again with the old one");
    let complete = outcome.lost_sectors == 0 && outcome.doubts.is_empty();
    if complete { Exit::Done } else { Exit::Lost }
}

fn run_analyze(args: &MetadataAnalyzeArgs) -> anyhow::Result<ExitCode> {
    let spares = Opener::auto().spares(&args.spares.spares, Access::Read)?;
    let analysis = Analysis::of(&examine(&spares, true)?);
    let text = if args.form.json { wire::pretty(&analysis)? } else { analysis.text() };
    deliver(None, text.as_bytes(), false)?;
    Ok(Exit::Done.into())
}

fn run_generations(args: &MetadataGenerationsArgs) -> anyhow::Result<ExitCode> {
    let spares = Opener::auto().spares(&args.spares.spares, Access::Read)?;
    let superblock = examine(&spares, true)?.superblock;
    let found = remap_runtime::generations(&spares)
        .map_err(|error| crate::open::recovery_refusal(&error, &spares))?;
    let list = generations::List::of(&superblock, &found);
    let text = if args.form.json { wire::pretty(&list)? } else { list.text() };
    deliver(None, text.as_bytes(), false)?;
    Ok(Exit::Done.into())
}

fn run_compare(args: &MetadataCompareArgs) -> anyhow::Result<ExitCode> {
    let spares = Opener::auto().spares(&args.spares.spares, Access::Read)?;
    let from = moment::recover(&args.from, &spares)?;
    let to = moment::recover(&args.to, &spares)?;
    moment::refuse_strangers(&from.superblock, &to.superblock)?;
    let comparison = compare::Comparison::of(&from, &to);
    let text = if args.form.json { wire::pretty(&comparison)? } else { comparison.text() };
    deliver(None, text.as_bytes(), false)?;
    Ok(Exit::Done.into())
}

fn run_rollback(args: &MetadataRollbackArgs) -> anyhow::Result<ExitCode> {
    let mut opener = Opener::auto();
    let spares = opener.spares(&args.spares.spares, Access::Read)?;
    let now = examine(&spares, true)?;
    let then = moment::recover(&args.to, &spares)?;
    let plan = rollback::Plan::of(&now, &then)?;
    deliver(None, plan.text(&now, &then).as_bytes(), false)?;
    if !plan.is_free() {
        let text = format!(
            "{} cannot go back (listed with the reasons): nothing was written. 'map export' shows what is where now; \
             'metadata restore --force' goes back to a dump without asking, and what it loses is gone",
            format_count(plan.blocked_blocks(), "block")
        );
        return Err(refusal(Exit::Failure, text));
    }
    if args.dry_run {
        return Ok(Exit::Done.into());
    }
    let mut outputs = Outputs::open(&args.outputs, &now.superblock, &mut opener)?;
    let outcome = outputs.write(rollback::rolled_back(&now, &then, &spares))?;
    Ok(say_written(&outcome, &outputs).into())
}

fn run_restore(args: &MetadataRestoreArgs) -> anyhow::Result<ExitCode> {
    let dump = read_dump(&args.dump)?;
    let (superblock, entries) = dump.volume().with_context(|| moment::not_a_dump(&args.dump))?;
    let mut opener = Opener::auto();
    let main = args.main.as_ref().map(|main| opener.whole(main, Access::Read)).transpose()?;
    let spares = opener.spares(&args.spares.spares, Access::Write)?;
    let name = superblock.name.clone();
    let generation = restore::restore(superblock, &entries, &spares, main.as_ref(), args.force)?;
    println!(
        "the metadata of volume '{name}' were written to the spare: {} entries, generation {generation}; no slot was touched",
        entries.len()
    );
    Ok(Exit::Done.into())
}
