//! Blocks that move while they are in use: by command, a few at a time, to the spare and back.
//!
//! Invariant: only a few blocks are on the spare because of it at any time, and none at all when the spare has little room.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::thread::JoinHandle;
use std::time::Duration;

use remap_core::engine::Command;
use remap_core::units::{Extent, Sector};
use remap_format::Cause;
use remap_runtime::Volume;

use super::halt::Halt;
use crate::demo::Random;

/// Stretches that are on the spare at a time, and blocks of one, at most.
const AWAY: usize = 8;
const BLOCKS: u64 = 4;
/// Free slots that are left alone.
const FREE_MIN: u64 = 128;

/// Time for the last command to come back: more than any operation of a device may take.
const PATIENCE: Duration = Duration::from_secs(40);

/// What was moved.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Moved {
    /// Commands that were carried out, and those that were refused or failed in part.
    pub done: u64,
    pub failed: u64,
    /// The last one did not come back in time.
    pub stuck: bool,
}

/// A thread that moves blocks of the first `sectors` of a volume until the load ends, so many times a second.
pub(crate) struct Mover {
    thread: JoinHandle<()>,
    moved: Receiver<Moved>,
    /// Set while nothing is to move.
    pub pause: Arc<AtomicBool>,
}

impl Mover {
    /// Starts it.
    ///
    /// # Errors
    /// No thread.
    pub(crate) fn start(
        volume: &Volume,
        sectors: u64,
        rate: u32,
        seed: u64,
        halt: &Halt,
    ) -> std::io::Result<Self> {
        let (send, moved) = mpsc::channel();
        let pause = Arc::new(AtomicBool::new(false));
        let (volume, halt, paused) = (volume.clone(), halt.clone(), Arc::clone(&pause));
        let body = move || {
            let moved = run(&volume, sectors, rate, seed, &halt, &paused);
            drop(volume);
            // Nobody listens any more when it was given up.
            let _ = send.send(moved);
        };
        let thread = std::thread::Builder::new().name("mover".to_owned()).spawn(body)?;
        Ok(Self { thread, moved, pause })
    }

    /// What it moved, once the load has ended.
    pub(crate) fn moved(&self) -> Moved {
        let stuck = Moved { stuck: true, ..Moved::default() };
        self.moved.recv_timeout(PATIENCE).unwrap_or(stuck)
    }

    /// Waits for its end, which comes with the end of the volume at the latest.
    pub(crate) fn join(self) {
        // It has told all that it has to tell.
        let _ = self.thread.join();
    }
}

fn run(volume: &Volume, sectors: u64, rate: u32, seed: u64, halt: &Halt, pause: &AtomicBool) -> Moved {
    let mut moved = Moved::default();
    let mut random = Random::seeded(seed, 6);
    let mut away: VecDeque<Extent> = VecDeque::new();
    let block = u64::from(volume.superblock().block_sectors());
    let Some(wait) = Duration::from_secs(1).checked_div(rate) else { return moved };
    while !halt.is_reached(true) {
        std::thread::sleep(wait);
        if pause.load(Ordering::Relaxed) {
            continue;
        }
        let Ok(status) = volume.status() else { break };
        let command = if away.len() >= AWAY || status.slots.free < FREE_MIN {
            let Some(extent) = away.pop_front() else { continue };
            Command::Clear(extent)
        } else {
            let blocks = random.between(1, BLOCKS);
            let Some(places) = (sectors / block).checked_sub(blocks).filter(|&places| places > 0) else {
                break;
            };
            let first = random.below(places) * block;
            let Some(extent) = Extent::between(Sector(first), Sector(first + blocks * block)) else { break };
            away.push_back(extent);
            Command::Remap(extent, Cause::Manual)
        };
        match volume.command(command) {
            Ok(outcome) if outcome.failed == 0 && outcome.error.is_none() => moved.done += 1,
            Ok(_) => moved.failed += 1,
            Err(_) => break,
        }
    }
    moved
}
