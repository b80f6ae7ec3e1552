// SPDX-License-Identifier: GPL-2.0
//! A volume in service: the engine, and what belongs to it.
//!
//! Invariant: one caller at a time. The end of every request and message that was taken is told exactly once.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt::Write;

use arrayvec::ArrayVec;
use remap_core::engine::{Engine, EngineConfig, Notice, VolumeState};
use remap_core::memory::NoMemory;
use remap_core::op::Request;
use remap_core::recovery::Recovered;
use remap_core::units::Now;
use remap_format::MAX_SPARES;
use remap_words::figures::{Asked, Figures};
use remap_words::notice::{self, Level};

use crate::call::Calls;
use crate::lookup::Lookup;
use crate::spares::Waiting;
use crate::turn::{Bounces, MAX_OUT, Out};

/// A volume on the heap. (An array, because that is what a list can become without allocating again.)
pub type Boxed = Box<[Volume; 1]>;

/// A volume in service.
#[derive(Debug)]
pub struct Volume {
    pub(crate) engine: Engine,
    pub(crate) calls: Calls,
    /// For each spare of the volume, which of the given devices it is.
    pub(crate) devices: Vec<Option<usize>>,
    /// Those of the given devices that may become spares.
    pub(crate) waiting: Vec<Waiting>,
    lookup: Lookup,
    /// Operations that are out, and which places are free.
    pub(crate) out: Vec<Option<Out>>,
    pub(crate) free: ArrayVec<usize, MAX_OUT>,
    pub(crate) bounces: Bounces,
    /// A request that the engine had no room for.
    pub(crate) kept: Option<Request>,
    pub(crate) max_remaps: Option<u64>,
    /// The time, as far as it was told.
    pub(crate) now: Now,
    pub(crate) suspended: bool,
    /// How many inputs from now on the owner panics, so that an operator sees what comes of it; 0: not at all.
    pub(crate) fails_after: u64,
    pub(crate) copy_failures: u64,
    /// What `clear_stats` counts from.
    pub(crate) then: (Asked, u64),
}

impl Volume {
    /// Puts a recovered volume in service, on the heap.
    ///
    /// # Errors
    /// [`NoMemory`]; nothing was begun.
    #[inline(never)]
    pub fn start(
        recovered: Recovered,
        waiting: Vec<Waiting>,
        config: EngineConfig,
        now: Now,
    ) -> Result<Boxed, NoMemory> {
        // Room first: what is built on the stack is moved once.
        let mut room = Vec::new();
        room.try_reserve_exact(1).map_err(|_| NoMemory)?;
        room.push(Self::assembled(recovered, waiting, config, now)?);
        room.into_boxed_slice().try_into().map_err(|_| NoMemory)
    }

    fn assembled(
        recovered: Recovered,
        waiting: Vec<Waiting>,
        config: EngineConfig,
        now: Now,
    ) -> Result<Self, NoMemory> {
        let mut devices = Vec::new();
        devices.try_reserve_exact(recovered.devices.len().max(MAX_SPARES)).map_err(|_| NoMemory)?;
        devices.extend(recovered.devices.iter().copied());
        let mut out = Vec::new();
        out.try_reserve_exact(MAX_OUT).map_err(|_| NoMemory)?;
        out.extend((0..MAX_OUT).map(|_| None));
        let shift = u32::from(recovered.superblock.block_shift).saturating_sub(9);
        let calls = Calls::with_room()?;
        let engine = Engine::start(recovered, config, now)?;
        let lookup = Lookup::new(engine.view(), shift);
        Ok(Self {
            engine,
            calls,
            devices,
            waiting,
            lookup,
            out,
            free: (0..MAX_OUT).collect(),
            bounces: Bounces::none_yet()?,
            kept: None,
            max_remaps: config.max_remaps,
            now,
            suspended: false,
            fails_after: 0,
            copy_failures: 0,
            then: (Asked::default(), 0),
        })
    }

    /// The engine, to be looked at.
    #[must_use]
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// For each spare of the volume, which of the given devices it is.
    #[must_use]
    pub fn devices(&self) -> &[Option<usize>] {
        &self.devices
    }

    /// For the fast lane.
    #[must_use]
    pub fn lookup(&self) -> &Lookup {
        &self.lookup
    }

    /// Sectors of the volume.
    #[must_use]
    pub fn sectors(&self) -> u64 {
        self.engine.volume().main.size / 512
    }

    /// What a notice says goes into `text`; how much it matters, and whether waiters for events want to hear of it.
    pub(crate) fn news(&mut self, news: &Notice, text: &mut dyn Write) -> (Option<Level>, bool) {
        let block_sectors = u64::from(self.engine.volume().block_sectors());
        // A line that is cut still tells.
        let _ = notice::write(text, news, block_sectors);
        self.copy_failures += u64::from(matches!(news, Notice::CopyFailed { .. }));
        let routine = matches!(news, Notice::Live | Notice::Checkpointed { .. });
        let level = notice::level(news);
        let tell = level != Level::Info
            || matches!(
                news,
                Notice::BreakerReset | Notice::Thawed | Notice::Healed { .. } | Notice::Cleared { .. }
            );
        ((!routine).then_some(level), tell)
    }

    /// The volume's figures, with what the driver counted.
    #[must_use]
    pub fn figures(&self, asked: Asked) -> Figures {
        let volume = self.engine.volume();
        let slots = self.engine.slots(None);
        Figures {
            state: self.engine.state(),
            read_only: false,
            suspended: self.suspended,
            sectors: self.sectors(),
            block_size: volume.block_size(),
            logical_block: volume.main.logical_block,
            counts: self.engine.counts(),
            slots: slots.total,
            free_slots: slots.free,
            max_remaps: self.max_remaps,
            counters: self.engine.counters(),
            asked,
            copies: self.copies_in_step(),
        }
    }

    /// Metadata copies in step, of five.
    #[must_use]
    pub fn copies_in_step(&self) -> u8 {
        self.engine.copies_in_step().iter().map(|&good| u8::from(good)).sum()
    }

    /// Can the table not change now?
    #[must_use]
    pub fn is_frozen(&self) -> bool {
        self.engine.state() == VolumeState::Frozen
    }
}
