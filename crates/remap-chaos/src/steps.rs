//! `remap-chaos steps`: changes a file system or a device in steps that follow from a seed, and compares what is there after a power cut with
//! what may be.
//!
//! Invariant: after step N was told of, all that it and those before it made durable is there; of step N + 1 any part may be; nothing else.

use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::AtomicBool;

use anyhow::{Context as _, anyhow, ensure};
use clap::{Args, Subcommand};

use crate::bench::SECTOR;
use crate::log_writes::{Run, parse_run};
use crate::sectors::Sectors;
use crate::writer::Writer;

#[derive(Subcommand)]
pub(crate) enum Task {
    /// Writes what there is before the first step, to a device
    Fill {
        /// Its first 2 MiB
        device: PathBuf,
    },
    /// Carries out steps
    Write(WriteArgs),
    /// Compares what is there with what may be after so many steps
    Check(CheckArgs),
}

#[derive(Args)]
pub(crate) struct Story {
    /// A folder, for files in it, or a device of 2 MiB that was filled
    place: PathBuf,
    /// What the steps follow from
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Number of the folder below the folder: for several stories in one place
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u64).range(..8))]
    number: u64,
}

#[derive(Args)]
pub(crate) struct WriteArgs {
    #[command(flatten)]
    story: Story,
    /// How many
    #[arg(long, default_value_t = 40, value_parser = clap::value_parser!(u32).range(..=LONGEST))]
    steps: u32,
    /// A command of the shell that is told of each step that is done, as its last word; of 0 before the first
    #[arg(long)]
    tell: Option<String>,
    /// A device whose first sector holds the number of the last step that is done
    #[arg(long)]
    note: Option<PathBuf>,
}

#[derive(Args)]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    story: Story,
    /// The last step that was told of
    #[arg(long, value_parser = clap::value_parser!(u32).range(..=LONGEST))]
    after: u32,
    /// Sectors of a device that cannot be read until they are overwritten
    #[arg(long, value_name = "FIRST+COUNT", value_parser = parse_run)]
    bad: Vec<Run>,
}

/// Steps of a story: no file grows so long in them that it is begun anew.
pub(crate) const LONGEST: i64 = 49;

/// Carries it out.
///
/// # Errors
/// A step failed; something is there that may not be.
pub(crate) fn run(task: &Task) -> anyhow::Result<()> {
    match task {
        Task::Fill { device } => {
            Sectors::fill(device).with_context(|| format!("{}", device.display()))?;
        }
        Task::Write(args) => write(args)?,
        Task::Check(args) => println!("{}", check(args)?),
    }
    Ok(())
}

fn write(args: &WriteArgs) -> anyhow::Result<()> {
    let Story { place, seed, number } = &args.story;
    let never = AtomicBool::new(false);
    if place.is_dir() {
        let mut writer = Writer::begin(place, *number, *seed).context("the first files")?;
        tell(args, 0)?;
        for step in 1..=args.steps {
            writer.step(place, &never).with_context(|| format!("step {step}"))?;
            tell(args, step)?;
        }
        return Ok(());
    }
    let device = Sectors::open(place).with_context(|| format!("{}", place.display()))?;
    let mut sectors = Sectors::begin(*seed);
    tell(args, 0)?;
    for step in 1..=args.steps {
        sectors.step(Some(&device)).with_context(|| format!("step {step}"))?;
        tell(args, step)?;
    }
    Ok(())
}

/// Tells of a step that is done before the next one begins.
fn tell(args: &WriteArgs, step: u32) -> anyhow::Result<()> {
    if let Some(command) = &args.tell {
        let status = Command::new("sh").arg("-c").arg(format!("{command} {step}")).status().context("sh")?;
        ensure!(status.success(), "'{command} {step}': {status}");
    }
    if let Some(device) = &args.note {
        note(device, step).with_context(|| format!("{}", device.display()))?;
    }
    Ok(())
}

fn note(device: &Path, step: u32) -> io::Result<()> {
    let mut sector = [b'\n'; SECTOR as usize];
    let text = step.to_string();
    sector[..text.len()].copy_from_slice(text.as_bytes());
    let file = std::fs::OpenOptions::new().write(true).open(device)?;
    file.write_all_at(&sector, 0)?;
    file.sync_all()
}

/// Gives what was found.
fn check(args: &CheckArgs) -> anyhow::Result<String> {
    let Story { place, seed, number } = &args.story;
    let after = args.after;
    if place.is_dir() {
        // The same steps once more, elsewhere: the model learns of them as it did then.
        let folder = tempfile::tempdir().context("a folder for files")?;
        let never = AtomicBool::new(false);
        let mut writer = Writer::begin(folder.path(), *number, *seed).context("the first files")?;
        for step in 0..=after {
            writer.cut = step == after;
            writer.step(folder.path(), &never).with_context(|| format!("step {step} in the model"))?;
        }
        writer.compare(place).map_err(|wrong| anyhow!("after step {after}: {wrong}"))?;
        return Ok(format!("{} sectors are as they may be after step {after}", writer.verified));
    }
    let device = Sectors::open(place).with_context(|| format!("{}", place.display()))?;
    let mut sectors = Sectors::begin(*seed);
    for step in 0..=after {
        sectors.cut = step == after;
        sectors.step(None)?;
    }
    let bad: Vec<_> = args.bad.iter().map(|run| run.sectors.clone()).collect();
    sectors.compare(&device, &bad).map_err(|wrong| anyhow!("after step {after}: {wrong}"))?;
    Ok(format!("all sectors are as they may be after step {after}, {} of them lost", sectors.lost))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn story(place: &Path) -> Story {
        Story { place: place.to_owned(), seed: 5, number: 1 }
    }

    fn write_steps(place: &Path, steps: u32) {
        write(&WriteArgs { story: story(place), steps, tell: None, note: None }).unwrap();
    }

    fn found(place: &Path, after: u32) -> anyhow::Result<String> {
        check(&CheckArgs { story: story(place), after, bad: Vec::new() })
    }

    #[test]
    fn files_are_as_they_may_be_after_the_last_step_and_the_one_before() {
        for steps in [1, 7, 40] {
            let folder = tempfile::tempdir().unwrap();
            write_steps(folder.path(), steps);
            found(folder.path(), steps).unwrap();
            found(folder.path(), steps - 1).unwrap();
        }
    }

    #[test]
    fn what_is_missing_or_was_never_written_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        write_steps(folder.path(), 10);
        let at = folder.path().join("writer-1");
        assert!(found(folder.path(), 40).is_err(), "30 steps are missing");
        let pages = fs::read(at.join("pages")).unwrap();
        fs::write(at.join("pages"), [&pages[..512], &[0; 512], &pages[1024..]].concat()).unwrap();
        assert!(format!("{:#}", found(folder.path(), 10).unwrap_err()).contains("sector 1: zeroes"));
    }

    #[test]
    fn the_note_is_a_number_and_line_ends() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("note");
        fs::write(&path, [1; 1024]).unwrap();
        note(&path, 12).unwrap();
        let bytes = fs::read(&path).unwrap();
        assert_eq!((&bytes[..3], &bytes[511..513]), (&b"12\n"[..], &b"\n\x01"[..]));
    }
}
