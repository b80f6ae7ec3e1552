//! How many instructions small pieces of the product take, counted by valgrind: the same on a busy machine as on a quiet one.
//!
//! Invariant: a count is the difference of two runs that differ only in how often the piece ran, so what surrounds it does not count.

use std::collections::BTreeMap;
use std::fs;
use std::hint::black_box;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, bail};
use remap_core::units::Block;
use remap_core::view::View;
use remap_format::{Entry, EntryState, NO_SLOT, PAGE_SIZE, Record};
use serde::{Deserialize, Serialize};

use crate::micro::RECORD;
use crate::scatter::{self, BLOCK_SECTORS};
use crate::{machine, needs};

/// Remaps in the table: many leaves, and still made in moments under valgrind.
const REMAPS: u64 = 10_000;
/// Places that a piece runs at, all of them in each turn.
const PLACES: usize = 1024;
/// Blocks of a 1 MiB request.
const RANGE: u64 = 256;
/// Turns of the two runs.
const TURNS: [u64; 2] = [1, 3];
/// Percent that a count may grow before it is a failure: another linker moves this much.
const TOLERANCE: f64 = 2.0;
/// What cannot be checked is noted in the file that this variable names.
const SKIPS: &str = "DM_REMAP_SKIPS";

const PIECES: [&str; 7] =
    ["miss", "range-miss", "hit", "insert-and-remove", "record-encode", "record-decode", "group-encode"];

/// Counts, as they are kept in the tree.
#[derive(Serialize, Deserialize)]
struct Counts {
    /// Another compiler counts otherwise.
    compiler: String,
    /// Instructions of one run of each piece.
    instructions: BTreeMap<String, f64>,
}

/// Runs a piece so many times, for valgrind to count.
///
/// # Errors
/// Memory, or a piece that there is not.
pub(crate) fn piece(name: &str, turns: u64) -> anyhow::Result<()> {
    let mut table = scatter::table(REMAPS)?;
    let view = table.view().clone();
    let misses = scatter::misses(&view, 1, PLACES);
    let ranges = scatter::misses(&view, RANGE, PLACES);
    let hits = scatter::hits(REMAPS, PLACES);
    let edits: Vec<Entry> = scatter::entries(64).collect();
    let mut record = vec![0; PAGE_SIZE];
    Record::encode(&RECORD, &edits[..1], &mut record);
    let mut out = vec![0; PAGE_SIZE];
    // Chosen before the loop, so that the choice is not counted.
    let mut work: Box<dyn FnMut(usize) -> anyhow::Result<()>> = match name {
        "miss" => Box::new(|at| look_up(&view, misses[at])),
        "hit" => Box::new(|at| look_up(&view, hits[at])),
        "range-miss" => Box::new(|at| {
            black_box(scatter::is_miss(&view, ranges[at], ranges[at] + RANGE));
            Ok(())
        }),
        "insert-and-remove" => Box::new(|at| {
            let entry = scatter::entry(misses[at], 1 << 30);
            table.apply(&entry)?;
            Ok(table.apply(&Entry { state: EntryState::Absent, slot: NO_SLOT, ..entry })?)
        }),
        "record-encode" => Box::new(|_| encode(&edits[..1], &mut out)),
        "group-encode" => Box::new(|_| encode(&edits, &mut out)),
        "record-decode" => Box::new(|_| {
            black_box(Record::decode(black_box(&record), &RECORD, BLOCK_SECTORS)?);
            Ok(())
        }),
        _ => bail!("no piece `{name}`"),
    };
    (0..turns).flat_map(|_| 0..PLACES).try_for_each(&mut work)
}

fn look_up(view: &View, block: u64) -> anyhow::Result<()> {
    black_box(view.first(Block(block), Block(block + 1)));
    Ok(())
}

fn encode(edits: &[Entry], out: &mut [u8]) -> anyhow::Result<()> {
    Record::encode(&RECORD, black_box(edits), out);
    Ok(())
}

/// Counts all pieces and compares with the counts in the tree, or puts these in their place; false when one has grown.
///
/// # Errors
/// There is no valgrind, or the counts in the tree cannot be read.
pub(crate) fn check(bless: bool) -> anyhow::Result<bool> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("instructions.json");
    let compiler = format!("{} {}", machine::compiler(), std::env::consts::ARCH);
    let counted = PIECES.iter().map(|name| Ok(((*name).to_owned(), count(name)?)));
    if bless {
        let counts = Counts { compiler, instructions: counted.collect::<anyhow::Result<_>>()? };
        let text = serde_json::to_string_pretty(&counts).context("counts as JSON")?;
        fs::write(&path, text + "\n").with_context(|| format!("writing {}", path.display()))?;
        println!("{} counts written to {}", counts.instructions.len(), path.display());
        return Ok(true);
    }
    let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let kept: Counts = serde_json::from_str(&text).context("the counts in the tree")?;
    if kept.compiler != compiler {
        return skip(&format!("counts in the tree are of {}, this is {compiler}", kept.compiler));
    }
    let mut good = true;
    for (name, now) in counted.collect::<anyhow::Result<Vec<_>>>()? {
        let then = kept.instructions.get(&name).copied().unwrap_or(0.0);
        let change = (now / then - 1.0) * 100.0;
        let word = match change {
            c if c > TOLERANCE => "MORE",
            c if c < -TOLERANCE => "fewer: bless",
            _ => "",
        };
        println!("{name:<20} {then:>9.1} -> {now:>9.1} instructions {change:>+7.1} %  {word}");
        good &= change <= TOLERANCE;
    }
    if !good {
        println!(
            "more than {TOLERANCE} % above the counts in the tree; if it must be so: cargo xtask bench --instructions --bless"
        );
    }
    Ok(good)
}

/// Says that nothing was compared.
fn skip(reason: &str) -> anyhow::Result<bool> {
    println!(
        "skipped: instructions: {reason}; to keep those of this one: cargo xtask bench --instructions --bless"
    );
    if let Some(path) = std::env::var_os(SKIPS) {
        let file = fs::OpenOptions::new().append(true).create(true).open(path);
        let line = format!("instructions: {reason}\n");
        file.and_then(|mut file| file.write_all(line.as_bytes())).context("the list of skipped tests")?;
    }
    Ok(true)
}

/// Instructions of one run of a piece.
fn count(name: &str) -> anyhow::Result<f64> {
    let [few, many] = TURNS.map(|turns| collected(name, turns));
    let runs = (TURNS[1] - TURNS[0]) as f64 * PLACES as f64;
    // A tenth of an instruction is less than anybody can change.
    Ok(((many? - few?) / runs * 10.0).round() / 10.0)
}

fn collected(name: &str, turns: u64) -> anyhow::Result<f64> {
    let mut command: Command = needs::command("valgrind", "valgrind")?;
    command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]);
    command.arg(std::env::current_exe().context("where this program is")?);
    command.args(["piece", name, &turns.to_string()]);
    let output = command.output().context("valgrind does not start")?;
    let said = String::from_utf8_lossy(&output.stderr);
    let line = said.lines().find_map(|line| line.split_once("Collected :"));
    match line.and_then(|(_, number)| number.trim().parse().ok()) {
        Some(number) if output.status.success() => Ok(number),
        _ => bail!("valgrind counted nothing: {}", said.trim()),
    }
}
