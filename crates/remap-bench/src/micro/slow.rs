//! The slow lane without devices: what the engine itself costs when blocks fail.
//!
//! Invariant: every operation ends at once, so all of the time is the engine's.

use std::time::Instant;

use anyhow::{Context as _, ensure};
use remap_core::engine::{Engine, EngineConfig, Event};
use remap_core::op::{DeviceId, Fault, OpKind, Request, RequestId, RequestKind};
use remap_core::recovery::Recovered;
use remap_core::units::{Extent, Now, Sector};
use remap_format::layout::plan;
use remap_format::{MainIdentity, Policy, Superblock};

use super::{Patience, of_events, yardstick};
use crate::record::Figure;

const BLOCK: u32 = 4096;
/// Blocks of the main device: 1 TiB.
const BLOCKS: u64 = 1 << 28;
/// Room for all that fail: metadata takes a fiftieth of it.
const SPARE: u64 = 64 << 30;
/// Blocks between two that fail: none becomes one entry with another.
const APART: u64 = 4099;

/// One block at a time, and 64 at once.
pub(super) fn figures(patience: Patience) -> anyhow::Result<Vec<Figure>> {
    Ok(vec![
        figure("remap of a block, engine alone", 1, patience)?,
        figure("remap of 64 blocks at once, engine alone", 64, patience)?,
    ])
}

fn figure(name: &str, at_once: u64, patience: Patience) -> anyhow::Result<Figure> {
    let step = yardstick();
    let mut now = Now { mono_ns: 0, unix_s: 1_800_000_000 };
    let shape = plan(&[SPARE], BLOCK.into()).context("a spare")?;
    let main = MainIdentity { size: BLOCKS * u64::from(BLOCK), logical_block: 512, ..Default::default() };
    let superblock = Superblock {
        policy: Policy::RemapOnly,
        ..Superblock::new([1; 16], "bench", BLOCK, &shape, &[([2; 16], SPARE)], main)
    };
    let recovered = Recovered::fresh(superblock, &[]).context("a volume")?;
    let mut engine = Engine::start(recovered, EngineConfig::default(), now).context("memory")?;
    settle(&mut engine, &mut now);
    let warm = patience.events / 10;
    let (mut samples, mut block) = (Vec::new(), 0);
    for event in 0..patience.events + warm {
        let begin = Instant::now();
        for _ in 0..at_once {
            let extent = Extent::new(Sector(block % BLOCKS * 8), 8).context("a block")?;
            let kind = RequestKind::Write { fua: false };
            let request = Request { id: RequestId(block), kind, extent };
            engine.submit(now, request).ok().context("room for a request")?;
            block += APART;
        }
        settle(&mut engine, &mut now);
        if event >= warm {
            samples.push(begin.elapsed().as_secs_f64() * 1e9);
        }
    }
    let moved = (patience.events + warm) as u64 * at_once;
    let found = engine.counts().remapped_blocks;
    ensure!(found == moved, "{found} of {moved} blocks moved: the spare is too small for the others");
    Ok(of_events(name, None, &samples, step))
}

/// Everything ends, and well but for writes to the main device.
fn settle(engine: &mut Engine, now: &mut Now) {
    loop {
        let Some(op) = engine.poll_op() else {
            // A commit may wait a little for others: that time is not measured, it passes at once.
            let Some(due) = engine.poll_timeout() else { return };
            now.mono_ns = due;
            engine.handle_timeout(*now);
            continue;
        };
        let fails = op.device == DeviceId::Main && matches!(op.kind, OpKind::Write { .. });
        engine.handle_completion(*now, op.id, if fails { Err(Fault::Medium) } else { Ok(()) });
        while let Some(event) = engine.poll_event() {
            debug_assert!(!matches!(event, Event::RequestDone { result: Err(_), .. }));
        }
    }
}
