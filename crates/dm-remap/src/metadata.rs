//! `metadata`: check, dump, repair and restore what the spares hold, while nobody serves them.

mod check;
pub(crate) mod dump;
mod repair;
mod restore;
mod salvage;
mod scan;

use std::fmt::Write as _;
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressStyle};
use remap_core::recovery::{Recovered, RecoveryError, shape_of};
use remap_format::{COPIES, Superblock};
use remap_io::Device;
use uuid::Uuid;

use crate::cli::{
    DumpFormat, MetadataAction, MetadataArgs, MetadataCheckArgs, MetadataDumpArgs, MetadataRepairArgs,
    MetadataRestoreArgs,
};
use crate::exit::{Exit, refusal};
use crate::map::{self, deliver};
use crate::open::{Access, Opener, SpareArg, examine};
use crate::units::{format_sectors, format_size, format_time};
use crate::wire;
use check::Verdict;
use dump::Dump;

/// Runs a `metadata` command.
///
/// # Errors
/// What stood in the way, with the exit code that goes with it.
pub(crate) fn run(args: &MetadataArgs) -> anyhow::Result<ExitCode> {
    match &args.action {
        MetadataAction::Check(args) => run_check(args),
        MetadataAction::Dump(args) => run_dump(args),
        MetadataAction::Repair(args) => run_repair(args),
        MetadataAction::Restore(args) => run_restore(args),
    }
}

fn run_check(args: &MetadataCheckArgs) -> anyhow::Result<ExitCode> {
    let spares = Opener::auto().spares(&args.spares, Access::Read)?;
    let report = check::check(&spares);
    let text = if args.json { wire::pretty(&report)? } else { report.text() };
    deliver(None, text.as_bytes())?;
    let exit = match report.verdict {
        Verdict::Good => Exit::Done,
        Verdict::Repairable => Exit::Failure,
        Verdict::Refused => Exit::Metadata,
    };
    Ok(exit.into())
}

fn run_dump(args: &MetadataDumpArgs) -> anyhow::Result<ExitCode> {
    let spares = Opener::auto().spares(&args.spares, Access::Read)?;
    let recovered = examine(&spares, true)?;
    let text = match args.format {
        DumpFormat::Json => Dump::of(&recovered).to_json()?,
        DumpFormat::Text => text(&recovered, &args.spares, &spares),
    };
    deliver(args.output.as_deref(), text.as_bytes())?;
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
    let spares = opener.spares(&args.spares, Access::Read)?;
    let Some(gathered) = repair::gather(&spares)? else {
        let text = "no copy has a whole superblock: nothing can be believed, and nothing was written; if there is a \
                    dump, 'metadata restore' brings it back";
        return Err(refusal(Exit::Metadata, text));
    };
    let mut made = Made::default();
    let outputs = open_outputs(args, &gathered.superblock, &mut opener, &mut made)?;
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} blocks {eta}");
    let bar = ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let outcome = repair::repair(gathered, &outputs, &|done, total| {
        bar.set_length(total);
        bar.set_position(done);
    })?;
    bar.finish_and_clear();
    made.keep = true;
    println!(
        "{} blocks and {} runs were copied to {}",
        outcome.blocks,
        outcome.entries,
        outputs.iter().map(|o| o.path().display().to_string()).collect::<Vec<_>>().join(", ")
    );
    if outcome.lost_sectors > 0 {
        println!("{} of them could not be read and are lost", format_sectors(outcome.lost_sectors));
    }
    for doubt in &outcome.doubts {
        println!("not to be had: {doubt}");
    }
    println!("serve the volume with the new spare, and never again with the old one");
    let complete = outcome.lost_sectors == 0 && outcome.doubts.is_empty();
    Ok(if complete { Exit::Done } else { Exit::Lost }.into())
}

/// Files that a repair has made; removed again if it fails.
#[derive(Debug, Default)]
struct Made {
    files: Vec<PathBuf>,
    keep: bool,
}

impl Drop for Made {
    fn drop(&mut self) {
        for file in self.files.iter().filter(|_| !self.keep) {
            // The error that led here is the one to tell.
            let _ = fs::remove_file(file);
        }
    }
}

fn open_outputs(
    args: &MetadataRepairArgs,
    superblock: &Superblock,
    opener: &mut Opener,
    made: &mut Made,
) -> anyhow::Result<Vec<Device>> {
    if args.outputs.len() != superblock.spares.len() {
        let text = format!(
            "volume '{}' has {} spares: give as many --output, in their order",
            superblock.name,
            superblock.spares.len()
        );
        return Err(refusal(Exit::Usage, text));
    }
    let mut outputs = Vec::new();
    for (arg, record) in args.outputs.iter().zip(&superblock.spares) {
        let path = arg.path.display();
        if !arg.path.exists() {
            let file = File::create_new(&arg.path).with_context(|| format!("{path}: cannot be made"))?;
            made.files.push(arg.path.clone());
            let size = arg.start.saturating_add(record.size);
            file.set_len(size).with_context(|| format!("{path}: cannot be {size} bytes large"))?;
        }
        let output = opener.spare(arg, Access::Write)?;
        if output.size() < record.size {
            let text = format!("{path}: has {} bytes; the new spare needs {}", output.size(), record.size);
            return Err(refusal(Exit::Mismatch, text));
        }
        if !args.force {
            refuse_full(&output)?;
        }
        outputs.push(output);
    }
    Ok(outputs)
}

/// A new spare must be empty.
fn refuse_full(output: &Device) -> anyhow::Result<()> {
    let path = output.path().display();
    let holds = match remap_runtime::examine(std::slice::from_ref(output), true) {
        Err(RecoveryError::NoMetadata { .. }) => match &output.identity().content_uuid {
            None => return Ok(()),
            Some(found) => format!("something ({found})"),
        },
        Ok(found) => format!("volume '{}'", found.superblock.name),
        Err(_) => "metadata of a volume".to_owned(),
    };
    let text = format!("{path}: holds {holds}; give an empty output, or use --force to overwrite it");
    Err(refusal(Exit::Busy, text))
}

fn run_restore(args: &MetadataRestoreArgs) -> anyhow::Result<ExitCode> {
    let file = args.dump.display();
    let text = fs::read_to_string(&args.dump).with_context(|| format!("{file}: cannot be read"))?;
    let dump = Dump::parse(&text).with_context(|| format!("{file}: not a dump that can be restored"))?;
    let (superblock, entries) =
        dump.volume().with_context(|| format!("{file}: not a dump that can be restored"))?;
    let mut opener = Opener::auto();
    let main = args.main.as_ref().map(|main| opener.whole(main, Access::Read)).transpose()?;
    let spares = opener.spares(&args.spares, Access::Write)?;
    let name = superblock.name.clone();
    let generation = restore::restore(superblock, &entries, &spares, main.as_ref(), args.force)?;
    println!(
        "the metadata of volume '{name}' were written to the spare: {} entries, generation {generation}; no slot was touched",
        entries.len()
    );
    Ok(Exit::Done.into())
}
