//! `remap-chaos log-writes each`: what a power cut would leave, moment by moment, on a device, and a command that says whether that is good.
//!
//! Invariant: the command gets a device that holds what was there before the log and what survived of the log, and nothing that
//! an earlier command left.

use std::fs::{File, OpenOptions};
use std::io::{Seek as _, SeekFrom};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};
use rustix::fs::OFlags;

use super::cut::{self, Cut, Moment};
use super::log::Entry;
use super::{Replay, Run, parse_run};
use crate::bench::SECTOR;

/// The device is written in pieces, from memory that lies so.
const PIECE: usize = 1 << 20;
const ALIGNMENT: usize = 4096;

/// Lines of a command that are shown when it failed.
const SHOWN: usize = 8;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Device or file
    pub(super) log: PathBuf,
    /// File with the contents of the device from before the log
    base: PathBuf,
    /// Device or file, as large at least
    onto: PathBuf,
    /// A command of the shell; its last word is the number of the last step that was told of. It fails if the state is bad
    #[arg(long)]
    run: String,
    /// Only so many moments, spread over all
    #[arg(long, value_name = "N")]
    some: Option<usize>,
    /// Bytes that the device writes as a whole or not at all
    #[arg(long, default_value_t = SECTOR, value_parser = clap::value_parser!(u64).range(1..))]
    atomic: u64,
    /// Sectors that are durable as they are written
    #[arg(long, value_name = "FIRST+COUNT", value_parser = parse_run, default_value = "0+0")]
    no_cache: Run,
}

/// Has the command look at each moment twice: nothing of what could have been lost was kept, and some of it, by chance.
///
/// # Errors
/// States were bad; the log cannot be read, or the device not be written.
pub(super) fn run(args: &Args, mut log: File, entries: &[Entry]) -> anyhow::Result<String> {
    let moments = steps(entries, args);
    let all = moments.len();
    ensure!(all > 0, "the log has no moment that a step was told of before: nothing was looked at");
    let some = args.some.unwrap_or(all).clamp(1, all);
    let mut replay = Replay::begin(&args.base)?;
    let (mut visited, mut wrong) = (0, Vec::new());
    for (index, (place, step, step_torn)) in moments.into_iter().enumerate() {
        // Each of `some` equal parts has its last moment visited.
        if (index + 1) * some / all == index * some / all {
            continue;
        }
        visited += 1;
        for (torn, step) in [(None, step), (Some(place as u64), step_torn)] {
            let cut = Cut { entries: place, torn, atomic: args.atomic, no_cache: args.no_cache.bytes() };
            put(&replay.state(&mut log, entries, &cut::survivors(entries, &cut)?)?, args)?;
            if let Some(said) = refused(&args.run, step)? {
                wrong.push(format!("after {place} entries, torn {torn:?}, step {step}: {said}"));
            }
        }
    }
    let seen = format!("{visited} of {all} moments, {} states, {} of them bad", 2 * visited, wrong.len());
    ensure!(wrong.is_empty(), "{seen}\n{}", wrong.join("\n"));
    Ok(seen)
}

/// Moments from the first step on of which it is known what was durable: entries, step, step of a torn cut.
fn steps(entries: &[Entry], args: &Args) -> Vec<(usize, u32, u32)> {
    let number = |mark: Option<String>| mark.and_then(|mark| mark.parse().ok());
    let no_cache = args.no_cache.bytes();
    let known = cut::moments(entries, &no_cache).into_iter().filter(|moment| moment.known);
    known
        .filter_map(|Moment { entries, mark, mark_torn, .. }| {
            let step = number(mark)?;
            let torn = if no_cache.is_empty() { number(mark_torn)? } else { step };
            Some((entries, step, torn))
        })
        .collect()
}

/// Writes the device past the kernel's cache, which would take several times as long, or, where there is no such way, into a file.
fn put(contents: &[u8], args: &Args) -> anyhow::Result<()> {
    let name = || format!("{}", args.onto.display());
    let direct = i32::try_from(OFlags::DIRECT.bits()).context("O_DIRECT")?;
    let options = OpenOptions::new().write(true).to_owned();
    let open = options.clone().custom_flags(direct).open(&args.onto).or_else(|_| options.open(&args.onto));
    let mut device = open.with_context(name)?;
    let size = device.seek(SeekFrom::End(0)).with_context(name)?;
    ensure!(size >= contents.len() as u64, "{}: {size} bytes, fewer than {}", name(), contents.len());
    // Direct I/O wants an address that is a multiple of a block.
    let mut buffer = vec![0; PIECE + ALIGNMENT];
    let start = buffer.as_ptr().align_offset(ALIGNMENT);
    for (index, piece) in contents.chunks(PIECE).enumerate() {
        let aligned = &mut buffer[start..start + piece.len()];
        aligned.copy_from_slice(piece);
        device.write_all_at(aligned, (index * PIECE) as u64).with_context(name)?;
    }
    device.sync_all().with_context(name)
}

/// What the command said last, if it failed.
fn refused(command: &str, step: u32) -> anyhow::Result<Option<String>> {
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(format!("{command} {step} 2>&1")).stdin(Stdio::null());
    let output = shell.output().context("sh")?;
    let said = String::from_utf8_lossy(&output.stdout);
    let lines: Vec<&str> = said.lines().collect();
    let last = lines[lines.len().saturating_sub(SHOWN)..].join("\n");
    Ok((!output.status.success()).then(|| format!("{}\n{last}", output.status)))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::{END, Task, log, run};
    use super::*;

    /// What each entry wrote is one letter; the device has four sectors.
    struct Bench {
        folder: tempfile::TempDir,
        args: [PathBuf; 3],
    }

    fn bench() -> Bench {
        let folder = tempfile::tempdir().unwrap();
        let args = ["log", "base", "onto"].map(|name| folder.path().join(name));
        let letters = |text: &str| text.bytes().flat_map(|letter| [letter; 512]).collect::<Vec<u8>>();
        let (ab, c, d) = (letters("AB"), letters("C"), letters("D"));
        let (flush, mark): ((u64, u64, &[u8]), _) =
            ((1, 0, b""), |text: &'static str| (8, 0, text.as_bytes()));
        let early = [(0, 1, &ab[..]), flush, mark("0"), (0, 2, &c), flush, flush, mark("1")];
        let late = [(2, 3, &d[..]), mark("2"), mark(END)];
        fs::write(&args[0], log::tests::log(&[&early[..], &late].concat())).unwrap();
        fs::write(&args[1], letters("....")).unwrap();
        fs::write(&args[2], letters("none")).unwrap();
        Bench { folder, args }
    }

    fn each(bench: &Bench, command: &str, some: Option<usize>) -> anyhow::Result<()> {
        let [log, base, onto] = bench.args.clone();
        let no_cache = parse_run("0+0").unwrap();
        run(&Task::Each(Args { log, base, onto, run: command.to_owned(), some, atomic: SECTOR, no_cache }))
    }

    #[test]
    fn each_moment_is_there_twice_and_nothing_that_a_command_left() {
        let bench = bench();
        let (onto, seen) = (bench.args[2].display(), bench.folder.path().join("seen"));
        let look = format!(
            "look() {{ (cat {onto}; echo $1) >>{}; echo spoiled | dd of={onto} conv=notrunc; }}; look",
            seen.display()
        );
        each(&bench, &look, None).unwrap();
        let seen = fs::read_to_string(seen).unwrap();
        let states: Vec<String> =
            seen.lines().map(|line| [0, 512, 1024, 1536, 2048].map(|at| &line[at..=at]).concat()).collect();
        assert_eq!(states[0], ".AB.0");
        assert!([".AB.0", ".AC.0"].contains(&&*states[1]), "{states:?}");
        assert_eq!(states[2..], [".AC.1", ".ACD2", ".ACD2", ".ACD2"]);
    }

    #[test]
    fn bad_states_are_told() {
        let bench = bench();
        let said = |command, some| each(&bench, command, some).unwrap_err().to_string();
        let all = said("echo is; test 1 !=", Some(7));
        assert!(
            all.starts_with("3 of 3 moments, 6 states, 1 of them bad\nafter 5 entries, torn None, step 1:"),
            "{all}"
        );
        assert!(all.ends_with("\nis"), "{all}");
        assert!(
            said("false", Some(1)).starts_with("1 of 3 moments, 2 states, 2 of them bad\nafter 8 entries")
        );
        let marks_only = log::tests::log(&[(8, 0, b"0"), (8, 0, END.as_bytes())]);
        let whole = fs::read(&bench.args[0]).unwrap();
        fs::write(&bench.args[0], marks_only).unwrap();
        assert!(said("true", None).contains("no moment"));
        fs::write(&bench.args[0], whole).unwrap();
        fs::write(&bench.args[2], "short").unwrap();
        assert!(said("true", None).contains("5 bytes, fewer than 2048"));
    }
}
