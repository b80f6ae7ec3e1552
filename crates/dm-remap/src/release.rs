//! `release`: leaving dm-remap, back to the main device or on to another one.
//!
//! Invariant: nothing is dropped that no other device holds: the spares are marked as released only when their blocks are
//! elsewhere, and what is lost is listed.

mod back;
mod out;

use std::fs;
use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressStyle};
use remap_core::engine::RequestError;
use remap_core::units::{Extent, SECTOR_SIZE};
use remap_format::SuperblockFlags;
use remap_io::{Device, Direct};
use remap_runtime::{OpenOptions, Volume, rewrite};

use crate::cli::ReleaseArgs;
use crate::exit::{Exit, refusal};
use crate::files;
use crate::map::lost_map;
use crate::open::{Access, Opener, examine};
use crate::units::{format_sectors, format_size};

/// Runs of lost sectors that are listed; the map has them all.
const LISTED: usize = 20;

/// Runs `release`.
///
/// # Errors
/// What stood in the way, with the exit code that goes with it.
pub(crate) fn run(args: &ReleaseArgs) -> anyhow::Result<ExitCode> {
    if let Some(path) = &args.lost_map {
        files::refuse_existing(path, false)?;
    }
    if args.dry_run {
        return dry_run(args);
    }
    match &args.to {
        None => to_main(args),
        Some(to) => to_other(args, to),
    }
}

fn open_volume(args: &ReleaseArgs, access: Access) -> anyhow::Result<Volume> {
    let mut opener = Opener::auto();
    let main = opener.whole(&args.main, access)?;
    let spares = opener.spares(&args.spares.spares, access)?;
    // Refusals that name the spares' paths come from here.
    examine(&spares, access == Access::Read)?;
    let options = OpenOptions {
        read_only: access == Access::Read,
        force_identity: args.force,
        ..OpenOptions::default()
    };
    let (volume, report) = Volume::open(main, spares, options)?;
    for warning in &report.warnings {
        eprintln!("dm-remap: warning: {warning}");
    }
    Ok(volume)
}

fn dry_run(args: &ReleaseArgs) -> anyhow::Result<ExitCode> {
    let volume = open_volume(args, Access::Read)?;
    let (entries, lost) = (volume.entries()?, volume.lost()?);
    let blocks = back::remapped_blocks(&entries);
    let size = volume.superblock().main.size;
    match &args.to {
        None => println!(
            "{blocks} blocks ({}) would be written back to {}, and the spares marked as released",
            format_size(blocks * u64::from(volume.superblock().block_size())),
            args.main.display()
        ),
        Some(to) => println!(
            "{} would be copied to {}; {} and the spares would only be read, and the spares marked as released",
            format_size(size),
            to.display(),
            args.main.display()
        ),
    }
    say_lost(&lost, "are lost, and would be listed");
    volume.stop();
    Ok(Exit::Done.into())
}

fn to_main(args: &ReleaseArgs) -> anyhow::Result<ExitCode> {
    let volume = open_volume(args, Access::Write)?;
    let blocks = back::remapped_blocks(&volume.entries()?);
    let question =
        format!("Write {blocks} blocks back to {} and mark the spares as released?", args.main.display());
    confirm(args.yes, &question)?;
    let bar = bar(blocks, "{bar:40} {pos}/{len} blocks {eta}");
    let back = back::copy_back(&volume, &|done| bar.set_position(done))?;
    bar.finish_and_clear();
    volume.stop();
    println!("{} blocks are back on {}", back.moved, args.main.display());
    if !back.kept.is_empty() {
        let kept: u64 = back.kept.iter().map(|e| u64::from(e.count)).sum();
        let why = back.error.map_or_else(String::new, |error| match error {
            RequestError::Io(fault) => format!(" ({fault:?} fault)"),
            RequestError::NoSpace => " (no slot is left)".to_owned(),
        });
        println!(
            "{kept} blocks were not taken by the device{why}: they stay on the spare, the volume is NOT released, and \
             it must go on to be served with dm-remap; use --to to move everything to another device"
        );
    }
    say_lost(&back.lost, "are lost; what the device still reads there, if anything, is out of date");
    write_lost_map(args, &volume, &back.lost)?;
    if back.released {
        println!("the spares are marked as released: {} stands alone again", args.main.display());
    }
    let whole = back.kept.is_empty() && back.lost.is_empty();
    Ok(if whole { Exit::Done } else { Exit::Lost }.into())
}

fn to_other(args: &ReleaseArgs, to: &Path) -> anyhow::Result<ExitCode> {
    let volume = open_volume(args, Access::Read)?;
    let size = volume.superblock().main.size;
    let blank = !to.exists();
    let question = format!(
        "Copy {} to {}{}, and mark the spares as released?",
        format_size(size),
        to.display(),
        if blank { " (made for it)" } else { ", overwriting what is there" }
    );
    confirm(args.yes, &question)?;
    let made = if blank { Some(files::Made::create(to, size)?) } else { None };
    let dest = open_dest(args, to, size)?;
    // From here on it holds something.
    if let Some(made) = made {
        made.keep();
    }
    say_lost(&volume.lost()?, "are lost; they become zeroes on the destination");
    let bar = bar(size, "{bar:40} {bytes}/{total_bytes} {bytes_per_sec} {eta}");
    let copied = out::copy_out(&volume, &dest, blank, &|done| bar.set_position(done))?;
    bar.finish_and_clear();
    volume.stop();
    println!("{} were copied to {}", format_size(copied.good_bytes), to.display());
    let mut missing = [copied.lost.as_slice(), copied.unread.as_slice()].concat();
    missing.sort_unstable();
    say_lost(&copied.lost, "are lost, and zero on the destination");
    say_lost(&copied.unread, "could not be read now, and are zero on the destination");
    write_lost_map(args, &volume, &missing)?;
    drop(volume);
    if copied.unread.is_empty() {
        mark_released(args)?;
        println!("the spares are marked as released");
    } else {
        println!("the volume is NOT released: try again, or read those sectors with a rescue tool first");
    }
    Ok(if missing.is_empty() { Exit::Done } else { Exit::Lost }.into())
}

/// Marks the spares as released without so much as opening the main device for writing.
fn mark_released(args: &ReleaseArgs) -> anyhow::Result<()> {
    let spares = Opener::auto().spares(&args.spares.spares, Access::Write)?;
    let mut recovered = examine(&spares, true)?;
    let flags = recovered.superblock.flags.0 | SuperblockFlags::RELEASED.0;
    recovered.superblock.flags = SuperblockFlags(flags);
    rewrite(&spares, recovered)?;
    Ok(())
}

/// The destination: at least as large, and neither main device nor spare.
fn open_dest(args: &ReleaseArgs, to: &Path, size: u64) -> anyhow::Result<Device> {
    let same = |other: &Path| match (fs::canonicalize(to), fs::canonicalize(other)) {
        (Ok(a), Ok(b)) => a == b,
        _ => false,
    };
    if std::iter::once(args.main.as_path())
        .chain(args.spares.spares.iter().map(|s| s.path.as_path()))
        .any(same)
    {
        let text = format!("{}: is a device of the volume itself: give another destination", to.display());
        return Err(refusal(Exit::Mismatch, text));
    }
    // Through the page cache: the volume may end in the middle of the destination's blocks.
    let options = remap_io::OpenOptions {
        write: true,
        exclusive: true,
        direct: Direct::Never,
        ..remap_io::OpenOptions::default()
    };
    let dest = Device::open(to, &options)?;
    if dest.size() < size {
        let text = format!(
            "{}: has {} bytes; the volume needs {size}: give a larger destination",
            to.display(),
            dest.size()
        );
        return Err(refusal(Exit::Mismatch, text));
    }
    Ok(dest)
}

/// Asks, unless told not to.
fn confirm(yes: bool, question: &str) -> anyhow::Result<()> {
    if yes {
        return Ok(());
    }
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        let text = format!(
            "{question} Nobody is here to answer: use --yes (or --dry-run to see what would be done)"
        );
        return Err(refusal(Exit::Usage, text));
    }
    eprint!("{question} Type yes to go on: ");
    std::io::stderr().flush().context("the question")?;
    let mut answer = String::new();
    stdin.lock().read_line(&mut answer).context("the answer")?;
    if answer.trim() == "yes" {
        Ok(())
    } else {
        Err(refusal(Exit::Failure, "not confirmed; nothing was done"))
    }
}

fn bar(len: u64, template: &str) -> ProgressBar {
    let style = ProgressStyle::with_template(template);
    ProgressBar::new(len).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

fn say_lost(lost: &[Extent], what: &str) {
    if lost.is_empty() {
        return;
    }
    println!("{} {what}:", format_sectors(lost.iter().map(Extent::sectors).sum()));
    for extent in lost.iter().take(LISTED) {
        match extent.sectors() {
            1 => println!("  {}", extent.start().0),
            _ => println!("  {}-{}", extent.start().0, extent.end().0 - 1),
        }
    }
    if lost.len() > LISTED {
        println!("  ... and {} more runs (all of them: --lost-map FILE)", lost.len() - LISTED);
    }
}

fn write_lost_map(args: &ReleaseArgs, volume: &Volume, lost: &[Extent]) -> anyhow::Result<()> {
    let Some(path) = &args.lost_map else { return Ok(()) };
    let superblock = volume.superblock();
    let size = superblock.main.size - superblock.main.size % SECTOR_SIZE;
    let text = lost_map(lost, size, &superblock.name)?;
    files::write(path, text.as_bytes(), false)
}
