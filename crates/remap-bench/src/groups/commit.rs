//! The price of a commit: one record to five copies, flushed, by the product and with nothing around it.
//!
//! Invariant: both write the same pages of files of the same make. The product's commit is that of a block whose read failed: its drill
//! fails reads without asking the device, so the record and its flush are all that any device does between the read and the news.

use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use remap_core::engine::Notice;
use remap_core::recovery::shape_of;
use remap_format::Policy;
use remap_format::layout::copy_places;
use remap_io::Drill;
use remap_runtime::Volume;

use super::bare::Bare;
use super::client::Client;
use super::made::{BLOCK, Made, Shape};
use super::{Found, Setting, medians, ratios};
use crate::ground::Place;
use crate::record::Figure;

/// Bytes of the main device: nothing of it is read or written.
const SIZE: u64 = 1 << 30;
/// Blocks from one that fails to the next: none becomes one entry with another.
const APART: u64 = 3;
/// Longest wait for a commit.
const PATIENCE: Duration = Duration::from_secs(30);
/// What a commit may cost in terms of bare writes on a disk.
const GOAL: f64 = 1.2;
const BARE: &str = "bare writes";

/// Spares, and how they were made.
const CASES: [(&str, usize, bool); 3] = [
    ("record to 5 copies on 1 spare", 1, true),
    ("record to 5 copies on 3 spares", 3, true),
    ("record to 5 copies on 1 sparse spare", 1, false),
];

/// All figures.
///
/// # Errors
/// Files, volumes.
pub(super) fn run(setting: &Setting<'_>) -> anyhow::Result<Found> {
    let mut figures = Vec::new();
    for (number, (name, spares, written)) in CASES.into_iter().enumerate() {
        figures.extend(case(setting, name, number, Shape { spares, written, ..SHAPE })?);
    }
    Ok(Found { figures, missing: Vec::new() })
}

const SHAPE: Shape =
    Shape { size: SIZE, remaps: 0, spares: 1, written: true, policy: Policy::RewriteThenRemap };

fn case(setting: &Setting<'_>, name: &str, number: usize, shape: Shape) -> anyhow::Result<Vec<Figure>> {
    // The main device is never touched.
    let make = |who: &str| {
        let main = format!("{who}{number}");
        Made::make(setting.folder, &main, shape)
    };
    let (ours, theirs) = (make("ours")?, make("theirs")?);
    let each = setting.pick(20, 100);
    let mut product = Product::open(&ours, u64::from(setting.rounds) * each)?;
    let mut bare = Bare::open(&theirs.spares)?;
    let copies = shape_of(&theirs.superblock);
    let homes = copy_places(&theirs.superblock.spares, &theirs.superblock.homes);
    let mut position = 0;
    let mut places = |count: usize| -> Vec<(usize, u64)> {
        position = (position + 1) % copies.journal_pages;
        let page = |home: &remap_format::layout::CopyPlace| {
            (usize::from(home.spare), home.start + copies.journal_at(position))
        };
        homes.iter().take(count).map(page).collect()
    };
    let samples = setting.in_turns(3, |who| {
        (0..each)
            .map(|_| match who {
                0 => product.commit(),
                1 => timed(|| bare.commit(&places(homes.len()))),
                _ => timed(|| bare.commit(&places(1))),
            })
            .collect::<anyhow::Result<Vec<f64>>>()
    })?;
    drop(product);
    ours.remove();
    theirs.remove();
    let of = |who: usize| samples[who].concat();
    let against = ratios(&medians(&samples[0]), &medians(&samples[1]));
    let figure = Figure::of_events(name, "us", &of(0)).by("dm-remap").against(BARE, &against);
    let goal = setting.place == Place::Disk && shape.written;
    let five_to_one = ratios(&medians(&samples[1]), &medians(&samples[2]));
    Ok(vec![
        if goal { figure.ratio_at_most(GOAL) } else { figure },
        Figure::of_events(name, "us", &of(1)).beside(BARE).against("one bare write", &five_to_one),
        Figure::of_events(name, "us", &of(2)).beside("one bare write"),
    ])
}

/// Microseconds.
fn timed(work: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<f64> {
    let begin = Instant::now();
    work()?;
    Ok(begin.elapsed().as_secs_f64() * 1e6)
}

/// A volume whose blocks cannot be read.
struct Product {
    client: Client,
    committed: Receiver<()>,
    next: u64,
    // Last: the queue belongs to it.
    _volume: Volume,
}

impl Product {
    fn open(made: &Made, blocks: u64) -> anyhow::Result<Self> {
        ensure!(blocks * APART < SIZE / BLOCK, "too many rounds");
        let runs: Vec<String> =
            (0..blocks).map(|n| n * APART * 8).map(|s| format!("{s}-{}", s + 7)).collect();
        let drill = Drill::parse(&format!("bad=sectors:{},errno=ENODATA,on=read", runs.join(";")))?;
        let (tell, committed) = mpsc::channel();
        let on_notice = move |notice: &Notice| {
            if matches!(notice, Notice::Pending { .. }) {
                // Nobody listens any more at the end.
                let _ = tell.send(());
            }
        };
        let volume = made.open(Some(Arc::new(drill)), Some(Box::new(on_notice)))?;
        Ok(Self { client: Client::over(&volume, 1)?, committed, next: 0, _volume: volume })
    }

    /// From the read that fails to the news that this is durable.
    fn commit(&mut self) -> anyhow::Result<f64> {
        let mut block = Some((self.next * APART, false));
        self.next += 1;
        let mut failed = false;
        timed(|| {
            self.client.run(|| block.take(), |done| failed = !done.good)?;
            ensure!(failed, "a bad block was read");
            self.committed.recv_timeout(PATIENCE).context("a commit")
        })
    }
}
