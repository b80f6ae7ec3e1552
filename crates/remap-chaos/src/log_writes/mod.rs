//! `remap-chaos log-writes`: lists a log of device-mapper's target log-writes, and makes of it what a power cut would leave.
//!
//! Invariant: a device gets nothing but what the log says was written to it, where the log says; a log that is wrong anywhere is
//! refused before anything is written.

mod cut;
mod log;
mod sweep;

use std::fs::{File, OpenOptions};
use std::io::{Seek as _, SeekFrom, Write as _};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use clap::Subcommand;

use self::cut::{Cut, Moment, Survivors};
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
    /// One line for each moment at which what is durable changes, if the log tells how: entries up to there, the last mark, the last mark before the next flush
    Cuts {
        /// Device or file
        log: PathBuf,
        /// Sectors that are durable as they are written: after each write there, too
        #[arg(long, value_name = "FIRST+COUNT", value_parser = parse_run, default_value = "0+0")]
        no_cache: Run,
    },
    /// Writes to a device what was durable after so many entries
    Replay {
        /// Device or file
        log: PathBuf,
        /// Device or file, with the contents from before the log
        onto: PathBuf,
        /// Entries
        #[arg(long)]
        to: usize,
        /// And some of what could have been lost, in part, by chance
        #[arg(long, value_name = "SEED")]
        torn: Option<u64>,
        /// Sectors that are durable as they are written; of all others only what was flushed survives
        #[arg(long, value_name = "FIRST+COUNT", value_parser = parse_run, default_value = "0+0")]
        no_cache: Run,
    },
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
        Task::Cuts { log, no_cache } => {
            let moments = cut::moments(&entries(log)?.1, &no_cache.bytes());
            for Moment { entries, mark, mark_torn, .. } in moments.into_iter().filter(|moment| moment.known) {
                let or_none = |mark: Option<String>| mark.unwrap_or("-".into());
                println!("{entries} {} {}", or_none(mark), or_none(mark_torn));
            }
        }
        Task::Replay { log, onto, to, torn, no_cache } => {
            let (mut source, entries) = entries(log)?;
            let cut = Cut { entries: *to, torn: *torn, no_cache: no_cache.bytes() };
            let kept = cut::survivors(&entries, &cut)?;
            replay(&mut source, &entries, &kept, onto)?;
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

/// What an entry wrote, or a part of it.
fn written(log: &mut File, index: usize, entry: &Entry, bytes: &Range<u64>) -> anyhow::Result<Vec<u8>> {
    log::written(log, entry, bytes).with_context(|| format!("entry {index} of the log"))
}

/// Copies what was kept from the log to the device.
fn replay(log: &mut File, entries: &[Entry], kept: &Survivors, onto: &Path) -> anyhow::Result<()> {
    let name = || format!("{}", onto.display());
    let mut device = OpenOptions::new().write(true).open(onto).with_context(name)?;
    let size = device.seek(SeekFrom::End(0)).with_context(name)?;
    let early = entries.iter().enumerate().take(kept.sure).filter(|(_, entry)| entry.what == What::Write);
    let early = early.map(|(index, entry)| (index, entry.bytes.clone()));
    let all: Vec<(usize, Range<u64>)> = early.chain(kept.more.iter().cloned()).collect();
    for (index, bytes) in &all {
        let end = bytes.end;
        ensure!(end <= size, "{}: entry {index} ends at byte {end}, the device at {size}", name());
    }
    for (index, bytes) in &all {
        let buffer = written(log, *index, &entries[*index], bytes)?;
        device.write_all_at(&buffer, bytes.start).with_context(name)?;
    }
    device.flush().and_then(|()| device.sync_all()).with_context(name)
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
        let (path, onto) = (folder.path().join("log"), folder.path().join("onto"));
        let first: Vec<u8> = [[1; 512], [2; 512]].concat();
        let log = log::tests::log(&[(0, 1, &first), (1, 0, &[]), (0, 2, &[3; 512]), (8, 0, END.as_bytes())]);
        fs::write(&path, &log).unwrap();
        fs::write(&onto, [9; 2048]).unwrap();
        let replay = |to, torn| {
            let no_cache = parse_run("0+0").unwrap();
            run(&Task::Replay { log: path.clone(), onto: onto.clone(), to, torn, no_cache })
        };
        let found = || fs::read(&onto).unwrap().chunks(512).map(|sector| sector[0]).collect::<Vec<u8>>();
        replay(2, None).unwrap();
        assert_eq!(found(), [9, 1, 2, 9]);
        replay(3, None).unwrap();
        assert_eq!(found(), [9, 1, 3, 9]);

        fs::write(&onto, [9; 1024]).unwrap();
        assert!(format!("{:#}", replay(2, None).unwrap_err()).contains("ends at byte 1536"));
        assert_eq!(found(), [9, 9], "nothing was written");
        fs::write(&path, &log[..log.len() - 512]).unwrap();
        assert!(replay(2, None).is_err());
    }
}
