//! Recovery of a table from a spare in memory: what a start costs beyond reading the device.

use std::collections::HashMap;
use std::time::Instant;

use anyhow::{Context as _, ensure};
use remap_core::engine::{Engine, EngineConfig};
use remap_core::op::{Buffer, Fault, OpKind};
use remap_core::recovery::{Recovered, SpareReader, recover};
use remap_core::units::Now;
use remap_format::layout::plan;
use remap_format::{MainIdentity, PAGE_SIZE, Policy, Superblock};

use super::{STEP, yardstick};
use crate::record::Figure;
use crate::scatter::{self, BLOCKS};

const BLOCK: u32 = 4096;
/// Bytes of a spare with room for the metadata of one entry.
const SPARE_PER_REMAP: u64 = 40 << 10;
const RUNS: usize = 5;

/// Pages that were written; all others are zero.
struct Spare {
    size: u64,
    pages: HashMap<u64, Box<[u8]>>,
}

impl Spare {
    fn write(&mut self, at: u64, bytes: &[u8]) {
        for (page, bytes) in (at / PAGE_SIZE as u64..).zip(bytes.chunks(PAGE_SIZE)) {
            self.pages.insert(page, bytes.into());
        }
    }
}

impl SpareReader for Spare {
    fn read(&mut self, _: usize, offset: u64, into: &mut [u8]) -> Result<(), Fault> {
        let mut done = 0;
        while done < into.len() {
            let at = offset + done as u64;
            let within = (at % PAGE_SIZE as u64) as usize;
            let here = (PAGE_SIZE - within).min(into.len() - done);
            let part = &mut into[done..done + here];
            match self.pages.get(&(at / PAGE_SIZE as u64)).and_then(|page| page.get(within..within + here)) {
                Some(bytes) => part.copy_from_slice(bytes),
                None => part.fill(0),
            }
            done += here;
        }
        Ok(())
    }
}

/// Milliseconds to recover a table of that size.
///
/// # Errors
/// Memory, or what was written is not recovered.
pub(crate) fn figure(remaps: u64) -> anyhow::Result<Figure> {
    let mut spare = written(remaps)?;
    let sizes = [spare.size];
    let step = yardstick();
    let mut samples = Vec::new();
    for _ in 0..RUNS {
        let begin = Instant::now();
        let recovered = recover(&mut spare, &sizes, false)?;
        samples.push(begin.elapsed().as_secs_f64() * 1e3);
        ensure!(recovered.table.counts().remapped_blocks == remaps, "not all entries were recovered");
    }
    let figure = Figure::of("recovery from memory", "ms", &samples).at(remaps);
    Ok(Figure { ratio: Some(figure.p50 * 1e6 / step), to: Some(STEP.to_owned()), ..figure })
}

/// A spare as an engine leaves it that began with these entries.
fn written(remaps: u64) -> anyhow::Result<Spare> {
    let size = remaps * SPARE_PER_REMAP;
    let shape = plan(&[size], BLOCK.into()).context("a spare")?;
    let main = MainIdentity { size: BLOCKS * u64::from(BLOCK), logical_block: 512, ..Default::default() };
    let superblock = Superblock {
        policy: Policy::RemapOnly,
        ..Superblock::new([1; 16], "bench", BLOCK, &shape, &[([2; 16], size)], main)
    };
    let entries = scatter::placed(&superblock, scatter::entries(remaps));
    let now = Now { mono_ns: 0, unix_s: 1_800_000_000 };
    let recovered = Recovered::fresh(superblock, &entries).context("entries")?;
    let mut engine = Engine::start(recovered, EngineConfig::default(), now)?;
    let mut spare = Spare { size, pages: HashMap::new() };
    while let Some(op) = engine.poll_op() {
        if let OpKind::Write { from: Buffer::Owned(bytes), .. } = &op.kind {
            spare.write(op.extent.start().0 * 512, bytes);
        }
        engine.handle_completion(now, op.id, Ok(()));
        while engine.poll_event().is_some() {}
    }
    ensure!(engine.is_live(), "the engine did not start");
    Ok(spare)
}
