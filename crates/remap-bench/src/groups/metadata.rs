//! What metadata cost to write and to read: a checkpoint, the check, assembly.
//!
//! Invariant: what is compared with a bare read or write is compared with one of just those bytes, in long pieces.

use std::time::Instant;

use anyhow::{Context as _, ensure};
use remap_core::engine::Command;
use remap_core::op::Fault;
use remap_core::recovery::{SpareReader, recover, shape_of};
use remap_format::{COPIES, PAGE_ENTRIES, Policy};
use remap_io::{Buf, Device};

use super::made::{Made, Shape, create, device};
use super::{Found, Setting, ratios};
use crate::needs;
use crate::record::Figure;

/// Bytes of the main device.
const SIZE: u64 = 64 << 30;
const PAGE: u64 = remap_format::PAGE_SIZE as u64;
/// Bytes of a bare read or write.
const PIECE: u64 = 1 << 20;
const BARE: &str = "bare";

/// All figures.
///
/// # Errors
/// Files, volumes, the product's check.
pub(super) fn run(setting: &Setting<'_>) -> anyhow::Result<Found> {
    let mut figures = Vec::new();
    for remaps in [0, setting.pick(10_000, 100_000)] {
        let shape = Shape { size: SIZE, remaps, spares: 1, written: false, policy: Policy::RemapOnly };
        let made = Made::make(setting.folder, "metadata", shape)?;
        figures.extend(checkpoint(setting, &made, remaps)?);
        figures.extend(assembly(setting, &made, remaps)?);
        figures.push(check(setting, &made, remaps)?);
        made.remove();
    }
    Ok(Found { figures, missing: Vec::new() })
}

/// The whole table to all copies, flushed, beside a write of as many bytes.
fn checkpoint(setting: &Setting<'_>, made: &Made, remaps: u64) -> anyhow::Result<Vec<Figure>> {
    let pages = remaps.div_ceil(PAGE_ENTRIES as u64) + 1;
    let bytes = pages * PAGE * u64::from(COPIES);
    let path = setting.path("bare");
    create(&path, bytes, true)?;
    let file = device(&path)?;
    let mut piece = Buf::alloc(PIECE as usize).context("a buffer")?;
    let volume = made.open(None, None)?;
    // The first writes to either area of a sparse spare find room for it; no other does.
    for _ in 0..2 {
        volume.command(Command::Save).context("a checkpoint")?;
    }
    let samples = setting.in_turns(2, |who| {
        let begin = Instant::now();
        if who == 0 {
            let outcome = volume.command(Command::Save).context("a checkpoint")?;
            ensure!(outcome.error.is_none(), "a checkpoint failed: {:?}", outcome.error);
        } else {
            in_pieces(&mut piece, &[(0, bytes)], |at, piece| file.write_at(at, piece))?;
            ensure!(file.flush().is_ok(), "a flush failed");
        }
        Ok(begin.elapsed().as_secs_f64() * 1e3)
    })?;
    let name = "checkpoint";
    let against = ratios(&samples[0], &samples[1]);
    Ok(vec![
        Figure::of(name, "ms", &samples[0]).by("dm-remap").at(remaps).against(BARE, &against),
        Figure::of(name, "ms", &samples[1]).beside(BARE).at(remaps),
    ])
}

/// From files to a volume in service, beside a read of what that reads.
pub(super) fn assembly(setting: &Setting<'_>, made: &Made, remaps: u64) -> anyhow::Result<Vec<Figure>> {
    let read = what_is_read(made)?;
    let mut piece = Buf::alloc(PIECE as usize).context("a buffer")?;
    let samples = setting.in_turns(2, |who| {
        let begin = Instant::now();
        if who == 0 {
            let volume = made.open(None, None)?;
            let took = begin.elapsed();
            let found = volume.status().context("its status")?.counts.remapped_blocks;
            ensure!(found == remaps, "{found} remaps were assembled, not {remaps}");
            return Ok(took.as_secs_f64() * 1e3);
        }
        let spares = made.spare_devices()?;
        in_pieces(&mut piece, &read, |at, piece| spares[0].read_at(at, piece))?;
        Ok(begin.elapsed().as_secs_f64() * 1e3)
    })?;
    let beyond: Vec<f64> = samples[0].iter().zip(&samples[1]).map(|(open, read)| open - read).collect();
    let name = "assembly";
    let against = ratios(&samples[0], &samples[1]);
    let beyond = Figure::of("assembly beyond reading", "ms", &beyond).by("dm-remap").at(remaps);
    Ok(vec![
        Figure::of(name, "ms", &samples[0]).by("dm-remap").at(remaps).against(BARE, &against),
        Figure::of(name, "ms", &samples[1]).beside(BARE).at(remaps),
        match remaps {
            100_000 => beyond.at_most(100.0),
            1_000_000 => beyond.at_most(1000.0),
            _ => beyond,
        },
    ])
}

/// `dm-remap metadata check`, from its start to its end.
fn check(setting: &Setting<'_>, made: &Made, remaps: u64) -> anyhow::Result<Figure> {
    let mut samples = Vec::new();
    for _ in 0..setting.rounds {
        let mut command = std::process::Command::new(setting.product);
        command.args(["metadata", "check", "--spare"]).arg(&made.spares[0]);
        let begin = Instant::now();
        needs::output(command)?;
        samples.push(begin.elapsed().as_secs_f64() * 1e3);
        setting.go_on()?;
    }
    Ok(Figure::of("metadata check", "ms", &samples).by("dm-remap").at(remaps))
}

/// Byte ranges that recovery reads, each byte once.
fn what_is_read(made: &Made) -> anyhow::Result<Vec<(u64, u64)>> {
    let spares = made.spare_devices()?;
    let sizes: Vec<u64> = spares.iter().map(Device::size).collect();
    let mut noting = Noting { spares: &spares, reads: Vec::new() };
    recover(&mut noting, &sizes, false).context("recovery")?;
    let mut reads = noting.reads;
    reads.sort_unstable();
    let mut merged: Vec<(u64, u64)> = Vec::new();
    for (start, end) in reads {
        match merged.last_mut() {
            Some(last) if start <= last.1 => last.1 = last.1.max(end),
            _ => merged.push((start, end)),
        }
    }
    let all: u64 = merged.iter().map(|(start, end)| end - start).sum();
    ensure!(all <= shape_of(&made.superblock).bytes() * 8, "recovery reads {all} bytes");
    Ok(merged)
}

/// Reads for recovery and remembers what.
struct Noting<'a> {
    spares: &'a [Device],
    reads: Vec<(u64, u64)>,
}

impl SpareReader for Noting<'_> {
    fn read(&mut self, spare: usize, offset: u64, into: &mut [u8]) -> Result<(), Fault> {
        self.reads.push((offset, offset + into.len() as u64));
        let mut buf = Buf::alloc(into.len()).map_err(|_| Fault::NoMemory)?;
        self.spares[spare].read_at(offset, &mut buf)?;
        into.copy_from_slice(buf.bytes());
        Ok(())
    }
}

/// Does something to all bytes of these ranges, in long pieces.
fn in_pieces(
    piece: &mut Buf,
    ranges: &[(u64, u64)],
    mut work: impl FnMut(u64, &mut Buf) -> Result<(), Fault>,
) -> anyhow::Result<()> {
    for &(start, end) in ranges {
        for at in (start..end).step_by(PIECE as usize) {
            piece.set_len((end - at).min(PIECE) as usize);
            work(at, piece).ok().with_context(|| format!("the bytes at {at}"))?;
        }
    }
    Ok(())
}
