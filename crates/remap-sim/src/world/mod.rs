//! The world: one engine, its fast lane, its devices and its clients, driven by the seed.
//!
//! Invariant: everything happens in `World::step`, one event after another; after each event the engine's operations and
//! events are taken, and what they show is checked.

mod beyond;
mod clients;
mod commands;
mod cut;
mod devices;
mod faults;
mod flushes;
mod lives;
mod metadata;
mod release;
mod staged;
mod words;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use remap_core::engine::{Engine, Event, MAX_BOUNCES, Notice, VolumeState};
use remap_core::op::{OpId, RequestId, RequestKind};
use remap_core::units::{Extent, Now};
use remap_core::view::View;
use remap_format::{Cause, Superblock};

use crate::coverage::{Coverage, Kind};
use crate::disk::SimDisk;
use crate::inside;
use crate::oracle::Oracle;
use crate::rng::Rng;
use crate::scenario::Scenario;
use crate::stamp::{self, SECTOR};
use crate::{Checked, Rule, Violation};

use clients::{Client, Part};
pub use cut::{Cut, State};
use devices::Out;
use flushes::{Debt, Failures};
use lives::Flake;
use release::Release;
pub use staged::Failing;

/// Steps in which a world without faults must come to rest (C6).
const STEPS_TO_REST: u64 = 200_000;
/// Probes of a device after which a breaker may stay open.
const MOST_PROBES: u32 = 16;
const START_UNIX_S: u64 = 1_700_000_000;
/// Tells the numbers of the faults that came later from the others.
const LUCK: u64 = 0x10c4;
/// A generation below this came after the largest one.
const GENERATIONS_AFTER_WRAP: u64 = 1 << 32;

/// What a run did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Device operations.
    pub operations: u64,
    /// Client requests.
    pub requests: u64,
    /// Client requests that ended with an error.
    pub failed_requests: u64,
    /// Sectors read and found as they may be.
    pub sectors_checked: u64,
    /// A hash of all events, in order (C7).
    pub hash: u64,
    /// Which faults, commands and states were met.
    pub met: Coverage,
}

impl Tally {
    /// Adds another run.
    pub fn add(&mut self, other: &Self) {
        self.operations += other.operations;
        self.requests += other.requests;
        self.failed_requests += other.failed_requests;
        self.sectors_checked += other.sectors_checked;
        self.hash = self.hash.rotate_left(5) ^ other.hash;
        self.met.add(&other.met);
    }

    /// Times the power failed.
    #[must_use]
    pub fn crashes(&self) -> u64 {
        self.met.count(Kind::PowerCut)
    }
}

/// The engine of one life and what belongs to it.
struct Life {
    engine: Engine,
    view: Arc<View>,
    /// For each spare of the volume, its disk.
    spare_disks: Vec<usize>,
}

/// A spare that is to join, or to leave.
#[derive(Clone, Copy, Debug)]
struct Changing {
    command: u64,
    spare: u8,
    joins: bool,
}

/// The world.
pub struct World {
    scenario: Scenario,
    rng: Rng,
    /// Numbers for the faults that came later (see `Faults`).
    luck: Rng,
    /// The main device, then the spares.
    disks: Vec<SimDisk>,
    volume: Superblock,
    life: Option<Life>,
    /// Was the volume ever live? Before that there is nothing to lose but the attempt.
    adopted: bool,
    bounces: Vec<Vec<u8>>,
    clients: BTreeMap<u64, Client>,
    parts: BTreeMap<u64, Part>,
    graces: Vec<(OpId, Vec<u64>)>,
    commands: Vec<u64>,
    /// Blocks that a person asked to move home: the engine may write them (C9).
    clearing: Vec<bool>,
    /// Sectors that a client ever wrote or discarded (C9).
    written: Vec<bool>,
    zeroed: Vec<bool>,
    outs: Vec<Out>,
    /// What a script does to operations.
    stage: staged::Stage,
    next_id: u64,
    next_write: u32,
    now: Now,
    /// Counts events: the oracle's time.
    tick: u64,
    /// The last tick at which a request could fail without a bad sector to blame.
    trouble: u64,
    /// The last tick at which the spare was full.
    full_at: u64,
    /// A command suspended remapping, and none resumed it.
    suspended: bool,
    /// The command that changes the spares.
    changing: Option<Changing>,
    /// The spare whose place the one that joins is to take.
    migrating: Option<u8>,
    /// A release of the volume.
    release: Release,
    path_until: Option<(usize, u64)>,
    no_writes_until: Option<(usize, u64)>,
    /// No operation on this disk that begins before that step is answered.
    storm: Option<(usize, u64)>,
    /// Writes that were answered with a time-out and may still happen.
    late: Vec<Out>,
    /// Flushes that failed, for each disk.
    failures: Vec<Failures>,
    /// Writes of clients that were lost by flushes that failed.
    flush_debt: Debt,
    /// What went bad, for it may heal.
    spoiled: Vec<(usize, Extent)>,
    /// Copies with trouble that nobody hears of, in this life, and how rarely a write to them goes astray.
    victims: Vec<u8>,
    /// There may be such trouble, of this life or of earlier ones, because no repair was finished since.
    silent_damage: bool,
    /// The copies that were left alone since the last repair.
    spared: Option<Vec<u8>>,
    /// The table was restored, and is not yet in all copies.
    restoring: bool,
    /// What cannot be read for a moment in the next recovery.
    flakes: Vec<Flake>,
    stray_one_in: u64,
    /// Writes of the life before that may be sent again.
    recent: VecDeque<(RequestKind, Extent, u32)>,
    replays: Vec<(RequestKind, Extent, u32)>,
    steps: u64,
    quiet: bool,
    /// Refusals of memory that were noticed.
    refusals: u64,
    oracle: Oracle,
    tally: Tally,
    transcript: VecDeque<String>,
}

/// Runs a scenario to its end.
///
/// # Errors
/// The violation, with the transcript if the scenario asked for one.
pub fn run(scenario: &Scenario) -> Result<Tally, (Violation, Vec<String>)> {
    run_once(scenario).map_err(|failure| (failure.violation, failure.transcript))
}

/// How a run failed.
#[derive(Clone, Debug)]
pub struct Failure {
    /// What was seen.
    pub violation: Violation,
    /// In which step; the last one: perhaps only in the look at everything after it.
    pub step: u64,
    /// The last events, if the scenario asked for them.
    pub transcript: Vec<String>,
}

/// Runs a scenario to its end.
///
/// # Errors
/// The violation, and where it was seen.
pub fn run_once(scenario: &Scenario) -> Result<Tally, Failure> {
    let mut world = World::create(scenario.clone());
    match world.live_through() {
        Ok(()) => Ok(world.tally),
        Err(violation) => Err(Failure { violation, step: world.steps, transcript: world.transcript.into() }),
    }
}

/// Runs it twice: the second time must be like the first (C7).
///
/// # Errors
/// As [`run_once`].
pub fn run_twice(scenario: &Scenario) -> Result<Tally, Failure> {
    let first = run_once(scenario)?;
    let (text, step, transcript) = match run_once(scenario) {
        Ok(second) if second == first => return Ok(first),
        Ok(second) => {
            let text = format!("the same run twice: hash {:016x}, then {:016x}", first.hash, second.hash);
            (text, scenario.steps, Vec::new())
        }
        Err(Failure { violation, step, transcript }) => {
            (format!("a run that was good the first time: {violation}"), step, transcript)
        }
    };
    Err(Failure { violation: Rule::C7.broken(text), step, transcript })
}

impl World {
    /// A main device with contents, blank spares, nothing adopted yet.
    #[must_use]
    pub fn create(scenario: Scenario) -> Self {
        let rng = Rng::seeded(scenario.seed);
        let luck = Rng::seeded(scenario.seed ^ LUCK);
        let mut main = SimDisk::blank(scenario.main_sectors);
        let mut bytes = [0u8; SECTOR];
        for sector in 0..scenario.main_sectors {
            stamp::fill(sector, 0, &mut bytes);
            main.preset(sector, &bytes);
        }
        let spares = scenario.spares.iter().map(|&size| SimDisk::blank(size / 512));
        let disks = core::iter::once(main).chain(spares).collect();
        let sectors = scenario.main_sectors as usize;
        let blocks = scenario.main_sectors.div_ceil((1 << scenario.block_shift) / 512) as usize;
        Self {
            volume: lives::describe(&scenario, 0),
            refusals: inside::refusals(),
            oracle: Oracle::adopt(scenario.main_sectors),
            rng,
            luck,
            failures: vec![Failures::default(); scenario.spares.len() + 1],
            disks,
            life: None,
            adopted: false,
            bounces: vec![Vec::new(); MAX_BOUNCES],
            clients: BTreeMap::new(),
            parts: BTreeMap::new(),
            graces: Vec::new(),
            commands: Vec::new(),
            clearing: vec![false; blocks],
            written: vec![false; sectors],
            zeroed: vec![false; sectors],
            outs: Vec::new(),
            stage: staged::Stage::default(),
            next_id: 1,
            next_write: 1,
            now: Now { mono_ns: 0, unix_s: START_UNIX_S },
            tick: 1,
            trouble: 0,
            full_at: 0,
            suspended: false,
            changing: None,
            migrating: None,
            release: Release::default(),
            path_until: None,
            no_writes_until: None,
            storm: None,
            late: Vec::new(),
            flush_debt: Debt::NONE,
            spoiled: Vec::new(),
            victims: Vec::new(),
            silent_damage: false,
            spared: None,
            restoring: false,
            flakes: Vec::new(),
            stray_one_in: 1,
            recent: VecDeque::new(),
            replays: Vec::new(),
            steps: 0,
            quiet: false,
            tally: Tally::default(),
            transcript: VecDeque::new(),
            scenario,
        }
    }

    /// What was done so far.
    #[must_use]
    pub fn tally(&self) -> Tally {
        self.tally
    }

    /// The last events, oldest first (empty unless the scenario asked for a transcript).
    #[must_use]
    pub fn transcript(self) -> Vec<String> {
        self.transcript.into()
    }

    /// All lives of the scenario, then rest, then a look at everything.
    fn live_through(&mut self) -> Checked {
        self.assemble()?;
        let mut left = self.life_length();
        while self.steps < self.scenario.steps {
            self.steps += 1;
            self.throw_dice(self.steps);
            let ends = left == 0 && self.scenario.faults.crash;
            left = if ends { self.life_length() } else { left.saturating_sub(1) };
            if !self.scenario.happens(self.steps) {
                continue;
            }
            if ends {
                self.crash()?;
                self.assemble()?;
            }
            self.step()?;
        }
        self.throw_dice(u64::MAX);
        self.finish()
    }

    /// Each step has dice of its own: when others are left out, it does what it did, as far as it still can.
    fn throw_dice(&mut self, step: u64) {
        let dice = self.scenario.seed ^ step.wrapping_mul(0xd1b5_4a32_d192_ed03);
        self.rng = Rng::seeded(dice);
        self.luck = Rng::seeded(dice ^ LUCK);
    }

    fn life_length(&mut self) -> u64 {
        self.rng.below(2 * self.scenario.life_steps)
    }

    /// One event.
    fn step(&mut self) -> Checked {
        self.quiet = false;
        self.now.mono_ns += self.rng.below(2_000_000);
        self.weather();
        self.release_advance()?;
        match self.rng.below(100) {
            0..=54 => self.complete_any()?,
            55..=84 => self.begin_any_request()?,
            85..=86 => self.begin_any_command()?,
            87 => self.jump(),
            88..=97 if self.scenario.busy => self.begin_any_command()?,
            _ => self.complete_any()?,
        }
        self.wake_engine()
    }

    /// Hours cost nothing.
    fn jump(&mut self) {
        let seconds = self.rng.pick(&[1, 2, 11, 70]);
        self.now.mono_ns += seconds * 1_000_000_000;
        self.now.unix_s += seconds;
    }

    /// Calls the engine if it asked for the time.
    pub(super) fn wake_engine(&mut self) -> Checked {
        let now = self.now;
        let Some(life) = &mut self.life else { return Ok(()) };
        if life.engine.poll_timeout().is_some_and(|at| at <= now.mono_ns) {
            inside::core(|| life.engine.handle_timeout(now));
        }
        self.pump()
    }

    /// Takes all that the engine gave.
    fn pump(&mut self) -> Checked {
        if self.refusals != inside::refusals() {
            // Whatever was under way may fail for want of memory.
            self.refusals = inside::refusals();
            self.trouble = self.tick;
        }
        loop {
            let Some(life) = &mut self.life else { return Ok(()) };
            if self.suspended && life.engine.breaker().is_none() {
                return Err(Rule::C4.broken("a suspension by command ended by itself"));
            }
            let state = life.engine.state();
            if state == VolumeState::Frozen {
                self.trouble = self.tick;
            }
            if state != VolumeState::Healthy && life.engine.slots(None).free == 0
                || state == VolumeState::Exhausted
            {
                self.full_at = self.tick;
            }
            if let Some(op) = life.engine.poll_op() {
                self.begin_engine_op(op)?;
            } else if let Some(event) = life.engine.poll_event() {
                self.tell(event)?;
            } else {
                let volume = life.engine.volume();
                if volume.homes != self.volume.homes || volume.spares != self.volume.spares {
                    let volume = volume.clone();
                    self.see_layout(&volume);
                }
                return Ok(());
            }
        }
    }

    fn tell(&mut self, event: Event) -> Checked {
        match event {
            Event::RequestDone { id: RequestId(id), result, bad } => {
                self.note(3, id, || format!("engine: part {id} done: {result:?}, bad {bad:?}"));
                self.part_done(id, result, &bad)
            }
            Event::CommandDone { id, outcome } => {
                self.note(4, id.0, || format!("engine: command {} done: {outcome:?}", id.0));
                let joined = self.spares_changed(id.0);
                let Some(at) = self.commands.iter().position(|&c| c == id.0) else {
                    return Err(Rule::C6.broken(format!("command {} ended twice", id.0)));
                };
                self.commands.swap_remove(at);
                self.release_goes_on(id.0, &outcome)?;
                self.migration_goes_on(joined)
            }
            Event::Notice(notice) => {
                self.note(5, 0, || format!("engine: {notice:?}"));
                self.hear(&notice);
                Ok(())
            }
        }
    }

    /// News of the engine: which state it tells of, and what that means for us.
    fn hear(&mut self, notice: &Notice) {
        let kind = match *notice {
            Notice::Live => return self.goes_live(),
            Notice::Pending { .. } => Kind::Pending,
            Notice::Remapped { cause: Cause::Predicted, .. } => Kind::Evacuated,
            Notice::Remapped { .. } => Kind::Remapped,
            Notice::Healed { .. } => Kind::Healed,
            Notice::Cleared { .. } => Kind::Cleared,
            Notice::SlotRetired { .. } => Kind::SlotRetired,
            Notice::CopyFailed { fenced: true, .. } => Kind::CopyFenced,
            Notice::CopyFailed { fenced: false, .. } => Kind::CopyBehind,
            Notice::BreakerTripped { .. } => {
                self.trouble = self.tick;
                Kind::BreakerOpen
            }
            Notice::BreakerReset => Kind::BreakerClosed,
            Notice::Frozen { .. } => {
                self.trouble = self.tick;
                Kind::Frozen
            }
            Notice::Thawed => Kind::Thawed,
            Notice::Checkpointed { generation, .. } => {
                if generation < GENERATIONS_AFTER_WRAP && self.scenario.seed.is_multiple_of(4) {
                    self.meet(Kind::GenerationWraps);
                }
                Kind::Checkpoint
            }
            Notice::Exhausted => {
                self.full_at = self.tick;
                Kind::Exhausted
            }
            Notice::SpareJoined { .. } => Kind::SpareJoined,
            Notice::SpareLeft { spare } => {
                let disk = self.life.as_ref().and_then(|l| l.spare_disks.get(usize::from(spare)).copied());
                disk.into_iter().for_each(|disk| self.main_takes_over_flushes(disk));
                Kind::SpareLeft
            }
            Notice::NotErased { .. } => Kind::NotErased,
        };
        self.meet(kind);
    }

    fn meet(&mut self, kind: Kind) {
        self.tally.met.meet(kind);
    }

    /// Every event goes into the hash; its words only if somebody wants to read them.
    fn note(&mut self, kind: u64, number: u64, words: impl FnOnce() -> String) {
        self.tick += 1;
        let mixed = self.tally.hash ^ kind.wrapping_mul(0x9e37_79b9) ^ number;
        self.tally.hash = mixed.wrapping_mul(0x0000_0100_0000_01b3).rotate_left(17);
        if self.scenario.transcript > 0 {
            if self.transcript.len() == self.scenario.transcript {
                self.transcript.pop_front();
            }
            let words = words();
            let (who, what) = words.split_once(": ").unwrap_or(("", &words));
            let line = format!("{:>7} {:>5}  {who:<12} {what}", self.tick, self.steps);
            self.transcript.push_back(line);
        }
    }

    fn id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    pub(crate) fn block_sectors(&self) -> u64 {
        (1u64 << self.scenario.block_shift) / 512
    }

    fn unit(&self) -> u64 {
        u64::from(self.scenario.logical_block / 512)
    }

    /// When the oldest request under way began.
    fn oldest(&self) -> u64 {
        self.clients.values().map(|c| c.begun).min().unwrap_or(self.tick)
    }

    /// Faults end; everything must come to rest (C6).
    fn rest(&mut self) -> Checked {
        self.end_faults();
        self.quiet = true;
        let mut probes = 0;
        for _ in 0..STEPS_TO_REST {
            if !self.outs.is_empty() {
                self.complete_any()?;
                self.wake_engine()?;
                continue;
            }
            let Some(life) = &mut self.life else { return Ok(()) };
            let asked = life.engine.poll_timeout();
            let open = life.engine.breaker().is_some();
            let idle = life.engine.is_idle() && self.clients.is_empty() && self.commands.is_empty();
            probes += u32::from(idle && open);
            // Bare EIOs wherever the engine looks: a device that is in trouble as a whole.
            let hopeless = self.scenario.faults.unknown && probes > MOST_PROBES;
            if idle && (!open || asked.is_none() || hopeless) {
                return Ok(());
            }
            let Some(at) = asked else { break };
            self.now.mono_ns = self.now.mono_ns.max(at);
            self.wake_engine()?;
        }
        let clients: Vec<_> = self.clients.keys().collect();
        Err(Rule::C6.broken(format!(
            "no rest: requests {clients:?}, parts {:?}, commands {:?}, operations {}, engine {:?}",
            self.parts.keys(),
            self.commands,
            self.outs.len(),
            self.life.as_ref().map(|l| (l.engine.state(), l.engine.is_idle(), l.engine.poll_timeout()))
        )))
    }
}
