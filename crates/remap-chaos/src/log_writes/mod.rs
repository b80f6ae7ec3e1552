//! `remap-chaos log-writes`: lists a log of device-mapper's target log-writes, and makes of it what a power cut would leave.
//!
//! Invariant: a device gets nothing but what the log says was written to it, where the log says; a log that is wrong anywhere is
//! refused before anything is written.

mod cut;
mod each;
mod log;
mod sweep;

use std::fs::{self, File};
use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use clap::Subcommand;

use self::cut::Survivors;
use self::log::{Entry, What};
use crate::bench::SECTOR;

/// What the target writes when it ends: the log holds everything.
const END: &str = "dm-log-writes-end";

#[derive(Subcommand)]
pub(crate) enum Task {
    /// One line for each entry: number, what, first sector, sectors
    List {
        /// Device or file
        log: PathBuf,
    },
    /// Puts on a device what a cut at each moment would leave, and runs a command on it
    Each(each::Args),
    /// Compare every moment, and more states that a cut there could leave, with what may be after the steps that the marks tell of
    Sweep(sweep::Args),
}

/// Sectors of 512 bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) sectors: Range<u64>,
}

impl Run {
    fn bytes(&self) -> Range<u64> {
        self.sectors.start * SECTOR..self.sectors.end * SECTOR
    }
}

/// Parses `FIRST+COUNT`.
pub(crate) fn parse_run(text: &str) -> Result<Run, String> {
    let (first, count) = text.split_once('+').ok_or("write sectors as FIRST+COUNT")?;
    let number = |text: &str| text.parse::<u64>().map_err(|error| format!("'{text}': {error}"));
    let (first, count) = (number(first)?, number(count)?);
    let end = first.checked_add(count).filter(|end| end.checked_mul(SECTOR).is_some());
    Ok(Run { sectors: first..end.ok_or("behind the end of any device")? })
}

/// Carries it out.
///
/// # Errors
/// The log is none, or is not whole; a device cannot be read or written.
pub(crate) fn run(task: &Task) -> anyhow::Result<()> {
    match task {
        Task::List { log } => {
            for (index, entry) in entries(log)?.1.iter().enumerate() {
                println!("{index} {}", describe(entry));
            }
        }
        Task::Each(args) => {
            let (log, entries) = entries(&args.log)?;
            println!("{}", each::run(args, log, &entries)?);
        }
        Task::Sweep(args) => {
            let (source, entries) = entries(&args.log)?;
            println!("{}", sweep::run(args, source, &entries)?);
        }
    }
    Ok(())
}

/// A log that its target ended.
fn entries(path: &Path) -> anyhow::Result<(File, Vec<Entry>)> {
    let name = || format!("{}", path.display());
    let mut file = File::open(path).with_context(name)?;
    let entries = log::read(&mut file).with_context(name)?;
    let whole = entries.last().is_some_and(|entry| entry.what == What::Mark(END.into()));
    ensure!(whole, "{}: the log does not end with its target's last mark: it was full, or is in use", name());
    Ok((file, entries))
}

fn describe(entry: &Entry) -> String {
    let what = match &entry.what {
        What::Nothing => "nothing",
        What::Write => "write",
        What::Discard => "discard",
        What::Mark(text) => return format!("mark {text}"),
    };
    let Range { start, end } = entry.bytes;
    let (flush, fua) = (if entry.flush { "flush " } else { "" }, if entry.fua { " fua" } else { "" });
    format!("{flush}{what}{fua} {} {}", start / SECTOR, (end - start) / SECTOR)
}

/// What is on a device after cuts, each no earlier than the one before.
struct Replay {
    /// What the device holds for sure, and the entries that are in it.
    sure: Vec<u8>,
    entries: usize,
}

impl Replay {
    fn begin(base: &Path) -> anyhow::Result<Self> {
        Ok(Self { sure: fs::read(base).with_context(|| format!("{}", base.display()))?, entries: 0 })
    }

    /// The device's contents after a cut.
    fn state(&mut self, log: &mut File, entries: &[Entry], kept: &Survivors) -> anyhow::Result<Vec<u8>> {
        for (index, entry) in entries.iter().enumerate().take(kept.sure).skip(self.entries) {
            if entry.what == What::Write {
                apply(log, &mut self.sure, index, entry, &entry.bytes)?;
            }
        }
        self.entries = kept.sure.max(self.entries);
        let mut device = self.sure.clone();
        for (index, bytes) in &kept.more {
            apply(log, &mut device, *index, &entries[*index], bytes)?;
        }
        Ok(device)
    }
}

/// Puts what an entry wrote, or a part of it, in its place.
fn apply(
    log: &mut File,
    device: &mut [u8],
    index: usize,
    entry: &Entry,
    bytes: &Range<u64>,
) -> anyhow::Result<()> {
    let place = usize::try_from(bytes.start)?..usize::try_from(bytes.end)?;
    let to = device.get_mut(place).with_context(|| format!("entry {index} is behind the device's end"))?;
    let written = log::written(log, entry, bytes).with_context(|| format!("entry {index} of the log"))?;
    to.copy_from_slice(&written);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn runs_are_parsed() {
        assert_eq!(parse_run("8+4").unwrap().sectors, 8..12);
        for wrong in ["8", "8+", "-1+4", "18446744073709551615+1", "1+18446744073709551614"] {
            assert!(parse_run(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_was_kept_is_copied_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let (path, base) = (folder.path().join("log"), folder.path().join("base"));
        let first: Vec<u8> = [[1; 512], [2; 512]].concat();
        let log = log::tests::log(&[(0, 1, &first), (1, 0, &[]), (0, 2, &[3; 512]), (8, 0, END.as_bytes())]);
        fs::write(&path, &log).unwrap();
        fs::write(&base, [9; 2048]).unwrap();
        let (mut file, all) = entries(&path).unwrap();
        let mut replay = Replay::begin(&base).unwrap();
        let mut found = |sure, more: &[(usize, Range<u64>)]| {
            let state = replay.state(&mut file, &all, &Survivors { sure, more: more.to_vec() })?;
            anyhow::Ok(state.chunks(512).map(|sector| sector[0]).collect::<Vec<u8>>())
        };
        assert_eq!(found(0, &[(0, 1024..1536)]).unwrap(), [9, 9, 2, 9]);
        assert_eq!(found(2, &[]).unwrap(), [9, 1, 2, 9]);
        assert_eq!(found(2, &[(2, 1024..1536)]).unwrap(), [9, 1, 3, 9]);
        assert_eq!(found(2, &[]).unwrap(), [9, 1, 2, 9], "what was kept by chance is not kept for good");
        assert_eq!(found(3, &[]).unwrap(), [9, 1, 3, 9]);

        fs::write(&base, [9; 1024]).unwrap();
        let small =
            Replay::begin(&base).unwrap().state(&mut file, &all, &Survivors { sure: 2, more: vec![] });
        assert!(format!("{:#}", small.unwrap_err()).contains("behind the device's end"));
        fs::write(&path, &log[..log.len() - 512]).unwrap();
        assert!(entries(&path).is_err());
    }
}
